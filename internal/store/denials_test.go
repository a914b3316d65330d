package store

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// audited is a connection that the staged slot denies at its destination.
func audited(sport uint16, from, to string, revision uint32) flow.Labelled {
	r := connection(flow.Workload{}, redis, sport, noon)
	r.Source, r.Key.Source, r.Destination = &flow.Party{Reserved: "world"}, addr(from), addr(to)
	r.Direction, r.Observer, r.DestinationPort = flow.Ingress, of(redis), 6379
	r.Live = flow.Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonNoPolicy}
	r.Staged = flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Revision: revision}
	r.Outcome = flow.OutcomeAudited
	return r
}

func TestDenials(t *testing.T) {
	s := migrated(t)
	rows := judgedAgain(noon) // frontend's live revision 2 denies two connections to cart
	rows = append(rows,
		audited(1, "198.51.100.66", "10.0.0.2", 3),
		audited(2, "198.51.100.66", "10.0.0.2", 3),
		audited(3, "2001:db8:66::66", "2001:db8::2", 3),
		audited(4, "198.51.100.66", "10.0.0.2", 4),
		connection(cart, redis, 5, noon),
	)
	// A packet with an address that is not the endpoint's has no source workload;
	// it was cart's policy all the same.
	spoofed := connection(flow.Workload{}, redis, 6, noon)
	spoofed.Observer, spoofed.Source, spoofed.Key.Source = of(cart), flow.Nobody, addr("10.66.66.66")
	spoofed.Live = flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonSpoofed, Revision: 5}
	spoofed.Outcome = flow.OutcomeDropped
	rows = append(rows, spoofed)
	mustInsert(t, s, "a", rows...)

	live := flow.Denial{
		Direction: flow.Egress, Observer: frontend,
		Source: flow.Party{Workload: frontend}, Destination: flow.Party{Workload: cart},
		Protocol: flow.TCP, Port: 8080, Reason: flow.ReasonDefault, Revision: 2,
		Connections: 2, Packets: 10, FirstSeen: noon.Add(-2*time.Hour + 7*time.Microsecond), LastSeen: noon.Add(2 * time.Second),
	}
	spoof := flow.Denial{
		Direction: flow.Egress, Observer: cart,
		Source: flow.Party{Address: addr("10.66.66.66")}, Destination: flow.Party{Workload: redis},
		Protocol: flow.TCP, Port: 8080, Reason: flow.ReasonSpoofed, Revision: 5,
		Connections: 1, Packets: 9, FirstSeen: noon.Add(-time.Second), LastSeen: noon,
	}
	staged := func(from string, revision uint32, connections uint64) flow.Denial {
		return flow.Denial{
			Direction: flow.Ingress, Observer: redis,
			Source: flow.Party{Reserved: "world", Address: addr(from)}, Destination: flow.Party{Workload: redis},
			Protocol: flow.TCP, Port: 6379, Reason: flow.ReasonDefault, Revision: revision,
			Connections: connections, Packets: 9 * connections, FirstSeen: noon.Add(-time.Second), LastSeen: noon,
		}
	}
	tests := []struct {
		name   string
		filter DenialFilter
		want   []flow.Denial
	}{
		{"live", DenialFilter{Slot: flow.SlotLive}, []flow.Denial{live, spoof}},
		{"staged, most first", DenialFilter{Slot: flow.SlotStaged},
			[]flow.Denial{staged("198.51.100.66", 3, 2), staged("198.51.100.66", 4, 1), staged("2001:db8:66::66", 3, 1)}},
		{"staged of one revision", DenialFilter{Slot: flow.SlotStaged, Revision: 3},
			[]flow.Denial{staged("198.51.100.66", 3, 2), staged("2001:db8:66::66", 3, 1)}},
		{"limit", DenialFilter{Slot: flow.SlotStaged, Limit: 1}, []flow.Denial{staged("198.51.100.66", 3, 2)}},
		{"of one workload", DenialFilter{Slot: flow.SlotLive, Workload: &frontend}, []flow.Denial{live}},
		{"spoofed, at the endpoint that sent it", DenialFilter{Slot: flow.SlotLive, Workload: &cart}, []flow.Denial{spoof}},
		{"the other side did not deny", DenialFilter{Slot: flow.SlotLive, Workload: &redis}, nil},
		{"revision that allowed", DenialFilter{Slot: flow.SlotLive, Revision: 1}, nil},
		{"since", DenialFilter{Slot: flow.SlotLive, Since: noon.Add(time.Second)}, []flow.Denial{live}},
		{"until", DenialFilter{Slot: flow.SlotStaged, Until: noon.Add(-time.Hour)}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := s.Denials(t.Context(), tt.filter)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, compareAddrs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := s.Denials(t.Context(), DenialFilter{Slot: 7}); err == nil {
		t.Error("no error for a slot that does not exist")
	}
}

func TestStats(t *testing.T) {
	s := migrated(t)
	rows := append(judgedAgain(noon), audited(1, "198.51.100.66", "10.0.0.2", 3), audited(2, "2001:db8:66::66", "2001:db8::2", 4))
	rows = append(rows, connection(frontend, redis, 9, noon.Add(time.Hour)))
	nobody := connection(flow.Workload{}, cart, 1, noon)
	nobody.Observer = flow.Nobody
	mustInsert(t, s, "a", append(rows, nobody)...)
	want := []flow.WorkloadStats{
		{
			Workload: frontend, Edges: 2, Connections: 3, LastSeen: noon.Add(time.Hour),
			WouldDeny: map[uint32]uint64{}, Denied: map[uint32]uint64{2: 2},
		},
		{
			Workload: redis, Edges: 2, Connections: 2, LastSeen: noon,
			WouldDeny: map[uint32]uint64{3: 1, 4: 1}, Denied: map[uint32]uint64{},
		},
	}
	got, err := s.Stats(t.Context(), noon)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got, err = s.Stats(t.Context(), noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Workload != frontend || got[0].Edges != 1 || got[0].Connections != 1 {
		t.Errorf("an hour later: %+v, want only the frontend's one connection", got)
	}
}

func TestSlotQueriesAreComplete(t *testing.T) {
	for _, q := range []string{denialQueries[flow.SlotLive], denialQueries[flow.SlotStaged], deniedQueries[flow.SlotLive], deniedQueries[flow.SlotStaged]} {
		if strings.Contains(q, "SLOT") {
			t.Errorf("a slot's name is missing in\n%s", q)
		}
	}
}
