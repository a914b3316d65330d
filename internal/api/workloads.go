package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/rollout"
)

// ListWorkloads answers all workloads.
func (s *Server) ListWorkloads(ctx context.Context, _ ListWorkloadsRequestObject) (ListWorkloadsResponseObject, error) {
	ctx = own(ctx)
	list, err := s.summaries(ctx, time.Second)
	return ListWorkloads200JSONResponse(list), err
}

func (s *Server) summaries(ctx context.Context, maxAge time.Duration) ([]WorkloadSummary, error) {
	workloads, err := s.deps.Control.Workloads(ctx)
	if err != nil {
		return nil, err
	}
	stats := s.stats.get(ctx, s, maxAge).stats
	out := make([]WorkloadSummary, 0, len(workloads))
	for i := range workloads {
		out = append(out, summaryOf(&workloads[i], stats))
	}
	return out, nil
}

func summaryOf(w *control.Workload, all map[flow.Workload]Stats) WorkloadSummary {
	stats := all[w.Workload.Ref()]
	labels := w.Workload.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	return WorkloadSummary{
		Workload: RefOf(w.Workload.Ref()), Labels: labels, Endpoints: len(w.Workload.Endpoints),
		IngressStage: Stage(w.Ingress), EgressStage: Stage(w.Egress),
		Requested: revisionsOf(w.Requested.Live, w.Requested.Staged),
		Effective: revisionsOf(w.EffectiveLive, w.EffectiveStaged), Confirmed: &w.Confirmed,
		Version: count(w.Requested.Version), Edges: count(stats.Edges), Connections: count(stats.Connections),
		WouldDeny: count(stats.WouldDeny), Denied: count(stats.Denied), LastSeen: optionalTime(stats.LastSeen),
		ObservedSince: optionalTime(w.ObservedSince),
	}
}

func revisionsOf(live, staged uint32) SlotRevisions {
	return SlotRevisions{Live: number64(live), Staged: number64(staged)}
}

// GetWorkload answers one workload.
func (s *Server) GetWorkload(ctx context.Context, r GetWorkloadRequestObject) (GetWorkloadResponseObject, error) {
	ctx = own(ctx)
	ref := flow.Workload{Namespace: r.Namespace, Kind: r.Kind, Name: r.Name}
	w, err := s.deps.Control.Workload(ctx, ref)
	if err != nil {
		return nil, err
	}
	actions, err := s.deps.Control.Actions(ctx, ref)
	if err != nil {
		return nil, err
	}
	out := GetWorkload200JSONResponse{
		Summary: summaryOf(&w, s.stats.get(ctx, s, time.Second).stats), Endpoints: []Endpoint{}, Nodes: nodeSlotsOf(w.Nodes),
		Actions:    Actions{Audit: optional(actions.Audit), Enforce: optional(actions.Enforce), Rollback: optional(actions.Rollback), Unlearned: list(actions.Unlearned)},
		Guardrails: []Guardrail{},
	}
	if x := s.deps.Control.Inventory(); x != nil {
		for _, g := range x.Guardrails(ref) {
			out.Guardrails = append(out.Guardrails, Guardrail{Name: g.Name, Sentence: g.String()})
		}
	}
	for _, e := range w.Workload.Endpoints {
		addresses := make([]string, 0, len(e.Addresses))
		for _, a := range e.Addresses {
			addresses = append(addresses, a.String())
		}
		out.Endpoints = append(out.Endpoints, Endpoint{
			Name: e.Name, Node: e.Node, Interface: optional(e.Interface), Host: e.Host, Addresses: addresses,
		})
	}
	return out, nil
}

// GetInventory answers the inventory as it is.
func (s *Server) GetInventory(context.Context, GetInventoryRequestObject) (GetInventoryResponseObject, error) {
	x, err := s.inventory()
	if err != nil {
		return nil, err
	}
	return inventoryAnswer{x.Inventory()}, nil
}

// inventoryAnswer writes an inventory in its own form.
type inventoryAnswer struct{ *inventory.Inventory }

// VisitGetInventoryResponse implements GetInventoryResponseObject.
func (a inventoryAnswer) VisitGetInventoryResponse(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(a.Inventory)
}

func nodeSlotsOf(nodes []control.NodeSlots) []NodeSlots {
	out := make([]NodeSlots, 0, len(nodes))
	for _, n := range nodes {
		e := n.Effective
		out = append(out, NodeSlots{
			Node: n.Node, Connected: n.Connected, Effective: revisionsOf(e.LiveRevision, e.StagedRevision),
			Endpoints: e.Endpoints, Confirmed: !e.Unconfirmed && !n.Reported.IsZero(), ObservedSince: optionalTime(e.ObservedSince),
			SwitchedAt: optionalTime(e.SwitchedAt), Deadline: deadlineOf(e), RevertedFrom: number64(e.RevertedFrom),
			Error: troubleOf(n.Error, n.Problems),
		})
	}
	return out
}

