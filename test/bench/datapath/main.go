// Command datapath measures what ringfence's datapath costs, against empty
// programs, nothing at all, and nftables. docs/benchmarks.md says what it
// measures and how.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ringfence/ringfence/test/bench/report"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-datapath:", err)
		os.Exit(1)
	}
}

func run() error {
	output := flag.String("output", "", "write the figures to this file, as JSON")
	quick := flag.Bool("quick", false, "take a few samples only, to see that everything runs")
	only := flag.String("only", "", "comma-separated parts to run, of "+strings.Join(partNames(), ", "))
	child := flag.String("child", "", "used by the command itself")
	flag.Parse()
	if *child != "" {
		return runChild(*child)
	}
	r, err := measure(*quick, *only)
	if err != nil {
		return err
	}
	if err := r.print(os.Stdout); err != nil {
		return err
	}
	if *output == "" {
		return nil
	}
	return report.Write(r, *output)
}

// part is one of the measurements.
type part struct {
	name string
	run  func(*site, *Report) error
}

func parts() []part {
	return []part{
		{"established", (*site).established},
		{"first", (*site).first},
		{"crr", (*site).transactions},
		{"bulk", (*site).bulk},
		{"promote", (*site).promote},
		{"memory", (*site).memory},
		{"prefilter", (*site).prefilter},
	}
}

func partNames() (names []string) {
	for _, p := range parts() {
		names = append(names, p.name)
	}
	return names
}

func measure(quick bool, only string) (r *Report, err error) {
	s, err := newSite(quick)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r = newReport(quick)
	r.Machine = Machine{Machine: report.NewMachine(s.cpu), MeasuredCPU: s.cpu}
	r.Commit = report.Commit()
	for _, p := range parts() {
		if only != "" && !strings.Contains(","+only+",", ","+p.name+",") {
			continue
		}
		start := time.Now()
		fmt.Fprintf(os.Stderr, "%s …", p.name)
		if err := p.run(s, r); err != nil {
			fmt.Fprintln(os.Stderr)
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Fprintf(os.Stderr, " %.1f s\n", time.Since(start).Seconds())
	}
	r.Machine.LoadAfter = report.Load()
	r.Seconds = report.Round(time.Since(r.Started).Seconds())
	r.judge()
	return r, nil
}
