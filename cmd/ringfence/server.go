package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/agentlink"
	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/store"
	"github.com/ringfence/ringfence/ui"
)

// database is the name of ringfence's database in ClickHouse.
const database = "ringfence"

// replicaPause is how often replicas that are away are looked for.
const replicaPause = time.Minute

// foldPause is how often old edges are looked at for addresses to give up. There
// are some once a month.
const foldPause = 6 * time.Hour

func newServerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "server CONFIG",
		Short:  "API, UI, control store and analyzer; started by up and demo",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var cfg serverConfig
			if err := readJSON(args[0], &cfg); err != nil {
				return err
			}
			s := &server{cfg: cfg, logger: newLogger(cmd.ErrOrStderr()), registry: newRegistry()}
			return s.run(cmd.Context(), func(r serverReady) error { return announceReady(cmd.OutOrStdout(), r) })
		},
	}
}

// server is one server process.
type server struct {
	cfg      serverConfig
	logger   *slog.Logger
	registry *prometheus.Registry

	certificate *x509.Certificate // nil without TLS

	engine  *clickhouse.Engine // nil with an external ClickHouse
	store   *storeDoor
	gather  *gathering // nil when there is nothing to gather
	control *control.Store
}

// run serves until ctx ends. What it opened is closed in the opposite order.
func (s *server) run(ctx context.Context, ready func(serverReady) error) (err error) {
	listener, err := s.listen()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = listener.Close()
		}
	}()
	inv, err := inventory.Load(s.cfg.Inventory)
	if err != nil {
		return err
	}
	if err := s.openStore(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.closeStore(context.WithoutCancel(ctx))) }()
	learner, err := s.openControl(ctx, inv)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.control.Close()) }()
	announcement, err := s.credentials(ctx, listener)
	if err != nil {
		return err
	}
	if s.gather, err = s.newGathering(); err != nil {
		return err
	}
	front, err := s.newAPI(learner) //nolint:contextcheck // a scrape has no context to pass on
	if err != nil {
		return err
	}
	agents, agentListener, err := s.newAgentLink(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return front.Serve(ctx, listener) })
	g.Go(func() error { return agents.Serve(ctx, agentListener) })
	g.Go(func() error {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		s.control.Watch(ctx, denialSource{s.store}, tick.C)
		return nil
	})
	if s.engine != nil {
		g.Go(func() error { return s.keepEngine(ctx) })
	}
	if s.gather != nil {
		g.Go(func() error { return s.gather.Run(ctx) })
	}
	g.Go(func() error { return s.keepFolded(ctx) })
	if s.cfg.ClickHouse.Cluster != "" {
		g.Go(func() error { return s.keepReplicas(ctx) })
	}
	if err := ready(announcement); err != nil {
		return err
	}
	return g.Wait()
}

// listen takes the address first: a port that is in use is the commonest failure.
func (s *server) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", s.cfg.Listen) //nolint:noctx // it returns at once
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; choose another with --listen", s.cfg.Listen, err)
	}
	if s.cfg.TLSCert == "" {
		return l, nil
	}
	cert, err := tls.LoadX509KeyPair(s.cfg.TLSCert, s.cfg.TLSKey)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load --tls-cert and --tls-key: %w", err), l.Close())
	}
	s.certificate = cert.Leaf
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}), nil
}

// openStore starts the embedded engine, or takes the server that was named, and
// migrates its schema.
func (s *server) openStore(ctx context.Context) error {
	f := &s.cfg.ClickHouse
	if len(f.Addrs) > 0 {
		password, err := f.password()
		if err != nil {
			return err
		}
		return s.connectStore(ctx, f.access(password))
	}
	var err error
	s.engine, err = clickhouse.New(clickhouse.Config{
		DataDir: s.cfg.engineDir(), Library: s.cfg.EngineLibrary, Command: []string{engineCommand},
		Database: database, Logger: s.logger, Registerer: s.registry,
	})
	if err != nil {
		return err
	}
	if err := s.engine.Start(ctx); err != nil {
		return err
	}
	if err := s.connectStore(ctx, accessTo(s.engine)); err != nil {
		return errors.Join(err, s.engine.Stop(context.WithoutCancel(ctx)))
	}
	return nil
}

