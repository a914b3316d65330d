package store

import (
	"context"
	"fmt"
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
FROM ` + edgeRows + `
GROUP BY observer_namespace, observer_kind, observer_name
ORDER BY observer_namespace, observer_kind, observer_name`

var deniedQuery = `
SELECT observer_namespace, observer_kind, observer_name, SLOT_revision, greatest(sum(SLOT_new), 1)
FROM ` + edgeRows + `
GROUP BY observer_namespace, observer_kind, observer_name, SLOT_revision`

var deniedQueries = map[flow.Slot]string{
	flow.SlotLive:   strings.ReplaceAll(deniedQuery, "SLOT", "live"),
	flow.SlotStaged: strings.ReplaceAll(deniedQuery, "SLOT", "staged"),
}

// Stats returns the totals of every workload that observed anything since the
// start of the hour that since lies in, ordered by workload.
func (s *Store) Stats(ctx context.Context, since time.Time) ([]flow.WorkloadStats, error) {
	since = since.Truncate(time.Hour)
	text, args := s.over(statsQuery, "observer_name != ''", since, time.Time{})
	stats := map[flow.Workload]*flow.WorkloadStats{}
	err := s.each(ctx, "stats", text, args, func(rows driver.Rows) error {
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
	for slot, counts := range map[flow.Slot]func(*flow.WorkloadStats) map[uint32]uint64{
		flow.SlotLive:   func(w *flow.WorkloadStats) map[uint32]uint64 { return w.Denied },
		flow.SlotStaged: func(w *flow.WorkloadStats) map[uint32]uint64 { return w.WouldDeny },
	} {
		text, args := s.over(deniedQueries[slot], fmt.Sprintf("observer_name != '' AND %s_verdict = 'deny'", slot), since, time.Time{})
		err := s.each(ctx, "stats", text, args, func(rows driver.Rows) error {
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
