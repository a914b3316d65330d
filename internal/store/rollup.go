package store

import (
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// Columns of edges, edge_days and edge_months. edgeKey is what makes an edge;
// judgements divide its rows further. Hours have an address each: none is folded.
const (
	edgeKey    = addressKey + `, source_folded, destination_folded`
	addressKey = `direction,
    observer_namespace, observer_kind, observer_name,
    source_namespace, source_kind, source_name, source_reserved, source_address,
    destination_namespace, destination_kind, destination_name, destination_reserved, destination_address,
    protocol, port`
	judgements = `outcome, live_verdict, live_reason, live_revision, staged_verdict, staged_reason, staged_revision`
	edgeValues = `connections, answered, live_new, staged_new,
    forward_packets, forward_bytes, reverse_packets, reverse_bytes, first_seen, last_seen,
    source_endpoints, destination_endpoints`
)

// edgeRows stands in a query for the rows of a window that match a condition,
// with the columns edgeKey, judgements, edgeValues and hours.
const edgeRows = "EDGE_ROWS"

// The parts of a window. What lies wholly in the window is read from the
// coarsest table.
//
// An hour in which the window begins or ends counts when its first and last flow
// overlap the window. Its rows are added up first: parts of one may lie in
// several unmerged rows, whose bounds would depend on when ClickHouse last merged.
const (
	outerHours = `
SELECT ADDRESSED, 0 AS source_folded, 0 AS destination_folded, JUDGEMENTS, c AS connections, a AS answered, l AS live_new, s AS staged_new,
    fp AS forward_packets, fb AS forward_bytes, rp AS reverse_packets, rb AS reverse_bytes,
    first AS first_seen, last AS last_seen, se AS source_endpoints, de AS destination_endpoints, HOUR_NUMBER AS hours
FROM
(
    SELECT hour, ADDRESSED, JUDGEMENTS,
        sum(connections) AS c, sum(answered) AS a, sum(live_new) AS l, sum(staged_new) AS s,
        sum(forward_packets) AS fp, sum(forward_bytes) AS fb, sum(reverse_packets) AS rp, sum(reverse_bytes) AS rb,
        min(first_seen) AS first, max(last_seen) AS last,
        uniqMergeState(source_endpoints) AS se, uniqMergeState(destination_endpoints) AS de
    FROM edges
    WHERE (hour = toDateTime({first_hour:UInt32}, 'UTC') OR hour = toDateTime({last_hour:UInt32}, 'UTC'))
      AND hour < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
      AND (hour < toDateTime({hours_end:UInt32}, 'UTC') OR hour >= toDateTime({hours_again:UInt32}, 'UTC'))
      AND (CONDITION)
    GROUP BY hour, ADDRESSED, JUDGEMENTS
    HAVING last >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND first < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
)`
	innerHours = `
SELECT ADDRESSED, 0 AS source_folded, 0 AS destination_folded, JUDGEMENTS, VALUES, HOUR_NUMBER AS hours
FROM edges
WHERE hour > toDateTime({first_hour:UInt32}, 'UTC') AND hour < toDateTime({last_hour:UInt32}, 'UTC')
  AND (hour < toDateTime({hours_end:UInt32}, 'UTC') OR hour >= toDateTime({hours_again:UInt32}, 'UTC'))
  AND (CONDITION)`
	wholeDays = `
SELECT KEY, JUDGEMENTS, VALUES, hours
FROM edge_days
WHERE (day >= toDate({first_day:UInt16}) AND day < toDate({days_end:UInt16})
       OR day >= toDate({days_again:UInt16}) AND day < toDate({last_day:UInt16}))
  AND (CONDITION)`
	wholeMonths = `
SELECT KEY, JUDGEMENTS, VALUES, hours
FROM edge_months
WHERE month >= toDate({first_month:UInt16}) AND month < toDate({last_month:UInt16})
  AND (CONDITION)`
	hourNumber = "initializeAggregation('groupBitmapState', toUInt32(intDiv(toUnixTimestamp(hour), 3600)))"
)

// over returns a query with the rows of its window in the place of edgeRows, and
// their arguments. Parts that are empty are left out: each takes milliseconds to
// plan.
func (s *Store) over(text, condition string, since, until time.Time) (string, []any) {
	w := spansOf(since, until, time.Now(), s.cfg.Retention)
	var parts []string
	if w.firstHour.Before(w.hoursEnd) || w.hoursAgain.Before(w.until) {
		parts = append(parts, outerHours, innerHours)
	}
	if w.firstDay.Before(w.daysEnd) || w.daysAgain.Before(w.lastDay) {
		parts = append(parts, wholeDays)
	}
	if w.firstMonth.Before(w.lastMonth) {
		parts = append(parts, wholeMonths)
	}
	rows := strings.NewReplacer("KEY", edgeKey, "ADDRESSED", addressKey, "JUDGEMENTS", judgements, "VALUES", edgeValues, "HOUR_NUMBER", hourNumber,
		"CONDITION", condition).Replace("(" + strings.Join(parts, "\nUNION ALL") + ")")
	return strings.ReplaceAll(text, edgeRows, rows), w.args()
}

// Conditions on a window's rows.
const (
	atEitherEnd = `{any_workload:Bool}
       OR (source_namespace = {namespace:String} AND source_kind = {kind:String} AND source_name = {name:String})
       OR (destination_namespace = {namespace:String} AND destination_kind = {kind:String} AND destination_name = {name:String})`
	atObserver = `{any_workload:Bool}
       OR (observer_namespace = {namespace:String} AND observer_kind = {kind:String} AND observer_name = {name:String})`
)

const day = 24 * time.Hour

// never is the number of a day after all times that the schema holds, and the
// hour after them.
var never = latest.Add(day)

// spans divides a window among the tables.
type spans struct {
	since, until time.Time
	// Hours in [first, end) and in [again, last].
	firstHour, hoursEnd, hoursAgain, lastHour time.Time
	// Days in [first, end) and in [again, last).
	firstDay, daysEnd, daysAgain, lastDay time.Time
	firstMonth, lastMonth                 time.Time
}

// spansOf returns how to read a window. A table is read only for times it still
// keeps: a window that begins in the middle of an older day, or month, has that
// one as a whole.
func spansOf(since, until, now time.Time, keep Retention) spans {
	if until.IsZero() {
		until = latest
	}
	s := spans{since: stamp(since), until: stamp(until)}
	s.firstHour, s.lastHour = s.since.Truncate(time.Hour), s.until.Truncate(time.Hour)
	firstDay, lastDay := s.since.Truncate(day), s.until.Truncate(day)
	if firstDay.Before(s.since) && firstDay.After(now.Add(-keep.Hours)) {
		firstDay = firstDay.Add(day)
	}
	switch {
	case s.until.After(now):
		lastDay = never
	case lastDay.Before(now.Add(-keep.Hours)) && lastDay.Before(s.until):
		lastDay = lastDay.Add(day)
	}
	if !firstDay.Before(lastDay) {
		firstDay, lastDay = never, never
	}
	firstMonth, lastMonth := startOfMonth(firstDay), startOfMonth(lastDay)
	if firstMonth.Before(firstDay) && firstMonth.After(now.Add(-keep.Days)) {
		firstMonth = firstMonth.AddDate(0, 1, 0)
	}
	if lastDay.Equal(never) {
		lastMonth = never
	} else if lastMonth.Before(now.Add(-keep.Days)) && lastMonth.Before(lastDay) {
		lastMonth = lastMonth.AddDate(0, 1, 0)
	}
	if !firstMonth.Before(lastMonth) {
		firstMonth, lastMonth = never, never
	}
	s.hoursEnd, s.hoursAgain = firstDay, lastDay
	s.firstDay, s.daysEnd, s.daysAgain, s.lastDay = firstDay, lastDay, never, lastDay
	if firstMonth.Before(never) {
		s.daysEnd, s.daysAgain = firstMonth, lastMonth
	}
	s.firstMonth, s.lastMonth = firstMonth, lastMonth
	return s
}

func startOfMonth(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
}

func (w *spans) args() []any {
	args := []any{clickhouse.Named("since", w.since.UnixMicro()), clickhouse.Named("until", w.until.UnixMicro())}
	for name, t := range map[string]time.Time{
		"first_hour": w.firstHour, "hours_end": w.hoursEnd, "hours_again": w.hoursAgain, "last_hour": w.lastHour,
	} {
		args = append(args, clickhouse.Named(name, uint32(t.Unix()))) //nolint:gosec // until 2106
	}
	for name, t := range map[string]time.Time{
		"first_day": w.firstDay, "days_end": w.daysEnd, "days_again": w.daysAgain, "last_day": w.lastDay,
		"first_month": w.firstMonth, "last_month": w.lastMonth,
	} {
		args = append(args, clickhouse.Named(name, uint16(t.Unix()/int64(day/time.Second)))) //nolint:gosec // until 2149
	}
	return args
}
