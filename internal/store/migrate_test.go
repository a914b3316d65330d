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

// stepsKnown is how many steps there are.
func stepsKnown(t *testing.T) int {
	t.Helper()
	steps, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	return len(steps)
}

// insertAsFirst stores rows as the first version did, one of three connections
// of which is answered, and each is told of twice.
func insertAsFirst(t *testing.T, s *Store) {
	t.Helper()
	mustExec(t, s, fmt.Sprintf(`INSERT INTO flows (time, first_seen, node, observer_namespace, observer_kind, observer_name, direction, event,
		source_address, destination_address, source_port, destination_port, protocol,
		source_namespace, source_kind, source_name, destination_namespace, destination_kind, destination_name,
		connections, forward_packets, reverse_packets, live_verdict, live_revision, outcome)
		SELECT toDateTime(%d, 'UTC'), toDateTime(%[1]d, 'UTC'), 'node-1', 'boutique', 'Deployment', 'frontend', 'egress', 'end',
		'::ffff:10.0.0.1', '::ffff:10.0.0.2', 1000 + intDiv(number, 2), 8080, 6,
		'boutique', 'Deployment', 'frontend', 'boutique', 'Deployment', 'cart',
		number %% 2, 1, number < 10, 'allow', 3, 'forwarded' FROM numbers(20)`, noon.Unix()))
}

// From every earlier schema, with rows in it, and with each step run twice: one
// that ran before a crash but was not noted runs again.
func TestMigrateFromEarlier(t *testing.T) {
	for done := range stepsKnown(t) {
		t.Run(fmt.Sprintf("%d steps done", done), func(t *testing.T) {
			t.Parallel()
			s := empty(t)
			for step := 1; step <= stepsKnown(t); step++ {
				if err := s.migrateTo(t.Context(), int64(step)); err != nil {
					t.Fatal(err)
				}
				if step == min(done, 3) {
					insertAsFirst(t, s)
				}
				if step != done {
					continue
				}
				mustExec(t, s, fmt.Sprintf("DELETE FROM %s WHERE version_id = %d", versionTable, step))
				if err := s.migrateTo(t.Context(), int64(step)); err != nil {
					t.Fatalf("again: %v", err)
				}
			}
			if err := s.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := ask(t, s, "SELECT sum(toUInt64(connections)) FROM flows"); done > 0 && n != 10 {
				t.Errorf("flows of %d connections, want 10", n)
			}
			for _, table := range []string{"edges", "edge_days", "edge_months"} {
				got := ask(t, s, "SELECT sum(connections) * 10000 + sum(answered) * 100 + sum(live_new) FROM "+table)
				// Without the view, the first steps make no edges.
				if want := uint64(10*10000 + 5*100 + 10); done >= 3 && got != want || done < 3 && got != 0 {
					t.Errorf("%s: connections, answered and judged are %d, want %d", table, got, want)
				}
			}
			mustExec(t, s, "TRUNCATE TABLE flows")
			mustExec(t, s, "TRUNCATE TABLE edges")
			mustInsert(t, s, "a", connections(10, noon)...)
			mustInsert(t, s, "a", connections(10, noon)...)
			wantStored(t, s, 10)
		})
	}
}

// Until the last step no agent may write: its flows would have no edges.
func TestMigrateHoldsInsertsUp(t *testing.T) {
	s := empty(t)
	for step := 11; step < stepsKnown(t); step++ {
		if err := s.migrateTo(t.Context(), int64(step)); err != nil {
			t.Fatal(err)
		}
		err := s.InsertFlows(t.Context(), "a", connections(10, noon))
		if open := step >= 27; open != (err == nil) {
			t.Errorf("after step %d: %v", step, err)
		}
	}
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustInsert(t, s, "a", connections(10, noon)...)
	wantStored(t, s, 10)
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
			[]string{`"flows" "flows_misdated"]`, "drop the database"},
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
	for _, schema := range []migrations.Schema{{}, {Replicated: true}} {
		steps, err := schema.Steps()
		if err != nil {
			t.Fatal(err)
		}
		names, err := fs.Glob(steps, "*.sql")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b, err := fs.ReadFile(steps, name)
			if err != nil {
				t.Fatal(err)
			}
			var statements int
			for line := range strings.Lines(string(b)) {
				if strings.HasPrefix(strings.TrimSpace(line), "--") {
					continue
				}
				statements += strings.Count(line, ";")
				for _, clause := range []string{"CREATE ", "ADD COLUMN ", "ADD CONSTRAINT ", "RENAME ", "DROP "} {
					_, after, ok := strings.Cut(line, clause)
					if ok && !strings.Contains(after, "IF NOT EXISTS ") && !strings.Contains(after, "IF EXISTS ") && !strings.HasPrefix(after, "OR REPLACE ") {
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
}
