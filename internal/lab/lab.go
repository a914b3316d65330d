package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// DefaultStateDir is emptied by a reboot, as everything is that a lab makes.
const DefaultStateDir = "/run/ringfence-lab"

// Config says what lab to build.
type Config struct {
	// Scenario is what the lab consists of; the built-in one if nil.
	Scenario *Scenario
	// Command starts a host process: a program and its arguments, to which the
	// host's namespace is added. The program calls RunHost.
	Command []string
	// StateDir keeps the record of what the lab has made: DefaultStateDir unless given.
	StateDir string
	// Paused labs make no request before Resume.
	Paused bool
	Logger *slog.Logger
}

// Validate returns everything that is wrong with c.
func (c *Config) Validate() error {
	var errs []error
	if len(c.Command) == 0 {
		errs = append(errs, errors.New("lab: no command to start hosts with"))
	}
	if c.Logger == nil {
		errs = append(errs, errors.New("lab: no logger"))
	}
	if c.Scenario != nil {
		errs = append(errs, c.Scenario.Validate())
	}
	return errors.Join(errs...)
}

// Lab is a scenario come to life.
type Lab struct {
	cfg   Config
	plan  *plan
	calls []plannedCall

	lock    *lock
	record  record
	starter *starter

	mu        sync.Mutex
	processes []*process // ordered by name
}

// New checks cfg and works the scenario out. It makes nothing yet.
func New(cfg Config) (*Lab, error) {
	if cfg.Scenario == nil {
		cfg.Scenario = Default()
	}
	if cfg.StateDir == "" {
		cfg.StateDir = DefaultStateDir
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(cfg.StateDir)
	if err != nil {
		return nil, fmt.Errorf("find state directory: %w", err)
	}
	cfg.StateDir = dir
	p, err := newPlan(cfg.Scenario)
	if err != nil {
		return nil, err
	}
	return &Lab{cfg: cfg, plan: p, calls: p.calls}, nil
}

// Scenario returns what the lab was built from.
func (l *Lab) Scenario() *Scenario { return l.cfg.Scenario }

// Start builds the lab and, unless it is to be paused, lets its clients go. What
// an earlier lab left behind is removed first. When it fails it leaves nothing.
func (l *Lab) Start(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("the lab builds network namespaces and needs root: run it with sudo")
	}
	lock, leftBy, err := takeLock(l.cfg.StateDir)
	if err != nil {
		return err
	}
	l.lock = lock
	if _, err := cleanLeftovers(ctx, l.cfg.StateDir, leftBy, l.cfg.Logger); err != nil {
		l.lock = nil
		return errors.Join(err, lock.abandon())
	}
	if err := l.build(ctx); err != nil {
		return errors.Join(err, l.Stop(context.WithoutCancel(ctx)))
	}
	return nil
}

func (l *Lab) build(ctx context.Context) error {
	if err := l.lock.claim(l.cfg.StateDir); err != nil {
		return err
	}
	if err := os.MkdirAll(l.cfg.StateDir, 0o700); err != nil { //nolint:gosec // the operator names it
		return fmt.Errorf("create lab state directory: %w", err)
	}
	if err := l.claimNames(); err != nil {
		return err
	}
	namespaces, err := l.createNamespaces()
	defer func() {
		for _, ns := range namespaces {
			ns.Close() //nolint:errcheck // only read from
		}
	}()
	if err != nil {
		return err
	}
	net := network{scenario: l.cfg.Scenario, namespaces: namespaces}
	if err := net.connect(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("build lab: %w", err)
	}
	if err := l.startProcesses(namespaces); err != nil {
		return err
	}
	if err := l.all(ctx, opServe, nil); err != nil {
		return err
	}
	l.cfg.Logger.Info("lab built", "scenario", l.cfg.Scenario.Name, "namespaces", len(namespaces))
	if l.cfg.Paused {
		return nil
	}
	return l.Resume(ctx)
}

