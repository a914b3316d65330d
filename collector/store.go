package collector

import (
	"context"
	"errors"
	"time"

	"github.com/ringfence/ringfence/internal/spool"
)

// keep brings the pending batch to where it outlives the ring: to the store, or,
// while that is away, to the spool. With neither it waits in the ring. It returns
// false when ctx ends first: the store may have the batch then, or not.
func (c *Collector) keep(ctx context.Context) bool {
	p := &c.pending
	b := spool.Batch{Token: c.token(), Rows: p.rows, Start: p.span.Start, End: p.span.End}
	pause := c.pauses()
	for {
		if !c.away.Load() {
			if c.store(ctx, b) {
				c.metrics.lag.Set(max(0, c.deps.Now().Sub(p.span.End).Seconds()))
				return true
			}
			b.Doubt = true
			if ctx.Err() != nil && !c.ending {
				return false
			}
		}
		err := c.deps.Spool.Put(b)
		if err == nil {
			c.leave()
			c.metrics.spooled.Add(float64(len(b.Rows)))
			return true
		}
		c.metrics.spoolErrors.Inc()
		c.cfg.Logger.Warn("records can be neither stored nor spooled: they wait in the ring", "error", err)
		c.away.Store(false)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause.NextBackOff()):
		}
	}
}

// leave notes that the store is away, and wakes who waits for it to come back.
func (c *Collector) leave() {
	if !c.away.Swap(true) {
		c.cfg.Logger.Warn("records go to the spool: the store is away or too slow")
	}
	select {
	case c.spooled <- struct{}{}:
	default:
	}
}

// store tries to insert the pending batch for as long as patience lasts.
func (c *Collector) store(ctx context.Context, b spool.Batch) bool {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Patience)
	defer cancel()
	pause := c.pauses()
	for attempt := 1; ; attempt++ {
		err := c.insert(ctx, b)
		if err == nil {
			if attempt > 1 {
				c.cfg.Logger.Info("records are stored again", "attempts", attempt)
			}
			return true
		}
		if attempt == 1 && ctx.Err() == nil {
			c.cfg.Logger.Warn("records cannot be stored: they wait in the ring for a moment", "error", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause.NextBackOff()):
		}
	}
}

// insert is one attempt.
func (c *Collector) insert(ctx context.Context, b spool.Batch) error {
	began := time.Now()
	if err := c.deps.Sink.InsertFlows(ctx, b.Token, b.Rows); err != nil {
		c.metrics.retries.Inc()
		return err
	}
	c.metrics.seconds.Observe(time.Since(began).Seconds())
	c.metrics.stored.Add(float64(len(b.Rows)))
	c.metrics.batches.Inc()
	return nil
}

// drain stores what the spool holds, the oldest first, until ctx ends. Live
// batches do not wait for it: each has a connection of its own to the store.
func (c *Collector) drain(ctx context.Context) {
	pause := c.pauses()
	for ctx.Err() == nil {
		stored, err := c.drainOne(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			select {
			case <-ctx.Done():
			case <-time.After(pause.NextBackOff()):
			}
			continue
		case !stored:
			select {
			case <-ctx.Done():
			case <-c.spooled:
			}
		}
		pause.Reset()
	}
}

// drainOne stores the oldest batch of the spool, if there is one.
func (c *Collector) drainOne(ctx context.Context) (bool, error) {
	b, ok, err := c.deps.Spool.Take()
	if err != nil {
		c.metrics.spoolErrors.Inc()
		return false, err
	}
	if ok {
		trying, cancel := context.WithTimeout(ctx, c.cfg.Insert)
		defer cancel()
		away := c.deps.Spool.Done
		if err := c.insert(trying, b); refused(err) {
			c.cfg.Logger.Error("a batch is refused for good: its records are lost", "records", len(b.Rows), "error", err)
			away = c.deps.Spool.GiveUp // or none after it would ever be stored
		} else if err != nil {
			return false, err
		}
		if err := away(b); err != nil {
			c.metrics.spoolErrors.Inc()
			return false, err
		}
	}
	if c.away.Swap(false) {
		c.cfg.Logger.Info("the store is back")
	}
	return ok, nil
}

// refused reports whether what was sent is wrong in itself.
func refused(err error) bool {
	r, ok := errors.AsType[interface {
		error
		Refused() bool
	}](err)
	return ok && r.Refused()
}
