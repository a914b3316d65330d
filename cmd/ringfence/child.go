package main

import (
	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/lab"
)

// Subcommands that this binary starts itself as.
const (
	engineCommand  = "clickhouse-engine"
	labHostCommand = "lab-host"
)

func newEngineCommand() *cobra.Command {
	return &cobra.Command{
		Use:                engineCommand,
		Short:              "Body of the embedded ClickHouse process",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE:               func(_ *cobra.Command, args []string) error { return clickhouse.RunEngine(args) },
	}
}

func newLabHostCommand() *cobra.Command {
	return &cobra.Command{
		Use:                labHostCommand,
		Short:              "Body of one host of the lab",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return lab.RunHost(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), args)
		},
	}
}
