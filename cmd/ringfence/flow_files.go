package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flowfile"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/query"
)

// flowFiles are the flags of the commands that read flows from files.
type flowFiles struct {
	from, since, until string
	guardrails         string
	strict             bool
}

func (o *flowFiles) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "what the files hold: hubble (JSON lines of hubble observe -o jsonpb) or ringfence (of ringfence flows -o json)")
	f.StringVar(&o.guardrails, "guardrails", "", "inventory file of which the guardrails hold: what one denies is neither learned nor allowed")
	o.registerWindow(cmd)
	f.BoolVar(&o.strict, "strict", false, "fail when a line is no flow or a workload gets no policy for lack of labels")
}

func (o *flowFiles) registerWindow(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.since, "since", "", "only flows from then on: how long ago (15m, 7d) or a time")
	cmd.Flags().StringVar(&o.until, "until", "", "only flows before then: how long ago or a time")
}

// heapFloor counts as in use while files are read. Lines are garbage at once and
// little of them is kept, so that otherwise the small heap would be collected
// some seventy times for a million lines.
const heapFloor = 128 << 20

// read adds up the flows of files.
func (o *flowFiles) read(cmd *cobra.Command, files []string) (*flowfile.Set, error) {
	cfg := flowfile.Config{Format: o.from}
	if o.from == "" {
		return nil, errors.New("--from: say what the files hold: hubble or ringfence")
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("name the files of flows, or - for stdin; see %s --help", cmd.CommandPath())
	}
	var err error
	if cfg.Since, cfg.Until, err = o.window(time.Now()); err != nil {
		return nil, err
	}
	if o.guardrails != "" {
		if cfg.Guardrails, err = inventory.LoadGuardrails(o.guardrails); err != nil {
			return nil, fmt.Errorf("--guardrails: %w", err)
		}
	}
	bar := newProgress(os.Stderr, "lines", 0)
	cfg.Progress = bar.count
	floor := make([]byte, heapFloor) // which is never written, so it takes no memory
	set, err := flowfile.Read(cmd.Context(), cfg, files, cmd.InOrStdin())
	runtime.KeepAlive(floor)
	bar.end()
	if err != nil {
		return nil, err
	}
	if s := &set.Summary; s.Flows == 0 {
		printRead(cmd.ErrOrStderr(), s)
		return nil, fmt.Errorf("no flow to learn from: %s", whyEmpty(s))
	}
	return set, nil
}

// window returns the time that is asked for; a bound that is not given is zero.
func (o *flowFiles) window(now time.Time) (since, until time.Time, err error) {
	for _, bound := range []struct {
		flag, text string
		at         *time.Time
	}{{"since", o.since, &since}, {"until", o.until, &until}} {
		if bound.text == "" {
			continue
		}
		if *bound.at, err = query.ParseTime(bound.text, now); err != nil {
			return since, until, fmt.Errorf("--%s: %w", bound.flag, err)
		}
	}
	return since, until, nil
}

// history returns what the files say, or without --from what the server stored.
func (o *flowFiles) history(cmd *cobra.Command, files []string, server *remote) (history, error) {
	if o.from == "" && len(files) == 0 && o.guardrails != "" {
		return nil, errors.New("--guardrails: a server has its own; they are for the files that --from reads")
	}
	if o.from != "" || len(files) > 0 {
		set, err := o.read(cmd, files)
		return fileHistory{set}, err
	}
	since, until, err := o.window(time.Now())
	h := &serverHistory{remote: server, samples: sampledDenials}
	if !since.IsZero() {
		h.since = &since
	}
	if !until.IsZero() {
		h.until = &until
	}
	return h, err
}

func whyEmpty(s *flowfile.Summary) string {
	switch {
	case s.Lines == 0:
		return "the files are empty"
	case s.Outside > 0:
		return fmt.Sprintf("all %d flows are outside of --since and --until", s.Outside)
	case s.Bad == s.Lines:
		return fmt.Sprintf("none of %d lines is a flow; is --from right?", s.Lines)
	}
	return fmt.Sprintf("none of %d lines is one that can be learned from", s.Lines)
}

// analyzerOf returns an analyzer of what files say, and the window they span.
func analyzerOf(set *flowfile.Set) (*analyzer.Analyzer, analyzer.Window, error) {
	inv := set.Inventory()
	a, err := analyzer.New(analyzer.Config{}, analyzer.Deps{Edges: set, Coverage: set, Inventory: fixed(inv)})
	return a, analyzer.Window{Since: set.Summary.Since, Until: set.Summary.Until}, err
}

// fixed returns a function that always returns v.
func fixed[T any](v T) func() T { return func() T { return v } }

// printRead says what of the lines was used.
func printRead(w io.Writer, s *flowfile.Summary) {
	fmt.Fprintf(w, "read %d lines: %d flows, %d bad", s.Lines, s.Flows, s.Bad)
	if s.Outside > 0 {
		fmt.Fprintf(w, ", %d outside of the time asked for", s.Outside)
	}
	fmt.Fprintln(w)
	for _, b := range s.First {
		fmt.Fprintln(w, "  "+b.String())
	}
	if more := s.Bad - uint64(len(s.First)); more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
	for _, why := range sortedKeys(s.Skipped) {
		fmt.Fprintf(w, "  left out %d %s\n", s.Skipped[why], why)
	}
	if s.Lost > 0 {
		fmt.Fprintf(w, "  %d records are missing by the files' own word\n", s.Lost)
	}
	for _, n := range s.Notes {
		fmt.Fprintln(w, "note: "+n)
	}
}

// verdict is the error of a command that is strict about what it read.
func (o *flowFiles) verdict(s *flowfile.Summary, unlabelled int) error {
	switch {
	case o.strict && s.Bad > 0:
		return fmt.Errorf("--strict: %d of %d lines are no flows, the first is %s", s.Bad, s.Lines, s.First[0])
	case o.strict && unlabelled > 0:
		return fmt.Errorf("--strict: %d workloads have no usable label and get no policy", unlabelled)
	}
	return nil
}