func (s *server) connectStore(ctx context.Context, access storeAccess) error {
	access.Retention = s.cfg.Retention
	opened, err := access.open(ctx, s.registry)
	if err != nil {
		return err
	}
	if err := opened.Migrate(ctx); err != nil {
		return errors.Join(err, opened.Close())
	}
	s.store = newStoreDoor(opened)
	return writeJSON(s.cfg.storeFile(), access)
}

// keepReplicas looks again for replicas that did not answer, so that they get
// the schema, and their share of the inserts, when they are back.
func (s *server) keepReplicas(ctx context.Context) error {
	tick := time.NewTicker(replicaPause)
	defer tick.Stop()
	for {
		for _, r := range s.store.now.Load().Replicas() {
			if r.Err != nil {
				s.logger.Warn("a replica of the store is away", "address", r.Addr, "error", r.Err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !slices.ContainsFunc(s.store.now.Load().Replicas(), func(r store.Replica) bool { return r.Err != nil }) {
			continue
		}
		if err := s.reopenStore(ctx); err != nil && ctx.Err() == nil {
			s.logger.Error("look for the store's replicas", "error", err)
		}
	}
}

// keepFolded gives up the single addresses of crowds in what is old.
func (s *server) keepFolded(ctx context.Context) error {
	tick := time.NewTicker(foldPause)
	defer tick.Stop()
	for {
		switch folded, err := s.store.now.Load().Fold(ctx); {
		case err != nil && ctx.Err() == nil:
			s.logger.Error("fold old edges", "error", err)
		case folded > 0:
			s.logger.Info("the addresses of crowds in old edges were folded to prefixes", "partitions", folded)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *server) reopenStore(ctx context.Context) error {
	var access storeAccess
	if err := readJSON(s.cfg.storeFile(), &access); err != nil {
		return err
	}
	opened, err := access.open(ctx, s.registry)
	if err != nil {
		return err
	}
	if err := opened.Migrate(ctx); err != nil {
		return errors.Join(err, opened.Close())
	}
	return s.store.replace(opened)
}

func (s *server) closeStore(ctx context.Context) error {
	err := s.store.Close()
	if s.engine != nil {
		err = errors.Join(err, s.engine.Stop(ctx))
	}
	return err
}

// keepEngine starts the engine again when it dies. Agents keep their records
// meanwhile, and find the new address in the store file.
func (s *server) keepEngine(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.engine.Done():
			s.logger.Error("the embedded ClickHouse ended, starting it again", "error", err)
		}
		for ctx.Err() == nil && s.restartEngine(ctx) != nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

func (s *server) restartEngine(ctx context.Context) error {
	err := s.engine.Start(ctx)
	if err != nil {
		s.logger.Error("start the embedded ClickHouse", "error", err)
		return err
	}
	access := accessTo(s.engine)
	access.Retention = s.cfg.Retention
	opened, err := access.open(ctx, s.registry)
	if err != nil {
		s.logger.Error("connect to the embedded ClickHouse", "error", err)
		return errors.Join(err, s.engine.Stop(ctx))
	}
	return errors.Join(s.store.replace(opened), writeJSON(s.cfg.storeFile(), access))
}

// openControl opens the control store, gives it the inventory, and connects it
// with the analyzer, which says what a workload still lacks.
func (s *server) openControl(ctx context.Context, inv inventory.Inventory) (*learner, error) {
	l := &learner{store: s.store}
	var err error
	s.control, err = control.Open(ctx, control.Config{
		Path: s.cfg.controlDB(), ConfirmTimeout: s.cfg.Confirm, WarmUp: s.cfg.WarmUp, GuardWindow: s.cfg.Guard,
	}, control.Deps{Logger: s.logger, Registerer: s.registry, Readiness: l, Flags: l})
	if err != nil {
		return nil, err
	}
	if _, err := s.control.SetInventory(ctx, inv, control.System); err != nil {
		return nil, errors.Join(err, s.control.Close())
	}
	l.analyzer, err = analyzer.New(analyzer.Config{MinCovered: s.cfg.MinWindow}, analyzer.Deps{
		Edges: s.store, Coverage: s.store, Registerer: s.registry,
		Inventory: func() inventory.Inventory { return *s.control.Inventory().Inventory() },
	})
	if err != nil {
		return nil, errors.Join(err, s.control.Close())
	}
	return l, nil
}

// credentials makes the admin at the first start, and the token of this start
// for the commands of this machine.
func (s *server) credentials(ctx context.Context, l net.Listener) (serverReady, error) {
	password, err := s.control.EnsureAdmin(ctx)
	if err != nil {
		return serverReady{}, err
	}
	token, err := s.control.IssueToken(ctx, "local", control.AdminUser, control.System)
	if err != nil {
		return serverReady{}, err
	}
	scheme := "http://"
	if s.cfg.TLSCert != "" {
		scheme = "https://"
	}
	url := scheme + l.Addr().String()
	access := clientFile{Server: scheme + reachable(l.Addr().(*net.TCPAddr)), Token: token}
	if s.certificate != nil {
		access.Certificate = fingerprint(s.certificate.Raw)
	}
	if err := access.write(s.cfg.StateDir); err != nil {
		return serverReady{}, err
	}
	where := "embedded ClickHouse, " + s.cfg.engineDir()
	if s.engine == nil {
		where = "ClickHouse at " + strings.Join(s.cfg.ClickHouse.Addrs, ", ")
	}
	return serverReady{URL: url, User: control.AdminUser, Password: password, Engine: where}, nil
}

// reachable is how commands on this machine reach a listener, which may listen
// on every address.
func reachable(a *net.TCPAddr) string {
	if a.IP.IsUnspecified() {
		return net.JoinHostPort("localhost", strconv.Itoa(a.Port))
	}
	return a.String()
}

func (s *server) newAPI(l *learner) (*api.Server, error) {
	host, _, err := net.SplitHostPort(s.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen address: %w", err)
	}
	var hosts []string
	if host != "" {
		hosts = []string{host}
	}
	if s.certificate != nil { // what the certificate names is what people type
		hosts = append(hosts, s.certificate.DNSNames...)
		for _, ip := range s.certificate.IPAddresses {
			hosts = append(hosts, ip.String())
		}
	}
	return api.New(api.Config{
		Version: version, EmbeddedStore: s.engine != nil, TLS: s.cfg.TLSCert != "", Hosts: hosts,
		ConfirmTimeout: s.cfg.Confirm, WarmUp: s.cfg.WarmUp,
	}, api.Deps{
		Control: s.control, Sessions: s.control.Sessions(), Analyzer: l, Flows: s.store,
		UI: ui.Dist(), Metrics: s.metricsHandler(), Registerer: s.registry, Logger: s.logger,
	})
}

func (s *server) metricsHandler() http.Handler {
	all := prometheus.Gatherers{s.registry, agentGatherer(s.cfg.layout)}
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// newAgentLink listens for agents on a socket that only root can reach. The
// token that they must show stays the same over restarts of the server.
func (s *server) newAgentLink(ctx context.Context) (*agentlink.Server, net.Listener, error) {
	var token string
	if err := readJSON(s.cfg.agentToken(), &token); err != nil {
		token = rand.Text() + rand.Text()
		if err := writeJSON(s.cfg.agentToken(), token); err != nil {
			return nil, nil, err
		}
	}
	cfg := agentlink.Config{Token: token, Logger: s.logger, Registerer: s.registry}
	if s.gather != nil {
		cfg.Records = s.gather
	}
	agents, err := agentlink.New(cfg, s.control)
	if err != nil {
		return nil, nil, err
	}
	l, err := agentlink.Listen(ctx, s.cfg.agentSocket())
	if err != nil {
		return nil, nil, err
	}
	return agents, l, nil
}
