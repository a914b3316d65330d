package analyzer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Completeness says in numbers how much of a workload's traffic may have gone
// unseen. Parts that cannot be told yet are nil.
type Completeness struct {
	// WeekHours are the hours of the week that every node of the workload covered
	// without a loss.
	WeekHours flow.WeekHours `json:"weekHours"`
	// Replicas the inventory has, that an agent watches, and that were seen to
	// take part in some edge. Of the last there may be more: edges keep numbers,
	// not names.
	Replicas        int `json:"replicas"`
	WatchedReplicas int `json:"watchedReplicas"`
	SeenReplicas    int `json:"seenReplicas"`
	// Curve counts the edges known after each part of the observed time.
	Curve    []CurvePoint `json:"curve"`
	Estimate *Estimate    `json:"estimate"`
	Split    *Split       `json:"split"`
	Words    string       `json:"words"`
}

// CurvePoint is how many edges had been seen by a time.
type CurvePoint struct {
	Time  time.Time `json:"time"`
	Edges int       `json:"edges"`
}

// Split is what the earlier half of the observed time would have taught about
// the later half.
type Split struct {
	At time.Time `json:"at"`
	// Judged connections of the later half, and those that the policy of all
	// rules learned from the earlier half denies.
	Judged      uint64  `json:"judged"`
	Denied      uint64  `json:"denied"`
	DeniedEdges int     `json:"deniedEdges"`
	Share       float64 `json:"share"` // Denied of Judged
}

// curvePoints is how many points a curve has.
const curvePoints = 24

// minDays is the least number of days that say anything about others.
const minDays = 4

// measure fills in r's completeness and what is missing of it.
func (v *view) measure(ctx context.Context, r *Recommendation, learned []learnedEdge) error {
	c := &r.Completeness
	c.WeekHours = v.weekHours(r.Workload)
	from := v.watchedFrom(r.Workload)
	c.Curve = curve(learned, from, v.window.Until)
	if known := v.workloads[r.Workload]; known != nil {
		c.Replicas = len(known.Endpoints)
		for _, e := range known.Endpoints {
			if e.Interface != "" {
				c.WatchedReplicas++
			}
		}
	}
	var seen []Incidence
	for i := range learned {
		e := learned[i].edge
		own := e.SourceEndpoints
		if learned[i].direction == flow.Ingress {
			own = e.DestinationEndpoints
		}
		c.SeenReplicas = max(c.SeenReplicas, int(min(own, uint64(c.Replicas))))             //nolint:gosec // at most Replicas
		seen = append(seen, Incidence{Slices: int(e.Days), Connections: float64(count(e))}) //nolint:gosec // days
	}
	if days := int(v.window.Until.Sub(from) / (24 * time.Hour)); days >= minDays && len(learned) > 0 {
		estimate := EstimateUnseen(seen, days)
		c.Estimate = &estimate
	}
	if len(learned) > 0 {
		var err error
		if c.Split, err = v.split(ctx, r, from); err != nil {
			return err
		}
	}
	v.missingOfCompleteness(r)
	c.Words = c.words()
	return nil
}

// watchedFrom is when the first of w's nodes began to be watched in the window.
func (v *view) watchedFrom(w flow.Workload) time.Time {
	from := time.Time{}
	for _, node := range v.watchedNodes(w) {
		if c, ok := v.coverage[node]; ok && c.Covered > 0 && (from.IsZero() || c.First.Before(from)) {
			from = c.First
		}
	}
	if from.IsZero() {
		return v.window.Until
	}
	if from.Before(v.window.Since) {
		return v.window.Since
	}
	return from
}

// curve counts edges by when they were first seen.
func curve(learned []learnedEdge, from, until time.Time) []CurvePoint {
	out := []CurvePoint{}
	step := until.Sub(from) / curvePoints
	if step <= 0 || len(learned) == 0 {
		return out
	}
	for i := 1; i <= curvePoints; i++ {
		at := from.Add(time.Duration(i) * step)
		p := CurvePoint{Time: at}
		for j := range learned {
			if first := learned[j].edge.FirstSeen; !first.After(at) || i == curvePoints {
				p.Edges++
			}
		}
		out = append(out, p)
	}
	return out
}

// split learns from the whole hours of the earlier half and judges the later
// half by the one evaluator, with every learned rule accepted: what it denies
// are edges that nobody could have known. It is nil when the earlier half is less
// than an hour, by which edges are kept, or when there is nothing to judge.
func (v *view) split(ctx context.Context, whole *Recommendation, from time.Time) (*Split, error) {
	at := from.Add(v.window.Until.Sub(from) / 2).Truncate(time.Hour)
	if at.Sub(from) < time.Hour || !at.Before(v.window.Until) {
		return nil, nil
	}
	early, late, err := v.halves(ctx, at)
	if err != nil {
		return nil, err
	}
	r := early.empty(whole.Workload)
	if _, err := early.learn(ctx, whole.Workload, r); err != nil {
		return nil, err
	}
	p, err := r.PolicyOf(r.All())
	if err != nil {
		return nil, err
	}
	// A direction that the whole window isolates is isolated here too: silence in
	// the earlier half would have been no excuse.
	for i := range whole.Rules {
		p.IsolateIngress = p.IsolateIngress || whole.Rules[i].Direction == flow.Ingress
		p.IsolateEgress = p.IsolateEgress || whole.Rules[i].Direction == flow.Egress
	}
	return late.judged(ctx, p, at)
}

