package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/bpf"
)

func newPanicCommand() *cobra.Command {
	var (
		clearIt bool
		roots   []string
	)
	cmd := &cobra.Command{
		Use:   "panic",
		Short: "Stop dropping anything on this machine, at once",
		Long: `panic puts every workload on this machine back to audit: policies are still
judged, nothing is dropped. It writes to the pinned BPF maps and needs nothing
but root: no server, no agent, no ClickHouse. It holds until "panic --clear".`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			start := time.Now()
			if os.Geteuid() != 0 {
				return fmt.Errorf("panic writes to BPF maps: run it as root")
			}
			if len(roots) == 0 {
				found, err := filepath.Glob(runtimeGlob + "/bpf")
				if err != nil {
					return err
				}
				roots = found
			}
			var nodes []string
			for _, root := range roots {
				n, err := bpf.OpenPinnedPanic(root, !clearIt)
				if err != nil {
					return err
				}
				nodes = append(nodes, n...)
			}
			if len(nodes) == 0 {
				return fmt.Errorf("no ringfence is attached on this machine (looked under %v)", append(roots, runtimeGlob+"/bpf"))
			}
			what := "in audit: nothing is dropped until `ringfence panic --clear`"
			if clearIt {
				what = "enforcing again what was enforced before"
			}
			for _, n := range nodes {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", n, what)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "done in %s\n", time.Since(start).Round(10*time.Microsecond))
			return nil
		},
	}
	cmd.Flags().BoolVar(&clearIt, "clear", false, "end the panic")
	cmd.Flags().StringSliceVar(&roots, "bpf-dir", nil, "directory with the pinned maps of nodes (default: all under "+runtimeGlob+"/bpf)")
	return cmd
}
