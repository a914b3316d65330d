package enforcer

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// retryRevert is the pause before a revert that the kernel refused is tried again.
const retryRevert = time.Second

// Run keeps the deadlines, asks the server for confirmations and repairs drift,
// until ctx ends. What was not confirmed by then is taken back by the next
// process on this node.
func (e *Enforcer) Run(ctx context.Context) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	check := e.cfg.Clock.After(e.cfg.Check)
	asked := map[question]bool{}
	var moved <-chan struct{}
	if e.cfg.Interfaces != nil {
		moved = e.cfg.Interfaces.Changed()
	}
	for {
		e.ask(ctx, &asking, asked)
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		case <-moved:
			e.follow()
		case <-e.nextDeadline():
		case <-check:
			e.checkKernel()
			check = e.cfg.Clock.After(e.cfg.Check)
		}
		e.mu.Lock()
		e.expire()
		e.mu.Unlock()
	}
}

// nextDeadline returns a channel that fires at the earliest deadline, or nil.
func (e *Enforcer) nextDeadline() <-chan time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	at, ok := e.deadline()
	if !ok {
		return nil
	}
	wait := at.Sub(e.cfg.Clock.Now())
	if e.stuck != "" {
		wait = max(wait, retryRevert)
	}
	return e.cfg.Clock.After(wait)
}

// checkKernel compares the kernel with what it should hold and repairs it.
func (e *Enforcer) checkKernel() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.plan == nil {
		return
	}
	before := slices.Concat(e.kernel.problems, e.kernel.unwatched)
	drifted, err := e.readKernel()
	if err != nil {
		e.kernel.problems = []string{oneLine(err)}
		return
	}
	if drifted > 0 {
		e.cfg.Logger.Warn("kernel policies were changed from outside; repairing", "tables", drifted)
	}
	e.forget()
	e.repair(drifted)
	if drifted > 0 || !slices.Equal(slices.Concat(e.kernel.problems, e.kernel.unwatched), before) {
		notify(e.changed)
	}
}

// question is one switch that awaits confirmation.
type question struct {
	workload flow.Workload
	revision uint32
	deadline time.Time
}

// ask starts to ask the server about every pending switch that it does not ask
// about yet.
func (e *Enforcer) ask(ctx context.Context, asking *sync.WaitGroup, asked map[question]bool) {
	if e.confirm == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	open := map[question]bool{}
	for _, w := range e.held.Workloads {
		if w.Pending == nil {
			continue
		}
		q := question{workload: w.Workload, revision: w.Live.Number, deadline: w.Pending.Deadline}
		open[q] = true
		if !asked[q] {
			asked[q] = true
			asking.Go(func() { e.askUntilAnswered(ctx, q) })
		}
	}
	for q := range asked {
		if !open[q] {
			delete(asked, q)
		}
	}
}

func (e *Enforcer) askUntilAnswered(ctx context.Context, q question) {
	for e.awaits(q) {
		attempt, cancel := context.WithTimeout(ctx, e.cfg.ConfirmAttempt)
		err := e.confirm.Confirm(attempt, q.workload, q.revision)
		cancel()
		if err == nil {
			err = e.Confirm(q.workload, q.revision)
		}
		if err == nil {
			return
		}
		e.metrics.confirmErrors.Inc()
		select {
		case <-ctx.Done():
			return
		case <-e.cfg.Clock.After(e.cfg.ConfirmRetry):
		}
	}
}

// awaits reports whether q is still open.
func (e *Enforcer) awaits(q question) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.held.workload(q.workload)
	return w.Pending != nil && w.Live.Number == q.revision && w.Pending.Deadline.Equal(q.deadline)
}
