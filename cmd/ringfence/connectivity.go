package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/manifests"
)

func newConnectivityCommand() *cobra.Command {
	out := output{extra: []string{"csv"}}
	cmd := &cobra.Command{
		Use:   "connectivity DIR",
		Short: "Say who may reach whom by Kubernetes manifests, without a cluster",
		Long: `Read the Kubernetes manifests in DIR (workloads, namespaces, NetworkPolicies;
YAML or JSON, several documents a file, lists) and say who may reach whom, on
which protocols and ports. "world" is every address that no workload here has.

A pod template has no addresses: blocks of addresses match the pods only of
manifests that hold pods with a status.`,
		Example: "  ringfence connectivity deploy/ -o csv",
		Args:    exactArgs(1, "one directory or file of manifests"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			bar := newProgress(os.Stderr, "files", 0)
			world, err := readManifests(cmd.Context(), args[0], bar)
			if err != nil {
				return err
			}
			result, err := world.Connectivity(cmd.Context(), bar.of("workloads"))
			bar.end()
			if err != nil {
				return err
			}
			for _, n := range result.Notes {
				fmt.Fprintln(cmd.ErrOrStderr(), "note: "+n)
			}
			return printConnectivity(cmd.OutOrStdout(), result, out)
		},
	}
	out.register(cmd)
	return cmd
}

func readManifests(ctx context.Context, path string, bar *progress) (*manifests.World, error) {
	world, err := manifests.Read(ctx, path, bar.of("files"))
	bar.end()
	return world, err
}

func printConnectivity(w io.Writer, c manifests.Connectivity, out output) error {
	if out.format == "csv" {
		return writeConnectivityCSV(w, c)
	}
	var names []string
	var rows [][]string
	for _, cell := range c.Cells {
		names = append(names, cell.Source+" "+cell.Destination)
		if all := everyPort(cell); all {
			rows = append(rows, []string{cell.Source, cell.Destination, "any", "any"})
			continue
		}
		for _, a := range cell.Allowed {
			rows = append(rows, []string{cell.Source, cell.Destination, a.Protocol.String(), a.PortsText()})
		}
	}
	return out.print(w, c, names, []string{"SOURCE", "DESTINATION", "PROTOCOL", "PORTS"}, rows)
}

// everyPort reports whether a cell allows every port of each protocol.
func everyPort(c manifests.Cell) bool {
	for _, a := range c.Allowed {
		if a.PortsText() != "any" {
			return false
		}
	}
	return len(c.Allowed) == manifests.Protocols
}

// writeConnectivityCSV writes one range of ports a line.
func writeConnectivityCSV(w io.Writer, c manifests.Connectivity) error {
	out := csv.NewWriter(w)
	rows := [][]string{{"source", "destination", "protocol", "from_port", "to_port"}}
	for _, cell := range c.Cells {
		for _, a := range cell.Allowed {
			for _, r := range a.Ports {
				rows = append(rows, []string{cell.Source, cell.Destination, a.Protocol.String(), strconv.Itoa(int(r.From)), strconv.Itoa(int(r.To))})
			}
		}
	}
	return out.WriteAll(rows)
}
