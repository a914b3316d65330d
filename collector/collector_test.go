package collector

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent is everything around one collector process.
type agent struct {
	t     *testing.T
	dir   string
	ring  *ring
	sink  *sink
	path  *datapath
	spool string // directory

	owners *inventory.Ownership
	c      *Collector
}

func newAgent(t *testing.T) *agent {
	a := &agent{t: t, dir: t.TempDir(), ring: newRing(), sink: newSink(), path: newDatapath(), owners: owners(t, snapshot{t0, world()})}
	a.spool = filepath.Join(a.dir, "spool")
	return a
}

// alone runs a test with an agent, in a time of its own.
func alone(t *testing.T, test func(t *testing.T, a *agent)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newAgent(t)) })
}

// start begins a process and returns how to end it.
func (a *agent) start(change ...func(*Config)) (stop func() error) {
	a.t.Helper()
	cfg := Config{Node: "node-1", StateDir: a.dir, BatchRecords: 1000}
	for _, ch := range change {
		ch(&cfg)
	}
	c, err := New(cfg, a.deps())
	if err != nil {
		a.t.Fatal(err)
	}
	a.c = c
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return func() error { cancel(); return <-done }
}

func (a *agent) deps() Deps {
	a.t.Helper()
	s, err := spool.Open(spool.Config{Dir: a.spool})
	if err != nil {
		a.t.Fatal(err)
	}
	return Deps{Reader: a.ring.reader(), Datapath: a.path, Owners: a.owners, Sink: a.sink, Spool: s}
}

// store makes the sink fail, or work again.
func (a *agent) store(err error) { a.sink.set(func() { a.sink.err = err }) }

// disk takes the spool's directory away, or gives it back.
func (a *agent) disk(there bool) {
	a.t.Helper()
	from, to := a.spool, a.spool+".away"
	if there {
		from, to = to, from
	}
	if err := os.Rename(from, to); err != nil {
		a.t.Fatal(err)
	}
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

// each fails unless the sink holds records 0 to n-1, each once.
func (a *agent) each(n int) {
	a.t.Helper()
	rows := a.sink.rows()
	slices.SortFunc(rows, func(a, b flow.Labelled) int { return int(a.SourcePort) - int(b.SourcePort) })
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
	alone(t, func(t *testing.T, a *agent) {
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
		if token := a.sink.tokens()[0]; token != "node-1/abc/0-80/000000000000002d" {
			t.Errorf("token %q", token)
		}
		if got := a.sink.rows()[0]; *got.Source != party("frontend") || *got.Dest != party("cart") || got.Node != "node-1" {
			t.Errorf("row %+v", got)
		}
		stopped(t, stop)
	})
}

// A store that is away for longer than patience lasts gets its batches from the
// spool, and what comes meanwhile does not stay in the ring.
func TestStoreAway(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		a.store(errors.New("connection refused"))
		stop := a.start()
		a.ring.write(numbered(0, 500)...)
		time.Sleep(4 * time.Second)
		if a.ring.left() != 500 {
			t.Errorf("%d records are left before patience ends", a.ring.left())
		}
		a.ring.write(numbered(500, 5000)...)
		time.Sleep(time.Minute)
		if a.ring.left() != 0 || a.c.deps.Spool.Level().Records != 5500 {
			t.Errorf("%d records are left in the ring, %d in the spool", a.ring.left(), a.c.deps.Spool.Level().Records)
		}
		if a.ring.readAhead() > 1100 {
			t.Errorf("%d records were read ahead", a.ring.readAhead())
		}
		if n := a.sink.attempts(); n < 10 || n > 60 {
			t.Errorf("%d attempts in a minute", n)
		}
		a.store(nil)
		time.Sleep(20 * time.Second)
		a.each(5500)
		// And then past the spool again.
		a.ring.write(numbered(5500, 10)...)
		time.Sleep(time.Second)
		a.each(5510)
		if got := testutil.ToFloat64(a.c.metrics.spooled); got != 5500 {
			t.Errorf("%v spooled", got)
		}
		if l := a.c.deps.Spool.Level(); l != (spool.Level{}) {
			t.Errorf("spool %+v", l)
		}
		stopped(t, stop)
		waiting := uint64(0)
		for _, c := range a.sink.coverage {
			waiting = max(waiting, c.Spooled)
		}
		if waiting != 5500 {
			t.Errorf("coverage says that %d waited", waiting)
		}
	})
}

