package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
)

func mustNext(t *testing.T, s *Store, tail *Tail) []query.Row {
	t.Helper()
	rows, err := s.Next(t.Context(), tail)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestTailGivesEverythingOnce(t *testing.T) {
	s := migrated(t)
	mustInsert(t, s, "before", crowd(40, noon)...)
	mustInsert(t, s, "newest", connections(5, noon.Add(time.Hour))...)
	f := parse(t, "-event=none")
	tail := NewTail(f, 5)
	if got := mustNext(t, s, tail); len(got) != 5 || got[0].Time.After(got[4].Time) || got[4].DestinationPort != 8080 {
		t.Fatalf("%d rows at first, want the newest 5, oldest first: %v", len(got), got)
	}

	const writers, batches = 4, 12
	var wg sync.WaitGroup
	var mu sync.Mutex
	var sent []flow.Labelled
	for writer := range writers {
		wg.Go(func() {
			w := world{rand.New(rand.NewPCG(uint64(writer), 5))}
			for n := range batches {
				// Now, an hour late, and days late; some of them equal.
				at := []time.Time{noon.Add(2 * time.Hour), noon.Add(-time.Hour), noon.AddDate(0, 0, -9)}[n%3]
				rows := crowd(1+w.IntN(30), at)
				for i := range rows {
					rows[i].Node = fmt.Sprintf("node-%d", n%2)
				}
				if err := s.InsertFlows(t.Context(), fmt.Sprintf("%d/%d", writer, n), rows); err != nil {
					t.Error(err)
					return
				}
				if err := s.InsertFlows(t.Context(), fmt.Sprintf("%d/%d", writer, n), rows); err != nil { // again
					t.Error(err)
					return
				}
				mu.Lock()
				sent = append(sent, rows...)
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	var got []flow.Labelled
	for polls := 0; ; polls++ {
		got = append(got, labelled(mustNext(t, s, tail))...)
		if polls == 5 {
			mustExec(t, s, "OPTIMIZE TABLE flows")
		}
		select {
		case <-done:
		default:
			continue
		}
		break
	}
	got = append(got, labelled(mustNext(t, s, tail))...)
	var want []flow.Labelled
	for i := range sent {
		if matches(f, &sent[i]) {
			want = append(want, sent[i])
		}
	}
	if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
		t.Errorf("(-stored +given):\n%s", diff)
	}
	if rows := mustNext(t, s, tail); len(rows) > 0 {
		t.Errorf("%d rows are given again", len(rows))
	}
}

// An insert becomes visible after its rows were stamped: one that took half a
// minute must not fall through.
func TestTailSeesSlowInserts(t *testing.T) {
	s := migrated(t)
	tail := NewTail(query.Filter{}, 0)
	mustNext(t, s, tail)
	mustNext(t, s, tail)
	slow := func(port, seconds int) {
		mustExec(t, s, fmt.Sprintf(`INSERT INTO flows (time, source_port, stored) VALUES (now64(6), %d, now() - %d)`, port, seconds))
	}
	slow(1, 30)
	slow(2, 60)
	slow(3, 3600) // longer than an insert may take
	got := mustNext(t, s, tail)
	if len(got) != 2 || got[0].SourcePort+got[1].SourcePort != 3 {
		t.Errorf("%d rows, want those of 30 and 60 seconds ago: %v", len(got), got)
	}
}

func TestTailForgets(t *testing.T) {
	s := migrated(t)
	tail := NewTail(query.Filter{}, 0)
	mustNext(t, s, tail)
	mustInsert(t, s, "a", connections(100, noon)...)
	if n := len(mustNext(t, s, tail)); n != 100 || len(tail.seen) != 100 {
		t.Fatalf("%d rows given and %d kept in mind, want 100", n, len(tail.seen))
	}
	tail.forget(time.Now().Add(2 * tailOverlap))
	if len(tail.seen) != 0 {
		t.Errorf("%d rows are kept in mind for ever", len(tail.seen))
	}
	before := tail.since
	tail.forget(time.Now().Add(-time.Hour))
	if tail.since != before {
		t.Error("a clock that goes back makes it look back further")
	}
}

func TestTailAfterAnError(t *testing.T) {
	s := migrated(t)
	tail := NewTail(query.Filter{}, 0)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(gone, tail); err == nil {
		t.Fatal("no error of a context that has ended")
	}
	mustNext(t, s, tail)
	mustInsert(t, s, "a", connections(3, noon)...)
	if _, err := s.Next(gone, tail); err == nil {
		t.Fatal("no error of a context that has ended")
	}
	if rows := mustNext(t, s, tail); len(rows) != 3 {
		t.Errorf("%d rows after an error, want the 3 of before", len(rows))
	}
}

func TestTailRefusesTooMany(t *testing.T) {
	s := migrated(t)
	tail := NewTail(query.Filter{}, 0)
	mustNext(t, s, tail)
	mustExec(t, s, fmt.Sprintf("INSERT INTO flows (time, source_port, destination_port) SELECT now64(6), number, number / 65536 FROM numbers(%d)", maxTailRows+1))
	_, err := s.Next(t.Context(), tail)
	wantError(t, err, "too many to follow", "name a workload")
	wantLimit(t, err)
}

// Rows of an older schema were stored before anybody follows.
func TestTailAfterMigration(t *testing.T) {
	s := empty(t)
	if err := s.migrateTo(t.Context(), 6); err != nil {
		t.Fatal(err)
	}
	insertAsFirst(t, s)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	tail := NewTail(query.Filter{}, 0)
	mustNext(t, s, tail)
	if len(tail.seen) != 0 {
		t.Errorf("%d rows of the older schema count as stored just now", len(tail.seen))
	}
	mustInsert(t, s, "b", connections(2, noon)...)
	if rows := mustNext(t, s, tail); len(rows) != 2 {
		t.Errorf("%d rows, want the 2 that came after", len(rows))
	}
}
