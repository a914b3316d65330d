package gather

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
	"github.com/ringfence/ringfence/test/disk"
)

// Batches of a moment are one insert, and nobody is answered before they are on
// disk.
func TestOneInsert(t *testing.T) {
	dir, m := t.TempDir(), newMemory()
	g := run(t, Config{Dir: dir, GroupRecords: 100 * rowsOfABatch}, m)
	var agents sync.WaitGroup
	want := map[string][]int{}
	for i := range 100 {
		node := fmt.Sprint("node-", i)
		want[node] = []int{i}
		agents.Go(func() {
			if err := g.Take(t.Context(), node, batch(node, i)); err != nil {
				t.Error(err)
			}
		})
	}
	agents.Wait()
	g.empty(m)
	m.once(t, want)
	if m.groups() != 1 || m.inserts != 1 {
		t.Errorf("%d groups in %d inserts", m.groups(), m.inserts)
	}
	// The next ones are other groups under other tokens.
	g.stop()
	g = run(t, quick(dir), m)
	g.take("node-0", 1, 2)
	g.empty(m)
	if m.groups() != 3 {
		t.Errorf("%d groups", m.groups())
	}
}

// A group goes when it is old enough, earlier when somebody waits for a denial,
// and at once when it has enough.
func TestWhenAGroupGoes(t *testing.T) {
	denied := func(o flow.Outcome) func(*spool.Batch) {
		return func(b *spool.Batch) { b.Rows[1].Outcome = o }
	}
	for _, c := range []struct {
		name   string
		change func(*spool.Batch)
		want   time.Duration
	}{
		{"plain", func(*spool.Batch) {}, time.Second},
		{"audited", denied(flow.OutcomeAudited), 500*time.Millisecond + 250*time.Millisecond},
		{"dropped", denied(flow.OutcomeDropped), 500*time.Millisecond + 250*time.Millisecond},
		{"enough", func(b *spool.Batch) {
			for len(b.Rows) < 40 {
				b.Rows = append(b.Rows, b.Rows...)
			}
		}, 500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				m := newMemory()
				m.told = make(chan struct{}, 100) // of this bubble
				g := run(t, Config{Dir: dir, GroupRecords: 40}, m)
				began := time.Now()
				var agents sync.WaitGroup
				took := make([]time.Duration, 2)
				for i := range 2 {
					agents.Go(func() {
						time.Sleep(time.Duration(i) * 500 * time.Millisecond)
						b := batch("node-1", i)
						if i == 1 {
							c.change(&b)
						}
						if err := g.Take(t.Context(), "node-1", b); err != nil {
							t.Error(err)
						}
						took[i] = time.Since(began)
					})
				}
				agents.Wait()
				if took[0] != c.want || took[1] != c.want {
					t.Errorf("answered after %v, want %s", took, c.want)
				}
				g.stop()
			})
		})
	}
}

// However often and whenever a batch is sent again, it is stored once.
func TestSentAgain(t *testing.T) {
	dir, m := t.TempDir(), newMemory()
	g := run(t, quick(dir), m)
	want := map[string][]int{}
	for i := range 300 {
		g.take("node-1", i)
		want["node-1"] = append(want["node-1"], i)
		if i%100 == 50 {
			g.stop()
			g = run(t, quick(dir), m)
		}
	}
	g.empty(m)
	g.take("node-1", 299, 0, 17, 150, 299)
	g.stop()
	g = run(t, quick(dir), m)
	g.take("node-1", 299, 0, 17, 150, 299)
	g.empty(m)
	m.once(t, want)
	if n := testutil.ToFloat64(g.metrics.repeated); n != 5 {
		t.Errorf("%v repeated", n)
	}
	if left := files(t, dir, "*"); len(left) >= foldAfter {
		t.Errorf("left: %q", left)
	}
}

