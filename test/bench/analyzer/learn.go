package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/test/bench/store/estate"
)

const window = 90 * 24 * time.Hour

var start = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func quartile(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/4]
}

// memory is a source of edges that costs nothing, so that the analyzer alone is
// measured.
type memory struct {
	edges []flow.Edge
	by    map[flow.Workload][]flow.Edge
	nodes []flow.NodeCoverage
}

func (m *memory) Edges(_ context.Context, f flow.EdgeFilter) ([]flow.Edge, error) {
	if f.Workload != nil {
		return m.by[*f.Workload], nil
	}
	return m.edges, nil
}

func (m *memory) Coverage(context.Context, time.Time, time.Time) ([]flow.NodeCoverage, error) {
	return m.nodes, nil
}

func (m *memory) analyzer(inv inventory.Inventory) (*analyzer.Analyzer, error) {
	for _, n := range inv.Nodes {
		m.nodes = append(m.nodes, flow.NodeCoverage{Node: n.Name, Covered: window, First: start, Last: start.Add(window)})
	}
	m.by = map[flow.Workload][]flow.Edge{}
	for _, e := range m.edges {
		m.by[e.Source.Workload] = append(m.by[e.Source.Workload], e)
		if e.Source.Workload != e.Destination.Workload {
			m.by[e.Destination.Workload] = append(m.by[e.Destination.Workload], e)
		}
	}
	return analyzer.New(analyzer.Config{}, analyzer.Deps{Edges: m, Coverage: m, Inventory: func() inventory.Inventory { return inv }})
}

func whole() analyzer.Window { return analyzer.Window{Since: start, Until: start.Add(window)} }

// recommend learns every workload of an estate, and of one a tenth as large.
func (r *Report) recommend(ctx context.Context, rows, samples int) error {
	var took [2]float64
	for i, workloads := range []int{200, 2000} {
		e, err := estate.New(estate.Config{Seed: 1, Workloads: workloads, Nodes: workloads / 25, Clients: workloads * 10})
		if err != nil {
			return err
		}
		m := &memory{edges: edgesOf(e, rows*workloads/2000)}
		a, err := m.analyzer(e.Inventory())
		if err != nil {
			return err
		}
		if took[i], err = sample(samples, func() error {
			list, err := a.RecommendAll(ctx, whole())
			if err == nil && len(list) != workloads {
				err = fmt.Errorf("%d recommendations for %d workloads", len(list), workloads)
			}
			return err
		}); err != nil {
			return err
		}
		r.Workloads, r.RecommendEdges, r.RecommendRows = workloads, len(m.edges), rows
	}
	r.RecommendS, r.RecommendGrowth = took[1], took[1]/took[0]
	return nil
}

// edgesOf adds the flows of an estate up, spread over the window.
func edgesOf(e *estate.Estate, rows int) []flow.Edge {
	s := e.Stream(estate.StreamConfig{Seed: 1, Node: estate.Everywhere, Start: start, Rows: float64(rows) / 90, Steady: true})
	type key struct {
		direction          flow.Direction
		observer, from, to flow.Party
		protocol           flow.Protocol
		port               uint16
	}
	party := func(p *flow.Party, a netip.Addr) flow.Party {
		if p.IsWorkload() {
			return flow.Party{Workload: p.Workload}
		}
		return flow.Party{Reserved: p.Reserved, Address: a}
	}
	index, edges := map[key]int{}, []flow.Edge{}
	hours := map[[2]int64]bool{}
	ends := map[key]bool{}
	buf := make([]flow.Labelled, 10_000)
	for done := 0; done < rows; done += len(buf) {
		s.Fill(buf)
		for i := range buf {
			l := &buf[i]
			k := key{l.Direction, flow.Party{Workload: l.Observer.Workload}, party(l.Source, l.Key.Source), party(l.Dest, l.Destination), l.Protocol, l.DestinationPort}
			at, ok := index[k]
			if !ok {
				at = len(edges)
				index[k] = at
				edges = append(edges, flow.Edge{
					Direction: l.Direction, Observer: l.Observer.Workload, Source: k.from, Destination: k.to, Protocol: l.Protocol, Port: k.port,
					FirstSeen: l.Time, LastSeen: l.Time,
				})
			}
			x := &edges[at]
			x.Connections += uint64(l.Connections)
			if l.Answered {
				x.Answered++
			}
			x.Forward.Packets += l.Forward.Packets
			x.Reverse.Packets += l.Reverse.Packets
			if l.Time.Before(x.FirstSeen) {
				x.FirstSeen = l.Time
			}
			if l.Time.After(x.LastSeen) {
				x.LastSeen = l.Time
			}
			if h := [2]int64{int64(at), l.Time.Unix() / 3600}; !hours[h] {
				hours[h] = true
				x.Hours++
			}
			end := k
			end.from, end.to = flow.Party{Workload: k.from.Workload, Endpoint: l.Source.Endpoint}, flow.Party{}
			end.observer = flow.Party{Reserved: fmt.Sprint(at)}
			if !ends[end] {
				ends[end] = true
				x.SourceEndpoints++
			}
			x.DestinationEndpoints = max(x.DestinationEndpoints, 1)
		}
	}
	return edges
}

