package truth

import (
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// Score counts cells: a client, a server, a protocol and a port.
type Score struct {
	True    int `json:"true"`
	Correct int `json:"correct"` // true and admitted, between all replicas
	Over    int `json:"over"`    // admitted between some replicas, and not true
	Broken  int `json:"broken"`  // true and denied between some replicas

	// OverEdges and BrokenEdges name them.
	OverEdges   []string `json:"-"`
	BrokenEdges []string `json:"-"`
}

// end is one replica or address of a cell's end.
type end struct {
	node string
	addr netip.Addr
}

func (w *World) ends(name string) []end {
	if wl, ok := w.find(name); ok {
		var out []end
		for _, e := range wl.Endpoints {
			out = append(out, end{e.Node, e.Addresses[0]})
		}
		return out
	}
	if name == Node {
		var out []end
		for i, n := range nodes {
			out = append(out, end{n, NodeAddrs[i]})
		}
		return out
	}
	return []end{{"", outsideOf[name]}}
}

// Judge asks the evaluator about every pair of workloads, and of a workload and
// somebody else, on every port of the application over TCP and UDP, with the
// policies of both ends; a workload without a policy allows everything.
//
// Left out are: what is never filtered (a node and its own pods); a server that
// listens nowhere; DNS over TCP where UDP is true, which goes with it; and
// somebody else and a workload that truly never talks in that direction: silence
// is not isolated, and nothing else could deny it.
func (w *World) Judge(policies map[flow.Workload]*policy.Policy) Score {
	x := inventory.NewIndex(w.Inventory)
	truth, sends, receives := map[Edge]bool{}, map[string]bool{}, map[string]bool{}
	for _, e := range w.App.Edges {
		truth[e], sends[e.Client], receives[e.Server] = true, true, true
	}
	score := Score{True: len(truth)}
	var names []string
	for i := range w.Inventory.Workloads {
		names = append(names, w.Inventory.Workloads[i].Name)
	}
	others := []string{External, Stranger, APIServer, Node}
	for _, client := range slices.Concat(names, others) {
		for _, server := range slices.Concat(names, others) {
			_, governed := w.find(client)
			_, serves := w.find(server)
			switch {
			case !governed && (!serves || !receives[server]), !serves && !sends[client], serves && !w.listens(server):
				continue
			}
			for _, p := range w.ports() {
				e := Edge{client, server, p}
				all, some := w.admits(x, policies, e)
				switch {
				case truth[e] && all:
					score.Correct++
				case truth[e]:
					score.Broken++
					score.BrokenEdges = append(score.BrokenEdges, e.String())
				case some && (p != Port{flow.TCP, 53} || !truth[Edge{client, server, Port{flow.UDP, 53}}]):
					score.Over++
					score.OverEdges = append(score.OverEdges, e.String())
				}
			}
		}
	}
	return score
}

func (w *World) listens(name string) bool {
	return slices.ContainsFunc(w.App.Workloads, func(o Workload) bool { return o.Name == name && len(o.Ports) > 0 })
}

// ports are all of the application, each over both protocols, and one of nobody.
func (w *World) ports() []Port {
	out := []Port{{flow.TCP, 22}}
	add := func(p Port) {
		for _, protocol := range []flow.Protocol{flow.TCP, flow.UDP} {
			if q := (Port{protocol, p.Port}); !slices.Contains(out, q) {
				out = append(out, q)
			}
		}
	}
	for _, a := range w.App.Workloads {
		for _, p := range a.Ports {
			add(p)
		}
	}
	for _, e := range w.App.Edges {
		add(e.Port)
	}
	return out
}

// admits reports whether e is admitted between all replicas, and between some.
func (w *World) admits(x *inventory.Index, policies map[flow.Workload]*policy.Policy, e Edge) (all, some bool) {
	all = true
	client, governed := w.find(e.Client)
	server, serves := w.find(e.Server)
	for _, from := range w.ends(e.Client) {
		for _, to := range w.ends(e.Server) {
			if e.Client == Node && from.node == to.node {
				continue
			}
			ok := true
			if governed {
				if p := policies[client.Ref()]; p != nil {
					ok = policy.Evaluate(p, policy.Facts{Direction: flow.Egress, Peer: x.Peer(to.addr, from.node), Protocol: e.Protocol, Port: e.Port.Port}).Allowed()
				}
			}
			if serves && ok {
				if p := policies[server.Ref()]; p != nil {
					ok = policy.Evaluate(p, policy.Facts{Direction: flow.Ingress, Peer: x.Peer(from.addr, to.node), Protocol: e.Protocol, Port: e.Port.Port}).Allowed()
				}
			}
			all, some = all && ok, some || ok
		}
	}
	return all, some
}

// Accept makes policies of the recommended rules that take says yes to.
func Accept(recs []*analyzer.Recommendation, take func(*analyzer.Recommendation, *analyzer.Rule) bool) (map[flow.Workload]*policy.Policy, error) {
	out := map[flow.Workload]*policy.Policy{}
	for _, r := range recs {
		var ids []string
		for i := range r.Rules {
			if take(r, &r.Rules[i]) {
				ids = append(ids, r.Rules[i].Rule.ID)
			}
		}
		p, err := r.PolicyOf(ids)
		if err != nil {
			return nil, err
		}
		out[r.Workload] = &p
	}
	return out, nil
}

// InBulk takes what needs no look.
func InBulk(_ *analyzer.Recommendation, r *analyzer.Rule) bool { return r.Proposed == analyzer.Accept }

// Everything takes all that was learned.
func Everything(*analyzer.Recommendation, *analyzer.Rule) bool { return true }

// Reviewed takes what needs no look, and of the rest what somebody accepts who
// knows the application: rules of true edges.
func (w *World) Reviewed(rec *analyzer.Recommendation, r *analyzer.Rule) bool {
	if InBulk(rec, r) {
		return true
	}
	if r.Implied {
		return len(r.Rule.Ports) == 1 && r.Rule.Ports[0].Port == 53
	}
	return !slices.ContainsFunc(r.Evidence, func(e analyzer.Evidence) bool {
		return !slices.Contains(w.App.Edges, w.EdgeOf(rec.Workload, r.Direction, &e))
	})
}

// EdgeOf returns the edge that a piece of evidence is of.
func (w *World) EdgeOf(of flow.Workload, d flow.Direction, e *analyzer.Evidence) Edge {
	peer := e.Peer.Workload.Name
	if !e.Peer.IsWorkload() {
		peer = Node
		for name, a := range outsideOf {
			if a == e.Peer.Address {
				peer = name
			}
		}
	}
	out := Edge{of.Name, peer, Port{e.Protocol, e.Port}}
	if d == flow.Ingress {
		out.Client, out.Server = peer, of.Name
	}
	return out
}

// Flagged returns the edges whose rules wait for a person at either end.
func (w *World) Flagged(recs []*analyzer.Recommendation) map[Edge]bool {
	out := map[Edge]bool{}
	for _, rec := range recs {
		for i := range rec.Rules {
			if r := &rec.Rules[i]; !InBulk(rec, r) {
				for j := range r.Evidence {
					out[w.EdgeOf(rec.Workload, r.Direction, &r.Evidence[j])] = true
				}
			}
		}
	}
	return out
}
