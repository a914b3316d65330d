package control

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// touchEvery is how stale a session's last use may get before it is written.
const touchEvery = time.Minute

// maxSessions bounds the table; the one unused for longest goes first.
const maxSessions = 1000

// Sessions keeps login sessions in the database. It is a session store as
// alexedwards/scs has it. Tokens are stored as their SHA-256. A session ends at
// its expiry, or when it has not been used for Config.SessionIdle.
type Sessions struct{ s *Store }

func hashToken(token string) string { return digest([]byte(token)) }

// Sessions returns the store of login sessions.
func (s *Store) Sessions() *Sessions { return &Sessions{s} }

// Alive reports whether a session goes on, without marking it used.
func (x *Sessions) Alive(ctx context.Context, token string) (bool, error) {
	var n int
	now := x.s.deps.Now()
	err := x.s.reads.QueryRowContext(ctx, "SELECT count(*) FROM sessions WHERE token = ? AND expires_at > ? AND seen_at > ?",
		hashToken(token), stamp(now), stamp(now.Add(-x.s.cfg.SessionIdle))).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("look up session: %w", err)
	}
	return n > 0, nil
}

// FindCtx returns a session's data and marks it used.
func (x *Sessions) FindCtx(ctx context.Context, token string) ([]byte, bool, error) {
	token = hashToken(token)
	var data []byte
	var seen int64
	now, idle := x.s.deps.Now(), x.s.cfg.SessionIdle
	err := x.s.reads.QueryRowContext(ctx, "SELECT data, seen_at FROM sessions WHERE token = ? AND expires_at > ? AND seen_at > ?",
		token, stamp(now), stamp(now.Add(-idle))).Scan(&data, &seen)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("look up session: %w", err)
	}
	if now.Sub(unstamp(seen)) >= min(touchEvery, idle/4) {
		// Only one that is still there: a logout meanwhile stays one.
		if err := x.exec(ctx, "UPDATE sessions SET seen_at = ? WHERE token = ?", stamp(now), token); err != nil {
			return nil, false, err
		}
	}
	return data, true, nil
}

// CommitCtx stores a session.
func (x *Sessions) CommitCtx(ctx context.Context, token string, data []byte, expiry time.Time) error {
	token = hashToken(token)
	now := x.s.deps.Now()
	return x.s.quietly(ctx, func(t *sql.Tx) error {
		for _, step := range []struct {
			query string
			args  []any
		}{
			{"DELETE FROM sessions WHERE expires_at <= ? OR seen_at <= ?", []any{stamp(now), stamp(now.Add(-x.s.cfg.SessionIdle))}},
			{`INSERT INTO sessions VALUES (?, ?, ?, ?) ON CONFLICT (token) DO UPDATE SET
				data = excluded.data, expires_at = excluded.expires_at, seen_at = excluded.seen_at`, []any{token, data, stamp(expiry), stamp(now)}},
			{"DELETE FROM sessions WHERE token NOT IN (SELECT token FROM sessions ORDER BY seen_at DESC LIMIT ?)", []any{maxSessions}},
		} {
			if _, err := t.ExecContext(ctx, step.query, step.args...); err != nil {
				return fmt.Errorf("store session: %w", err)
			}
		}
		return nil
	})
}

// DeleteCtx ends a session.
func (x *Sessions) DeleteCtx(ctx context.Context, token string) error {
	return x.exec(ctx, "DELETE FROM sessions WHERE token = ?", hashToken(token))
}

// Find is FindCtx without a context.
func (x *Sessions) Find(token string) ([]byte, bool, error) {
	return x.FindCtx(context.Background(), token)
}

// Commit is CommitCtx without a context.
func (x *Sessions) Commit(token string, data []byte, expiry time.Time) error {
	return x.CommitCtx(context.Background(), token, data, expiry)
}

// Delete is DeleteCtx without a context.
func (x *Sessions) Delete(token string) error { return x.DeleteCtx(context.Background(), token) }

func (x *Sessions) exec(ctx context.Context, query string, args ...any) error {
	return x.s.quietly(ctx, func(t *sql.Tx) error {
		if _, err := t.ExecContext(ctx, query, args...); err != nil {
			return fmt.Errorf("change session: %w", err)
		}
		return nil
	})
}

// quietly runs a transaction that nobody needs to hear of.
func (s *Store) quietly(ctx context.Context, fn func(*sql.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.writes.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin session change: %w", err)
	}
	defer t.Rollback() //nolint:errcheck // after Commit it has nothing to do
	if err := fn(t); err != nil {
		return err
	}
	return t.Commit()
}
