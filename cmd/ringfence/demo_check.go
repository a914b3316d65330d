package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/lab"
	"github.com/ringfence/ringfence/internal/store"
)

// Times of the check's script.
const (
	aroundSwitch  = 30 * time.Second // of traffic before the first and after the last switch
	withoutAgents = 5 * time.Second  // of traffic while every agent is dead
	settle        = 2 * time.Second  // after a pause: the last packets of closed connections
	storeDeadline = 30 * time.Second // for records to reach the store
)

// check runs the script, prints the table and writes the numbers.
func (d *demo) check(ctx context.Context, output string) error {
	// An earlier run's numbers must not be taken for this one's.
	if err := os.Remove(output); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c := &demoCheck{demo: d}
	if err := c.script(ctx); err != nil {
		return err
	}
	c.result.Duration = time.Since(d.began).Seconds()
	c.judge()
	if err := c.write(output); err != nil {
		return err
	}
	rows := make([][]string, 0, len(c.result.Checks))
	for _, r := range c.result.Checks {
		mark := "ok"
		if !r.OK {
			mark = "FAILED"
		}
		rows = append(rows, []string{mark, r.Name, r.Got, r.Want})
	}
	fmt.Fprintln(d.out)
	if err := printTable(d.out, []string{"", "CHECK", "GOT", "WANT"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\nnumbers in %s\n", output)
	if !c.result.Passed {
		return errCheckFailed
	}
	return nil
}

// demoCheck is one run of the script.
type demoCheck struct {
	*demo
	result  demoResult
	learned []api.Recommendation
	window  flowWindow
}

func (c *demoCheck) script(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		c.learnEdges, c.startWindow, c.attackBefore, c.auditEverything, c.enforceUnderTraffic,
		c.killAgents, c.rollBack, c.endWindow, c.panicWithoutServer,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	total, err := c.counts(ctx)
	if err != nil {
		return err
	}
	c.result.Legit.Requests, c.result.Legit.FailedAtAll = total.Requests, total.Failures
	for _, e := range total.Errors {
		c.result.Legit.Errors = append(c.result.Legit.Errors, fmt.Sprintf("%s %s: %s", e.Time.Format(time.TimeOnly), e.To, e.Error))
	}
	return nil
}

func (c *demoCheck) learnEdges(ctx context.Context) error {
	recs, err := c.learnFor(ctx)
	if err != nil {
		return err
	}
	c.result.Attacks.Unexpected, c.result.Legit.Errors = []string{}, []string{}
	c.learned = recs // before any attack: the script accepts what it reviewed
	r := &c.result.Edges
	truth := map[string]lab.TrueEdge{}
	for _, e := range c.lab.Scenario().Edges() {
		truth[edgeText(e.Client, e.Server, e.Protocol.String(), int(e.Port))] = e
	}
	learned := learnedEdges(recs)
	r.True, r.Learned = len(truth), len(learned)
	r.Missing, r.Extra = []string{}, []string{}
	for name, e := range truth {
		seen, ok := learned[name]
		switch {
		case !ok:
			r.Missing = append(r.Missing, name)
		case e.Rare:
			r.Rare++
		}
		if ok && seen {
			r.Evidence++
		}
	}
	for name := range learned {
		if _, ok := truth[name]; !ok {
			r.Extra = append(r.Extra, name)
		}
	}
	slices.Sort(r.Missing)
	slices.Sort(r.Extra)
	c.say("learned %d of %d true edges, %d others", r.True-len(r.Missing), r.True, len(r.Extra))
	return nil
}

// learnedEdges returns every edge that some recommended rule admits, whichever
// end the rule is for, and whether connections were seen at each rule that does.
func learnedEdges(recs []api.Recommendation) map[string]bool {
	out := map[string]bool{}
	for i := range recs {
		own := workloadText(recs[i].Workload)
		for _, rule := range recs[i].Rules {
			if rule.Implied != nil && *rule.Implied {
				continue
			}
			for _, e := range rule.Evidence {
				client, server := partyText(e.Peer), own
				if rule.Direction == api.Egress {
					client, server = server, client
				}
				name := edgeText(client, server, e.Protocol, e.Port)
				seen := e.Connections > 0 && e.Answered > 0 && !e.FirstSeen.IsZero() && !e.LastSeen.IsZero() &&
					e.SourceEndpoints > 0 && e.DestinationEndpoints > 0 && e.BytesForward > 0
				if before, ok := out[name]; ok {
					seen = seen && before
				}
				out[name] = seen
			}
		}
	}
	return out
}

func (c *demoCheck) attackBefore(ctx context.Context) error {
	// A second set of idle connections, opened under observation.
	if _, err := c.lab.OpenIdle(ctx); err != nil {
		return err
	}
	n, err := c.attack(ctx, "before", true)
	if err != nil {
		return err
	}
	c.result.Attacks.Total, c.result.Attacks.ReachedBefore = n+len(c.result.Attacks.Unexpected), n
	c.say("before: %d of %d attacks got through", n, c.result.Attacks.Total)
	return nil
}

func (c *demoCheck) auditEverything(ctx context.Context) error {
	n, err := c.stageAll(ctx, c.learned)
	if err != nil {
		return err
	}
	c.say("auditing %d policies, attacking", n)
	results, err := c.lab.Attack(ctx)
	if err != nil {
		return err
	}
	c.result.Attacks.ReachedInAudit = reached(results)
	if err := sleep(ctx, aroundSwitch); err != nil { // legitimate traffic, judged and let through
		return err
	}
	report, err := c.flagged(ctx, results)
	c.result.Attacks.FlaggedInAudit, c.result.Attacks.Unflagged = report.attacks, report.unflagged
	c.result.Legit.FlaggedInAudit, c.result.Legit.Flagged = report.legit, report.others
	return err
}

// enforceUnderTraffic clicks Enforce for every workload, with half a minute of
// counted traffic on either side.
func (c *demoCheck) enforceUnderTraffic(ctx context.Context) error {
	before, err := c.counts(ctx)
	if err != nil {
		return err
	}
	if err := sleep(ctx, aroundSwitch); err != nil {
		return err
	}
	switched, err := c.promoteAll(ctx)
	if err != nil {
		return err
	}
	c.result.SwitchMS, c.result.SwitchMaxMS = milliseconds(median(switched)), milliseconds(slowest(switched))
	c.say("enforcing %d policies, click to kernel %.1f ms, slowest %.1f ms", len(switched), c.result.SwitchMS, c.result.SwitchMaxMS)
	if err := sleep(ctx, aroundSwitch); err != nil {
		return err
	}
	idle, err := c.lab.UseIdle(ctx)
	if err != nil {
		return err
	}
	c.result.Legit.IdleConnections, c.result.Legit.IdleFailed = idle.Connections, len(idle.Failures)
	after, err := c.counts(ctx)
	if err != nil {
		return err
	}
	c.result.Legit.RequestsAtSwitch = after.Requests - before.Requests
	c.result.Legit.FailedDuringSwitch = after.Failures - before.Failures
	if c.result.Attacks.ReachedEnforced, err = c.attack(ctx, "enforced", false); err != nil {
		return err
	}
	c.say("enforced: %d attacks got through, %d of %d requests failed around the switch", c.result.Attacks.ReachedEnforced,
		c.result.Legit.FailedDuringSwitch, c.result.Legit.RequestsAtSwitch)
	return nil
}

// killAgents ends every agent with SIGKILL, looks at what the kernel does
// without them, and lets them come back.
func (c *demoCheck) killAgents(ctx context.Context) error {
	links, err := c.pinnedLinks()
	if err != nil {
		return err
	}
	before, err := c.counts(ctx)
	if err != nil {
		return err
	}
	for _, p := range c.stack.agentProcesses {
		if err := p.kill(); err != nil {
			return err
		}
	}
	if c.result.Attacks.ReachedKilled, err = c.attack(ctx, "agents killed", false); err != nil {
		return err
	}
	if err := sleep(ctx, withoutAgents); err != nil {
		return err
	}
	for _, p := range c.stack.agentProcesses {
		p.resume()
	}
	if err := poll(ctx, storeDeadline, func() (bool, error) { return c.agentsConnected(ctx) }); err != nil {
		return err
	}
	if c.result.Attacks.ReachedRestarted, err = c.attack(ctx, "agents restarted", false); err != nil {
		return err
	}
	after, err := c.counts(ctx)
	if err != nil {
		return err
	}
	c.result.Legit.RequestsAgentKilled = after.Requests - before.Requests
	c.result.Legit.FailedAgentKilled = after.Failures - before.Failures
	now, err := c.pinnedLinks()
	if err != nil {
		return err
	}
	c.result.LinksKept = len(links) > 0 && slices.Equal(links, now)
	c.say("agents killed: %d attacks got through, %d of %d requests failed; restarted agents took over %d pinned links",
		c.result.Attacks.ReachedKilled, c.result.Legit.FailedAgentKilled, c.result.Legit.RequestsAgentKilled, len(now))
	return nil
}

func (c *demoCheck) agentsConnected(ctx context.Context) (bool, error) {
	res, err := c.client.GetStatusWithResponse(ctx)
	if err := expect(res, err); err != nil {
		return false, err
	}
	connected := 0
	for _, n := range res.JSON200.Nodes {
		if n.Connected && n.Endpoints > 0 {
			connected++
		}
	}
	return connected == len(c.stack.agents), nil
}

// pinnedLinks names every pinned link with the time it was pinned.
func (c *demoCheck) pinnedLinks() ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(c.places.bpffs(), "*", "links", "*"))
	if err != nil {
		return nil, err
	}
	for i, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		paths[i] = p + " " + info.ModTime().String()
	}
	return paths, nil
}

