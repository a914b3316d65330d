package estate

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	// tick is that of the clock that the datapath stamps flows with, on a kernel
	// of 250 ticks a second.
	tick = 4 * time.Millisecond
	// sweep is how long the datapath lets counters wait for a record.
	sweep = 5 * time.Second
	// pool is how many connections a caller's endpoint keeps open.
	pool = 4
	// jitter is how far apart two readings of one clock's offset are.
	jitter = time.Microsecond
)

// Everywhere makes the stream of all nodes.
const Everywhere = -1

// StreamConfig says what a stream is of.
type StreamConfig struct {
	Seed uint64
	// Node restricts the stream to what one node's agent records; Everywhere
	// gives each flow between two endpoints twice, as their two agents do.
	Node  int
	Start time.Time
	// Rows is how many rows a day has on average.
	Rows float64
	// Steady leaves out the hours of day and the days of the week.
	Steady bool
}

// Stream is rows in about the order of their times. It must not be used
// concurrently.
type Stream struct {
	e   *Estate
	cfg StreamConfig
	r   *rand.Rand
	// clocks is apart, so that rows do not depend on how many are asked for at once.
	clocks *rand.Rand
	now    time.Time
	gap    float64 // mean seconds between exchanges
	skew   time.Duration

	sites []site // on the one node
	pick  alias  // of sites, or of the estate's calls
	pools map[poolKey]*pooling

	rows []flow.Labelled // that are being filled
	rest []flow.Labelled // that found no room
}

// site is where a node sees a call: at the end that lives on it.
type site struct {
	call *call
	at   *end
	dir  flow.Direction
}

type poolKey struct {
	call *call
	slot uint32
}

// pooling is a connection that stays.
type pooling struct {
	exchange
	judged   time.Time
	answered bool
}

// rowsPerExchange is how many rows an exchange comes to at one of its ends.
const rowsPerExchange = 1.74

// A week is as busy on average as a steady stream.
const (
	workday = 7 / (5 + 2*weekend)
	weekend = 0.6 // of a workday
)

// Stream returns the rows from a time on.
func (e *Estate) Stream(cfg StreamConfig) *Stream {
	s := &Stream{
		e: e, cfg: cfg, now: cfg.Start, pick: e.pick, pools: map[poolKey]*pooling{},
		r:      rand.New(rand.NewPCG(e.cfg.Seed, cfg.Seed<<16|uint64(cfg.Node+2))),
		clocks: rand.New(rand.NewPCG(e.cfg.Seed, cfg.Seed)),
	}
	rows := rowsPerExchange
	if cfg.Node == Everywhere {
		rows *= 1.9 // almost all have two observed ends
	} else {
		s.sites = e.sites(cfg.Node)
		weights := make([]float64, len(s.sites))
		for i, at := range s.sites {
			ends := at.call.to
			if at.dir == flow.Egress {
				ends = at.call.from
			}
			weights[i] = at.call.weight / float64(len(ends))
		}
		s.pick = newAlias(weights)
	}
	s.gap = (24 * time.Hour).Seconds() / cfg.Rows * rows
	return s
}

// sites lists what one node sees of every call.
func (e *Estate) sites(node int) (out []site) {
	for i := range e.calls {
		c := &e.calls[i]
		if c.manner != probe {
			for _, f := range c.from {
				if int(f.node) == node {
					out = append(out, site{c, f, flow.Egress})
				}
			}
		}
		for _, t := range c.to {
			if int(t.node) == node {
				out = append(out, site{c, t, flow.Ingress})
			}
		}
	}
	return out
}

// Now is the time up to which rows were made.
func (s *Stream) Now() time.Time { return s.now }

// Fill overwrites all of rows with the next ones.
func (s *Stream) Fill(rows []flow.Labelled) {
	n := copy(rows, s.rest)
	s.rest = append(s.rest[:0], s.rest[n:]...)
	s.rows = rows[:n:len(rows)]
	s.skew = time.Duration(s.clocks.Int64N(int64(2*jitter))) - jitter
	for len(s.rows) < len(rows) {
		s.advance()
		s.exchange()
	}
	s.rows = nil
}

// advance moves the clock on, slowly at night and at weekends.
func (s *Stream) advance() {
	gap := s.gap * 2 * s.r.Float64()
	if !s.cfg.Steady {
		hour := float64(s.now.Hour()) + float64(s.now.Minute())/60
		busy := workday * (1 - 0.6*math.Cos((hour-2)/24*2*math.Pi))
		if d := s.now.Weekday(); d == time.Saturday || d == time.Sunday {
			busy *= weekend
		}
		gap /= busy
	}
	s.now = s.now.Add(time.Duration(gap * float64(time.Second)))
}

// slot returns the place of the next row.
func (s *Stream) slot() *flow.Labelled {
	if len(s.rows) < cap(s.rows) {
		s.rows = s.rows[:len(s.rows)+1]
		return &s.rows[len(s.rows)-1]
	}
	s.rest = append(s.rest, flow.Labelled{})
	return &s.rest[len(s.rest)-1]
}
