package control

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOpenMakesAPrivateFile(t *testing.T) {
	f := open(t)
	for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
		st, err := os.Stat(f.path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", filepath.Base(f.path+suffix), st.Mode().Perm())
		}
	}
}

func TestOpenUsesADurableLog(t *testing.T) {
	f := open(t)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := f.writes.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", pragma, got, err, want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	filled := func(t *testing.T) string {
		f := open(t)
		for i := range 50 {
			f.create(allow(uint16(1000 + i)))
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return f.path
	}
	spoil := func(t *testing.T, change func([]byte) []byte) string {
		path := filled(t)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, change(b), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	raw := func(t *testing.T, query string) string {
		path := filled(t)
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close() //nolint:errcheck // a test
		if _, err := db.Exec(query); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tc := range map[string]struct {
		path func(*testing.T) string
		want string
	}{
		"no database": {func(t *testing.T) string {
			return spoil(t, func([]byte) []byte { return []byte("hello, I am a text file, not a database") })
		}, "is damaged"},
		"cut off":        {func(t *testing.T) string { return spoil(t, func(b []byte) []byte { return b[:len(b)/2] }) }, "is damaged"},
		"pages zeroed":   {func(t *testing.T) string { return spoil(t, func(b []byte) []byte { clear(b[8192:20480]); return b }) }, "is damaged"},
		"newer schema":   {func(t *testing.T) string { return raw(t, "PRAGMA user_version = 99") }, "newer ringfence"},
		"another's file": {func(t *testing.T) string { return raw(t, "PRAGMA application_id = 5") }, "another program"},
		"a directory":    {func(t *testing.T) string { return t.TempDir() }, "open control database"},
		"no path":        {func(*testing.T) string { return "" }, "no database path"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), Config{Path: tc.path(t)}, Deps{})
			if err == nil {
				s.Close() //nolint:errcheck // the test has failed
				t.Fatal("it opened")
			}
			if !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q does not say %q in one line", err, tc.want)
			}
		})
	}
}

func TestOpenTwiceIsRefused(t *testing.T) {
	f := open(t)
	_, err := Open(t.Context(), Config{Path: f.path}, Deps{})
	wantCode(t, err, CodeUnavailable)
	if !strings.Contains(err.Error(), "in use by process") {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	openAt(t, f.path, f.clock)
}

func TestAtLeast(t *testing.T) {
	for version, want := range map[string]bool{"3.51.3": true, "3.51.2": false, "3.52.0": true, "3.50.9": false, "4.0.0": true, "3.51": false, "x": false} {
		if atLeast(version, minSQLite) != want {
			t.Errorf("%s: %v", version, !want)
		}
	}
}

func TestIdentitiesAreKept(t *testing.T) {
	f := open(t)
	first, err := f.AssignIdentities(t.Context(), testInventory())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint32]bool{}
	for _, w := range first.Workloads {
		if w.Identity < 256 {
			t.Errorf("%s has identity %d", w.Ref(), w.Identity)
		}
		for _, e := range w.Endpoints {
			if e.ID == 0 || seen[e.ID] {
				t.Errorf("endpoint %s has number %d", e.Name, e.ID)
			}
			seen[e.ID] = true
		}
	}

	// One workload leaves, one comes, the file is opened again, the first is back.
	other := testInventory()
	other.Workloads[0].Name = "pay"
	if _, err := f.SetInventory(t.Context(), other, System); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again := openAt(t, f.path, f.clock)
	second, err := again.SetInventory(t.Context(), testInventory(), System)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := first.Canonical(), second.Canonical(); !bytes.Equal(a, b) {
		t.Errorf("numbers changed:\n%s\n%s", a, b)
	}
	pay, err := again.AssignIdentities(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	if pay.Workloads[0].Identity == first.Workloads[0].Identity {
		t.Error("an identity was given twice")
	}
}

func TestGeneration(t *testing.T) {
	f := open(t)
	generation := func() uint64 {
		t.Helper()
		s, err := f.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.Generation
	}
	g0 := generation()
	if g0 < uint64(f.clock.now().Unix()) {
		t.Errorf("generation %d may be below what nodes hold of an older database", g0)
	}
	f.load()
	if generation() != g0 {
		t.Error("the same inventory raised the generation")
	}
	f.create(allow(80))
	if generation() != g0 {
		t.Error("saving a revision raised the generation")
	}
	changed := f.Changed()
	f.stage(1)
	select {
	case <-changed:
	default:
		t.Error("nobody was told")
	}
	if generation() <= g0 {
		t.Error("staging did not raise the generation")
	}
	g1 := generation()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = openAt(t, f.path, f.clock)
	if _, err := f.State(t.Context()); CodeOf(err) != CodeUnavailable {
		t.Errorf("before the inventory, state is %v", err)
	}
	f.load()
	if generation() != g1 {
		t.Errorf("a restart made generation %d of %d", generation(), g1)
	}
	s, _ := f.State(t.Context())
	if len(s.Slots) != 1 || s.Slots[0].Staged == nil || s.Slots[0].Staged.Number != 1 || s.Slots[0].Live != nil || s.Slots[0].Confirm != 30*time.Second {
		t.Errorf("slots after a restart: %+v", s.Slots)
	}
}
