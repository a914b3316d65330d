package collector

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
)

// Collector carries records from one node's ring to the store.
type Collector struct {
	cfg     Config
	deps    Deps
	metrics *metrics

	labels  *Labeller
	pending batch // the reading goroutine's, and so is ending
	ending  bool  // Run was told to end
	counts  counts

	away    atomic.Bool   // the store is; batches go to the spool unasked
	spooled chan struct{} // one was
}

// batch is what was read and not yet stored.
type batch struct {
	start, end uint64
	sum        uint64
	rows       []flow.Labelled
	since      time.Time // its first record was read
	denied     bool      // a slot denied a record's packets
	span       spool.Span
}

func (b *batch) empty() bool { return b.start == b.end }

// New returns a Collector. It does no I/O.
func New(cfg Config, deps Deps) (*Collector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	cfg = cfg.withDefaults()
	if deps.Reader == nil || deps.Datapath == nil || deps.Owners == nil || deps.Sink == nil || deps.Spool == nil {
		return nil, errors.New("collector: needs a reader, a datapath, owners, a sink and a spool")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	m, err := newMetrics(cfg.Registerer, deps)
	if err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	return &Collector{cfg: cfg, deps: deps, metrics: m, labels: NewLabeller(cfg.Node, deps.Owners), spooled: make(chan struct{}, 1)}, nil
}

// Run collects until ctx ends, and then stores or spools what it has read. An
// error means that the ring cannot be read any more.
func (c *Collector) Run(ctx context.Context) error {
	// The others outlive ctx until the last record is read, so that the last
	// heartbeat knows of it.
	until, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	others.Go(func() { c.sweep(until) })
	others.Go(func() { c.heartbeats(until) })
	others.Go(func() { c.drain(ctx) })
	return c.read(ctx)
}

func (c *Collector) read(ctx context.Context) error {
	// Until records can be attributed they wait in the ring.
	select {
	case <-c.deps.Owners.Ready():
	case <-ctx.Done():
		return nil
	}
	if err := c.replay(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := c.fill(ctx); err != nil {
			return err
		}
		if err := c.flush(ctx); err != nil {
			return err
		}
	}
	return c.last(ctx)
}

// replay stores what the last process meant to store and perhaps did.
func (c *Collector) replay(ctx context.Context) error {
	b, ok, err := c.deps.Reader.Replay()
	if err != nil {
		return fmt.Errorf("replay ring: %w", err)
	}
	if !ok {
		return nil
	}
	c.metrics.replayed.Add(float64(len(b.Records)))
	c.take(b)
	// It may have got as far as the spool.
	if newest, err := c.deps.Spool.Newest(); err != nil {
		return err
	} else if newest == c.token() {
		return c.commit()
	}
	return c.flush(ctx)
}

// fill reads until the batch is large or old enough, or ctx ends.
func (c *Collector) fill(ctx context.Context) error {
	for {
		until, cancel := ctx, context.CancelFunc(func() {})
		if !c.pending.empty() {
			until, cancel = context.WithDeadline(ctx, c.due())
		}
		b, err := c.deps.Reader.Next(until)
		full := until.Err() != nil
		cancel()
		switch {
		case err != nil && !full:
			return fmt.Errorf("read ring: %w", err)
		case err == nil:
			c.take(b)
		}
		if full || len(c.pending.rows) >= c.cfg.BatchRecords {
			return nil //nolint:nilerr // the error is that the time is up
		}
	}
}

// due is when the pending batch is old enough: the later, the fewer records wait
// in it. Denials are waited for, by people and by what rolls back.
func (c *Collector) due() time.Time {
	age := c.cfg.BatchAge
	if p := &c.pending; !p.denied {
		few := c.cfg.SmallRecords
		age = max(age, c.cfg.SmallAge*time.Duration(few)/time.Duration(max(few, len(p.rows))))
	}
	return c.pending.since.Add(age)
}

// take labels a batch of the ring and adds it to the pending one.
func (c *Collector) take(b bpf.Batch) {
	if b.End == b.Start {
		return
	}
	p := &c.pending
	now := time.Now()
	if p.empty() {
		p.start, p.since = b.Start, now
	}
	p.end = b.End
	p.sum += b.Sum
	unattributed := 0
	p.rows, unattributed = c.labels.Label(p.rows, b.Records)
	p.note(b.Records, now)
	c.metrics.unattributed.Add(float64(unattributed))
	c.metrics.read.Add(float64(len(b.Records)))
	c.metrics.truncated.Add(float64(b.Truncated))
	c.metrics.queued.Set(float64(len(p.rows)))
	c.counts.add(uint64(len(b.Records)), uint64(b.Truncated)) //nolint:gosec // counts are positive
}

// note takes down what a batch is asked for: its time, and whether it has denials.
func (b *batch) note(records []flow.Record, now time.Time) {
	for i := range records {
		b.denied = b.denied || records[i].Outcome != flow.OutcomeForwarded
		b.span.Add(records[i].Time, now)
	}
	if b.span.IsZero() {
		b.span = spool.Span{Start: b.since, End: b.since}
	}
}

// token names the pending batch.
func (c *Collector) token() string {
	p := &c.pending
	return spool.Token{Node: c.cfg.Node, Ring: c.deps.Reader.RingID(), Start: p.start, End: p.end, Sum: p.sum}.String()
}

// flush stores or spools the pending batch and gives it back to the ring. When
// ctx ends first, the batch stays pending.
func (c *Collector) flush(ctx context.Context) error {
	p := &c.pending
	if p.empty() {
		return nil
	}
	if len(p.rows) > 0 {
		if err := c.deps.Reader.Intend(p.start, p.end); err != nil {
			return fmt.Errorf("note batch in ring: %w", err)
		}
		if !c.keep(ctx) {
			return nil
		}
	}
	return c.commit()
}

func (c *Collector) commit() error {
	p := &c.pending
	if err := c.deps.Reader.Commit(p.end); err != nil {
		return fmt.Errorf("give batch back to ring: %w", err)
	}
	*p = batch{rows: p.rows[:0]}
	c.metrics.queued.Set(0)
	return nil
}

func (c *Collector) pauses() *backoff.ExponentialBackOff {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = c.cfg.MinPause, c.cfg.MaxPause
	pause.Reset()
	return pause
}

// last stores or spools what is left when Run is told to end, as far as there is
// time. The rest stays in the ring for the next process.
func (c *Collector) last(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Flush)
	defer cancel()
	c.ending = true
	if err := c.flush(bounded); err != nil || bounded.Err() != nil {
		return err
	}
	// What the ring holds now, and not what is still being written to it.
	done, stop := context.WithCancel(bounded)
	stop()
	for bounded.Err() == nil {
		b, err := c.deps.Reader.Next(done)
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("read ring: %w", err)
		}
		if c.take(b); b.End == b.Start || len(c.pending.rows) >= 2*c.cfg.BatchRecords {
			break
		}
	}
	return c.flush(bounded)
}

// sweep makes the kernel report and end flows, until ctx ends.
func (c *Collector) sweep(ctx context.Context) {
	tick := time.NewTicker(c.cfg.Sweep)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_, err := c.deps.Datapath.Sweep(ctx)
		if err != nil && ctx.Err() == nil {
			c.metrics.sweepErrors.Inc()
			if !failing {
				c.cfg.Logger.Error("flow table cannot be swept: long flows are not reported", "error", err)
			}
		}
		failing = err != nil
	}
}
