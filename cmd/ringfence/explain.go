package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// explained is an answer, a server's or that of manifests.
type explained struct {
	Connections []policy.Connection `json:"connections"`
	JudgedBy    []api.JudgedBy      `json:"judgedBy,omitempty"`
}

func newExplainCommand() *cobra.Command {
	var (
		client      clientFlags
		out         output
		directory   string
		ask         api.ExplainConnectionParams
		slot        string
		source, dst int64
	)
	cmd := &cobra.Command{
		Use:   "explain SOURCE DESTINATION PORT[/PROTOCOL]|icmp/TYPE",
		Short: "Say whether one connection is allowed, by which rule, and why not by the others",
		Long: `Judge one connection at both of its ends. SOURCE and DESTINATION are workloads as
NAMESPACE/KIND/NAME or NAMESPACE/NAME, addresses, or one of host, remote-node,
kube-apiserver and world. PORT is a number, or a name that the destination has; icmp/8 and
icmpv6/128 ask about a ping.

The policies are the server's: of each end its live revision, or with --slot
staged the audited one where there is one, or the revision that is named. With
--manifests they are those of Kubernetes manifests, no server is asked, and the
destination may be NAMESPACE/Service/NAME.`,
		Example: "  ringfence explain boutique/frontend boutique/cart 7070 --slot staged\n" +
			"  ringfence explain boutique/frontend boutique/cart 7070 --manifests deploy/",
		Args: exactArgs(3, "a source, a destination and a port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			if slot != string(api.Live) && slot != string(api.Staged) {
				return fmt.Errorf("--slot %q: want live or staged", slot)
			}
			var answer explained
			var err error
			if directory != "" {
				for _, name := range []string{"slot", "source-revision", "destination-revision", "config"} {
					if cmd.Flags().Changed(name) {
						return fmt.Errorf("--%s is of a server, and --manifests asks none: leave out one", name)
					}
				}
				answer, err = explainManifests(cmd.Context(), directory, args)
			} else {
				ask.Source, ask.Destination, ask.Port, ask.Slot = args[0], args[1], args[2], new(api.Slot(slot))
				if cmd.Flags().Changed("source-revision") {
					ask.SourceRevision = &source
				}
				if cmd.Flags().Changed("destination-revision") {
					ask.DestinationRevision = &dst
				}
				answer, err = explainByServer(cmd.Context(), &client, &ask)
			}
			if err != nil {
				return err
			}
			return printExplanations(cmd.OutOrStdout(), answer, out)
		},
	}
	client.register(cmd)
	out.register(cmd)
	cmd.Flags().StringVar(&directory, "manifests", "", "directory of Kubernetes manifests to ask in place of the server")
	cmd.Flags().StringVar(&slot, "slot", string(api.Live), "live or staged")
	cmd.Flags().Int64Var(&source, "source-revision", 0, "judge the source by this revision, in place of that in the slot")
	cmd.Flags().Int64Var(&dst, "destination-revision", 0, "judge the destination by this revision, in place of that in the slot")
	return cmd
}

func explainManifests(ctx context.Context, directory string, args []string) (explained, error) {
	world, err := readManifests(ctx, directory, newProgress(os.Stderr, "files", 0))
	if err != nil {
		return explained{}, err
	}
	list, err := world.Explain(args[0], args[1], args[2])
	return explained{Connections: list}, err
}

func explainByServer(ctx context.Context, client *clientFlags, ask *api.ExplainConnectionParams) (explained, error) {
	var out explained
	c, err := client.connect()
	if err != nil {
		return out, err
	}
	res, err := c.ExplainConnectionWithResponse(ctx, ask)
	if err := expect(res, err); err != nil {
		return out, err
	}
	if err := json.Unmarshal(res.Body, &out); err != nil {
		return out, fmt.Errorf("read the server's answer: %w", err)
	}
	return out, nil
}

func printExplanations(w io.Writer, answer explained, out output) error {
	if out.format != "table" {
		names := make([]string, len(answer.Connections))
		for i, c := range answer.Connections {
			names[i] = allowedText(c.Allowed)
		}
		return out.print(w, answer, names, nil, nil)
	}
	for _, c := range answer.Connections {
		fmt.Fprintf(w, "%s: %s to %s on %s\n", allowedText(c.Allowed), c.Source, c.Destination, policy.PortOf(c.Protocol, c.Port))
		printSide(w, flow.Egress, c.Source, c.Egress)
		printSide(w, flow.Ingress, c.Destination, c.Ingress)
	}
	for _, by := range answer.JudgedBy {
		fmt.Fprintf(w, "judged %s by %s\n", workloadText(by.Workload), judgedByText(by))
	}
	return nil
}

func judgedByText(by api.JudgedBy) string {
	switch {
	case by.Revision == nil:
		return "nothing: its live slot is empty"
	case by.Slot == nil:
		return "revision " + revisionText(by.Revision)
	}
	return fmt.Sprintf("revision %s, %s", revisionText(by.Revision), *by.Slot)
}

func allowedText(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "denied"
}

func printSide(w io.Writer, d flow.Direction, name string, e *policy.Explanation) {
	if e == nil {
		fmt.Fprintf(w, "  %s of %s: not judged, it is no workload\n", d, name)
		return
	}
	fmt.Fprintf(w, "  %s of %s: %s\n", d, name, e.Summary)
	for _, r := range e.Rules {
		mark, from := "no ", ""
		if r.Matched {
			mark = "yes"
		}
		if len(r.From) > 0 {
			from = " [" + strings.Join(r.From, ", ") + "]"
		}
		fmt.Fprintf(w, "    %s rule %d%s: %s\n", mark, r.Index+1, from, r.Sentence)
		for _, why := range r.Why {
			fmt.Fprintf(w, "        %s\n", why)
		}
	}
}
