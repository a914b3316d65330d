package outage

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/collector"
	"github.com/ringfence/ringfence/internal/agentlink"
	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/gather"
	"github.com/ringfence/ringfence/internal/statefile"
	"github.com/ringfence/ringfence/internal/store"
)

// gathererCommand makes the test binary a server that gathers what agents hand over.
const gathererCommand = "ringfence-test-gatherer"

const linkToken = "0123456789abcdef0123456789abcdef"

// hall is where a gatherer works: all of its state, and the way to it.
type hall struct{ dir string }

func (h hall) socket() string { return filepath.Join(h.dir, "link", "server.sock") }
func (h hall) groups() string { return filepath.Join(h.dir, "groups") }
func (h hall) store() string  { return filepath.Join(h.dir, "store.json") }

// access says where the store is now.
func (h hall) access() (cfg store.Config, err error) {
	var c clickhouse.Credentials
	raw, err := statefile.Read(h.store())
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	return access(c), err
}

// gathered is what agents speak to.
type gathered struct {
	*gather.Gatherer
	*sink
}

// runGatherer is the body of the process. It ends by being killed.
func runGatherer(dir string) {
	h := hall{dir}
	k := &sink{access: h.access}
	g, err := gather.New(gather.Config{Dir: h.groups(), GroupAge: 100 * time.Millisecond, MaxPause: 200 * time.Millisecond, Insert: 5 * time.Second}, k)
	if err == nil {
		err = serveGatherer(h, gathered{g, k})
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func serveGatherer(h hall, records gathered) error {
	all, ctx := errgroup.WithContext(context.Background())
	srv, err := agentlink.New(agentlink.Config{Token: linkToken, Records: records}, nil)
	if err != nil {
		return err
	}
	lis, err := agentlink.Listen(ctx, h.socket())
	if err != nil {
		return err
	}
	all.Go(func() error { return records.Run(ctx) })
	all.Go(func() error { return srv.Serve(ctx, lis) })
	fmt.Println("ready")
	return all.Wait()
}

// gatherer is the process, as the test sees it.
type gatherer struct {
	hall hall
	cmd  *exec.Cmd
}

// start returns when agents can reach it.
func (g *gatherer) start() error {
	g.cmd = exec.Command(os.Args[0], gathererCommand, g.hall.dir)
	g.cmd.Stderr = os.Stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := g.cmd.StdoutPipe()
	if err == nil {
		err = g.cmd.Start()
	}
	if err != nil {
		return err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		return fmt.Errorf("the gatherer says %q: %w", line, err)
	}
	return nil
}

func (g *gatherer) kill() {
	if g.cmd != nil {
		_ = g.cmd.Process.Kill()
		_ = g.cmd.Wait()
	}
}

// counting is an agent's way to the gatherer, and counts what it got no answer to.
type counting struct {
	*agentlink.Sink
	unanswered *atomic.Uint64
}

func (c counting) InsertFlows(ctx context.Context, token string, rows []flow.Labelled) error {
	err := c.Sink.InsertFlows(ctx, token, rows)
	if err != nil && !strings.Contains(err.Error(), "connection refused") && !strings.Contains(err.Error(), "no such file") {
		c.unanswered.Add(1)
	}
	return err
}

// TestGathererKilled has 200 agents hand their records over, kills the gatherer
// 20 times and the engine 5 times meanwhile, and counts what is stored.
func TestGathererKilled(t *testing.T) {
	const agents, kills, engineKills = 200, 20, 5
	dir, err := os.MkdirTemp("", "rf-gather-") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b, g := newBackend(t, t.TempDir()), &gatherer{hall: hall{dir}}
	open := func() {
		raw, err := json.Marshal(b.engine.Credentials())
		if err == nil {
			err = statefile.Write(g.hall.store(), raw)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	open()
	t.Cleanup(g.kill)
	if err := g.start(); err != nil {
		t.Fatal(err)
	}

	var unanswered atomic.Uint64
	all := make([]*agent, agents)
	for i := range all {
		node := fmt.Sprintf("node-%d", i)
		link, err := agentlink.NewClient(agentlink.ClientConfig{Address: "unix://" + g.hall.socket(), Token: linkToken, Node: node, MinPause: 5 * time.Millisecond, MaxPause: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		k, err := link.Sink()
		if err != nil {
			t.Fatal(err)
		}
		all[i] = collect(t, node, counting{k, &unanswered}, func(c *collector.Config) {
			c.Patience, c.Heartbeat, c.Clock = time.Second, time.Second, time.Hour
		})
	}

	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	for _, a := range all {
		busy.Go(func() {
			for ctx.Err() == nil {
				a.source.send(1 + rand.IntN(30))
				pause(ctx, time.Duration(rand.IntN(400))*time.Millisecond)
			}
		})
	}
	killed := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < kills && err == nil; i++ {
			pause(ctx, time.Duration(rand.IntN(1000))*time.Millisecond)
			g.kill()
			err = g.start()
		}
		killed <- err
	}()
	for range engineKills {
		pause(ctx, time.Duration(rand.IntN(1000))*time.Millisecond)
		b.kill()
		b.begin()
		open()
	}
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	cancel()
	busy.Wait()

	for _, a := range all {
		a.settled()
	}
	for _, a := range all {
		busy.Go(a.stop) // its last heartbeat tells of all records
	}
	busy.Wait()
	var connections, bytes uint64
	for _, a := range all {
		connections += a.source.sent
		bytes += a.source.bytes
		if l := a.spool.Level(); l.Full+l.Damaged+l.Refused != 0 {
			t.Errorf("spool %+v", l)
		}
	}
	all[0].until("all groups are stored", func() bool {
		waiting, err := filepath.Glob(filepath.Join(g.hall.groups(), "*.group"))
		if err != nil {
			t.Fatal(err)
		}
		return len(waiting) == 0
	})
	if c, n := b.stored(); c != connections || n != bytes {
		t.Errorf("%d records of %d bytes are stored; %d of %d were sent", c, n, connections, bytes)
	}
	b.vouched(all)
	t.Logf("%d records of %d agents; %d batches went without an answer", connections, agents, unanswered.Load())
	if unanswered.Load() < kills {
		t.Errorf("only %d batches went without an answer", unanswered.Load())
	}
}

// vouched fails unless the agents' heartbeats, each stored once, add up to what
// they sent.
func (b *backend) vouched(all []*agent) {
	b.t.Helper()
	nodes, err := b.direct.Coverage(b.t.Context(), time.Now().Add(-time.Hour), time.Now().Add(time.Minute))
	if err != nil {
		b.t.Fatal(err)
	}
	told := map[string]uint64{}
	for _, n := range nodes {
		told[n.Node] = n.Records
	}
	for i, a := range all {
		if n := told[fmt.Sprintf("node-%d", i)]; n != a.source.sent {
			b.t.Errorf("heartbeats of agent %d tell of %d records, it sent %d", i, n, a.source.sent)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
