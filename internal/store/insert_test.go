package store

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
)

// stored returns how many connections the flows and the edges add up to.
func stored(t *testing.T, s *Store) (flows, edges uint64) {
	t.Helper()
	return ask(t, s, "SELECT sum(toUInt64(connections)) FROM flows"), ask(t, s, "SELECT sum(connections) FROM edges")
}

func wantStored(t *testing.T, s *Store, want uint64) {
	t.Helper()
	if flows, edges := stored(t, s); flows != want || edges != want {
		t.Errorf("flows hold %d connections and edges %d, want %d in both", flows, edges, want)
	}
}

func TestInsertFlowsOnce(t *testing.T) {
	midnight := noon.Truncate(24 * time.Hour)
	month := time.Date(noon.Year(), noon.Month(), 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name  string
		rows  []flow.Labelled
		block int
	}{
		{"one block", connections(300, noon), maxBlock},
		{"one row", connections(1, noon), maxBlock},
		{"several blocks", connections(1050, noon), 100},
		{"blocks that are equal", append(connections(100, noon), connections(100, noon)...), 100},
		{"over midnight", append(connections(50, midnight.Add(-time.Second)), connections(50, midnight)...), maxBlock},
		{"over the month's end", append(connections(50, month.Add(-time.Second)), connections(50, month)...), maxBlock},
		{"several blocks over midnight", append(connections(150, midnight.Add(-time.Second)), connections(150, midnight)...), 100},
		{"more than a server's own block", connections(70_000, noon), maxBlock},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := migrated(t)
			for range 3 {
				if err := s.insertFlows(t.Context(), "flows", "a", tt.rows, tt.block); err != nil {
					t.Fatal(err)
				}
			}
			wantStored(t, s, uint64(len(tt.rows)))
			if err := s.insertFlows(t.Context(), "flows", "b", tt.rows, tt.block); err != nil {
				t.Fatal(err)
			}
			wantStored(t, s, 2*uint64(len(tt.rows)))
		})
	}
}

func TestInsertFlowsOnceAfterOthers(t *testing.T) {
	s := migrated(t)
	const others = 150 // more than the 100 that servers remember where nothing is set
	rows := connections(3, noon)
	mustInsert(t, s, "first", rows...)
	for i := range others {
		mustInsert(t, s, token(i), rows...)
	}
	mustInsert(t, s, "first", rows...)
	wantStored(t, s, 3*(others+1))
}

func TestInsertFlowsInParallel(t *testing.T) {
	s := migrated(t)
	rows := connections(200, noon)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if err := s.InsertFlows(t.Context(), token(i%4), rows); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantStored(t, s, 4*200)
}

// The flows of a batch may be stored and its edges not, when the view fails.
// Sending the batch again must then add the edges and not the flows.
func TestInsertFlowsHeals(t *testing.T) {
	s := migrated(t)
	rows := connections(100, noon)
	mustExec(t, s, "RENAME TABLE edges TO edges_away")
	if err := s.InsertFlows(t.Context(), "a", rows); err == nil {
		t.Fatal("no error without the table that the view writes to")
	}
	mustExec(t, s, "RENAME TABLE edges_away TO edges")
	for range 2 {
		mustInsert(t, s, "a", rows...)
	}
	wantStored(t, s, 100)
}

