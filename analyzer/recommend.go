package analyzer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// recommend learns the rules of one workload.
func (v *view) recommend(ctx context.Context, w flow.Workload) (*Recommendation, error) {
	if s := v.selectorOf(w); s.err != nil {
		return nil, s.err
	}
	r := v.empty(w)
	learned, err := v.learn(ctx, w, r)
	if err != nil {
		return nil, err
	}
	if err := v.measure(ctx, r, learned); err != nil {
		return nil, err
	}
	return r, nil
}

// learn fills in r's rules, what was left out and the candidate.
func (v *view) learn(ctx context.Context, w flow.Workload, r *Recommendation) ([]learnedEdge, error) {
	q, err := v.qualified(ctx, w, nil)
	if err != nil {
		return nil, err
	}
	r.Excluded = append(r.Excluded, q.excluded...)
	r.Rules = v.rules(q.learned)
	v.conclude(r, q.failsafe)
	return q.learned, nil
}

// qualification is what came of a workload's edges.
type qualification struct {
	learned  []learnedEdge
	excluded []Excluded
	failsafe map[flow.Direction]bool // failsafe traffic was seen
}

// qualified decides which edges of w may be learned, and what speaks against
// each. With a baseline they are those that it does not admit.
func (v *view) qualified(ctx context.Context, w flow.Workload, base *baseline) (*qualification, error) {
	seen, unknown, err := v.sightings(ctx, w)
	if err != nil {
		return nil, err
	}
	q := &qualification{excluded: excludeUnknown(unknown), failsafe: map[flow.Direction]bool{}}
	base.doubt(unknown)
	forgeries := forgedSources(seen)
	for i := range seen {
		s := &seen[i]
		if base.admits(s) {
			continue
		}
		peer, exclude := v.qualify(w, s, forgeries)
		if exclude != nil && base.wants(exclude, s) {
			peer, exclude = v.namedPeer(s)
		}
		if exclude != nil {
			q.failsafe[s.direction] = q.failsafe[s.direction] || exclude.Code == ExcludedFailsafe
			q.excluded = append(q.excluded, *exclude)
			continue
		}
		flags, err := v.flags(ctx, w, s)
		if err != nil {
			return nil, err
		}
		q.learned = append(q.learned, learnedEdge{sighting: s, peer: peer, flags: append(flags, base.flags(s)...)})
	}
	return q, nil
}

// empty returns a recommendation that has learned nothing yet.
func (v *view) empty(w flow.Workload) *Recommendation {
	return &Recommendation{
		Workload: w, Window: v.window, Coverage: v.coverageOf(w),
		Ingress: directionState(nil, flow.Ingress, false), Egress: directionState(nil, flow.Egress, false),
		Rules: []Rule{}, Excluded: []Excluded{}, Notes: []string{},
	}
}

// conclude derives the candidate from the rules.
func (v *view) conclude(r *Recommendation, failsafe map[flow.Direction]bool) {
	var accepted []string
	for i := range r.Rules {
		if r.Rules[i].Proposed == Accept {
			accepted = append(accepted, r.Rules[i].Rule.ID)
		}
	}
	r.Ingress = directionState(r.Rules, flow.Ingress, failsafe[flow.Ingress])
	r.Egress = directionState(r.Rules, flow.Egress, failsafe[flow.Egress])
	r.Notes = append(r.Notes, manyAddresses(r.Rules)...)
	switch {
	case len(accepted) > 0:
		p, err := r.PolicyOf(accepted)
		if err != nil {
			panic("analyzer: " + err.Error()) // the IDs are those of r's own rules
		}
		r.Policy = &p
	case len(r.Rules) > 0:
		r.NoPolicy = "every learned rule is flagged; a person has to accept the right ones first"
	case len(r.Excluded) > 0:
		r.NoPolicy = fmt.Sprintf("nothing that was seen can be learned; %s left out", number(len(r.Excluded), "edge"))
	default:
		r.NoPolicy = "no traffic was observed in this window"
	}
	if len(r.Rules) == 0 {
		r.Coverage.Missing = append(r.Coverage.Missing, r.NoPolicy)
		r.Coverage.Ready = false
	}
}

