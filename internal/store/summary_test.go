package store

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

func TestSummary(t *testing.T) {
	s := migrated(t)
	got, err := s.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got != (flow.Summary{}) {
		t.Errorf("of nothing: %+v", got)
	}
	ingress := func(r flow.Labelled) flow.Labelled {
		r.Direction, r.Observer = flow.Ingress, of(cart)
		return r
	}
	outside := ingress(connection(flow.Workload{}, cart, 9, noon.Add(time.Minute)))
	outside.Source, outside.Key.Source = &flow.Party{Reserved: "world"}, addr("2001:db8:66::66")
	unproven := connection(redis, cart, 9, noon)
	unproven.Direction = flow.DirectionUnknown
	mustInsert(t, s, "a",
		connection(frontend, cart, 1, noon), ingress(connection(frontend, cart, 1, noon)), // one connection, seen at both ends
		connection(frontend, cart, 2, noon.Add(time.Hour)), ingress(connection(frontend, cart, 2, noon.Add(time.Hour))),
		outside, unproven)
	got, err = s.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := flow.Summary{Edges: 2, Connections: 3, Since: noon.Add(-time.Second), NewestEdgeAt: noon.Add(time.Minute - time.Second)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestJudged(t *testing.T) {
	s := migrated(t)
	rows := append(judgedAgain(noon), audited(1, "198.51.100.66", "10.0.0.2", 3), audited(2, "2001:db8:66::66", "2001:db8::2", 3))
	fine := audited(3, "198.51.100.67", "10.0.0.2", 3)
	fine.Staged.Verdict = flow.VerdictAllow
	mustInsert(t, s, "a", append(rows, fine, connection(redis, cart, 1, noon))...)
	for _, tt := range []struct {
		name   string
		filter DenialFilter
		want   uint64
	}{
		{"live, first revision", DenialFilter{Workload: &frontend, Slot: flow.SlotLive, Revision: 1}, 1},
		{"live, an established connection judged again", DenialFilter{Workload: &frontend, Slot: flow.SlotLive, Revision: 2}, 2},
		{"staged, allowed ones too", DenialFilter{Workload: &redis, Slot: flow.SlotStaged, Revision: 3}, 3},
		{"another revision", DenialFilter{Workload: &redis, Slot: flow.SlotStaged, Revision: 4}, 0},
		{"another workload", DenialFilter{Workload: &cart, Slot: flow.SlotStaged, Revision: 3}, 0},
		{"later", DenialFilter{Workload: &redis, Slot: flow.SlotStaged, Revision: 3, Since: noon.Add(time.Hour)}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := s.Judged(t.Context(), tt.filter)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
	if _, err := s.Judged(t.Context(), DenialFilter{Slot: flow.SlotLive}); err == nil {
		t.Error("no error without a workload")
	}
}
