package analyzer

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// ReplayResult is what a policy would have done to stored history.
type ReplayResult struct {
	Workload flow.Workload `json:"workload"`
	Window   Window        `json:"window"`
	// Judged and Denied count connections; an edge seen at both ends counts once.
	Judged      uint64 `json:"judged"`
	Denied      uint64 `json:"denied"`
	JudgedEdges int    `json:"judgedEdges"`
	DeniedEdges int    `json:"deniedEdges"`
	// Unjudged counts connections whose direction is not known.
	Unjudged uint64   `json:"unjudged"`
	Denials  []Denial `json:"denials"`
}

// Denial is one edge that the policy would have denied.
type Denial struct {
	Direction   flow.Direction `json:"direction"`
	Source      flow.Party     `json:"source"`
	Destination flow.Party     `json:"destination"`
	Protocol    flow.Protocol  `json:"protocol"`
	Port        uint16         `json:"port"`
	Reason      flow.Reason    `json:"reason"`
	Connections uint64         `json:"connections"`
	// Answered is 0 for attempts that nobody answered then either.
	Answered  uint64    `json:"answered"`
	Packets   uint64    `json:"packets"`
	FirstSeen time.Time `json:"firstSeen"`
	LastSeen  time.Time `json:"lastSeen"`
	// Partly: the policy allows some of the peer's addresses and not others.
	Partly bool `json:"partly,omitempty"`
}

// Replay judges every stored edge of p's workload in the window by p. Denials
// are ordered by connections, most first.
func (a *Analyzer) Replay(ctx context.Context, p policy.Policy, window Window) (*ReplayResult, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	v, err := a.view(ctx, window)
	if err != nil {
		return nil, err
	}
	if v.workloads[p.Workload] == nil {
		return nil, fmt.Errorf("workload %s %w", p.Workload, ErrUnknownWorkload)
	}
	seen, unknown, err := v.sightings(ctx, p.Workload)
	if err != nil {
		return nil, err
	}
	guard := v.guard(p.Workload).Resolve(&p, v.everybody())
	r := &ReplayResult{Workload: p.Workload, Window: window, Denials: []Denial{}}
	for i := range unknown {
		r.Unjudged += count(&unknown[i])
	}
	for i := range seen {
		s := &seen[i]
		if s.forged && !s.here {
			continue // the sender's own node drops it as forged
		}
		n := count(&s.edge)
		r.Judged += n
		r.JudgedEdges++
		j, partly := v.judgeBy(guard, &p, s)
		if !j.Denied() {
			continue
		}
		r.Denied += n
		r.DeniedEdges++
		e := &s.edge
		r.Denials = append(r.Denials, Denial{
			Direction: s.direction, Source: e.Source, Destination: e.Destination, Protocol: e.Protocol, Port: e.Port,
			Reason: j.Reason, Connections: n, Answered: e.Answered, Packets: e.Forward.Packets + e.Reverse.Packets,
			FirstSeen: e.FirstSeen, LastSeen: e.LastSeen, Partly: partly,
		})
	}
	slices.SortStableFunc(r.Denials, func(a, b Denial) int { return cmp.Compare(b.Connections, a.Connections) })
	return r, nil
}

// isHost reports whether w is made of hosts. What reaches a host through its own
// interface comes from outside, even with an address of the host itself.
func (v *view) isHost(w flow.Workload) bool {
	known := v.workloads[w]
	return known != nil && len(known.Endpoints) > 0 &&
		!slices.ContainsFunc(known.Endpoints, func(e inventory.Endpoint) bool { return !e.Host })
}

// judge evaluates one edge by p and what holds beside it, see judgeBy.
func (v *view) judge(p *policy.Policy, s *sighting) (j policy.Judgement, partly bool) {
	return v.judgeBy(v.guard(p.Workload), p, s)
}

// judgeBy evaluates one edge by guard, which is of p's workload. An edge between workloads holds no addresses, so a
// policy that names some is asked for each address of the peer: the edge is
// denied when any of them is.
func (v *view) judgeBy(guard policy.Evaluator, p *policy.Policy, s *sighting) (j policy.Judgement, partly bool) {
	party := s.peer()
	facts := func(a netip.Addr) policy.Facts {
		f := v.facts(s, a)
		f.Peer.Outside, f.Peer.Names = v.isHost(p.Workload), v.names[a.Unmap()]
		return f
	}
	if !party.IsWorkload() || !policy.TellAddresses(guard.Guardrails, p.Rules(s.direction)) {
		return guard.Evaluate(p, facts(party.Address)), false
	}
	var addrs []netip.Addr
	if w := v.workloads[party.Workload]; w != nil {
		for _, e := range w.Endpoints {
			addrs = append(addrs, e.Addresses...)
		}
	}
	if len(addrs) == 0 {
		return guard.Evaluate(p, facts(netip.Addr{})), false
	}
	allowed, denied := 0, 0
	for _, a := range addrs {
		one := guard.Evaluate(p, facts(a))
		if one.Denied() {
			denied++
			j = one
			continue
		}
		allowed++
		if denied == 0 {
			j = one
		}
	}
	return j, allowed > 0 && denied > 0
}

// guard returns what judges flows of w beside its policy.
func (v *view) guard(w flow.Workload) policy.Evaluator {
	known := v.workloads[w]
	if known == nil {
		return policy.Evaluator{}
	}
	return policy.Evaluator{Guardrails: policy.Governing(v.guardrails, v.factsOf(known)), Own: known.NamedPorts()}
}

// everybody returns what selectors ask of each workload.
func (v *view) everybody() []policy.PeerFacts {
	out := make([]policy.PeerFacts, 0, len(v.order))
	for _, w := range v.order {
		out = append(out, v.factsOf(v.workloads[w]))
	}
	return out
}

// guardrailOf returns the name of the guardrail that denies an edge of w, also
// if it denies only some of the peer's addresses.
func (v *view) guardrailOf(w flow.Workload, s *sighting) string {
	everything := []policy.Rule{{}}
	j, _ := v.judge(&policy.Policy{
		Workload: w, IsolateIngress: true, IsolateEgress: true, Ingress: everything, Egress: everything,
	}, s)
	return j.Guardrail
}