// One that is sent again before its first answer is in one group.
func TestSentTwiceAtOnce(t *testing.T) {
	m := newMemory()
	g := run(t, Config{Dir: t.TempDir(), GroupAge: 50 * time.Millisecond}, m)
	var agents sync.WaitGroup
	for i := range 20 {
		agents.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%2 == 0 {
				time.AfterFunc(time.Millisecond, cancel) // who gives up does not take it out
			}
			if err := g.Take(ctx, "node-1", batch("node-1", 5)); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	agents.Wait()
	g.empty(m)
	m.once(t, map[string][]int{"node-1": {5}})
}

func TestRefused(t *testing.T) {
	reg := prometheus.NewRegistry()
	cfg := quick(t.TempDir())
	cfg.Registerer = reg
	m := newMemory()
	g := run(t, cfg, m)
	g.take("node-1", 1)
	b := func(change func(*spool.Batch)) spool.Batch {
		b := batch("node-1", 2)
		change(&b)
		return b
	}
	for name, b := range map[string]spool.Batch{
		"no token":           b(func(b *spool.Batch) { b.Token = "" }),
		"another token":      b(func(b *spool.Batch) { b.Token = "node-1/1" }),
		"another's token":    b(func(b *spool.Batch) { b.Token = batch("node-2", 2).Token }),
		"another's record":   b(func(b *spool.Batch) { b.Rows[2].Node = "node-2" }),
		"nobody's record":    b(func(b *spool.Batch) { b.Rows[0].Node = "" }),
		"no records":         b(func(b *spool.Batch) { b.Rows = nil }),
		"a part of a former": b(func(b *spool.Batch) { b.Token = tokenOf("node-1", 0xabc, 150, 250).String() }),
	} {
		err := g.Take(t.Context(), "node-1", b)
		if refused, ok := errors.AsType[*RefusedError](err); !ok || strings.Contains(refused.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	beat := func(change func([]flow.Coverage)) []flow.Coverage {
		c := append(heartbeat("node-1", 0), heartbeat("node-1", 1)...)
		change(c)
		return c
	}
	for name, c := range map[string][]flow.Coverage{
		"none":       nil,
		"another's":  beat(func(c []flow.Coverage) { c[1].Node = "node-2" }),
		"nobody's":   beat(func(c []flow.Coverage) { c[0].Node, c[1].Node = "", "" }),
		"two kinds":  beat(func(c []flow.Coverage) { c[1].Kind = flow.CoverageAttach }),
		"impossible": beat(func(c []flow.Coverage) { c[0].End = time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC) }),
	} {
		err := g.TakeCoverage(t.Context(), "node-1", c)
		if refused, ok := errors.AsType[*RefusedError](err); !ok || strings.Contains(refused.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	g.empty(m)
	m.once(t, map[string][]int{"node-1": {1}})
	if n := testutil.ToFloat64(g.metrics.refused.WithLabelValues(reasonWrong)); n != 12 {
		t.Errorf("%v refused", n)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// While the store is away batches wait; beyond the room for that they are
// refused and later taken, and nothing is given up.
func TestFull(t *testing.T) {
	dir, m := t.TempDir(), newMemory()
	m.refuse = true
	small := func(g *Gatherer) { g.dir.cfg.MaxBytes = 5000 }
	cfg := quick(dir)
	cfg.GroupRecords, cfg.GroupAge, cfg.DenialAge = rowsOfABatch, time.Hour, time.Hour
	g := run(t, cfg, m, small)
	want := map[string][]int{}
	took := 0
	var err error
	for ; err == nil; took++ {
		if took > 100 {
			t.Fatal("it is never full")
		}
		want["node-1"] = append(want["node-1"], took)
		err = g.Take(t.Context(), "node-1", batch("node-1", took))
	}
	if !errors.Is(err, ErrFull) || took < 3 {
		t.Fatalf("the batch of number %d: %v", took, err)
	}
	few := batch("node-2", 1)
	few.Rows = few.Rows[:1]
	for range 3 { // at once, while nothing changes
		if err := g.Take(t.Context(), "node-2", few); !errors.Is(err, ErrFull) {
			t.Errorf("got %v", err)
		}
	}
	if l := g.Level(); l.Bytes > 5000 || l.Groups != took-1 || l.Records != uint64(rowsOfABatch*(took-1)) {
		t.Errorf("level %+v", l)
	}
	if g.Problem() == nil {
		t.Error("no problem")
	}
	// Also the next process has no room.
	g.stop()
	g = run(t, quick(dir), m, small)
	if err := g.Take(t.Context(), "node-2", batch("node-2", 1)); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	m.set(func() { m.refuse = false })
	g.empty(m)
	g.take("node-1", took-1)
	g.take("node-2", 1)
	want["node-2"] = []int{1}
	g.empty(m)
	m.once(t, want)
	if err := g.Problem(); err != nil {
		t.Error(err)
	}
}

// Coverage takes room as records do.
func TestFullOfCoverage(t *testing.T) {
	m := newMemory()
	m.refuse = true
	cfg := quick(t.TempDir())
	cfg.GroupRecords = 1
	g := run(t, cfg, m, func(g *Gatherer) { g.dir.cfg.MaxBytes = 5000 })
	took := 0
	for err := error(nil); !errors.Is(err, ErrFull); took++ {
		if err != nil || took > 100 {
			t.Fatalf("row %d: %v", took, err)
		}
		err = g.TakeCoverage(t.Context(), "node-1", heartbeat("node-1", took))
	}
	m.set(func() { m.refuse = false })
	g.empty(m)
	if len(m.coverage) != took-1 || took < 3 {
		t.Errorf("%d rows are stored, %d were taken", len(m.coverage), took-1)
	}
}

// Without room on the disk batches are refused, nothing half of them stays, and
// they are taken when there is room again.
func TestDiskFull(t *testing.T) {
	dir := disk.New(t, "256k")
	m := newMemory()
	g := run(t, quick(dir), m)
	g.take("node-1", 0)
	g.empty(m)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 256<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	for range 3 {
		if err := g.Take(t.Context(), "node-1", batch("node-1", 1)); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("got %v", err)
		}
	}
	if n := testutil.ToFloat64(g.metrics.refused.WithLabelValues(reasonDisk)); n != 3 {
		t.Errorf("%v refused", n)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	g.take("node-1", 1)
	g.empty(m)
	g.stop()
	g = run(t, quick(dir), m)
	g.take("node-1", 0, 1, 2)
	g.empty(m)
	m.once(t, map[string][]int{"node-1": {0, 1, 2}})
}

// Heartbeats of many nodes are one insert, and sent again they are stored once,
// whatever they were grouped with.
func TestCoverage(t *testing.T) {
	dir, m := t.TempDir(), newMemory()
	g := run(t, Config{Dir: dir, GroupRecords: 50}, m)
	var agents sync.WaitGroup
	for i := range 50 {
		node := fmt.Sprint("node-", i)
		agents.Go(func() {
			if err := g.TakeCoverage(t.Context(), node, heartbeat(node, 0)); err != nil {
				t.Error(err)
			}
		})
	}
	agents.Wait()
	g.empty(m)
	if m.inserts != 1 || len(m.coverage) != 50 {
		t.Errorf("%d rows in %d inserts", len(m.coverage), m.inserts)
	}
	g.stop()
	g = run(t, quick(dir), m)
	take := func(rows []flow.Coverage) {
		t.Helper()
		if err := g.TakeCoverage(t.Context(), rows[0].Node, rows); err != nil {
			t.Error(err)
		}
	}
	gap := []flow.Coverage{{Kind: flow.CoverageAttach, Node: "node-1", Start: t0, End: t0.Add(time.Hour), Endpoint: "x"}}
	m.set(func() { m.lose = true })
	take(heartbeat("node-1", 0)) // its answer was lost
	take(heartbeat("node-1", 1))
	take(gap)
	g.stop()
	m.set(func() { m.lose = false })
	// Now with others; the group before is stored, and the one of before that.
	g = run(t, Config{Dir: dir, GroupAge: 50 * time.Millisecond}, m)
	for _, rows := range [][]flow.Coverage{heartbeat("node-1", 1), gap, heartbeat("node-2", 1), heartbeat("node-3", 1)} {
		agents.Go(func() { take(rows) })
	}
	agents.Wait()
	take(heartbeat("node-1", 2))
	g.take("node-1", 1)
	g.empty(m)
	if len(m.coverage) != 55 {
		t.Errorf("%d rows of coverage", len(m.coverage))
	}
	m.once(t, map[string][]int{"node-1": {1}})
}

// Run's end writes what was taken, and lets nothing more in.
func TestShutdown(t *testing.T) {
	dir, m := t.TempDir(), newMemory()
	m.refuse = true
	g := run(t, Config{Dir: dir, GroupAge: time.Hour, DenialAge: time.Hour}, m)
	answer := make(chan error, 1)
	go func() { answer <- g.Take(t.Context(), "node-1", batch("node-1", 1)) }()
	for in := false; !in; {
		g.mu.Lock()
		in = g.open.size > 0
		g.mu.Unlock()
	}
	g.stop()
	if err := <-answer; err != nil {
		t.Error(err)
	}
	if err := g.Take(t.Context(), "node-1", batch("node-1", 2)); !errors.Is(err, ErrStopped) {
		t.Errorf("got %v", err)
	}
	m.set(func() { m.refuse = false })
	g = run(t, quick(dir), m)
	g.empty(m)
	m.once(t, map[string][]int{"node-1": {1}})
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{MaxBytes: 1, GroupRecords: -1, Insert: -1}, newMemory()); err == nil ||
		!strings.Contains(err.Error(), "directory: missing") || !strings.Contains(err.Error(), "want at least 67108864") ||
		!strings.Contains(err.Error(), "group of -1 records") || !strings.Contains(err.Error(), "insert -1ns") {
		t.Errorf("got %v", err)
	}
	if _, err := New(Config{Dir: "x"}, nil); err == nil {
		t.Error("no sink is a sink")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := New(Config{Dir: file}, newMemory())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err == nil {
		t.Error("a file is taken for a directory")
	}
	if err := g.Take(t.Context(), "node-1", batch("node-1", 1)); !errors.Is(err, ErrStopped) {
		t.Errorf("got %v", err)
	}
}

// The members of a group share parties, and IPv4 and IPv6 come back as they were.
func TestGroupRoundTrip(t *testing.T) {
	n := noteOf(tokenOf("node-1", 1, 0, 8), tokenOf("node-2", 1, 0, 8))
	n.Members[0].Records, n.Members[1].Records = rowsOfABatch, rowsOfABatch
	rows := slices.Concat(batch("node-1", 1).Rows, batch("node-2", 1).Rows)
	rows[0].Source, rows[0].Key.Source = flow.Nobody, netip.MustParseAddr("fe80::1")
	noted, err := n.encode()
	if err != nil {
		t.Fatal(err)
	}
	raw := encodeGroup(noted, rows)
	got, b, err := decodeGroup(raw)
	if err != nil || !reflect.DeepEqual(got, n) || len(b.Rows) != len(rows) {
		t.Fatalf("%+v, %d rows, %v", got, len(b.Rows), err)
	}
	for i := range rows {
		if b.Rows[i].Node != rows[i].Node || b.Rows[i].Key != rows[i].Key || *b.Rows[i].Source != *rows[i].Source {
			t.Errorf("row %d: %+v", i, b.Rows[i])
		}
	}
	for i := range raw {
		if _, _, err := decodeGroup(raw[:i]); err == nil {
			t.Fatalf("%d of %d bytes are a group", i, len(raw))
		}
	}
}

func FuzzDecodeGroup(f *testing.F) {
	n := noteOf(tokenOf("node-1", 1, 0, 8))
	n.Members[0].Records = rowsOfABatch
	n.Coverage, n.Lost = []call{heartbeat("node-1", 1)}, heartbeat("node-2", 1)
	noted, err := n.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encodeGroup(noted, batch("node-1", 1).Rows))
	f.Add(noted)
	f.Add(append([]byte{2, '{', '}'}, spool.Encode(nil, spool.Batch{})...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, decode := range []func() (note, error){
			func() (note, error) { n, _, err := decodeGroup(raw); return n, err },
			func() (note, error) { return decodeNote(raw) },
		} {
			n, err := decode()
			if err != nil {
				continue
			}
			if err := newAccepted().add(n); err != nil {
				t.Error(err)
			}
			n.lost()
			n.rows()
		}
	})
}
