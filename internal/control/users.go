package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// AdminUser is the one user that is made by itself.
const AdminUser = "admin"

// maxPasswordChecks bounds how many passwords are hashed at once, since each
// takes argonMemory.
const maxPasswordChecks = 2

// Argon2id's cost: 19 MiB and two passes, OWASP's first choice.
const (
	argonMemory  = 19 * 1024 // KiB
	argonTime    = 2
	argonThreads = 1
	argonKey     = 32
	argonSalt    = 16
)

const (
	minPassword = 12
	maxPassword = 1024
)

// errLogin is one message for an unknown user and a wrong password.
func errLogin() *Error { return refuse(CodeUnauthorized, "wrong user or password") }

// EnsureAdmin makes the admin user if there is none, and returns the password it
// made up; "" when the user was there already.
func (s *Store) EnsureAdmin(ctx context.Context) (string, error) {
	var n int
	if err := s.reads.QueryRowContext(ctx, "SELECT count(*) FROM users WHERE name = ?", AdminUser).Scan(&n); err != nil {
		return "", fmt.Errorf("look up the admin user: %w", err)
	}
	if n > 0 {
		return "", nil
	}
	return s.ResetAdmin(ctx)
}

// ResetAdmin gives the admin user a password that it makes up and returns, and
// ends all sessions. Only who may write the database's file gets so far.
func (s *Store) ResetAdmin(ctx context.Context) (string, error) {
	password := rand.Text() // 128 bits
	return password, s.SetPassword(ctx, AdminUser, password, LocalRoot)
}

// SetPassword makes a user, or gives it another password and ends its sessions.
func (s *Store) SetPassword(ctx context.Context, user, password, actor string) error {
	if user == "" || len(user) > 128 || oneLine(user) != user {
		return invalid("user", "the user's name is no line of 1 to 128 bytes")
	}
	if len(password) < minPassword || len(password) > maxPassword || !utf8.ValidString(password) {
		return invalid("password", "the password is no text of %d to %d bytes", minPassword, maxPassword)
	}
	hash, err := s.hashPassword(ctx, password)
	if err != nil {
		return err
	}
	return s.write(ctx, func(t *tx) error {
		_, err := t.ExecContext(t.ctx, `INSERT INTO users VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET password = excluded.password, changed_at = excluded.changed_at`, user, hash, stamp(t.now))
		if err != nil {
			return fmt.Errorf("store password: %w", err)
		}
		// Sessions do not name their user, and there are few: all end.
		if _, err := t.ExecContext(t.ctx, "DELETE FROM sessions"); err != nil {
			return fmt.Errorf("end sessions: %w", err)
		}
		return t.record(Event{Actor: actor, Action: ActionUser, Text: fmt.Sprintf("%s set the password of %s", actor, user)})
	})
}

// CheckPassword returns an *Error of CodeUnauthorized unless user has that
// password. It takes as long for a user that does not exist.
func (s *Store) CheckPassword(ctx context.Context, user, password string) error {
	var stored string
	err := s.reads.QueryRowContext(ctx, "SELECT password FROM users WHERE name = ?", user).Scan(&stored)
	exists := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("look up user: %w", err)
	}
	if !exists {
		stored = encodeHash(make([]byte, argonSalt), make([]byte, argonKey))
	}
	if len(password) > maxPassword {
		return errLogin()
	}
	ok, err := s.verifyPassword(ctx, stored, password)
	if err != nil {
		return err
	}
	if !ok || !exists {
		return errLogin()
	}
	return nil
}

// RecordLogin adds a login to the activity log.
func (s *Store) RecordLogin(ctx context.Context, user string) error {
	return s.write(ctx, func(t *tx) error {
		return t.record(Event{Actor: user, Action: ActionLogin, Text: user + " logged in"})
	})
}

func (s *Store) hashPassword(ctx context.Context, password string) (string, error) {
	salt := make([]byte, argonSalt)
	rand.Read(salt)
	key, err := s.derive(ctx, password, salt)
	if err != nil {
		return "", err
	}
	return encodeHash(salt, key), nil
}

