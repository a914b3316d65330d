package analyzer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Check is how a reviewed policy stands to what was observed in a window, and
// the next revision that follows from it.
type Check struct {
	Workload flow.Workload `json:"workload"`
	Window   Window        `json:"window"`
	// Rules are those of the policy, to keep or to remove, each with what it
	// admitted, and behind them those that edges ask for which it does not admit,
	// to accept or to review as in a recommendation.
	Rules []Rule `json:"rules"`
	// Next is the policy of what is kept and what needs no review; nil when that is
	// the policy that was checked.
	Next *policy.Policy `json:"next,omitempty"`
	// Excluded are edges that neither the policy admits nor any rule could.
	Excluded []Excluded `json:"excluded"`
	Coverage Coverage   `json:"coverage"`
	// Counts of Rules by what is said of them.
	Unused   int    `json:"unused"`
	Shadowed int    `json:"shadowed"`
	Broad    int    `json:"broad"`
	New      int    `json:"new"`
	ToReview int    `json:"toReview"` // of the new ones
	Words    string `json:"words"`
}

// Check marks the rules of p that nothing used, that others cover and that admit
// more than was seen, and learns from what p does not admit. made is when p was
// written: what was seen before was left out on purpose, and is only reviewed
// again. An unknown workload is an ErrUnknownWorkload.
func (a *Analyzer) Check(ctx context.Context, p policy.Policy, made time.Time, window Window) (*Check, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	v, err := a.view(ctx, window)
	if err != nil {
		return nil, err
	}
	v.times = true
	if v.workloads[p.Workload] == nil {
		return nil, fmt.Errorf("workload %s %w", p.Workload, ErrUnknownWorkload)
	}
	return v.check(ctx, policy.Normalize(p), made)
}

func (v *view) check(ctx context.Context, p policy.Policy, made time.Time) (*Check, error) {
	base := v.baseline(p, made)
	q, err := v.qualified(ctx, p.Workload, base)
	if err != nil {
		return nil, err
	}
	c := &Check{Workload: p.Workload, Window: v.window, Rules: []Rule{}, Excluded: q.excluded, Coverage: v.coverageOf(p.Workload)}
	if c.Excluded == nil {
		c.Excluded = []Excluded{}
	}
	v.missingHours(v.weekHours(p.Workload), &c.Coverage)
	for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
		c.Rules = append(c.Rules, base.standing(d, &c.Coverage)...)
	}
	for _, r := range v.rules(q.learned) {
		if !r.Implied || !policy.Covers(p.Rules(r.Direction), r.Rule) {
			base.hold(&r)
			c.Rules = append(c.Rules, r)
		}
	}
	c.conclude(&p)
	return c, nil
}

// conclude counts, and derives the next revision from the rules.
func (c *Check) conclude(p *policy.Policy) {
	next := policy.Policy{Workload: p.Workload, IsolateIngress: p.IsolateIngress, IsolateEgress: p.IsolateEgress}
	for i := range c.Rules {
		r := &c.Rules[i]
		for code, n := range map[string]*int{FlagUnused: &c.Unused, FlagShadowed: &c.Shadowed, FlagBroad: &c.Broad} {
			if r.old() && r.flagged(code) {
				*n++
			}
		}
		switch r.Proposed {
		case Review:
			c.New, c.ToReview = c.New+1, c.ToReview+1
			continue
		case Remove:
			continue
		case Accept:
			c.New++
		case Keep:
		}
		if r.Direction == flow.Ingress {
			next.Ingress = append(next.Ingress, r.Rule)
		} else {
			next.Egress = append(next.Egress, r.Rule)
		}
	}
	if next = policy.Normalize(next); !policy.Equal(next, *p) {
		c.Next = &next
	}
	c.Words = fmt.Sprintf("Of %s %d unused, %d shadowed, %d broader than what was seen; %s for what it does not admit, %d of them to review. %s",
		number(len(p.Ingress)+len(p.Egress), "rule"), c.Unused, c.Shadowed, c.Broad, number(c.New, "new rule"), c.ToReview, c.Coverage.Words)
}

// old reports whether r is of the policy that was checked.
func (r *Rule) old() bool { return r.Proposed == Keep || r.Proposed == Remove }

func (r *Rule) flagged(code string) bool {
	return slices.ContainsFunc(r.Flags, func(f Flag) bool { return f.Code == code })
}