// What InsertFlows relies on is needed: without it, the same batch counts twice.
func TestInsertFlowsNeedsItsSettings(t *testing.T) {
	twice := func(t *testing.T, s *Store, settings clickhouse.Settings) {
		t.Helper()
		settings["insert_deduplication_token"] = "a"
		c := raw(t, s, settings)
		rows := connections(10, noon)
		for range 2 {
			other := &Store{cfg: s.cfg, conn: c, shards: []*shard{{conn: c}}, metrics: s.metrics}
			other.encoders.New = func() any { return newEncoder() }
			if err := other.insertBlock(t.Context(), other.shards[0], "flows", settings, rows); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("all", func(t *testing.T) {
		s := migrated(t)
		twice(t, s, writeSettings())
		wantStored(t, s, 10)
	})
	t.Run("no dedup in views", func(t *testing.T) {
		s := migrated(t)
		settings := writeSettings()
		settings["deduplicate_blocks_in_dependent_materialized_views"] = 0
		twice(t, s, settings)
		if flows, edges := stored(t, s); flows != 10 || edges == 10 {
			t.Errorf("flows %d, edges %d: the setting has no effect, so the test proves nothing", flows, edges)
		}
	})
	t.Run("no window", func(t *testing.T) {
		s := migrated(t)
		mustExec(t, s, "ALTER TABLE flows MODIFY SETTING non_replicated_deduplication_window = 0")
		twice(t, s, writeSettings())
		if flows, _ := stored(t, s); flows != 20 {
			t.Errorf("flows %d, want 20: the window has no effect, so the test proves nothing", flows)
		}
	})
}

func TestInsertFlowsOdd(t *testing.T) {
	odd := func(change func(*flow.Labelled)) flow.Labelled {
		r := connection(frontend, cart, 1, noon)
		change(&r)
		return r
	}
	tests := []struct {
		name string
		row  flow.Labelled
	}{
		{"zero value but for the time", nobodys(flow.Record{Time: noon})},
		{"no first time", odd(func(r *flow.Labelled) { r.FirstSeen = time.Time{} })},
		{"far past", odd(func(r *flow.Labelled) { r.FirstSeen = time.Date(1, 2, 3, 0, 0, 0, 0, time.UTC) })},
		{"far future", odd(func(r *flow.Labelled) { r.Time = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) })},
		{"no addresses", odd(func(r *flow.Labelled) { r.Key.Source, r.Destination = netip.Addr{}, netip.Addr{} })},
		{"address with a zone", odd(func(r *flow.Labelled) { r.Key.Source = addr("fe80::1%eth0") })},
		{"unknown numbers", odd(func(r *flow.Labelled) {
			r.Direction, r.Event, r.Outcome = 200, 200, 200
			r.Live = flow.Judgement{Verdict: 200, Reason: 200, Revision: math.MaxUint32}
			r.Staged = r.Live
		})},
		{"largest counters", odd(func(r *flow.Labelled) {
			r.Forward = flow.Counters{Packets: math.MaxUint64, Bytes: math.MaxUint64}
			r.Connections = math.MaxUint32
		})},
		{"hostile names", odd(func(r *flow.Labelled) {
			r.Source.Workload.Name = "a'b\"c`d\\e\tf\ng\x00h; DROP TABLE flows --"
			r.Node, r.Observer.Endpoint = "\xff\xfe", "名前"
		})},
	}
	s := migrated(t)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			mustInsert(t, s, tt.name, tt.row)
			if n := ask(t, s, "SELECT (SELECT count() FROM flows) + (SELECT count() FROM flows_misdated)"); n != uint64(i+1) {
				t.Errorf("%d rows, want %d", n, i+1)
			}
		})
	}
	for _, f := range readFlows(t, s, query.Filter{}) {
		if f.FirstSeen.Before(earliest) || f.Time.After(latest) {
			t.Errorf("%s: from %s to %s is more than the schema holds", f.Node, f.FirstSeen, f.Time)
		}
	}
	// A row as old as its TTL is stored and gone; what counts is that it goes through.
	mustInsert(t, s, "zero value", nobodys(flow.Record{}))
}

func TestInsertFlowsRefuses(t *testing.T) {
	s := migrated(t)
	if err := s.InsertFlows(t.Context(), "", connections(1, noon)); err == nil {
		t.Error("no error without a token")
	}
	if err := s.InsertFlows(t.Context(), "a", nil); err != nil {
		t.Errorf("no rows: %v", err)
	}
	closed, err := Open(t.Context(), s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(closed.Close(), closed.InsertFlows(t.Context(), "a", connections(1, noon))); err == nil {
		t.Error("no error on a closed store")
	}
	wantStored(t, s, 0)
}

func BenchmarkInsertFlows(b *testing.B) {
	s := migrated(b)
	rows := connections(20_000, noon)
	for i := 0; b.Loop(); i++ {
		mustInsert(b, s, token(i), rows...)
	}
	b.ReportMetric(float64(b.N)*20_000/b.Elapsed().Seconds(), "rows/s")
}

// A dictionary of more words needs wider keys.
func TestInsertFlowsManyNames(t *testing.T) {
	s := migrated(t)
	for _, names := range []int{100, 254, 255, 256, 300, 65_535, 65_536, 70_000} {
		rows := connections(names, noon)
		for i := range rows {
			party := *rows[i].Source
			party.Endpoint = fmt.Sprint("e", i)
			rows[i].Source, rows[i].Node = &party, fmt.Sprint("n", i)
			rows[i].Forward.Bytes = uint64(i)
		}
		mustExec(t, s, "TRUNCATE TABLE flows")
		mustInsert(t, s, fmt.Sprint(names), rows...)
		if n := ask(t, s, "SELECT countIf(source_endpoint = 'e' || toString(forward_bytes) AND node = 'n' || toString(forward_bytes)) FROM flows"); n != uint64(names) {
			t.Errorf("%d of %d rows have their names", n, names)
		}
	}
}
