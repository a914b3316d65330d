package gather

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/ringfence/ringfence/internal/spool"
	"github.com/ringfence/ringfence/internal/statefile"
)

// store stores groups until ctx ends, the newest and the oldest by turns: what
// came while the store was away does not hold up what comes now.
func (g *Gatherer) store(ctx context.Context) {
	newest := true
	for ctx.Err() == nil {
		w, ok := g.dir.pick(newest)
		if !ok {
			select {
			case <-ctx.Done():
			case <-g.added:
			}
			continue
		}
		g.insist(ctx, w)
		newest = !newest
	}
}

// insist stores a group, again and again: the store may have it already, and
// knows it only until it has taken many others.
func (g *Gatherer) insist(ctx context.Context, w waiting) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = g.cfg.MinPause, g.cfg.MaxPause
	pause.Reset()
	for {
		err := g.storeOne(ctx, w)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			if g.broken.Swap(nil) != nil {
				g.cfg.Logger.Info("agents' records are stored again")
			}
			return
		}
		g.metrics.retries.Inc()
		if g.broken.Swap(&err) == nil {
			g.cfg.Logger.Warn("agents' records cannot be stored: they wait on disk", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause.NextBackOff()):
		}
	}
}

// Problem returns why nothing can be stored at the moment, or nil.
func (g *Gatherer) Problem() error {
	if err := g.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// Level returns how much waits.
func (g *Gatherer) Level() Level { return g.dir.Level() }

// storeOne stores a group, or that it is damaged. After an error it is stored
// again: it has the same rows and the same token.
func (g *Gatherer) storeOne(ctx context.Context, w waiting) error {
	n, b, err := g.dir.read(w.number)
	if damaged, is := errors.AsType[*statefile.DamagedError](err); is {
		g.cfg.Logger.Error("a group is damaged: its records are lost, and stored as dropped", "records", w.records, "error", damaged)
		return g.dir.replace(w)
	}
	if err != nil {
		return err
	}
	if err := g.insert(ctx, n, b); err != nil {
		return err
	}
	if err := g.dir.done(w); err != nil {
		return err
	}
	g.metrics.groups.Inc()
	g.metrics.groupRecords.Observe(float64(w.records))
	g.metrics.seconds.Observe(time.Since(w.since).Seconds())
	if err := g.dir.fold(time.Now()); err != nil {
		g.metrics.stateErrors.Inc()
		g.cfg.Logger.Warn("what agents handed over stays in many files", "error", err)
	}
	return nil
}

func (g *Gatherer) insert(ctx context.Context, n note, b spool.Batch) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Insert)
	defer cancel()
	if len(b.Rows) > 0 {
		if err := g.sink.InsertFlows(ctx, b.Token, b.Rows); err != nil {
			return fmt.Errorf("store group: %w", err)
		}
	}
	if rows := n.rows(); len(rows) > 0 {
		if err := g.sink.InsertCoverage(ctx, rows); err != nil {
			return fmt.Errorf("store coverage of group: %w", err)
		}
	}
	return nil
}
