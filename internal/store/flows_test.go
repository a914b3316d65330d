package store

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

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

func TestFlowsRoundTrip(t *testing.T) {
	s := migrated(t)
	want := everyValue()
	mustInsert(t, s, "a", want...)
	got, err := s.Flows(t.Context(), FlowFilter{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("rows changed on the way (-stored +read):\n%s", diff)
	}
}

func TestFlowsFilter(t *testing.T) {
	s := migrated(t)
	external := connection(cart, flow.Workload{}, 5, noon.Add(-time.Hour))
	external.Dest = &flow.Party{Reserved: "world"}
	external.Key.Source, external.Destination = addr("2001:db8::1"), addr("2001:db8:66::66")
	external.DestinationPort, external.Outcome = 443, flow.OutcomeDropped
	dns := connection(frontend, cart, 6, noon.Add(-2*time.Hour))
	dns.Protocol, dns.DestinationPort, dns.Direction = flow.UDP, 53, flow.Ingress
	dns.Observer = of(redis)
	rows := []flow.Labelled{connection(frontend, cart, 4, noon), external, dns} // newest first
	mustInsert(t, s, "a", rows...)

	nobody := flow.Workload{Namespace: "boutique", Kind: "Deployment", Name: "x' OR 1=1 --"}
	tests := []struct {
		name   string
		filter FlowFilter
		want   []int
	}{
		{"all", FlowFilter{}, []int{0, 1, 2}},
		{"limit", FlowFilter{Limit: 2}, []int{0, 1}},
		{"since takes in its own moment", FlowFilter{Since: noon}, []int{0}},
		{"until leaves its own moment out", FlowFilter{Until: noon}, []int{1, 2}},
		{"window", FlowFilter{Since: noon.Add(-90 * time.Minute), Until: noon.Add(-time.Minute)}, []int{1}},
		{"source workload", FlowFilter{Workload: &frontend}, []int{0, 2}},
		{"destination or source workload", FlowFilter{Workload: &cart}, []int{0, 1, 2}},
		{"observer", FlowFilter{Workload: &redis}, []int{2}},
		{"nobody", FlowFilter{Workload: &nobody}, nil},
		{"outcome", FlowFilter{Outcome: flow.OutcomeDropped}, []int{1}},
		{"direction", FlowFilter{Direction: new(flow.Ingress)}, []int{2}},
		{"unknown direction", FlowFilter{Direction: new(flow.DirectionUnknown)}, nil},
		{"protocol", FlowFilter{Protocol: flow.TCP}, []int{0, 1}},
		{"port", FlowFilter{Port: 443}, []int{1}},
		{"the initiator's port is no port", FlowFilter{Port: 4}, nil},
		{"several", FlowFilter{Protocol: flow.TCP, Workload: &frontend}, []int{0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var want []flow.Labelled
			for _, i := range tt.want {
				want = append(want, rows[i])
			}
			got, err := s.Flows(t.Context(), tt.filter)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := s.Flows(t.Context(), FlowFilter{Limit: maxFlowLimit + 1}); err == nil {
		t.Error("no error for a limit above the highest")
	}
}

func TestFlowsParameters(t *testing.T) {
	s := migrated(t)
	for _, name := range []string{
		"plain", "it's", `back\slash`, `\`, `\'`, "tab\there", "new\nline", "cr\rhere", "nul\x00here", `"quoted"`, "`tick`",
		"' OR 1=1 --", "{name:String}", "名前", "\xff\xfe", "$1", "?", `\N`, "NULL", " space ",
	} {
		t.Run(name, func(t *testing.T) {
			w := flow.Workload{Namespace: name, Kind: name, Name: name}
			mustInsert(t, s, "row of "+name, connection(w, cart, 1, noon))
			flows, err := s.Flows(t.Context(), FlowFilter{Workload: &w})
			if err != nil {
				t.Fatal(err)
			}
			if len(flows) != 1 || flows[0].Source.Workload != w {
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

func TestFlowsExpire(t *testing.T) {
	s := migrated(t)
	day := 24 * time.Hour
	now := time.Now()
	mustInsert(t, s, "a", append(connections(3, now.Add(-32*day)), connections(2, now.Add(-28*day))...)...)
	mustExec(t, s, "OPTIMIZE TABLE flows FINAL")
	if n := ask(t, s, "SELECT count() FROM flows"); n != 2 {
		t.Errorf("%d flows, want the 2 younger than 30 days", n)
	}
	if n := ask(t, s, "SELECT sum(connections) FROM edges"); n != 5 {
		t.Errorf("edges of %d connections, want all 5: they are kept longer", n)
	}
	mustInsert(t, s, "b", append(connections(3, now.Add(-500*day)), connections(2, now.Add(-300*day))...)...)
	mustExec(t, s, "OPTIMIZE TABLE edges FINAL")
	if n := ask(t, s, "SELECT sum(connections) FROM edges"); n != 7 {
		t.Errorf("edges of %d connections, want the 7 younger than 400 days", n)
	}
}
