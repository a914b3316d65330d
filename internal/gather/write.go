package gather

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// diskError says that a group could not be written.
type diskError struct{ err error }

func (e *diskError) Error() string { return fmt.Sprintf("the batch is not on disk: %v", e.err) }
func (e *diskError) Unwrap() error { return e.err }

// write brings one group after the other to disk, until ctx ends and the last
// one is there.
func (g *Gatherer) write(ctx context.Context) {
	for ctx.Err() == nil {
		if wait := g.due(); wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-g.wake:
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		g.writeOne()
	}
	g.stop()
	g.writeOne()
}

// idle is how long to wait when nothing is there to wait for.
const idle = time.Hour

// due returns how long the open group may wait.
func (g *Gatherer) due() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch gr := g.open; {
	case gr.size == 0:
		return idle
	case gr.size >= g.cfg.GroupRecords:
		return 0
	default:
		return time.Until(gr.due)
	}
}

// stop lets nothing more in.
func (g *Gatherer) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
}

// writeOne brings the open group to disk and answers who waits for that.
func (g *Gatherer) writeOne() {
	g.mu.Lock()
	gr := g.open
	if gr.size == 0 {
		g.mu.Unlock()
		return
	}
	g.open = newGroup()
	g.mu.Unlock()
	close(gr.taken)
	err := g.dir.put(gr.note, gr.rows)
	switch {
	case err == nil:
		g.metrics.batches.Add(float64(len(gr.note.Members)))
		g.metrics.records.Add(float64(len(gr.rows)))
		g.metrics.coverage.Add(float64(gr.size - len(gr.rows)))
		signal(g.added)
	case errors.Is(err, ErrFull):
		g.fullAt.Store(g.dir.Level().Bytes)
		gr.err = err
	default:
		g.cfg.Logger.Warn("agents' batches cannot be written to disk: they send them again", "error", err)
		gr.err = &diskError{err}
	}
	g.mu.Lock()
	for _, key := range gr.keys {
		delete(g.underWay, key)
	}
	g.mu.Unlock()
	close(gr.done)
}
