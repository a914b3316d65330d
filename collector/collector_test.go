package collector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// known is an Inventories that a test sets.
type known struct{ p atomic.Pointer[snapshot] }

func (k *known) Inventory() (*inventory.Index, time.Time) {
	if s := k.p.Load(); s != nil {
		return s.index, s.since
	}
	return nil, time.Time{}
}

// agent is everything around one collector process.
type agent struct {
	t     *testing.T
	dir   string
	ring  *ring
	sink  *sink
	path  *datapath
	known *known
	c     *Collector
}

func newAgent(t *testing.T) *agent {
	a := &agent{t: t, dir: t.TempDir(), ring: newRing(), sink: newSink(), path: &datapath{counters: map[string]uint64{}}, known: &known{}}
	a.known.p.Store(&snapshot{since: t0, index: world()})
	return a
}

// start begins a process and returns how to end it.
func (a *agent) start(change ...func(*Config)) (stop func() error) {
	a.t.Helper()
	cfg := Config{Node: "node-1", StateDir: a.dir, BatchRecords: 1000}
	for _, ch := range change {
		ch(&cfg)
	}
	c, err := New(cfg, Deps{
		Reader: a.ring.reader(), Datapath: a.path, Inventories: a.known, Sink: a.sink, Endpoints: func() int { return 3 },
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.c = c
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return func() error { cancel(); return <-done }
}

// numbered returns records that can be told apart by their source port.
func numbered(from, n int) []flow.Record {
	out := make([]flow.Record, n)
	for i := range out {
		out[i] = record(1, flow.Egress, "10.1.0.1", "10.1.0.2")
		out[i].SourcePort = uint16(from + i)
	}
	return out
}

// each fails unless the sink holds records 0 to n-1, each once and in order.
func (a *agent) each(n int) {
	a.t.Helper()
	rows := a.sink.rows()
	if len(rows) != n {
		a.t.Errorf("%d rows are stored, want %d", len(rows), n)
	}
	for i, r := range rows {
		if int(r.SourcePort) != i {
			a.t.Fatalf("row %d is record %d", i, r.SourcePort)
		}
	}
}

func stopped(t *testing.T, stop func() error) {
	t.Helper()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestStoresBySizeAndAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		stop := a.start()
		a.ring.write(numbered(0, 10)...)
		time.Sleep(249 * time.Millisecond)
		if n := len(a.sink.rows()); n != 0 {
			t.Errorf("%d rows before the batch is old enough", n)
		}
		time.Sleep(2 * time.Millisecond)
		a.each(10)
		if n := a.ring.left(); n != 0 {
			t.Errorf("%d records were not given back", n)
		}
		// A large batch does not wait.
		a.ring.write(numbered(10, 2500)...)
		time.Sleep(time.Millisecond)
		if n := len(a.sink.rows()); n < 2010 {
			t.Errorf("%d rows at once", n)
		}
		time.Sleep(time.Second)
		a.each(2510)
		a.sink.set(func() {
			for _, rows := range a.sink.flows {
				if len(rows) > 1100 {
					t.Errorf("a batch of %d", len(rows))
				}
			}
		})
		if token := a.sink.tokens()[0]; token != "node-1/abc/0-80" {
			t.Errorf("token %q", token)
		}
		if got := a.sink.rows()[0]; *got.Source != party("frontend") || *got.Dest != party("cart") || got.Node != "node-1" {
			t.Errorf("row %+v", got)
		}
		stopped(t, stop)
	})
}

func TestStoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		a.sink.err = errors.New("connection refused")
		stop := a.start()
		a.ring.write(numbered(0, 500)...)
		time.Sleep(time.Second)
		a.ring.write(numbered(500, 5000)...)
		time.Sleep(time.Minute)
		// Nothing more is read meanwhile: memory does not grow with the outage.
		if a.ring.readAhead() > 600 || a.ring.left() != 5500 {
			t.Errorf("%d records were read ahead, %d are left", a.ring.readAhead(), a.ring.left())
		}
		if n := a.sink.attempts(); n < 10 || n > 40 {
			t.Errorf("%d attempts in a minute", n)
		}
		a.sink.set(func() { a.sink.err = nil })
		time.Sleep(20 * time.Second)
		a.each(5500)
		if got := testutil.ToFloat64(a.c.metrics.retries); got < 10 {
			t.Errorf("%v retries counted", got)
		}
		stopped(t, stop)
	})
}

// The store has the batch, and its answer is lost.
func TestLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		a.sink.err, a.sink.lose = errors.New("connection reset"), true
		stop := a.start()
		a.ring.write(numbered(0, 300)...)
		time.Sleep(5 * time.Second)
		a.ring.write(numbered(300, 300)...)
		a.sink.set(func() { a.sink.err = nil })
		time.Sleep(10 * time.Second)
		a.each(600)
		stopped(t, stop)
	})
}

