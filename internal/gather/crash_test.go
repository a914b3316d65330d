package gather

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
)

// TestCrashPoints stops the clock of the disk at every point of a group's life,
// as a crash would, and begins anew from there: with what agents send again that
// were not answered, and that were, and their answer was lost.
func TestCrashPoints(t *testing.T) {
	for _, c := range []struct {
		name string
		// left makes of a directory with one written group what a crash left, and
		// says whether the group's batches had been answered.
		left     func(t *testing.T, dir string, m *memory)
		answered bool
	}{
		{"before anything is on disk", func(t *testing.T, dir string, _ *memory) { remove(t, dir, "*") }, false},
		{"within the writing of the group", func(t *testing.T, dir string, _ *memory) {
			remove(t, dir, "*.note")
			cut(t, dir, "1.group", "1.group.tmp")
		}, false},
		{"after the group, before the note", func(t *testing.T, dir string, _ *memory) { remove(t, dir, "*.note") }, false},
		{"within the writing of the note", func(t *testing.T, dir string, _ *memory) { cut(t, dir, "1.note", "1.note.tmp") }, false},
		{"after the note, before the answer", func(*testing.T, string, *memory) {}, false},
		{"after the answer", func(*testing.T, string, *memory) {}, true},
		{"within the insert, flows being there", func(t *testing.T, dir string, m *memory) {
			_, b, err := (&directory{cfg: Config{Dir: dir}}).read(1)
			if err != nil {
				t.Fatal(err)
			}
			m.flows[b.Token] = b.Rows
		}, true},
		{"after the insert", insertWhole, true},
		{"after it is marked as stored", func(t *testing.T, dir string, m *memory) {
			insertWhole(t, dir, m)
			rename(t, filepath.Join(dir, "1.note"), filepath.Join(dir, "1.stored"))
			m.forget()
		}, true},
		{"after the group is removed", func(t *testing.T, dir string, m *memory) {
			insertWhole(t, dir, m)
			rename(t, filepath.Join(dir, "1.note"), filepath.Join(dir, "1.stored"))
			remove(t, dir, "*.group")
		}, true},
		{"within the writing of what was accepted", func(t *testing.T, dir string, m *memory) {
			insertWhole(t, dir, m)
			fold(t, dir)
			cut(t, dir, stateName, stateName+".tmp")
		}, true},
		{"before notes are removed", func(t *testing.T, dir string, m *memory) {
			insertWhole(t, dir, m)
			fold(t, dir)
		}, true},
		{"after the note is removed", func(t *testing.T, dir string, m *memory) {
			insertWhole(t, dir, m)
			fold(t, dir)
			remove(t, dir, "1.stored")
		}, true},
	} {
		for _, again := range []bool{false, true} {
			if !again && !c.answered {
				continue // who has no answer sends again
			}
			t.Run(fmt.Sprintf("%s, sent again: %t", c.name, again), func(t *testing.T) {
				dir, m := t.TempDir(), newMemory()
				write := newDirectory(t, dir)
				n := noteOf()
				var rows []flow.Labelled
				want := map[string][]int{}
				for _, node := range []string{"node-1", "node-2"} {
					b := batch(node, 7)
					n.Members = append(n.Members, member{Token: b.Token, Records: rowsOfABatch, Start: t0, End: t0})
					n.Coverage = append(n.Coverage, heartbeat(node, 7))
					rows = append(rows, b.Rows...)
					want[node] = []int{7}
				}
				if err := write.put(n, rows); err != nil {
					t.Fatal(err)
				}
				c.left(t, dir, m)
				for range 2 { // the second process finds what the first one left
					g := run(t, quick(dir), m)
					if again {
						g.take("node-2", 7)
						g.take("node-1", 7)
						for _, node := range []string{"node-2", "node-1"} {
							if err := g.TakeCoverage(t.Context(), node, heartbeat(node, 7)); err != nil {
								t.Error(err)
							}
						}
					}
					g.empty(m)
					g.stop()
				}
				m.once(t, want)
				if len(m.coverage) != 2 {
					t.Errorf("coverage %+v", m.coverage)
				}
				if left := files(t, dir, "*.group*"); len(left) > 0 {
					t.Errorf("left: %q", left)
				}
			})
		}
	}
}

func newDirectory(t *testing.T, dir string) *directory {
	t.Helper()
	g, err := New(quick(dir), newMemory())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.dir.open(); err != nil {
		t.Fatal(err)
	}
	return g.dir
}

// insertWhole puts group 1 into the store, as if its answer had been lost.
func insertWhole(t *testing.T, dir string, m *memory) {
	t.Helper()
	n, b, err := (&directory{cfg: Config{Dir: dir}}).read(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.InsertFlows(t.Context(), b.Token, b.Rows), m.InsertCoverage(t.Context(), n.rows())); err != nil {
		t.Fatal(err)
	}
}

// fold marks the group as stored and writes accepted.state, and keeps the note.
func fold(t *testing.T, dir string) {
	t.Helper()
	d := newDirectory(t, dir)
	if err := d.done(d.groups[0]); err != nil {
		t.Fatal(err)
	}
	path := d.path(1, storedSuffix)
	note, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for len(d.stored) < foldAfter {
		d.stored = append(d.stored, 1)
	}
	if err := d.fold(t0); err != nil {
		t.Fatal(err)
	}
	if left := files(t, dir, "*"); len(left) != 1 {
		t.Fatalf("left: %q", left)
	}
	write(t, path, note)
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, pattern string) {
	t.Helper()
	for _, path := range files(t, dir, pattern) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// cut makes of a file one of another name that is half of it.
func cut(t *testing.T, dir, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, from))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, to), raw[:len(raw)/2])
	remove(t, dir, from)
}

