package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

func newExplainCommand() *cobra.Command {
	var (
		out       output
		directory string
	)
	cmd := &cobra.Command{
		Use:   "explain SOURCE DESTINATION PORT[/PROTOCOL]",
		Short: "Say whether one connection is allowed, by which rule, and why not by the others",
		Long: `Judge one connection at both of its ends. SOURCE and DESTINATION are workloads as
NAMESPACE/KIND/NAME, addresses, or world; the destination may be
NAMESPACE/Service/NAME. PORT is a number, or a name that the destination has.

The policies are those of the Kubernetes manifests in --manifests.`,
		Example: "  ringfence explain boutique/frontend boutique/cart 7070 --manifests deploy/",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 3 {
				return fmt.Errorf("name a source, a destination and a port; see %s --help", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			if directory == "" {
				return fmt.Errorf("--manifests: name the directory of manifests to ask")
			}
			world, err := readManifests(cmd.Context(), directory, newProgress(os.Stderr, "files", 0))
			if err != nil {
				return err
			}
			list, err := world.Explain(args[0], args[1], args[2])
			if err != nil {
				return err
			}
			return printExplanations(cmd.OutOrStdout(), list, out)
		},
	}
	out.register(cmd)
	cmd.Flags().StringVar(&directory, "manifests", "", "directory of Kubernetes manifests to ask")
	return cmd
}

func printExplanations(w io.Writer, list []policy.Connection, out output) error {
	if out.format != "table" {
		names := make([]string, len(list))
		for i, c := range list {
			names[i] = allowedText(c.Allowed)
		}
		return out.print(w, list, names, nil, nil)
	}
	for _, c := range list {
		fmt.Fprintf(w, "%s: %s to %s on %s\n", allowedText(c.Allowed), c.Source, c.Destination, policy.Port{Protocol: c.Protocol, Port: c.Port})
		printSide(w, flow.Egress, c.Source, c.Egress)
		printSide(w, flow.Ingress, c.Destination, c.Ingress)
	}
	return nil
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
