package api

import (
	"context"
	"errors"
	"slices"

	"github.com/ringfence/ringfence/internal/connection"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// ExplainConnection answers whether a connection is allowed, and why. It asks
// what was decided: nodes may lag behind, and say so themselves.
func (s *Server) ExplainConnection(ctx context.Context, r ExplainConnectionRequestObject) (ExplainConnectionResponseObject, error) {
	ctx = own(ctx)
	x, err := s.inventory()
	if err != nil {
		return nil, err
	}
	out := ExplainConnection200JSONResponse{Connections: []Connection{}, JudgedBy: []JudgedBy{}}
	judge := func(revision *int64) *connection.Judge {
		return &connection.Judge{Index: x, Govern: func(w *inventory.Workload) (policy.End, error) {
			by, end, err := s.governing(ctx, w, deref(r.Params.Slot), revision)
			if err != nil {
				return end, &governError{err}
			}
			end.Evaluator.Guardrails = x.Guardrails(w.Ref())
			if !slices.ContainsFunc(out.JudgedBy, func(o JudgedBy) bool {
				return o.Workload == by.Workload && deref(o.Revision) == deref(by.Revision)
			}) {
				out.JudgedBy = append(out.JudgedBy, by)
			}
			return end, nil
		}}
	}
	p := r.Params
	list, err := connection.Explain(judge(p.SourceRevision), judge(p.DestinationRevision), p.Source, p.Destination, p.Port)
	if theirs, ok := errors.AsType[*governError](err); ok {
		return nil, theirs.error
	}
	if err != nil {
		return nil, invalid("", oneLine(err.Error()))
	}
	for i := range list {
		out.Connections = append(out.Connections, connectionOf(&list[i]))
	}
	// A revision of no workload would have been asked for in vain.
	if p.SourceRevision != nil && list[0].Egress == nil {
		return nil, invalid("sourceRevision", "sourceRevision: the source is no workload, so it has no revisions")
	}
	if p.DestinationRevision != nil && list[0].Ingress == nil {
		return nil, invalid("destinationRevision", "destinationRevision: the destination is no workload, so it has no revisions")
	}
	return out, nil
}

// governError is an error of the control store, not of the question.
type governError struct{ error }

func (e *governError) Unwrap() error { return e.error }

// governing returns the policy of a workload's revision: the one asked for, or
// that in the slot.
func (s *Server) governing(ctx context.Context, w *inventory.Workload, slot Slot, revision *int64) (JudgedBy, policy.End, error) {
	by := JudgedBy{Workload: RefOf(w.Ref()), Revision: revision}
	if revision == nil {
		known, err := s.deps.Control.Workload(ctx, w.Ref())
		if err != nil {
			return by, policy.End{}, err
		}
		in, number := Live, known.Requested.Live
		if slot == Staged && known.Requested.Staged != 0 {
			in, number = Staged, known.Requested.Staged
		}
		by.Slot, by.Revision = &in, number64(number)
		if number == 0 {
			return by, policy.End{}, nil
		}
	}
	rev, err := s.deps.Control.Revision(ctx, w.Ref(), uint32(*by.Revision)) //nolint:gosec // the contract bounds it
	return by, policy.End{Policy: &rev.Policy}, err
}

func connectionOf(c *policy.Connection) Connection {
	return Connection{
		Source: c.Source, Destination: c.Destination, Protocol: c.Protocol.String(), Port: int(c.Port),
		Allowed: c.Allowed, Summary: c.Summary,
		Egress: explanationOf(c.Egress), Ingress: explanationOf(c.Ingress),
	}
}

func explanationOf(e *policy.Explanation) *Explanation {
	if e == nil {
		return nil
	}
	out := &Explanation{
		Verdict: e.Verdict.String(), Reason: e.Reason.String(), Rule: optional(e.Rule), Guardrail: optional(e.Guardrail),
		Summary: e.Summary, Rules: make([]RuleOutcome, 0, len(e.Rules)),
	}
	for _, r := range e.Rules {
		out.Rules = append(out.Rules, RuleOutcome{Index: r.Index, ID: r.ID, Sentence: r.Sentence, Matched: r.Matched, Why: r.Why})
	}
	return out
}