func (c *demoCheck) rollBack(ctx context.Context) error {
	took, err := c.rollBackAll(ctx)
	if err != nil {
		return err
	}
	c.result.RollbackMS = milliseconds(slowest(took))
	if c.result.Attacks.ReachedRolledBack, err = c.attack(ctx, "rolled back", true); err != nil {
		return err
	}
	c.say("rolled back in %.1f ms; %d of %d attacks got through, as before", c.result.RollbackMS,
		c.result.Attacks.ReachedRolledBack, c.result.Attacks.Total)
	return nil
}

// panicWithoutServer enforces again, kills everything but the kernel's programs,
// and runs the panic command.
func (c *demoCheck) panicWithoutServer(ctx context.Context) (err error) {
	if _, err := c.promoteAll(ctx); err != nil {
		return err
	}
	for _, p := range c.stack.agentProcesses {
		if err := p.kill(); err != nil {
			return err
		}
	}
	if err := c.stack.serverProcess.kill(); err != nil { // ClickHouse dies with it
		return err
	}
	if c.result.Attacks.ReachedEnforcedAgain, err = c.attack(ctx, "enforced again", false); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	start := time.Now()
	if out, err := exec.CommandContext(ctx, self, "panic", "--bpf-dir", c.places.bpffs()).CombinedOutput(); err != nil {
		return fmt.Errorf("ringfence panic: %w: %s", err, out)
	}
	c.result.PanicMS = milliseconds(time.Since(start))
	if c.result.Attacks.ReachedPanicked, err = c.attack(ctx, "panicked", true); err != nil {
		return err
	}
	c.say("panic in %.1f ms with server, agents and ClickHouse dead; %d of %d attacks got through, as before",
		c.result.PanicMS, c.result.Attacks.ReachedPanicked, c.result.Attacks.Total)
	return nil
}

