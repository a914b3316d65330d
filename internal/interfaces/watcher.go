package interfaces

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/inventory"
)

// Config says where to look.
type Config struct {
	// NetNS is a name below /run/netns, a path, or "" for the process's own.
	NetNS string
	// ReceiveBuffer is how many bytes of messages may wait in the kernel, some
	// 2 KiB each; more than that and everything is listed again. Default 1 MiB.
	ReceiveBuffer int
	// Retry is the pause after a list or subscription that did not succeed;
	// default 1 s.
	Retry time.Duration

	// Logger defaults to one that discards.
	Logger *slog.Logger
	// Registerer gets the metrics; nil keeps them to themselves.
	Registerer prometheus.Registerer
}

func (c Config) withDefaults() Config {
	if c.ReceiveBuffer == 0 {
		c.ReceiveBuffer = 1 << 20
	}
	if c.Retry == 0 {
		c.Retry = time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate returns every problem of c.
func (c Config) Validate() error {
	var errs []error
	if c.ReceiveBuffer < 0 {
		errs = append(errs, fmt.Errorf("receive buffer of %d bytes: want a positive number", c.ReceiveBuffer))
	}
	if c.Retry < 0 {
		errs = append(errs, fmt.Errorf("retry interval %s: want a positive duration", c.Retry))
	}
	return errors.Join(errs...)
}

// Watcher knows the interfaces of one network namespace.
type Watcher struct {
	cfg     Config
	metrics *metrics
	changed chan struct{}
	events  *nl.NetlinkSocket // of the newest subscription

	mu    sync.Mutex
	table table
}

// table is every interface, and every address by its interface.
type table struct {
	links     map[int]inventory.Interface // without addresses
	addresses map[int]map[netip.Prefix]bool
}

// New returns a Watcher. It does no I/O.
func New(cfg Config) (*Watcher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	w := &Watcher{cfg: cfg.withDefaults(), changed: make(chan struct{}, 1)}
	var err error
	if w.metrics, err = newMetrics(cfg.Registerer); err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	return w, nil
}

// Start subscribes and lists. Interfaces is complete from then on.
func (w *Watcher) Start(ctx context.Context) error {
	for {
		err := w.subscribe()
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			return err
		}
		if !w.pause(ctx, retryDump) {
			return ctx.Err()
		}
	}
}

// retryDump is the pause after a list that a change interrupted.
const retryDump = 10 * time.Millisecond

// Run takes changes in until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end was asked for
		}
		w.metrics.resyncs.Inc()
		if !errors.Is(err, unix.ENOBUFS) {
			w.cfg.Logger.Warn("interfaces are listed again", "error", err)
		}
		w.again(ctx)
	}
}

// again begins anew, however often it takes.
func (w *Watcher) again(ctx context.Context) {
	for failing := false; ; failing = true {
		err := w.Start(ctx)
		if err == nil {
			return
		}
		if !failing && ctx.Err() == nil {
			w.cfg.Logger.Warn("interfaces cannot be listed: what is known of them is old", "error", err)
		}
		if !w.pause(ctx, w.cfg.Retry) {
			return
		}
	}
}

func (w *Watcher) pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// Interfaces returns those that there are, by index.
func (w *Watcher) Interfaces() []inventory.Interface {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]inventory.Interface, 0, len(w.table.links))
	for index, l := range w.table.links {
		for p := range w.table.addresses[index] {
			l.Addresses = append(l.Addresses, p.Addr())
		}
		slices.SortFunc(l.Addresses, netip.Addr.Compare)
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b inventory.Interface) int { return cmp.Compare(a.Index, b.Index) })
	return list
}

// Changed tells when Interfaces returns something else than before. Changes
// that come faster than they are received are one.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// subscribe begins a new subscription and lists everything.
func (w *Watcher) subscribe() error {
	var events *nl.NetlinkSocket
	var t table
	err := in(w.cfg.NetNS, func() (err error) {
		events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
		if err != nil {
			return fmt.Errorf("subscribe to interfaces: %w", err)
		}
		if err := events.SetReceiveBufferSize(w.cfg.ReceiveBuffer, true); err != nil {
			return fmt.Errorf("size the buffer for changes of interfaces: %w", err)
		}
		t, err = list()
		return err
	})
	if err != nil {
		if events != nil {
			events.Close()
		}
		return err
	}
	if w.events != nil {
		w.events.Close()
	}
	w.events = events
	w.mu.Lock()
	defer w.mu.Unlock()
	same := maps.EqualFunc(w.table.links, t.links, sameLink) &&
		maps.EqualFunc(w.table.addresses, t.addresses, maps.Equal[map[netip.Prefix]bool, map[netip.Prefix]bool])
	w.table = t
	w.tell(!same)
	return nil
}

// follow takes the subscription's messages in until it fails or ctx ends.
func (w *Watcher) follow(ctx context.Context) error {
	events := w.events
	stop := context.AfterFunc(ctx, events.Close)
	defer func() {
		if stop() {
			events.Close()
		}
	}()
	for {
		messages, from, err := events.Receive()
		if err != nil {
			return fmt.Errorf("receive changes of interfaces: %w", err)
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		w.mu.Lock()
		changed := false
		for _, m := range messages {
			did, err := w.table.take(m.Header.Type, m.Data)
			if err != nil {
				w.mu.Unlock()
				return err
			}
			changed = changed || did
		}
		w.tell(changed)
		w.mu.Unlock()
	}
}

// tell must be called with mu held.
func (w *Watcher) tell(changed bool) {
	w.metrics.known.Set(float64(len(w.table.links)))
	if !changed {
		return
	}
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Close ends the subscription of a Watcher that is not run.
func (w *Watcher) Close() error {
	if w.events != nil {
		w.events.Close()
	}
	return nil
}

// explain says what a namespace's name means.
func explain(name string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("network namespace %s: there is none", name)
	}
	return fmt.Errorf("network namespace %s: %w", name, err)
}
