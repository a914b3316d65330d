package truth

import (
	"context"
	"fmt"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// Result is what came of a scenario.
type Result struct {
	App      string `json:"app"`
	Scenario string `json:"scenario"`
	// Score of the policies after review: what needs no look, and the flagged
	// rules of true edges.
	Score
	// Bulk is the score without any review.
	Bulk Score `json:"bulk"`
	// Enforced is the score where only workloads are enforced that are called
	// ready, after review: what it has broken was not foretold.
	Enforced Score `json:"enforced"`
	// Flagged edges wait for a person; Unflagged are those that are not true and
	// were accepted without one.
	Flagged   int `json:"flagged"`
	Unflagged int `json:"unflagged"`
	// Ready workloads are those of Workloads that the analyzer calls ready to
	// enforce.
	Ready     int `json:"ready"`
	Workloads int `json:"workloads"`
}

// Analyzer returns one that reads from w.
func (w *World) Analyzer() (*analyzer.Analyzer, error) {
	return analyzer.New(analyzer.Config{}, analyzer.Deps{Edges: w, Coverage: w, Inventory: func() inventory.Inventory { return w.Inventory }})
}

// Run makes the scenario's world, learns from it and judges what was learned
// after the scenario's later change.
func (s Scenario) Run(app App, seed uint64) (Result, *World, error) {
	w := s.Make(app, seed)
	a, err := w.Analyzer()
	if err != nil {
		return Result{}, nil, err
	}
	recs, err := a.RecommendAll(context.Background(), w.Window())
	if err != nil {
		return Result{}, nil, fmt.Errorf("%s, %s: %w", app.Name, s.Name, err)
	}
	out := Result{App: app.Name, Scenario: s.Name, Workloads: len(recs)}
	flagged := w.Flagged(recs)
	out.Flagged = len(flagged)
	for e := range w.untrue {
		if !flagged[e] {
			out.Unflagged++
		}
	}
	reviewed, err := Accept(recs, w.Reviewed)
	if err != nil {
		return Result{}, nil, err
	}
	ready := Policies{}
	for _, r := range recs {
		if r.Coverage.Ready {
			out.Ready++
			ready[r.Workload] = reviewed[r.Workload]
		}
	}
	bulk, err := Accept(recs, InBulk)
	if err != nil {
		return Result{}, nil, err
	}
	s.Change(w)
	out.Score, out.Bulk, out.Enforced = w.Judge(reviewed), w.Judge(bulk), w.Judge(ready)
	return out, w, nil
}

// Unseen compares the estimate of what was not seen with what came.
type Unseen struct {
	Estimate analyzer.Estimate `json:"estimate"`
	Later    float64           `json:"later"` // share of later connections denied
	// Workloads whose own interval held, of those with an estimate.
	Held, Of int
	// Ready workloads, the mean share of later connections that each denies, and in
	// how many it is above what readiness asks for; the same of the others.
	Ready, Unready Foretold
}

// Foretold is what came of workloads that were called ready, or were not.
type Foretold struct {
	Workloads int     `json:"workloads"`
	Share     float64 `json:"share"` // denied later, the mean of workloads
	Over      int     `json:"over"`  // workloads that deny more than MaxUnseen's default
}

// Add takes workloads of another run in.
func (f *Foretold) Add(o Foretold) {
	if n := f.Workloads + o.Workloads; n > 0 {
		f.Share = (f.Share*float64(f.Workloads) + o.Share*float64(o.Workloads)) / float64(n)
		f.Workloads, f.Over = n, f.Over+o.Over
	}
}

// Holds reports whether the interval holds what came.
func (u Unseen) Holds() bool { return u.Estimate.Low <= u.Later && u.Later <= u.Estimate.High }

// Unseen learns from the window of a thinned world with everything accepted,
// isolates every direction, and replays the policies over the time after it.
// Connections count at each end that is governed.
func (w *World) Unseen() (Unseen, error) {
	a, err := w.Analyzer()
	if err != nil {
		return Unseen{}, err
	}
	ctx := context.Background()
	recs, err := a.RecommendAll(ctx, w.Window())
	if err != nil {
		return Unseen{}, err
	}
	policies, err := Accept(recs, Everything)
	if err != nil {
		return Unseen{}, err
	}
	var out Unseen
	var judged, denied uint64
	seen := map[Edge]*analyzer.Incidence{}
	var order []*analyzer.Incidence
	for _, rec := range recs {
		p := *policies[rec.Workload]
		p.IsolateIngress, p.IsolateEgress = true, true
		r, err := a.Replay(ctx, policy.Normalize(p), w.Later())
		if err != nil {
			return Unseen{}, err
		}
		judged, denied = judged+r.Judged, denied+r.Denied
		if e := rec.Completeness.Estimate; e != nil && r.Judged > 0 {
			out.Of++
			if share := float64(r.Denied) / float64(r.Judged); e.Low <= share && share <= e.High {
				out.Held++
			}
		}
		if r.Judged > 0 && len(rec.Rules) > 0 {
			one := Foretold{Workloads: 1, Share: float64(r.Denied) / float64(r.Judged)}
			if one.Share > 0.05 {
				one.Over = 1
			}
			if rec.Coverage.Ready {
				out.Ready.Add(one)
			} else {
				out.Unready.Add(one)
			}
		}
		for i := range rec.Rules {
			for j := range rec.Rules[i].Evidence {
				e := &rec.Rules[i].Evidence[j]
				k := w.EdgeOf(rec.Workload, rec.Rules[i].Direction, e)
				if seen[k] == nil {
					seen[k] = &analyzer.Incidence{}
					order = append(order, seen[k])
				}
				seen[k].Slices = max(seen[k].Slices, int(e.Days)) //nolint:gosec // days
				seen[k].Connections += float64(e.Connections)
			}
		}
	}
	var incidences []analyzer.Incidence
	for _, i := range order {
		incidences = append(incidences, *i)
	}
	out.Estimate = analyzer.EstimateUnseen(incidences, w.Hours/24)
	if judged > 0 {
		out.Later = float64(denied) / float64(judged)
	}
	return out, nil
}

// Policies are by workload.
type Policies = map[flow.Workload]*policy.Policy
