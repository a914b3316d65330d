package store

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

func TestEdgesKey(t *testing.T) {
	base := connection(frontend, cart, 1, noon)
	external := func(a string, change func(*flow.Labelled)) flow.Labelled {
		r := connection(frontend, flow.Workload{}, 1, noon)
		r.Dest, r.Destination = &flow.Party{Reserved: "world"}, addr(a)
		if change != nil {
			change(&r)
		}
		return r
	}
	with := func(change func(*flow.Labelled)) flow.Labelled {
		r := base
		change(&r)
		return r
	}
	tests := []struct {
		name  string
		other flow.Labelled // next to base
		edges int
	}{
		{"the same again", base, 1},
		{"another initiator's port", with(func(r *flow.Labelled) { r.SourcePort = 60000 }), 1},
		{"another replica", with(func(r *flow.Labelled) { r.Source.Endpoint, r.Key.Source = "frontend-2", addr("10.0.0.9") }), 1},
		{"IPv6 between workloads", with(func(r *flow.Labelled) { r.Key.Source, r.Destination = addr("2001:db8::1"), addr("2001:db8::2") }), 1},
		{"another node", with(func(r *flow.Labelled) { r.Node = "node-2" }), 1},
		{"another verdict", with(func(r *flow.Labelled) { r.Outcome, r.Live.Verdict = flow.OutcomeDropped, flow.VerdictDeny }), 1},
		{"another responder's port", with(func(r *flow.Labelled) { r.DestinationPort = 8081 }), 2},
		{"UDP on the same port", with(func(r *flow.Labelled) { r.Protocol = flow.UDP }), 2},
		{"seen at the other side", with(func(r *flow.Labelled) { r.Direction, r.Observer = flow.Ingress, of(cart) }), 2},
		{"another workload", connection(frontend, redis, 1, noon), 2},
		{"the other way round", connection(cart, frontend, 1, noon), 2},
		{"an external IPv4 peer", external("198.51.100.66", nil), 2},
		{"an external IPv6 peer", external("2001:db8:66::66", nil), 2},
		{"a node", external("10.9.9.9", func(r *flow.Labelled) { r.Dest.Reserved = "remote-node" }), 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := migrated(t)
			mustInsert(t, s, "a", base, tt.other)
			edges, err := s.Edges(t.Context(), EdgeFilter{})
			if err != nil {
				t.Fatal(err)
			}
			if len(edges) != tt.edges {
				t.Errorf("%d edges, want %d: %v", len(edges), tt.edges, edges)
			}
			totals, err := s.Totals(t.Context(), EdgeFilter{})
			if err != nil {
				t.Fatal(err)
			}
			if len(totals) != tt.edges {
				t.Errorf("%d totals, want %d: %v", len(totals), tt.edges, totals)
			}
		})
	}
}

