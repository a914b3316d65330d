package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/ringfence/ringfence/internal/flow"
)

// DenialFilter is flow.DenialFilter.
type DenialFilter = flow.DenialFilter

// denialQuery has the slot's name in the place of SLOT.
var denialQuery = `
SELECT
    ` + edgeKey + `,
    SLOT_reason, SLOT_revision,
    greatest(sum(SLOT_new), 1) AS denied,
    sum(forward_packets + reverse_packets) AS packets,
    min(first_seen),
    max(last_seen)
FROM ` + edgeRows + `
GROUP BY ` + edgeKey + `, SLOT_reason, SLOT_revision
ORDER BY denied DESC, packets DESC, ` + edgeKey + `, SLOT_reason, SLOT_revision
LIMIT {limit:UInt64}`

var denialQueries = map[flow.Slot]string{
	flow.SlotLive:   strings.ReplaceAll(denialQuery, "SLOT", "live"),
	flow.SlotStaged: strings.ReplaceAll(denialQuery, "SLOT", "staged"),
}

// Denials returns what one slot's policies denied, most connections first.
func (s *Store) Denials(ctx context.Context, f DenialFilter) ([]flow.Denial, error) {
	query, ok := denialQueries[f.Slot]
	if !ok {
		return nil, fmt.Errorf("denials: %s is neither live nor staged", f.Slot)
	}
	text, args := s.over(query, fmt.Sprintf("%[1]s_verdict = 'deny' AND {revision:UInt32} IN (0, %[1]s_revision) AND ("+atObserver+")", f.Slot), f.Since, f.Until)
	args = append(args, workloadArgs(f.Workload)...)
	args = append(args, clickhouse.Named("revision", f.Revision), clickhouse.Named("limit", limitOr(f.Limit, defaultDenialLimit)))
	var out []flow.Denial
	err := s.each(ctx, "denials", text, args, func(rows driver.Rows) error {
		var (
			d      flow.Denial
			ends   edgeEnds
			reason string
		)
		err := rows.Scan(append(ends.into(), &reason, &d.Revision, &d.Connections, &d.Packets, &d.FirstSeen, &d.LastSeen)...)
		if err != nil {
			return err
		}
		d.Observer, d.Source, d.Destination, d.Protocol, d.Port = ends.observer, ends.from.flow(), ends.to.flow(), flow.Protocol(ends.protocol), ends.port
		d.Reason = parseReason(reason)
		d.Direction, err = flow.ParseDirection(ends.direction)
		out = append(out, d)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// parseReason reads a reason that a newer ringfence may have written.
func parseReason(s string) flow.Reason {
	r, err := flow.ParseReason(s)
	if err != nil {
		return flow.ReasonNone
	}
	return r
}
