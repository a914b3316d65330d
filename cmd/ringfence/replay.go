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
		files  flowFiles
		server = remote{flags: &clientFlags{}}
		out    output
	)
	cmd := &cobra.Command{
		Use:   "replay POLICY|NAMESPACE/NAME@REVISION [--from hubble|ringfence FILE...|-]",
		Short: "Say which connections of the past a policy would have denied",
		Long: `Judge stored connections by policies, and say what would have been denied, to
whom, by which rules' absence, and how often. Nothing is enforced.

POLICY is a file of NetworkPolicies or of our policies (as "ringfence recommend
-o json" prints them), or a revision of the server's: NAMESPACE/KIND/NAME@7,
@live or @staged. The connections are those that the server stored since --since
(30 days ago unless given), or with --from those in files of flows. It exits with
1 when --strict is given and something would be denied.`,
		Example: "  ringfence replay shop/cart@staged --since 7d\n" +
			"  ringfence replay policies.yaml --from hubble flows.jsonl.gz",
		Args: minArgs(1, "a file of policies or a revision"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			f, err := server.policies(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			past, err := files.history(cmd, args[1:], &server)
			if err != nil {
				return err
			}
			inv, err := past.inventory(cmd.Context())
			if err != nil {
				return err
			}
			policies := f.of(inv, cmd.ErrOrStderr())
			if len(policies) == 0 {
				return fmt.Errorf("%s governs no workload of the flows", args[0])
			}
			results, err := past.replay(cmd.Context(), policies)
			if err != nil {
				return err
			}
			if files.from != "" {
				printRead(cmd.ErrOrStderr(), past.summary())
			}
			if err := printReplay(cmd.OutOrStdout(), cmd.ErrOrStderr(), results, out); err != nil {
				return err
			}
			return replayVerdict(&files, past.summary(), results)
		},
	}
	server.flags.register(cmd)
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

func printReplay(w, stderr io.Writer, results []replayed, out output) error {
	var (
		names  []string
		rows   [][]string
		judged uint64
		denied uint64
	)
	for _, r := range results {
		for i := range r.Denials {
			row := denialCells(r.Workload, &r.Denials[i])
			if len(r.Samples[i]) > 0 {
				row = append(row, sampleText(r.Samples[i][0]))
			}
			rows = append(rows, row)
		}
		if r.Denied > 0 {
			names = append(names, r.Workload.String())
		}
		judged += r.Judged
		denied += r.Denied
	}
	fmt.Fprintf(stderr, "%d of %d connections would have been denied, by the policies of %d workloads; one between two of them is judged at either end\n", denied, judged, len(results))
	if out.format == "table" && len(rows) == 0 {
		return nil
	}
	return out.print(w, results, names, append(denialHeader, "SAMPLE"), rows)
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

func replayVerdict(files *flowFiles, s *flowfile.Summary, results []replayed) error {
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
