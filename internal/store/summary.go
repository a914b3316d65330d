package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/ringfence/ringfence/internal/flow"
)

// A flow seen at both ends is counted at its source, and one from outside at
// its destination.
const summaryQuery = `
SELECT count(), sum(connections), min(first), max(first)
FROM
(
    SELECT
        sumIf(connections, direction = 'egress' OR source_name = '') AS connections,
        min(first_seen) AS first
    FROM edge_months
    WHERE direction != 'unknown'
    GROUP BY
        source_namespace, source_kind, source_name, source_reserved, source_address,
        destination_namespace, destination_kind, destination_name, destination_reserved, destination_address,
        protocol, port, source_folded, destination_folded
)`

// Summary adds up everything that is stored. It is zero when nothing is.
func (s *Store) Summary(ctx context.Context) (flow.Summary, error) {
	var out flow.Summary
	err := s.each(ctx, "summary", summaryQuery, nil, func(rows driver.Rows) error {
		var first, newest time.Time
		if err := rows.Scan(&out.Edges, &out.Connections, &first, &newest); err != nil {
			return err
		}
		if out.Edges > 0 {
			out.Since, out.NewestEdgeAt = first, newest
		}
		return nil
	})
	return out, err
}

// judgedQuery has the slot's name in the place of SLOT.
var judgedQuery = `
SELECT greatest(sum(SLOT_new), least(toUInt64(1), count()))
FROM ` + edgeRows

var judgedQueries = map[flow.Slot]string{
	flow.SlotLive:   strings.ReplaceAll(judgedQuery, "SLOT", "live"),
	flow.SlotStaged: strings.ReplaceAll(judgedQuery, "SLOT", "staged"),
}

// Judged returns how many connections of a workload one revision judged in a
// slot, by the hour; f must name the workload and the revision.
func (s *Store) Judged(ctx context.Context, f DenialFilter) (uint64, error) {
	query, ok := judgedQueries[f.Slot]
	if !ok || f.Workload == nil {
		return 0, fmt.Errorf("judged: want a workload, and the slot live or staged, not %s", f.Slot)
	}
	text, args := s.over(query, fmt.Sprintf("%[1]s_revision = {revision:UInt32} AND %[1]s_verdict != 'unknown' AND ("+atObserver+")", f.Slot), f.Since, f.Until)
	args = append(args, workloadArgs(f.Workload)...)
	args = append(args, clickhouse.Named("revision", f.Revision))
	var n uint64
	err := s.each(ctx, "judged", text, args, func(rows driver.Rows) error { return rows.Scan(&n) })
	return n, err
}
