package gather

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
	"github.com/ringfence/ringfence/internal/store"
)

// childCommand is the argument that makes the test binary a gatherer.
const childCommand = "ringfence-test-gatherer"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == childCommand {
		if err := child(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	clickhousetest.Main(m)
}

// site is where a gatherer's process finds what it needs.
type site struct {
	Dir, Socket, Addr, User, Password, Database string
}

func (s site) open(ctx context.Context) (*store.Store, error) {
	return store.Open(ctx, store.Config{Addrs: []string{s.Addr}, User: s.User, Password: s.Password, Database: s.Database})
}

// child gathers until it is killed.
func child(arg string) error {
	var s site
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		return err
	}
	ctx := context.Background()
	st, err := s.open(ctx)
	if err != nil {
		return err
	}
	cfg := quick(s.Dir)
	cfg.GroupAge, cfg.Logger = 20*time.Millisecond, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	g, err := New(cfg, st)
	if err != nil {
		return err
	}
	server := rpc.NewServer()
	if err := server.RegisterName("Gather", &door{g}); err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", s.Socket)
	if err != nil {
		return err
	}
	go server.Accept(listener)
	return g.Run(ctx)
}

// door is how batches come into the process.
type door struct{ g *Gatherer }

// Handed is a batch, or coverage.
type Handed struct {
	Node     string
	Batch    []byte
	Coverage []byte
}

func (d *door) Take(h Handed, _ *struct{}) error {
	if len(h.Coverage) > 0 {
		var rows []flow.Coverage
		if err := json.Unmarshal(h.Coverage, &rows); err != nil {
			return err
		}
		return d.g.TakeCoverage(context.Background(), h.Node, rows)
	}
	b, err := spool.Decode(h.Batch)
	if err != nil {
		return err
	}
	return d.g.Take(context.Background(), h.Node, b)
}

// process is the gatherer's, which is killed and begun again.
type process struct {
	t    *testing.T
	site site
	cmd  *exec.Cmd
	done chan error
}

func (p *process) start() {
	p.t.Helper()
	arg, err := json.Marshal(p.site)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.Remove(p.site.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0], childCommand, string(arg))
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan<- error) { done <- cmd.Wait() }(p.cmd, p.done)
	for { // until it serves
		c, err := net.Dial("unix", p.site.Socket)
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case err := <-p.done:
			p.t.Fatalf("the gatherer ended: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = <-p.done
}

// hand sends what a node has until it is answered.
func (p *process) hand(h Handed) (attempts int) {
	for {
		attempts++
		client, err := rpc.Dial("unix", p.site.Socket)
		if err == nil {
			err = client.Call("Gather.Take", h, &struct{}{})
			_ = client.Close()
		}
		if err == nil {
			return attempts
		}
		var refused rpc.ServerError
		if errors.As(err, &refused) {
			p.t.Errorf("node %s: %v", h.Node, err)
			return attempts
		}
		time.Sleep(time.Millisecond) // another process begins
	}
}

// TestKilled kills the gatherer's process 25 times at random moments, while 40
// nodes hand over what they have, again and again until they are answered.
// Everything is in the store once.
func TestKilled(t *testing.T) {
	addr, user, password := clickhousetest.Start(t)
	p := &process{t: t, site: site{
		Dir: filepath.Join(t.TempDir(), "gather"), Socket: filepath.Join(t.TempDir(), "s"), Addr: addr, User: user, Password: password,
		Database: clickhousetest.Database(t),
	}}
	st, err := p.site.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	if err := st.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.start()
	t.Cleanup(func() { p.kill() })
	var ended atomic.Bool
	var agents sync.WaitGroup
	var again atomic.Int64
	sent := make([]int, 40) // batches
	for i := range sent {
		agents.Go(func() {
			node := fmt.Sprint("node-", i)
			for !ended.Load() {
				n := sent[i]
				attempts := p.hand(Handed{Node: node, Batch: spool.Encode(nil, batch(node, n))})
				if n%10 == 0 {
					raw, err := json.Marshal(heartbeat(node, n/10))
					if err != nil {
						t.Error(err)
					}
					attempts += p.hand(Handed{Node: node, Coverage: raw}) - 1
				}
				again.Add(int64(attempts) - 1)
				sent[i]++
			}
		})
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 25 {
		time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
		p.kill()
		p.start()
	}
	ended.Store(true)
	agents.Wait()
	for deadline := time.Now().Add(30 * time.Second); len(files(t, p.site.Dir, "*.group")) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("groups are left")
		}
	}
	inStore(t, st, sent)
	t.Logf("%d batches, sent again %d times; %d groups", total(sent), again.Load(), p.groups())
	if again.Load() < 25 {
		t.Error("hardly anything was sent again")
	}
}

// groups returns how many there were.
func (p *process) groups() uint64 {
	d := newDirectory(p.t, p.site.Dir)
	return d.next - 1
}

func total(of []int) (sum int) {
	for _, n := range of {
		sum += n
	}
	return sum
}

// inStore fails unless the store has every record of each node once, edges are
// what flows add up to, and each heartbeat is there once.
func inStore(t *testing.T, st *store.Store, sent []int) {
	t.Helper()
	want, beats := map[string]uint64{}, map[string]uint64{}
	for i, n := range sent {
		node := fmt.Sprint("node-", i)
		want[node] = uint64(n * rowsOfABatch)
		for b := range (n + 9) / 10 {
			beats[node] += uint64(b)
		}
	}
	filter := store.EdgeFilter{Since: time.Now().Add(-2 * time.Hour), Until: time.Now().Add(time.Hour)}
	flows, edges, told := map[string]uint64{}, map[string]uint64{}, map[string]uint64{}
	totals, err := st.Totals(t.Context(), filter)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range totals {
		flows[e.Source.Workload.Name] += e.Connections
	}
	all, err := st.Edges(t.Context(), filter)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		edges[e.Source.Workload.Name] += e.Connections
	}
	coverage, err := st.Coverage(t.Context(), t0.Add(-time.Hour), t0.Add(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range coverage {
		told[c.Node] = c.Records
	}
	for what, got := range map[string]map[string]uint64{"flows": flows, "edges": edges} {
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v; want %v", what, got, want)
		}
	}
	if !maps.Equal(told, beats) {
		t.Errorf("coverage: %v; want %v", told, beats)
	}
}