func directionState(rules []Rule, d flow.Direction, failsafe bool) DirectionState {
	learned, accepted := 0, 0
	for i := range rules {
		if rules[i].Direction != d || rules[i].Implied {
			continue
		}
		learned++
		if rules[i].Proposed == Accept {
			accepted++
		}
	}
	s := DirectionState{Observed: learned > 0, Isolated: accepted > 0}
	switch {
	case accepted > 0:
		s.Words = fmt.Sprintf("%s: %s to accept, %d to review", d, number(accepted, "rule"), learned-accepted)
	case learned > 0:
		s.Words = fmt.Sprintf("%s: only flagged edges were seen, so it is not isolated unless a person accepts one", d)
	case failsafe:
		s.Words = fmt.Sprintf("%s: only failsafe traffic was seen, so it is not isolated", d)
	default:
		s.Words = fmt.Sprintf("%s: not observed, so it is not isolated", d)
	}
	return s
}

// qualify decides whether an edge of w may be learned, and as which peer.
func (v *view) qualify(w flow.Workload, s *sighting, forgeries map[service]bool) (policy.Peer, *Excluded) {
	e := s.edge
	exclude := func(code, format string, args ...any) (policy.Peer, *Excluded) {
		return policy.Peer{}, s.excluded(code, format, args...)
	}
	switch {
	case policy.Failsafe(v.facts(s, s.peer().Address)):
		return exclude(ExcludedFailsafe, "covered by failsafe: it is never denied, so it needs no rule")
	case s.forged || v.forgedAs(s, forgeries):
		return exclude(ExcludedSpoofed, "spoofed: an observed endpoint sent it from an address that is not its own")
	case v.guardrailOf(w, s) != "":
		return exclude(ExcludedGuardrail, "guardrail %s denies it, which no rule can allow", v.guardrailOf(w, s))
	case e.Answered == 0 && e.DeniedLive > 0:
		return exclude(ExcludedUnanswered, "never answered: %s, %d denied by the live policy", number(e.Connections, "attempt"), e.DeniedLive)
	case e.Answered == 0:
		return exclude(ExcludedUnanswered, "never answered: %s", number(e.Connections, "attempt"))
	case refused(e):
		return exclude(ExcludedRefused, "refused: none of %s was completed", number(e.Connections, "attempt"))
	}
	return v.namedPeer(s)
}

// namedPeer returns the peer that a rule names for an edge.
func (v *view) namedPeer(s *sighting) (policy.Peer, *Excluded) {
	party := s.peer()
	if !party.IsWorkload() {
		if peer, ok := v.addressPeer(s.direction, *party); ok {
			return peer, nil
		}
		return policy.Peer{}, s.excluded(ExcludedUnknown, "the peer's address is not known")
	}
	sel := v.selectorOf(party.Workload)
	switch {
	case errors.Is(sel.err, ErrNoLabels):
		return policy.Peer{}, s.excluded(ExcludedNoLabels, "no rule can name the peer: %v", sel.err)
	case sel.err != nil:
		return policy.Peer{}, s.excluded(ExcludedUnknown, "no rule can name the peer: %v", sel.err)
	}
	return sel.peer, nil
}

// excluded says why an edge is not learned.
func (s *sighting) excluded(code, format string, args ...any) *Excluded {
	e := s.edge
	return &Excluded{
		Direction: s.direction, Source: e.Source, Destination: e.Destination,
		Protocol: e.Protocol, Port: e.Port, Connections: e.Connections,
		Code: code, Reason: fmt.Sprintf(format, args...),
	}
}

// forgedSources collects the addresses that endpoints forged, with what they
// tried to reach.
func forgedSources(seen []sighting) map[service]bool {
	out := map[service]bool{}
	for i := range seen {
		if s := &seen[i]; s.forged {
			out[forgery(s, *s.peer())] = true
		}
	}
	return out
}

