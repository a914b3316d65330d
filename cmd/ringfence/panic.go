package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
				return errors.New("panic writes to BPF maps: run it as root")
			}
			if len(roots) == 0 {
				found, err := pinned("/proc/self/mountinfo")
				if err != nil {
					return err
				}
				if roots = found; len(roots) == 0 {
					return errors.New("no ringfence is attached on this machine: no bpffs holds its pins; if it is mounted elsewhere, name it with --bpf-dir")
				}
			}
			var nodes []string
			var errs []error
			for _, root := range roots {
				n, err := bpf.OpenPinnedPanic(root, !clearIt)
				nodes, errs = append(nodes, n...), append(errs, err)
			}
			what := "in audit: nothing is dropped until `ringfence panic --clear`"
			if clearIt {
				what = "enforcing again what was enforced before"
			}
			for _, n := range nodes {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", unpinName.Replace(n), what)
			}
			if len(nodes) > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "done in %s\n", time.Since(start).Round(10*time.Microsecond))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&clearIt, "clear", false, "end the panic")
	cmd.Flags().StringSliceVar(&roots, "bpf-dir", nil, "directory with the pinned maps of nodes (default: every bpffs that holds any)")
	return cmd
}

// pinned returns the bpffs mounts that hold a node's pins, as mountinfo lists
// them. It asks the kernel, because a runtime directory may be anywhere.
func pinned(mountinfo string) ([]string, error) {
	doc, err := os.ReadFile(mountinfo)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var roots []string
	for line := range strings.Lines(string(doc)) {
		// id parent dev root MOUNTPOINT options [optional…] - TYPE source options
		mount, filesystem, ok := strings.Cut(line, " - ")
		fields := strings.Fields(mount)
		if !ok || len(fields) < 5 || !strings.HasPrefix(filesystem, "bpf ") {
			continue
		}
		dir := unescapeMount.Replace(fields[4])
		if nodes, _ := filepath.Glob(filepath.Join(escapeGlob.Replace(dir), "*", "links")); len(nodes) > 0 && !slices.Contains(roots, dir) {
			roots = append(roots, dir)
		}
	}
	return roots, nil
}

var (
	unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	escapeGlob    = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)
)
