package analyzer_test

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
)

// Replay says what the plain way says, of any policy and any edges, and whatever
// order they come in.
func TestReplayIsThePlainWay(t *testing.T) {
	t.Run("few edges", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) { comparePlain(t, anyReplay(t), 60) })
	})
	t.Run("more than one goroutine judges", func(t *testing.T) {
		for seed := range 5 {
			comparePlain(t, rapid.Custom(anyReplay).Example(seed), 30_000)
		}
	})
}

// replayCase is a policy of policytest.Subject in its world.
type replayCase struct {
	inv    inventory.Inventory
	policy policy.Policy
	seed   uint64 // of the edges
}

func anyReplay(t *rapid.T) replayCase {
	c := replayCase{inv: policytest.Inventory(), policy: policytest.Policy(t), seed: rapid.Uint64().Draw(t, "edges")}
	c.inv.Guardrails = policytest.Guardrails(t)
	c.inv.Workloads[0].Endpoints[0].Host = rapid.Bool().Draw(t, "a host")
	return c
}

func comparePlain(t fataler, c replayCase, edges int) {
	w := &world{tb: t, inv: c.inv, length: 24 * time.Hour, edges: anyEdges(rand.New(rand.NewPCG(c.seed, 1)), c.inv, edges)}
	compare := func(what string, want, got *analyzer.ReplayResult, err error) {
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", what, diff)
		}
	}
	got, err := w.analyzer(analyzer.Config{}).Replay(context.Background(), c.policy, w.window())
	compare("the plain way", plainReplay(inventory.NewIndex(c.inv), w.edges, c.policy, w.window()), got, err)
	slices.Reverse(w.edges)
	all, err := w.analyzer(analyzer.Config{}).ReplayAll(context.Background(), []policy.Policy{c.policy}, w.window())
	compare("the edges reversed", got, all[0], err)
}

// anyEdges draws edges of policytest.Subject: seen at either end or both, of
// either direction or none, forged, unanswered, and some of nobody's.
func anyEdges(r *rand.Rand, inv inventory.Inventory, n int) []flow.Edge {
	me := flow.Party{Workload: policytest.Subject}
	var others []flow.Party
	for i := range inv.Workloads {
		others = append(others, flow.Party{Workload: inv.Workloads[i].Ref()})
	}
	for _, node := range inv.Nodes {
		others = append(others, flow.Party{Reserved: "host", Address: node.Addresses[0]}, flow.Party{Reserved: "remote-node", Address: node.Addresses[1]})
	}
	for _, a := range policytest.Strangers() {
		others = append(others, flow.Party{Reserved: "world", Address: a})
	}
	for i := range n / 10 {
		others = append(others, flow.Party{Reserved: "world", Address: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})})
	}
	out := make([]flow.Edge, n)
	for i := range out {
		e := flow.Edge{
			Source: me, Destination: others[r.IntN(len(others))], Protocol: []flow.Protocol{flow.TCP, flow.UDP}[r.IntN(2)],
			Port: []uint16{53, 80, 81, 443, 5432}[r.IntN(5)], Direction: flow.Direction(r.IntN(3)), Connections: r.Uint64N(4),
			FirstSeen: epoch.Add(time.Duration(r.IntN(600)) * time.Minute),
		}
		if r.IntN(2) == 0 {
			e.Source, e.Destination = e.Destination, e.Source
		}
		e.Answered = r.Uint64N(e.Connections + 1)
		e.Forward.Packets, e.Reverse.Packets = 10*e.Connections, 10*e.Answered
		e.LastSeen = e.FirstSeen.Add(time.Duration(r.IntN(600)) * time.Minute)
		e.Observer = [...]flow.Workload{e.Source.Workload, e.Destination.Workload, e.Source.Workload, e.Destination.Workload, others[2].Workload}[r.IntN(5)]
		out[i] = e
	}
	return out
}

// plainKey is what one judgement is of.
type plainKey struct {
	direction flow.Direction
	peer      flow.Party
	protocol  flow.Protocol
	port      uint16
}

