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
		files  flowFiles
		server = remote{flags: &clientFlags{}}
		out    output
	)
	cmd := &cobra.Command{
		Use:   "diff A B [--from hubble|ringfence FILE...|-]",
		Short: "Say what some policies do to past connections that others do not",
		Long: `Judge stored connections by the policies in A and by those in B, and say which of
them only one denies. Both are files or revisions, and the connections those of
the server or of files, as "ringfence replay" has them. A workload that A or B
does not govern is not restricted by it.`,
		Example: "  ringfence diff shop/cart@live shop/cart@staged --since 7d\n" +
			"  ringfence diff live.yaml next.yaml --from hubble flows.jsonl",
		Args: minArgs(2, "two files of policies or revisions"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			a, err := server.policies(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			b, err := server.policies(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			past, err := files.history(cmd, args[2:], &server)
			if err != nil {
				return err
			}
			inv, err := past.inventory(cmd.Context())
			if err != nil {
				return err
			}
			before, after := pairs(a, b, inv, cmd.ErrOrStderr())
			list, err := past.diff(cmd.Context(), before, after)
			if err != nil {
				return err
			}
			if files.from != "" {
				printRead(cmd.ErrOrStderr(), past.summary())
			}
			if err := printDifferences(cmd.OutOrStdout(), cmd.ErrOrStderr(), list, out); err != nil {
				return err
			}
			return files.verdict(past.summary(), 0)
		},
	}
	server.flags.register(cmd)
	out.register(cmd)
	files.register(cmd)
	return cmd
}

// pairs returns the policies of every workload that either of them governs, in one
// order.
func pairs(a, b *policyFile, inv *inventory.Inventory, stderr io.Writer) (before, after []policy.Policy) {
	was, is := a.of(inv, stderr), b.of(inv, stderr)
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
