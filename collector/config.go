package collector

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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

func (c *Config) durations() []duration {
	return []duration{
		{"batch age", &c.BatchAge, 250 * time.Millisecond},
		{"small batch age", &c.SmallAge, 10 * time.Second},
		{"patience", &c.Patience, 5 * time.Second},
		{"insert", &c.Insert, 30 * time.Second},
		{"least pause", &c.MinPause, 100 * time.Millisecond},
		{"longest pause", &c.MaxPause, 5 * time.Second},
		{"sweep", &c.Sweep, time.Second},
		{"heartbeat", &c.Heartbeat, 5 * time.Second},
		{"clock", &c.Clock, time.Minute},
		{"flush", &c.Flush, 5 * time.Second},
	}
}

type duration struct {
	name  string
	value *time.Duration
	def   time.Duration
}

func (c Config) withDefaults() Config {
	for _, d := range c.durations() {
		if *d.value == 0 {
			*d.value = d.def
		}
	}
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
	for _, d := range c.durations() {
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("%s %s: want a positive duration", d.name, *d.value))
		}
	}
	return errors.Join(errs...)
}
