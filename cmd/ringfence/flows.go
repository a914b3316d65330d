package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/flow"
)

func newFlowsCommand() *cobra.Command {
	var (
		client      clientFlags
		out         output
		since       time.Duration
		workload    string
		outcome     string
		direction   string
		protocol    string
		port, limit int
	)
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "List flow records, newest first",
		Example: `  ringfence flows --since 10m --outcome dropped
  ringfence flows --workload boutique/Host/frontend --protocol tcp -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			if out.format == "name" {
				return errors.New("-o name: flows have no names; want table, json or yaml")
			}
			params := api.ListFlowsParams{Limit: &limit}
			if since <= 0 {
				return fmt.Errorf("--since %s: want a positive duration such as 10m", since)
			}
			start := time.Now().Add(-since)
			params.Since = &start
			if workload != "" {
				if _, err := flow.ParseWorkload(workload); err != nil {
					return fmt.Errorf("--workload: %w", err)
				}
				params.Workload = &workload
			}
			if outcome != "" {
				o := api.ListFlowsParamsOutcome(outcome)
				params.Outcome = &o
			}
			if direction != "" {
				d := api.Direction(direction)
				params.Direction = &d
			}
			if protocol != "" {
				params.Protocol = &protocol
			}
			if cmd.Flags().Changed("port") {
				params.Port = &port
			}
			c, err := client.connect()
			if err != nil {
				return err
			}
			return listFlows(cmd.Context(), c, params, out)
		},
	}
	client.register(cmd)
	out.register(cmd)
	f := cmd.Flags()
	f.DurationVar(&since, "since", time.Hour, "how far back to look")
	f.StringVar(&workload, "workload", "", "namespace/kind/name, at either end")
	f.StringVar(&outcome, "outcome", "", "forwarded, audited or dropped")
	f.StringVar(&direction, "direction", "", "ingress, egress or unknown, as the observed endpoint sees it")
	f.StringVar(&protocol, "protocol", "", "TCP, UDP, ICMP or a number")
	f.IntVar(&port, "port", 0, "the responder's port")
	f.IntVar(&limit, "limit", 100, "at most so many, up to 1000")
	return cmd
}

func listFlows(ctx context.Context, c *api.ClientWithResponses, params api.ListFlowsParams, out output) error {
	res, err := c.ListFlowsWithResponse(ctx, &params)
	if err := expect(res, err); err != nil {
		return err
	}
	flows := *res.JSON200
	if len(flows) == 0 && out.format == "table" {
		fmt.Fprintln(os.Stderr, "no flow matches; a longer --since may find some")
		return nil
	}
	rows := make([][]string, 0, len(flows))
	for i := range flows {
		f := &flows[i]
		rows = append(rows, []string{
			f.Time.Local().Format("15:04:05.000"),
			f.Node,
			string(f.Direction),
			endText(f.Source, f.SourceAddress, f.SourcePort),
			endText(f.Destination, f.DestinationAddress, f.Port),
			f.Protocol,
			f.Event,
			strconv.FormatInt(f.PacketsForward+f.PacketsReverse, 10),
			strconv.FormatInt(f.BytesForward+f.BytesReverse, 10),
			f.Outcome,
			judgementText(f.Live),
			judgementText(f.Staged),
		})
	}
	return out.print(os.Stdout, flows, nil, []string{"TIME", "NODE", "DIRECTION", "FROM", "TO", "PROTOCOL",
		"EVENT", "PACKETS", "BYTES", "OUTCOME", "LIVE", "STAGED"}, rows)
}

func endText(p api.Party, address string, port int) string {
	host := net.JoinHostPort(address, strconv.Itoa(port))
	switch {
	case p.Workload != nil:
		return workloadText(*p.Workload) + " " + host
	case p.Reserved != nil && *p.Reserved != "":
		return *p.Reserved + " " + host
	}
	return host
}

func judgementText(j api.Judgement) string {
	if j.Verdict == flow.VerdictUnknown.String() {
		return "-"
	}
	if j.Revision != nil {
		return fmt.Sprintf("%s (%s, r%d)", j.Verdict, j.Reason, *j.Revision)
	}
	return fmt.Sprintf("%s (%s)", j.Verdict, j.Reason)
}

func workloadText(w api.WorkloadRef) string { return w.Namespace + "/" + w.Kind + "/" + w.Name }
