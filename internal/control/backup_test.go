package control

import (
	"path/filepath"
	"testing"
)

func TestBackupHoldsWhatIsCommitted(t *testing.T) {
	f := open(t)
	for i := range 20 {
		f.create(allow(uint16(1000 + i)))
	}
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := Backup(t.Context(), f.path, to); err != nil { // the store is open
		t.Fatal(err)
	}
	for _, table := range []string{"revisions", "events"} {
		var n, want int
		if err := f.reads.QueryRow("SELECT count(*) FROM " + table).Scan(&want); err != nil {
			t.Fatal(err)
		}
		c := &Store{cfg: Config{Path: to}.withDefaults()}
		db, err := c.pool("rw", 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.QueryRow("SELECT count(*) FROM " + table).Scan(&n); err != nil || n != want || n == 0 {
			t.Errorf("%s: %d rows (%v), want %d", table, n, err, want)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := Backup(t.Context(), f.path, to); err == nil {
		t.Error("a file was replaced")
	}
	if err := Backup(t.Context(), filepath.Join(t.TempDir(), "none"), filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("a backup was made of nothing")
	}
}
