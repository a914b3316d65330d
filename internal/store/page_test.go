package store

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
)

// readPages reads f page by page, its cursors as text, and calls between after each.
func readPages(t *testing.T, s *Store, f query.Filter, size int, between func(page int)) []query.Row {
	t.Helper()
	var out []query.Row
	var after query.Cursor
	for n := 0; ; n++ {
		page, err := s.Flows(t.Context(), f, after, size)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, page.Rows...)
		if page.Next.IsZero() {
			if len(page.Rows) == 0 && n > 0 {
				t.Error("a cursor led to an empty page")
			}
			return out
		}
		if len(page.Rows) != size {
			t.Fatalf("page %d has %d rows of %d and more follow", n, len(page.Rows), size)
		}
		if after, err = query.ParseCursor(page.Next.Text(f), f); err != nil {
			t.Fatal(err)
		}
		if n > 10_000 {
			t.Fatal("no end")
		}
		if between != nil {
			between(n)
		}
	}
}

// crowd is rows of which many share a microsecond, and some are equal.
func crowd(n int, at time.Time) []flow.Labelled {
	w := world{rand.New(rand.NewPCG(3, 4))}
	var out []flow.Labelled
	for len(out) < n {
		r := w.row()
		r.Time = at.Add(time.Duration(w.IntN(3)) * time.Microsecond)
		for range 1 + w.IntN(2)*w.IntN(4) {
			out = append(out, r)
		}
	}
	return out[:n]
}

func TestPagesHoldEveryRecordOnce(t *testing.T) {
	s := migrated(t)
	mustInsert(t, s, "a", crowd(60, noon)...)
	mustInsert(t, s, "b", crowd(40, noon.Add(-26*time.Hour))...)
	same := connection(frontend, cart, 9, noon.Add(-time.Hour))
	mustInsert(t, s, "c", same, same, same, same, same, same, same)
	for _, text := range []string{"", "from.namespace=shop", "-protocol=tcp", "from.workload=boutique/frontend", "node=none"} {
		f := parse(t, text)
		whole, err := s.Flows(t.Context(), f, query.Cursor{}, maxFlowLimit)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, 3, 20, 1000} {
			if diff := cmp.Diff(whole.Rows, readPages(t, s, f, size, nil), compareAddrs); diff != "" {
				t.Fatalf("%q in pages of %d (-whole +pages):\n%s", text, size, diff)
			}
		}
	}
}

func TestPagesWhileRecordsArrive(t *testing.T) {
	s := migrated(t)
	old := crowd(120, noon)
	mustInsert(t, s, "a", old...)
	arrive := func(n int) {
		later := crowd(10, noon.Add(time.Minute+time.Duration(n)*time.Second))
		mustInsert(t, s, fmt.Sprintf("newer %d", n), later...)
		if n == 3 {
			mustExec(t, s, "OPTIMIZE TABLE flows FINAL")
		}
	}
	got := readPages(t, s, query.Filter{}, 7, arrive)
	if diff := cmp.Diff(sorted(old), sorted(labelled(got))); diff != "" {
		t.Errorf("(-what was there +pages):\n%s", diff)
	}
}

// What arrives late belongs to the pages that are still to come. At the very
// microsecond of the cursor it may be on either side, and nothing else moves.
func TestPagesTakeInWhatComesLate(t *testing.T) {
	s := migrated(t)
	want := crowd(100, noon)
	mustInsert(t, s, "a", want...)
	var got []query.Row
	var after query.Cursor
	for n := 0; n == 0 || !after.IsZero(); n++ {
		page, err := s.Flows(t.Context(), query.Filter{}, after, 9)
		if err != nil {
			t.Fatal(err)
		}
		got, after = append(got, page.Rows...), page.Next
		if n >= 5 || after.IsZero() {
			continue
		}
		late := connections(4, after.Time.Add(-time.Microsecond))
		at := connections(8, after.Time)
		for i := range late {
			late[i].Node = fmt.Sprintf("late-%d", n)
		}
		for i := range at {
			at[i].Node = fmt.Sprintf("at-%d", n)
		}
		mustInsert(t, s, fmt.Sprintf("late %d", n), append(late, at...)...)
		want = append(want, late...)
	}
	var without []flow.Labelled
	seen := map[uint64]bool{}
	for i := range got {
		if r := &got[i]; strings.HasPrefix(r.Node, "at-") {
			if seen[r.ID] {
				t.Errorf("%s %d is read twice", r.Node, r.SourcePort)
			}
			seen[r.ID] = true
			continue
		}
		without = append(without, got[i].Labelled)
	}
	if diff := cmp.Diff(sorted(want), sorted(without)); diff != "" {
		t.Errorf("(-stored +pages):\n%s", diff)
	}
}

func TestPageKeepsItsWindow(t *testing.T) {
	s := migrated(t)
	mustInsert(t, s, "a", connections(10, noon)...)
	f := query.Filter{Since: noon.Add(-time.Minute)}
	first, err := s.Flows(t.Context(), f, query.Cursor{}, 4)
	if err != nil {
		t.Fatal(err)
	}
	f.Since = noon.Add(time.Minute) // as "since=1h" is later when read again
	second, err := s.Flows(t.Context(), f, first.Next, 100)
	if err != nil || len(second.Rows) != 6 {
		t.Errorf("%d rows and %v, want the 6 others", len(second.Rows), err)
	}
}
