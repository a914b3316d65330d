package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/inventory"
)

// stack is one installation on one machine: a server process and the agents of
// its nodes, all children of this one.
type stack struct {
	server serverConfig
	agents []agentConfig
	logs   io.Writer
	logger *slog.Logger

	serverProcess  *process
	agentProcesses map[string]*process
	ready          serverReady
	unlock         func()
}

// start brings everything up and returns when every process is ready. When it
// fails, nothing it started is left.
func (s *stack) start(ctx context.Context) (err error) {
	for _, a := range s.agents {
		if path := a.agentMetrics(a.Node); len(path) > maxSocketPath {
			return fmt.Errorf("socket %s: its path is longer than the kernel's %d characters: name a shorter --runtime-dir", path, maxSocketPath)
		}
	}
	before := s.look()
	defer func() {
		if err != nil {
			s.stop()
			err = errors.Join(err, s.restore(before))
		}
	}()
	if err := s.server.create(); err != nil {
		return err
	}
	if s.unlock, err = s.server.takeLock(); err != nil {
		return err
	}
	if err := s.server.finishRestore(); err != nil {
		return err
	}
	if err := bpf.MountBPFFS(s.server.bpffs()); err != nil {
		return err
	}
	if err := writeJSON(s.server.serverConfig(), s.server); err != nil {
		return err
	}
	s.serverProcess = s.newProcess("server", "server", s.server.serverConfig())
	if err := s.serverProcess.start(ctx, &s.ready); err != nil {
		return err
	}
	if err := s.keepAddress(); err != nil {
		return err
	}
	s.agentProcesses = make(map[string]*process, len(s.agents))
	var g errgroup.Group
	for _, a := range s.agents {
		path := a.agentConfig(a.Node)
		if err := writeJSON(path, a); err != nil {
			return err
		}
		p := s.newProcess("agent "+a.Node, "agent", path)
		s.agentProcesses[a.Node] = p
		g.Go(func() error { return p.start(ctx, nil) })
	}
	return g.Wait()
}

// keepAddress makes a server that is started again listen where the first one
// did, also when any free port would have done.
func (s *stack) keepAddress() error {
	u, err := url.Parse(s.ready.URL)
	if err != nil {
		return fmt.Errorf("address of the server: %w", err)
	}
	host, _, err := net.SplitHostPort(s.server.Listen)
	if err != nil {
		return fmt.Errorf("address of the server: %w", err)
	}
	s.server.Listen = net.JoinHostPort(host, u.Port())
	return writeJSON(s.server.serverConfig(), s.server)
}

// found is what a start found, and a start that fails leaves again.
type found struct{ state, runtime, programs bool }

func (s *stack) look() found {
	exists := func(dir string) bool { _, err := os.Lstat(dir); return err == nil }
	pins, _ := filepath.Glob(filepath.Join(s.server.bpffs(), "*", "maps-*"))
	return found{state: exists(s.server.StateDir), runtime: exists(s.server.RuntimeDir), programs: len(pins) > 0}
}

// restore undoes a start that failed. Programs of an earlier one go on deciding.
func (s *stack) restore(before found) error {
	if s.unlock == nil {
		// Refused: only the directories that were made for nothing go.
		_ = os.Remove(filepath.Dir(s.server.agentSocket()))
		for dir, existed := range map[string]bool{s.server.StateDir: before.state, s.server.RuntimeDir: before.runtime} {
			if !existed {
				_ = os.Remove(filepath.Join(dir, lockName))
				_ = os.Remove(dir)
			}
		}
		return nil
	}
	if !before.programs {
		if err := s.server.detach(); err != nil {
			return err
		}
	}
	var errs []error
	if !before.runtime {
		errs = append(errs, os.RemoveAll(s.server.RuntimeDir))
	}
	if !before.state {
		errs = append(errs, os.RemoveAll(s.server.StateDir))
	}
	return errors.Join(errs...)
}

func (s *stack) newProcess(name string, args ...string) *process {
	return &process{name: name, args: args, logs: s.logs, logger: s.logger}
}

// stop ends every process. What is pinned goes on deciding.
func (s *stack) stop() {
	var g errgroup.Group
	for _, p := range s.agentProcesses {
		g.Go(func() error { p.stop(); return nil })
	}
	_ = g.Wait() // the agents' last records go to a store that still runs
	if s.serverProcess != nil {
		s.serverProcess.stop()
	}
	if s.unlock != nil {
		s.unlock()
	}
}