func TestEdgesExternalPeers(t *testing.T) {
	s := migrated(t)
	var rows []flow.Labelled
	for i, a := range []string{"198.51.100.66", "198.51.100.67", "2001:db8:66::66", "198.51.100.66"} {
		r := connection(frontend, flow.Workload{}, uint16(i), noon)
		r.Dest, r.Destination, r.DestinationPort = &flow.Party{Reserved: "world"}, addr(a), 443
		rows = append(rows, r)
	}
	mustInsert(t, s, "a", rows...)
	edges, err := s.Edges(t.Context(), EdgeFilter{Workload: &frontend})
	if err != nil {
		t.Fatal(err)
	}
	got := map[flow.Party]uint64{}
	for _, e := range edges {
		got[e.Destination] = e.Connections
		if e.Source != (flow.Party{Workload: frontend}) {
			t.Errorf("source %v, want the workload without an address", e.Source)
		}
	}
	want := map[flow.Party]uint64{
		{Reserved: "world", Address: addr("198.51.100.66")}:   2,
		{Reserved: "world", Address: addr("198.51.100.67")}:   1,
		{Reserved: "world", Address: addr("2001:db8:66::66")}: 1,
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// judgedAgain is one connection that revision 1 allowed and revision 2 denies
// after it was established, and one that revision 2 denied from the start.
func judgedAgain(at time.Time) []flow.Labelled {
	begin := connection(frontend, cart, 1, at)
	begin.Event, begin.FirstSeen = flow.EventNew, at.Add(-2*time.Hour)
	begin.Reverse, begin.Answered = flow.Counters{}, false
	begin.Live = flow.Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonRule, Revision: 1}

	answer := begin
	answer.Event, answer.Connections, answer.Time = flow.EventVerdict, 0, at.Add(time.Second)
	answer.Reverse, answer.Answered = flow.Counters{Packets: 3, Bytes: 300}, true
	answer.LiveNew, answer.StagedNew = false, false
	// A restarted agent converts the boot clock anew.
	answer.FirstSeen = answer.FirstSeen.Add(7 * time.Microsecond)

	denied := answer
	denied.Event, denied.Time = flow.EventSweep, at.Add(2*time.Second)
	denied.Reverse, denied.Answered, denied.LiveNew = flow.Counters{}, false, true
	denied.Live = flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Revision: 2}
	denied.Outcome = flow.OutcomeDropped

	refused := denied
	refused.SourcePort, refused.Connections, refused.Event = 2, 1, flow.EventNew
	refused.FirstSeen = refused.Time
	return []flow.Labelled{begin, answer, denied, refused}
}

func TestEdgesEvidence(t *testing.T) {
	s := migrated(t)
	rows := judgedAgain(noon)
	second := connection(frontend, cart, 3, noon.Add(time.Hour))
	second.Source.Endpoint, second.Dest.Endpoint = "frontend-2", "cart-2"
	second.Staged = flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Revision: 9}
	rows = append(rows, second)
	for i, r := range rows {
		mustInsert(t, s, token(i), r) // each a part of its own, so that they are merged
	}
	want := flow.Edge{
		Direction: flow.Egress, Observer: frontend,
		Source: flow.Party{Workload: frontend}, Destination: flow.Party{Workload: cart},
		Protocol: flow.TCP, Port: 8080,
		Connections: 3, Answered: 2,
		Forward: flow.Counters{Packets: 25, Bytes: 2500}, Reverse: flow.Counters{Packets: 7, Bytes: 4300},
		FirstSeen: noon.Add(-2 * time.Hour), LastSeen: noon.Add(time.Hour),
		SourceEndpoints: 2, DestinationEndpoints: 2, Hours: 2, Days: 1,
		DeniedLive: 2, DeniedStaged: 1,
	}
	want.WeekHours.Set(flow.HourOfWeek(noon))
	want.WeekHours.Set(flow.HourOfWeek(noon.Add(time.Hour)))
	for _, merged := range []bool{false, true} {
		if merged {
			mustExec(t, s, "OPTIMIZE TABLE edges FINAL")
		}
		if diff := cmp.Diff(want, edgeOf(t, s, EdgeFilter{Times: true}), compareAddrs); diff != "" {
			t.Errorf("merged %v (-want +got):\n%s", merged, diff)
		}
	}
	for _, tt := range []struct {
		name         string
		filter       EdgeFilter
		live, staged uint64
	}{
		{"revision that denied", EdgeFilter{LiveRevision: 2, StagedRevision: 9}, 2, 1},
		{"revision that allowed", EdgeFilter{LiveRevision: 1, StagedRevision: 8}, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if e := edgeOf(t, s, tt.filter); e.DeniedLive != tt.live || e.DeniedStaged != tt.staged {
				t.Errorf("denied %d live and %d staged, want %d and %d", e.DeniedLive, e.DeniedStaged, tt.live, tt.staged)
			}
		})
	}
}

