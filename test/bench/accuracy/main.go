// Command accuracy learns two published applications in every scenario of
// test/truth, with ringfence and with Inspektor Gadget's network policy advisor,
// has both judged cell by cell by ringfence's evaluator, and writes the counts
// as JSON.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/ringfence/ringfence/test/truth"
)

// seed is of the worlds that are reported; the sets of runs of the estimate take
// the seeds after it, one after the other. Others were used to choose its interval.
const (
	seed = 1
	runs = 100
	sets = 3
)

// row is one scenario of one application.
type row struct {
	truth.Result
	Baseline truth.Score `json:"baseline"`
	// Foretold is, for the thinned scenario, what the two weeks after denied of
	// connections, and what the estimate had said of it.
	Foretold *foretold `json:"foretold,omitempty"`
	// Estimate is there for the thinned scenario, and Sets are it and more of as
	// many runs, with other seeds.
	Estimate *estimate   `json:"estimate,omitempty"`
	Sets     []*estimate `json:"sets,omitempty"`
}

// foretold is a share of later connections beside what was expected of it.
type foretold struct {
	Denied   float64 `json:"denied"`
	Expected float64 `json:"expected"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
}

// estimate says how often the interval of what was not seen held what came.
type estimate struct {
	Runs int `json:"runs"`
	Held int `json:"held"`
	// Denied are runs in which something was denied later; Width is the mean
	// length of the interval.
	Denied int     `json:"denied"`
	Width  float64 `json:"width"`
	// Workloads' own intervals, those with an estimate.
	WorkloadsHeld int `json:"workloadsHeld"`
	Workloads     int `json:"workloads"`
	// Ready and Unready are what came of workloads that were called ready to
	// enforce, and of the others.
	Ready   truth.Foretold `json:"ready"`
	Unready truth.Foretold `json:"unready"`
}

func main() {
	output := flag.String("output", "", "file to write; standard output without")
	flag.Parse()
	if err := run(*output); err != nil {
		fmt.Fprintln(os.Stderr, "accuracy:", err)
		os.Exit(1)
	}
}

func run(output string) error {
	rows := []row{}
	for _, name := range truth.Apps() {
		app, err := truth.Load(name)
		if err != nil {
			return err
		}
		for _, s := range truth.Scenarios() {
			r, err := measure(app, s)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", name, s.Name, err)
			}
			rows = append(rows, r)
			fmt.Fprintf(os.Stderr, "%-16s %-24s true %2d  correct %2d  over %3d  broken %2d  flagged %2d | advisor: correct %2d  over %3d  broken %2d\n",
				r.App, r.Scenario, r.True, r.Correct, r.Over, r.Broken, r.Flagged, r.Baseline.Correct, r.Baseline.Over, r.Baseline.Broken)
			if r.Broken > 0 {
				fmt.Fprintf(os.Stderr, "%41s of %d broken, %d where only workloads called ready are enforced (%d of %d)\n", "", r.Broken, r.Enforced.Broken, r.Ready, r.Workloads)
			}
			if f := r.Foretold; f != nil {
				fmt.Fprintf(os.Stderr, "%41s they carried %.1f%% of the connections of the two weeks after; %.1f%% (%.1f%% to %.1f%%) were expected\n",
					"", 100*f.Denied, 100*f.Expected, 100*f.Low, 100*f.High)
			}
			for _, e := range r.Sets {
				fmt.Fprintf(os.Stderr, "%41s estimate held in %d of %d runs, %d with denials, mean width %.3f; of workloads %d of %d\n",
					"", e.Held, e.Runs, e.Denied, e.Width, e.WorkloadsHeld, e.Workloads)
				fmt.Fprintf(os.Stderr, "%41s called ready: %d workloads, %.1f%% denied later, over 5%% in %d; not ready: %d, %.1f%%, %d\n",
					"", e.Ready.Workloads, 100*e.Ready.Share, e.Ready.Over, e.Unready.Workloads, 100*e.Unready.Share, e.Unready.Over)
			}
		}
	}
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if output == "" {
		_, err = os.Stdout.Write(append(b, '\n'))
		return err
	}
	return os.WriteFile(output, append(b, '\n'), 0o644) //nolint:gosec // figures for everybody
}

func measure(app truth.App, s truth.Scenario) (row, error) {
	result, _, err := s.Run(app, seed)
	if err != nil {
		return row{}, err
	}
	out := row{Result: result}
	w := s.Make(app, seed) // again, for Run changed it
	policies, err := advise(w, s)
	if err != nil {
		return row{}, err
	}
	out.Baseline = w.Judge(policies)
	if s.Name != truth.Thinned().Name {
		return out, nil
	}
	u, err := s.Make(app, seed).Unseen()
	if err != nil {
		return row{}, err
	}
	out.Foretold = &foretold{Denied: u.Later, Expected: u.Estimate.Expected, Low: u.Estimate.Low, High: u.Estimate.High}
	for set := range uint64(sets) {
		e, err := estimated(app, s, seed+1+set*runs)
		if err != nil {
			return row{}, err
		}
		out.Sets = append(out.Sets, e)
	}
	out.Estimate = out.Sets[0]
	return out, nil
}

// estimated is what came of runs with the seeds from first on.
func estimated(app truth.App, s truth.Scenario, first uint64) (*estimate, error) {
	e := &estimate{Runs: runs}
	for i := range uint64(runs) {
		u, err := s.Make(app, first+i).Unseen()
		if err != nil {
			return nil, err
		}
		if u.Holds() {
			e.Held++
		}
		if u.Later > 0 {
			e.Denied++
		}
		e.Width += (u.Estimate.High - u.Estimate.Low) / runs
		e.WorkloadsHeld, e.Workloads = e.WorkloadsHeld+u.Held, e.Workloads+u.Of
		e.Ready.Add(u.Ready)
		e.Unready.Add(u.Unready)
	}
	return e, nil
}
