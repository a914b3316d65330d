package store

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/ringfence/ringfence/internal/flow"
)

var statsQuery = `
SELECT
    observer_namespace, observer_kind, observer_name,
    uniqExact(` + edgeKey + `),
    sum(connections),
    max(last_seen)
FROM ` + edgeRows(`observer_name != ''`) + `
GROUP BY observer_namespace, observer_kind, observer_name
ORDER BY observer_namespace, observer_kind, observer_name`

var deniedQuery = `
SELECT observer_namespace, observer_kind, observer_name, SLOT_revision, greatest(sum(SLOT_new), 1)
FROM ` + edgeRows(`observer_name != '' AND SLOT_verdict = 'deny'`) + `
GROUP BY observer_namespace, observer_kind, observer_name, SLOT_revision`

var (
	deniedLiveQuery   = strings.ReplaceAll(deniedQuery, "SLOT", "live")
	deniedStagedQuery = strings.ReplaceAll(deniedQuery, "SLOT", "staged")
)

// Stats returns the totals of every workload that observed anything since the
// start of the hour that since lies in, ordered by workload.
func (s *Store) Stats(ctx context.Context, since time.Time) ([]flow.WorkloadStats, error) {
	args := s.spanArgs(since.Truncate(time.Hour), time.Time{})
	stats := map[flow.Workload]*flow.WorkloadStats{}
	err := s.each(ctx, "stats", statsQuery, args, func(rows driver.Rows) error {
		w := flow.WorkloadStats{WouldDeny: map[uint32]uint64{}, Denied: map[uint32]uint64{}}
		if err := rows.Scan(append(workloadInto(&w.Workload), &w.Edges, &w.Connections, &w.LastSeen)...); err != nil {
			return err
		}
		stats[w.Workload] = &w
		return nil
	})
	if err != nil {
		return nil, err
	}
	for query, counts := range map[string]func(*flow.WorkloadStats) map[uint32]uint64{
		deniedLiveQuery:   func(w *flow.WorkloadStats) map[uint32]uint64 { return w.Denied },
		deniedStagedQuery: func(w *flow.WorkloadStats) map[uint32]uint64 { return w.WouldDeny },
	} {
		err := s.each(ctx, "stats", query, args, func(rows driver.Rows) error {
			var w flow.Workload
			var revision uint32
			var count uint64
			if err := rows.Scan(append(workloadInto(&w), &revision, &count)...); err != nil {
				return err
			}
			if st := stats[w]; st != nil { // else it came between the queries; next time
				counts(st)[revision] = count
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	out := make([]flow.WorkloadStats, 0, len(stats))
	for _, st := range stats {
		out = append(out, *st)
	}
	slices.SortFunc(out, func(a, b flow.WorkloadStats) int { return a.Workload.Compare(b.Workload) })
	return out, nil
}