// Killed at any point between reading and giving back, the next process stores
// every record once. A process that hangs in the store and is ended with no time
// left is as good as killed.
func TestKilled(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*sink)
	}{
		{"before it was stored", func(s *sink) { s.err = errors.New("refused") }},
		{"after it was stored", func(s *sink) { s.err, s.lose = errors.New("reset"), true }},
		{"while it was stored", func(s *sink) { s.hang = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAgent(t)
				stop := a.start()
				a.ring.write(numbered(0, 50)...)
				time.Sleep(time.Second)
				a.sink.set(func() { c.spoil(a.sink) })
				a.ring.write(numbered(50, 70)...)
				time.Sleep(time.Second)
				stopped(t, stop)
				// More comes while no agent runs.
				a.ring.write(numbered(120, 80)...)
				a.sink.set(func() { a.sink.err, a.sink.lose, a.sink.hang = nil, false, false })
				stop = a.start()
				time.Sleep(time.Second)
				a.each(200)
				if n := testutil.ToFloat64(a.c.metrics.replayed); n != 70 {
					t.Errorf("%v records were replayed", n)
				}
				if !slices.Contains(a.sink.tokens(), "node-1/abc/400-960") {
					t.Errorf("tokens %q", a.sink.tokens())
				}
				stopped(t, stop)
			})
		})
	}
}

func TestLastRecordsAreStoredAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		stop := a.start(func(c *Config) { c.BatchAge = time.Hour })
		a.ring.write(numbered(0, 40)...)
		synctest.Wait()
		stopped(t, stop)
		a.each(40)
		if n := a.ring.left(); n != 0 {
			t.Errorf("%d records are left", n)
		}
		if c := a.sink.coverage; len(c) != 1 || c[0].Records != 40 {
			t.Errorf("coverage %+v", c)
		}
	})
}

func TestEndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		a.sink.hang = true
		stop := a.start(func(c *Config) { c.Flush = 2 * time.Second })
		a.ring.write(numbered(0, 40)...)
		time.Sleep(time.Second)
		began := time.Now()
		stopped(t, stop)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %s to end", took)
		}
	})
}

func TestWaitsForInventory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		a.known.p.Store(nil)
		stop := a.start()
		a.ring.write(numbered(0, 40)...)
		time.Sleep(time.Minute)
		if len(a.sink.rows()) != 0 || a.ring.left() != 40 {
			t.Errorf("%d rows without an inventory", len(a.sink.rows()))
		}
		a.known.p.Store(&snapshot{since: t0, index: world()})
		time.Sleep(time.Second)
		a.each(40)
		if r := a.sink.rows()[0]; *r.Source != party("frontend") {
			t.Errorf("source %+v", r.Source)
		}
		stopped(t, stop)
	})
}

func TestNewInventoryCountsFromItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		stop := a.start()
		a.ring.write(numbered(0, 1)...)
		time.Sleep(time.Second)
		a.known.p.Store(&snapshot{since: t0.Add(time.Hour), index: world(func(inv *inventory.Inventory) { inv.Workloads[1].Name = "basket" })})
		later := numbered(1, 2)
		later[1].Time, later[1].FirstSeen = t0.Add(2*time.Hour), t0.Add(2*time.Hour)
		a.ring.write(later...)
		time.Sleep(time.Second)
		var got []string
		for _, r := range a.sink.rows() {
			got = append(got, r.Dest.Workload.Name)
		}
		if !slices.Equal(got, []string{"cart", "cart", "basket"}) {
			t.Errorf("destinations %q", got)
		}
		stopped(t, stop)
	})
}

func TestTruncatedRecordsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		a.ring.records = numbered(0, 1)
		stop := a.start()
		synctest.Wait()
		stopped(t, stop)
		a.each(1)
		r := a.ring.reader()
		r.truncated = 4
		c, err := New(Config{Node: "node-1", StateDir: a.dir}, Deps{Reader: r, Datapath: a.path, Inventories: a.known, Sink: a.sink})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		a.ring.write(numbered(1, 1)...)
		time.Sleep(time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		a.each(2)
		if n := testutil.ToFloat64(c.metrics.truncated); n != 4 {
			t.Errorf("%v counted", n)
		}
		if last := a.sink.coverage[len(a.sink.coverage)-1]; last.Lost != 4 {
			t.Errorf("coverage %+v", last)
		}
	})
}

func TestRingThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		a.ring.err = errors.New("bad file descriptor")
		stop := a.start()
		time.Sleep(time.Second)
		if err := stop(); err == nil || !strings.Contains(err.Error(), "read ring: bad file descriptor") {
			t.Errorf("got %v", err)
		}
	})
}

func TestSweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		stop := a.start()
		time.Sleep(10*time.Second + time.Millisecond)
		a.path.mu.Lock()
		if a.path.sweeps != 10 {
			t.Errorf("%d sweeps in 10 s", a.path.sweeps)
		}
		a.path.err = errors.New("no memory")
		a.path.mu.Unlock()
		time.Sleep(2 * time.Second)
		if n := testutil.ToFloat64(a.c.metrics.sweepErrors); n != 2 {
			t.Errorf("%v errors counted", n)
		}
		stopped(t, stop)
	})
}

func TestConfig(t *testing.T) {
	_, err := New(Config{BatchRecords: -1, Sweep: -1}, Deps{})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"node name", "state directory", "batch of -1", "sweep -1ns"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if _, err := New(Config{Node: "n", StateDir: "d"}, Deps{}); err == nil || !strings.Contains(err.Error(), "needs a reader") {
		t.Errorf("without dependencies: %v", err)
	}
	reg := prometheus.NewPedanticRegistry()
	a := newAgent(t)
	if _, err := New(Config{Node: "n", StateDir: "d", Registerer: reg}, Deps{Reader: a.ring.reader(), Datapath: a.path, Inventories: a.known, Sink: a.sink}); err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
	if c := (Config{}).withDefaults(); c.BatchRecords != 20_000 || c.BatchAge != 250*time.Millisecond {
		t.Errorf("defaults %s", fmt.Sprint(c.BatchRecords, c.BatchAge))
	}
}