func forgery(s *sighting, p flow.Party) service {
	return service{flow.Party{Address: p.Address, Prefix: p.Prefix}, s.edge.Protocol, s.edge.Port}
}

// forgedAs reports whether s is what its receiver saw of a forgery: the address
// is one that was forged, and its true owner's agent saw nothing.
func (v *view) forgedAs(s *sighting, forgeries map[service]bool) bool {
	party := s.peer()
	if len(forgeries) == 0 || s.atPeer {
		return false
	}
	if !party.IsWorkload() {
		return forgeries[forgery(s, *party)]
	}
	w := v.workloads[party.Workload]
	return w != nil && slices.ContainsFunc(w.Endpoints, func(e inventory.Endpoint) bool {
		return slices.ContainsFunc(e.Addresses, func(a netip.Addr) bool { return forgeries[forgery(s, flow.Party{Address: a})] })
	})
}

// facts are what the evaluator has to know of an edge whose peer has the address
// addr.
func (v *view) facts(s *sighting, addr netip.Addr) policy.Facts {
	party := s.peer()
	f := policy.Facts{
		Direction: s.direction, Protocol: s.edge.Protocol, Port: s.edge.Port,
		Peer: policy.PeerFacts{Addr: addr, Workload: party.Workload},
	}
	if w := v.workloads[party.Workload]; w != nil {
		f.Peer = v.factsOf(w)
		f.Peer.Addr, f.Peer.Named = addr, w.NamedPorts()
	}
	if !party.IsWorkload() {
		f.Peer.Reserved, f.Peer.Names = flow.IdentityWorld, v.index.Names(addr)
		if id, err := flow.ReservedIdentity(party.Reserved); err == nil {
			f.Peer.Reserved = id
		}
	}
	return f
}

// factsOf returns what selectors ask of a workload.
func (v *view) factsOf(w *inventory.Workload) policy.PeerFacts {
	return policy.PeerFacts{Workload: w.Ref(), Labels: w.Labels, NamespaceLabels: v.namespaces[w.Namespace]}
}

// excludeUnknown lists edges without a proven direction, those between the same
// ends as one: most of their ports are ephemeral.
func excludeUnknown(edges []*flow.Edge) []Excluded {
	type ends struct {
		source, dest flow.Party
		protocol     flow.Protocol
	}
	var out []Excluded
	index := map[ends]int{}
	ports := map[ends]int{}
	for _, e := range edges {
		k := ends{e.Source, e.Destination, e.Protocol}
		at, ok := index[k]
		if !ok {
			at = len(out)
			index[k] = at
			out = append(out, Excluded{
				Direction: flow.DirectionUnknown, Source: e.Source, Destination: e.Destination,
				Protocol: e.Protocol, Port: e.Port, Code: ExcludedDirection,
			})
		}
		ports[k]++
		out[at].Connections += e.Connections
		if ports[k] > 1 {
			out[at].Port = 0
		}
		out[at].Reason = fmt.Sprintf("direction unknown: picked up in the middle, and no other flow shows who listens on %s", number(ports[k], "port"))
	}
	return out
}

// manyAddresses remarks on services whose clients are a crowd.
func manyAddresses(rules []Rule) []string {
	const crowd = 20
	type port struct {
		direction flow.Direction
		protocol  flow.Protocol
		port      uint16
	}
	peers := map[port]int{}
	var order []port
	for i := range rules {
		for _, e := range rules[i].Evidence {
			if e.Peer.IsWorkload() {
				continue
			}
			k := port{rules[i].Direction, e.Protocol, e.Port}
			if peers[k] == 0 {
				order = append(order, k)
			}
			peers[k]++
		}
	}
	var notes []string
	for _, k := range order {
		if peers[k] > crowd {
			notes = append(notes, fmt.Sprintf("%s: %d addresses outside the inventory use %s %d; if it is meant for anyone, allow a prefix or the reserved peer world instead",
				k.direction, peers[k], k.protocol, k.port))
		}
	}
	slices.Sort(notes)
	return notes
}
