package control

import (
	"strings"
	"testing"
	"time"
)

func TestAdminIsMadeOnce(t *testing.T) {
	f := open(t)
	password, err := f.EnsureAdmin(t.Context())
	if err != nil || len(password) < 20 {
		t.Fatalf("%q, %v", password, err)
	}
	if again, err := f.EnsureAdmin(t.Context()); err != nil || again != "" {
		t.Errorf("a second time: %q, %v", again, err)
	}
	if err := f.CheckPassword(t.Context(), AdminUser, password); err != nil {
		t.Error(err)
	}
	for name, login := range map[string][2]string{
		"wrong password": {AdminUser, password + "x"}, "empty": {AdminUser, ""}, "unknown user": {"eve", password},
		"all zero": {"eve", ""}, "too long": {AdminUser, strings.Repeat("x", 2000)},
	} {
		if e := wantCode(t, f.CheckPassword(t.Context(), login[0], login[1]), CodeUnauthorized); e.Message != errLogin().Message {
			t.Errorf("%s: %q tells more than it should", name, e.Message)
		}
	}
	var stored string
	if err := f.reads.QueryRow("SELECT password FROM users").Scan(&stored); err != nil || strings.Contains(stored, password) || !strings.HasPrefix(stored, "$argon2id$") {
		t.Errorf("stored as %q, %v", stored, err)
	}
	if err := f.SetPassword(t.Context(), AdminUser, "correct horse battery", AdminUser); err != nil {
		t.Fatal(err)
	}
	wantCode(t, f.CheckPassword(t.Context(), AdminUser, password), CodeUnauthorized)
	if err := f.CheckPassword(t.Context(), AdminUser, "correct horse battery"); err != nil {
		t.Error(err)
	}
	wantCode(t, f.SetPassword(t.Context(), AdminUser, "short", AdminUser), CodeInvalid)
	wantCode(t, f.SetPassword(t.Context(), "a\nb", "correct horse battery", AdminUser), CodeInvalid)
}

func TestTokens(t *testing.T) {
	f := open(t)
	if _, err := f.IssueToken(t.Context(), "cli", AdminUser, System); CodeOf(err) != CodeNotFound {
		t.Errorf("a token for nobody: %v", err)
	}
	if _, err := f.EnsureAdmin(t.Context()); err != nil {
		t.Fatal(err)
	}
	first, err := f.IssueToken(t.Context(), "cli", AdminUser, System)
	if err != nil {
		t.Fatal(err)
	}
	if user, err := f.CheckToken(t.Context(), first); err != nil || user != AdminUser {
		t.Errorf("%q, %v", user, err)
	}
	for _, bad := range []string{"", "x", first[:len(first)-1], first + "x"} {
		_, err := f.CheckToken(t.Context(), bad)
		wantCode(t, err, CodeUnauthorized)
	}
	second, err := f.IssueToken(t.Context(), "cli", AdminUser, System)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.CheckToken(t.Context(), first)
	wantCode(t, err, CodeUnauthorized)
	if err := f.RevokeToken(t.Context(), "cli", AdminUser); err != nil {
		t.Fatal(err)
	}
	_, err = f.CheckToken(t.Context(), second)
	wantCode(t, err, CodeUnauthorized)
	wantCode(t, f.RevokeToken(t.Context(), "cli", AdminUser), CodeNotFound)
}

func TestSessions(t *testing.T) {
	f := open(t)
	x := f.Sessions()
	expiry := f.clock.now().Add(12 * time.Hour)
	there := func() bool {
		t.Helper()
		data, ok, err := x.Find("token")
		if err != nil || ok && string(data) != "data" {
			t.Fatalf("%q, %v", data, err)
		}
		if alive, err := x.Alive(t.Context(), "token"); err != nil || alive != ok {
			t.Fatalf("alive %v, %v", alive, err)
		}
		return ok
	}
	commit := func() {
		t.Helper()
		if err := x.Commit("token", []byte("data"), expiry); err != nil {
			t.Fatal(err)
		}
	}
	commit()
	var stored string
	if err := f.reads.QueryRow("SELECT token FROM sessions").Scan(&stored); err != nil || strings.Contains(stored, "token") {
		t.Errorf("token is stored as %q, %v", stored, err)
	}
	for range 11 {
		f.clock.advance(59 * time.Minute)
		if !there() {
			t.Fatal("a session in use ended")
		}
	}
	f.clock.advance(61 * time.Minute)
	if there() {
		t.Error("an idle session goes on")
	}
	expiry = f.clock.now().Add(70 * time.Minute)
	commit()
	if f.clock.advance(50 * time.Minute); !there() {
		t.Fatal("it ended too soon")
	}
	if f.clock.advance(50 * time.Minute); there() {
		t.Error("a session outlived its expiry")
	}
	expiry = f.clock.now().Add(12 * time.Hour)
	commit()
	if err := x.Delete("token"); err != nil || there() {
		t.Error("a session outlived its logout")
	}
	commit()
	if err := f.SetPassword(t.Context(), AdminUser, "correct horse battery", System); err != nil || there() {
		t.Error("a session outlived its password")
	}
	if err := x.Delete("unknown"); err != nil {
		t.Error(err)
	}
}
