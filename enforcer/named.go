package enforcer

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rollout"
)

// scope is what the names in a policy are looked up in: ports by the endpoints
// that serve them, DNS names by the addresses that they were seen to have, ports of
// services by what is behind them.
type scope struct {
	index *inventory.Index
	node  string
	ends  map[inventory.Destination][]policy.Facts // see inventory.Index.AllEnds
}

func newScope(inv inventory.Inventory, node string) scope {
	x := inventory.NewIndex(inv)
	return scope{index: x, node: node, ends: x.AllEnds(node)}
}

// single is the prefix of one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()) }

// targets are peers, and a port by its number.
type targets struct {
	peers []policy.Peer
	port  policy.Port
	whole []*inventory.Workload // admitted with all of their addresses
}

// egress returns what a named port of a rule with these peers means. Workloads
// of which every endpoint has the name with one number, and every address is
// admitted, come whole; of others the addresses do.
func (s scope) egress(peers []policy.Peer, p policy.Port) []targets {
	asked := policy.Policy{IsolateEgress: true, Egress: []policy.Rule{{Peers: peers}}}
	found := map[uint16]*targets{}
	inv := s.index.Inventory()
	for i := range inv.Workloads {
		w := &inv.Workloads[i]
		admitted, addresses := map[uint16][]policy.Peer{}, 0
		for _, e := range w.Endpoints {
			number := policy.NumberOf(e.Ports, p.Name, p.Protocol)
			for _, a := range e.Addresses {
				addresses++
				if number != 0 && policy.Evaluate(&asked, policy.Facts{Direction: flow.Egress, Peer: s.index.Peer(a, s.node)}).Allowed() {
					admitted[number] = append(admitted[number], policy.Peer{CIDR: &policy.CIDR{Prefix: single(a)}})
				}
			}
		}
		for number, list := range admitted {
			t := found[number]
			if t == nil {
				t = &targets{port: policy.Port{Protocol: p.Protocol, Port: number}}
				found[number] = t
			}
			if len(list) == addresses {
				t.whole = append(t.whole, w)
			} else {
				t.peers = append(t.peers, list...)
			}
		}
	}
	out := make([]targets, 0, len(found))
	for _, t := range found {
		out = append(out, *t)
	}
	return out
}

// ingress returns the numbers that a named port has at the workload's endpoints
// on this node. They share one table: where they disagree it holds each number.
func (s scope) ingress(w *inventory.Workload, p policy.Port) []policy.Port {
	var out []policy.Port
	for _, e := range w.Endpoints {
		number := policy.NumberOf(e.Ports, p.Name, p.Protocol)
		if e.Node == s.node && number != 0 && !slices.ContainsFunc(out, func(q policy.Port) bool { return q.Port == number }) {
			out = append(out, policy.Port{Protocol: p.Protocol, Port: number})
		}
	}
	return out
}

// agreed reports whether the workload's endpoints on this node have one number
// under p's name, or all of them none.
func (s scope) agreed(w *inventory.Workload, p policy.Port) bool {
	first := -1
	for _, e := range w.Endpoints {
		if e.Node != s.node {
			continue
		}
		number := int(policy.NumberOf(e.Ports, p.Name, p.Protocol))
		if first >= 0 && number != first {
			return false
		}
		first = number
	}
	return true
}

// mention adds the addresses that stand in a rule's place of names.
func (s scope) mention(set map[netip.Prefix]bool, d flow.Direction, r *policy.Rule) {
	for _, p := range r.Peers {
		if p.FQDN == "" {
			continue
		}
		for _, a := range s.index.Resolve(p.FQDN) {
			set[single(a)] = true
		}
	}
	for _, p := range r.Ports {
		if p.Name == "" || d != flow.Egress {
			continue
		}
		for _, t := range s.egress(r.Peers, p) {
			mentionPeers(set, t.peers)
		}
	}
}

// unresolved says which names of a revision this node cannot make good on.
func (s scope) unresolved(ref flow.Workload, r *rollout.Revision) (why []string) {
	w := s.index.Workload(ref)
	for _, d := range directions {
		if !r.Policy.Isolates(d) {
			continue
		}
		for i, rule := range r.Policy.Rules(d) {
			for _, p := range rule.Peers {
				if p.FQDN != "" && len(s.index.Resolve(p.FQDN)) == 0 {
					why = append(why, fmt.Sprintf("allows %s (%s rule %d), of which no address is known: it has to be looked up by a watched workload, or listed in the inventory", p.FQDN, d, i+1))
				}
			}
			for _, p := range rule.Ports {
				if p.Name != "" && d == flow.Ingress && !s.agreed(w, p) {
					why = append(why, fmt.Sprintf("allows %s (%s rule %d), which is not the same number at all endpoints on this node", p, d, i+1))
				}
			}
		}
	}
	return why
}