// baseline is a policy that is there already. All of its rules are asked,
// whether it isolates their direction or not. A nil one admits nothing.
type baseline struct {
	v      *view
	policy policy.Policy
	made   time.Time
	judge  *judge
	seen   map[flow.Direction][][]Evidence // by rule
	hits   map[int]bool                    // rules that matched the edge at hand
	unsure []*flow.Edge                    // of unknown direction
	dns    []admission                     // resolvers that its rules admit
}

func (v *view) baseline(p policy.Policy, made time.Time) *baseline {
	asked := p
	asked.IsolateIngress, asked.IsolateEgress = true, true
	b := &baseline{v: v, policy: p, made: made, judge: v.judgeOf(&asked), seen: map[flow.Direction][][]Evidence{
		flow.Ingress: make([][]Evidence, len(p.Ingress)), flow.Egress: make([][]Evidence, len(p.Egress)),
	}}
	b.judge.matched = func(rule int) { b.hits[rule] = true }
	return b
}

// admits reports whether a rule of the policy admits an edge, and notes which.
func (b *baseline) admits(s *sighting) bool {
	if b == nil || s.forged && !s.here {
		return false
	}
	b.hits = map[int]bool{}
	j, _ := b.judge.of(s)
	for i := range b.hits {
		b.seen[s.direction][i] = append(b.seen[s.direction][i], s.evidence())
	}
	if j.Allowed() && s.edge.Port == 53 && s.edge.Protocol == flow.UDP {
		if peer, excluded := b.v.namedPeer(s); excluded == nil {
			b.dns = append(b.dns, admission{direction: s.direction, peer: peer, peerKey: keyOfPeer(peer), port: policy.PortOf(s.edge.Protocol, s.edge.Port)})
		}
	}
	return j.Allowed() && j.Reason == flow.ReasonRule
}

// doubt keeps edges of unknown direction: a rule that may have admitted one is
// not known to be unused.
func (b *baseline) doubt(unknown []*flow.Edge) {
	if b != nil {
		b.unsure = unknown
	}
}

// wants reports whether an edge that cannot be learned at first is proposed for
// review here: what the live policy denied had no chance to be answered.
func (b *baseline) wants(x *Excluded, s *sighting) bool {
	return b != nil && x.Code == ExcludedUnanswered && s.edge.DeniedLive > 0
}

// flags are what speaks against an edge beside what spoke against it without a
// policy.
func (b *baseline) flags(s *sighting) (out []Flag) {
	if b == nil {
		return nil
	}
	add := func(code, format string, args ...any) {
		out = append(out, Flag{Code: code, Reason: fmt.Sprintf(format, args...)})
	}
	if s.edge.Answered == 0 {
		add(FlagUnanswered, "never answered: all of %s came to nothing", number(s.edge.Connections, "attempt"))
	}
	if s.edge.FirstSeen.Before(b.made) {
		add(FlagLeftOut, "it was seen before this revision was made, which left it out")
	}
	return out
}

// hold keeps a rule of a direction that the policy leaves open from being taken
// in bulk: it would be the first one there.
func (b *baseline) hold(r *Rule) {
	if !b.policy.Isolates(r.Direction) {
		r.Proposed = Review
		r.Flags = append(r.Flags, Flag{Code: FlagOpen, Reason: fmt.Sprintf("the policy does not isolate %s, where everything is allowed", r.Direction)})
	}
}

// standing says of each rule of direction d what it admitted and what is to
// become of it.
func (b *baseline) standing(d flow.Direction, coverage *Coverage) []Rule {
	rules := b.policy.Rules(d)
	by := policy.Shadowed(rules)
	silent := !slices.ContainsFunc(b.seen[d], func(e []Evidence) bool { return len(e) > 0 })
	out := make([]Rule, len(rules))
	for i := range rules {
		r := &out[i]
		*r = Rule{
			Rule: rules[i], Direction: d, Sentence: policy.Sentence(rules[i], d), Proposed: Keep,
			Evidence: b.seen[d][i], Flags: []Flag{}, AlsoAdmits: []string{}, AlsoSelects: []flow.Workload{}, MayAdmit: mayAdmit(rules[i].Peers),
		}
		for _, k := range by[i] {
			r.ShadowedBy = append(r.ShadowedBy, rules[k].ID)
		}
		if len(r.ShadowedBy) > 0 {
			r.Proposed = Remove
			r.Flags = append(r.Flags, Flag{Code: FlagShadowed, Reason: shadowWords(d, rules, by[i])})
		}
		if len(r.Evidence) == 0 {
			r.Evidence = []Evidence{}
			b.idle(r, coverage, silent)
			continue
		}
		if r.AlsoAdmits, r.AlsoSelects = b.v.beyond(b.policy.Workload, r); len(r.AlsoAdmits) > 0 {
			r.Flags = append(r.Flags, Flag{Code: FlagBroad, Reason: "it admits more than was seen: " + some(r.AlsoAdmits)})
		}
	}
	return out
}