// With neither store nor disk, records wait in the ring, as many as it holds.
func TestStoreAndDiskAway(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		a.store(errors.New("connection refused"))
		stop := a.start()
		synctest.Wait()
		a.disk(false)
		a.ring.write(numbered(0, 5500)...)
		time.Sleep(time.Minute)
		if a.ring.readAhead() > 1100 || a.ring.left() != 5500 {
			t.Errorf("%d records were read ahead, %d are left", a.ring.readAhead(), a.ring.left())
		}
		a.disk(true)
		time.Sleep(time.Minute)
		if a.ring.left() != 0 {
			t.Errorf("%d records are left with the disk back", a.ring.left())
		}
		a.store(nil)
		time.Sleep(20 * time.Second)
		a.each(5500)
		if got := testutil.ToFloat64(a.c.metrics.spoolErrors); got < 1 {
			t.Errorf("%v spool errors counted", got)
		}
		stopped(t, stop)
	})
}

// A spool that cannot be used keeps nothing from a store that is back.
func TestDiskAwayStoreBack(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		a.store(errors.New("connection refused"))
		stop := a.start()
		a.ring.write(numbered(0, 100)...)
		time.Sleep(20 * time.Second)
		a.disk(false)
		a.store(nil)
		a.ring.write(numbered(100, 100)...)
		time.Sleep(20 * time.Second)
		if a.ring.left() != 0 || len(a.sink.rows()) != 100 {
			t.Errorf("%d records are left in the ring, %d are stored", a.ring.left(), len(a.sink.rows()))
		}
		a.disk(true)
		time.Sleep(20 * time.Second)
		a.each(200)
		stopped(t, stop)
	})
}

// While the spool is emptied, live batches are stored at once.
func TestCatchingUp(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		a.store(errors.New("connection refused"))
		stop := a.start()
		a.ring.write(numbered(0, 30_000)...)
		time.Sleep(time.Minute)
		backlog := a.c.deps.Spool.Level().Batches
		a.sink.set(func() { a.sink.err, a.sink.takes = nil, 500*time.Millisecond })
		time.Sleep(10 * time.Second)
		before := a.c.deps.Spool.Level().Batches
		a.ring.write(numbered(30_000, 10)...)
		time.Sleep(time.Second)
		live := false
		for _, r := range a.sink.rows() {
			live = live || r.SourcePort == 30_009
		}
		after := a.c.deps.Spool.Level().Batches
		if !live || after == 0 || after == before || before == backlog {
			t.Errorf("of %d batches %d were left when a live record came, %d a second later; it was stored: %v", backlog, before, after, live)
		}
		time.Sleep(time.Minute)
		a.each(30_010)
		stopped(t, stop)
	})
}

// What a process left in the spool, the next one stores, also when it was killed
// between the insert and the file's removal, or between the spool and the ring.
func TestKilledWithASpool(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		a.sink.err, a.sink.lose = errors.New("reset"), true
		stop := a.start()
		a.ring.write(numbered(0, 50)...)
		time.Sleep(10 * time.Second) // in the spool, and stored without an answer
		a.ring.write(numbered(50, 70)...)
		time.Sleep(time.Second)
		stopped(t, stop)
		if a.ring.left() != 0 {
			t.Errorf("%d records are left", a.ring.left())
		}
		// The second batch was not yet given back to the ring.
		a.ring.consumed = 50 * width
		a.store(nil)
		stop = a.start()
		a.ring.write(numbered(120, 30)...)
		time.Sleep(10 * time.Second)
		a.each(150)
		// What is in the spool is not sent once more from the ring.
		if n := testutil.ToFloat64(a.c.metrics.stored); n != 150 {
			t.Errorf("%v were stored, the second time", n)
		}
		stopped(t, stop)
	})
}

// What the spool gives up is told of, once, also by another process.
func TestDroppedIsCoverage(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		a.store(errors.New("refused"))
		began := time.Now()
		stop := a.start()
		records := numbered(0, 40)
		for i := range records {
			records[i].Time = began
		}
		a.ring.write(records...)
		time.Sleep(10 * time.Second)
		stopped(t, stop)
		files, err := filepath.Glob(filepath.Join(a.spool, "*.batch"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		if err := os.Truncate(files[0], 100); err != nil {
			t.Fatal(err)
		}
		a.sink.set(func() { a.sink.lose = true })
		stop = a.start()
		time.Sleep(10 * time.Second)
		stopped(t, stop)
		a.store(nil)
		stop = a.start()
		a.ring.write(numbered(0, 3)...)
		time.Sleep(10 * time.Second)
		stopped(t, stop)
		a.each(3)
		var dropped []flow.Coverage
		for _, c := range a.sink.coverage {
			if c.Kind == flow.CoverageDropped {
				dropped = append(dropped, c)
			}
		}
		if len(dropped) != 1 || dropped[0].Dropped != 40 || dropped[0].Node != "node-1" || !dropped[0].Start.Equal(began) || !dropped[0].End.Equal(began) {
			t.Errorf("dropped: %+v", dropped)
		}
	})
}