func write(t *testing.T, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A note or a group that could not be written, and not be removed either, is not
// there when its batches are taken in another group.
func TestUnwritable(t *testing.T) {
	for _, suffix := range []string{groupSuffix, noteSuffix} {
		t.Run(suffix, func(t *testing.T) {
			dir, m := t.TempDir(), newMemory()
			m.refuse = true
			g := run(t, quick(dir), m)
			g.take("node-1", 0)
			// A directory where the file should go, or its scratch file, with
			// something in it.
			stone := filepath.Join(dir, "2"+suffix+".tmp")
			if err := os.MkdirAll(filepath.Join(stone, "x"), 0o700); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := g.Take(t.Context(), "node-1", batch("node-1", 1)); err == nil {
					t.Fatal("it was taken")
				}
			}
			if err := os.RemoveAll(stone); err != nil {
				t.Fatal(err)
			}
			g.take("node-1", 2, 1)
			g.stop()
			m.set(func() { m.refuse = false })
			g = run(t, quick(dir), m)
			g.take("node-1", 0, 1, 2)
			g.empty(m)
			m.once(t, map[string][]int{"node-1": {0, 1, 2}})
		})
	}
}

// What is left of a group that was not answered goes before another one has its
// number: a note of the one must not meet the rows of the other.
func TestLeftovers(t *testing.T) {
	dir, m := t.TempDir(), newMemory()
	d := newDirectory(t, dir)
	first := noteOf(tokenOf("node-1", 0xabc, 0, 100))
	first.Members[0].Records = rowsOfABatch
	if err := d.put(first, batch("node-1", 0).Rows); err != nil {
		t.Fatal(err)
	}
	// The files are there, and the disk said that they are not.
	d = &directory{cfg: d.cfg, metrics: d.metrics, accepted: newAccepted(), next: 1, unsure: true}
	stone := filepath.Join(dir, "1.note.tmp")
	if err := os.MkdirAll(filepath.Join(stone, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	second := noteOf(tokenOf("node-2", 0xabc, 0, 100))
	second.Members[0].Records = rowsOfABatch
	if err := d.put(second, batch("node-2", 0).Rows); err == nil {
		t.Fatal("it was put")
	}
	if err := os.RemoveAll(stone); err != nil {
		t.Fatal(err)
	}
	g := run(t, quick(dir), m)
	g.take("node-1", 0)
	g.take("node-2", 0)
	g.empty(m)
	m.once(t, map[string][]int{"node-1": {0}, "node-2": {0}})
}

func TestStrangers(t *testing.T) {
	dir := t.TempDir()
	threeGroups(t, dir)
	for _, name := range []string{"core", "0.group", "x.note", "4.group.old", "core.tmp", "4.note.tmp", stateName + ".tmp"} {
		write(t, filepath.Join(dir, name), []byte("?"))
	}
	m := newMemory()
	g := run(t, quick(dir), m)
	g.empty(m)
	g.stop()
	m.once(t, map[string][]int{"node-1": {0, 10, 12}, "node-2": {11}, "node-3": {20}})
	var left []string
	for _, path := range files(t, dir, "*") {
		left = append(left, filepath.Base(path))
	}
	if want := []string{"0.group", "1.stored", "2.stored", "3.stored", "4.group.old", "core", "core.tmp", "x.note"}; !slices.Equal(left, want) {
		t.Errorf("left: %q", left)
	}
}

// Numbers of groups that are long gone are not given again.
func TestNumbers(t *testing.T) {
	dir := t.TempDir()
	d := newDirectory(t, dir)
	for i := range foldAfter {
		if err := d.put(noteOf(tokenOf("node-1", 1, uint64(i), uint64(i+1))), batch("node-1", i).Rows[:1]); err != nil {
			t.Fatal(err)
		}
		if err := d.done(d.groups[0]); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.fold(t0); err != nil {
		t.Fatal(err)
	}
	if left := files(t, dir, "*"); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
	if d = newDirectory(t, dir); d.next != foldAfter+1 {
		t.Errorf("the next group is %d", d.next)
	}
}

// A note that is there again after a power cut, of a group whose later ones are
// added up, does not take the place of what came after it.
func TestOldNote(t *testing.T) {
	dir, m := t.TempDir(), newMemory()
	d := newDirectory(t, dir)
	for i := range foldAfter {
		n := note{At: t0, Coverage: []call{heartbeat("node-1", i)}}
		if err := d.put(n, nil); err != nil {
			t.Fatal(err)
		}
		if err := d.done(d.groups[0]); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(d.path(7, storedSuffix))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.fold(t0); err != nil {
		t.Fatal(err)
	}
	write(t, d.path(7, storedSuffix), old)
	g := run(t, quick(dir), m)
	if err := g.TakeCoverage(t.Context(), "node-1", heartbeat("node-1", foldAfter-1)); err != nil {
		t.Fatal(err)
	}
	g.empty(m)
	if len(m.coverage) != 0 {
		t.Errorf("stored again: %+v", m.coverage)
	}
}
