// Command store measures what storing and reading flows costs, from the
// datapath's ring to answers about edges. docs/benchmarks.md says what it
// measures and how.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/test/bench/report"
)

// engineCommand makes this binary the body of an embedded engine.
const engineCommand = "clickhouse-engine"

func main() {
	if len(os.Args) > 1 && os.Args[1] == engineCommand {
		if err := clickhouse.RunEngine(os.Args[2:]); err != nil {
			os.Exit(1) // the parent was told why
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-store:", err)
		os.Exit(1)
	}
}

// config is what the flags say.
type config struct {
	output  string
	quick   bool
	only    string
	library string // of the engine
	binary  string // ringfence
	dir     string // for data, which is kept if given

	batch   int           // rows of an insert
	writers int           // that insert at once
	seconds time.Duration // of inserting
}

func run(ctx context.Context) error {
	var cfg config
	flag.StringVar(&cfg.output, "output", "", "write the figures to this `file`, as JSON")
	flag.BoolVar(&cfg.quick, "quick", false, "take short samples, and load 10 million flows at most")
	flag.StringVar(&cfg.only, "only", "", "comma-separated `parts` to run, of "+strings.Join(partNames(), ", "))
	flag.StringVar(&cfg.library, "engine-library", "", "`path` of libchdb.so (default: beside this binary)")
	flag.StringVar(&cfg.binary, "binary", "build/ringfence", "`path` of ringfence, for agent")
	flag.StringVar(&cfg.dir, "data", "", "keep what summary loads in this `directory`, and find it there the next time")
	flag.IntVar(&cfg.batch, "batch", 50_000, "rows of one insert")
	flag.IntVar(&cfg.writers, "writers", 2, "agents that insert at once")
	flag.DurationVar(&cfg.seconds, "for", time.Minute, "how long ingest inserts")
	flag.Parse()
	if err := cfg.validate(); err != nil {
		return err
	}
	r, err := measure(ctx, cfg)
	if err != nil {
		return err
	}
	if err := r.print(os.Stdout); err != nil {
		return err
	}
	if cfg.output == "" {
		return nil
	}
	return report.Write(r, cfg.output)
}

func (c *config) validate() error {
	var errs []error
	if flag.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", flag.Arg(0)))
	}
	for p := range strings.SplitSeq(c.only, ",") {
		if p != "" && !slices.Contains(partNames(), p) {
			errs = append(errs, fmt.Errorf("-only %s: want some of %s", p, strings.Join(partNames(), ", ")))
		}
	}
	if c.batch < 1 || c.writers < 1 || c.seconds <= 0 {
		errs = append(errs, errors.New("-batch, -writers and -for: want positive ones"))
	}
	if c.quick {
		c.seconds = min(c.seconds, 5*time.Second)
	}
	return errors.Join(errs...)
}

// part is one of the measurements.
type part struct {
	name string
	run  func(context.Context, *site, *Report) error
}

func parts() []part {
	return []part{
		{"decode", decode},
		{"ingest", ingest},
		{"gather", gathering},
		{"summary", summary},
		{"agent", agent},
	}
}

func partNames() (names []string) {
	for _, p := range parts() {
		names = append(names, p.name)
	}
	return names
}

func measure(ctx context.Context, cfg config) (r *Report, err error) {
	s, err := newSite(cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r = newReport(cfg.quick)
	for _, p := range parts() {
		if cfg.only != "" && !slices.Contains(strings.Split(cfg.only, ","), p.name) {
			continue
		}
		start := time.Now()
		if err := p.run(ctx, s, r); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		s.say("%s: %.0f s\n", p.name, time.Since(start).Seconds())
	}
	r.Machine.LoadAfter = report.Load()
	r.Seconds = report.Round(time.Since(r.Started).Seconds())
	r.judge()
	return r, nil
}
