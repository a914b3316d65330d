package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func newDownCommand() *cobra.Command {
	var places layout
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Detach from this host: nothing is watched or enforced any more",
		Long: `down removes the programs and maps that "ringfence up" pinned. Revisions and
flows stay in the state directory. It refuses while "up" runs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("down removes BPF programs: run it as root")
			}
			if !isOwn(places.RuntimeDir) {
				return fmt.Errorf("nothing is attached below %s: name the --runtime-dir that `up` was given", places.RuntimeDir)
			}
			unlock, err := lockDir(places.RuntimeDir, "end `ringfence up` first")
			if err != nil {
				return err
			}
			defer unlock()
			if err := places.detach(); err != nil {
				return err
			}
			if err := os.RemoveAll(places.RuntimeDir); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "detached: nothing is watched or enforced on this host")
			return nil
		},
	}
	cmd.Flags().StringVar(&places.RuntimeDir, "runtime-dir", defaultRuntimeDir, "runtime directory of \"ringfence up\"")
	return cmd
}
