package api

import (
	"context"
	"time"

	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// DefaultWindow is how far back a question looks that does not say.
const DefaultWindow = 30 * 24 * time.Hour

// window returns the time asked about, which must not be empty.
func (s *Server) window(since, until *time.Time) (time.Time, time.Time, error) {
	to := s.deps.Now()
	if until != nil {
		to = *until
	}
	from := to.Add(-DefaultWindow)
	if since != nil {
		from = *since
	}
	if !from.Before(to) {
		return from, to, invalid("since", "since: the window is empty: give a time before its end")
	}
	return from, to, nil
}

// GetRecommendation answers what was learned of a workload.
func (s *Server) GetRecommendation(ctx context.Context, r GetRecommendationRequestObject) (GetRecommendationResponseObject, error) {
	ctx = own(ctx)
	w, err := s.known(r.Namespace, r.Kind, r.Name)
	if err != nil {
		return nil, err
	}
	since, until, err := s.window(r.Params.Since, r.Params.Until)
	if err != nil {
		return nil, err
	}
	rec, err := s.deps.Analyzer.Recommend(ctx, w, since, until)
	return GetRecommendation200JSONResponse(rec), err
}

func (s *Server) inventory() (*inventory.Index, error) {
	if x := s.deps.Control.Inventory(); x != nil {
		return x, nil
	}
	return nil, refuse(ErrorCodeUnavailable, "the inventory is not loaded yet: try again in a moment")
}

// known returns a workload of the inventory.
func (s *Server) known(namespace, kind, name string) (flow.Workload, error) {
	w := flow.Workload{Namespace: namespace, Kind: kind, Name: name}
	x, err := s.inventory()
	if err != nil {
		return w, err
	}
	if x.Workload(w) == nil {
		return w, refuse(ErrorCodeNotFound, "workload "+oneLine(w.String())+" is not in the inventory: check its namespace, kind and name")
	}
	return w, nil
}

// ListRevisions answers every revision of a workload.
func (s *Server) ListRevisions(ctx context.Context, r ListRevisionsRequestObject) (ListRevisionsResponseObject, error) {
	ctx = own(ctx)
	w, err := s.known(r.Namespace, r.Kind, r.Name)
	if err != nil {
		return nil, err
	}
	revs, err := s.deps.Control.Revisions(ctx, w)
	if err != nil {
		return nil, err
	}
	out := ListRevisions200JSONResponse{}
	for _, rev := range revs {
		out = append(out, revisionOf(rev))
	}
	return out, nil
}

// GetRevision answers one revision.
func (s *Server) GetRevision(ctx context.Context, r GetRevisionRequestObject) (GetRevisionResponseObject, error) {
	ctx = own(ctx)
	w, err := s.known(r.Namespace, r.Kind, r.Name)
	if err != nil {
		return nil, err
	}
	rev, err := s.deps.Control.Revision(ctx, w, uint32(r.Revision)) //nolint:gosec // the contract bounds it
	return GetRevision200JSONResponse(revisionOf(rev)), err
}

// CreateRevision saves a reviewed policy.
func (s *Server) CreateRevision(ctx context.Context, r CreateRevisionRequestObject) (CreateRevisionResponseObject, error) {
	ctx = own(ctx)
	w, err := s.known(r.Namespace, r.Kind, r.Name)
	if err != nil {
		return nil, err
	}
	p, err := readPolicy(r.Body.Policy, "policy.")
	if err != nil {
		return nil, err
	}
	if r.Body.Parent > 1<<32-1 {
		return nil, invalid("parent", "parent: there are no such revision numbers")
	}
	n := control.NewRevision{
		Workload: w, Policy: p, Origin: control.Origin(r.Body.Origin), Comment: deref(r.Body.Comment),
		Actor: caller(ctx).user, Parent: uint32(r.Body.Parent), //nolint:gosec // bounded above
	}
	for _, a := range deref(r.Body.AcceptedFlagged) {
		n.Accepted = append(n.Accepted, control.AcceptedFlagged{Rule: a.Rule, Flags: a.Flags})
	}
	rev, err := s.deps.Control.CreateRevision(ctx, n)
	return CreateRevision201JSONResponse(revisionOf(rev)), err
}

// ListDenials answers what a slot's revision denied or would have denied.
func (s *Server) ListDenials(ctx context.Context, r ListDenialsRequestObject) (ListDenialsResponseObject, error) {
	ctx = own(ctx)
	w, err := s.deps.Control.Workload(ctx, flow.Workload{Namespace: r.Namespace, Kind: r.Kind, Name: r.Name})
	if err != nil {
		return nil, err
	}
	since, _, err := s.window(r.Params.Since, nil)
	if err != nil {
		return nil, err
	}
	ref := w.Workload.Ref()
	q := flow.DenialFilter{Workload: &ref, Slot: flow.SlotLive, Revision: w.Requested.Live, Since: since}
	if r.Params.Slot == Staged {
		q.Slot, q.Revision = flow.SlotStaged, w.Requested.Staged
	}
	if r.Params.Revision != nil {
		q.Revision = uint32(*r.Params.Revision) //nolint:gosec // the contract bounds it
	}
	out := ListDenials200JSONResponse{Denials: []Denial{}, Revision: number64(q.Revision), Since: &since}
	if q.Revision == 0 {
		return out, nil // an empty slot judges nothing
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	report, err := s.deps.Flows.Denials(ctx, q)
	if err != nil {
		return nil, s.storeError(err)
	}
	out.Judged, out.Denied = count(report.Judged), count(report.Denied)
	for i := range report.Denials {
		out.Denials = append(out.Denials, denialOf(&report.Denials[i]))
	}
	return out, nil
}

// storeError says that ClickHouse did not answer. Its own words stay in the log.
func (s *Server) storeError(err error) error {
	s.metrics.storeOut.Inc()
	return &control.Error{Code: control.CodeUnavailable, Err: err, Message: "ClickHouse does not answer: look at the server's log, and try again"}
}

// ReplayPolicy judges stored history by a policy.
func (s *Server) ReplayPolicy(ctx context.Context, r ReplayPolicyRequestObject) (ReplayPolicyResponseObject, error) {
	ctx = own(ctx)
	w, err := s.known(r.Namespace, r.Kind, r.Name)
	if err != nil {
		return nil, err
	}
	p, err := policyFor(w, r.Body.Policy, "policy.")
	if err != nil {
		return nil, err
	}
	since, until, err := s.window(r.Body.Since, r.Body.Until)
	if err != nil {
		return nil, err
	}
	out, err := s.deps.Analyzer.Replay(ctx, p, since, until)
	return ReplayPolicy200JSONResponse(out), err
}

// CheckPolicy answers how a slot's revision stands to what was observed.
func (s *Server) CheckPolicy(ctx context.Context, r CheckPolicyRequestObject) (CheckPolicyResponseObject, error) {
	ctx = own(ctx)
	w, err := s.deps.Control.Workload(ctx, flow.Workload{Namespace: r.Namespace, Kind: r.Kind, Name: r.Name})
	if err != nil {
		return nil, err
	}
	since, until, err := s.window(r.Params.Since, r.Params.Until)
	if err != nil {
		return nil, err
	}
	slot, number := Live, w.Requested.Live
	if r.Params.Slot == nil && number == 0 || deref(r.Params.Slot) == Staged {
		slot, number = Staged, w.Requested.Staged
	}
	ref := w.Workload.Ref()
	if number == 0 {
		return nil, refuse(ErrorCodeConflict, "no revision of "+ref.String()+" is in that slot: audit one first")
	}
	rev, err := s.deps.Control.Revision(ctx, ref, number)
	if err != nil {
		return nil, err
	}
	out, err := s.deps.Analyzer.Check(ctx, rev.Policy, rev.Created, since, until)
	out.Slot, out.Revision, out.Made = slot, int64(number), rev.Created
	return CheckPolicy200JSONResponse(out), err
}

// DiffPolicies judges stored history by two policies of one workload.
func (s *Server) DiffPolicies(ctx context.Context, r DiffPoliciesRequestObject) (DiffPoliciesResponseObject, error) {
	ctx = own(ctx)
	w, err := s.known(r.Namespace, r.Kind, r.Name)
	if err != nil {
		return nil, err
	}
	before, err := policyFor(w, r.Body.Before, "before.")
	if err != nil {
		return nil, err
	}
	after, err := policyFor(w, r.Body.After, "after.")
	if err != nil {
		return nil, err
	}
	since, until, err := s.window(r.Body.Since, r.Body.Until)
	if err != nil {
		return nil, err
	}
	out, err := s.deps.Analyzer.Diff(ctx, before, after, since, until)
	return DiffPolicies200JSONResponse(out), err
}

// policyFor reads a policy that has to be of the workload asked about.
func policyFor(w flow.Workload, in Policy, prefix string) (policy.Policy, error) {
	p, err := readPolicy(in, prefix)
	if err == nil && p.Workload != w {
		err = invalid(prefix+"workload", prefix+"workload: the policy is of another workload than the one asked about")
	}
	return p, err
}