// replay judges a workload that a million peers connect to, and a tenth of them.
func (r *Report) replay(ctx context.Context, samples int) error {
	var took [2]float64
	for i, n := range []int{100_000, 1_000_000} {
		inv, edges, p := crowd(n)
		m := &memory{edges: edges}
		a, err := m.analyzer(inv)
		if err != nil {
			return err
		}
		if took[i], err = sample(samples, func() error {
			res, err := a.Replay(ctx, p, whole())
			if err == nil && (res.JudgedEdges != n || res.DeniedEdges == 0) {
				err = fmt.Errorf("replay judged %d edges of %d and denied %d", res.JudgedEdges, n, res.DeniedEdges)
			}
			if err == nil {
				r.ReplayEdges, r.ReplayDenied = res.JudgedEdges, res.DeniedEdges
			}
			return err
		}); err != nil {
			return err
		}
	}
	r.ReplayS, r.ReplayGrowth = took[1], took[1]/took[0]
	return nil
}

// crowd is a workload with n distinct edges: a tenth from other workloads, on
// several ports, the rest from addresses outside; and a policy of 40 rules that
// allows most of them.
func crowd(n int) (inventory.Inventory, []flow.Edge, policy.Policy) {
	const others = 500
	inv := inventory.Inventory{Nodes: []inventory.Node{{Name: "node-1"}}}
	add := func(name string) flow.Workload {
		inv.Workloads = append(inv.Workloads, inventory.Workload{
			Namespace: "shop", Kind: "Deployment", Name: name, Labels: map[string]string{"app": name},
			Endpoints: []inventory.Endpoint{{Name: name + "-1", Node: "node-1", Interface: "veth-" + name}},
		})
		return flow.Workload{Namespace: "shop", Kind: "Deployment", Name: name}
	}
	front := add("front")
	p := policy.Policy{Workload: front, IsolateIngress: true}
	for _, prefix := range []string{"20.0.0.0/8", "21.0.0.0/8", "2001:db8::/32"} {
		p.Ingress = append(p.Ingress, policy.Rule{
			Peers: []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix(prefix)}}}, Ports: []policy.Port{{Protocol: flow.TCP, Port: 443}},
		})
	}
	edges := make([]flow.Edge, 0, n)
	edge := func(from flow.Party, port uint16) {
		edges = append(edges, flow.Edge{
			Direction: flow.Ingress, Observer: front, Source: from, Destination: flow.Party{Workload: front}, Protocol: flow.TCP, Port: port,
			Connections: 3, Answered: 3, Forward: flow.Counters{Packets: 12}, Reverse: flow.Counters{Packets: 12},
			FirstSeen: start.Add(time.Hour), LastSeen: start.Add(window / 2), SourceEndpoints: 1, DestinationEndpoints: 1, Hours: 3,
		})
	}
	for i := range others {
		w := add(fmt.Sprintf("client-%d", i))
		if i < 37 {
			p.Ingress = append(p.Ingress, policy.Rule{
				Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"app": w.Name}}}},
				Ports: []policy.Port{{Protocol: flow.TCP, Port: 1, EndPort: 10_000}},
			})
		}
		for port := range n / 10 / others {
			edge(flow.Party{Workload: w}, uint16(1+port))
		}
	}
	for i := 0; len(edges) < n; i++ {
		a := netip.AddrFrom4([4]byte{byte(20 + i%3), byte(i >> 16), byte(i >> 8), byte(i)})
		if i%10 == 0 {
			a = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 12: byte(i >> 24), 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
		}
		edge(flow.Party{Reserved: "world", Address: a}, 443)
	}
	slices.SortFunc(inv.Workloads, func(a, b inventory.Workload) int { return cmp.Compare(a.Name, b.Name) })
	return inv, edges, policy.Normalize(p)
}