func shadowWords(d flow.Direction, rules []policy.Rule, by []int) string {
	says := make([]string, len(by))
	for i, k := range by {
		says[i] = policy.Sentence(rules[k], d)
	}
	return "all that it admits is admitted without it: " + some(says)
}

// idle says that nothing used a rule, and proposes to remove it where enough was
// watched to say so.
func (b *baseline) idle(r *Rule, coverage *Coverage, silent bool) {
	if slices.ContainsFunc(impliedDNS(b.dns), func(o Rule) bool {
		return o.Direction == r.Direction && policy.Covers([]policy.Rule{o.Rule}, r.Rule)
	}) {
		r.Implied = true // TCP to a resolver is for long answers, which need not have come
		return
	}
	reason := "nothing used it in the " + watched(coverage)
	keep := ""
	switch n := b.maybe(r); {
	case n > 0:
		keep = fmt.Sprintf("%s picked up in the middle may have", number(n, "edge"))
	case len(coverage.Missing) > 0:
		keep = "too little to take it away: " + some(coverage.Missing)
	case silent:
		keep = fmt.Sprintf("nor any other rule of %s, and silence takes nothing away", r.Direction)
	}
	if keep != "" {
		reason += "; " + keep
	} else {
		r.Proposed = Remove
	}
	r.Flags = append(r.Flags, Flag{Code: FlagUnused, Reason: reason})
}

// watched says how much of a window was: "23 of 30 days that were watched".
func watched(c *Coverage) string {
	const day = 24 * 60 * 60
	if c.Seconds >= 2*day {
		return fmt.Sprintf("%d of %d days that were watched", int(c.CoveredSeconds/day), int(c.Seconds/day))
	}
	seconds := func(s float64) string { return span(time.Duration(s * float64(time.Second))) }
	return fmt.Sprintf("%s of %s that were watched", seconds(c.CoveredSeconds), seconds(c.Seconds))
}

// maybe counts the edges of unknown direction that r may have admitted: those
// with one of its peers, over one of its protocols, whatever the port, for it is
// not known whose it is.
func (b *baseline) maybe(r *Rule) int {
	ports := slices.Clone(r.Rule.Ports)
	for i := range ports {
		ports[i] = policy.Port{Protocol: ports[i].Protocol}
	}
	asks := b.v.asks(b.policy.Workload, r.Direction, policy.Rule{Peers: r.Rule.Peers, Ports: ports})
	n := 0
	for _, e := range b.unsure {
		peer := e.Destination
		if peer.Workload == b.policy.Workload {
			peer = e.Source
		}
		if asks(peer, e.Protocol, e.Port) {
			n++
		}
	}
	return n
}

// asks returns what tells whether a rule alone, without guardrails, admits w's
// edge with a peer.
func (v *view) asks(w flow.Workload, d flow.Direction, r policy.Rule) func(peer flow.Party, protocol flow.Protocol, port uint16) bool {
	p := &policy.Policy{Workload: w, IsolateIngress: true, IsolateEgress: true}
	if d == flow.Ingress {
		p.Ingress = []policy.Rule{r}
	} else {
		p.Egress = []policy.Rule{r}
	}
	alone := v.judgeOf(p)
	alone.guard.Guardrails = nil
	return func(peer flow.Party, protocol flow.Protocol, port uint16) bool {
		s := sighting{direction: d, edge: &flow.Edge{Source: peer, Destination: flow.Party{Workload: w}, Protocol: protocol, Port: port}}
		if d == flow.Egress {
			s.edge.Source, s.edge.Destination = s.edge.Destination, s.edge.Source
		}
		j, partly := alone.of(&s)
		return j.Reason == flow.ReasonRule || partly
	}
}

// some lists the first of many.
func some(list []string) string {
	const most = 3
	if n := len(list) - most; n > 0 {
		return strings.Join(list[:most], "; ") + fmt.Sprintf("; and %d more", n)
	}
	return strings.Join(list, "; ")
}
