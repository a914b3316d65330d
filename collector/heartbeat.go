package collector

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/statefile"
)

// What the datapath counts under these names is lost, or only late.
const (
	counterLost    = "unreported_packets"
	counterDelayed = "ring_full"
)

// maxOwed bounds the heartbeats that wait while the store is away. Beyond, two
// old ones become one: their intervals touch.
const maxOwed = 1000

// counts are what the reading goroutine has seen since the last heartbeat.
type counts struct {
	mu        sync.Mutex
	records   uint64
	truncated uint64
}

func (c *counts) add(records, truncated uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records += records
	c.truncated += truncated
}

func (c *counts) take() (records, truncated uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	records, truncated = c.records, c.truncated
	c.records, c.truncated = 0, 0
	return records, truncated
}

// beat is what the last heartbeat left behind, also for the next process.
type beat struct {
	CountersID uint64    `json:"countersId"`
	End        time.Time `json:"end"`
	Lost       uint64    `json:"lost"` // totals of these counters
	Delayed    uint64    `json:"delayed"`
}

const stateName = "collector.state"

// pulse makes heartbeats. Its goroutine is the only one that uses it.
type pulse struct {
	c       *Collector
	path    string
	last    beat
	started bool // the first one was made
	owed    []flow.Coverage
}

// heartbeats stores, every interval, what this node saw and what it missed. The
// time in which no agent ran is in no interval, and so shows as a gap.
func (c *Collector) heartbeats(ctx context.Context) {
	p := c.newPulse()
	tick := time.NewTicker(c.cfg.Heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			final, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Flush)
			defer cancel()
			p.beat(final)
			return
		case <-tick.C:
			p.beat(ctx)
		}
	}
}

func (c *Collector) newPulse() *pulse {
	p := &pulse{c: c, path: filepath.Join(c.cfg.StateDir, stateName)}
	raw, err := statefile.Read(p.path)
	if err == nil {
		err = json.Unmarshal(raw, &p.last)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.metrics.stateErrors.Inc()
		c.cfg.Logger.Warn("last heartbeat is not known: losses before it may be counted again", "error", err)
	}
	if id := c.deps.Datapath.CountersID(); p.last.CountersID != id {
		// Other maps, whose counters began at 0.
		p.last = beat{CountersID: id}
	}
	// Losses of the time between two agents belong to the first interval, but
	// the time does not: nobody was there to see it.
	p.last.End = c.deps.Now()
	return p
}

// beat makes one heartbeat and stores it with those that are owed.
func (p *pulse) beat(ctx context.Context) {
	c := p.c
	counters, err := c.deps.Datapath.Counters()
	if err != nil {
		c.metrics.heartbeatErrors.Inc()
		return // the interval grows until the counters can be read
	}
	records, truncated := c.counts.take()
	now := c.deps.Now()
	p.owed = append(p.owed, flow.Coverage{
		Node: c.cfg.Node, Start: p.last.End, End: now,
		Records:   records,
		Lost:      since(counters[counterLost], p.last.Lost) + truncated,
		Delayed:   since(counters[counterDelayed], p.last.Delayed),
		Endpoints: c.deps.Endpoints(), Started: !p.started,
	})
	p.started = true
	p.last.End, p.last.Lost, p.last.Delayed = now, counters[counterLost], counters[counterDelayed]
	if len(p.owed) > maxOwed {
		// Not the first: the store may have it, and knows it by what it says.
		p.owed = append([]flow.Coverage{p.owed[0], merge(p.owed[1], p.owed[2])}, p.owed[3:]...)
	}
	if p.pay(ctx) {
		// After the store has it: a loss must not be forgotten with the process.
		p.save()
	}
}

// pay stores the heartbeats that are owed. Each goes by itself: one that is sent
// again, because its answer was lost, is the same block and so stored once.
func (p *pulse) pay(ctx context.Context) bool {
	for len(p.owed) > 0 {
		inserting, cancel := context.WithTimeout(ctx, p.c.cfg.Insert)
		err := p.c.deps.Sink.InsertCoverage(inserting, p.owed[:1])
		cancel()
		if err != nil {
			p.c.metrics.heartbeatErrors.Inc()
			return false
		}
		p.owed = p.owed[1:]
	}
	return true
}

func (p *pulse) save() {
	raw, err := json.Marshal(p.last)
	if err == nil {
		err = statefile.Write(p.path, raw)
	}
	if err != nil {
		p.c.metrics.stateErrors.Inc()
	}
}

// since returns how far a total grew. One that fell began anew.
func since(total, last uint64) uint64 {
	if total < last {
		return total
	}
	return total - last
}

func merge(a, b flow.Coverage) flow.Coverage {
	b.Start = a.Start
	b.Records += a.Records
	b.Lost += a.Lost
	b.Delayed += a.Delayed
	b.Dropped += a.Dropped
	b.Started = a.Started || b.Started
	return b
}
