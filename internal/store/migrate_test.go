package store

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/migrations"
)

func TestMigrateAgain(t *testing.T) {
	s := migrated(t)
	mustInsert(t, s, "a", connections(10, noon)...)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustInsert(t, s, "a", connections(10, noon)...)
	wantStored(t, s, 10)
}

// A step that ran before a crash, but was not noted, runs again: whatever the
// number of steps that were noted.
func TestMigrateAfterCrash(t *testing.T) {
	steps, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for noted := range len(steps) {
		t.Run(fmt.Sprintf("%d steps noted", noted), func(t *testing.T) {
			s := migrated(t)
			mustInsert(t, s, "a", connections(10, noon)...)
			mustExec(t, s, fmt.Sprintf("DELETE FROM %s WHERE version_id > %d", versionTable, noted))
			if err := s.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := ask(t, s, "SELECT toUInt64(max(version_id)) FROM "+versionTable); n != uint64(len(steps)) {
				t.Errorf("at step %d, want %d", n, len(steps))
			}
			wantStored(t, s, 10)
		})
	}
}

// From every earlier schema, as it was when only the first steps existed.
func TestMigrateFromEarlier(t *testing.T) {
	steps, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for done := range len(steps) {
		t.Run(fmt.Sprintf("%d steps done", done), func(t *testing.T) {
			s := migrated(t)
			for _, table := range []string{"coverage", "edges_from_flows", "edges", "flows"}[:len(steps)-done] {
				mustExec(t, s, "DROP TABLE "+table+" SYNC")
			}
			mustExec(t, s, fmt.Sprintf("DELETE FROM %s WHERE version_id > %d", versionTable, done))
			if err := s.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			mustInsert(t, s, "a", connections(10, noon)...)
			wantStored(t, s, 10)
		})
	}
}

func TestMigrateRefuses(t *testing.T) {
	tests := []struct {
		name, statement string
		want            []string
	}{
		{
			"a newer schema", "INSERT INTO " + versionTable + " (version_id, is_applied) VALUES (99, 1)",
			[]string{"step 99", "upgrade ringfence"},
		},
		{
			"no window", "ALTER TABLE flows RESET SETTING non_replicated_deduplication_window",
			[]string{"flows", "ALTER TABLE", "non_replicated_deduplication_window = 50000"},
		},
		{
			"a small window", "ALTER TABLE edges MODIFY SETTING non_replicated_deduplication_window = 999",
			[]string{"edges", "ALTER TABLE", "non_replicated_deduplication_window = 50000"},
		},
		{
			"a missing table", "DROP TABLE coverage SYNC",
			[]string{`["edges" "flows"]`, "drop the database"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := migrated(t)
			mustExec(t, s, tt.statement)
			wantError(t, s.Migrate(t.Context()), tt.want...)
		})
	}
}

// Each step is one statement that may be run again.
func TestMigrationsAreRepeatable(t *testing.T) {
	steps, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range steps {
		b, err := fs.ReadFile(migrations.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		var statements, guarded int
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(strings.TrimSpace(line), "--") {
				continue
			}
			statements += strings.Count(line, ";")
			guarded += strings.Count(line, " IF NOT EXISTS ")
		}
		if statements != 1 || guarded != 1 {
			t.Errorf("%s has %d statements and %d IF NOT EXISTS, want one of each", name, statements, guarded)
		}
		if !strings.Contains(string(b), "-- +goose NO TRANSACTION") {
			t.Errorf("%s asks for a transaction, which ClickHouse does not have", name)
		}
		if strings.Contains(string(b), "-- +goose Down") {
			t.Errorf("%s has a way back; steps only go forward", name)
		}
	}
}
