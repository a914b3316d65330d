package gather

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
)

// Sink stores groups. Rows that are inserted again under the same token, and
// coverage that is inserted again, are stored once.
type Sink interface {
	InsertFlows(ctx context.Context, token string, rows []flow.Labelled) error
	InsertCoverage(ctx context.Context, rows []flow.Coverage) error
}

// RefusedError says that a batch is wrong in itself: sent again it is refused
// again.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return "batch refused: " + e.Why }

// Refused is how who hands on errors tells this one from those that pass.
func (*RefusedError) Refused() bool { return true }

// ErrFull says that no more may wait: the store is away or too slow.
var ErrFull = errors.New("as much waits for the store as may: the store is away or too slow; send again later")

// ErrStopped says that the gatherer has ended, or could not begin.
var ErrStopped = errors.New("the gatherer has ended; send again to the next one")

// Level says how much waits on disk.
type Level struct {
	Groups  int
	Records uint64
	Bytes   int64
}

// Gatherer stores the batches of many nodes together. It is safe for concurrent
// use.
type Gatherer struct {
	cfg     Config
	sink    Sink
	metrics *metrics
	dir     *directory

	opening  sync.Once
	unusable error // why the directory is

	ready  chan struct{} // closed when the directory is open, or cannot be opened
	wake   chan struct{} // the open group is due at another time
	added  chan struct{} // a group is on disk
	fullAt atomic.Int64  // as many bytes waited when a group found no room
	broken atomic.Pointer[error]

	mu       sync.Mutex
	open     *group
	underWay map[string]*group // that a batch is in, by its token; or coverage
	stopped  bool
}

// group is one that is not yet on disk.
type group struct {
	note  note
	rows  []flow.Labelled
	size  int // records and rows of coverage
	due   time.Time
	keys  []string      // of underWay
	taken chan struct{} // closed when nothing more goes in
	done  chan struct{} // closed when it is on disk, or err says why not
	err   error
}

// New returns a Gatherer. It does no I/O.
func New(cfg Config, sink Sink) (*Gatherer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("gather: %w", err)
	}
	if sink == nil {
		return nil, errors.New("gather: needs a sink")
	}
	cfg = cfg.withDefaults()
	d := &directory{cfg: cfg, accepted: newAccepted(), next: 1}
	m, err := newMetrics(cfg.Registerer, d.Level)
	if err != nil {
		return nil, fmt.Errorf("gather: %w", err)
	}
	d.metrics = m
	return &Gatherer{
		cfg: cfg, sink: sink, metrics: m, dir: d,
		ready: make(chan struct{}), wake: make(chan struct{}, 1), added: make(chan struct{}, 1),
		open: newGroup(), underWay: map[string]*group{},
	}, nil
}

func newGroup() *group { return &group{taken: make(chan struct{}), done: make(chan struct{})} }

// Open reads the directory, the first time that it is called. An error means
// that the directory cannot be used.
func (g *Gatherer) Open() error {
	g.opening.Do(func() {
		if err := g.dir.open(); err != nil {
			g.stop()
			g.unusable = fmt.Errorf("gather: %w", err)
		}
		close(g.ready)
	})
	return g.unusable
}

// Run opens the directory, if nobody did, and works until ctx ends.
func (g *Gatherer) Run(ctx context.Context) error {
	if err := g.Open(); err != nil {
		return err
	}
	var storing sync.WaitGroup
	storing.Go(func() { g.store(ctx) })
	defer storing.Wait()
	g.write(ctx)
	return nil
}

// Take returns nil when b is on disk, or was before: it is stored once, whatever
// happens. The token is a spool.Token's and names node, and so do the rows;
// otherwise it is a *RefusedError. After any other error b may be sent again.
// Before Run it waits. What is taken and not yet on disk is in memory.
func (g *Gatherer) Take(ctx context.Context, node string, b spool.Batch) error {
	t, err := check(node, b)
	if err != nil {
		return g.answer(&RefusedError{Why: err.Error()})
	}
	now := time.Now().UTC()
	var span spool.Span
	denied := false
	for i := range b.Rows {
		span.Add(b.Rows[i].Time, now)
		denied = denied || b.Rows[i].Outcome != flow.OutcomeForwarded
	}
	if span.IsZero() {
		span = spool.Span{Start: now, End: now}
	}
	age := g.cfg.GroupAge
	if denied {
		age = min(age, g.cfg.DenialAge)
	}
	m := member{Token: b.Token, Records: uint64(len(b.Rows)), Start: span.Start.UTC(), End: span.End.UTC()}
	err = g.enter(ctx, b.Token, func() (bool, error) { return g.dir.accepted.has(t) }, func(into *group) {
		into.begin(now, age)
		into.note.Members = append(into.note.Members, m)
		into.rows = append(into.rows, b.Rows...)
		into.size += len(b.Rows)
	})
	return g.answer(err)
}

