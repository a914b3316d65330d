package analyzer

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
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
	if len(policies) > 0 && slices.ContainsFunc(policies, func(p policy.Policy) bool { return p.Workload != policies[0].Workload }) {
		if err := v.loadAll(ctx); err != nil {
			return nil, err
		}
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

// shareOf is how many edges are worth a goroutine of their own.
const shareOf = 10_000

func (v *view) replay(ctx context.Context, judge *judge) (*ReplayResult, error) {
	g, unknown, err := v.grouped(ctx, judge.policy.Workload)
	if err != nil {
		return nil, err
	}
	shares := make([]verdicts, min(len(g.last)/shareOf+1, runtime.GOMAXPROCS(0)))
	var wg sync.WaitGroup
	for i := range shares {
		wg.Go(func() { shares[i].judge(judge, g, i*len(g.last)/len(shares), (i+1)*len(g.last)/len(shares)) })
	}
	wg.Wait()
	all := shares[0]
	for i := range shares[1:] {
		all.merge(&shares[i+1])
	}
	r := &ReplayResult{
		Workload: judge.policy.Workload, Window: v.window, Judged: all.judged, Denied: all.denied,
		JudgedEdges: all.edges, DeniedEdges: len(all.denials), Denials: make([]Denial, len(all.denials)),
	}
	for i := range all.denials {
		all.denials[i].fill(&r.Denials[i])
	}
	for _, e := range unknown {
		r.Unjudged += count(e)
	}
	return r, nil
}

// verdicts are what a policy says of some edges.
type verdicts struct {
	judged, denied uint64 // connections
	edges          int
	denials        []denied // in order
}

// judge judges the groups from one up to another.
func (r *verdicts) judge(by *judge, g *groups, from, to int) {
	for i := from; i < to; i++ {
		s := g.sighting(i)
		if s.forged && !s.here {
			continue // the sender's own node drops it as forged
		}
		n := count(s.edge)
		r.judged += n
		r.edges++
		if j, partly := by.of(&s); j.Denied() {
			r.denied += n
			r.denials = append(r.denials, denied{n, s.edge, s.direction, j.Reason, partly})
		}
	}
	slices.SortFunc(r.denials, denied.compare)
}

// merge adds other's.
func (r *verdicts) merge(other *verdicts) {
	r.judged, r.denied, r.edges = r.judged+other.judged, r.denied+other.denied, r.edges+other.edges
	a, b := r.denials, other.denials
	out := make([]denied, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		next := &a
		if b[0].compare(a[0]) < 0 {
			next = &b
		}
		out, *next = append(out, (*next)[0]), (*next)[1:]
	}
	r.denials = append(append(out, a...), b...)
}

// denied is a Denial before it is written out.
type denied struct {
	connections uint64
	edge        *flow.Edge
	direction   flow.Direction
	reason      flow.Reason
	partly      bool
}

// compare puts those with the most connections first.
func (d denied) compare(other denied) int {
	if c := cmp.Compare(other.connections, d.connections); c != 0 {
		return c
	}
	if c := cmp.Compare(d.direction, other.direction); c != 0 {
		return c
	}
	a, b := d.edge, other.edge
	if c := compareParties(&a.Source, &b.Source); c != 0 {
		return c
	}
	if c := compareParties(&a.Destination, &b.Destination); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

func (d *denied) fill(out *Denial) {
	e := d.edge
	*out = Denial{
		Direction: d.direction, Source: e.Source, Destination: e.Destination, Protocol: e.Protocol, Port: e.Port,
		Reason: d.reason, Connections: d.connections, Answered: e.Answered, Packets: e.Forward.Packets + e.Reverse.Packets,
		FirstSeen: e.FirstSeen, LastSeen: e.LastSeen, Partly: d.partly,
	}
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
	guard, _ := v.guards.of(w, func() (*judge, error) {
		everything := []policy.Rule{{}}
		return v.judgeOf(&policy.Policy{
			Workload: w, IsolateIngress: true, IsolateEgress: true, Ingress: everything, Egress: everything,
		}), nil
	})
	j, _ := guard.of(s)
	return j.Guardrail
}
