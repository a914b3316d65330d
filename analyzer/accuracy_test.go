package analyzer_test

import (
	"testing"

	"github.com/ringfence/ringfence/test/truth"
)

// TestAccuracy learns two published applications in every scenario. Seeds that
// bench-accuracy reports are not used here.
func TestAccuracy(t *testing.T) {
	type want struct{ over, broken int }
	wanted := map[string]want{
		// Nobody can know of a job that never ran.
		"weekend job": {0, 1},
	}
	for _, name := range truth.Apps() {
		app, err := truth.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range truth.Scenarios() {
			t.Run(name+"/"+s.Name, func(t *testing.T) {
				r, _, err := s.Run(app, 500)
				if err != nil {
					t.Fatal(err)
				}
				if r.Unflagged > 0 {
					t.Errorf("%d edges that are not true were accepted without a flag", r.Unflagged)
				}
				if s.Name == "scan" && r.Flagged < 5 {
					t.Errorf("%d flagged edges: the scan was not seen", r.Flagged)
				}
				if s.Name == "thinned" {
					return // judged by TestUnseenShareIsWithinTheEstimate
				}
				w := wanted[s.Name]
				if r.Over != w.over || r.Broken != w.broken || r.Correct != r.True-w.broken {
					t.Errorf("of %d true edges %d correct, %d over %v, %d broken %v; want %d over and %d broken",
						r.True, r.Correct, r.Over, r.OverEdges, r.Broken, r.BrokenEdges, w.over, w.broken)
				}
				if s.Name == "complete" && r.Ready != r.Workloads {
					t.Errorf("%d of %d workloads are ready after two whole weeks", r.Ready, r.Workloads)
				}
				if (s.Name == "weekend job" || s.Name == "half the replicas") && r.Ready != 0 {
					t.Errorf("%d workloads are ready although much was not watched", r.Ready)
				}
			})
		}
	}
}

// TestUnseenShareIsWithinTheEstimate asks less of fewer runs than bench-accuracy
// reports, so that chance cannot fail it.
func TestUnseenShareIsWithinTheEstimate(t *testing.T) {
	for _, name := range truth.Apps() {
		app, err := truth.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		const runs = 40
		held, late := 0, 0
		for seed := range uint64(runs) {
			u, err := truth.Thinned().Make(app, 20000+seed).Unseen()
			if err != nil {
				t.Fatal(err)
			}
			if u.Holds() {
				held++
			}
			if u.Later > 0 {
				late++
			}
		}
		if held < 36 || late < 20 {
			t.Errorf("%s: the interval held in %d of %d runs, in %d of which something was denied; want 36 and 20", name, held, runs, late)
		}
	}
}
