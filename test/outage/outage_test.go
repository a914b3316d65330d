package outage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/collector"
	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/spool"
	"github.com/ringfence/ringfence/internal/store"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == gathererCommand {
		runGatherer(os.Args[2])
	}
	clickhousetest.Main(m)
}

// backend is an engine with a store on it.
type backend struct {
	t      *testing.T
	engine *clickhouse.Engine
	direct *store.Store
}

func newBackend(t *testing.T, dataDir string) *backend {
	t.Helper()
	e, err := clickhouse.New(clickhousetest.Config(t, dataDir))
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{t: t, engine: e}
	b.begin()
	t.Cleanup(func() {
		stopping, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		if err := e.Stop(stopping); err != nil {
			t.Error(err)
		}
	})
	if err := b.direct.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// begin starts the engine, also after it was killed.
func (b *backend) begin() {
	b.t.Helper()
	if err := b.engine.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	var err error
	if b.direct, err = store.Open(b.t.Context(), access(b.engine.Credentials())); err != nil {
		b.t.Fatal(err)
	}
}

// kill ends the engine as the kernel would.
func (b *backend) kill() {
	b.t.Helper()
	_ = b.direct.Close()
	done := b.engine.Done()
	if err := syscall.Kill(b.engine.PID(), syscall.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
	if err := <-done; err == nil {
		b.t.Error("a killed engine ended without an error")
	}
}

// access is the way to the store of an engine.
func access(c clickhouse.Credentials) store.Config {
	return store.Config{Addrs: []string{c.Addr}, User: c.User, Password: c.Password, Database: clickhousetest.Prefix}
}

// agent is a collector with its ring and its spool.
type agent struct {
	t      *testing.T
	source *source
	spool  *spool.Spool
	stop   func()
}

// collect starts the collector of a node.
func collect(t *testing.T, node string, k closingSink, change func(*collector.Config)) *agent {
	t.Helper()
	owners, err := inventory.NewOwnership(inventory.OwnershipConfig{Node: node})
	if err != nil {
		t.Fatal(err)
	}
	workload := func(name string, id uint32, a [2]netip.Addr) inventory.Workload {
		return inventory.Workload{
			Namespace: "shop", Kind: "Host", Name: name, Identity: flow.Identity(300 + id), Labels: map[string]string{"app": name},
			Endpoints: []inventory.Endpoint{{ID: id, Name: name, Node: node, Addresses: a[:]}},
		}
	}
	owners.Learn(inventory.NewIndex(inventory.Inventory{Workloads: []inventory.Workload{workload("client", 1, client), workload("server", 2, server)}}), time.Now())
	a := &agent{t: t, source: newSource()}
	if a.spool, err = spool.Open(spool.Config{Dir: t.TempDir(), MaxBytes: spool.MinBytes}); err != nil {
		t.Fatal(err)
	}
	cfg := collector.Config{
		Node: node, StateDir: t.TempDir(), BatchRecords: 4000, BatchAge: 10 * time.Millisecond, SmallAge: 10 * time.Millisecond, Patience: 200 * time.Millisecond,
		Insert: 5 * time.Second, MinPause: 5 * time.Millisecond, MaxPause: 50 * time.Millisecond, Heartbeat: 100 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	c, err := collector.New(cfg, collector.Deps{Reader: a.source, Datapath: a.source, Owners: owners, Sink: k, Spool: a.spool})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, k.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(a.stop)
	return a
}

type closingSink interface {
	collector.Sink
	io.Closer
}

// site is an engine, the door to it, and a collector outside.
type site struct {
	*backend
	*agent
	t    *testing.T
	door *door
}

func newSite(t *testing.T, dataDir string) *site {
	t.Helper()
	s := &site{t: t, backend: newBackend(t, dataDir)}
	s.door = newDoor(t, s.engine.Credentials().Addr)
	s.agent = collect(t, "node-1", &sink{access: func() (store.Config, error) {
		c := s.engine.Credentials()
		c.Addr = s.door.addr
		return access(c), nil
	}}, nil)
	return s
}

// begin starts the engine, and leads the door to it.
func (s *site) begin() {
	s.t.Helper()
	s.backend.begin()
	s.door.mu.Lock()
	defer s.door.mu.Unlock()
	s.door.target = s.engine.Credentials().Addr
}

// sink is a way to the store, wherever that is.
type sink struct {
	access func() (store.Config, error)
	mu     sync.Mutex
	open   *store.Store
}

func (k *sink) with(ctx context.Context, use func(*store.Store) error) error {
	k.mu.Lock()
	st := k.open
	k.mu.Unlock()
	if st == nil {
		cfg, err := k.access()
		if err != nil {
			return err
		}
		if st, err = store.Open(ctx, cfg); err != nil {
			return err
		}
	}
	err := use(st)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		if k.open == st {
			k.open = nil
		}
		return errors.Join(err, st.Close())
	}
	if k.open == nil {
		k.open = st
	} else if k.open != st {
		return st.Close()
	}
	return nil
}

func (k *sink) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open == nil {
		return nil
	}
	return k.open.Close()
}

func (k *sink) InsertFlows(ctx context.Context, token string, rows []flow.Labelled) error {
	return k.with(ctx, func(st *store.Store) error { return st.InsertFlows(ctx, token, rows) })
}

func (k *sink) InsertCoverage(ctx context.Context, rows []flow.Coverage) error {
	return k.with(ctx, func(st *store.Store) error { return st.InsertCoverage(ctx, rows) })
}

func (k *sink) Clock(ctx context.Context) (at time.Time, err error) {
	err = k.with(ctx, func(st *store.Store) error {
		at, err = st.Clock(ctx)
		return err
	})
	return at, err
}

// until waits for something that the collector will bring about.
func (a *agent) until(what string, reached func() bool) {
	a.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !reached() {
		if time.Now().After(deadline) {
			a.t.Fatalf("not within 30 s: %s; the ring holds %d, the spool %+v", what, a.source.left(), a.spool.Level())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// settled waits until nothing is on its way any more.
func (a *agent) settled() {
	a.t.Helper()
	a.until("everything is stored", func() bool { return a.source.left() == 0 && a.spool.Level().Batches == 0 })
}

// stored is what flows add up to, and what edges do.
func (b *backend) stored() (connections, bytes uint64) {
	b.t.Helper()
	since, until := time.Now().Add(-2*time.Hour), time.Now().Add(time.Hour)
	totals, err := b.direct.Totals(b.t.Context(), store.EdgeFilter{Since: since, Until: until})
	if err != nil {
		b.t.Fatal(err)
	}
	edges, err := b.direct.Edges(b.t.Context(), store.EdgeFilter{Since: since, Until: until})
	if err != nil {
		b.t.Fatal(err)
	}
	type sum struct{ connections, packets, bytes uint64 }
	recount, counted := map[string]sum{}, map[string]sum{}
	key := func(d flow.Direction, from, to flow.Party, port uint16) string { return fmt.Sprint(d, from, to, port) }
	for _, e := range totals {
		recount[key(e.Direction, e.Source, e.Destination, e.Port)] = sum{e.Connections, e.Forward.Packets + e.Reverse.Packets, e.Forward.Bytes + e.Reverse.Bytes}
		connections += e.Connections
		bytes += e.Forward.Bytes
	}
	for _, e := range edges {
		counted[key(e.Direction, e.Source, e.Destination, e.Port)] = sum{e.Connections, e.Forward.Packets + e.Reverse.Packets, e.Forward.Bytes + e.Reverse.Bytes}
	}
	if len(recount) != len(counted) {
		b.t.Errorf("%d edges, and flows add up to %d", len(counted), len(recount))
	}
	for k, want := range recount {
		if counted[k] != want {
			b.t.Errorf("edge %s is %+v, flows add up to %+v", k, counted[k], want)
		}
	}
	return connections, bytes
}

// exact fails unless the store has each record once.
func (s *site) exact() {
	s.t.Helper()
	s.settled()
	connections, bytes := s.stored()
	if connections != s.source.sent || bytes != s.source.bytes {
		s.t.Errorf("%d records of %d bytes are stored; %d of %d were sent", connections, bytes, s.source.sent, s.source.bytes)
	}
	if l := s.spool.Level(); l.Full != 0 || l.Damaged != 0 {
		s.t.Errorf("spool %+v", l)
	}
}

// TestKilledBetweenInsertAndAnswer withholds the answer of an insert, kills the
// engine, and starts it again on the same data: 50 times. Every other time it
// waits until the rows are there before it kills.
func TestKilledBetweenInsertAndAnswer(t *testing.T) {
	s := newSite(t, t.TempDir())
	s.source.send(10)
	had := 0
	connections := func() uint64 {
		sum, err := s.direct.Summary(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return sum.Connections
	}
	for round := range 50 {
		s.settled()
		before := connections()
		armed := s.door.arm(20_000)
		s.source.send(3000)
		select {
		case <-armed:
		case <-time.After(20 * time.Second):
			t.Fatalf("round %d: nothing is inserted", round)
		}
		if round%2 == 0 {
			s.until("the insert is done", func() bool { return connections() > before })
		}
		if connections() > before {
			had++
		}
		s.kill()
		s.door.disarm()
		s.begin()
	}
	s.exact()
	t.Logf("%d records; %d of 50 inserts were done when the engine was killed", s.source.sent, had)
	if had < 20 {
		t.Errorf("only %d inserts were done before the kill", had)
	}
}

// TestOutages leaves the engine alone, and closes the way to it.
func TestOutages(t *testing.T) {
	s := newSite(t, t.TempDir())
	spooled := func() bool { return s.spool.Level().Records > 0 }
	t.Run("answers lost", func(*testing.T) {
		for range 50 {
			armed := s.door.arm(20_000)
			s.source.send(3000)
			<-armed
			s.door.disarm()
		}
		s.exact()
	})
	t.Run("stalled", func(*testing.T) {
		letGo := s.door.hold()
		s.source.send(30_000)
		s.until("records go to the spool", spooled)
		s.source.send(30_000)
		s.until("the ring is empty", func() bool { return s.source.left() == 0 })
		letGo()
		s.exact()
	})
	t.Run("refusing", func(t *testing.T) {
		s.door.shut()
		s.source.send(30_000)
		s.until("records go to the spool", spooled)
		s.door.listen(t)
		s.source.send(1000)
		s.exact()
	})
	t.Run("for too long", func(t *testing.T) {
		s.door.shut()
		for range 10 {
			s.source.send(30_000)
			s.until("the ring is empty", func() bool { return s.source.left() == 0 })
		}
		dropped := s.spool.Level().Full
		if dropped == 0 || dropped > 250_000 {
			t.Fatalf("%d were dropped: %+v", dropped, s.spool.Level())
		}
		s.door.listen(t)
		s.settled()
		dropped = s.spool.Level().Full
		if connections, _ := s.stored(); connections != s.source.sent-dropped {
			t.Errorf("%d are stored, %d were sent and %d dropped", connections, s.source.sent, dropped)
		}
		s.until("the gap is told of", func() bool {
			list, err := s.direct.Coverage(t.Context(), time.Now().Add(-time.Hour), time.Now().Add(time.Minute))
			return err == nil && len(list) == 1 && list[0].Dropped == dropped
		})
		t.Logf("%d sent, %d dropped", s.source.sent, dropped)
	})
}

// TestDiskFull lets the engine's disk run full.
func TestDiskFull(t *testing.T) {
	dir, err := os.MkdirTemp("", "rf-outage-")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=96m"); err != nil {
		t.Fatalf("this test needs root: %v", errors.Join(err, os.Remove(dir)))
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	s := newSite(t, filepath.Join(dir, "engine"))
	s.source.send(5000)
	s.exact()
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	s.source.send(30_000)
	s.until("records go to the spool", func() bool { return s.spool.Level().Records > 20_000 && s.source.left() == 0 })
	if err := errors.Join(f.Close(), os.Remove(filler)); err != nil {
		t.Fatal(err)
	}
	s.exact()
}
