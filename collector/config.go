package collector

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence/ringfence/internal/period"
)

// Config says how to batch and how patient to be.
type Config struct {
	// Node is this node's name.
	Node string
	// StateDir holds the state file with the last heartbeat.
	StateDir string

	// BatchRecords and BatchAge bound a batch; default 20,000 and 250 ms.
	BatchRecords int
	BatchAge     time.Duration
	// A batch of up to SmallRecords in which nothing was denied may become as old
	// as SmallAge, one of n times as many an nth of that, down to BatchAge: an
	// insert costs about the same for one record as for thousands, and so it goes
	// when enough has waited long enough. Default 20 and 10 s.
	SmallRecords int
	SmallAge     time.Duration
	// Patience is how long the store may take, or be away, before batches go to
	// the spool; until then they wait in the ring. Default 5 s.
	Patience time.Duration
	// Insert bounds one attempt to store a batch of the spool, or a heartbeat;
	// default 30 s.
	Insert time.Duration
	// MinPause and MaxPause bound the pause before another attempt; default
	// 100 ms and 5 s.
	MinPause, MaxPause time.Duration
	// Sweep is how often the flow table is swept; default 1 s.
	Sweep time.Duration
	// Heartbeat is how often coverage is stored; default 5 s.
	Heartbeat time.Duration
	// Clock is how often the store's clock is asked for; default 1 min.
	Clock time.Duration
	// Flush bounds the storing of what was read when Run is told to end;
	// default 5 s.
	Flush time.Duration

	// Logger defaults to one that discards.
	Logger *slog.Logger
	// Registerer gets the metrics; nil keeps them to themselves.
	Registerer prometheus.Registerer
}

func (c *Config) periods() []period.Period {
	return []period.Period{
		{Name: "batch age", Value: &c.BatchAge, Default: 250 * time.Millisecond},
		{Name: "small batch age", Value: &c.SmallAge, Default: 10 * time.Second},
		{Name: "patience", Value: &c.Patience, Default: 5 * time.Second},
		{Name: "insert", Value: &c.Insert, Default: 30 * time.Second},
		{Name: "least pause", Value: &c.MinPause, Default: 100 * time.Millisecond},
		{Name: "longest pause", Value: &c.MaxPause, Default: 5 * time.Second},
		{Name: "sweep", Value: &c.Sweep, Default: time.Second},
		{Name: "heartbeat", Value: &c.Heartbeat, Default: 5 * time.Second},
		{Name: "clock", Value: &c.Clock, Default: time.Minute},
		{Name: "flush", Value: &c.Flush, Default: 5 * time.Second},
	}
}

func (c Config) withDefaults() Config {
	period.SetDefaults(c.periods())
	if c.BatchRecords == 0 {
		c.BatchRecords = 20_000
	}
	if c.SmallRecords == 0 {
		c.SmallRecords = 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate returns every problem of c.
func (c Config) Validate() error {
	var errs []error
	if c.Node == "" {
		errs = append(errs, errors.New("node name: missing"))
	}
	if c.StateDir == "" {
		errs = append(errs, errors.New("state directory: missing"))
	}
	if c.BatchRecords < 0 {
		errs = append(errs, fmt.Errorf("batch of %d records: want at least one", c.BatchRecords))
	}
	if c.SmallRecords < 0 {
		errs = append(errs, fmt.Errorf("small batch of %d records: want at least one", c.SmallRecords))
	}
	return errors.Join(append(errs, period.Check(c.periods())...)...)
}
