package enforcer

import (
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/period"
)

// Config says which node this is and how patient it is.
type Config struct {
	// Node is this node's name in the inventory.
	Node string
	// StateDir holds the state file. It must outlive the agent and should
	// outlive a reboot.
	StateDir string
	// Version is reported to the server.
	Version string

	// Confirm is how long the server may take to confirm a switch for which the
	// State names no time; default 30 s.
	Confirm time.Duration
	// ConfirmAttempt bounds one attempt to ask the server; default 2 s.
	ConfirmAttempt time.Duration
	// ConfirmRetry is the pause between attempts; default 200 ms.
	ConfirmRetry time.Duration
	// Check is how often the kernel is compared with what it should hold, and
	// endpoints that could not be attached are tried again; default 10 s.
	Check time.Duration

	// Interfaces makes endpoints attached as soon as their interface comes, and
	// those that the inventory's rules pick. Without, they are tried every Check
	// and rules pick nothing.
	Interfaces Interfaces

	// Known, if set, is told of every inventory that the kernel is about to be
	// given the addresses of, and since when it counts; of each one once, in order.
	// It should be quick: nothing is applied meanwhile.
	Known func(index *inventory.Index, since time.Time)

	// Failsafe is the agent's own way to the server and the store.
	Failsafe []bpf.Failsafe

	// Clock defaults to the system's.
	Clock Clock
	// Logger defaults to one that discards.
	Logger *slog.Logger
	// Registerer gets the metrics; nil keeps them to themselves.
	Registerer prometheus.Registerer
}

func (c *Config) periods() []period.Period {
	return []period.Period{
		{Name: "confirm interval", Value: &c.Confirm, Default: 30 * time.Second},
		{Name: "confirm attempt interval", Value: &c.ConfirmAttempt, Default: 2 * time.Second},
		{Name: "confirm retry interval", Value: &c.ConfirmRetry, Default: 200 * time.Millisecond},
		{Name: "check interval", Value: &c.Check, Default: 10 * time.Second},
	}
}

func (c Config) withDefaults() Config {
	period.SetDefaults(c.periods())
	if c.Clock == nil {
		c.Clock = systemClock{}
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
	return errors.Join(append(errs, period.Check(c.periods())...)...)
}
