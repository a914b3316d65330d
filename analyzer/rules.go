package analyzer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// learnedEdge is an edge that qualified, the peer a rule names for it, and what
// speaks against it.
type learnedEdge struct {
	*sighting
	peer  policy.Peer
	flags []Flag
}

// admission is one (peer, port) pair that a rule can admit, with every learned
// edge that it covers: two workloads with the same labels share one.
type admission struct {
	direction flow.Direction
	peer      policy.Peer
	peerKey   string
	port      policy.Port
	edges     []learnedEdge
	flags     []Flag
	also      []flow.Workload
}

// rules turns edges into the fewest rules that admit exactly them and can be
// understood: all accepted ports of one workload in one rule, addresses with the
// same ports together, and every flagged edge by itself.
func (v *view) rules(edges []learnedEdge) []Rule {
	admissions := v.admissions(edges)
	groups := map[string][]*admission{}
	portsOf := map[string]string{} // all accepted ports of a peer
	for i := range admissions {
		if a := &admissions[i]; len(a.flags) == 0 {
			portsOf[a.direction.String()+a.peerKey] += a.port.String() + ";"
		}
	}
	var order []string
	for i := range admissions {
		a := &admissions[i]
		key := fmt.Sprintf("flagged %d", i)
		if len(a.flags) == 0 {
			key = a.direction.String() + " " + a.peerKey
			if a.peer.CIDR != nil {
				key = a.direction.String() + " addresses " + portsOf[a.direction.String()+a.peerKey]
			}
		}
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], a)
	}
	out := []Rule{}
	for _, key := range order {
		out = append(out, rule(groups[key]))
	}
	out = append(out, impliedDNS(admissions)...)
	out = append(out, widened(admissions)...)
	slices.SortStableFunc(out, func(a, b Rule) int {
		return cmp.Or(
			cmp.Compare(a.Direction, b.Direction),
			strings.Compare(string(a.Proposed), string(b.Proposed)),
			strings.Compare(a.Sentence, b.Sentence),
		)
	})
	return out
}

// admissions groups edges by what a rule can tell apart, in the edges' order.
func (v *view) admissions(edges []learnedEdge) []admission {
	var out []admission
	index := map[string]int{}
	for _, e := range edges {
		a := admission{direction: e.direction, peer: e.peer, peerKey: keyOfPeer(e.peer), port: policy.PortOf(e.edge.Protocol, e.edge.Port)}
		key := a.direction.String() + a.peerKey + a.port.String()
		i, ok := index[key]
		if !ok {
			i = len(out)
			index[key] = i
			out = append(out, a)
		}
		out[i].edges = append(out[i].edges, e)
		for _, f := range e.flags {
			if !slices.Contains(out[i].flags, f) {
				out[i].flags = append(out[i].flags, f)
			}
		}
	}
	for i := range out {
		v.breadth(&out[i])
	}
	return out
}

// breadth flags a selector that picks workloads which were not seen to do the
// same.
func (v *view) breadth(a *admission) {
	seen := map[flow.Workload]bool{}
	for _, e := range a.edges {
		seen[e.sighting.peer().Workload] = true
	}
	for _, e := range a.edges {
		for _, w := range v.selectorOf(e.sighting.peer().Workload).also {
			if a.peer.Selector != nil && !seen[w] {
				seen[w] = true
				a.also = append(a.also, w)
			}
		}
	}
	if len(a.also) > 0 {
		a.flags = append(a.flags, Flag{Code: FlagBroad, Reason: "the labels also select " + names(a.also)})
	}
}

func rule(admissions []*admission) Rule {
	d := admissions[0].direction
	r := Rule{Direction: d, Proposed: Accept, Flags: []Flag{}, AlsoAdmits: []string{}, AlsoSelects: []flow.Workload{}, MayAdmit: []string{}, Evidence: []Evidence{}}
	for _, a := range admissions {
		r.Rule.Ports = append(r.Rule.Ports, a.port)
		for _, f := range a.flags {
			if !slices.Contains(r.Flags, f) {
				r.Flags = append(r.Flags, f)
			}
		}
		for _, also := range a.also {
			if !slices.Contains(r.AlsoSelects, also) {
				r.AlsoSelects = append(r.AlsoSelects, also)
			}
			r.AlsoAdmits = append(r.AlsoAdmits, fmt.Sprintf("%s on %s, whose labels match too", also, a.port))
		}
		for i := range a.edges {
			e := &a.edges[i]
			if seen := e.crowd(); seen > 0 {
				r.AlsoAdmits = append(r.AlsoAdmits, unseen(e.sighting.peer().Prefix, seen, a.port))
			}
			r.Evidence = append(r.Evidence, e.evidence())
		}
	}
	r.Rule.Peers = peersOf(admissions)
	r.MayAdmit = mayAdmit(r.Rule.Peers)
	if len(r.Flags) > 0 {
		r.Proposed = Review
	}
	r.finish()
	return r
}

