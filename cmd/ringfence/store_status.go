package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/query"
	"github.com/ringfence/ringfence/internal/store"
)

func newStoreStatusCommand() *cobra.Command {
	var (
		places storePlaces
		server storeFlags
		out    output
		ago    string
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show servers, tables and what the nodes say, and what is wrong",
		Long: `Show the ClickHouse servers, the tables in them, and what the agent of each node
told last. The exit code is 1 when something is wrong, and the last line says
what. Without --clickhouse it is the store of the "up" that runs on this host,
or of the one that did.`,
		Example: `  ringfence store status
  ringfence store status -o json --clickhouse ch-1:9000 --clickhouse-user ringfence`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := out.validate(); err != nil {
				return err
			}
			if out.format == "name" {
				return errors.New("-o name: a status has no names; want table, json or yaml")
			}
			since, err := query.ParseDuration(ago)
			if err != nil {
				return fmt.Errorf("--since: %w", err)
			}
			if since < time.Minute {
				return fmt.Errorf("--since %s: want at least 1m", since)
			}
			if err := server.check(); err != nil {
				return err
			}
			open := places.open
			if len(server.Addrs) > 0 {
				open = server.external
			}
			s, err := open(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.close()) }()
			status, err := s.Status(cmd.Context(), since)
			if err != nil {
				return err
			}
			if out.format == "table" {
				err = printStoreStatus(cmd.OutOrStdout(), &status)
			} else {
				err = out.print(cmd.OutOrStdout(), status, nil, nil, nil)
			}
			if err == nil && len(status.Problems) > 0 {
				err = problemsError(status.Problems)
			}
			return err
		},
	}
	places.register(cmd)
	server.register(cmd)
	out.register(cmd)
	cmd.Flags().StringVar(&ago, "since", "1h", "how far back (15m, 7d): nodes that told something since then, and what they lost since then")
	return cmd
}

func printStoreStatus(w io.Writer, st *store.Status) error {
	var servers, tables, nodes [][]string
	for i := range st.Servers {
		s := &st.Servers[i]
		if s.Error != "" {
			servers = append(servers, []string{s.Addr, orDash(s.Shard), orDash(s.Replica), "away", "-", "-", "-", "-", "-"})
			continue
		}
		servers = append(servers, []string{
			s.Addr, orDash(s.Shard), orDash(s.Replica), s.Version, strconv.FormatInt(s.Step, 10),
			humanize.IBytes(s.DiskFree) + " of " + humanize.IBytes(s.DiskTotal),
			strconv.FormatUint(s.Merges, 10), strconv.FormatUint(s.Mutations, 10),
			(time.Duration(s.ReplicaLag) * time.Second).String(), //nolint:gosec // seconds of delay
		})
	}
	for _, t := range st.Tables {
		tables = append(tables, []string{
			t.Name, humanize.Comma(int64(t.Rows)), humanize.IBytes(t.Bytes), strconv.FormatFloat(t.BytesPerRow, 'f', 1, 64), //nolint:gosec // rows
			strconv.FormatUint(t.Parts, 10), timeText(t.Oldest), timeText(t.Newest), fmt.Sprintf("%d days", t.RetentionDays),
		})
	}
	for _, n := range st.Nodes {
		nodes = append(nodes, []string{
			n.Node, timeText(n.Last), time.Duration(n.SilentSeconds * float64(time.Second)).Round(time.Second).String(),
			humanize.Comma(int64(n.Spooled)), humanize.Comma(int64(n.Dropped)), humanize.Comma(int64(n.Lost)), //nolint:gosec // records
			time.Duration(n.SkewSeconds * float64(time.Second)).Round(time.Millisecond).String(),
		})
	}
	for i, section := range []struct {
		header []string
		rows   [][]string
	}{
		{[]string{"SERVER", "SHARD", "REPLICA", "VERSION", "SCHEMA", "DISK FREE", "MERGES", "MUTATIONS", "BEHIND"}, servers},
		{[]string{"TABLE", "ROWS", "SIZE", "BYTES/ROW", "PARTS", "OLDEST", "NEWEST", "KEPT"}, tables},
		{[]string{"NODE", "LAST HEARD", "AGO", "SPOOLED", "DROPPED", "LOST", "CLOCK"}, nodes},
	} {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := printTable(w, section.header, section.rows); err != nil {
			return err
		}
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func timeText(t time.Time) string {
	if t.Unix() <= 0 {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}
