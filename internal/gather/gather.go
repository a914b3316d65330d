package gather

import (
	"context"
	"errors"
	"fmt"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
)

// Sink stores groups. Rows that are inserted again under the same token, and
// coverage that is inserted again, are stored once.
type Sink interface {
	InsertFlows(ctx context.Context, token string, rows []flow.Labelled) error
	InsertCoverage(ctx context.Context, rows []flow.Coverage) error
}

// RefusedError says that a batch is wrong in itself: sent again it is refused
// again.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return "batch refused: " + e.Why }

// ErrFull says that no more may wait: the store is away or too slow.
var ErrFull = errors.New("as much waits for the store as may: the store is away or too slow; send again later")

// ErrStopped says that the gatherer does not run, or ended meanwhile.
var ErrStopped = errors.New("the gatherer has ended; send again to the next one")

// Level says how much waits on disk.
type Level struct {
	Groups  int
	Records uint64
	Bytes   int64
}

// Gatherer stores the batches of many nodes together.
type Gatherer struct {
	cfg  Config
	sink Sink
}

// New returns a Gatherer. It does no I/O.
func New(cfg Config, sink Sink) (*Gatherer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("gather: %w", err)
	}
	if sink == nil {
		return nil, errors.New("gather: needs a sink")
	}
	return &Gatherer{cfg: cfg.withDefaults(), sink: sink}, nil
}

// Run opens the directory and works until ctx ends. An error means that the
// directory cannot be used.
func (g *Gatherer) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Take returns nil when b is on disk, or was before: it is stored once, whatever
// happens. The token is a spool.Token's and names node, and so do the rows;
// otherwise it is a *RefusedError. After any other error b may be sent again.
func (g *Gatherer) Take(ctx context.Context, node string, b spool.Batch) error {
	return ErrStopped
}

// TakeCoverage is Take for coverage rows of a node. Those of one call are sent
// again together or not at all, are of one kind, and of each kind a node sends
// the next ones when it has the answer.
func (g *Gatherer) TakeCoverage(ctx context.Context, node string, rows []flow.Coverage) error {
	return ErrStopped
}

// Level returns how much waits.
func (g *Gatherer) Level() Level { return Level{} }

// Problem returns why nothing can be stored at the moment, or nil.
func (g *Gatherer) Problem() error { return nil }
