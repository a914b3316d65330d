package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/flowfile"
)

func newReplayCommand() *cobra.Command {
	var (
		files flowFiles
		out   output
	)
	cmd := &cobra.Command{
		Use:   "replay POLICY --from hubble|ringfence FILE...|-",
		Short: "Say which connections of files of flows a policy would have denied",
		Long: `Judge the connections in files of flows by the policies in POLICY, and say what
would have been denied, to whom, by which rules' absence, and how often. POLICY is
a file of NetworkPolicies or of our policies (as "ringfence recommend -o json"
prints them). Nothing is enforced. It exits with 1 when --strict is given and
something would be denied.`,
		Example: "  ringfence replay policies.yaml --from hubble flows.jsonl.gz",
		Args:    minArgs(2, "a file of policies and the files of flows"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			f, err := readPolicyFile(args[0])
			if err != nil {
				return err
			}
			set, err := files.read(cmd, args[1:])
			if err != nil {
				return err
			}
			inv := set.Inventory()
			policies, notes := f.of(&inv)
			for _, n := range notes {
				fmt.Fprintln(cmd.ErrOrStderr(), "note: "+n)
			}
			if len(policies) == 0 {
				return fmt.Errorf("%s governs no workload of the flows", args[0])
			}
			a, window, err := analyzerOf(set)
			if err != nil {
				return err
			}
			results, err := a.ReplayAll(cmd.Context(), policies, window)
			if err != nil {
				return err
			}
			printRead(cmd.ErrOrStderr(), &set.Summary)
			if err := printReplay(cmd.OutOrStdout(), cmd.ErrOrStderr(), set, results, out); err != nil {
				return err
			}
			return replayVerdict(&files, &set.Summary, results)
		},
	}
	out.register(cmd)
	files.register(cmd)
	cmd.Flags().Lookup("strict").Usage = "fail when a line is no flow or a connection would have been denied"
	return cmd
}

// replayed is a result with some flows of each denial as they were.
type replayed struct {
	*analyzer.ReplayResult
	Samples [][]flowfile.Sample `json:"samples"` // of Denials
}

func printReplay(w, stderr io.Writer, set *flowfile.Set, results []*analyzer.ReplayResult, out output) error {
	var (
		list   = []replayed{}
		names  []string
		rows   [][]string
		judged uint64
		denied uint64
	)
	for _, r := range results {
		one := replayed{ReplayResult: r, Samples: [][]flowfile.Sample{}}
		for i := range r.Denials {
			d := &r.Denials[i]
			samples := set.Samples(d.Source, d.Destination, d.Protocol, d.Port)
			one.Samples = append(one.Samples, samples)
			row := denialCells(r.Workload, d)
			if len(samples) > 0 {
				row = append(row, sampleText(samples[0]))
			}
			rows = append(rows, row)
		}
		if r.Denied > 0 {
			names = append(names, r.Workload.String())
		}
		list = append(list, one)
		judged += r.Judged
		denied += r.Denied
	}
	fmt.Fprintf(stderr, "%d of %d connections would have been denied, by the policies of %d workloads; one between two of them is judged at either end\n", denied, judged, len(results))
	if out.format == "table" && len(rows) == 0 {
		return nil
	}
	return out.print(w, list, names, append(denialHeader, "SAMPLE"), rows)
}

var denialHeader = []string{"DENIED BY", "DIRECTION", "FROM", "TO", "PORT", "REASON", "CONNECTIONS", "ANSWERED", "FIRST", "LAST"}

func denialCells(w flow.Workload, d *analyzer.Denial) []string {
	reason := d.Reason.String()
	if d.Partly {
		reason += " (some addresses)"
	}
	return []string{
		w.String(), d.Direction.String(), d.Source.String(), d.Destination.String(), d.Protocol.String() + " " + strconv.Itoa(int(d.Port)),
		reason, strconv.FormatUint(d.Connections, 10), strconv.FormatUint(d.Answered, 10),
		d.FirstSeen.UTC().Format(time.RFC3339), d.LastSeen.UTC().Format(time.RFC3339),
	}
}

func sampleText(s flowfile.Sample) string {
	return fmt.Sprintf("%s > %s at %s", s.Source, s.Destination, s.Time.UTC().Format(time.RFC3339))
}

func replayVerdict(files *flowFiles, s *flowfile.Summary, results []*analyzer.ReplayResult) error {
	if !files.strict {
		return nil
	}
	for _, r := range results {
		if r.Denied > 0 {
			return fmt.Errorf("--strict: the policy of %s would have denied %d connections", r.Workload, r.Denied)
		}
	}
	return files.verdict(s, 0)
}
