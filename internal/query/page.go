package query

import (
	"context"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// Row is a stored record.
type Row struct {
	flow.Labelled
	// ID is a digest of the record: the same wherever the record is read, and
	// another one for any other record.
	ID uint64
	// Stored is when the store took it, to the second.
	Stored time.Time
}

// Page is one read of records, newest first.
type Page struct {
	Rows []Row
	Next Cursor // of the rows after these; the zero Cursor when there are none
}

// Facet is how often each value of a field occurs, most records first.
type Facet struct {
	Field  string
	Values []FacetValue
}

// FacetValue is one value, as a filter has it.
type FacetValue struct {
	Term        Term // the condition that wants it
	Records     uint64
	Connections uint64
}

// Follower reads records as they are stored.
type Follower interface {
	// Next returns the records that were stored since it last answered, each
	// exactly once, oldest first, and at once when there are none. After an error
	// it may be asked again, and nothing is missing then.
	Next(ctx context.Context) ([]Row, error)
}

// LimitError says that a read would have taken more than reads may, and how to
// ask for less.
type LimitError struct{ Err error }

func (e *LimitError) Error() string { return e.Err.Error() }

func (e *LimitError) Unwrap() error { return e.Err }
