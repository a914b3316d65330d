package collector

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
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

// maxOwed bounds the heartbeats, and the gaps, that wait while the store is away.
// Beyond, two old ones become one.
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
	watch   watch
	gaps    []flow.Coverage // times in which an endpoint had no program; owed, too

	skew   time.Duration // of this node's clock, as of asked
	skewed time.Time     // when it was
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
			p.beat(final, 0)
			return
		case <-tick.C:
			p.beat(ctx, openGap)
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
	p.watch = newWatch(p.last.End)
	return p
}

// beat makes one heartbeat and stores it with those that are owed. Gaps that go
// on are told of when they are as long as open.
func (p *pulse) beat(ctx context.Context, open time.Duration) {
	c := p.c
	if len(p.gaps) > 0 {
		open = math.MaxInt64 // they grow as well where they are
	}
	counters, err := c.deps.Datapath.Counters()
	if err != nil {
		c.metrics.heartbeatErrors.Inc()
		return // the interval grows until the counters can be read
	}
	attached, err := c.deps.Datapath.Attached()
	if err != nil {
		c.metrics.heartbeatErrors.Inc()
		return
	}
	p.ask(ctx)
	records, truncated := c.counts.take()
	now := c.deps.Now()
	p.owed = append(p.owed, flow.Coverage{
		Node: c.cfg.Node, Start: p.last.End, End: now,
		Records: records,
		Lost:    since(counters[counterLost], p.last.Lost) + truncated,
		Delayed: since(counters[counterDelayed], p.last.Delayed),
		Spooled: c.deps.Spool.Level().Records, Skew: p.skew,
		Endpoints: len(attached), Started: !p.started,
	})
	for _, g := range p.watch.look(c.deps.Owners.Local(), attached, now, open) {
		g.Node = c.cfg.Node
		p.gaps = append(p.gaps, g)
	}
	p.started = true
	p.last.End, p.last.Lost, p.last.Delayed = now, counters[counterLost], counters[counterDelayed]
	p.owed, p.gaps = bounded(p.owed), bounded(p.gaps)
	if p.pay(ctx, &p.owed) {
		// After the store has it: a loss must not be forgotten with the process.
		p.save()
		if p.pay(ctx, &p.gaps) {
			p.payDropped(ctx)
		}
	}
}

// bounded makes two old ones one, if they are too many. Not the first: the store
// may have it, and knows it by what it says.
func bounded(owed []flow.Coverage) []flow.Coverage {
	for len(owed) > maxOwed {
		owed = append([]flow.Coverage{owed[0], merge(owed[1], owed[2])}, owed[3:]...)
	}
	return owed
}

// pay stores what is owed. Each goes by itself: one that is sent again, because
// its answer was lost, is the same block and so stored once.
func (p *pulse) pay(ctx context.Context, owed *[]flow.Coverage) bool {
	for len(*owed) > 0 {
		if !p.send(ctx, (*owed)[0]) {
			return false
		}
		*owed = (*owed)[1:]
	}
	return true
}

func (p *pulse) send(ctx context.Context, row flow.Coverage) bool {
	inserting, cancel := context.WithTimeout(ctx, p.c.cfg.Insert)
	defer cancel()
	if err := p.c.deps.Sink.InsertCoverage(inserting, []flow.Coverage{row}); err != nil {
		p.c.metrics.heartbeatErrors.Inc()
		return false
	}
	return true
}

// payDropped stores what the spool gave up.
func (p *pulse) payDropped(ctx context.Context) {
	for {
		gap, ok, err := p.c.deps.Spool.Gap()
		if err == nil && ok {
			if !p.send(ctx, flow.Coverage{
				Kind: flow.CoverageDropped, Node: p.c.cfg.Node, Start: gap.Start, End: gap.End, Dropped: gap.Records,
			}) {
				return
			}
			err = p.c.deps.Spool.Told()
		}
		if err != nil {
			p.c.metrics.stateErrors.Inc()
		}
		if err != nil || !ok {
			return
		}
	}
}

// ask compares this node's clock with the store's, now and then. While the store
// is away the last difference stands.
func (p *pulse) ask(ctx context.Context) {
	c := p.c
	before := c.deps.Now()
	if !p.skewed.IsZero() && before.Sub(p.skewed) < c.cfg.Clock {
		return
	}
	asking, cancel := context.WithTimeout(ctx, c.cfg.Patience)
	defer cancel()
	theirs, err := c.deps.Sink.Clock(asking)
	if err != nil {
		return // the heartbeat that follows counts that
	}
	took := c.deps.Now().Sub(before)
	p.skew, p.skewed = before.Add(took/2).Sub(theirs), before
	c.metrics.skew.Set(p.skew.Seconds())
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

// merge joins two of one kind. Gaps of different endpoints become one of none in
// particular.
func merge(a, b flow.Coverage) flow.Coverage {
	if a.Start.Before(b.Start) {
		b.Start = a.Start
	}
	if a.End.After(b.End) {
		b.End = a.End
	}
	if a.Endpoint != b.Endpoint {
		b.Endpoint = ""
	}
	b.Records += a.Records
	b.Lost += a.Lost
	b.Delayed += a.Delayed
	b.Started = a.Started || b.Started
	return b
}
