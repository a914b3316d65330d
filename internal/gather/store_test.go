package gather

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// ordered is a store that knows in which order groups came, by their first
// record.
type ordered struct {
	*memory
	order []uint16
}

func (o *ordered) InsertFlows(ctx context.Context, token string, rows []flow.Labelled) error {
	err := o.memory.InsertFlows(ctx, token, rows)
	if err == nil {
		o.set(func() { o.order = append(o.order, rows[0].SourcePort) })
	}
	return err
}

// What came while the store was away does not hold up what comes now, nor the
// other way round; but the one that the store may have already is not let go of.
func TestNewestAndOldestByTurns(t *testing.T) {
	m := &ordered{memory: newMemory()}
	m.refuse = true
	g := run(t, quick(t.TempDir()), m)
	g.take("node-1", 0)
	<-m.told // its insert was begun
	g.take("node-1", 1, 2, 3, 4, 5)
	m.set(func() { m.refuse = false })
	g.empty(m.memory)
	if !slices.Equal(m.order, []uint16{0, 1, 5, 2, 4, 3}) {
		t.Errorf("stored in the order %v", m.order)
	}
	m.once(t, map[string][]int{"node-1": {0, 1, 2, 3, 4, 5}})
}

// No more groups wait than the store remembers.
func TestFullOfGroups(t *testing.T) {
	m := newMemory()
	m.refuse = true
	g := run(t, quick(t.TempDir()), m)
	g.dir.mu.Lock()
	g.dir.level.Groups = maxGroups - 1
	g.dir.mu.Unlock()
	g.take("node-1", 0)
	if err := g.Take(t.Context(), "node-1", batch("node-1", 1)); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	m.set(func() { m.refuse = false })
	for deadline := time.Now().Add(20 * time.Second); g.Level().Groups >= maxGroups; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is stored")
		}
	}
	g.take("node-1", 1)
}