// plainReplay is Replay as one would write it first: a map, and the evaluator
// asked about each address of each peer.
func plainReplay(x *inventory.Index, edges []flow.Edge, p policy.Policy, window analyzer.Window) *analyzer.ReplayResult {
	r := &analyzer.ReplayResult{Workload: p.Workload, Window: window, Denials: []analyzer.Denial{}}
	listens := map[plainKey]bool{}
	for _, e := range edges {
		if !e.Observer.IsZero() && e.Direction != flow.DirectionUnknown && e.Answered > 0 && e.Observer == observerOf(&e, e.Direction) {
			listens[plainKey{peer: e.Destination, protocol: e.Protocol, port: e.Port}] = true
		}
	}
	seen := map[plainKey][]flow.Edge{}
	for _, e := range edges {
		switch {
		case e.Observer.IsZero():
		case e.Direction == flow.DirectionUnknown && !listens[plainKey{peer: e.Destination, protocol: e.Protocol, port: e.Port}]:
			r.Unjudged += max(e.Connections, e.Answered, 1)
		default:
			in, out := plainKey{flow.Ingress, e.Source, e.Protocol, e.Port}, plainKey{flow.Egress, e.Destination, e.Protocol, e.Port}
			if e.Destination.Workload == p.Workload {
				seen[in] = append(seen[in], e)
			}
			if e.Source.Workload == p.Workload {
				seen[out] = append(seen[out], e)
			}
		}
	}
	for k, list := range seen {
		e, arrived := plainSum(k.direction, list)
		if !arrived {
			continue
		}
		n := max(e.Connections, e.Answered, 1)
		r.Judged, r.JudgedEdges = r.Judged+n, r.JudgedEdges+1
		reason, denied, allowed := plainJudge(x, &p, k)
		if denied == 0 {
			continue
		}
		r.Denied, r.DeniedEdges = r.Denied+n, r.DeniedEdges+1
		r.Denials = append(r.Denials, analyzer.Denial{
			Direction: k.direction, Source: e.Source, Destination: e.Destination, Protocol: k.protocol, Port: k.port, Reason: reason,
			Connections: n, Answered: e.Answered, Packets: e.Forward.Packets + e.Reverse.Packets,
			FirstSeen: e.FirstSeen, LastSeen: e.LastSeen, Partly: allowed > 0,
		})
	}
	slices.SortFunc(r.Denials, func(a, b analyzer.Denial) int {
		return cmp.Or(cmp.Compare(b.Connections, a.Connections), cmp.Compare(a.Direction, b.Direction),
			plainOrder(a.Source, b.Source), plainOrder(a.Destination, b.Destination), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return r
}

func plainOrder(a, b flow.Party) int {
	return cmp.Or(a.Workload.Compare(b.Workload), cmp.Compare(a.Reserved, b.Reserved), a.Address.Compare(b.Address))
}

// observerOf returns who sees e in direction d.
func observerOf(e *flow.Edge, d flow.Direction) flow.Workload {
	if d == flow.Ingress {
		return e.Destination.Workload
	}
	return e.Source.Workload
}

// plainSum adds up what each end saw and takes the larger. arrived is not set
// for what its sender's node drops as forged.
func plainSum(d flow.Direction, list []flow.Edge) (out flow.Edge, arrived bool) {
	var sides [3]flow.Edge // here, at the peer, forged
	var count [3]int
	for _, e := range list {
		side, unknown := 1, e.Direction == flow.DirectionUnknown
		switch {
		case unknown && e.Observer != e.Source.Workload && e.Observer != e.Destination.Workload, !unknown && e.Observer != observerOf(&e, e.Direction):
			side = 2
		case e.Observer == observerOf(&e, d) && (unknown || e.Direction == d):
			side = 0
		}
		s := &sides[side]
		s.Connections, s.Answered = s.Connections+e.Connections, s.Answered+e.Answered
		s.Forward.Packets, s.Reverse.Packets = s.Forward.Packets+e.Forward.Packets, s.Reverse.Packets+e.Reverse.Packets
		count[side]++
	}
	out = list[0]
	for _, e := range list[1:] {
		if e.FirstSeen.Before(out.FirstSeen) {
			out.FirstSeen = e.FirstSeen
		}
		if e.LastSeen.After(out.LastSeen) {
			out.LastSeen = e.LastSeen
		}
	}
	largest := func(of func(*flow.Edge) uint64) uint64 { return max(of(&sides[0]), of(&sides[1]), of(&sides[2])) }
	out.Connections = largest(func(e *flow.Edge) uint64 { return e.Connections })
	out.Answered = largest(func(e *flow.Edge) uint64 { return e.Answered })
	out.Forward.Packets = largest(func(e *flow.Edge) uint64 { return e.Forward.Packets })
	out.Reverse.Packets = largest(func(e *flow.Edge) uint64 { return e.Reverse.Packets })
	return out, count[0] > 0 || count[2] == 0
}

// plainJudge counts the addresses of a peer that p denies, and those that it
// allows; reason is that of the last denied.
func plainJudge(x *inventory.Index, p *policy.Policy, k plainKey) (reason flow.Reason, denied, allowed int) {
	own := x.Workload(p.Workload)
	ev := policy.Evaluator{Guardrails: x.Guardrails(p.Workload), Own: own.NamedPorts()}
	peers := []policy.PeerFacts{{Addr: k.peer.Address, Names: x.Names(k.peer.Address)}}
	if id, err := flow.ReservedIdentity(k.peer.Reserved); err == nil {
		peers[0].Reserved = id
	}
	if w := x.Workload(k.peer.Workload); w != nil {
		facts := x.Facts(w)
		facts.Named = w.NamedPorts()
		peers = nil
		for _, e := range w.Endpoints {
			for _, a := range e.Addresses {
				facts.Addr, facts.Names = a, x.Names(a)
				peers = append(peers, facts)
			}
		}
	}
	for _, peer := range peers {
		peer.Outside = own.Endpoints[0].Host
		j := ev.Evaluate(p, policy.Facts{Direction: k.direction, Peer: peer, Protocol: k.protocol, Port: k.port})
		if j.Denied() {
			reason, denied = j.Reason, denied+1
		} else {
			allowed++
		}
	}
	return reason, denied, allowed
}
