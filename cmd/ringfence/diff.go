package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

func newDiffCommand() *cobra.Command {
	var (
		files flowFiles
		out   output
	)
	cmd := &cobra.Command{
		Use:   "diff A B --from hubble|ringfence FILE...|-",
		Short: "Say what one file of policies does to connections that another does not",
		Long: `Replay files of flows by the policies in A and by those in B, and say which
connections only one of them denies. Both are files as "ringfence replay" reads
them. A workload that a file does not govern is not restricted by it.`,
		Example: "  ringfence diff live.yaml next.yaml --from hubble flows.jsonl",
		Args:    minArgs(3, "two files of policies and the files of flows"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			a, err := readPolicyFile(args[0])
			if err != nil {
				return err
			}
			b, err := readPolicyFile(args[1])
			if err != nil {
				return err
			}
			set, err := files.read(cmd, args[2:])
			if err != nil {
				return err
			}
			inv := set.Inventory()
			before, after := pairs(a, b, &inv, cmd.ErrOrStderr())
			an, window, err := analyzerOf(set)
			if err != nil {
				return err
			}
			list, err := an.Diff(cmd.Context(), before, after, window)
			if err != nil {
				return err
			}
			printRead(cmd.ErrOrStderr(), &set.Summary)
			if err := printDifferences(cmd.OutOrStdout(), cmd.ErrOrStderr(), list, out); err != nil {
				return err
			}
			return files.verdict(&set.Summary, 0)
		},
	}
	out.register(cmd)
	files.register(cmd)
	return cmd
}

// pairs returns the policies of every workload that either file governs, in one
// order.
func pairs(a, b *policyFile, inv *inventory.Inventory, stderr io.Writer) (before, after []policy.Policy) {
	was, notes := a.of(inv)
	is, more := b.of(inv)
	for _, n := range append(notes, more...) {
		fmt.Fprintln(stderr, "note: "+n)
	}
	old, next := governedBy(was), governedBy(is)
	var all []flow.Workload
	for _, p := range append(slices.Clone(was), is...) {
		if !slices.Contains(all, p.Workload) {
			all = append(all, p.Workload)
		}
	}
	slices.SortFunc(all, flow.Workload.Compare)
	of := func(m map[flow.Workload]*policy.Policy, w flow.Workload) policy.Policy {
		if p := m[w]; p != nil {
			return *p
		}
		return policy.Policy{Workload: w}
	}
	for _, w := range all {
		before, after = append(before, of(old, w)), append(after, of(next, w))
	}
	return before, after
}

func printDifferences(w, stderr io.Writer, list []*analyzer.Difference, out output) error {
	var (
		names []string
		rows  [][]string
		total [3]uint64
	)
	for _, d := range list {
		for i := range d.Denied {
			rows = append(rows, append([]string{"denies"}, denialCells(d.Workload, &d.Denied[i])...))
		}
		for i := range d.Allowed {
			rows = append(rows, append([]string{"allows"}, denialCells(d.Workload, &d.Allowed[i])...))
		}
		if len(d.Denied)+len(d.Allowed) > 0 {
			names = append(names, d.Workload.String())
		}
		total[0] += d.DeniedConnections
		total[1] += d.AllowedConnections
		total[2] += d.Same
	}
	fmt.Fprintf(stderr, "B denies %d connections that A allows, allows %d that A denies, and judges %d alike\n", total[0], total[1], total[2])
	if out.format == "table" && len(rows) == 0 {
		return nil
	}
	return out.print(w, list, names, append([]string{"B", "OF"}, denialHeader[1:]...), rows)
}
