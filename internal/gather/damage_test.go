package gather

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
	"github.com/ringfence/ringfence/internal/statefile"
	"github.com/ringfence/ringfence/test/disk"
)

// damaged returns raw cut at every byte, and with every byte flipped.
func damaged(raw []byte) (out [][]byte) {
	for i := range raw {
		flipped := slices.Clone(raw)
		flipped[i] ^= 1 << (i % 8)
		out = append(out, raw[:i], flipped)
	}
	return append(out, append(slices.Clone(raw), 0))
}

// threeGroups fills dir with groups of which the second has two nodes' batches
// and coverage, and returns its files.
func threeGroups(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	d := newDirectory(t, dir)
	for i, nodes := range [][]string{{"node-1"}, {"node-1", "node-2", "node-1"}, {"node-3"}} {
		n := note{At: t0, Coverage: []call{heartbeat(nodes[0], i)}}
		var rows []flow.Labelled
		for j, node := range nodes {
			b := batch(node, 10*i+j)
			at := t0.Add(time.Duration(j) * time.Minute)
			n.Members = append(n.Members, member{Token: b.Token, Records: rowsOfABatch, Start: at, End: at.Add(time.Second)})
			rows = append(rows, b.Rows...)
		}
		if err := d.put(n, rows); err != nil {
			t.Fatal(err)
		}
	}
	whole := map[string][]byte{}
	for _, path := range files(t, dir, "*") {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		whole[path] = raw
	}
	return whole
}

func restore(t *testing.T, dir string, whole map[string][]byte) {
	t.Helper()
	remove(t, dir, "*")
	for path, raw := range whole {
		write(t, path, raw)
	}
}

// A group that is cut or flipped at any byte is refused whole; what it lost is
// told of exactly its nodes, the coverage in it is kept, and its batches are not
// taken again: they are counted as lost.
func TestDamagedGroup(t *testing.T) {
	dir := disk.New(t, "10m") // thousands of synced writes would take their time elsewhere
	whole := threeGroups(t, dir)
	path := filepath.Join(dir, "2.group")
	want := []flow.Coverage{
		{Kind: flow.CoverageDropped, Node: "node-1", Start: t0, End: t0.Add(2*time.Minute + time.Second), Dropped: 2 * rowsOfABatch},
		{Kind: flow.CoverageDropped, Node: "node-2", Start: t0.Add(time.Minute), End: t0.Add(time.Minute + time.Second), Dropped: rowsOfABatch},
	}
	for i, raw := range append(damaged(whole[path]), nil) {
		restore(t, dir, whole)
		if write(t, path, raw); raw == nil { // it is gone
			remove(t, dir, "2.group")
		}
		m := newMemory()
		g := run(t, quick(dir), m)
		g.empty(m)
		if i%50 == 0 {
			g.stop()
			g = run(t, quick(dir), m)
			g.take("node-1", 0, 10, 12)
			g.take("node-2", 11)
			g.empty(m)
		}
		g.stop()
		m.once(t, map[string][]int{"node-1": {0}, "node-3": {20}})
		if got := m.dropped(); !slices.Equal(got, want) {
			t.Fatalf("damage %d: dropped %+v", i, got)
		}
		if len(m.coverage) != 3+len(want) {
			t.Fatalf("damage %d: coverage %+v", i, m.coverage)
		}
	}
	// A crash between what tells of the loss and the damaged group's removal.
	restore(t, dir, whole)
	write(t, path, nil)
	d := newDirectory(t, dir)
	if err := d.done(d.groups[0]); err != nil {
		t.Fatal(err)
	}
	n, err := d.readNote(2, noteSuffix)
	if err != nil {
		t.Fatal(err)
	}
	n.Lost, n.Members = n.lost(), nil
	if err := d.put(n, nil); err != nil {
		t.Fatal(err)
	}
	m := newMemory()
	g := run(t, quick(dir), m)
	g.empty(m)
	if got := m.dropped(); !slices.Equal(got, want) || testutil.ToFloat64(g.metrics.lost) != 3*rowsOfABatch {
		t.Errorf("dropped %+v", got)
	}
}

