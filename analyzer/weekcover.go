package analyzer

import (
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// weekCover is how much of each hour of the week a node covered without a loss,
// all weeks of the window taken together.
type weekCover [flow.HoursOfWeek]time.Duration

// weekHours returns the hours of the week that every node of w covered, to
// Config.MinShare of the hour at least.
func (v *view) weekHours(w flow.Workload) flow.WeekHours {
	var out flow.WeekHours
	nodes := v.watchedNodes(w)
	for h := range flow.HoursOfWeek {
		if len(nodes) > 0 && !slices.ContainsFunc(nodes, func(node string) bool {
			return v.weekOf(node)[h] < time.Duration(v.cfg.MinShare*float64(time.Hour))
		}) {
			out.Set(h)
		}
	}
	return out
}

func (v *view) weekOf(node string) *weekCover {
	c, _ := v.hours.of(node, func() (*weekCover, error) { return weekCoverOf(v.coverage[node]), nil })
	return c
}

func weekCoverOf(n flow.NodeCoverage) *weekCover {
	c := &weekCover{}
	if n.Covered == 0 || n.Lost+n.Dropped > 0 && len(n.Losses) == 0 {
		return c // nothing, or lost at times that nobody knows
	}
	holes := slices.Concat(n.Gaps, n.Losses)
	slices.SortFunc(holes, func(a, b flow.Gap) int { return a.Start.Compare(b.Start) })
	at := n.First
	for _, h := range holes {
		c.add(at, h.Start)
		if h.End.After(at) {
			at = h.End
		}
	}
	c.add(at, n.Last)
	return c
}

// add counts the time between from and to.
func (c *weekCover) add(from, to time.Time) {
	for from.Before(to) {
		next := from.Truncate(time.Hour).Add(time.Hour)
		if next.After(to) {
			next = to
		}
		c[flow.HourOfWeek(from)] += next.Sub(from)
		from = next
	}
}
