package store

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/ringfence/ringfence/internal/flow"
)

// EdgeFilter is flow.EdgeFilter.
type EdgeFilter = flow.EdgeFilter

// The most rows a read gives when its filter has no limit of its own.
const (
	defaultEdgeLimit   = 200_000
	defaultDenialLimit = 10_000
	defaultFlowLimit   = 1_000
	maxFlowLimit       = 100_000
)

// Answered and denied count a connection when it first was so. One for which
// that was before the window still counts for one together with the others.
var edgeQuery = `
SELECT
    ` + edgeKey + `,
    sum(connections),
    greatest(sum(answered), least(toUInt64(1), sum(reverse_packets))),
    sum(forward_packets), sum(forward_bytes), sum(reverse_packets), sum(reverse_bytes),
    min(first_seen), max(last_seen),
    uniqMerge(source_endpoints), uniqMerge(destination_endpoints),
    toUInt64(length(` + edgeHours + ` AS hour_numbers)),
    toUInt64(length(arrayDistinct(arrayMap(h -> intDiv(h, 24), hour_numbers)))),
    arrayDistinct(arrayMap(h -> toUInt8((h + 72) % 168), hour_numbers)), -- 1970 began on a Thursday
    countIf(live_verdict = 'deny' AND {live_revision:UInt32} IN (0, live_revision)) AS rows_denied_live,
    greatest(sumIf(live_new, live_verdict = 'deny' AND {live_revision:UInt32} IN (0, live_revision)), least(1, rows_denied_live)),
    countIf(staged_verdict = 'deny' AND {staged_revision:UInt32} IN (0, staged_revision)) AS rows_denied_staged,
    greatest(sumIf(staged_new, staged_verdict = 'deny' AND {staged_revision:UInt32} IN (0, staged_revision)), least(1, rows_denied_staged))
FROM ` + edgeRows + `
GROUP BY ` + edgeKey + `
ORDER BY ` + edgeKey + `
LIMIT {max_peers:UInt64} + 1 BY ` + edgeService + `
LIMIT {limit:UInt64}`

// edgeHours stands in the query for the hours of an edge, and is the empty list
// where nobody asked for them: to unite them takes longer than all the rest.
const edgeHours = "EDGE_HOURS"

var edgeHoursWanted = map[bool]string{
	false: "emptyArrayUInt32()",
	true:  "bitmapToArray(groupBitmapMergeState(hours))",
}

var foldedEdgeQuery = strings.Replace(edgeQuery, edgeRows, folded(edgeRows), 1)

// Edges returns the edges that f wants, in a fixed order. Those of a service with
// more than a thousand peers that are no workloads are to prefixes. It is an error
// when there are more of them than the limit.
func (s *Store) Edges(ctx context.Context, f EdgeFilter) ([]flow.Edge, error) {
	limit := limitOr(f.Limit, defaultEdgeLimit)
	var (
		out    []flow.Edge
		err    error
		folded = f.Workload == nil // some service has a crowd, and planning to fold takes longer than most workloads' edges
	)
	if !folded {
		out, err = s.edges(ctx, edgeQuery, f, limit)
		folded = err == nil && crowded(out)
	}
	if folded {
		out, err = s.edges(ctx, foldedEdgeQuery, f, limit)
	}
	if err != nil {
		return nil, err
	}
	if uint64(len(out)) > limit {
		return nil, fmt.Errorf("more than %d edges: ask for a shorter time or for one workload", limit)
	}
	return out, nil
}

