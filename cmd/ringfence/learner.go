package main

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/query"
)

// learner is the analyzer as the API and the control store ask it.
type learner struct {
	analyzer *analyzer.Analyzer
	store    *storeDoor
}

// Missing implements control.Readiness.
func (l *learner) Missing(ctx context.Context, w flow.Workload) ([]string, error) {
	now := time.Now()
	r, err := l.analyzer.Recommend(ctx, w, analyzer.Window{Since: now.Add(-l.store.retained()), Until: now})
	if err != nil {
		return nil, refusal(err)
	}
	return r.Coverage.Missing, nil
}

// Flagged implements control.Flags, of the window that a review has unless another
// is asked for.
func (l *learner) Flagged(ctx context.Context, w flow.Workload) ([]control.FlaggedRule, error) {
	now := time.Now()
	return l.flagged(ctx, w, analyzer.Window{Since: now.Add(-api.DefaultWindow), Until: now})
}

func (l *learner) flagged(ctx context.Context, w flow.Workload, window analyzer.Window) ([]control.FlaggedRule, error) {
	r, err := l.analyzer.Recommend(ctx, w, window)
	if errors.Is(err, analyzer.ErrNoLabels) {
		return nil, nil // nothing is recommended
	}
	if err != nil {
		return nil, refusal(err)
	}
	var out []control.FlaggedRule
	for _, rule := range r.Flagged() {
		f := control.FlaggedRule{Direction: rule.Direction, Rule: rule.Rule}
		for _, flag := range rule.Flags {
			f.Flags = append(f.Flags, control.Flag{Code: flag.Code, Reason: flag.Reason})
		}
		out = append(out, f)
	}
	return out, nil
}

// Recommend implements api.Analyzer.
func (l *learner) Recommend(ctx context.Context, w flow.Workload, since, until time.Time) (api.Recommendation, error) {
	r, err := l.analyzer.Recommend(ctx, w, analyzer.Window{Since: since, Until: until})
	if err != nil {
		return api.Recommendation{}, refusal(err)
	}
	out := api.Recommendation{
		Workload: api.RefOf(r.Workload), Rules: recommendedRules(w, r.Rules),
		IngressObserved: r.Ingress.Observed, EgressObserved: r.Egress.Observed,
		IsolateIngress: r.Ingress.Isolated, IsolateEgress: r.Egress.Isolated,
		Excluded: excludedEdges(r.Excluded), Coverage: coverage(&r.Coverage),
		Completeness: completeness(&r.Completeness),
	}
	if r.NoPolicy != "" {
		out.NoPolicy = &r.NoPolicy
	}
	if len(r.Notes) > 0 {
		out.Notes = &r.Notes
	}
	return out, nil
}

// Check implements api.Analyzer.
func (l *learner) Check(ctx context.Context, p policy.Policy, made, since, until time.Time) (api.PolicyCheck, error) {
	c, err := l.analyzer.Check(ctx, p, made, analyzer.Window{Since: since, Until: until})
	if err != nil {
		return api.PolicyCheck{}, refusal(err)
	}
	out := api.PolicyCheck{
		Workload: api.RefOf(c.Workload), Since: since, Until: until, Rules: recommendedRules(p.Workload, c.Rules), Excluded: excludedEdges(c.Excluded),
		Coverage: coverage(&c.Coverage), Unused: c.Unused, Shadowed: c.Shadowed, Broad: c.Broad, New: c.New, ToReview: c.ToReview, Words: c.Words,
	}
	if c.Next != nil {
		next := api.PolicyOf(*c.Next)
		out.Next = &next
	}
	return out, nil
}

func coverage(c *analyzer.Coverage) api.Coverage {
	return api.Coverage{
		Since: c.Since, Until: c.Until, Seconds: c.Seconds, CoveredSeconds: c.CoveredSeconds, LostRecords: signed(c.LostRecords),
		Ready: c.Ready, Missing: c.Missing, Words: c.Words,
	}
}