func (s *Store) verifyPassword(ctx context.Context, stored, password string) (bool, error) {
	salt, want, err := decodeHash(stored)
	if err != nil {
		return false, err
	}
	key, err := s.derive(ctx, password, salt)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(key, want) == 1, nil
}

func (s *Store) derive(ctx context.Context, password string, salt []byte) ([]byte, error) {
	select {
	case s.passwords <- struct{}{}:
		defer func() { <-s.passwords }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, argonKey), nil
}

const hashPrefix = "$argon2id$v=19$m=19456,t=2,p=1$"

func encodeHash(salt, key []byte) string {
	return hashPrefix + base64.RawStdEncoding.EncodeToString(salt) + "$" + base64.RawStdEncoding.EncodeToString(key)
}

func decodeHash(stored string) (salt, key []byte, err error) {
	rest, ok := strings.CutPrefix(stored, hashPrefix)
	saltText, keyText, ok2 := strings.Cut(rest, "$")
	if ok && ok2 {
		if salt, err = base64.RawStdEncoding.DecodeString(saltText); err == nil {
			key, err = base64.RawStdEncoding.DecodeString(keyText)
		}
	}
	if !ok || !ok2 || err != nil || len(salt) != argonSalt || len(key) != argonKey {
		return nil, nil, refuse(CodeInternal, "a stored password is damaged: set it again")
	}
	return salt, key, nil
}

// tokenPrefix lets secret scanners know a token.
const tokenPrefix = "rft_"

// IssueToken makes an API token of that name for a user and returns it; it
// cannot be read again. An older one of the name stops working.
func (s *Store) IssueToken(ctx context.Context, name, user, actor string) (string, error) {
	if name == "" || len(name) > 128 || oneLine(name) != name {
		return "", invalid("name", "the token's name is no line of 1 to 128 bytes")
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	token := tokenPrefix + base64.RawURLEncoding.EncodeToString(secret)
	hash := sha256.Sum256([]byte(token))
	err := s.write(ctx, func(t *tx) error {
		var n int
		if err := t.QueryRowContext(t.ctx, "SELECT count(*) FROM users WHERE name = ?", user).Scan(&n); err != nil {
			return fmt.Errorf("look up user: %w", err)
		}
		if n == 0 {
			return refuse(CodeNotFound, "there is no user %q", user)
		}
		_, err := t.ExecContext(t.ctx, `INSERT INTO tokens VALUES (?, ?, ?, ?) ON CONFLICT (name)
			DO UPDATE SET user = excluded.user, hash = excluded.hash, created_at = excluded.created_at`, name, user, hash[:], stamp(t.now))
		if err != nil {
			return fmt.Errorf("store token: %w", err)
		}
		return t.record(Event{Actor: actor, Action: ActionToken, Text: fmt.Sprintf("%s made the API token %q for %s", actor, name, user)})
	})
	if err != nil {
		return "", err
	}
	return token, nil
}

// RevokeToken ends an API token.
func (s *Store) RevokeToken(ctx context.Context, name, actor string) error {
	return s.write(ctx, func(t *tx) error {
		res, err := t.ExecContext(t.ctx, "DELETE FROM tokens WHERE name = ?", name)
		if err != nil {
			return fmt.Errorf("delete token: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, refuse(CodeNotFound, "there is no API token %q", name))
		}
		return t.record(Event{Actor: actor, Action: ActionToken, Text: fmt.Sprintf("%s revoked the API token %q", actor, name)})
	})
}

// CheckToken returns the user that an API token is for, or an *Error of
// CodeUnauthorized.
func (s *Store) CheckToken(ctx context.Context, token string) (string, error) {
	hash := sha256.Sum256([]byte(token))
	var user string
	err := s.reads.QueryRowContext(ctx, "SELECT user FROM tokens WHERE hash = ?", hash[:]).Scan(&user)
	if errors.Is(err, sql.ErrNoRows) {
		return "", refuse(CodeUnauthorized, "the API token is not known: it may have been replaced")
	}
	if err != nil {
		return "", fmt.Errorf("look up API token: %w", err)
	}
	return user, nil
}
