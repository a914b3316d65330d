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

// seed is of the worlds that are reported; the runs of the estimate take
// seed+1 to seed+runs. Others were used to choose its interval.
const (
	seed = 1
	runs = 100
)

// row is one scenario of one application.
type row struct {
	truth.Result
	Baseline truth.Score `json:"baseline"`
	// Estimate is there for the thinned scenario.
	Estimate *estimate `json:"estimate,omitempty"`
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
			if e := r.Estimate; e != nil {
				fmt.Fprintf(os.Stderr, "%41s estimate held in %d of %d runs, %d with denials, mean width %.3f; of workloads %d of %d\n",
					"", e.Held, e.Runs, e.Denied, e.Width, e.WorkloadsHeld, e.Workloads)
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
	e := estimate{Runs: runs}
	for i := range uint64(runs) {
		u, err := s.Make(app, seed+1+i).Unseen()
		if err != nil {
			return row{}, err
		}
		if u.Holds() {
			e.Held++
		}
		if u.Later > 0 {
			e.Denied++
		}
		e.Width += (u.Estimate.High - u.Estimate.Low) / runs
		e.WorkloadsHeld, e.Workloads = e.WorkloadsHeld+u.Held, e.Workloads+u.Of
	}
	out.Estimate = &e
	return out, nil
}
