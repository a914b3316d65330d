package collector

import (
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

const (
	// attachTolerance is how long after the inventory names an endpoint its
	// program may come without that being a gap.
	attachTolerance = 100 * time.Millisecond
	// openGap is how often a gap that goes on is told of.
	openGap = time.Minute
)

// watch finds the times in which an endpoint that the inventory names had no
// program on its interface, be it that the interface did not exist. What the
// endpoint sent and got then is in no record. Programs outlive agents: the time
// without an agent is no such gap.
type watch struct {
	began time.Time // by this agent
	last  time.Time // look
	known map[uint32]*watched
}

type watched struct {
	name  string
	gap   time.Time // its start; zero while there is a program
	round time.Time // the look that it was last named at
}

func newWatch(now time.Time) watch {
	return watch{began: now, last: now, known: map[uint32]*watched{}}
}

// look returns the gaps that ended since the last look and, of those that go on
// for longer than open, what is new.
func (w *watch) look(local []inventory.Local, attached []bpf.Attached, now time.Time, open time.Duration) []flow.Coverage {
	since := make(map[uint32]time.Time, len(attached))
	for _, a := range attached {
		since[a.ID] = a.ObservedSince
	}
	var out []flow.Coverage
	tell := func(e *watched, until time.Time) {
		out = append(out, flow.Coverage{Kind: flow.CoverageAttach, Endpoint: e.name, Start: e.gap, End: until})
	}
	for _, l := range local {
		e := w.known[l.ID]
		if e == nil {
			e = &watched{gap: later(l.Since, w.began)}
			w.known[l.ID] = e
		}
		e.name, e.round = l.Name, now
		at, ok := since[l.ID]
		switch {
		case ok && !e.gap.IsZero():
			if at.Sub(e.gap) > attachTolerance {
				tell(e, at)
			}
			e.gap = time.Time{}
		case !ok && e.gap.IsZero():
			e.gap = w.last
		}
		if !e.gap.IsZero() && now.Sub(e.gap) >= open && now.After(e.gap) {
			tell(e, now)
			e.gap = now
		}
	}
	for id, e := range w.known {
		if e.round.Equal(now) {
			continue
		}
		if !e.gap.IsZero() {
			tell(e, now)
		}
		delete(w.known, id)
	}
	w.last = now
	return out
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
