package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/collector"
	"github.com/ringfence/ringfence/enforcer"
	"github.com/ringfence/ringfence/internal/agentlink"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/interfaces"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/prefilter"
	"github.com/ringfence/ringfence/internal/rollout"
	"github.com/ringfence/ringfence/internal/spool"
)

func newAgentCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "agent CONFIG",
		Short:  "One node's agent; started by up and demo",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var cfg agentConfig
			if err := readJSON(args[0], &cfg); err != nil {
				return err
			}
			a := &agent{cfg: cfg, logger: newLogger(cmd.ErrOrStderr()).With("node", cfg.Node), registry: newRegistry(), applied: make(chan struct{})}
			return a.run(cmd.Context(), func() error { return announceReady(cmd.OutOrStdout(), cfg.Node) })
		},
	}
}

// agent is one node's agent process.
type agent struct {
	cfg      agentConfig
	logger   *slog.Logger
	registry *prometheus.Registry

	datapath  *bpf.Datapath
	owners    *inventory.Ownership
	watcher   *interfaces.Watcher
	enforcer  *enforcer.Enforcer
	denyLists *prefilter.Watcher

	first   sync.Once
	applied chan struct{} // closed by the first State
}

// run works until ctx ends, and leaves the programs in the kernel deciding.
func (a *agent) run(ctx context.Context, ready func() error) (err error) {
	limitMemory()
	a.datapath, err = bpf.Open(bpf.Config{
		PinDir: a.cfg.pinDir(a.cfg.Node), NetNS: a.cfg.NetNS, Attach: a.cfg.Attach, Logger: a.logger,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.datapath.Close()) }()
	if err := a.datapath.RegisterMetrics(a.registry); err != nil {
		return fmt.Errorf("register datapath metrics: %w", err)
	}
	if err := os.MkdirAll(a.cfg.nodeDir(a.cfg.Node), 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if a.watcher, err = interfaces.New(interfaces.Config{NetNS: a.cfg.NetNS, Logger: a.logger, Registerer: a.registry}); err != nil {
		return err
	}
	if err := a.watcher.Start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.watcher.Close()) }()
	link, err := a.link()
	if err != nil {
		return err
	}
	failsafe := a.failsafe(ctx)
	a.owners, err = inventory.NewOwnership(inventory.OwnershipConfig{
		Node: a.cfg.Node, Path: filepath.Join(a.cfg.nodeDir(a.cfg.Node), "owners.state"), Logger: a.logger,
	})
	if err != nil {
		return err
	}
	a.owners.Resume(time.Now())
	if a.enforcer, err = enforcer.New(enforcer.Config{
		Node: a.cfg.Node, StateDir: a.cfg.nodeDir(a.cfg.Node), Version: version, Failsafe: failsafe,
		Interfaces: a.watcher, Known: a.owners.Learn,
		Logger: a.logger, Registerer: a.registry,
	}, a.datapath, link); err != nil {
		return err
	}
	if _, err := a.enforcer.Start(ctx); err != nil {
		return err
	}
	filter, err := a.prefilter(failsafe)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, filter.Close()) }()
	sink, err := a.sink(link)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sink.Close()) }()
	records, err := a.collector(sink)
	if err != nil {
		return err
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return link.Run(ctx, a) })
	g.Go(func() error { return a.watcher.Run(ctx) })
	g.Go(func() error { return a.enforcer.Run(ctx) })
	g.Go(func() error { return records.Run(ctx) })
	g.Go(func() error { return a.denyLists.Run(ctx) })
	g.Go(func() error { return serveAgentMetrics(ctx, a.cfg.agentMetrics(a.cfg.Node), a.registry) })
	g.Go(func() error {
		select {
		case <-a.applied:
			return ready()
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// agentMemory is the heap, in bytes, at which the agent would rather collect
// garbage than grow: insert buffers come and go, and it shares the node.
const agentMemory = 96 << 20

// limitMemory sets that limit unless the environment gives another.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(agentMemory)
	}
}

func (a *agent) link() (*agentlink.Client, error) {
	var token string
	if err := readJSON(a.cfg.agentToken(), &token); err != nil {
		return nil, fmt.Errorf("read the server's token: %w", err)
	}
	return agentlink.NewClient(agentlink.ClientConfig{
		Address: "unix://" + a.cfg.agentSocket(), Token: token, Node: a.cfg.Node, Version: version,
		Logger: a.logger, Registerer: a.registry,
	})
}

// Apply implements agentlink.Handler.
func (a *agent) Apply(ctx context.Context, st rollout.State) (rollout.Report, error) {
	r, err := a.enforcer.Apply(ctx, st)
	a.applyDenyLists()
	a.first.Do(func() { close(a.applied) })
	r.Problems = append(r.Problems, a.denyLists.Problems()...)
	return r, err
}

// prefilter opens what drops denied sources, and the watcher that feeds it.
func (a *agent) prefilter(failsafe []bpf.Failsafe) (*bpf.Prefilter, error) {
	filter, err := bpf.OpenPrefilter(bpf.PrefilterConfig{
		PinDir: a.cfg.pinDir(a.cfg.Node), NetNS: a.cfg.NetNS, Panicked: a.datapath.Panicked,
	})
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, f := range failsafe {
		addrs = append(addrs, f.Addr.Addr())
	}
	a.denyLists, err = prefilter.New(prefilter.Config{
		Node: a.cfg.Node, Failsafe: addrs, Logger: a.logger, Registerer: a.registry,
	}, filter)
	if err != nil {
		return nil, errors.Join(err, filter.Close())
	}
	a.applyDenyLists()
	return filter, nil
}

// applyDenyLists passes on the inventory that the enforcer took.
func (a *agent) applyDenyLists() {
	if index, _ := a.enforcer.Inventory(); index != nil {
		a.denyLists.Apply(index.Inventory())
	}
}

// closingSink is a way to the store.
type closingSink interface {
	collector.Sink
	io.Closer
}

// sink is the way to the store, straight or by the server.
func (a *agent) sink(link *agentlink.Client) (closingSink, error) {
	if a.cfg.Gather {
		return link.Sink()
	}
	return newStoreSink(a.cfg.storeFile()), nil
}

// collector connects the ring buffer with the store.
func (a *agent) collector(sink collector.Sink) (*collector.Collector, error) {
	reader, err := a.datapath.NewReader()
	if err != nil {
		return nil, err
	}
	spooled, err := spool.Open(spool.Config{Dir: a.cfg.spoolDir(a.cfg.Node), MaxBytes: a.cfg.SpoolBytes, Logger: a.logger})
	if err != nil {
		return nil, err
	}
	return collector.New(collector.Config{
		Node: a.cfg.Node, StateDir: a.cfg.nodeDir(a.cfg.Node), Logger: a.logger, Registerer: a.registry,
	}, collector.Deps{Reader: reader, Datapath: a.datapath, Owners: a.owners, Sink: sink, Spool: spooled})
}

// Report implements agentlink.Handler.
func (a *agent) Report() rollout.Report {
	r := a.enforcer.Report()
	r.Problems = append(r.Problems, a.denyLists.Problems()...)
	return r
}

// Changed implements agentlink.Handler.
func (a *agent) Changed() <-chan struct{} { return a.enforcer.Changed() }

// failsafe is this host's way to a store on another.
func (a *agent) failsafe(ctx context.Context) []bpf.Failsafe {
	var out []bpf.Failsafe
	for _, addr := range a.cfg.StoreAddrs {
		for _, to := range resolve(ctx, addr) {
			if !to.Addr().IsLoopback() {
				out = append(out, bpf.Failsafe{Protocol: flow.TCP, Addr: to})
			}
		}
	}
	return out
}

func resolve(ctx context.Context, hostport string) []netip.AddrPort {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	var out []netip.AddrPort
	for _, ip := range ips {
		out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(n)))
	}
	return out
}
