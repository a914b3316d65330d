package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/bpf"
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
			if _, err := os.Stat(places.bpffs()); err != nil {
				return fmt.Errorf("nothing is attached below %s", places.RuntimeDir)
			}
			unlock, err := places.takeLock()
			if err != nil {
				return err
			}
			defer unlock()
			if err := bpf.UnmountBPFFS(places.bpffs()); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "detached: nothing is watched or enforced on this host")
			return os.RemoveAll(places.RuntimeDir)
		},
	}
	cmd.Flags().StringVar(&places.StateDir, "state-dir", defaultStateDir, "state directory of `up`")
	cmd.Flags().StringVar(&places.RuntimeDir, "runtime-dir", defaultRuntimeDir, "runtime directory of `up`")
	return cmd
}
