package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
	"github.com/ringfence/ringfence/internal/store"
)

// place is where an installation keeps its files; nothing is there.
func place(t *testing.T) storePlaces {
	t.Helper()
	t.Setenv(clickhouse.LibraryEnv, clickhousetest.Library(t))
	dir := t.TempDir()
	return storePlaces{layout: layout{StateDir: filepath.Join(dir, "state"), RuntimeDir: filepath.Join(dir, "run")}}
}

// site is what `up` holds while it runs.
type site struct {
	storePlaces
	engine *clickhouse.Engine
	store  *store.Store
	stop   func()
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{storePlaces: place(t)}
	must(t, s.create())
	c, err := control.Open(t.Context(), control.Config{Path: s.controlDB()}, control.Deps{})
	must(t, err)
	_, err = c.EnsureAdmin(t.Context())
	must(t, err)
	must(t, c.Close())
	s.begin(t)
	must(t, s.store.Migrate(t.Context()))
	return s
}

func (s *site) begin(t *testing.T) {
	t.Helper()
	unlock, err := s.takeLock()
	must(t, err)
	must(t, s.finishRestore())
	s.engine, err = clickhouse.New(clickhouse.Config{DataDir: s.engineDir(), Command: []string{engineCommand}, Database: database})
	must(t, err)
	must(t, s.engine.Start(t.Context()))
	s.store, err = accessTo(s.engine).open(t.Context(), nil)
	must(t, err)
	must(t, writeJSON(s.serverConfig(), serverConfig{layout: s.layout}))
	must(t, writeJSON(s.storeFile(), accessTo(s.engine)))
	s.stop = func() {
		_ = s.store.Close() // it may be closed, or its server dead
		_ = s.engine.Stop(context.Background())
		unlock()
		s.stop = func() {}
	}
	t.Cleanup(func() { s.stop() })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a command line on the places of p.
func (p storePlaces) run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), append(args, "--state-dir", p.StateDir, "--runtime-dir", p.RuntimeDir), &out, &errs)
	return code, out.String(), errs.String()
}

var backedUpAt = time.Now().UTC().Add(-time.Hour).Truncate(time.Microsecond)

func batch(sender, number int) []flow.Labelled {
	rows := make([]flow.Labelled, 100)
	for i := range rows {
		from := &flow.Party{Workload: testFrontend, Endpoint: "frontend-1", Labels: "app=frontend"}
		to := &flow.Party{Workload: testCart, Endpoint: "cart-1", Labels: "app=cart"}
		at := backedUpAt.Add(time.Duration(number*100+i) * time.Millisecond)
		rows[i] = flow.Labelled{
			Record: flow.Record{
				Key: flow.Key{
					Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddr("10.0.0.2"),
					SourcePort: uint16(number*100 + i), DestinationPort: uint16(80 + sender), Protocol: flow.TCP,
				},
				Event: flow.EventEnd, Direction: flow.Egress, Time: at, FirstSeen: at, Connections: 1,
				Forward: flow.Counters{Packets: 2, Bytes: 200}, Reverse: flow.Counters{Packets: 1, Bytes: 100}, Outcome: flow.OutcomeForwarded,
			},
			Node: fmt.Sprintf("node-%d", sender), Observer: from, Source: from, Dest: to,
		}
	}
	return rows
}

// reads is everything that the store and the control store answer.
func reads(t *testing.T, s *store.Store, controlDB string) map[string]any {
	t.Helper()
	out := map[string]any{}
	keep := func(name string, v any, err error) {
		t.Helper()
		must(t, err)
		doc, err := json.Marshal(v)
		must(t, err)
		out[name] = string(doc)
	}
	since, until := backedUpAt.Add(-time.Hour), backedUpAt.Add(time.Hour)
	edges, err := s.Edges(t.Context(), flow.EdgeFilter{Since: since, Until: until})
	keep("edges", edges, err)
	totals, err := s.Totals(t.Context(), flow.EdgeFilter{Since: since, Until: until})
	keep("totals", totals, err)
	coverage, err := s.Coverage(t.Context(), since, until)
	keep("coverage", coverage, err)
	stats, err := s.Stats(t.Context(), since)
	keep("stats", stats, err)
	summary, err := s.Summary(t.Context())
	keep("summary", summary, err)
	filter := query.Filter{Since: since, Until: until}
	facets, err := s.Facets(t.Context(), filter, 10)
	keep("facets", facets, err)
	var flows []query.Row
	page := query.Page{}
	for more := true; more; more = !page.Next.IsZero() {
		page, err = s.Flows(t.Context(), filter, page.Next, 1000)
		must(t, err)
		flows = append(flows, page.Rows...)
	}
	keep("flows", flows, nil)
	c, err := control.Open(t.Context(), control.Config{Path: controlDB}, control.Deps{})
	must(t, err)
	events, err := c.Events(t.Context(), control.EventFilter{})
	keep("events", events, err)
	must(t, c.Close())
	return out
}