// claimNames records the name of every namespace before the first is made.
func (l *Lab) claimNames() error {
	names := l.cfg.Scenario.Namespaces()
	for _, name := range names {
		exists, err := namespaceExists(name)
		if err != nil {
			return fmt.Errorf("look for namespace %s: %w", name, err)
		}
		if exists {
			return fmt.Errorf("network namespace %s exists and no lab has it on record: remove it with `ip netns delete %s`", name, name)
		}
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	l.record = record{Boot: boot, Namespaces: names}
	return l.record.write(l.cfg.StateDir)
}

func (l *Lab) createNamespaces() (map[string]*os.File, error) {
	open := map[string]*os.File{}
	names := l.record.Namespaces
	for i, name := range names {
		settings := hostSettings()
		if i < len(l.cfg.Scenario.Nodes) {
			settings = nodeSettings()
		}
		ns, err := createNamespace(name, settings)
		if err != nil {
			// What could not be made may be somebody else's.
			l.record.Namespaces = names[:i]
			return open, errors.Join(err, l.record.write(l.cfg.StateDir))
		}
		open[name] = ns
	}
	return open, nil
}

func (l *Lab) startProcesses(namespaces map[string]*os.File) error {
	l.starter = newStarter()
	for _, name := range l.cfg.Scenario.Namespaces() {
		p, err := startProcess(l.starter, l.cfg.Command, name, namespaces[name])
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.processes = append(l.processes, p)
		l.mu.Unlock()
		start, alive, err := startTime(p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		if alive {
			l.record.Processes = append(l.record.Processes, processRecord{PID: p.cmd.Process.Pid, Start: start, Name: name})
		}
	}
	// A lab that is killed before this line takes its processes with it: they
	// end with its thread, and with their input.
	return l.record.write(l.cfg.StateDir)
}

// Stop ends every host and removes everything that Start made. It may be called
// again after an error, and on a lab that is not running.
func (l *Lab) Stop(ctx context.Context) error {
	if l.lock == nil {
		return nil
	}
	l.mu.Lock()
	processes := l.processes
	l.processes = nil
	l.mu.Unlock()
	var hosts errgroup.Group
	for _, p := range processes {
		hosts.Go(func() error { return p.stop(ctx) })
	}
	errs := []error{hosts.Wait()}
	if l.starter != nil {
		l.starter.close()
		l.starter = nil
	}
	_, err := l.record.clean(ctx)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop lab: %w", err)
	}
	if err := forget(l.cfg.StateDir); err != nil {
		return err
	}
	lock := l.lock
	l.lock = nil
	return lock.release()
}

// all asks every host for op at once; each, if not nil, gets their answers one
// by one.
func (l *Lab) all(ctx context.Context, op operation, each func(hostReply)) error {
	l.mu.Lock()
	processes := slices.Clone(l.processes)
	l.mu.Unlock()
	if len(processes) == 0 {
		return errors.New("the lab is not running")
	}
	replies := make([]hostReply, len(processes))
	var hosts errgroup.Group
	for i, p := range processes {
		var spec *hostSpec
		if op == opServe {
			spec = l.plan.specs[p.name]
		}
		hosts.Go(func() (err error) {
			replies[i], err = p.do(ctx, op, spec)
			return err
		})
	}
	if err := hosts.Wait(); err != nil {
		return err
	}
	for _, r := range replies {
		if each != nil {
			each(r)
		}
	}
	return nil
}

// Resume lets clients make requests.
func (l *Lab) Resume(ctx context.Context) error { return l.all(ctx, opResume, nil) }

// Pause holds new requests back, probes included, and returns when those under
// way have ended: from then on counters stand still. Persistent and idle
// connections stay open.
func (l *Lab) Pause(ctx context.Context) error { return l.all(ctx, opPause, nil) }

// OpenIdle opens the idle connections: one from each client host of an idle
// call to each server address. Nothing is sent over them before UseIdle.
func (l *Lab) OpenIdle(ctx context.Context) (IdleResult, error) { return l.idle(ctx, opOpenIdle) }

// UseIdle makes one request over each idle connection.
func (l *Lab) UseIdle(ctx context.Context) (IdleResult, error) { return l.idle(ctx, opUseIdle) }

func (l *Lab) idle(ctx context.Context, op operation) (IdleResult, error) {
	var out IdleResult
	err := l.all(ctx, op, func(r hostReply) {
		out.Connections += r.Idle.Connections
		out.Failures = append(out.Failures, r.Idle.Failures...)
	})
	return out, err
}

// Counters returns what clients counted since Start, one entry an edge and
// family that has been tried, in the order of the scenario's calls; probes last.
func (l *Lab) Counters(ctx context.Context) ([]EdgeCounters, error) {
	sums := map[callFamily]*EdgeCounters{}
	err := l.all(ctx, opCounters, func(r hostReply) {
		for _, c := range r.Counters {
			key := callFamily{call: c.Call, family: c.Family}
			if sums[key] == nil {
				call := l.calls[c.Call]
				sums[key] = &EdgeCounters{
					Client: call.client(c.Family), Server: call.server(c.Family),
					Protocol: call.protocol, Port: call.port, Family: c.Family,
					Rare: call.rare, Probe: call.probe,
				}
			}
			sums[key].Add(c.Counts)
		}
	})
	if err != nil {
		return nil, err
	}
	keys := make([]callFamily, 0, len(sums))
	for k := range sums {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b callFamily) int {
		return cmp.Or(cmp.Compare(a.call, b.call), cmp.Compare(a.family, b.family))
	})
	out := make([]EdgeCounters, 0, len(keys))
	for _, k := range keys {
		out = append(out, *sums[k])
	}
	return out, nil
}

// Attack runs every attack once, from all hosts at the same time. It takes as
// long as one blocked try.
func (l *Lab) Attack(ctx context.Context) ([]AttackResult, error) {
	var out []AttackResult
	var order []attackSpec
	s := l.cfg.Scenario
	err := l.all(ctx, opAttack, func(r hostReply) {
		for _, a := range r.Attacks {
			def := s.Attacks[a.Spec.Attack]
			target := def.Targets[a.Spec.Target]
			family := a.Spec.At.family()
			res := AttackResult{
				Name: def.Name, From: s.partyName(def.From, family), To: s.partyName(target.To, family),
				FromAddress: a.Spec.At.Local, ToAddress: a.Spec.At.Remote.Addr(), Family: family,
				Protocol: target.Protocol, Port: target.Port,
				Reached: a.Reached, Elapsed: a.Elapsed, Error: a.Error,
			}
			at, _ := slices.BinarySearchFunc(order, a.Spec, compareAttacks)
			order = slices.Insert(order, at, a.Spec)
			out = slices.Insert(out, at, res)
		}
	})
	return out, err
}

func compareAttacks(a, b attackSpec) int {
	return cmp.Or(cmp.Compare(a.Attack, b.Attack), cmp.Compare(a.Target, b.Target),
		a.At.Local.Compare(b.At.Local), a.At.Remote.Compare(b.At.Remote))
}

func (s *Scenario) partyName(ref string, f Family) string {
	p, err := s.party(ref)
	if err != nil {
		return ref // not in a validated scenario
	}
	return p.name(f)
}
