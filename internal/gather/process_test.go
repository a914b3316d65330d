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
	"net/netip"
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
	t     *testing.T
	site  site
	store *store.Store
	cmd   *exec.Cmd
	done  chan error
}

// migrated returns a process that is to be started, on a database of its own.
func migrated(t *testing.T) *process {
	t.Helper()
	addr, user, password := clickhousetest.Start(t)
	p := &process{t: t, site: site{
		Dir: filepath.Join(t.TempDir(), "gather"), Socket: filepath.Join(t.TempDir(), "s"), Addr: addr, User: user, Password: password,
		Database: clickhousetest.Database(t),
	}}
	var err error
	if p.store, err = p.site.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.store.Close() })
	if err := p.store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
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
	<-p.done //nolint:errcheck // it was killed
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
	p := migrated(t)
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
	inStore(t, p.store, sent)
	t.Logf("%d batches, sent again %d times; %d groups", total(sent), again.Load(), p.groups())
	if again.Load() < 25 {
		t.Error("hardly anything was sent again")
	}
}

// What a node with a broken clock or broken names hands over is stored as well as
// can be, and holds nobody up.
func TestOddRows(t *testing.T) {
	st := migrated(t).store
	g := run(t, quick(t.TempDir()), st)
	b := batch("node-\xff", 1)
	like := b.Rows[0]
	for day := range 300 { // a partition each
		r := like
		r.Time = time.Unix(0, 0).AddDate(0, 0, 100*day)
		r.FirstSeen = r.Time.AddDate(0, 0, -day)
		r.SourcePort = uint16(day)
		b.Rows = append(b.Rows, r)
	}
	for i := range 300 {
		r := like
		r.Protocol, r.Event, r.Direction, r.Outcome = flow.Protocol(i), flow.Event(i), flow.Direction(i), flow.Outcome(i)
		r.Live = flow.Judgement{Verdict: flow.Verdict(i), Reason: flow.Reason(i), Revision: 1<<32 - 1}
		r.Staged, r.Forward = r.Live, flow.Counters{Packets: 1<<64 - 1, Bytes: 1<<64 - 1}
		r.Key.Source, r.Destination = netip.Addr{}, netip.Addr{}
		r.Time = r.Time.AddDate(0, 0, -i%30) // a partition each
		r.FirstSeen = time.Time{}
		r.Source = &flow.Party{Workload: flow.Workload{Namespace: "\x00", Kind: "\xff\xfe", Name: "'"}, Labels: "=\xff"}
		b.Rows = append(b.Rows, r)
	}
	rows := make([]flow.Coverage, 300)
	for i := range rows {
		rows[i] = flow.Coverage{
			Kind: 77, Node: "node-1", Start: time.Time{}, End: time.Unix(0, 0).AddDate(0, 5*i, 0), Endpoint: "\xff",
			Records: 1<<64 - 1, Skew: -1 << 63, Endpoints: -1,
		}
	}
	if err := g.Take(t.Context(), "node-\xff", b); err != nil {
		t.Error(err)
	}
	if err := g.TakeCoverage(t.Context(), "node-1", rows); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(20 * time.Second); g.Level().Groups > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(g.Problem())
		}
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
