package gather

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence/ringfence/internal/period"
)

// MinBytes is the least that Config.MaxBytes may be: room for a few groups.
const MinBytes = 64 << 20

// Config says where groups wait and how large they become.
type Config struct {
	// Dir is the gatherer's own; it is made when missing.
	Dir string
	// MaxBytes bounds the groups on disk together, if they are more than one;
	// default 4 GiB. Beyond, or with 4,000 of them, batches are refused until
	// something was stored.
	MaxBytes int64
	// A group goes when it has GroupRecords or is GroupAge old; default 50,000 and
	// 1 s. One in which something was denied goes after DenialAge; default 250 ms.
	GroupRecords int
	GroupAge     time.Duration
	DenialAge    time.Duration
	// Insert bounds one attempt to store a group; default 30 s.
	Insert time.Duration
	// MinPause and MaxPause bound the pause before another attempt; default
	// 100 ms and 5 s.
	MinPause, MaxPause time.Duration

	// Logger defaults to one that discards.
	Logger *slog.Logger
	// Registerer gets the metrics; nil keeps them to themselves.
	Registerer prometheus.Registerer
}

func (c *Config) periods() []period.Period {
	return []period.Period{
		{Name: "group age", Value: &c.GroupAge, Default: time.Second},
		{Name: "denial age", Value: &c.DenialAge, Default: 250 * time.Millisecond},
		{Name: "insert", Value: &c.Insert, Default: 30 * time.Second},
		{Name: "least pause", Value: &c.MinPause, Default: 100 * time.Millisecond},
		{Name: "longest pause", Value: &c.MaxPause, Default: 5 * time.Second},
	}
}

func (c Config) withDefaults() Config {
	period.SetDefaults(c.periods())
	if c.MaxBytes == 0 {
		c.MaxBytes = 4 << 30
	}
	if c.GroupRecords == 0 {
		c.GroupRecords = 50_000
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate returns every problem of c.
func (c Config) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("gather directory: missing"))
	}
	if c.MaxBytes != 0 && c.MaxBytes < MinBytes {
		errs = append(errs, fmt.Errorf("gather room of %d bytes: want at least %d", c.MaxBytes, MinBytes))
	}
	if c.GroupRecords < 0 {
		errs = append(errs, fmt.Errorf("group of %d records: want at least one", c.GroupRecords))
	}
	return errors.Join(append(errs, period.Check(c.periods())...)...)
}