// attack runs every attack once and returns how many got through. Those that
// end otherwise than through says are named in the result.
func (c *demoCheck) attack(ctx context.Context, when string, through bool) (int, error) {
	results, err := c.lab.Attack(ctx)
	if err != nil {
		return 0, err
	}
	for i := range results {
		if a := &results[i]; a.Reached != through {
			c.result.Attacks.Unexpected = append(c.result.Attacks.Unexpected, fmt.Sprintf("%s: %s %s %s (%s)", when, a.Name,
				edgeText(a.From, a.To, a.Protocol.String(), int(a.Port)), a.ToAddress, a.Error))
		}
	}
	return reached(results), nil
}

// counts adds up what every client counted, probes included.
func (c *demoCheck) counts(ctx context.Context) (lab.Counts, error) {
	list, err := c.lab.Counters(ctx)
	if err != nil {
		return lab.Counts{}, err
	}
	var sum lab.Counts
	for i := range list {
		sum.Add(list[i].Counts)
	}
	return sum, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// openStore reads ClickHouse directly: the API adds flows up, and the check
// counts them.
func (c *demoCheck) openStore(ctx context.Context) (*store.Store, error) {
	var a storeAccess
	if err := readJSON(c.places.storeFile(), &a); err != nil {
		return nil, err
	}
	return store.Open(ctx, store.Config{Addrs: a.Addrs, User: a.User, Password: a.Password, Database: a.Database})
}
