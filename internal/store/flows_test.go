package store

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
)

var compareAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b query.Prefix) bool { return a == b }),
}

// everyValue holds each direction, event, verdict, reason and outcome, in both
// families.
func everyValue() []flow.Labelled {
	var out []flow.Labelled
	for i := range 16 {
		r := connection(frontend, cart, uint16(i), noon.Add(time.Duration(-i)*time.Minute+123456*time.Microsecond))
		r.Endpoint = uint32(i)
		if i%2 == 1 {
			r.Key.Source, r.Destination = addr("2001:db8::1"), addr("2001:db8::2")
			r.Source, r.Dest = &flow.Party{Reserved: "world"}, &flow.Party{Reserved: "host"}
		}
		r.Direction = flow.Direction(i % 3)
		r.Event = flow.Event(i % 5)
		r.Outcome = flow.Outcome(i % 4)
		r.Live = flow.Judgement{Verdict: flow.Verdict(i % 3), Reason: flow.Reason(i % 9), Revision: uint32(i)}
		r.Staged = flow.Judgement{Verdict: flow.Verdict((i + 1) % 3), Reason: flow.Reason((i + 1) % 9), Revision: uint32(i + 1)}
		r.ReverseFlags = uint8(255 - i)
		out = append(out, r)
	}
	return out
}

// labelled returns the records of rows.
func labelled(rows []query.Row) []flow.Labelled {
	var out []flow.Labelled
	for i := range rows {
		out = append(out, rows[i].Labelled)
	}
	return out
}

// readFlows reads one page of f.
func readFlows(t testing.TB, s *Store, f query.Filter) []flow.Labelled {
	t.Helper()
	page, err := s.Flows(t.Context(), f, query.Cursor{}, maxFlowLimit)
	if err != nil {
		t.Fatalf("%s: %v", f, err)
	}
	return labelled(page.Rows)
}

func parse(t testing.TB, text string) query.Filter {
	t.Helper()
	f, err := query.Parse(text, time.Now())
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return f
}

func TestFlowsRoundTrip(t *testing.T) {
	s := migrated(t)
	want := everyValue()
	mustInsert(t, s, "a", want...)
	if diff := cmp.Diff(want, readFlows(t, s, query.Filter{}), compareAddrs); diff != "" {
		t.Errorf("rows changed on the way (-stored +read):\n%s", diff)
	}
}

func TestFlowsWindow(t *testing.T) {
	s := migrated(t)
	rows := []flow.Labelled{
		connection(frontend, cart, 4, noon), connection(cart, redis, 5, noon.Add(-time.Hour)), connection(frontend, cart, 6, noon.Add(-2*time.Hour)),
	}
	mustInsert(t, s, "a", rows...)
	for _, tt := range []struct {
		name   string
		filter query.Filter
		want   []int
	}{
		{"all", query.Filter{}, []int{0, 1, 2}},
		{"since takes in its own moment", query.Filter{Since: noon}, []int{0}},
		{"until leaves its own moment out", query.Filter{Until: noon}, []int{1, 2}},
		{"window", query.Filter{Since: noon.Add(-90 * time.Minute), Until: noon.Add(-time.Minute)}, []int{1}},
		{"nothing", query.Filter{Since: noon.Add(time.Second)}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var want []flow.Labelled
			for _, i := range tt.want {
				want = append(want, rows[i])
			}
			if diff := cmp.Diff(want, readFlows(t, s, tt.filter), compareAddrs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, limit := range []int{-1, maxFlowLimit + 1} {
		_, err := s.Flows(t.Context(), query.Filter{}, query.Cursor{}, limit)
		wantError(t, err, "limit", "want 1 to 100000")
	}
}

func TestFlowsParameters(t *testing.T) {
	s := migrated(t)
	for _, name := range hostile {
		t.Run(name, func(t *testing.T) {
			w := flow.Workload{Namespace: name, Kind: name, Name: name}
			mustInsert(t, s, "row of "+name, connection(w, cart, 1, noon))
			f := query.Filter{Terms: []query.Term{{Field: "from.workload", Values: []query.Value{query.Workload(w)}}}}
			if flows := readFlows(t, s, f); len(flows) != 1 || flows[0].Source.Workload != w {
				t.Errorf("found %v, want the one flow of %q", flows, w)
			}
			edges, err := s.Edges(t.Context(), EdgeFilter{Workload: &w})
			if err != nil {
				t.Fatal(err)
			}
			if len(edges) != 1 || edges[0].Source.Workload != w {
				t.Errorf("found %v, want the one edge of %q", edges, w)
			}
		})
	}
}
