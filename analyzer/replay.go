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
	v.unordered = true
	if v.workloads[p.Workload] == nil {
		return nil, fmt.Errorf("workload %s %w", p.Workload, ErrUnknownWorkload)
	}
	// For one policy it pays to ask once whom its selectors pick.
	judge := v.judgeOf(&p)
	judge.guard = judge.guard.Resolve(&p, v.everybody())
	return v.replay(ctx, judge)
}

// ReplayAll is Replay of several policies that reads the edges once.
func (a *Analyzer) ReplayAll(ctx context.Context, policies []policy.Policy, window Window) ([]*ReplayResult, error) {
	v, err := a.view(ctx, window)
	if err != nil {
		return nil, err
	}
	v.unordered = true
	if err := v.loadAll(ctx); err != nil {
		return nil, err
	}
	out := make([]*ReplayResult, len(policies))
	for i := range policies {
		if err := policies[i].Validate(); err != nil {
			return nil, err
		}
		if v.workloads[policies[i].Workload] == nil {
			return nil, fmt.Errorf("workload %s %w", policies[i].Workload, ErrUnknownWorkload)
		}
		if out[i], err = v.replay(ctx, v.judgeOf(&policies[i])); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (v *view) replay(ctx context.Context, judge *judge) (*ReplayResult, error) {
	r := &ReplayResult{Workload: judge.policy.Workload, Window: v.window, Denials: []Denial{}}
	unknown, err := v.eachSighting(ctx, judge.policy.Workload, func(s *sighting) {
		if s.forged && !s.here {
			return // the sender's own node drops it as forged
		}
		e, n := &s.edge, count(&s.edge)
		r.Judged += n
		r.JudgedEdges++
		j, partly := judge.of(s)
		if !j.Denied() {
			return
		}
		r.Denied += n
		r.DeniedEdges++
		r.Denials = append(r.Denials, Denial{
			Direction: s.direction, Source: e.Source, Destination: e.Destination, Protocol: e.Protocol, Port: e.Port,
			Reason: j.Reason, Connections: n, Answered: e.Answered, Packets: e.Forward.Packets + e.Reverse.Packets,
			FirstSeen: e.FirstSeen, LastSeen: e.LastSeen, Partly: partly,
		})
	})
	if err != nil {
		return nil, err
	}
	for i := range unknown {
		r.Unjudged += count(&unknown[i])
	}
	r.Denials = arranged(r.Denials, func(a, b *Denial) int {
		if c := cmp.Compare(b.Connections, a.Connections); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(a.Direction, b.Direction), compareParties(&a.Source, &b.Source), compareParties(&a.Destination, &b.Destination),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return r, nil
}

// isHost reports whether w is made of hosts. What reaches a host through its own
// interface comes from outside, even with an address of the host itself.
func (v *view) isHost(w flow.Workload) bool {
	known := v.workloads[w]
	return known != nil && len(known.Endpoints) > 0 &&
		!slices.ContainsFunc(known.Endpoints, func(e inventory.Endpoint) bool { return !e.Host })
}

// judge judges edges of one workload by one policy.
type judge struct {
	v         *view
	policy    *policy.Policy
	guard     policy.Evaluator
	host      bool
	addressed [3]bool // by direction: addresses are named
	// matched, when it is set, hears of every rule that matches, also twice.
	matched func(rule int)
}

func (v *view) judgeOf(p *policy.Policy) *judge {
	j := &judge{v: v, policy: p, guard: v.guard(p.Workload), host: v.isHost(p.Workload)}
	for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
		j.addressed[d] = policy.TellAddresses(j.guard.Guardrails, p.Rules(d))
	}
	return j
}

// of evaluates one edge. An edge between workloads holds no addresses, nor does
// one of a crowd, so a policy that names some is asked for each address of the
// peer: the edge is denied when any of them is.
func (j *judge) of(s *sighting) (out policy.Judgement, partly bool) {
	f := j.v.facts(s, s.peer().Address)
	f.Peer.Outside = j.host
	if !j.addressed[s.direction] {
		return j.evaluate(f), false
	}
	allowed, denied := 0, 0
	for _, a := range j.addresses(s) {
		if f.Peer.Addr = a; !s.peer().Prefix.IsValid() { // the names of one address are not those of a crowd
			f.Peer.Names = j.v.index.Names(a)
		}
		one := j.evaluate(f)
		if one.Denied() {
			denied++
			out = one
			continue
		}
		allowed++
		if denied == 0 {
			out = one
		}
	}
	if allowed+denied == 0 {
		return j.evaluate(f), false
	}
	return out, allowed > 0 && denied > 0
}

// addresses are those that the peer of s may have had, when they are not in s.
func (j *judge) addresses(s *sighting) (out []netip.Addr) {
	party := s.peer()
	if party.Prefix.IsValid() {
		return standIns(party.Prefix, j.guard.Guardrails, j.policy.Rules(s.direction))
	}
	if w := j.v.workloads[party.Workload]; w != nil {
		for i := range w.Endpoints {
			out = append(out, w.Endpoints[i].Addresses...)
		}
	}
	return out
}

func (j *judge) evaluate(f policy.Facts) policy.Judgement {
	if j.matched != nil {
		return j.guard.Matching(j.policy, f, j.matched)
	}
	return j.guard.Evaluate(j.policy, f)
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
	if len(v.guardrails) == 0 {
		return ""
	}
	guard, ok := v.guards[w]
	if !ok {
		everything := []policy.Rule{{}}
		guard = v.judgeOf(&policy.Policy{
			Workload: w, IsolateIngress: true, IsolateEgress: true, Ingress: everything, Egress: everything,
		})
		v.guards[w] = guard
	}
	j, _ := guard.of(s)
	return j.Guardrail
}
