package store

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
)

// recordColumns are all that a record has, and what its ID is a digest of.
const recordColumns = `
    time, first_seen, node,
    observer_namespace, observer_kind, observer_name, observer_endpoint, observer_endpoint_id,
    direction, event,
    source_address, destination_address, source_port, destination_port, protocol,
    source_namespace, source_kind, source_name, source_reserved, source_endpoint, source_identity, source_labels,
    destination_namespace, destination_kind, destination_name, destination_reserved, destination_endpoint, destination_identity, destination_labels,
    connections, answered, forward_packets, forward_bytes, reverse_packets, reverse_bytes, forward_flags, reverse_flags,
    live_verdict, live_reason, live_revision, live_new, staged_verdict, staged_reason, staged_revision, staged_new, outcome`

const rowID = "sipHash64(" + recordColumns + ")"

// pageQuery finds out first how far back the page goes, from the times alone:
// only the page's own rows are read whole and sorted. Ten minutes come first
// in that order because they do in the table's.
const pageQuery = `
SELECT stored, ` + rowID + ` AS id, ` + recordColumns + `
FROM flows
WHERE %[1]s
  AND time >= (
    SELECT min(time)
    FROM (SELECT time FROM flows WHERE %[1]s ORDER BY toStartOfTenMinutes(time) DESC, time DESC LIMIT {rows:UInt64})
    HAVING count() > 0)
ORDER BY time DESC, id DESC
LIMIT {rows:UInt64}`

// Flows returns a page of at most limit records, or of a default number when
// limit is 0, newest first, that come after a cursor. The pages of one filter,
// one after the other, hold every record once, whatever is stored meanwhile; what
// is stored meanwhile is in them when its time is before that of the cursor.
func (s *Store) Flows(ctx context.Context, f query.Filter, after query.Cursor, limit int) (query.Page, error) {
	if limit < 0 || limit > maxFlowLimit {
		return query.Page{}, fmt.Errorf("flows: limit %d: want 1 to %d", limit, maxFlowLimit)
	}
	wanted := limitOr(limit, defaultFlowLimit)
	if !after.IsZero() {
		f.Since, f.Until = after.Since, after.Until
	}
	c, err := where(f)
	if err != nil {
		return query.Page{}, err
	}
	if !after.IsZero() {
		c.before(after)
	}
	// One more tells whether there are more.
	c.args = append(c.args, clickhouse.Named("rows", wanted+uint64(after.Same)+1))
	rows, err := s.rows(ctx, "flows", fmt.Sprintf(pageQuery, c.text.String()), c.args)
	if err != nil {
		return query.Page{}, err
	}
	// Rows that equal the cursor's in everything are told apart by their number.
	skip := 0
	for skip < len(rows) && skip < int(after.Same) && isAt(&rows[skip], after) {
		skip++
	}
	rows = rows[skip:]
	page := query.Page{Rows: rows[:min(len(rows), int(wanted))]} //nolint:gosec // bounded above
	if len(rows) > len(page.Rows) {
		page.Next = next(page.Rows, f, after)
	}
	return page, nil
}

// next is the cursor behind the last of rows.
func next(rows []query.Row, f query.Filter, after query.Cursor) query.Cursor {
	last := &rows[len(rows)-1]
	c := query.Cursor{Time: last.Time, ID: last.ID, Since: f.Since, Until: f.Until}
	for i := len(rows) - 1; i >= 0 && isAt(&rows[i], c); i-- {
		c.Same++
	}
	if int(c.Same) == len(rows) && isAt(last, after) {
		c.Same += after.Same
	}
	return c
}

func isAt(r *query.Row, c query.Cursor) bool { return r.ID == c.ID && r.Time.Equal(c.Time) }

// rows runs a query whose columns are stored, the ID and the record's.
func (s *Store) rows(ctx context.Context, name, text string, args []any) ([]query.Row, error) {
	var out []query.Row
	err := s.each(ctx, name, text, args, func(rows driver.Rows) error {
		r, err := scanRow(rows)
		out = append(out, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func scanRow(rows driver.Rows) (query.Row, error) {
	var (
		r                              query.Row
		parties                        [3]flow.Party
		direction, event               string
		source, destination            netip.Addr
		protocol                       uint8
		answered, liveNew, stagedNew   uint8
		live, liveReason               string
		staged, stagedReason, happened string
	)
	l, observer, from, to := &r.Labelled, &parties[0], &parties[1], &parties[2]
	l.Observer, l.Source, l.Dest = observer, from, to
	dest := []any{&r.Stored, &r.ID, &l.Time, &l.FirstSeen, &l.Node}
	dest = append(append(dest, workloadInto(&observer.Workload)...), &observer.Endpoint, &l.Endpoint)
	dest = append(dest, &direction, &event, &source, &destination, &l.SourcePort, &l.DestinationPort, &protocol)
	for _, p := range []*flow.Party{from, to} {
		dest = append(append(dest, workloadInto(&p.Workload)...), &p.Reserved, &p.Endpoint, (*uint32)(&p.Identity), &p.Labels)
	}
	dest = append(dest,
		&l.Connections, &answered, &l.Forward.Packets, &l.Forward.Bytes, &l.Reverse.Packets, &l.Reverse.Bytes, &l.ForwardFlags, &l.ReverseFlags,
		&live, &liveReason, &l.Live.Revision, &liveNew, &staged, &stagedReason, &l.Staged.Revision, &stagedNew, &happened)
	err := rows.Scan(dest...)
	if err != nil {
		return r, err
	}
	l.Key.Source, l.Destination, l.Protocol = source.Unmap(), destination.Unmap(), flow.Protocol(protocol)
	l.Event = parseEvent(event)
	l.Answered, l.LiveNew, l.StagedNew = answered != 0, liveNew != 0, stagedNew != 0
	l.Live.Reason, l.Staged.Reason = parseReason(liveReason), parseReason(stagedReason)
	if l.Direction, err = flow.ParseDirection(direction); err != nil {
		return r, err
	}
	if l.Live.Verdict, err = flow.ParseVerdict(live); err != nil {
		return r, err
	}
	if l.Staged.Verdict, err = flow.ParseVerdict(staged); err != nil {
		return r, err
	}
	l.Outcome, err = flow.ParseOutcome(happened)
	return r, err
}

// parseEvent reads an event that a newer ringfence may have written.
func parseEvent(s string) flow.Event {
	e, err := flow.ParseEvent(s)
	if err != nil {
		return flow.EventNone
	}
	return e
}