func excludedEdges(list []analyzer.Excluded) []api.ExcludedEdge {
	out := make([]api.ExcludedEdge, 0, len(list))
	for i := range list {
		e := &list[i]
		out = append(out, api.ExcludedEdge{
			Direction: api.DirectionOf(e.Direction), Source: api.PartyOf(e.Source), Destination: api.PartyOf(e.Destination),
			Protocol: e.Protocol.String(), Port: int(e.Port), Connections: signed(e.Connections), Reason: e.Reason,
		})
	}
	return out
}

func recommendedRules(w flow.Workload, rules []analyzer.Rule) []api.RecommendedRule {
	out := make([]api.RecommendedRule, 0, len(rules))
	for i := range rules {
		out = append(out, recommendedRule(w, &rules[i]))
	}
	return out
}

func completeness(c *analyzer.Completeness) api.Completeness {
	out := api.Completeness{
		WeekHours: c.WeekHours.Count(), Replicas: c.Replicas, WatchedReplicas: c.WatchedReplicas, SeenReplicas: c.SeenReplicas,
		Curve: make([]api.CurvePoint, 0, len(c.Curve)), Words: c.Words,
	}
	for _, p := range c.Curve {
		out.Curve = append(out.Curve, api.CurvePoint{Time: p.Time, Edges: p.Edges})
	}
	if e := c.Estimate; e != nil {
		out.Estimate = &api.UnseenEstimate{
			Days: e.Slices, Edges: e.Edges, Once: e.Once, Twice: e.Twice, Unseen: e.Unseen, Expected: e.Expected, Low: e.Low, High: e.High, UnseenEdges: e.UnseenEdges,
		}
	}
	if s := c.Split; s != nil {
		out.Split = &api.TimeSplit{At: s.At, Judged: signed(s.Judged), Denied: signed(s.Denied), DeniedEdges: s.DeniedEdges, Share: s.Share}
	}
	return out
}

func recommendedRule(w flow.Workload, r *analyzer.Rule) api.RecommendedRule {
	out := api.RecommendedRule{
		Rule: api.RuleOf(r.Rule), Direction: api.DirectionOf(r.Direction), Sentence: r.Sentence,
		Evidence: make([]api.Evidence, 0, len(r.Evidence)), Flags: make([]api.Flag, 0, len(r.Flags)),
		Proposed: api.RecommendedRuleProposed(r.Proposed), Implied: &r.Implied, AlsoAdmits: r.AlsoAdmits, MayAdmit: r.MayAdmit,
	}
	for i := range r.Evidence {
		e := &r.Evidence[i]
		out.Evidence = append(out.Evidence, api.Evidence{
			Peer: api.PartyOf(e.Peer), Protocol: e.Protocol.String(), Port: int(e.Port),
			Connections: signed(e.Connections), Answered: signed(e.Answered),
			BytesForward: signed(e.Forward.Bytes), BytesReverse: signed(e.Reverse.Bytes),
			FirstSeen: e.FirstSeen, LastSeen: e.LastSeen,
			SourceEndpoints: int(signed(e.SourceEndpoints)), DestinationEndpoints: int(signed(e.DestinationEndpoints)),
			Hours: int(signed(e.Hours)), Days: int(signed(e.Days)), WeekHours: e.WeekHours.Count(), ObservedAt: api.EvidenceObservedAt(e.ObservedAt),
			Filter: recordsOf(w, r.Direction, e),
		})
	}
	if len(r.ShadowedBy) > 0 {
		out.ShadowedBy = &r.ShadowedBy
	}
	for _, f := range r.Flags {
		out.Flags = append(out.Flags, api.Flag{Code: f.Code, Reason: f.Reason})
	}
	return out
}

// recordsOf is the filter of the records behind a piece of evidence, as one end
// saw them.
func recordsOf(w flow.Workload, d flow.Direction, e *analyzer.Evidence) string {
	self := flow.Party{Workload: w}
	from, to, observer := e.Peer, self, w
	if d == flow.Egress {
		from, to = self, e.Peer
	}
	if e.ObservedAt == analyzer.AtPeer {
		observer = e.Peer.Workload
	}
	f := recordsBetween(from, to, e.Protocol, e.Port, e.FirstSeen, e.LastSeen)
	f.Terms = append(f.Terms, query.Term{Field: "observer", Values: []query.Value{query.Workload(observer)}})
	return f.String()
}

