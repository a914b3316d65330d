package gather

import (
	"context"
	"slices"
	"testing"

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
// other way round.
func TestNewestAndOldestByTurns(t *testing.T) {
	m := &ordered{memory: newMemory()}
	m.refuse = true
	dir := t.TempDir()
	g := run(t, quick(dir), m)
	g.take("node-1", 0, 1, 2, 3, 4, 5)
	m.set(func() { m.refuse = false })
	g.empty(m.memory)
	if !slices.Equal(m.order, []uint16{5, 0, 4, 1, 3, 2}) && !slices.Equal(m.order, []uint16{0, 5, 1, 4, 2, 3}) {
		t.Errorf("stored in the order %v", m.order)
	}
	m.once(t, map[string][]int{"node-1": {0, 1, 2, 3, 4, 5}})
}
