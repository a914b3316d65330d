package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence/ringfence/internal/flow"
)

// Config is where the store lives and how patient it is.
type Config struct {
	// Path is the database file. It is created with mode 0600.
	Path string
	// ConfirmTimeout is the time a node gives the server to confirm a change of
	// the live slot. Default 30 s.
	ConfirmTimeout time.Duration
	// WarmUp is how long every endpoint must have been observed before default
	// deny may first bite: one idle timeout of the flow table, so that
	// connections older than the agent are known. Default 1 h.
	WarmUp time.Duration
	// ConnectedWithin is how recent a node's report must be for the node to
	// count as connected. Default 5 s.
	ConnectedWithin time.Duration
	// GuardWindow is how long after a promote its denials are watched for ones
	// that should not be. Default 10 min.
	GuardWindow time.Duration
	// ReadinessTimeout bounds how long Deps.Readiness may take. Default 5 s.
	ReadinessTimeout time.Duration
	// ReadinessFor is how long its word that nothing is missing holds, so that
	// enforcing right after looking does not wait for ClickHouse. Default 15 s.
	ReadinessFor time.Duration
	// SessionIdle ends a login that is not used for so long. Default 1 h.
	SessionIdle time.Duration
	// BusyTimeout is how long a transaction waits for another process's. Default 5 s.
	BusyTimeout time.Duration
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&c.ConfirmTimeout, 30*time.Second)
	set(&c.WarmUp, time.Hour)
	set(&c.ConnectedWithin, 5*time.Second)
	set(&c.GuardWindow, 10*time.Minute)
	set(&c.ReadinessTimeout, 5*time.Second)
	set(&c.ReadinessFor, 15*time.Second)
	set(&c.SessionIdle, time.Hour)
	set(&c.BusyTimeout, 5*time.Second)
	return c
}

// Validate reports every setting that makes no sense.
func (c Config) Validate() error {
	var errs []error
	if c.Path == "" {
		errs = append(errs, errors.New("control: no database path is given"))
	}
	for name, d := range map[string]time.Duration{
		"confirm timeout": c.ConfirmTimeout, "warm-up": c.WarmUp, "connected within": c.ConnectedWithin,
		"guard window": c.GuardWindow, "session idle": c.SessionIdle, "readiness timeout": c.ReadinessTimeout, "readiness for": c.ReadinessFor, "busy timeout": c.BusyTimeout,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("control: %s is negative: %s", name, d))
		}
	}
	return errors.Join(errs...)
}

// Deps are what the store needs of others.
type Deps struct {
	Logger *slog.Logger
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Registerer takes the metrics. Default: none are exported.
	Registerer prometheus.Registerer
	// Readiness says what stored coverage lacks before a workload may be
	// enforced. Without it only what nodes report counts.
	Readiness Readiness
	// Flags says which rules have to be accepted one by one. Without it none has.
	Flags Flags
}

// Readiness judges whether enough was observed of a workload to enforce it.
type Readiness interface {
	// Missing returns what is missing, as sentences; none when it is ready.
	Missing(ctx context.Context, w flow.Workload) ([]string, error)
}

func (d Deps) withDefaults() Deps {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	return d
}