// Of a note that is damaged anywhere nothing is lost, as long as its group is
// whole.
func TestDamagedNote(t *testing.T) {
	dir := disk.New(t, "10m")
	whole := threeGroups(t, dir)
	path := filepath.Join(dir, "2.note")
	for i, raw := range damaged(whole[path]) {
		restore(t, dir, whole)
		write(t, path, raw)
		m := newMemory()
		g := run(t, quick(dir), m)
		if i%50 == 0 {
			g.empty(m)
			g.stop()
			g = run(t, quick(dir), m)
			g.take("node-1", 0, 10, 12)
			g.take("node-2", 11)
		}
		g.empty(m)
		g.stop()
		m.once(t, map[string][]int{"node-1": {0, 10, 12}, "node-2": {11}, "node-3": {20}})
		if len(m.dropped()) != 0 || len(m.coverage) != 3 {
			t.Fatalf("damage %d: coverage %+v", i, m.coverage)
		}
	}
}

// When both are damaged any node may have lost something of the day before, and
// so each is told of.
func TestDamagedGroupAndNote(t *testing.T) {
	dir := t.TempDir()
	threeGroups(t, dir)
	for _, name := range []string{"2.group", "2.note"} {
		write(t, filepath.Join(dir, name), []byte("garbage"))
	}
	m := newMemory()
	g := run(t, quick(dir), m)
	g.empty(m)
	m.once(t, map[string][]int{"node-1": {0}, "node-3": {20}})
	var nodes []string
	for _, c := range m.dropped() {
		nodes = append(nodes, c.Node)
		if c.End.Sub(c.Start) != spool.MaxSpan || time.Since(c.End) > time.Minute || c.Dropped == 0 {
			t.Errorf("dropped %+v", c)
		}
	}
	if !slices.Equal(nodes, []string{"node-1", "node-3"}) {
		t.Errorf("nodes %q", nodes)
	}
}

// Of what was accepted the version before is used when the last one is damaged,
// and without both everything still runs.
func TestDamagedState(t *testing.T) {
	dir, m := t.TempDir(), newMemory()
	g := run(t, quick(dir), m)
	var want []int
	for i := range 3 * foldAfter {
		g.take("node-1", i)
		want = append(want, i)
		g.empty(m)
	}
	g.stop()
	path := filepath.Join(dir, stateName)
	if left := files(t, dir, "*"); len(left) != 2 {
		t.Fatalf("left: %q", left)
	}
	write(t, path, []byte("garbage"))
	g = run(t, quick(dir), m)
	if known := g.dir.accepted.knows(t, tokenOf("node-1", 0xabc, 0, 200*foldAfter)); !known {
		t.Error("the version before is not used")
	}
	if n := testutil.ToFloat64(g.metrics.stateErrors); n != 1 {
		t.Errorf("%v errors", n)
	}
	g.take("node-1", 0, foldAfter)
	g.empty(m)
	g.stop()
	m.once(t, map[string][]int{"node-1": want})
	write(t, path+".prev", []byte("garbage"))
	g = run(t, quick(dir), m)
	g.take("node-1", 3*foldAfter)
	g.empty(m)
	g.stop()
	m.once(t, map[string][]int{"node-1": append(want, 3*foldAfter)})
	// A note of a stored group that is damaged harms no other.
	left := files(t, dir, "*.stored")
	write(t, left[0], []byte("garbage"))
	g = run(t, quick(dir), m)
	g.take("node-1", 3*foldAfter+1)
	g.empty(m)
	g.stop()
	m.once(t, map[string][]int{"node-1": append(want, 3*foldAfter, 3*foldAfter+1)})
	// Another version's is not taken for none.
	if err := statefile.Write(path, []byte(`{"next":7,"nodes":{},"more":1}`)); err != nil {
		t.Fatal(err)
	}
	other, err := New(quick(dir), m)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "remove it to go on without") {
		t.Errorf("got %v", err)
	}
}
