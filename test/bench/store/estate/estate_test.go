package estate

import (
	"reflect"
	"testing"
	"time"

	"net/netip"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringfence/ringfence/collector"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

var monday = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func newEstate(tb testing.TB, cfg Config) *Estate {
	tb.Helper()
	e, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func rows(s *Stream, n int) []flow.Labelled {
	out := make([]flow.Labelled, n)
	s.Fill(out)
	return out
}

// TestSame demands that a seed makes the same rows however they are asked for,
// and another seed others.
func TestSame(t *testing.T) {
	cfg := StreamConfig{Node: Everywhere, Start: monday, Rows: 1e6}
	e := newEstate(t, Config{Seed: 7})
	whole := rows(e.Stream(cfg), 4000)
	again := newEstate(t, Config{Seed: 7}).Stream(cfg)
	got := rows(again, 1500)
	got = append(got, rows(again, 2500)...)
	for i := range got { // a buffer's rows share the reading of their clock
		if d := got[i].Time.Sub(whole[i].Time).Abs(); d > 2*jitter {
			t.Fatalf("row %d came %s apart", i, d)
		}
		got[i].Time, got[i].FirstSeen = whole[i].Time, whole[i].FirstSeen
	}
	if !reflect.DeepEqual(whole, got) {
		t.Error("the same seed made other rows")
	}
	other := rows(newEstate(t, Config{Seed: 8}).Stream(cfg), 4000)
	if reflect.DeepEqual(whole, other) {
		t.Error("another seed made the same rows")
	}
}

// TestLabels demands that the inventory attributes a node's rows as the stream does.
func TestLabels(t *testing.T) {
	e := newEstate(t, Config{Seed: 1, Workloads: 300, Nodes: 10, Clients: 500})
	inv := e.Inventory()
	if err := inv.Validate(); err != nil {
		t.Fatalf("inventory: %v", err)
	}
	index := inventory.NewIndex(inv)
	for node := range e.Nodes() {
		name := e.NodeName(node)
		want := rows(e.Stream(StreamConfig{Node: node, Start: monday, Rows: 1e6}), 3000)
		owners, err := inventory.NewOwnership(inventory.OwnershipConfig{Node: name})
		if err != nil {
			t.Fatal(err)
		}
		owners.Learn(index, monday.Add(-time.Hour))
		records := make([]flow.Record, len(want))
		for i := range want {
			records[i] = want[i].Record
		}
		got, strangers := collector.NewLabeller(name, owners).Label(nil, records)
		if strangers > 0 {
			t.Errorf("%s: %d records of no known endpoint", name, strangers)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Fatalf("%s (-stream +inventory):\n%.2000s", name, diff)
		}
	}
}

// TestConnections follows every connection of a day, at each of its observers.
func TestConnections(t *testing.T) {
	type key struct {
		flow.Key
		endpoint uint32
		began    int64 // but for the jitter of clocks
	}
	type seen struct {
		rows, began int
		reverse     bool
		event       flow.Event
	}
	e := newEstate(t, Config{Seed: 1, Workloads: 300, Nodes: 10, Clients: 500})
	s := e.Stream(StreamConfig{Node: Everywhere, Start: monday, Rows: 200_000})
	all := rows(s, 200_000)
	flows := map[key]*seen{}
	count := map[string]int{}
	for i := range all {
		r := &all[i]
		k := key{r.Key, r.Endpoint, r.FirstSeen.Round(100 * time.Microsecond).UnixMicro()}
		f := flows[k]
		if f == nil {
			f = &seen{}
			flows[k] = f
			if r.Event != flow.EventNew || r.Connections != 1 || !r.LiveNew || !r.StagedNew {
				t.Fatalf("row %d: a connection begins with %+v", i, r.Record)
			}
		}
		if f.event == flow.EventEnd {
			t.Fatalf("row %d: after the end: %+v", i, r.Record)
		}
		if r.Answered != (r.Reverse.Packets > 0 && !f.reverse) {
			t.Fatalf("row %d: answered is %t: %+v", i, r.Answered, r.Record)
		}
		f.rows++
		f.began += int(r.Connections)
		f.reverse = f.reverse || r.Reverse.Packets > 0
		f.event = r.Event
		if r.Time.Before(r.FirstSeen.Add(-2 * jitter)) {
			t.Fatalf("row %d: %s is before its first packet at %s", i, r.Time, r.FirstSeen)
		}
		count[r.Direction.String()]++
		count[r.Event.String()]++
		count[r.Outcome.String()]++
		count[r.Source.Reserved+">"+r.Dest.Reserved]++
		if r.Key.Source.Is6() {
			count["IPv6"]++
		}
	}
	for k, f := range flows {
		if f.began != 1 {
			t.Fatalf("%+v began %d times", k, f.began)
		}
	}
	for _, what := range []string{
		"ingress", "egress", "new", "sweep", "end", "forwarded", "audited", "dropped", ">", "world>", ">world", "host>", "IPv6",
	} {
		if count[what] == 0 {
			t.Errorf("no row is %q: %v", what, count)
		}
	}
	if n, of := count["world>"]+count[">world"]+count["host>"], len(all); n*5 > of {
		t.Errorf("%d of %d rows have an end outside the workloads", n, of)
	}
}

// TestTwoObservers demands that a connection between two endpoints is told of by
// both of their nodes.
func TestTwoObservers(t *testing.T) {
	e := newEstate(t, Config{Seed: 1, Workloads: 300, Nodes: 10, Clients: 500})
	all := rows(e.Stream(StreamConfig{Node: Everywhere, Start: monday, Rows: 1e6}), 10_000)
	directions := map[flow.Key]map[flow.Direction]uint64{}
	inside := map[flow.Key]bool{}
	for i := range all[:9000] { // the other row of one near the end may come later
		r := &all[i]
		if directions[r.Key] == nil {
			directions[r.Key] = map[flow.Direction]uint64{}
		}
		directions[r.Key][r.Direction] += r.Forward.Bytes
		inside[r.Key] = r.Source.IsWorkload() && r.Dest.IsWorkload()
	}
	odd := 0
	for k, d := range directions {
		if inside[k] && d[flow.Egress] != d[flow.Ingress] {
			odd++
		}
		if !inside[k] && len(d) != 1 {
			t.Errorf("%v, which ends outside, was seen in %d directions", k, len(d))
		}
	}
	if odd > 1 { // one may be cut by the 9000
		t.Errorf("%d of %d connections differ between their two observers", odd, len(directions))
	}
}

// TestPace demands that a week has the rows that it is to have, and no fewer: a
// load would end in the future.
func TestPace(t *testing.T) {
	s := newEstate(t, Config{Seed: 1}).Stream(StreamConfig{Node: Everywhere, Start: monday, Rows: 100_000})
	n, step := 0, make([]flow.Labelled, 1000)
	for s.Now().Sub(monday) < 7*24*time.Hour {
		s.Fill(step)
		n += len(step)
	}
	if n < 700_000 || n > 715_000 {
		t.Errorf("a week has %d rows, want 700,000", n)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		ok   bool
	}{
		{"default", Config{}, true},
		{"small", Config{Workloads: minWorkloads, Nodes: 1, Clients: 10}, true},
		{"too few workloads", Config{Workloads: minWorkloads - 1}, false},
		{"too many nodes", Config{Nodes: 4001}, false},
		{"negative clients", Config{Clients: -1}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := New(c.cfg)
			if (err == nil) != c.ok {
				t.Fatalf("error %v", err)
			}
			if err == nil {
				rows(e.Stream(StreamConfig{Node: 0, Start: monday, Rows: 1000}), 100)
			}
		})
	}
}

func BenchmarkFill(b *testing.B) {
	out := make([]flow.Labelled, 20_000)
	s := newEstate(b, Config{Seed: 1}).Stream(StreamConfig{Node: Everywhere, Start: monday, Rows: 1e6})
	n := 0
	for b.Loop() {
		s.Fill(out)
		n += len(out)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/row")
}
