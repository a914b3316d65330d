package verdict

import (
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
)

// closed isolates both directions of the subject but for the rules.
func closed(ingress, egress []policy.Rule) *policy.Policy {
	return &policy.Policy{
		Workload: policytest.Subject, IsolateIngress: true, IsolateEgress: true, Ingress: ingress, Egress: egress,
	}
}

// anybody allows everybody on ports.
func anybody(ports ...policy.Port) []policy.Rule { return []policy.Rule{{Ports: ports}} }

// echo is the ICMP of a family, and its echo request's type and its answer's.
func echo(v6 bool) (protocol flow.Protocol, request, answer uint8) {
	if v6 {
		return flow.ICMPv6, 128, 129
	}
	return flow.ICMP, 8, 0
}

func typed(protocol flow.Protocol, kind, code uint8) policy.Port {
	return policy.Port{Protocol: protocol, ICMPType: &kind, ICMPCode: &code}
}

// peerOf returns a peer of a family by who it is.
func peerOf(host, v6 bool, class flow.Identity) policy.PeerFacts {
	for _, p := range peers(host) {
		if p.Reserved == class && p.Addr.Is6() == v6 && (class != flow.IdentityUnknown || p.Workload != policytest.Subject) {
			return p
		}
	}
	panic("the world lacks a peer")
}

// sent is a frame and whether it must arrive.
type sent struct {
	*frame
	arrives bool
}

// compare sends frames that begin flows, or go on with those of before, and
// checks them against the evaluator and against what the case says itself.
func (n *node) compare(t *testing.T, list []sent, before map[*frame]judged, live slot) map[*frame]judged {
	t.Helper()
	var frames []*frame
	for _, s := range list {
		frames = append(frames, s.frame)
	}
	out := n.round(t, newTally(), t.Name(), frames, before, live, slot{}, false, false)
	for _, s := range list {
		if arrives := out[s.frame].outcome != flow.OutcomeDropped; arrives != s.arrives {
			t.Errorf("%s: arrives %t, want %t", s.frame, arrives, s.arrives)
		}
	}
	return out
}

func families(t *testing.T, test func(t *testing.T, v6 bool)) {
	t.Helper()
	t.Run("IPv4", func(t *testing.T) { test(t, false) })
	t.Run("IPv6", func(t *testing.T) { test(t, true) })
}

// TestCases are disagreements that random frames found, each with the nearest
// frame that fares otherwise.
func TestCases(t *testing.T) {
	n := newNode(t, instant)
	families(t, func(t *testing.T, v6 bool) {
		stranger, known := peerOf(false, v6, flow.IdentityWorld), peerOf(false, v6, flow.IdentityUnknown)
		self := local(false, v6)
		protocol, request, answer := echo(v6)
		enforce := func(t *testing.T, p *policy.Policy) slot {
			t.Helper()
			s := n.slot(p)
			n.apply(t, s, slot{})
			return s
		}

		t.Run("an echo's code", func(t *testing.T) {
			n.begin(t)
			live := enforce(t, closed(anybody(typed(protocol, request, 1)), anybody(typed(protocol, request, 0))))
			ping := func(from bool, kind, code uint8, id uint16) *frame {
				return &frame{from: from, own: self, peer: stranger, protocol: protocol, kind: kind, code: code, id: id}
			}
			n.compare(t, []sent{
				{ping(true, request, 0, 1), true},
				{ping(true, request, 1, 2), false},
				{ping(false, request, 1, 3), true},
				{ping(false, request, 0, 4), false},
				{ping(true, answer, 1, 5), true},
				{ping(true, answer, 0, 6), false},
			}, nil, live)
		})

		t.Run("a forged answer, judged again", func(t *testing.T) {
			n.begin(t)
			honest := &frame{from: true, own: self, peer: known, protocol: flow.TCP, sport: 80, dport: 4000, flags: "SA"}
			forged := &frame{from: true, own: self, peer: known, protocol: flow.TCP, sport: 80, dport: 4001, flags: "SA"}
			ping := &frame{from: true, own: self, peer: known, protocol: protocol, kind: answer, id: 7}
			forged.forge()
			ping.forge()
			live := enforce(t, closed(nil, nil))
			before := n.compare(t, []sent{{honest, false}, {forged, false}, {ping, false}}, nil, live)
			live = enforce(t, closed([]policy.Rule{{}}, nil))
			n.compare(t, []sent{{honest, true}, {forged, false}, {ping, false}}, before, live)
		})

		t.Run("the node's address from outside", func(t *testing.T) {
			n.begin(t)
			sport := uint16(4000)
			probe := func(host, ofNode bool, port uint16) *frame {
				sport++
				return &frame{
					host: host, local: ofNode, own: local(host, v6), peer: peerOf(host, v6, flow.IdentityHost),
					protocol: flow.TCP, sport: sport, dport: port, flags: "S",
				}
			}
			byName := []policy.Rule{{
				Peers: []policy.Peer{{Reserved: "host"}}, Ports: []policy.Port{{Protocol: flow.TCP, Port: 443}},
			}}
			live := enforce(t, closed(byName, nil))
			n.compare(t, []sent{
				{probe(false, true, 80), true},
				{probe(false, false, 80), false},
				{probe(false, false, 443), true},
				{probe(true, false, 80), false},
				{probe(true, false, 443), true},
			}, nil, live)
		})

		t.Run("discovery", func(t *testing.T) {
			n.begin(t)
			enforce(t, closed(nil, nil))
			for _, c := range []struct {
				name     string
				kind     uint8
				hops     uint8
				arrives  bool // over IPv6; over IPv4 it is no discovery
				distance string
			}{
				{"solicitation", 135, 255, true, "from the link"},
				{"solicitation", 135, 64, false, "from beyond the link"},
				{"listener report", 143, 1, true, "for the link"},
				{"listener report", 143, 64, false, "for beyond the link"},
			} {
				f := &frame{from: true, own: self, peer: known, protocol: flow.ICMPv6, kind: c.kind, hops: c.hops}
				if got := n.send(t, []*frame{f})[f]; got != (c.arrives && v6) {
					t.Errorf("%s %s: arrives %t", c.name, c.distance, got)
				}
			}
		})
	})
}

// TestCasesWithoutState checks that ICMP shows its direction also where there is
// no room for a flow: who may be pinged may not therefore ping.
func TestCasesWithoutState(t *testing.T) {
	n := newNode(t, stateless)
	n.fill(t)
	families(t, func(t *testing.T, v6 bool) {
		protocol, request, answer := echo(v6)
		live := n.slot(closed(anybody(policy.Port{Protocol: protocol, ICMPType: &request}), nil))
		n.apply(t, live, slot{})
		for _, c := range []struct {
			from    bool
			kind    uint8
			arrives bool
		}{
			{false, request, true},
			{true, answer, true},
			{true, request, false},
			{false, answer, false},
		} {
			f := &frame{
				from: c.from, own: local(false, v6), peer: peerOf(false, v6, flow.IdentityWorld), protocol: protocol, kind: c.kind,
				id: uint16(request) << 8, // what a type looks like
			}
			if got := n.send(t, []*frame{f})[f]; got != c.arrives {
				t.Errorf("%s: arrives %t", f, got)
			}
		}
	})
}
