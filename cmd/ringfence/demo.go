package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/lab"
)

// errCheckFailed ends a check whose table has said what failed.
var errCheckFailed = errors.New("the check failed")

// The demo's clock: how long it learns, and how long an endpoint is observed
// before it may be enforced. Both are an hour and more on a real host.
const (
	demoLearn  = 80 * time.Second
	demoWarmUp = time.Minute
	// demoEnforceable is demoWarmUp and two heartbeats, by which nodes say what they watched.
	demoEnforceable = demoWarmUp + 10*time.Second
	// attackPause lies between two rounds of attacks while the demo stays up.
	attackPause = 20 * time.Second
)

// demo is the whole circle on a lab.
type demo struct {
	lab     *lab.Lab
	stack   *stack
	client  *api.ClientWithResponses
	out     io.Writer
	logFile *os.File
	logger  *slog.Logger
	learn   time.Duration
	places  layout
	began   time.Time
}

func newDemoCommand() *cobra.Command {
	var (
		flags            serverFlags
		until, scenario  string
		check            bool
		output           string
		learn            time.Duration
		stateDir, runDir string
	)
	stages := []string{"observe", "audit", "enforce"}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Go the whole way round on a lab of network namespaces",
		Long: `demo builds a lab: two nodes and the twelve workloads of Online Boutique as
network namespaces, with real clients and servers. It learns their policies,
audits and enforces them while attacks run, and stays up so that you can look
at it in the web UI. The machine's own interfaces, routes and settings are not
touched, and everything is removed at the end.`,
		Example: `  ringfence demo                    # go all the way to enforce, then stay up
  ringfence demo --until observe    # review, audit and enforce by yourself in the web UI
  ringfence demo --check            # prove every promise, print a table, exit 0 or 1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(stages, until) {
				return fmt.Errorf("--until %q: want one of %s", until, strings.Join(stages, ", "))
			}
			if check && cmd.Flags().Changed("until") {
				return errors.New("--check runs the whole script: leave --until out")
			}
			least := time.Second
			if !check && until == "enforce" {
				least = demoEnforceable // a check audits for longer than that
			}
			if learn < least {
				return fmt.Errorf("--learn %s: want at least %s to go on to %s", learn, least, until)
			}
			d := &demo{
				out: cmd.OutOrStdout(), learn: learn,
				places: layout{StateDir: stateDir, RuntimeDir: runDir},
			}
			if err := d.prepare(flags, scenario); err != nil {
				return err
			}
			return d.run(cmd.Context(), func(ctx context.Context) error {
				if check {
					return d.check(ctx, output)
				}
				return d.show(ctx, until)
			})
		},
	}
	flags.register(cmd, "127.0.0.1:7433")
	fs := cmd.Flags()
	fs.StringVar(&until, "until", "enforce", "stop at this stage and stay up: observe, audit or enforce")
	fs.BoolVar(&check, "check", false, "run the whole script, print a table, exit 0 or 1")
	fs.StringVar(&output, "output", "build/demo.json", "where --check writes its numbers")
	fs.DurationVar(&learn, "learn", demoLearn, "how long to learn; the rarest call of the built-in scenario comes once a minute")
	fs.StringVar(&scenario, "scenario", "", "scenario file (default: the built-in Online Boutique)")
	fs.StringVar(&stateDir, "state-dir", demoStateDir, "scratch directory; emptied at start and removed at the end")
	fs.StringVar(&runDir, "runtime-dir", demoRuntimeDir, "where sockets and pinned maps are meanwhile")
	return cmd
}

// prepare checks everything that can be checked before anything is made.
func (d *demo) prepare(flags serverFlags, scenario string) error {
	cfg, err := flags.config()
	if err != nil {
		return err
	}
	s := lab.Default()
	if scenario != "" {
		if s, err = lab.Load(scenario); err != nil {
			return err
		}
	}
	if err := bpf.CheckHost(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	d.logger = slog.New(slog.DiscardHandler)
	d.lab, err = lab.New(lab.Config{
		Scenario: s, Command: []string{self, labHostCommand},
		StateDir: filepath.Join(d.places.RuntimeDir, "lab"), Paused: true, Logger: d.logger,
	})
	if err != nil {
		return err
	}
	cfg.layout = d.places
	cfg.Inventory = filepath.Join(d.places.StateDir, "inventory.yaml")
	cfg.WarmUp, cfg.Confirm, cfg.Guard, cfg.MinWindow = demoWarmUp, 10*time.Second, 10*time.Minute, demoWarmUp
	d.stack = &stack{server: cfg, logger: d.logger}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		d.stack.agents = append(d.stack.agents, agentConfig{layout: d.places, Node: n.Name, NetNS: n.Namespace(), StoreAddrs: cfg.ClickHouse.Addrs})
	}
	return nil
}

// run builds the lab and the stack, does the body, and removes everything.
func (d *demo) run(ctx context.Context, body func(context.Context) error) (err error) {
	if err := d.clean(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.remove(context.WithoutCancel(ctx))) }()
	if err := d.places.create(); err != nil {
		return err
	}
	if d.logFile, err = os.OpenFile(filepath.Join(d.places.StateDir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	d.logger = newLogger(d.logFile)
	d.stack.logs, d.stack.logger = d.logFile, d.logger
	inv, err := yaml.Marshal(d.lab.Scenario().Inventory())
	if err != nil {
		return fmt.Errorf("write the lab's inventory: %w", err)
	}
	if err := os.WriteFile(d.stack.server.Inventory, inv, 0o600); err != nil {
		return fmt.Errorf("write the lab's inventory: %w", err)
	}
	d.began = time.Now()
	d.say("building the lab: %d nodes, %d workloads", len(d.lab.Scenario().Nodes), len(d.lab.Scenario().Workloads))
	if err := d.lab.Start(ctx); err != nil {
		return err
	}
	// Some connections are older than any agent, as on every real host.
	if _, err := d.lab.OpenIdle(ctx); err != nil {
		return err
	}
	d.say("starting ClickHouse, the server and %d agents", len(d.stack.agents))
	if err := d.stack.start(ctx); err != nil {
		return err
	}
	var access clientFile
	if err := readJSON(filepath.Join(d.places.StateDir, clientFileName), &access); err != nil {
		return err
	}
	if d.client, err = newClient(access); err != nil {
		return err
	}
	fmt.Fprintln(d.out)
	printLogin(d.out, d.stack.ready)
	fmt.Fprintf(d.out, "commands  export RINGFENCE_CONFIG=%s\n\n", filepath.Join(d.places.StateDir, clientFileName))
	if err := d.lab.Resume(ctx); err != nil {
		return err
	}
	return body(ctx)
}

// clean removes what an earlier demo left that was killed.
func (d *demo) clean(ctx context.Context) error {
	if err := d.places.create(); err != nil {
		return err
	}
	// The lock tells a demo that runs from one that left this behind.
	unlock, err := d.places.takeLock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := lab.Cleanup(ctx, filepath.Join(d.places.RuntimeDir, "lab"), d.logger); err != nil {
		return err
	}
	return d.removeFiles()
}

func (d *demo) remove(ctx context.Context) error {
	d.say("removing everything")
	var errs []error
	d.stack.stop()
	errs = append(errs, d.lab.Stop(ctx))
	if d.logFile != nil {
		errs = append(errs, d.logFile.Close())
	}
	return errors.Join(append(errs, d.removeFiles())...)
}

func (d *demo) removeFiles() error {
	if err := bpf.UnmountBPFFS(d.places.bpffs()); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(d.places.RuntimeDir), os.RemoveAll(d.places.StateDir))
}

// say prints one line of progress with the time since the start.
func (d *demo) say(format string, args ...any) {
	at := time.Duration(0)
	if !d.began.IsZero() {
		at = time.Since(d.began)
	}
	fmt.Fprintf(d.out, "%6.1fs  %s\n", at.Seconds(), fmt.Sprintf(format, args...))
}

// show goes to the stage and stays there, with attacks from the audit on.
func (d *demo) show(ctx context.Context, until string) error {
	recs, err := d.observe(ctx)
	if err != nil {
		return err
	}
	if until != "observe" {
		if err := d.audit(ctx, recs); err != nil {
			return err
		}
	}
	if until == "enforce" {
		if err := d.enforce(ctx); err != nil {
			return err
		}
	}
	d.say("in %s; open %s and log in. Ctrl-C ends the demo and removes everything.", until, d.stack.ready.URL)
	return d.stay(ctx)
}

func (d *demo) observe(ctx context.Context) ([]api.Recommendation, error) {
	recs, err := d.learnFor(ctx)
	if err != nil {
		return nil, err
	}
	rules := 0
	for _, r := range recs {
		rules += len(r.Rules)
	}
	d.say("learned %d rules for %d workloads; no policy is set, nothing is dropped", rules, len(recs))
	return recs, nil
}

func (d *demo) audit(ctx context.Context, recs []api.Recommendation) error {
	staged, err := d.stageAll(ctx, recs)
	if err != nil {
		return err
	}
	results, err := d.lab.Attack(ctx)
	if err != nil {
		return err
	}
	report, err := d.flagged(ctx, results)
	if err != nil {
		return err
	}
	d.say("auditing %d policies; %d of %d attacks got through, %d are reported as would-deny, and %d legitimate connections",
		staged, reached(results), len(results), report.attacks, report.legit)
	return nil
}

func (d *demo) enforce(ctx context.Context) error {
	switched, err := d.promoteAll(ctx)
	if err != nil {
		return err
	}
	results, err := d.lab.Attack(ctx)
	if err != nil {
		return err
	}
	d.say("enforcing %d policies, slowest click to kernel %.1f ms; %d of %d attacks got through",
		len(switched), milliseconds(slowest(switched)), reached(results), len(results))
	return nil
}

// stay attacks now and then while a policy is judged, until ctx ends.
func (d *demo) stay(ctx context.Context) error {
	tick := time.NewTicker(attackPause)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		judged, enforced, err := d.stages(ctx)
		if err != nil || judged == 0 {
			continue // a server that is being restarted, or nothing to judge by yet
		}
		results, err := d.lab.Attack(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		line := fmt.Sprintf("%d workloads in audit or enforce, %d enforced: %d of %d attacks got through",
			judged, enforced, reached(results), len(results))
		if line != last {
			d.say("%s", line)
			last = line
		}
	}
}

// stages counts the workloads that are judged, and those of them that are enforced.
func (d *demo) stages(ctx context.Context) (judged, enforced int, err error) {
	list, err := d.workloads(ctx)
	if err != nil {
		return 0, 0, err
	}
	for i := range list {
		w := &list[i]
		enforce := w.IngressStage == api.Enforce || w.EgressStage == api.Enforce
		if enforce {
			enforced++
		}
		if enforce || w.IngressStage == api.Audit || w.EgressStage == api.Audit {
			judged++
		}
	}
	return judged, enforced, nil
}

func reached(results []lab.AttackResult) (n int) {
	for i := range results {
		if results[i].Reached {
			n++
		}
	}
	return n
}

func median(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(list))[len(list)/2]
}

func slowest(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	return slices.Max(list)
}

// refOf turns the API's name of a workload into ours.
func refOf(w api.WorkloadRef) flow.Workload {
	return flow.Workload{Namespace: w.Namespace, Kind: w.Kind, Name: w.Name}
}
