package control

import (
	"context"
	"fmt"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rollout"
)

// State returns what every node should make true. It must not be changed. Until
// an inventory is set, and when a revision it needs is damaged, it is an error:
// an empty state would take nodes out of force.
func (s *Store) State(context.Context) (rollout.State, error) {
	se := s.state.Load()
	return se.state, se.err
}

// Changed returns a channel that is closed once State is newer than at the call.
func (s *Store) Changed() <-chan struct{} { return s.slotsChanged.wait() }

// Updated returns a channel that is closed once anything changed that a person
// may look at: slots, revisions, nodes or activity.
func (s *Store) Updated() <-chan struct{} { return s.updated.wait() }

// rebuild makes State anew from the database. The caller holds mu.
func (s *Store) rebuild(ctx context.Context) {
	x := s.index.Load()
	if x == nil {
		return
	}
	state := rollout.State{Inventory: x.Inventory().Sorted(), Slots: []rollout.Slots{}}
	err := s.reads.QueryRowContext(ctx, "SELECT generation FROM meta").Scan(&state.Generation)
	if err == nil {
		state.Slots, err = s.rolloutSlots(ctx, &state)
	}
	if err != nil {
		s.metrics.stateErrors.Inc()
		s.deps.Logger.Error("state for nodes cannot be built: they keep what they have", "error", err)
		err = &Error{Code: CodeOf(err), Message: "state for nodes cannot be built: " + err.Error(), Err: err}
	}
	s.state.Store(&stateOrError{state: state, err: err})
}

func (s *Store) rolloutSlots(ctx context.Context, state *rollout.State) ([]rollout.Slots, error) {
	out := []rollout.Slots{}
	all, err := allSlots(ctx, s.reads)
	if err != nil {
		return nil, err
	}
	for i := range state.Inventory.Workloads {
		w := &state.Inventory.Workloads[i]
		slots := all[w.Identity]
		if slots.Live == 0 && slots.Staged == 0 {
			continue
		}
		r := rollout.Slots{Workload: w.Ref(), Confirm: s.cfg.ConfirmTimeout}
		if r.Live, err = s.rolloutRevision(ctx, w.Identity, r.Workload, slots.Live); err != nil {
			return nil, err
		}
		if r.Staged, err = s.rolloutRevision(ctx, w.Identity, r.Workload, slots.Staged); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func (s *Store) rolloutRevision(ctx context.Context, id flow.Identity, w flow.Workload, number uint32) (*rollout.Revision, error) {
	if number == 0 {
		return nil, nil
	}
	rev, err := s.revision(ctx, s.reads, id, w, number)
	if err != nil {
		return nil, fmt.Errorf("slots of %s: %w", w, err)
	}
	return &rollout.Revision{Number: rev.Number, Digest: rev.Digest, Policy: rev.Policy}, nil
}

// Stage is how far a workload has come in one direction.
type Stage string

// Stages. The zero value is none of them; stageOf begins at StageObserve.
const (
	StageObserve Stage = "observe" // nothing is judged
	StageAudit   Stage = "audit"   // the staged slot judges and drops nothing
	StageEnforce Stage = "enforce" // the live slot drops
)

func stageOf(d flow.Direction, live, staged *policy.Policy) Stage {
	switch {
	case live != nil && live.Isolates(d):
		return StageEnforce
	case staged != nil && staged.Isolates(d):
		return StageAudit
	}
	return StageObserve
}