// halves returns views of the window before and after at. They know the same
// inventory and coverage; edges are read once for each.
func (v *view) halves(ctx context.Context, at time.Time) (early, late *view, err error) {
	h, err := v.halved.of(at.UnixNano(), func() ([2]*view, error) {
		parts := [2]*view{v.part(v.window.Since, at), v.part(at, v.window.Until)}
		for _, part := range parts {
			if v.complete {
				if err := part.loadAll(ctx); err != nil {
					return parts, err
				}
			}
		}
		return parts, nil
	})
	return h[0], h[1], err
}

// part returns a view of a part of v's window.
func (v *view) part(since, until time.Time) *view {
	p := *v
	p.window = Window{Since: since, Until: until}
	p.edges, p.halved = map[flow.Workload][]*flow.Edge{}, nil
	p.services, p.probes = &memo[flow.Workload, map[service]bool]{}, &memo[flow.Workload, map[flow.Party][]time.Time]{}
	p.complete = false
	return &p
}

func (v *view) judged(ctx context.Context, p policy.Policy, at time.Time) (*Split, error) {
	seen, _, err := v.sightings(ctx, p.Workload)
	if err != nil {
		return nil, err
	}
	s := &Split{At: at}
	forgeries, judge := forgedSources(seen), v.judgeOf(&p)
	for i := range seen {
		if _, excluded := v.qualify(p.Workload, &seen[i], forgeries); excluded != nil {
			continue // never learned, whenever it is seen
		}
		n := count(seen[i].edge)
		s.Judged += n
		if j, _ := judge.of(&seen[i]); j.Denied() {
			s.Denied, s.DeniedEdges = s.Denied+n, s.DeniedEdges+1
		}
	}
	if s.Judged == 0 {
		return nil, nil
	}
	s.Share = float64(s.Denied) / float64(s.Judged)
	return s, nil
}

// missingOfCompleteness says what the numbers leave to be wished for.
func (v *view) missingOfCompleteness(r *Recommendation) {
	c := &r.Completeness
	missing := func(format string, args ...any) {
		r.Coverage.Missing, r.Coverage.Ready = append(r.Coverage.Missing, fmt.Sprintf(format, args...)), false
	}
	v.missingHours(c.WeekHours, &r.Coverage)
	if v.cfg.MaxUnseen >= 1 || len(r.Rules) == 0 {
		return
	}
	if e := c.Estimate; e != nil && e.Expected > v.cfg.MaxUnseen {
		missing("%s of connections are expected on edges not seen yet; want at most %s", percent(e.Expected), percent(v.cfg.MaxUnseen))
	}
	if s := c.Split; s != nil && s.Share > v.cfg.MaxUnseen {
		missing("what the earlier half taught would deny %s of the later half's connections, on %s; want at most %s",
			percent(s.Share), number(s.DeniedEdges, "edge"), percent(v.cfg.MaxUnseen))
	}
}

// missingHours says when fewer hours of the week were watched than are wanted.
func (v *view) missingHours(have flow.WeekHours, c *Coverage) {
	if n := have.Count(); n < v.cfg.MinWeekHours {
		c.Ready = false
		c.Missing = append(c.Missing, fmt.Sprintf("%d of the week's 168 hours were watched without a loss%s; want %d", n, weekWords(have), v.cfg.MinWeekHours))
	}
}

func (c *Completeness) words() string {
	parts := []string{fmt.Sprintf("%d of 168 hours of the week watched without a loss", c.WeekHours.Count())}
	if c.Replicas > 0 {
		parts = append(parts, fmt.Sprintf("%d of %s watched, at least %d seen", c.WatchedReplicas, number(c.Replicas, "replica"), c.SeenReplicas))
	}
	if e := c.Estimate; e != nil {
		parts = append(parts, fmt.Sprintf("%s of connections (%s to %s) expected on edges not seen yet", percent(e.Expected), percent(e.Low), percent(e.High)))
	}
	if s := c.Split; s != nil {
		parts = append(parts, fmt.Sprintf("the earlier half would have denied %s of the later half", percent(s.Share)))
	}
	return strings.Join(parts, "; ") + "."
}

func percent(share float64) string {
	switch {
	case share == 0:
		return "0%"
	case share < 0.001:
		return "under 0.1%"
	}
	return strings.Replace(fmt.Sprintf("%.1f%%", 100*share), ".0%", "%", 1)
}

// weekWords lists the runs of hours that are not in the set, three at most; all
// of the week needs no list.
func weekWords(have flow.WeekHours) string {
	if have.Count() == 0 {
		return ""
	}
	days := []string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}
	name := func(h int) string { return fmt.Sprintf("%s %02d:00", days[h/24%7], h%24) }
	var runs []string
	for h := 0; h < flow.HoursOfWeek; h++ {
		if have.Has(h) {
			continue
		}
		end := h
		for end < flow.HoursOfWeek && !have.Has(end) {
			end++
		}
		runs = append(runs, name(h)+" to "+name(end))
		h = end
	}
	if len(runs) > 3 {
		runs = append(slices.Clone(runs[:3]), fmt.Sprintf("%d more times", len(runs)-3))
	}
	return ", but not " + strings.Join(runs, ", ") + " UTC"
}