// serverFlags are the flags that up and demo share.
type serverFlags struct {
	listen, tlsCert, tlsKey string
	clickhouse              storeFlags
	engineLibrary           string
	retention               retentionFlags
}

func (f *serverFlags) register(cmd *cobra.Command, listen string) {
	fs := cmd.Flags()
	fs.StringVar(&f.listen, "listen", listen, "address of the web UI and API")
	fs.StringVar(&f.tlsCert, "tls-cert", "", "certificate file; needed to listen on other than loopback addresses")
	fs.StringVar(&f.tlsKey, "tls-key", "", "key file of --tls-cert")
	f.clickhouse.register(cmd)
	fs.StringVar(&f.engineLibrary, "engine-library", "", "path of libchdb.so (default: beside this binary)")
	f.retention.register(cmd)
}

// config checks the flags, among them that the address can be listened on.
func (f *serverFlags) config() (serverConfig, error) {
	if (f.tlsCert == "") != (f.tlsKey == "") {
		return serverConfig{}, errors.New("--tls-cert and --tls-key go together")
	}
	if err := f.clickhouse.check(); err != nil {
		return serverConfig{}, err
	}
	keep, err := f.retention.retention()
	if err != nil {
		return serverConfig{}, err
	}
	if _, _, err := net.SplitHostPort(f.listen); err != nil {
		return serverConfig{}, fmt.Errorf("--listen %q: want host:port, such as 127.0.0.1:7433", f.listen)
	}
	l, err := net.Listen("tcp", f.listen) //nolint:noctx // it is closed at once
	if err != nil {
		return serverConfig{}, fmt.Errorf("--listen %s: %w; choose another address", f.listen, cause(err))
	}
	addr := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil {
		return serverConfig{}, err
	}
	if !addr.IP.IsLoopback() && f.tlsCert == "" {
		return serverConfig{}, fmt.Errorf("--listen %s is not a loopback address: give --tls-cert and --tls-key too", f.listen)
	}
	if f.tlsCert != "" {
		if _, err := tls.LoadX509KeyPair(f.tlsCert, f.tlsKey); err != nil {
			return serverConfig{}, fmt.Errorf("--tls-cert %s, --tls-key %s: %w; want a PEM certificate and its key", f.tlsCert, f.tlsKey, err)
		}
	}
	return serverConfig{
		Listen: f.listen, TLSCert: f.tlsCert, TLSKey: f.tlsKey,
		ClickHouse: f.clickhouse, EngineLibrary: f.engineLibrary, Retention: keep,
	}, nil
}

