package enforcer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/rollout"
)

// Enforcer makes one node's kernel hold what the server asks for. Its methods
// may be called from several goroutines.
type Enforcer struct {
	cfg     Config
	dp      Datapath
	confirm Confirmer
	metrics *metrics

	known   atomic.Pointer[known]
	changed chan struct{} // something to report
	wake    chan struct{} // something for Run to look at

	mu        sync.Mutex
	held      held
	plan      *plan // of held; nil until there is one
	kernel    kernel
	requested uint64 // generation of the newest State
	refused   string // why that State was not applied whole
	stuck     string // why a revert that is due could not be made
}

// known is the inventory whose addresses the kernel was given, and when.
type known struct {
	index *inventory.Index
	since time.Time
}

// New returns an Enforcer of dp. It does no I/O. confirm may be nil when
// something else calls Confirm.
func New(cfg Config, dp Datapath, confirm Confirmer) (*Enforcer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("enforcer: %w", err)
	}
	cfg = cfg.withDefaults()
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("enforcer: %w", err)
	}
	return &Enforcer{
		cfg: cfg, dp: dp, confirm: confirm, metrics: m,
		changed: make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		kernel:  kernel{tables: map[bpf.TableKey]digest{}},
	}, nil
}

// Start makes the kernel agree with what the last process on this node intended,
// and takes back what was not confirmed in time. A missing or damaged state file
// leaves the kernel as it is until a State comes; Report says so.
func (e *Enforcer) Start(ctx context.Context) (rollout.Report, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return rollout.Report{}, err
	}
	if _, err := e.readKernel(); err != nil {
		return rollout.Report{}, err
	}
	h, err := load(e.cfg.StateDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return e.report(), nil
	case err != nil:
		e.refused = oneLine(err) + "; the kernel keeps what it has"
		e.metrics.damaged.Inc()
		return e.report(), nil
	}
	e.held, e.requested = h, h.Requested
	if e.plan, err = e.compileHeld(&h); err != nil {
		e.held, e.plan = held{}, nil
		e.refused = "resume: " + oneLine(err) + "; the kernel keeps what it has"
		return e.report(), nil
	}
	// What is overdue goes back before anything else is put in force.
	e.expire()
	e.repair(0)
	notify(e.wake)
	return e.report(), nil
}

// Apply makes st true on this node, as far as it can be. The report says what
// is in force; an error says what was refused, for which the former policy
// stays.
func (e *Enforcer) Apply(ctx context.Context, st rollout.State) (rollout.Report, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return e.report(), err
	}
	started := e.cfg.Clock.Now()
	err := e.take(st)
	e.metrics.applied(err, e.cfg.Clock.Now().Sub(started))
	e.requested = st.Generation
	e.refused = ""
	if err != nil {
		e.refused = oneLine(err)
	}
	notify(e.changed)
	notify(e.wake)
	return e.report(), err
}

func (e *Enforcer) take(st rollout.State) error {
	e.expire()
	wanted := map[flow.Workload]slots{}
	for _, s := range st.Slots {
		wanted[s.Workload] = slots{Live: e.permitted(st, s), Staged: s.Staged}
	}
	pl := e.planner()
	pl.approving = e.plan != nil
	p, err := pl.plan(st.Inventory, wanted)
	if err != nil {
		return err
	}
	next := e.next(st, p)
	if err := e.commit(next, p); err != nil {
		return err
	}
	return errors.Join(p.refused...)
}

func (e *Enforcer) planner() planner {
	return planner{node: e.cfg.Node, limits: e.dp.Capacity(), former: e.plan, known: e.held.numbers()}
}

// permitted returns the live revision that st asks for, unless this very State
// asked for it before and it was not confirmed: then the one in force.
func (e *Enforcer) permitted(st rollout.State, s rollout.Slots) *rollout.Revision {
	w := e.held.workload(s.Workload)
	if b := w.Barred; b != nil && s.Live != nil && b.Generation == st.Generation &&
		b.Revision == s.Live.Number && b.Digest == s.Live.Digest {
		return w.Live
	}
	return s.Live
}

// next returns what to hold when st is applied as p.
func (e *Enforcer) next(st rollout.State, p *plan) held {
	out := held{Generation: st.Generation, Requested: st.Generation, Inventory: *p.index.Inventory()}
	if len(p.refused) > 0 {
		out.Generation = e.held.Generation
	}
	confirm := map[flow.Workload]time.Duration{}
	for _, s := range st.Slots {
		confirm[s.Workload] = s.Confirm
	}
	for _, ref := range slices.SortedFunc(maps.Keys(p.slots), flow.Workload.Compare) {
		w := e.held.workload(ref)
		live := w.Live
		w.slots = p.slots[ref]
		if !sameRevision(live, w.Live) {
			w.Pending = e.pending(w.Pending, live, w.Live, confirm[ref])
			w.SwitchedAt = e.cfg.Clock.Now()
		}
		if w.Barred != nil && w.Barred.Generation != st.Generation {
			// The server heard of it, and asks anew or for something else.
			w.Barred, w.RevertedFrom = nil, 0
		}
		out.Workloads = append(out.Workloads, w)
	}
	out.setNumbers(p.numbers)
	return out
}

