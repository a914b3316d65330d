package collector

import (
	"context"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/spool"
)

// RecordReader is the ring buffer; bpf.Reader is one. It is used by one
// goroutine.
type RecordReader interface {
	RingID() uint64
	// Replay returns the batch that was intended and not committed, if any.
	Replay() (bpf.Batch, bool, error)
	// Next waits for records after those already returned. When ctx is done it
	// returns an empty batch and ctx's error.
	Next(ctx context.Context) (bpf.Batch, error)
	Intend(start, end uint64) error
	Commit(end uint64) error
}

// Datapath makes the kernel report flows, and counts what it could not report.
type Datapath interface {
	Sweep(context.Context) (bpf.SweepStats, error)
	// Counters are totals by name since they began, at 0, under CountersID.
	Counters() (map[string]uint64, error)
	CountersID() uint64
	// Attached returns the endpoints that have programs.
	Attached() ([]bpf.Attached, error)
}

// Sink stores what was collected. Rows that are inserted again under the same
// token are stored once. An error with a method Refused that returns true means
// that what was sent is wrong in itself: flows then go to the spool, which gives
// them up and notes the gap.
type Sink interface {
	InsertFlows(ctx context.Context, token string, rows []flow.Labelled) error
	InsertCoverage(ctx context.Context, rows []flow.Coverage) error
	// Clock returns the store's time.
	Clock(ctx context.Context) (time.Time, error)
}

// Deps are what a Collector works with.
type Deps struct {
	Reader   RecordReader
	Datapath Datapath
	Sink     Sink
	// Owners says who held an address when. It learns from somebody else.
	Owners *inventory.Ownership
	// Spool takes what the store does not.
	Spool *spool.Spool
	// Now defaults to time.Now.
	Now func() time.Time
}
