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
			s := empty(t)
			if done > 0 {
				if err := s.migrateTo(t.Context(), int64(done)); err != nil {
					t.Fatal(err)
				}
			}
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
		var statements int
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(strings.TrimSpace(line), "--") {
				continue
			}
			statements += strings.Count(line, ";")
			for _, clause := range []string{"CREATE ", "ADD COLUMN "} {
				if _, after, ok := strings.Cut(line, clause); ok && !strings.Contains(after, "IF NOT EXISTS ") {
					t.Errorf("%s: %q fails when it runs again", name, strings.TrimSpace(line))
				}
			}
		}
		if statements != 1 {
			t.Errorf("%s has %d statements, want one", name, statements)
		}
		if !strings.Contains(string(b), "-- +goose NO TRANSACTION") {
			t.Errorf("%s asks for a transaction, which ClickHouse does not have", name)
		}
		if strings.Contains(string(b), "-- +goose Down") {
			t.Errorf("%s has a way back; steps only go forward", name)
		}
	}
}
