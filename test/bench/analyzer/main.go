// Command analyzer measures learning and replaying over many edges in memory, and
// learning from a million of Hubble's lines. docs/benchmarks.md says how.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ringfence/ringfence/test/bench/report"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-analyzer:", err)
		os.Exit(1)
	}
}

// Report is what is written to analyzer.json. Each figure is the lower quartile
// of its samples; growth is what ten times as much takes, over what one takes.
type Report struct {
	Commit  string         `json:"commit"`
	Machine report.Machine `json:"machine"`

	RecommendS      float64 `json:"recommend_s"`
	RecommendEdges  int     `json:"recommend_edges"`
	RecommendRows   int     `json:"recommend_rows"`
	Workloads       int     `json:"recommend_workloads"`
	RecommendGrowth float64 `json:"recommend_growth_10x"`

	ReplayS      float64 `json:"replay_s"`
	ReplayEdges  int     `json:"replay_edges"`
	ReplayDenied int     `json:"replay_denied_edges"`
	ReplayGrowth float64 `json:"replay_growth_10x"`

	OfflineS      float64 `json:"offline_1m_s"`
	OfflineLines  uint64  `json:"offline_lines"`
	OfflineMiB    float64 `json:"offline_mib"`
	OfflineRSSMiB float64 `json:"offline_rss_mib"`
	OfflineGrowth float64 `json:"offline_growth_10x"`
	OfflineRSS10  float64 `json:"offline_rss_growth_10x"`

	Goals report.Goals `json:"goals"`
}

func run(ctx context.Context) error {
	output := flag.String("output", "", "write the figures to this `file`, as JSON")
	binary := flag.String("binary", "build/ringfence", "`path` of ringfence, for offline")
	rows := flag.Int("rows", 10_000_000, "flows that the edges to learn from are drawn by")
	samples := flag.Int("samples", 5, "how often each figure is taken")
	flag.Parse()
	if *rows < 10 || *samples < 1 {
		return fmt.Errorf("-rows %d, -samples %d: want at least 10 and 1", *rows, *samples)
	}
	r := &Report{Commit: report.Commit(), Machine: report.NewMachine(0)}
	for _, part := range []func() error{
		// First, while this process is small: the kernel counts a child's memory from
		// its parent's on.
		func() error { return r.offline(ctx, *binary, *samples) },
		func() error { return r.recommend(ctx, *rows, *samples) },
		func() error { return r.replay(ctx, *samples) },
	} {
		if err := part(); err != nil {
			return err
		}
	}
	r.Machine.LoadAfter = report.Load()
	r.Goals.AtMost("recommend for 2,000 workloads", "s", r.RecommendS, 5)
	r.Goals.AtMost("replay a candidate over 1 million edges", "s", r.ReplayS, 1)
	r.Goals.AtMost("learn from 1 million lines of Hubble", "s", r.OfflineS, 10)
	fmt.Printf("recommend\t%.2f s\t%d workloads, %d edges\t%.1f times for ten times the workloads\n", r.RecommendS, r.Workloads, r.RecommendEdges, r.RecommendGrowth)
	fmt.Printf("replay\t%.2f s\t%d edges\t%.1f times for ten times the edges\n", r.ReplayS, r.ReplayEdges, r.ReplayGrowth)
	fmt.Printf("offline\t%.2f s\t%d lines of %.0f MiB\t%.0f MiB resident\t%.1f times, memory %.1f times, for ten times the lines\n",
		r.OfflineS, r.OfflineLines, r.OfflineMiB, r.OfflineRSSMiB, r.OfflineGrowth, r.OfflineRSS10)
	r.Goals.Print(os.Stdout)
	if *output == "" {
		return nil
	}
	return report.Write(r, *output)
}

// sample returns the lower quartile of n timings of f, in seconds.
func sample(n int, f func() error) (float64, error) {
	var times []float64
	for range n {
		start := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start).Seconds())
	}
	return quartile(times), nil
}