func recordsBetween(from, to flow.Party, protocol flow.Protocol, port uint16, first, last time.Time) query.Filter {
	// A record's time is that of its newest packet.
	f := query.Filter{Since: first, Until: last.Add(time.Second), Terms: []query.Term{
		partyTerm("from.", from), partyTerm("to.", to), {Field: "protocol", Values: []query.Value{protocol}},
	}}
	if port != 0 {
		f.Terms = append(f.Terms, query.Term{Field: "to.port", Values: []query.Value{query.Range{Low: uint32(port), High: uint32(port)}}})
	}
	return f
}

func partyTerm(side string, p flow.Party) query.Term {
	switch {
	case p.IsWorkload():
		return query.Term{Field: side + "workload", Values: []query.Value{query.Workload(p.Workload)}}
	case p.Address.IsValid():
		return query.Term{Field: side + "address", Values: []query.Value{query.Prefix(netip.PrefixFrom(p.Address, p.Address.BitLen()))}}
	}
	return query.Term{Field: side + "reserved", Values: []query.Value{query.Name(p.Reserved)}}
}

// Replay implements api.Analyzer.
func (l *learner) Replay(ctx context.Context, p policy.Policy, since, until time.Time) (api.Denials, error) {
	r, err := l.analyzer.Replay(ctx, p, analyzer.Window{Since: since, Until: until})
	if err != nil {
		return api.Denials{}, refusal(err)
	}
	return api.Denials{
		Since: &since, Until: &until, Judged: signed(r.Judged), Denied: signed(r.Denied), Denials: denials(r.Denials),
		JudgedEdges: &r.JudgedEdges, DeniedEdges: &r.DeniedEdges, Unjudged: new(signed(r.Unjudged)),
	}, nil
}

// Diff implements api.Analyzer.
func (l *learner) Diff(ctx context.Context, before, after policy.Policy, since, until time.Time) (api.Difference, error) {
	list, err := l.analyzer.Diff(ctx, []policy.Policy{before}, []policy.Policy{after}, analyzer.Window{Since: since, Until: until})
	if err != nil {
		return api.Difference{}, refusal(err)
	}
	d := list[0]
	return api.Difference{
		Since: since, Until: until, Denied: denials(d.Denied), Allowed: denials(d.Allowed),
		DeniedConnections: signed(d.DeniedConnections), AllowedConnections: signed(d.AllowedConnections), Same: signed(d.Same),
	}, nil
}

func denials(list []analyzer.Denial) []api.Denial {
	out := make([]api.Denial, 0, len(list))
	for i := range list {
		n := &list[i]
		d := api.Denial{
			Direction: api.DirectionOf(n.Direction), Source: api.PartyOf(n.Source), Destination: api.PartyOf(n.Destination),
			Protocol: n.Protocol.String(), Port: int(n.Port), Reason: n.Reason.String(),
			Connections: signed(n.Connections), Answered: new(signed(n.Answered)), Packets: signed(n.Packets),
			FirstSeen: n.FirstSeen, LastSeen: n.LastSeen,
			Filter: new(recordsBetween(n.Source, n.Destination, n.Protocol, n.Port, n.FirstSeen, n.LastSeen).String()),
		}
		if n.Partly {
			d.Partly = &n.Partly
		}
		out = append(out, d)
	}
	return out
}

// refusal gives the analyzer's refusals the codes that the API answers with.
func refusal(err error) error {
	switch {
	case errors.Is(err, analyzer.ErrUnknownWorkload):
		return &control.Error{Code: control.CodeNotFound, Message: err.Error(), Err: err}
	case errors.Is(err, analyzer.ErrNoLabels):
		return &control.Error{Code: control.CodeConflict, Message: err.Error(), Err: err}
	}
	return err
}

// signed keeps a counter within what JSON's readers can hold.
func signed(n uint64) int64 {
	return int64(min(n, 1<<53))
}
