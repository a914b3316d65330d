package control

import (
	"context"
	"fmt"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Rollback makes what was live before live again, as a new, higher revision: a
// copy of the previous live one or, if there was none, one that isolates
// nothing. What was rolled back from stays in the staged slot, so that it is
// audited on, unless a newer revision is being audited there.
func (s *Store) Rollback(ctx context.Context, c Change) (Slots, error) {
	slots, err := s.rollback(ctx, c, true)
	s.metrics.count(ActionRollback, err)
	return slots, err
}

// rollback checks the version only for people: the system acts on the revision.
func (s *Store) rollback(ctx context.Context, c Change, checkVersion bool) (Slots, error) {
	return s.change(ctx, c, func(t *tx, id flow.Identity, now Slots) (Slots, Event, error) {
		live, err := s.rollbackFrom(t, id, now, c)
		if err != nil {
			return now, Event{}, err
		}
		if checkVersion {
			if err := t.sameVersion(now, c); err != nil {
				return now, Event{}, err
			}
		}
		last, err := lastLive(t.ctx, t, id, now.Live)
		if err != nil {
			return now, Event{}, err
		}
		back, beneath, err := s.before(t, id, c.Workload, last.Previous)
		if err != nil {
			return now, Event{}, err
		}
		newest, err := t.newest(id)
		if err != nil {
			return now, Event{}, err
		}
		comment := fmt.Sprintf("Rolled back from revision %d: isolates nothing, as before it.", live.Number)
		if last.Previous != 0 {
			comment = fmt.Sprintf("Rolled back from revision %d: the same as revision %d.", live.Number, last.Previous)
		}
		if c.Reason != "" {
			comment += " " + oneLine(c.Reason)
		}
		rev, err := t.insert(id, newest, Revision{Workload: c.Workload, Policy: back, Origin: OriginRollback, Author: c.Actor, Comment: comment})
		if err != nil {
			return now, Event{}, err
		}
		generation, err := t.nextGeneration()
		if err != nil {
			return now, Event{}, err
		}
		if err := t.recordLive(id, liveChange{Revision: rev.Number, Previous: beneath, Action: ActionRollback}); err != nil {
			return now, Event{}, err
		}
		next := now
		next.Live, next.LiveAt, next.liveGeneration = rev.Number, t.now, generation
		if next.Staged == 0 {
			next.Staged, next.StagedAt = live.Number, t.now
		}
		event := c.event(ActionRollback, fmt.Sprintf("%s rolled %s back from revision %d: revision %d is live", c.Actor, c.Workload, live.Number, rev.Number))
		event.Revision = rev.Number
		return next, event, nil
	})
}

// rollbackFrom returns the live revision, or why nothing can be rolled back.
func (s *Store) rollbackFrom(t *tx, id flow.Identity, now Slots, c Change) (Revision, error) {
	if now.Live == 0 {
		return Revision{}, refuse(CodeConflict, "nothing of %s is enforced: there is nothing to roll back", c.Workload)
	}
	if now.Live != c.Revision {
		last, err := lastLive(t.ctx, t, id, now.Live)
		if err != nil {
			return Revision{}, err
		}
		if last.Action == ActionRollback && c.Revision < now.Live && c.Revision != 0 {
			return Revision{}, refuse(CodeConflict, "revision %d of %s was already rolled back: revision %d is live", c.Revision, c.Workload, now.Live)
		}
		return Revision{}, refuse(CodeConflict, "revision %d of %s is not live, revision %d is: reload and look again", c.Revision, c.Workload, now.Live)
	}
	live, err := s.revision(t.ctx, t, id, c.Workload, now.Live)
	if err != nil {
		return Revision{}, err
	}
	if !isolates(&live.Policy) {
		return Revision{}, refuse(CodeConflict, "revision %d of %s isolates nothing: there is nothing to roll back", now.Live, c.Workload)
	}
	return live, nil
}

// before returns the policy of revision number, and what lay beneath it: the
// previous live revision when it was live itself. Number 0 is the time before
// the first enforcement.
func (s *Store) before(t *tx, id flow.Identity, w flow.Workload, number uint32) (policy.Policy, uint32, error) {
	if number == 0 {
		return policy.Policy{Workload: w}, 0, nil
	}
	rev, err := s.revision(t.ctx, t, id, w, number)
	if err != nil {
		return policy.Policy{}, 0, err
	}
	last, err := lastLive(t.ctx, t, id, number)
	return rev.Policy, last.Previous, err
}

// nodeReverted makes the live slot what a node says it went back to by itself, so
// that what is requested is what is effective.
func (s *Store) nodeReverted(ctx context.Context, node string, w flow.Workload, from, to uint32) error {
	_, err := s.change(ctx, Change{Workload: w, Revision: from, Actor: System}, func(t *tx, id flow.Identity, now Slots) (Slots, Event, error) {
		if now.Live != from {
			return now, Event{}, refuse(CodeConflict, "revision %d of %s is no longer live", from, w)
		}
		is := "nothing is enforced"
		if to != 0 {
			if _, err := s.revision(t.ctx, t, id, w, to); err != nil {
				return now, Event{}, err
			}
			is = fmt.Sprintf("revision %d is live again", to)
		}
		generation, err := t.nextGeneration()
		if err != nil {
			return now, Event{}, err
		}
		next := now
		next.Live, next.LiveAt, next.liveGeneration = to, t.now, generation
		switch next.Staged {
		case 0:
			next.Staged, next.StagedAt = from, t.now
		case to:
			next.Staged, next.StagedAt = 0, time.Time{}
		}
		return next, Event{Actor: System, Action: ActionRevert, Workload: w, Revision: from, Text: fmt.Sprintf(
			"node %s went back from revision %d of %s because it was not confirmed in time: %s", node, from, w, is)}, nil
	})
	s.metrics.count(ActionRevert, err)
	return err
}