// A connection has many records; it is counted when it was first answered, and
// for one in a window that begins later.
func TestEdgesSameConnection(t *testing.T) {
	s := migrated(t)
	first := connection(frontend, cart, 1, noon)
	next := first
	next.Connections, next.Answered, next.LiveNew, next.StagedNew = 0, false, false, false
	next.Time = noon.Add(time.Hour)
	next.Live = flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Revision: 3}
	last := next
	last.Time = noon.Add(30 * time.Hour)
	mustInsert(t, s, "a", first, next, last)
	for _, f := range []EdgeFilter{{}, {Since: noon.Add(time.Second)}, {Since: noon.Add(24 * time.Hour)}} {
		if e := edgeOf(t, s, f); e.Answered != 1 || e.DeniedLive != 1 {
			t.Errorf("since %s: %d answered and %d denied, want 1", f.Since, e.Answered, e.DeniedLive)
		}
	}
}

func TestEdgesAnsweredExact(t *testing.T) {
	s := migrated(t)
	rows := connections(500, noon)
	for i := range rows[:200] {
		rows[i].Reverse, rows[i].Answered = flow.Counters{}, false
	}
	mustInsert(t, s, "a", rows...)
	if e := edgeOf(t, s, EdgeFilter{}); e.Connections != 500 || e.Answered != 300 {
		t.Errorf("%d connections, %d answered, want 500 and 300", e.Connections, e.Answered)
	}
	mustInsert(t, s, "b", connections(20_000, noon.Add(time.Hour))...)
	e := edgeOf(t, s, EdgeFilter{Since: noon.Add(30 * time.Minute)})
	if e.Connections != 20_000 || e.Answered != 20_000 {
		t.Errorf("%d connections, %d answered, want 20,000 of both", e.Connections, e.Answered)
	}
}

func TestEdgesWindow(t *testing.T) {
	s := migrated(t)
	hour := noon.Truncate(time.Hour)
	mustExec(t, s, "ALTER TABLE edges MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1")
	// Hours h, h+1 and h+3, each with flows from minute 10 to minute 20.
	for i, h := range []int{0, 1, 3} {
		at := hour.Add(time.Duration(h) * time.Hour)
		first, last := connection(frontend, cart, 1, at.Add(10*time.Minute)), connection(frontend, cart, 2, at.Add(20*time.Minute))
		first.FirstSeen, last.FirstSeen = first.Time, last.Time
		mustInsert(t, s, token(2*i), first)
		mustInsert(t, s, token(2*i+1), last)
	}
	at := func(h, m int) time.Time { return hour.Add(time.Duration(h)*time.Hour + time.Duration(m)*time.Minute) }
	tests := []struct {
		name         string
		since, until time.Time
		edges        uint64 // connections in edges: whole hours
		exact        uint64 // connections in totals
	}{
		{"everything", time.Time{}, time.Time{}, 6, 6},
		{"since the middle of an hour's flows takes in the hour", at(0, 15), time.Time{}, 6, 5},
		{"since after an hour's flows leaves it out", at(0, 21), time.Time{}, 4, 4},
		{"since the last flow itself", at(0, 20), time.Time{}, 6, 5},
		{"until the middle of an hour's flows takes in the hour", time.Time{}, at(1, 15), 4, 3},
		{"until before an hour's flows leaves it out", time.Time{}, at(1, 10), 2, 2},
		{"within one hour", at(1, 12), at(1, 13), 2, 0},
		{"between flows", at(1, 21), at(3, 9), 0, 0},
		{"backwards", at(3, 0), at(0, 0), 0, 0},
	}
	for _, merged := range []bool{false, true} {
		if merged {
			mustExec(t, s, "ALTER TABLE edges RESET SETTING max_bytes_to_merge_at_max_space_in_pool")
			mustExec(t, s, "OPTIMIZE TABLE edges FINAL")
		}
		if rows, want := ask(t, s, "SELECT count() FROM edges"), map[bool]uint64{false: 6, true: 3}[merged]; rows != want {
			t.Fatalf("%d rows with merged %v, want %d", rows, merged, want)
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				edges, err := s.Edges(t.Context(), EdgeFilter{Since: tt.since, Until: tt.until})
				if err != nil {
					t.Fatal(err)
				}
				totals, err := s.Totals(t.Context(), EdgeFilter{Since: tt.since, Until: tt.until})
				if err != nil {
					t.Fatal(err)
				}
				var gotEdges, gotExact uint64
				for _, e := range edges {
					gotEdges += e.Connections
				}
				for _, e := range totals {
					gotExact += e.Connections
				}
				if gotEdges != tt.edges || gotExact != tt.exact {
					t.Errorf("edges %d and totals %d, want %d and %d", gotEdges, gotExact, tt.edges, tt.exact)
				}
			})
		}
	}
}