// refusal is what a Sink says of a batch that it will never take.
type refusal struct{}

func (refusal) Error() string { return "too large" }
func (refusal) Refused() bool { return true }

// What nobody will ever take holds nothing up: it is given up, and told of.
func TestRefusedBatchIsGivenUp(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		a.store(refusal{})
		stop := a.start()
		a.ring.write(numbered(100, 40)...)
		time.Sleep(20 * time.Second)
		if l := a.c.deps.Spool.Level(); l.Refused != 40 || l.Batches != 0 {
			t.Errorf("spool %+v", l)
		}
		a.store(nil)
		a.ring.write(numbered(0, 30)...)
		time.Sleep(20 * time.Second)
		stopped(t, stop)
		a.each(30)
		dropped := uint64(0)
		for _, c := range a.sink.coverage {
			dropped += c.Dropped
		}
		if dropped != 40 {
			t.Errorf("%d records are told of as dropped, want 40", dropped)
		}
	})
}

// The store has the batch, and its answer is lost.
func TestLostAnswer(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		a.sink.err, a.sink.lose = errors.New("connection reset"), true
		stop := a.start()
		a.ring.write(numbered(0, 300)...)
		time.Sleep(5 * time.Second)
		a.ring.write(numbered(300, 300)...)
		a.store(nil)
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
			alone(t, func(t *testing.T, a *agent) {
				stop := a.start()
				a.ring.write(numbered(0, 50)...)
				time.Sleep(time.Second)
				a.sink.set(func() { c.spoil(a.sink) })
				a.disk(false) // else it would be spooled at the end
				a.ring.write(numbered(50, 70)...)
				time.Sleep(time.Second)
				stopped(t, stop)
				a.disk(true)
				// More comes while no agent runs.
				a.ring.write(numbered(120, 80)...)
				a.sink.set(func() { a.sink.err, a.sink.lose, a.sink.hang = nil, false, false })
				stop = a.start()
				time.Sleep(time.Second)
				a.each(200)
				if n := testutil.ToFloat64(a.c.metrics.replayed); n != 70 {
					t.Errorf("%v records were replayed", n)
				}
				if !slices.Contains(a.sink.tokens(), "node-1/abc/400-960/000000000000171b") {
					t.Errorf("tokens %q", a.sink.tokens())
				}
				stopped(t, stop)
			})
		})
	}
}

func TestLastRecordsAreStoredAtTheEnd(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
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
	alone(t, func(t *testing.T, a *agent) {
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
	alone(t, func(t *testing.T, a *agent) {
		a.owners = owners(t)
		stop := a.start()
		a.ring.write(numbered(0, 40)...)
		time.Sleep(time.Minute)
		if len(a.sink.rows()) != 0 || a.ring.left() != 40 {
			t.Errorf("%d rows without an inventory", len(a.sink.rows()))
		}
		a.owners.Learn(world(), t0)
		time.Sleep(time.Second)
		a.each(40)
		if r := a.sink.rows()[0]; *r.Source != party("frontend") {
			t.Errorf("source %+v", r.Source)
		}
		stopped(t, stop)
	})
}

func TestNewInventoryCountsFromItsTime(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		stop := a.start()
		a.ring.write(numbered(0, 1)...)
		time.Sleep(time.Second)
		a.owners.Learn(world(func(inv *inventory.Inventory) { inv.Workloads[1].Name = "basket" }), t0.Add(time.Hour))
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
	alone(t, func(t *testing.T, a *agent) {
		a.ring.records = numbered(0, 1)
		stop := a.start()
		synctest.Wait()
		stopped(t, stop)
		a.each(1)
		deps, r := a.deps(), a.ring.reader()
		r.truncated, deps.Reader = 4, r
		c, err := New(Config{Node: "node-1", StateDir: a.dir}, deps)
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
	alone(t, func(t *testing.T, a *agent) {
		a.ring.err = errors.New("bad file descriptor")
		stop := a.start()
		time.Sleep(time.Second)
		if err := stop(); err == nil || !strings.Contains(err.Error(), "read ring: bad file descriptor") {
			t.Errorf("got %v", err)
		}
	})
}

func TestSweeps(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
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
	if _, err := New(Config{Node: "n", StateDir: "d", Registerer: reg}, a.deps()); err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
	if c := (Config{}).withDefaults(); c.BatchRecords != 20_000 || c.BatchAge != 250*time.Millisecond || c.SmallRecords != 20 || c.SmallAge != 10*time.Second {
		t.Errorf("defaults %s", fmt.Sprint(c.BatchRecords, c.BatchAge, c.SmallRecords, c.SmallAge))
	}
}
