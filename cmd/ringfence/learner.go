package main

import (
	"context"
	"errors"
	"time"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
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

// Recommend implements api.Analyzer.
func (l *learner) Recommend(ctx context.Context, w flow.Workload, since, until time.Time) (api.Recommendation, error) {
	r, err := l.analyzer.Recommend(ctx, w, analyzer.Window{Since: since, Until: until})
	if err != nil {
		return api.Recommendation{}, refusal(err)
	}
	out := api.Recommendation{
		Workload: api.RefOf(r.Workload), Rules: recommendedRules(r.Rules),
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
		Workload: api.RefOf(c.Workload), Since: since, Until: until, Rules: recommendedRules(c.Rules), Excluded: excludedEdges(c.Excluded),
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

func recommendedRules(rules []analyzer.Rule) []api.RecommendedRule {
	out := make([]api.RecommendedRule, 0, len(rules))
	for i := range rules {
		out = append(out, recommendedRule(&rules[i]))
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

func recommendedRule(r *analyzer.Rule) api.RecommendedRule {
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

// Replay implements api.Analyzer.
func (l *learner) Replay(ctx context.Context, p policy.Policy, since, until time.Time) (api.Denials, error) {
	r, err := l.analyzer.Replay(ctx, p, analyzer.Window{Since: since, Until: until})
	if err != nil {
		return api.Denials{}, refusal(err)
	}
	out := api.Denials{Since: &since, Judged: signed(r.Judged), Denied: signed(r.Denied), Denials: make([]api.Denial, 0, len(r.Denials))}
	for i := range r.Denials {
		n := &r.Denials[i]
		out.Denials = append(out.Denials, api.Denial{
			Direction: api.DirectionOf(n.Direction), Source: api.PartyOf(n.Source), Destination: api.PartyOf(n.Destination),
			Protocol: n.Protocol.String(), Port: int(n.Port), Reason: n.Reason.String(),
			Connections: signed(n.Connections), Packets: signed(n.Packets), FirstSeen: n.FirstSeen, LastSeen: n.LastSeen,
		})
	}
	return out, nil
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