// pending returns the commit-confirm of a change from one live revision to
// another: none when the new one denies nothing.
func (e *Enforcer) pending(former *pending, from, to *rollout.Revision, confirm time.Duration) *pending {
	if !isolates(to) {
		return nil
	}
	if confirm <= 0 {
		confirm = e.cfg.Confirm
	}
	out := &pending{Previous: from, Deadline: e.cfg.Clock.Now().Add(confirm)}
	if former != nil {
		// What came between was never confirmed either.
		out.Previous = former.Previous
	}
	return out
}

// commit writes down what is intended, switches the kernel, and on failure takes
// the intention back.
func (e *Enforcer) commit(next held, p *plan) error {
	if err := next.store(e.cfg.StateDir); err != nil {
		return err
	}
	at, err := e.switchTo(p, e.plan)
	if err != nil {
		return errors.Join(err, e.held.store(e.cfg.StateDir))
	}
	e.adopt(next, p, at)
	return nil
}

// adopt makes next what is held, after the kernel switched to it.
func (e *Enforcer) adopt(next held, p *plan, at time.Time) {
	for i := range next.Workloads {
		w := &next.Workloads[i]
		if !sameRevision(e.held.workload(w.Workload).Live, w.Live) {
			w.SwitchedAt = at
			e.metrics.switches.Inc()
		}
	}
	e.held, e.plan = next, p
	e.settle(p)
	e.metrics.pending.Set(float64(e.awaiting()))
}

// Confirm ends the wait for the server's confirmation of a live revision. It is
// an error when that revision is not, or no longer, waiting.
func (e *Enforcer) Confirm(ref flow.Workload, revision uint32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.expire()
	next := e.held.clone()
	for i := range next.Workloads {
		w := &next.Workloads[i]
		if w.Workload != ref || w.Pending == nil || w.Live == nil || w.Live.Number != revision {
			continue
		}
		w.Pending = nil
		if err := next.store(e.cfg.StateDir); err != nil {
			return err
		}
		e.held = next
		e.metrics.pending.Set(float64(e.awaiting()))
		notify(e.changed)
		notify(e.wake)
		return nil
	}
	return fmt.Errorf("confirm %s revision %d: it does not await confirmation", ref, revision)
}

// Report says what this node's kernel holds.
func (e *Enforcer) Report() rollout.Report {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.report()
}

// Inventory returns the inventory by which the kernel knows addresses, and since
// when; nil until there is one. The same inventory is the same pointer.
func (e *Enforcer) Inventory() (*inventory.Index, time.Time) {
	if k := e.known.Load(); k != nil {
		return k.index, k.since
	}
	return nil, time.Time{}
}

// Changed tells when there is something new to report.
func (e *Enforcer) Changed() <-chan struct{} { return e.changed }

func (e *Enforcer) report() rollout.Report {
	r := rollout.Report{
		Node: e.cfg.Node, Version: e.cfg.Version, Generation: e.held.Generation,
		Time: e.cfg.Clock.Now(), Panicked: e.dp.Panicked(),
		Workloads: []rollout.Effective{},
	}
	r.Error = e.refused
	r.Problems = slices.Concat(e.kernel.problems, e.kernel.unwatched)
	if e.stuck != "" {
		r.Problems = append(r.Problems, e.stuck)
	}
	if e.plan == nil {
		return r
	}
	r.Problems = append(r.Problems, e.plan.problems...)
	for _, ref := range slices.SortedFunc(maps.Keys(e.plan.endpoints), flow.Workload.Compare) {
		r.Workloads = append(r.Workloads, e.effective(ref))
	}
	return r
}

func (e *Enforcer) effective(ref flow.Workload) rollout.Effective {
	w := e.held.workload(ref)
	out := rollout.Effective{Workload: ref, SwitchedAt: w.SwitchedAt, RevertedFrom: w.RevertedFrom}
	if w.Live != nil {
		out.LiveRevision = w.Live.Number
	}
	if w.Staged != nil {
		out.StagedRevision = w.Staged.Number
	}
	if w.Pending != nil {
		out.Unconfirmed, out.Deadline = true, w.Pending.Deadline
	}
	identity := e.plan.index.Workload(ref).Identity
	for _, a := range e.kernel.attached {
		if a.Identity != identity {
			continue
		}
		out.Endpoints++
		if a.ObservedSince.After(out.ObservedSince) {
			out.ObservedSince = a.ObservedSince
		}
	}
	return out
}

func (e *Enforcer) awaiting() (n int) {
	for _, w := range e.held.Workloads {
		if w.Pending != nil {
			n++
		}
	}
	return n
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