func deadlineOf(e rollout.Effective) *time.Time {
	if !e.Unconfirmed {
		return nil
	}
	return optionalTime(e.Deadline)
}

// StageRevision begins to audit a revision.
func (s *Server) StageRevision(ctx context.Context, r StageRevisionRequestObject) (StageRevisionResponseObject, error) {
	ctx = own(ctx)
	result, err := s.change(ctx, flow.Workload{Namespace: r.Namespace, Kind: r.Kind, Name: r.Name}, r.Body, s.deps.Control.Stage)
	switch {
	case err != nil:
		return nil, err
	case result.Detail != nil:
		return StageRevision202JSONResponse(result), nil
	}
	return StageRevision200JSONResponse(result), nil
}

// UnstageRevision ends the audit of a revision.
func (s *Server) UnstageRevision(ctx context.Context, r UnstageRevisionRequestObject) (UnstageRevisionResponseObject, error) {
	ctx = own(ctx)
	result, err := s.change(ctx, flow.Workload{Namespace: r.Namespace, Kind: r.Kind, Name: r.Name}, r.Body, s.deps.Control.Unstage)
	switch {
	case err != nil:
		return nil, err
	case result.Detail != nil:
		return UnstageRevision202JSONResponse(result), nil
	}
	return UnstageRevision200JSONResponse(result), nil
}

// PromoteRevision enforces the audited revision.
func (s *Server) PromoteRevision(ctx context.Context, r PromoteRevisionRequestObject) (PromoteRevisionResponseObject, error) {
	ctx = own(ctx)
	do := func(ctx context.Context, c control.Change) (control.Slots, error) {
		c.Anyway, c.Reason = r.Body.Anyway != nil, deref(r.Body.Anyway)
		return s.deps.Control.Promote(ctx, c)
	}
	seen := SlotChange{Revision: r.Body.Revision, Version: r.Body.Version}
	result, err := s.change(ctx, flow.Workload{Namespace: r.Namespace, Kind: r.Kind, Name: r.Name}, &seen, do)
	switch {
	case err != nil:
		return nil, err
	case result.Detail != nil:
		return PromoteRevision202JSONResponse(result), nil
	}
	return PromoteRevision200JSONResponse(result), nil
}

// Rollback brings back what was live before.
func (s *Server) Rollback(ctx context.Context, r RollbackRequestObject) (RollbackResponseObject, error) {
	ctx = own(ctx)
	result, err := s.change(ctx, flow.Workload{Namespace: r.Namespace, Kind: r.Kind, Name: r.Name}, r.Body, s.deps.Control.Rollback)
	switch {
	case err != nil:
		return nil, err
	case result.Detail != nil:
		return Rollback202JSONResponse(result), nil
	}
	return Rollback200JSONResponse(result), nil
}

// change makes a change of slots and waits for the nodes. Detail of the result
// says why not every node has applied it.
func (s *Server) change(ctx context.Context, w flow.Workload, body *SlotChange,
	do func(context.Context, control.Change) (control.Slots, error)) (SlotResult, error) {
	requested := s.deps.Now()
	slots, err := do(ctx, control.Change{
		Workload: w, Revision: uint32(body.Revision), Version: uint64(body.Version), Actor: caller(ctx).user, //nolint:gosec // the contract bounds both
	})
	if err != nil {
		return SlotResult{}, err
	}
	wait, cancel := context.WithTimeout(ctx, s.cfg.ApplyTimeout)
	defer cancel()
	applied := s.deps.Control.WaitApplied(wait, w, slots)
	// The change is made: what follows is only about telling of it, for which
	// numbers of some time ago will do.
	now, err := s.deps.Control.Workload(ctx, w)
	if err != nil {
		return SlotResult{}, err
	}
	out := SlotResult{
		Summary: summaryOf(&now, s.stats.peek().stats), Nodes: nodeSlotsOf(now.Nodes), RequestedAt: requested,
	}
	if applied != nil {
		_, e := describe(applied)
		out.Detail = &e.Message
		return out, nil
	}
	if slots.LiveAt.Before(requested.Truncate(time.Microsecond)) {
		return out, nil // the live slot is as it was
	}
	var last time.Time
	for _, n := range now.Nodes {
		if n.Effective.LiveRevision == slots.Live && n.Effective.SwitchedAt.After(last) {
			last = n.Effective.SwitchedAt
		}
	}
	out.SwitchedAt = optionalTime(last)
	return out, nil
}
