package gather

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
)

const (
	// maxRings is how many rings of a node are known: it has one until it starts
	// anew, and what it sends of former ones has waited in its spool.
	maxRings = 8
	// maxSpans is how many spans of a ring are known. What a node sends in turn is
	// one span; one more is what its spool gave up, or has yet to send.
	maxSpans = 10_000
	// forgetAfter is how long a node is known that was not heard of: longer than
	// a batch waits for, unless its records are too old to be stored as flows.
	forgetAfter = 90 * 24 * time.Hour
)

// accepted says what nodes handed over.
type accepted struct {
	mu    sync.Mutex
	nodes map[string]*handedOver
}

// handedOver is what one node did. It is the form on disk, too.
type handedOver struct {
	Heard time.Time  `json:"heard"`
	Rings []ringPart `json:"rings,omitempty"` // the one heard of last is last
	// Coverage has, by kind, what names the last rows.
	Coverage map[flow.CoverageKind]string `json:"coverage,omitempty"`
}

// ringPart is what of a ring was handed over: spans in order, with something
// between each two.
type ringPart struct {
	Ring  uint64      `json:"ring"`
	Spans [][2]uint64 `json:"spans"`
}

func newAccepted() *accepted { return &accepted{nodes: map[string]*handedOver{}} }

// has reports whether the batch was handed over before. It is an error if only
// a part was: batches of one ring are the same or apart.
func (a *accepted) has(t spool.Token) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.nodes[t.Node]
	if h == nil {
		return false, nil
	}
	i := slices.IndexFunc(h.Rings, func(r ringPart) bool { return r.Ring == t.Ring })
	if i < 0 {
		return false, nil
	}
	spans := h.Rings[i].Spans
	at := spanAfter(spans, t.Start)
	switch {
	case at == len(spans) || spans[at][0] >= t.End:
		return false, nil
	case spans[at][0] <= t.Start && t.End <= spans[at][1]:
		return true, nil
	}
	return false, &RefusedError{Why: fmt.Sprintf("a part of ring %x from %d to %d was handed over in another batch", t.Ring, t.Start, t.End)}
}

// spanAfter returns the first span that ends after pos.
func spanAfter(spans [][2]uint64, pos uint64) int {
	return sort.Search(len(spans), func(i int) bool { return spans[i][1] > pos })
}

// add notes everything that n names.
func (a *accepted) add(n note) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range n.Members {
		t, err := spool.ParseToken(m.Token)
		if err != nil {
			return err
		}
		a.node(t.Node, n.At).add(t)
	}
	for _, call := range n.Coverage {
		h := a.node(call[0].Node, n.At)
		if h.Coverage == nil {
			h.Coverage = map[flow.CoverageKind]string{}
		}
		h.Coverage[call[0].Kind] = call.name()
	}
	return nil
}

func (a *accepted) node(name string, at time.Time) *handedOver {
	h := a.nodes[name]
	if h == nil {
		h = &handedOver{}
		a.nodes[name] = h
	}
	if at.After(h.Heard) {
		h.Heard = at
	}
	return h
}

func (h *handedOver) add(t spool.Token) {
	i := slices.IndexFunc(h.Rings, func(r ringPart) bool { return r.Ring == t.Ring })
	r := ringPart{Ring: t.Ring}
	if i >= 0 {
		r = h.Rings[i]
		h.Rings = slices.Delete(h.Rings, i, i+1)
	}
	// Those that t overlaps or touches become one with it.
	from := sort.Search(len(r.Spans), func(i int) bool { return r.Spans[i][1] >= t.Start })
	to := from
	span := [2]uint64{t.Start, t.End}
	for ; to < len(r.Spans) && r.Spans[to][0] <= t.End; to++ {
		span = [2]uint64{min(span[0], r.Spans[to][0]), max(span[1], r.Spans[to][1])}
	}
	r.Spans = slices.Replace(r.Spans, from, to, span)
	if n := len(r.Spans) - maxSpans; n > 0 {
		r.Spans = slices.Delete(r.Spans, 0, n)
	}
	h.Rings = append(h.Rings, r)
	if n := len(h.Rings) - maxRings; n > 0 {
		h.Rings = slices.Delete(h.Rings, 0, n)
	}
}

// hasCoverage reports whether c is what its node handed over last of its kind.
func (a *accepted) hasCoverage(c call) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.nodes[c[0].Node]
	return h != nil && h.Coverage[c[0].Kind] == c.name()
}

// names returns the nodes that are known.
func (a *accepted) names() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for name := range a.nodes {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// state is accepted.state.
type state struct {
	// Next is the number of the next group.
	Next  uint64                 `json:"next"`
	Nodes map[string]*handedOver `json:"nodes"`
}

// encode returns accepted.state, without nodes that are long gone.
func (a *accepted) encode(next uint64, now time.Time) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, h := range a.nodes {
		if now.Sub(h.Heard) > forgetAfter {
			delete(a.nodes, name)
		}
	}
	return json.Marshal(state{Next: next, Nodes: a.nodes})
}
