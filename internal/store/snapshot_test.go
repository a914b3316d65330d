package store

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/internal/flow"
)

// contents is a number for all rows of each table, whatever parts they are in.
func contents(t *testing.T, s *Store) map[string]string {
	t.Helper()
	tables, err := s.ownTables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, table := range tables {
		var text string
		query := "SELECT toString((count(), sum(cityHash64(*)))) FROM " + table.Name
		if strings.HasPrefix(table.Name, "edge") { // their rows are added up by merges
			query = "SELECT toString((sum(connections), sum(forward_bytes), sum(reverse_bytes), min(first_seen), max(last_seen), uniqMerge(source_endpoints))) FROM " + table.Name
		}
		if err := s.conn.QueryRow(t.Context(), query).Scan(&text); err != nil {
			t.Fatal(err)
		}
		out[table.Name] = text
	}
	return out
}

func snapshot(t *testing.T, s *Store) Snapshot {
	t.Helper()
	snap, err := s.Snapshot(t.Context(), func(string, string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func restore(t *testing.T, s *Store, snap Snapshot) {
	t.Helper()
	err := s.Restore(t.Context(), snap, func(table, dir string) error {
		i := slices.IndexFunc(snap.Tables, func(t SnapshotTable) bool { return t.Name == table })
		if snap.Tables[i].Rows == 0 {
			return nil
		}
		return os.CopyFS(dir, os.DirFS(snap.Tables[i].Dir))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSnapshotIsOneMomentOfAllTables(t *testing.T) {
	s := migrated(t)
	if err := s.InsertCoverage(t.Context(), []flow.Coverage{{Node: "node-1", Start: noon, End: noon.Add(time.Second), Records: 3}}); err != nil {
		t.Fatal(err)
	}
	var enough atomic.Bool
	var g errgroup.Group
	var sent atomic.Int64
	for sender := range 4 {
		g.Go(func() error {
			for i := 0; !enough.Load(); i++ {
				rows := connections(500, noon.Add(time.Duration(sender)*time.Hour))
				for s.InsertFlows(t.Context(), fmt.Sprintf("node-%d/1/%d", sender, i), rows) != nil {
					time.Sleep(time.Millisecond) // refused, until the snapshot is made
				}
				sent.Add(1)
			}
			return nil
		})
	}
	for sent.Load() < 10 {
		time.Sleep(time.Millisecond)
	}
	for i := range 3 {
		snap := snapshot(t, s)
		to := empty(t)
		restore(t, to, snap)
		flows, edges := ask(t, to, "SELECT sum(connections) FROM flows"), ask(t, to, "SELECT sum(connections) FROM edges")
		if flows != edges || flows == 0 || flows%500 != 0 {
			t.Errorf("snapshot %d: %d connections in flows, %d in edges; want whole batches of 500, equal", i, flows, edges)
		}
	}
	enough.Store(true)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := ask(t, s, "SELECT count() FROM flows"); n != uint64(500*sent.Load()) {
		t.Errorf("%d rows, %d were sent", n, 500*sent.Load())
	}

	snap := snapshot(t, s)
	to := empty(t)
	restore(t, to, snap)
	if got, want := contents(t, to), contents(t, s); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("restored\n%v\nwant\n%v", got, want)
	}
	mustInsert(t, to, "after", connection(frontend, cart, 1, noon))
	if flows, edges := ask(t, to, "SELECT sum(connections) FROM flows"), ask(t, to, "SELECT sum(connections) FROM edges"); flows != edges {
		t.Errorf("after the restore: %d connections in flows, %d in edges", flows, edges)
	}
}

func TestRestoreKeepsTheRetention(t *testing.T) {
	cfg := testConfig(t)
	cfg.Retention.Flows = 90 * day
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // the test is over
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustInsert(t, s, token(1), connections(3, time.Now().Add(-60*day))...)
	to := empty(t)
	restore(t, to, snapshot(t, s))
	tables, err := to.ownTables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(tables, func(t SnapshotTable) bool { return t.Name == "flows" })
	if n := ask(t, to, "SELECT count() FROM flows"); n != 3 || tables[i].Days != 90 {
		t.Errorf("%d rows are kept for %d days, want 3 for 90", n, tables[i].Days)
	}
}

func TestSnapshotThatWasKilledOpensByItself(t *testing.T) {
	s := migrated(t)
	mustExec(t, s, fmt.Sprintf("ALTER TABLE flows ADD CONSTRAINT snapshot_is_made CHECK toUnixTimestamp(now()) >= %d", time.Now().Add(2*time.Second).Unix()))
	rows := connections(1, noon)
	err := s.InsertFlows(t.Context(), token(1), rows)
	if err == nil || !strings.Contains(err.Error(), "the batch waits") {
		t.Fatalf("insert into closed flows: %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); err != nil; err = s.InsertFlows(t.Context(), token(1), rows) {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	snapshot(t, s) // and the constraint it finds is no hindrance
	mustInsert(t, s, token(2), rows...)
}
