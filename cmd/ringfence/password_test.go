package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/control"
)

func TestPassword(t *testing.T) {
	places := layout{StateDir: filepath.Join(t.TempDir(), "state")}
	change := func(want int, says string) string {
		t.Helper()
		stdout, stderr, code := commandLine(t, "", "password", "--state-dir", places.StateDir)
		if code != want || !strings.Contains(stdout+stderr, says) {
			t.Fatalf("exit code %d, %q %q; want %d and %q", code, stdout, stderr, want, says)
		}
		return stdout
	}
	change(1, "holds no users: name the --state-dir")
	must(t, os.Mkdir(places.StateDir, 0o700))
	unlock, err := lockDir(places.StateDir, "")
	must(t, err)
	change(1, "end `ringfence up` first")
	unlock()
	change(1, "holds no users: name the --state-dir")

	open := func() *control.Store {
		t.Helper()
		c, err := control.Open(t.Context(), control.Config{Path: places.controlDB()}, control.Deps{})
		must(t, err)
		return c
	}
	c := open()
	old, err := c.EnsureAdmin(t.Context())
	must(t, err)
	must(t, c.Close())

	out := change(0, "login     admin")
	found := regexp.MustCompile(`(?m)^password  (\S+) `).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("no password in %q", out)
	}
	c = open()
	defer c.Close() //nolint:errcheck // a test's
	if err := c.CheckPassword(t.Context(), control.AdminUser, found[1]); err != nil {
		t.Errorf("the new password: %v", err)
	}
	if c.CheckPassword(t.Context(), control.AdminUser, old) == nil {
		t.Error("the old password is still good")
	}
}
