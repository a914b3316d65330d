package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/ringfence/ringfence/internal/query"
)

const (
	// tailOverlap is how long an insert may take from the moment that its rows
	// are stamped to the one in which they can be read; more than the most that
	// an insert may take at all.
	tailOverlap = defaultInsertTimeout + 10*time.Second
	// maxTailRows bounds the records that are looked at again in each poll: those
	// of the overlap.
	maxTailRows = 100_000
)

// Tail is what somebody who follows the flows has seen. Rows are found by when
// they were stored, not by their own time, which may be far back; an insert
// becomes visible some time after its rows were stamped, so each poll looks at the
// rows of the last while again, and gives those that it has not given.
type Tail struct {
	filter query.Filter
	last   int

	began bool
	since time.Time          // when rows were stored that are looked at next
	seen  map[arrival]uint64 // how many of each were given
}

// arrival is what one row, or rows that are equal in everything, is known by.
type arrival struct {
	stored int64 // Unix seconds
	id     uint64
}

func arrivalOf(r *query.Row) arrival { return arrival{r.Stored.Unix(), r.ID} }

// NewTail returns one that begins with the newest records, as many as last says,
// and goes on with what is stored from then on.
func NewTail(f query.Filter, last int) *Tail {
	return &Tail{filter: f, last: last, seen: map[arrival]uint64{}}
}

const nowQuery = "SELECT now()"

const arrivalQuery = `
SELECT stored, ` + rowID + ` AS id, count()
FROM flows
WHERE %s
GROUP BY stored, id
LIMIT {rows:UInt64}`

const arrivedQuery = `
SELECT stored, ` + rowID + ` AS id, ` + recordColumns + `
FROM flows
WHERE %s
ORDER BY time, id
LIMIT {rows:UInt64}`

// Next returns what was stored since t was asked last, oldest first. After an
// error t is as it was.
func (s *Store) Next(ctx context.Context, t *Tail) ([]query.Row, error) {
	var now time.Time
	if err := s.each(ctx, "tail", nowQuery, nil, func(rows driver.Rows) error { return rows.Scan(&now) }); err != nil {
		return nil, err
	}
	if !t.began {
		return s.begin(ctx, t, now)
	}
	there, err := s.arrivals(ctx, t)
	if err != nil {
		return nil, err
	}
	oldest := time.Time{}
	for a, n := range there {
		if at := time.Unix(a.stored, 0); n > t.seen[a] && (oldest.IsZero() || at.Before(oldest)) {
			oldest = at
		}
	}
	var out []query.Row
	if !oldest.IsZero() {
		if out, err = s.arrived(ctx, t, oldest); err != nil {
			return nil, err
		}
	}
	t.forget(now)
	return out, nil
}

// begin takes what was stored before as seen, but for the newest.
func (s *Store) begin(ctx context.Context, t *Tail, now time.Time) ([]query.Row, error) {
	t.since = now.Add(-tailOverlap)
	seen, err := s.arrivals(ctx, t)
	if err != nil {
		return nil, err
	}
	var page query.Page
	if t.last > 0 {
		if page, err = s.Flows(ctx, t.filter, query.Cursor{}, t.last); err != nil {
			return nil, err
		}
	}
	slices.Reverse(page.Rows)
	given := map[arrival]uint64{}
	for i := range page.Rows {
		given[arrivalOf(&page.Rows[i])]++
	}
	for a, n := range given { // some may have come after seen was read
		seen[a] = max(seen[a], n)
	}
	t.seen, t.began = seen, true
	return page.Rows, nil
}

func (s *Store) arrivals(ctx context.Context, t *Tail) (map[arrival]uint64, error) {
	c, err := where(t.filter)
	if err != nil {
		return nil, err
	}
	c.storedSince(t.since)
	c.args = append(c.args, clickhouse.Named("rows", uint64(maxTailRows+1)))
	out := map[arrival]uint64{}
	err = s.each(ctx, "tail", fmt.Sprintf(arrivalQuery, c.text.String()), c.args, func(rows driver.Rows) error {
		var stored time.Time
		var id, n uint64
		if err := rows.Scan(&stored, &id, &n); err != nil {
			return err
		}
		out[arrival{stored.Unix(), id}] = n
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(out) > maxTailRows {
		return nil, tooManyToFollow()
	}
	return out, nil
}

func tooManyToFollow() error {
	return &query.LimitError{Err: fmt.Errorf("more than %d records in %s are too many to follow: name a workload, a verdict or a port",
		maxTailRows, tailOverlap)}
}

// arrived reads the rows that were stored at oldest or later and not given yet.
func (s *Store) arrived(ctx context.Context, t *Tail, oldest time.Time) ([]query.Row, error) {
	c, err := where(t.filter)
	if err != nil {
		return nil, err
	}
	c.storedSince(oldest)
	c.args = append(c.args, clickhouse.Named("rows", uint64(2*maxTailRows)))
	rows, err := s.rows(ctx, "tail", fmt.Sprintf(arrivedQuery, c.text.String()), c.args)
	if err != nil {
		return nil, err
	}
	if len(rows) == 2*maxTailRows {
		return nil, tooManyToFollow()
	}
	met := map[arrival]uint64{}
	out := rows[:0]
	for i := range rows {
		a := arrivalOf(&rows[i])
		if met[a]++; met[a] > t.seen[a] {
			t.seen[a] = met[a]
			out = append(out, rows[i])
		}
	}
	return out, nil
}

// forget drops what no later poll will look at. The store's clock may have gone
// back; what was looked at once is not looked at again for that.
func (t *Tail) forget(now time.Time) {
	if since := now.Add(-tailOverlap); since.After(t.since) {
		t.since = since
	}
	for a := range t.seen {
		if a.stored < t.since.Unix() {
			delete(t.seen, a)
		}
	}
}
