package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/denylist"
)

func newDenyListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "denylist",
		Short: "Deny lists of sources, which hosts drop before anything else",
	}
	cmd.AddCommand(newDenyListCheckCommand())
	return cmd
}

func newDenyListCheckCommand() *cobra.Command {
	var allowEmpty bool
	cmd := &cobra.Command{
		Use:   "check FILE…",
		Short: "Read files as an agent would, and say what it would refuse",
		Long: `check reads deny lists: one prefix or address a line, with # and ; comments. It
needs neither root nor an agent. An agent refuses a file with a bad line whole
and keeps the list that it had; its node has room for 1,000,000 entries in all.`,
		Args: minArgs(1, "the files of deny lists"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			total := 0
			for _, path := range args {
				list, err := denylist.Load(path, allowEmpty)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				total += len(list)
				v4 := 0
				for _, p := range list {
					if p.Addr().Is4() {
						v4++
					}
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %d entries (%d IPv4, %d IPv6)\n", path, len(list), v4, len(list)-v4)
			}
			if total > denylist.MaxEntries {
				errs = append(errs, fmt.Errorf("deny lists have %d entries together: there is room for %d", total, denylist.MaxEntries))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&allowEmpty, "allow-empty", false, "take files without an entry, as allowEmpty does in the inventory")
	return cmd
}
