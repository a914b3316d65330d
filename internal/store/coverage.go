package store

import (
	"context"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/ringfence/ringfence/internal/flow"
)

// maxGaps bounds the gaps of a node that are listed; all are counted.
const maxGaps = 1000

// gapTolerance is how far apart two heartbeats may be and still meet: an agent
// ends one and begins the next with two readings of the clock.
const gapTolerance = 100 * time.Millisecond

// Heartbeats may overlap, so each is counted from the end of those before it.
// The other kinds of coverage cover nothing.
const coverageQuery = `
SELECT
    node,
    sumIf(greatest(0, to_us - greatest(from_us, covered_to_us)), heartbeat),
    minIf(from_us, heartbeat),
    maxIf(to_us, heartbeat),
    sum(records), sum(lost), sum(delayed), sum(dropped),
    countIf(started),
    argMaxIf(endpoints, to_us, heartbeat),
    toInt64(max(abs(skew_microseconds))),
    (arraySlice(arraySort(groupArrayIf((from_us, to_us, toString(endpoint)), kind = 'attach')), -{max_gaps:Int64}) AS attach_gaps).1,
    attach_gaps.2, attach_gaps.3,
    countIf(heartbeat AND covered_to_us > 0 AND from_us > covered_to_us + {tolerance:Int64}),
    arraySlice(arraySort(groupArrayIf([covered_to_us, from_us], heartbeat AND covered_to_us > 0 AND from_us > covered_to_us + {tolerance:Int64})), -{max_gaps:Int64}),
    arraySlice(arraySort(groupArrayIf([from_us, to_us], lost + dropped > 0)), -{max_gaps:Int64})
FROM
(
    SELECT
        toString(node) AS node, kind, kind = 'heartbeat' AS heartbeat,
        records, lost, delayed, dropped, started, endpoints, endpoint, skew_microseconds,
        greatest(toUnixTimestamp64Micro(start), {since:Int64}) AS from_us,
        least(toUnixTimestamp64Micro(end), {until:Int64}) AS to_us,
        max(to_us) OVER (PARTITION BY node, kind ORDER BY from_us, to_us ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS covered_to_us
    FROM coverage
    WHERE end >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
      AND start < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
)
GROUP BY node
ORDER BY node`

// Coverage returns what the agents covered within the window, by node. A
// heartbeat that lies in it only partly counts its time partly, but all of its
// records and losses.
func (s *Store) Coverage(ctx context.Context, since, until time.Time) ([]flow.NodeCoverage, error) {
	args := append(windowArgs(since, until),
		clickhouse.Named("tolerance", gapTolerance.Microseconds()), clickhouse.Named("max_gaps", int64(maxGaps)))
	var out []flow.NodeCoverage
	err := s.each(ctx, "coverage", coverageQuery, args, func(rows driver.Rows) error {
		var (
			n                    flow.NodeCoverage
			covered, first, last int64
			skew                 int64
			endpoints            uint32
			gaps, losses         [][]int64
			from, to             []int64
			without              []string
		)
		if err := rows.Scan(&n.Node, &covered, &first, &last, &n.Records, &n.Lost, &n.Delayed, &n.Dropped,
			&n.Starts, &endpoints, &skew, &from, &to, &without, &n.GapCount, &gaps, &losses); err != nil {
			return err
		}
		n.Covered = time.Duration(covered) * time.Microsecond
		if last > 0 {
			n.First, n.Last = time.UnixMicro(first).UTC(), time.UnixMicro(last).UTC()
		}
		n.MaxSkew = time.Duration(skew) * time.Microsecond
		n.Endpoints = int(endpoints)
		n.Gaps, n.Losses = gapsOf(gaps), gapsOf(losses)
		for i, e := range without {
			n.AttachGaps = append(n.AttachGaps, flow.EndpointGap{
				Endpoint: e, Gap: flow.Gap{Start: time.UnixMicro(from[i]).UTC(), End: time.UnixMicro(to[i]).UTC()},
			})
		}
		out = append(out, n)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// gapsOf reads pairs of microseconds.
func gapsOf(pairs [][]int64) []flow.Gap {
	var out []flow.Gap
	for _, p := range pairs {
		out = append(out, flow.Gap{Start: time.UnixMicro(p[0]).UTC(), End: time.UnixMicro(p[1]).UTC()})
	}
	return out
}