func TestEdgesFilterAndLimit(t *testing.T) {
	s := migrated(t)
	ingress := connection(frontend, cart, 1, noon)
	ingress.Direction, ingress.Observer = flow.Ingress, of(cart)
	mustInsert(t, s, "a", connection(frontend, cart, 1, noon), ingress, connection(cart, redis, 1, noon))
	nobody := flow.Workload{Namespace: "boutique", Kind: "Deployment", Name: "nobody"}
	for _, tt := range []struct {
		name   string
		filter EdgeFilter
		want   int
	}{
		{"all", EdgeFilter{}, 3},
		{"source", EdgeFilter{Workload: &frontend}, 2},
		{"either side", EdgeFilter{Workload: &cart}, 3},
		{"destination", EdgeFilter{Workload: &redis}, 1},
		{"nobody", EdgeFilter{Workload: &nobody}, 0},
		{"ingress", EdgeFilter{Direction: flow.Ingress}, 1},
		{"egress of one", EdgeFilter{Direction: flow.Egress, Workload: &frontend}, 1},
		{"limit not reached", EdgeFilter{Limit: 3}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			edges, err := s.Edges(t.Context(), tt.filter)
			if err != nil {
				t.Fatal(err)
			}
			totals, err := s.Totals(t.Context(), tt.filter)
			if err != nil {
				t.Fatal(err)
			}
			if len(edges) != tt.want || len(totals) != tt.want {
				t.Errorf("%d edges and %d totals, want %d", len(edges), len(totals), tt.want)
			}
		})
	}
	if _, err := s.Edges(t.Context(), EdgeFilter{Limit: 2}); err == nil || !strings.Contains(err.Error(), "more than 2 edges") {
		t.Errorf("edges above the limit: %v, want an error", err)
	}
	if _, err := s.Totals(t.Context(), EdgeFilter{Limit: 2}); err == nil || !strings.Contains(err.Error(), "more than 2 edges") {
		t.Errorf("totals above the limit: %v, want an error", err)
	}
}

func TestTotalsExact(t *testing.T) {
	s := migrated(t)
	rows := connections(30_000, noon)
	mustInsert(t, s, "a", rows[:15_000]...)
	mustInsert(t, s, "b", rows[15_000:]...)
	totals, err := s.Totals(t.Context(), EdgeFilter{Direction: flow.Egress})
	if err != nil {
		t.Fatal(err)
	}
	want := []flow.EdgeTotal{{
		Direction: flow.Egress, Observer: frontend,
		Source: flow.Party{Workload: frontend}, Destination: flow.Party{Workload: cart},
		Protocol: flow.TCP, Port: 8080,
		Connections: 30_000,
		Forward:     flow.Counters{Packets: 150_000, Bytes: 15_000_000}, Reverse: flow.Counters{Packets: 120_000, Bytes: 120_000_000},
		FirstSeen: noon.Add(-time.Second), LastSeen: noon,
	}}
	if diff := cmp.Diff(want, totals, compareAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