// edges runs one of the queries above. Of more edges than the limit it returns one
// more.
func (s *Store) edges(ctx context.Context, query string, f EdgeFilter, limit uint64) ([]flow.Edge, error) {
	query = strings.Replace(query, edgeHours, edgeHoursWanted[f.Times], 1)
	text, args := s.over(query, "({direction:UInt8} = 0 OR toUInt8(direction) = {direction:UInt8}) AND ("+atEitherEnd+")", f.Since, f.Until)
	args = append(args, workloadArgs(f.Workload)...)
	args = append(args,
		clickhouse.Named("direction", uint8(f.Direction)),
		clickhouse.Named("live_revision", f.LiveRevision),
		clickhouse.Named("staged_revision", f.StagedRevision),
		clickhouse.Named("limit", limit+1),
		clickhouse.Named("max_peers", uint64(maxPeers)),
	)
	var out []flow.Edge
	err := s.each(ctx, "edges", text, args, func(rows driver.Rows) error {
		var (
			e            flow.Edge
			ends         edgeEnds
			live, staged uint64 // rows
			hours        []uint8
		)
		err := rows.Scan(append(ends.into(), &e.Connections, &e.Answered,
			&e.Forward.Packets, &e.Forward.Bytes, &e.Reverse.Packets, &e.Reverse.Bytes, &e.FirstSeen, &e.LastSeen,
			&e.SourceEndpoints, &e.DestinationEndpoints, &e.Hours, &e.Days, &hours, &live, &e.DeniedLive, &staged, &e.DeniedStaged)...)
		if err != nil {
			return err
		}
		e.Observer, e.Source, e.Destination, e.Protocol, e.Port = ends.observer, ends.from.flow(), ends.to.flow(), flow.Protocol(ends.protocol), ends.port
		for _, h := range hours {
			e.WeekHours.Set(int(h))
		}
		e.Direction, err = flow.ParseDirection(ends.direction)
		out = append(out, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

const totalKey = `direction,
    observer_namespace, observer_kind, observer_name,
    source_namespace, source_kind, source_name, source_reserved, source_peer,
    destination_namespace, destination_kind, destination_name, destination_reserved, destination_peer,
    protocol, destination_port`

const totalQuery = `
SELECT
    direction,
    observer_namespace, observer_kind, observer_name,
    source_namespace, source_kind, source_name, source_reserved,
    if(source_name = '', source_address, toIPv6('::')) AS source_peer,
    destination_namespace, destination_kind, destination_name, destination_reserved,
    if(destination_name = '', destination_address, toIPv6('::')) AS destination_peer,
    protocol, destination_port, toUInt8(0), toUInt8(0),
    sum(toUInt64(connections)),
    sum(forward_packets), sum(forward_bytes), sum(reverse_packets), sum(reverse_bytes),
    min(first_seen), max(time)
FROM flows
WHERE time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
  AND time < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
  AND ({direction:UInt8} = 0 OR toUInt8(direction) = {direction:UInt8})
  AND (` + atEitherEnd + `)
GROUP BY ` + totalKey + `
ORDER BY ` + totalKey + `
LIMIT {limit:UInt64}`

// Totals returns what each edge carried, from the flows themselves: records are
// in the window or not by the microsecond of their newest packet.
func (s *Store) Totals(ctx context.Context, f EdgeFilter) ([]flow.EdgeTotal, error) {
	limit := limitOr(f.Limit, defaultEdgeLimit)
	args := append(windowArgs(f.Since, f.Until), workloadArgs(f.Workload)...)
	args = append(args, clickhouse.Named("direction", uint8(f.Direction)), clickhouse.Named("limit", limit+1))
	var out []flow.EdgeTotal
	err := s.each(ctx, "totals", totalQuery, args, func(rows driver.Rows) error {
		var (
			t    flow.EdgeTotal
			ends edgeEnds
		)
		err := rows.Scan(append(ends.into(), &t.Connections, &t.Forward.Packets, &t.Forward.Bytes,
			&t.Reverse.Packets, &t.Reverse.Bytes, &t.FirstSeen, &t.LastSeen)...)
		if err != nil {
			return err
		}
		t.Observer, t.Source, t.Destination, t.Protocol, t.Port = ends.observer, ends.from.flow(), ends.to.flow(), flow.Protocol(ends.protocol), ends.port
		t.Direction, err = flow.ParseDirection(ends.direction)
		out = append(out, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	if uint64(len(out)) > limit {
		return nil, fmt.Errorf("more than %d edges: ask for a shorter time or for one workload", limit)
	}
	return out, nil
}

func windowArgs(since, until time.Time) []any {
	if until.IsZero() {
		until = latest
	}
	return []any{
		clickhouse.Named("since", stamp(since).UnixMicro()),
		clickhouse.Named("until", stamp(until).UnixMicro()),
	}
}

func workloadArgs(w *flow.Workload) []any {
	whatever := w == nil
	if whatever {
		w = &flow.Workload{}
	}
	return []any{
		clickhouse.Named("any_workload", whatever),
		clickhouse.Named("namespace", w.Namespace),
		clickhouse.Named("kind", w.Kind),
		clickhouse.Named("name", w.Name),
	}
}

func limitOr(limit, fallback int) uint64 {
	if limit <= 0 {
		limit = fallback
	}
	return uint64(min(limit, math.MaxInt32)) //nolint:gosec // positive
}