func newUpCommand() *cobra.Command {
	var (
		flags             serverFlags
		invPath, node     string
		attach            string
		spoolSize         string
		gather            bool
		places            layout
		warmUp, minWindow time.Duration
		confirm, guard    time.Duration
	)
	cmd := &cobra.Command{
		Use:   "up --inventory FILE",
		Short: "Run server and agent on this host",
		Long: `up watches the interfaces that the inventory gives this node, stores their
flows, and serves the web UI. Nothing is dropped until a person enforces a
policy. Ending it leaves the programs in the kernel: what was enforced stays
enforced. "ringfence down" removes them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if invPath == "" {
				return errors.New("--inventory: name the YAML file of nodes and workloads")
			}
			for name, d := range map[string]time.Duration{"--warm-up": warmUp, "--min-window": minWindow, "--confirm": confirm, "--guard": guard} {
				if d <= 0 {
					return fmt.Errorf("%s %s: want a positive duration such as 10s", name, d)
				}
			}
			if err := bpf.AttachMode(attach).Validate(); err != nil {
				return fmt.Errorf("--attach: %w", err)
			}
			cfg, err := flags.config()
			if err != nil {
				return err
			}
			if kept := cfg.Retention.Flows; minWindow > kept {
				return fmt.Errorf("--min-window %s: nothing would ever be ready, since learning looks back as far as flows are kept, %s: want no more, or a longer --retention-flows", minWindow, kept)
			}
			spooled, err := spoolBytes(spoolSize)
			if err != nil {
				return err
			}
			missing, err := checkNodeInventory(invPath, node)
			if err != nil {
				return err
			}
			if err := bpf.CheckHost(); err != nil {
				return err
			}
			cfg.layout, cfg.Inventory = places, invPath
			cfg.WarmUp, cfg.Confirm, cfg.Guard, cfg.MinWindow = warmUp, confirm, guard, minWindow
			cfg.Gather = gather
			s := &stack{
				server: cfg,
				agents: []agentConfig{{
					layout: places, Node: node, Attach: bpf.AttachMode(attach), SpoolBytes: spooled,
					Gather: gather, StoreAddrs: cfg.ClickHouse.Addrs,
				}},
				logs:   cmd.ErrOrStderr(),
				logger: newLogger(cmd.ErrOrStderr()),
			}
			for _, m := range missing {
				fmt.Fprintln(cmd.ErrOrStderr(), m)
			}
			if err := s.start(cmd.Context()); err != nil {
				return err
			}
			defer s.stop()
			printLogin(cmd.OutOrStdout(), s.ready)
			<-cmd.Context().Done()
			return nil
		},
	}
	flags.register(cmd, "127.0.0.1:7433")
	hostname, _ := os.Hostname() // without one, --node says it
	fs := cmd.Flags()
	fs.StringVar(&invPath, "inventory", "", "YAML file of nodes and workloads: labels, addresses, interfaces")
	fs.StringVar(&node, "node", hostname, "this host's name in the inventory")
	fs.StringVar(&places.StateDir, "state-dir", defaultStateDir, "where revisions and flows are kept")
	fs.StringVar(&places.RuntimeDir, "runtime-dir", defaultRuntimeDir, "where sockets and pinned maps are")
	fs.StringVar(&attach, "attach", string(bpf.AttachAuto), "how programs are attached: tcx, clsact (any kernel), or auto, which is tcx from Linux 6.6 on")
	fs.DurationVar(&warmUp, "warm-up", time.Hour, "observe an endpoint for so long before it may be enforced; the idle limit of an established connection is safe")
	fs.DurationVar(&minWindow, "min-window", 7*24*time.Hour, "a workload is ready to be enforced once it was watched for so long: what is done once a week is seen in a week; `ringfence policy promote --anyway` passes over it")
	fs.DurationVar(&confirm, "confirm", 10*time.Second, "a node takes a change back unless the server confirms it in this time")
	fs.StringVar(&spoolSize, "spool-size", "1GiB", "how much may wait on this host's disk, in --state-dir, while the store is away; beyond, the oldest is given up, and that is noted")
	fs.BoolVar(&gather, "gather", false, "agents hand their records to the server, which stores those of many agents in one insert: for hundreds of agents and more, or when no node shall have the store's password. Records are on the server's disk, in --state-dir, until the store has them; without the server they wait on the agents'")
	fs.DurationVar(&guard, "guard", 10*time.Minute, "for so long after enforcing, denying what used to be allowed rolls back")
	return cmd
}

// cause drops the operation and address that a network error repeats.
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// checkNodeInventory refuses a bad inventory, and one that gives node nothing to
// watch. It returns a line about each interface that does not exist yet.
func checkNodeInventory(path, node string) (missing []string, err error) {
	inv, err := inventory.Load(path)
	if err != nil {
		return nil, err
	}
	known, interfaces := false, 0
	for _, n := range inv.Nodes {
		if n.Name == node {
			known = true
			interfaces += len(n.Interfaces)
		}
	}
	if !known {
		return nil, fmt.Errorf("inventory %s has no node %q: add it, or name another with --node", path, node)
	}
	for i := range inv.Workloads {
		for _, e := range inv.Workloads[i].Endpoints {
			if e.Node != node || e.Interface == "" {
				continue
			}
			interfaces++
			if _, err := net.InterfaceByName(e.Interface); err != nil {
				missing = append(missing, fmt.Sprintf("endpoint %s of %s waits: interface %q does not exist on this host yet", e.Name, inv.Workloads[i].Ref(), e.Interface))
			}
		}
	}
	if interfaces == 0 {
		return nil, fmt.Errorf("inventory %s gives node %q no interface to watch: set `interface` of an endpoint on it, or `interfaces` of the node", path, node)
	}
	return missing, nil
}

func printLogin(w io.Writer, r serverReady) {
	fmt.Fprintf(w, "web UI    %s\n", r.URL)
	if r.Password != "" {
		printPassword(w, r.User, r.Password)
	}
	fmt.Fprintf(w, "store     %s\n", r.Engine)
}

func printPassword(w io.Writer, user, password string) {
	fmt.Fprintf(w, "login     %s\npassword  %s   (shown only this once)\n", user, password)
}

func newLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, nil))
}
