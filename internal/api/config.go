package api

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Config is how the server listens and how patient it is.
type Config struct {
	// Version of the program.
	Version string
	// EmbeddedStore says that ClickHouse is the embedded engine.
	EmbeddedStore bool
	// TLS says that the listener speaks TLS: cookies are marked Secure, and
	// browsers are told to insist on it.
	TLS bool
	// Hosts are names and addresses that the Host header may have, beside
	// localhost and the loopback addresses. Others are refused, or a page of
	// another site could reach the server under a name that points to it.
	Hosts []string
	// ConfirmTimeout and WarmUp are shown to people; control acts on them.
	ConfirmTimeout time.Duration
	WarmUp         time.Duration
	// SessionLifetime ends a login however much it is used. Default 12 h.
	SessionLifetime time.Duration
	// ApplyTimeout is how long a change waits for nodes before it is answered
	// with what is missing. Default 10 s.
	ApplyTimeout time.Duration
	// StoreTimeout bounds what a page may wait for ClickHouse. Default 5 s.
	StoreTimeout time.Duration
	// StreamEvery is how often an event stream looks for new numbers. Default 2 s.
	StreamEvery time.Duration
	// TailEvery is how often a stream of flows looks for new ones. Default 1 s.
	TailEvery time.Duration
	// Heartbeat is how often an idle event stream shows that it lives. Default 15 s.
	Heartbeat time.Duration
	// MaxStreams bounds event streams. Default 64.
	MaxStreams int
	// MaxBody bounds request bodies, in bytes. Default 1 MiB.
	MaxBody int64
	// ShutdownTimeout bounds how long requests may go on after the end. Default 5 s.
	ShutdownTimeout time.Duration
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&c.SessionLifetime, 12*time.Hour)
	set(&c.ApplyTimeout, 10*time.Second)
	set(&c.StoreTimeout, 5*time.Second)
	set(&c.StreamEvery, 2*time.Second)
	set(&c.TailEvery, time.Second)
	set(&c.Heartbeat, 15*time.Second)
	set(&c.ShutdownTimeout, 5*time.Second)
	if c.MaxStreams == 0 {
		c.MaxStreams = 64
	}
	if c.MaxBody == 0 {
		c.MaxBody = 1 << 20
	}
	return c
}

// Validate reports every setting that makes no sense.
func (c Config) Validate() error {
	var errs []error
	for name, d := range map[string]time.Duration{
		"session lifetime": c.SessionLifetime, "apply timeout": c.ApplyTimeout, "store timeout": c.StoreTimeout,
		"stream interval": c.StreamEvery, "tail interval": c.TailEvery, "heartbeat": c.Heartbeat, "shutdown timeout": c.ShutdownTimeout,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("api: %s is negative: %s", name, d))
		}
	}
	if c.MaxStreams < 0 || c.MaxBody < 0 {
		errs = append(errs, errors.New("api: a limit is negative"))
	}
	for _, h := range c.Hosts {
		if h == "" || strings.ContainsAny(h, "/ ") {
			errs = append(errs, fmt.Errorf("api: host %q is no name or address; give it without scheme and path", h))
		}
	}
	return errors.Join(errs...)
}

// allowedHosts returns every form of the Host header, without its port, that is
// accepted.
func (c Config) allowedHosts() map[string]bool {
	allowed := map[string]bool{"localhost": true, "127.0.0.1": true, "::1": true}
	for _, h := range c.Hosts {
		allowed[hostname(h)] = true
	}
	return allowed
}

// hostname returns a Host header without port and brackets, in lower case.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.TrimSuffix(strings.ToLower(host), ".")
}