func TestBackupAndRestore(t *testing.T) {
	s := newSite(t)
	must(t, s.store.InsertCoverage(t.Context(), []flow.Coverage{{Node: "node-0", Start: backedUpAt, End: backedUpAt.Add(time.Minute), Records: 9}}))
	var enough atomic.Bool
	var g errgroup.Group
	var sent atomic.Int64
	for sender := range 3 {
		g.Go(func() error {
			for i := 0; !enough.Load() && i < 600; i++ {
				for s.store.InsertFlows(t.Context(), fmt.Sprintf("node-%d/1/%d", sender, i), batch(sender, i)) != nil {
					time.Sleep(time.Millisecond)
				}
				sent.Add(1)
			}
			return nil
		})
	}
	for sent.Load() < 5 {
		time.Sleep(time.Millisecond)
	}
	during, after := filepath.Join(t.TempDir(), "during"), filepath.Join(t.TempDir(), "after")
	if code, _, stderr := s.run("store", "backup", during); code != 0 {
		t.Fatal(stderr)
	}
	enough.Store(true)
	must(t, g.Wait())
	if code, stdout, stderr := s.run("store", "backup", after); code != 0 || !strings.Contains(stdout, "flows") {
		t.Fatal(stdout, stderr)
	}
	want := reads(t, s.store, s.controlDB())
	for _, left := range []string{s.backupDir(), filepath.Join(s.engineDir(), "data", "shadow", "ringfence_*")} {
		if found, _ := filepath.Glob(left); len(found) > 0 {
			t.Errorf("left %q", found)
		}
	}
	if code, _, stderr := s.run("store", "restore", after, "--force"); code != 1 || !strings.Contains(stderr, "end `ringfence up` first") {
		t.Errorf("restore under a running up: %d %s", code, stderr)
	}

	// Gone in the middle of its work, with new batches that the backup has not.
	must(t, s.store.InsertFlows(t.Context(), "late", batch(9, 1)))
	must(t, unix.Kill(s.engine.PID(), unix.SIGKILL))
	s.stop()
	if code, _, stderr := s.run("store", "restore", after); code != 1 || !strings.Contains(stderr, "--force") {
		t.Errorf("restore over data: %d %s", code, stderr)
	}
	if code, _, stderr := s.run("store", "restore", after, "--force"); code != 0 {
		t.Fatal(stderr)
	}
	s.begin(t)
	for name, got := range reads(t, s.store, s.controlDB()) {
		if !reflect.DeepEqual(got, want[name]) {
			t.Errorf("%s after the restore:\n%.300s\nwant\n%.300s", name, got, want[name])
		}
	}
	// A batch that the backup has is not stored again; one that it has not is.
	before := countFlows(t, s.store)
	must(t, s.store.InsertFlows(t.Context(), "node-0/1/0", batch(0, 0)))
	for name, got := range reads(t, s.store, s.controlDB()) {
		if !reflect.DeepEqual(got, want[name]) {
			t.Errorf("%s after a batch was sent again:\n%.300s\nwant\n%.300s", name, got, want[name])
		}
	}
	must(t, s.store.InsertFlows(t.Context(), "late", batch(9, 1)))
	must(t, s.store.InsertFlows(t.Context(), "next", batch(9, 2))) // it goes on
	if n := countFlows(t, s.store); n != before+200 {
		t.Errorf("%d flows after two batches of 100, there were %d", n, before)
	}
	s.stop()

	// And onto another machine, what was caught while batches came in.
	other := place(t)
	if code, _, stderr := other.run("store", "restore", during); code != 0 {
		t.Fatal(stderr)
	}
	opened, err := other.open(t.Context())
	must(t, err)
	defer opened.close() //nolint:errcheck // the test is over
	stats, err := opened.Stats(t.Context(), backedUpAt.Add(-time.Hour))
	must(t, err)
	page, err := opened.Facets(t.Context(), query.Filter{Since: backedUpAt.Add(-time.Hour)}, 1)
	must(t, err)
	if len(stats) != 1 || stats[0].Connections == 0 || stats[0].Connections%100 != 0 || len(page) == 0 {
		t.Errorf("of a backup while batches came in: %+v, want whole batches of 100", stats)
	}
	if n := countFlows(t, opened.Store); n != stats[0].Connections {
		t.Errorf("%d flows and %d connections in edges", n, stats[0].Connections)
	}
}

func countFlows(t *testing.T, s *store.Store) uint64 {
	t.Helper()
	st, err := s.Status(t.Context(), time.Hour)
	must(t, err)
	for _, table := range st.Tables {
		if table.Name == "flows" {
			return table.Rows
		}
	}
	t.Fatal("no table flows")
	return 0
}

