package collector

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
)

// Collector carries records from one node's ring to the store.
type Collector struct {
	cfg     Config
	deps    Deps
	metrics *metrics

	labels  labeller // used by the reading goroutine only
	pending batch    // likewise
	counts  counts
}

// batch is what was read and not yet stored.
type batch struct {
	start, end uint64
	rows       []flow.Labelled
	since      time.Time // its first record was read
	newest     time.Time // of its records' times
}

func (b *batch) empty() bool { return b.start == b.end }

// New returns a Collector. It does no I/O.
func New(cfg Config, deps Deps) (*Collector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	cfg = cfg.withDefaults()
	if deps.Reader == nil || deps.Datapath == nil || deps.Inventories == nil || deps.Sink == nil {
		return nil, errors.New("collector: needs a reader, a datapath, inventories and a sink")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Endpoints == nil {
		deps.Endpoints = func() int { return 0 }
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	return &Collector{cfg: cfg, deps: deps, metrics: m, labels: labeller{node: cfg.Node, history: cfg.History}}, nil
}

// Run collects until ctx ends, and then stores what it has read. An error means
// that the ring cannot be read any more.
func (c *Collector) Run(ctx context.Context) error {
	// The others outlive ctx until the last record is read, so that the last
	// heartbeat knows of it.
	until, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	others.Go(func() { c.sweep(until) })
	others.Go(func() { c.heartbeats(until) })
	return c.read(ctx)
}

func (c *Collector) read(ctx context.Context) error {
	if !c.awaitInventory(ctx) {
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

// awaitInventory waits until records can be attributed. They wait in the ring.
func (c *Collector) awaitInventory(ctx context.Context) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if c.learn(); c.labels.ready() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

func (c *Collector) learn() {
	index, since := c.deps.Inventories.Inventory()
	c.labels.learn(index, since, c.deps.Now())
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
	return c.flush(ctx)
}

// fill reads until the batch is large or old enough, or ctx ends.
func (c *Collector) fill(ctx context.Context) error {
	for {
		until, cancel := ctx, context.CancelFunc(func() {})
		if !c.pending.empty() {
			until, cancel = context.WithDeadline(ctx, c.pending.since.Add(c.cfg.BatchAge))
		}
		b, err := c.deps.Reader.Next(until)
		full := until.Err() != nil
		cancel()
		switch {
		case err != nil && !full:
			return fmt.Errorf("read ring: %w", err)
		case err == nil:
			c.learn()
			c.take(b)
		}
		if full || len(c.pending.rows) >= c.cfg.BatchRecords {
			return nil //nolint:nilerr // the error is that the time is up
		}
	}
}

// take labels a batch of the ring and adds it to the pending one.
func (c *Collector) take(b bpf.Batch) {
	if b.End == b.Start {
		return
	}
	if c.pending.empty() {
		c.pending.start, c.pending.since = b.Start, time.Now()
	}
	c.pending.end = b.End
	for _, r := range b.Records {
		row := c.labels.label(r)
		if !row.Observer.IsWorkload() {
			c.metrics.unattributed.Inc()
		}
		if r.Time.After(c.pending.newest) {
			c.pending.newest = r.Time
		}
		c.pending.rows = append(c.pending.rows, row)
	}
	c.metrics.read.Add(float64(len(b.Records)))
	c.metrics.truncated.Add(float64(b.Truncated))
	c.counts.add(uint64(len(b.Records)), uint64(b.Truncated)) //nolint:gosec // counts are positive
}

// flush stores the pending batch and gives it back to the ring. When ctx ends
// first, the batch stays pending.
func (c *Collector) flush(ctx context.Context) error {
	p := &c.pending
	if p.empty() {
		return nil
	}
	if len(p.rows) > 0 {
		if err := c.deps.Reader.Intend(p.start, p.end); err != nil {
			return fmt.Errorf("note batch in ring: %w", err)
		}
		if !c.store(ctx) {
			return nil
		}
		c.metrics.stored.Add(float64(len(p.rows)))
		c.metrics.batches.Inc()
		c.metrics.lag.Set(max(0, c.deps.Now().Sub(p.newest).Seconds()))
	}
	if err := c.deps.Reader.Commit(p.end); err != nil {
		return fmt.Errorf("give batch back to ring: %w", err)
	}
	*p = batch{rows: p.rows[:0]}
	return nil
}

// store inserts the pending batch, however often it takes. It returns false when
// ctx ends first: the batch may be stored then, or not.
func (c *Collector) store(ctx context.Context) bool {
	p := &c.pending
	token := fmt.Sprintf("%s/%x/%d-%d", c.cfg.Node, c.deps.Reader.RingID(), p.start, p.end)
	pause := c.pauses()
	for attempt := 1; ; attempt++ {
		began := time.Now()
		trying, cancel := context.WithTimeout(ctx, c.cfg.Insert)
		err := c.deps.Sink.InsertFlows(trying, token, p.rows)
		cancel()
		if err == nil {
			c.metrics.seconds.Observe(time.Since(began).Seconds())
			if attempt > 1 {
				c.cfg.Logger.Info("records are stored again", "attempts", attempt)
			}
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		c.metrics.retries.Inc()
		if attempt == 1 {
			c.cfg.Logger.Warn("records cannot be stored: they wait in the ring", "error", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause.NextBackOff()):
		}
	}
}

func (c *Collector) pauses() *backoff.ExponentialBackOff {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = c.cfg.MinPause, c.cfg.MaxPause
	pause.Reset()
	return pause
}

// last stores what is left when Run is told to end, as far as there is time.
// The rest stays in the ring for the next process.
func (c *Collector) last(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Flush)
	defer cancel()
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