// mayAdmit says in words who else the peers may come to mean: labels, names and
// nodes are others' to give.
func mayAdmit(peers []policy.Peer) []string {
	out := []string{}
	for _, p := range peers {
		switch {
		case p.Selector != nil && (p.Selector.Namespace == "" || len(p.Selector.MatchLabels) == 0 || len(p.Selector.MatchExpressions) > 0):
			out = append(out, "any later one of the "+p.Selector.String()) // which no recommendation has
		case p.Selector != nil:
			labels := policy.LabelSelector{MatchLabels: p.Selector.MatchLabels}
			out = append(out, fmt.Sprintf("any later workload in %s with %s", p.Selector.Namespace, &labels))
		case p.FQDN != "":
			out = append(out, "whatever addresses "+p.FQDN+" will have")
		case p.Reserved == flow.IdentityHost.ReservedName():
			out = append(out, "every process of the node that the endpoint is on")
		case p.Reserved == flow.IdentityRemoteNode.ReservedName():
			out = append(out, "every process of every other node, later ones included")
		}
	}
	return out
}

// finish writes the rule canonically and in words.
func (r *Rule) finish() {
	one := policy.Policy{Ingress: []policy.Rule{r.Rule}}
	if r.Direction == flow.Egress {
		one = policy.Policy{Egress: []policy.Rule{r.Rule}}
	}
	one = policy.Normalize(one)
	r.Rule = one.Rules(r.Direction)[0]
	r.Sentence = policy.Sentence(r.Rule, r.Direction)
}

// impliedDNS adds the other transport of every resolver seen: an answer that
// does not fit into a datagram is asked for again over TCP. What follows from
// accepted edges is one rule a direction.
func impliedDNS(admissions []admission) []Rule {
	over := policy.Port{Protocol: flow.TCP, Port: 53}
	have := map[string]bool{}
	for i := range admissions {
		a := &admissions[i]
		have[a.direction.String()+a.peerKey+a.port.String()] = true
	}
	var out []Rule
	accepted := map[flow.Direction]int{}
	for i := range admissions {
		a := &admissions[i]
		if a.port.Port != 53 || a.port.Protocol != flow.UDP || have[a.direction.String()+a.peerKey+over.String()] {
			continue
		}
		proposed := Accept
		if len(a.flags) > 0 {
			proposed = Review
		}
		if at, ok := accepted[a.direction]; ok && proposed == Accept {
			out[at].Rule.Peers = append(out[at].Rule.Peers, a.peer)
			continue
		}
		if proposed == Accept {
			accepted[a.direction] = len(out)
		}
		out = append(out, Rule{
			Rule: policy.Rule{Peers: []policy.Peer{a.peer}, Ports: []policy.Port{over}}, Direction: a.direction,
			Proposed: proposed, Implied: true, Evidence: []Evidence{}, AlsoSelects: []flow.Workload{},
			Flags:      []Flag{{Code: FlagImplied, Reason: "not observed: DNS over UDP was, and falls back to TCP when an answer is too long"}},
			AlsoAdmits: []string{over.String() + ", which was not observed"},
		})
	}
	for i := range out {
		out[i].MayAdmit = mayAdmit(out[i].Rule.Peers)
		out[i].finish()
	}
	return out
}

func keyOfPeer(p policy.Peer) string {
	b, err := json.Marshal(p)
	if err != nil {
		panic("analyzer: marshal peer: " + err.Error()) // a peer is plain data
	}
	return string(b)
}

func names(workloads []flow.Workload) string {
	out := make([]string, len(workloads))
	for i, w := range workloads {
		out[i] = w.String()
	}
	return strings.Join(out, ", ")
}