// check returns the token of b, or what is wrong with it.
func check(node string, b spool.Batch) (spool.Token, error) {
	t, err := spool.ParseToken(b.Token)
	switch {
	case err != nil:
		return t, err
	case t.Node != node:
		return t, fmt.Errorf("token of node %q came from node %q", t.Node, node)
	case len(b.Rows) == 0:
		return t, errors.New("no records")
	}
	for i := range b.Rows {
		if b.Rows[i].Node != node {
			return t, fmt.Errorf("record of node %q came from node %q", b.Rows[i].Node, node)
		}
	}
	return t, nil
}

// TakeCoverage is Take for coverage rows of a node. Those of one call are sent
// again together or not at all, are of one kind, and of each kind a node sends
// the next ones when it has the answer.
func (g *Gatherer) TakeCoverage(ctx context.Context, node string, rows []flow.Coverage) error {
	c := call(rows)
	if err := c.check(node); err != nil {
		return g.answer(&RefusedError{Why: err.Error()})
	}
	now := time.Now().UTC()
	err := g.enter(ctx, c.name(), func() (bool, error) { return g.dir.accepted.hasCoverage(c), nil }, func(into *group) {
		into.begin(now, g.cfg.GroupAge)
		into.note.Coverage = append(into.note.Coverage, c)
		into.size += len(c)
	})
	return g.answer(err)
}

// errRepeated says that what was to be taken was taken before.
var errRepeated = errors.New("taken before")

// answer counts what becomes of a call.
func (g *Gatherer) answer(err error) error {
	_, wrong := errors.AsType[*RefusedError](err)
	_, disk := errors.AsType[*diskError](err)
	switch {
	case errors.Is(err, errRepeated):
		g.metrics.repeated.Inc()
		return nil
	case wrong:
		g.metrics.refused.WithLabelValues(reasonWrong).Inc()
	case errors.Is(err, ErrFull):
		g.metrics.refused.WithLabelValues(reasonFull).Inc()
	case disk:
		g.metrics.refused.WithLabelValues(reasonDisk).Inc()
	}
	return err
}

// enter puts what key names into the open group, and waits until that is on
// disk. It is errRepeated if it was before, or somebody else waits for the same.
func (g *Gatherer) enter(ctx context.Context, key string, known func() (bool, error), put func(*group)) error {
	select {
	case <-g.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	into, first, err := g.place(key, known, put)
	for errors.Is(err, errNoRoom) {
		select {
		case <-into.taken:
			into, first, err = g.place(key, known, put)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-into.done:
	}
	if into.err == nil && !first {
		return errRepeated
	}
	return into.err
}

// errNoRoom says that the open group has enough.
var errNoRoom = errors.New("the open group is full")

// place returns the group that what key names is in, and whether it was put
// there now.
func (g *Gatherer) place(key string, known func() (bool, error), put func(*group)) (*group, bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return nil, false, ErrStopped
	}
	// In this order: what is not under way any more is known.
	if into := g.underWay[key]; into != nil {
		return into, false, nil
	}
	switch was, err := known(); {
	case err != nil:
		return nil, false, err
	case was:
		return nil, false, errRepeated
	case g.isFull():
		return nil, false, ErrFull
	case g.open.size >= g.cfg.GroupRecords:
		return g.open, false, errNoRoom
	}
	put(g.open)
	g.open.keys = append(g.open.keys, key)
	g.underWay[key] = g.open
	signal(g.wake)
	return g.open, true, nil
}

// isFull reports whether as much waits as when a group found no room.
func (g *Gatherer) isFull() bool {
	at := g.fullAt.Load()
	return at > 0 && g.dir.Level().Bytes >= at
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// begin makes the group due at age, or earlier if it is already.
func (gr *group) begin(now time.Time, age time.Duration) {
	if gr.size == 0 {
		gr.note.At, gr.due = now, now.Add(age)
	}
	if due := now.Add(age); due.Before(gr.due) {
		gr.due = due
	}
}