func TestBackupAtRest(t *testing.T) {
	s := newSite(t)
	must(t, s.store.InsertFlows(t.Context(), "a", batch(1, 1)))
	want := reads(t, s.store, s.controlDB())
	s.stop()
	file := filepath.Join(t.TempDir(), "b")
	if code, _, stderr := s.run("store", "backup", file); code != 0 {
		t.Fatal(stderr)
	}
	if code, _, stderr := s.run("store", "backup", file); code != 1 || !strings.Contains(stderr, "is there already") {
		t.Errorf("a backup over another: %d %s", code, stderr)
	}
	whole, err := os.ReadFile(file)
	must(t, err)
	other := place(t)
	for name, change := range map[string]func([]byte) []byte{
		"cut":     func(b []byte) []byte { return b[:len(b)-1] },
		"flipped": func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"empty":   func([]byte) []byte { return nil },
		"no":      func([]byte) []byte { return []byte("something else\n") },
	} {
		spoilt := filepath.Join(t.TempDir(), name)
		must(t, os.WriteFile(spoilt, change(bytes.Clone(whole)), 0o600))
		if code, _, stderr := other.run("store", "restore", spoilt, "--force"); code != 1 || !strings.Contains(stderr, "nothing of this one was used") {
			t.Errorf("%s backup: %d %s", name, code, stderr)
		}
		if left, _ := filepath.Glob(filepath.Join(other.StateDir, "*")); len(left) != 1 { // the lock
			t.Errorf("%s backup left %q", name, left)
		}
		if code, _, _ := s.run("store", "restore", spoilt, "--force"); code != 1 {
			t.Errorf("%s backup was taken", name)
		}
	}
	s.begin(t)
	if got := reads(t, s.store, s.controlDB()); !reflect.DeepEqual(got, want) {
		t.Error("a refused backup changed what was there")
	}
}

func TestRestoreThatWasCutOffIsFinished(t *testing.T) {
	p := place(t)
	must(t, p.create())
	for path, content := range map[string]string{
		p.controlDB(): "old", p.controlDB() + "-wal": "old", filepath.Join(p.engineDir(), "x"): "new", // moved already
		filepath.Join(p.restoredDir(), "control.db"): "new",
	} {
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte(content), 0o600))
	}
	for range 2 {
		must(t, p.finishRestore())
		b, err := os.ReadFile(p.controlDB())
		must(t, err)
		if _, err := os.Stat(p.controlDB() + "-wal"); err == nil || string(b) != "new" {
			t.Errorf("control.db is %q, -wal is there: %t", b, err == nil)
		}
		if _, err := os.Stat(filepath.Join(p.engineDir(), "x")); err != nil {
			t.Error(err)
		}
	}
}

func TestManifestOfANewerSchema(t *testing.T) {
	newest, err := store.NewestStep()
	must(t, err)
	tables := []store.SnapshotTable{{Name: "flows"}}
	for name, c := range map[string]struct {
		m    manifest
		want string
	}{
		"ours":      {manifest{Step: newest, Tables: tables}, ""},
		"older":     {manifest{Step: 1, Tables: tables}, ""},
		"newer":     {manifest{Step: newest + 1, Tables: tables}, "upgrade ringfence"},
		"no step":   {manifest{Tables: tables}, "upgrade ringfence"},
		"no tables": {manifest{Step: newest}, "no table flows"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.m.check(); (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestStoreStatus(t *testing.T) {
	s := newSite(t)
	must(t, s.store.InsertFlows(t.Context(), "a", batch(1, 1)))
	now := time.Now()
	beat := func(node string, c flow.Coverage) {
		c.Node, c.Start, c.End = node, now.Add(-5*time.Second), now
		must(t, s.store.InsertCoverage(t.Context(), []flow.Coverage{c}))
	}
	beat("node-1", flow.Coverage{Spooled: 1234})
	code, stdout, stderr := s.run("store", "status")
	if code != 0 || stderr != "" {
		t.Fatalf("code %d: %s", code, stderr)
	}
	for _, want := range []string{"SERVER", "flows ", "30 days", "node-1", "1,234"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	beat("node-2", flow.Coverage{Dropped: 5})
	code, stdout, stderr = s.run("store", "status", "-o", "json")
	var st store.Status
	must(t, json.Unmarshal([]byte(stdout), &st))
	if code != 1 || len(st.Problems) != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "node-2 gave up 5 records") {
		t.Errorf("code %d, problems %q, stderr %q", code, st.Problems, stderr)
	}
	s.stop()
	if code, stdout, stderr := s.run("store", "status"); code != 1 || !strings.Contains(stdout, "node-2") {
		t.Errorf("at rest: code %d\n%s\n%s", code, stdout, stderr)
	}
	for name, args := range map[string][]string{
		"nothing is stored":     {"store", "status"},
		"want at least 1m":      {"store", "status", "--since", "1s"},
		"such as 15m, 2h or 7d": {"store", "status", "--since", "3x"},
		"-o name":               {"store", "status", "-o", "name"},
		"refuses":               {"store", "status", "--clickhouse", "127.0.0.1:1"},
	} {
		if code, _, stderr := place(t).run(args...); code != 1 || !strings.Contains(stderr, name) {
			t.Errorf("%q: code %d, %s", args, code, stderr)
		}
	}
}
