package control

import (
	"context"
	"errors"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// Workload is where one workload stands: what is requested for it, what its
// nodes hold, and what they have confirmed.
type Workload struct {
	Workload inventory.Workload
	// Requested are the slots as people set them.
	Requested Slots
	Ingress   Stage
	Egress    Stage
	// EffectiveLive and EffectiveStaged are what the nodes hold; where they
	// differ, what one of those holds that does not agree with Requested.
	EffectiveLive   uint32
	EffectiveStaged uint32
	// Confirmed is set when every node holds the requested live revision for good.
	Confirmed bool
	// ObservedSince is since when every attached endpoint is observed; zero while
	// none is.
	ObservedSince time.Time
	Nodes         []NodeSlots
}

// Actions says why something may not be done now; an empty reason means it may.
type Actions struct {
	Audit    string
	Enforce  string
	Rollback string
	// Unlearned is what learning lacks, when nothing else stands against enforcing.
	Unlearned []string
}

// Workloads returns every workload of the inventory, ordered by name.
func (s *Store) Workloads(ctx context.Context) ([]Workload, error) {
	x := s.index.Load()
	if x == nil {
		return nil, refuse(CodeUnavailable, "the inventory is not loaded yet: try again in a moment")
	}
	sorted := x.Inventory().Sorted()
	all, err := allSlots(ctx, s.reads)
	if err != nil {
		return nil, err
	}
	out := make([]Workload, 0, len(sorted.Workloads))
	for i := range sorted.Workloads {
		w, err := s.workload(ctx, &sorted.Workloads[i], all[sorted.Workloads[i].Identity])
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

// Workload returns one workload.
func (s *Store) Workload(ctx context.Context, ref flow.Workload) (Workload, error) {
	w, err := s.present(ref)
	if err != nil {
		return Workload{}, err
	}
	slots, err := readSlots(ctx, s.reads, w.Identity)
	if err != nil {
		return Workload{}, err
	}
	return s.workload(ctx, w, slots)
}

func (s *Store) workload(ctx context.Context, w *inventory.Workload, slots Slots) (Workload, error) {
	live, err := s.slotPolicy(ctx, w, slots.Live)
	if err != nil {
		return Workload{}, err
	}
	staged, err := s.slotPolicy(ctx, w, slots.Staged)
	if err != nil {
		return Workload{}, err
	}
	out := Workload{
		Workload: *w, Requested: slots, Nodes: s.nodeSlots(w),
		Ingress: stageOf(flow.Ingress, live, staged), Egress: stageOf(flow.Egress, live, staged),
	}
	out.Confirmed = len(out.Nodes) > 0
	for i, n := range out.Nodes {
		e := n.Effective
		if i == 0 || e.LiveRevision != slots.Live {
			out.EffectiveLive = e.LiveRevision
		}
		if i == 0 || e.StagedRevision != slots.Staged {
			out.EffectiveStaged = e.StagedRevision
		}
		if e.Endpoints > 0 && e.ObservedSince.After(out.ObservedSince) {
			out.ObservedSince = e.ObservedSince
		}
		if e.LiveRevision != slots.Live || e.Unconfirmed || !n.Connected {
			out.Confirmed = false
		}
	}
	return out, nil
}

func (s *Store) slotPolicy(ctx context.Context, w *inventory.Workload, number uint32) (*policy.Policy, error) {
	if number == 0 {
		return nil, nil
	}
	rev, err := s.revision(ctx, s.reads, w.Identity, w.Ref(), number)
	if err != nil {
		return nil, err
	}
	return &rev.Policy, nil
}

// Actions returns what may be done to a workload now.
func (s *Store) Actions(ctx context.Context, ref flow.Workload) (Actions, error) {
	w, err := s.present(ref)
	if err != nil {
		return Actions{}, err
	}
	slots, err := readSlots(ctx, s.reads, w.Identity)
	if err != nil {
		return Actions{}, err
	}
	var a Actions
	var newest uint32
	err = s.reads.QueryRowContext(ctx, "SELECT coalesce(max(number), 0) FROM revisions WHERE workload = ?", w.Identity).Scan(&newest)
	switch {
	case err != nil:
		return Actions{}, err
	case newest == 0:
		a.Audit = "there is no revision yet: create one from the recommendation"
	}
	if slots.Staged == 0 {
		a.Enforce = "nothing is being audited: audit a revision first"
	} else {
		_, err := s.refusePromote(ctx, Change{Workload: ref, Revision: slots.Staged, Version: slots.Version})
		var refusal *Error
		switch {
		case errors.As(err, &refusal):
			a.Enforce = refusal.Message
			if refusal.Passable {
				a.Unlearned = refusal.Missing
			}
		case err != nil:
			return Actions{}, err
		}
	}
	live, err := s.slotPolicy(ctx, w, slots.Live)
	switch {
	case err != nil:
		return Actions{}, err
	case live == nil:
		a.Rollback = "nothing is enforced: there is nothing to roll back"
	case !isolates(live):
		a.Rollback = "the live revision isolates nothing: there is nothing to roll back"
	}
	return a, nil
}
