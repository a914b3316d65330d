package policy

import (
	"math/bits"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
)

// lists are those that a selector can stand in: ingress rules, egress rules and
// guardrails.
const (
	listIngress = iota
	listEgress
	listGuardrails
	lists
)

// resolution knows whose selectors pick whom, so that a judgement compares no
// labels.
type resolution struct {
	policy *Policy
	picks  map[flow.Workload]*picks
	others [lists][][]Peer // of each rule, the peers that are no selectors
	open   picks           // rules that have such peers, or none at all
}

// picks says of one workload, for each list, which rules have a selector that
// picks it: a bit for each.
type picks [lists][]uint64

func (p *picks) has(list, i int) bool { return p.word(list, i/64)&(1<<(i%64)) != 0 }

func (p *picks) word(list, n int) uint64 {
	if n < len(p[list]) {
		return p[list][n]
	}
	return 0
}

// add sets a bit, of so many rules.
func (p *picks) add(list, i, rules int) {
	if p[list] == nil {
		p[list] = make([]uint64, (rules+63)/64)
	}
	p[list][i/64] |= 1 << (i % 64)
}

// nobody is picked by no selector, as a peer that is no workload.
var nobody picks

// Resolve returns an evaluator that judges as e does, and faster by p, about the
// given workloads: which rules select them is worked out here, once. Of their
// facts Workload, Labels and NamespaceLabels are looked at; those of a judged
// flow must not say otherwise. Other policies and workloads are judged as
// before. Neither p nor the guardrails may change afterwards.
func (e Evaluator) Resolve(p *Policy, workloads []PeerFacts) Evaluator {
	r := &resolution{policy: p, picks: make(map[flow.Workload]*picks, len(workloads))}
	peers := [lists][][]Peer{}
	if p != nil {
		peers[listIngress], peers[listEgress] = peersOf(p.Ingress), peersOf(p.Egress)
	}
	for i := range e.Guardrails {
		peers[listGuardrails] = append(peers[listGuardrails], e.Guardrails[i].Peers)
	}
	for list := range peers {
		for i, of := range peers[list] {
			others := slices.DeleteFunc(slices.Clone(of), func(p Peer) bool { return p.Selector != nil })
			r.others[list] = append(r.others[list], others)
			if len(of) == 0 || len(others) > 0 {
				r.open.add(list, i, len(peers[list]))
			}
		}
	}
	for i := range workloads {
		w := &workloads[i]
		if w.Workload.IsZero() {
			continue
		}
		found := &picks{}
		for list := range peers {
			for j, of := range peers[list] {
				if slices.ContainsFunc(of, func(p Peer) bool { return p.Selector != nil && p.Selector.matches(w) == hit }) {
					found.add(list, j, len(peers[list]))
				}
			}
		}
		r.picks[w.Workload] = found
	}
	e.resolved = r
	return e
}

func peersOf(rules []Rule) [][]Peer {
	out := make([][]Peer, len(rules))
	for i := range rules {
		out[i] = rules[i].Peers
	}
	return out
}

// picked returns what is known of the flow's peer under p, or nil.
func (e *Evaluator) picked(p *Policy, f *Facts) *picks {
	switch {
	case e.resolved == nil || e.resolved.policy != p:
		return nil
	case f.Peer.Reserved != flow.IdentityUnknown || f.Peer.Workload.IsZero():
		return &nobody
	}
	return e.resolved.picks[f.Peer.Workload]
}

// Meant appends to rules, in words of 64 bits, which of p's rules of direction d
// have a peer that is the given one. Peers of which they are the same are judged
// alike on every port, unless guardrails, or the ports' names, tell them apart.
func (e Evaluator) Meant(p *Policy, d flow.Direction, peer *PeerFacts, rules []uint64) []uint64 {
	f := Facts{Direction: d, Peer: *peer}
	picked, list, of := e.picked(p, &f), listIngress, p.Rules(d)
	if d == flow.Egress {
		list = listEgress
	}
	first := len(rules)
	rules = append(rules, make([]uint64, (len(of)+63)/64)...)
	for i := e.candidate(picked, list, 0); i < len(of); i = e.candidate(picked, list, i+1) {
		if e.anyPeer(picked, list, i, of[i].Peers, &f) {
			rules[first+i/64] |= 1 << (i % 64)
		}
	}
	return rules
}

// candidate returns the first of a list's rules, from one on, that may mean the
// flow's peer; a number beyond them when none may.
func (e *Evaluator) candidate(of *picks, list, from int) int {
	if of == nil {
		return from
	}
	rules := len(e.resolved.others[list])
	for n := from / 64; n*64 < rules; n++ {
		word := of.word(list, n) | e.resolved.open.word(list, n)
		if n == from/64 {
			word &= ^uint64(0) << (from % 64)
		}
		if word != 0 {
			return n*64 + bits.TrailingZeros64(word)
		}
	}
	return rules
}

// anyPeer reports whether one of peers, those of a list's rule i, is the flow's.
func (e *Evaluator) anyPeer(of *picks, list, i int, peers []Peer, f *Facts) bool {
	switch {
	case of == nil || len(peers) == 0:
		return anyPeer(peers, f)
	case of.has(list, i):
		return true
	}
	rest := e.resolved.others[list][i]
	return len(rest) > 0 && anyPeer(rest, f)
}
