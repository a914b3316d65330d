package enforcer

import (
	"errors"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// expire takes back every live revision whose deadline has passed. One that the
// kernel refuses to take back stays pending and is tried again.
func (e *Enforcer) expire() {
	e.stuck = ""
	for _, w := range e.held.Workloads {
		if w.Pending == nil || e.cfg.Clock.Now().Before(w.Pending.Deadline) {
			continue
		}
		if err := e.revert(w.Workload); err != nil {
			e.stuck = "revert " + w.Workload.String() + ": " + oneLine(err)
			e.metrics.revertErrors.Inc()
		}
		notify(e.changed)
	}
}

func (e *Enforcer) revert(ref flow.Workload) error {
	next := e.held.clone()
	for i := range next.Workloads {
		w := &next.Workloads[i]
		if w.Workload != ref {
			continue
		}
		w.RevertedFrom = w.Live.Number
		w.Barred = &barred{Revision: w.Live.Number, Digest: w.Live.Digest, Generation: e.requested}
		w.Live, w.Pending = w.Pending.Previous, nil
		w.SwitchedAt = e.cfg.Clock.Now()
	}
	p, err := e.compileHeld(&next)
	if err != nil {
		// The former policy no longer fits. Deciding nothing is what remains:
		// the unconfirmed one may have cut this node off.
		for i := range next.Workloads {
			if next.Workloads[i].Workload == ref {
				next.Workloads[i].Live = nil
			}
		}
		if p, err = e.compileHeld(&next); err != nil {
			return err
		}
	}
	next.setNumbers(p.numbers)
	// The way back must not depend on the disk.
	stored := next.store(e.cfg.StateDir)
	at, err := e.switchTo(p, e.plan)
	if err != nil {
		return err
	}
	e.adopt(next, p, at)
	e.metrics.reverts.Inc()
	return stored
}

// compileHeld compiles what h says, and all of it.
func (e *Enforcer) compileHeld(h *held) (*plan, error) {
	p, err := e.planner().plan(h.Inventory, h.slots())
	if err != nil {
		return nil, err
	}
	if err := errors.Join(p.refused...); err != nil {
		return nil, err
	}
	return p, nil
}

// deadline returns the earliest deadline.
func (e *Enforcer) deadline() (at time.Time, ok bool) {
	for _, w := range e.held.Workloads {
		if w.Pending != nil && (!ok || w.Pending.Deadline.Before(at)) {
			at, ok = w.Pending.Deadline, true
		}
	}
	return at, ok
}
