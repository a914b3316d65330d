package gather

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func tokenOf(node string, ring, start, end uint64) spool.Token {
	return spool.Token{Node: node, Ring: ring, Start: start, End: end, Sum: start * 7}
}

func noteOf(tokens ...spool.Token) note {
	n := note{At: t0}
	for _, t := range tokens {
		n.Members = append(n.Members, member{Token: t.String(), Records: 1, Start: t0, End: t0})
	}
	return n
}

func (a *accepted) must(t *testing.T, n note) {
	t.Helper()
	if err := a.add(n); err != nil {
		t.Fatal(err)
	}
}

func (a *accepted) knows(t *testing.T, token spool.Token) bool {
	t.Helper()
	known, err := a.has(token)
	if err != nil {
		t.Fatal(err)
	}
	return known
}

// Batches in any order, of some rings of some nodes, with some left out: at every
// moment those are known that were added, also after a way over disk, and what
// came in turn is one span.
func TestAcceptedIsExact(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		var tokens []spool.Token
		for node := range 3 {
			for ring := range uint64(3) {
				for pos, i := uint64(0), 0; i < 20; i++ {
					end := pos + 1 + r.Uint64N(100)
					tokens = append(tokens, tokenOf(fmt.Sprint("node-", node), ring, pos, end))
					pos = end
				}
			}
		}
		left := tokens[:5]
		all := tokens[5:]
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		a := newAccepted()
		for i, token := range all {
			a.must(t, noteOf(token))
			if i%40 == 0 {
				a = reread(t, a)
			}
			for j, other := range all {
				if a.knows(t, other) != (j <= i) {
					t.Fatalf("seed %d: after %d: %s is known: %t", seed, i, other, j > i)
				}
			}
		}
		for _, token := range left {
			if a.knows(t, token) {
				t.Fatalf("seed %d: %s is known", seed, token)
			}
		}
		for name, h := range a.nodes {
			for _, part := range h.Rings {
				if len(part.Spans) != 1 {
					t.Errorf("seed %d: %s has %d spans of ring %d", seed, name, len(part.Spans), part.Ring)
				}
			}
		}
	}
}

// reread returns what is read of what a writes.
func reread(t *testing.T, a *accepted) *accepted {
	t.Helper()
	raw, err := a.encode(1, t0)
	if err != nil {
		t.Fatal(err)
	}
	var s state
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a.nodes, s.Nodes); diff != "" {
		t.Error(diff)
	}
	b := newAccepted()
	b.nodes = s.Nodes
	return b
}

// A batch of which a part was in another one cannot be: it is refused, since it
// could be neither stored nor left out.
func TestPartOfABatch(t *testing.T) {
	a := newAccepted()
	a.must(t, noteOf(tokenOf("a", 1, 100, 200)))
	for _, span := range [][2]uint64{{50, 150}, {150, 250}, {50, 250}, {99, 200}, {100, 201}} {
		if known, err := a.has(tokenOf("a", 1, span[0], span[1])); err == nil {
			t.Errorf("%v: known %t", span, known)
		}
	}
	for _, other := range []spool.Token{
		tokenOf("a", 1, 0, 100), tokenOf("a", 1, 200, 201), tokenOf("a", 2, 100, 200), tokenOf("b", 1, 100, 200),
	} {
		if a.knows(t, other) {
			t.Errorf("%s is known", other)
		}
	}
	if !a.knows(t, tokenOf("a", 1, 120, 150)) {
		t.Error("a part of what is known is not")
	}
}

func TestAcceptedIsBounded(t *testing.T) {
	a := newAccepted()
	for ring := range uint64(maxRings + 2) {
		a.must(t, noteOf(tokenOf("a", ring, 0, 8)))
		a.must(t, noteOf(tokenOf("a", 1, 100*ring, 100*ring+8))) // is heard of again and again
	}
	for ring, want := range []bool{false, true, false, true, true, true, true, true, true, true} {
		if a.knows(t, tokenOf("a", uint64(ring), 0, 8)) != want {
			t.Errorf("ring %d is known: %t", ring, !want)
		}
	}
	for i := range uint64(maxSpans + 3) {
		a.must(t, noteOf(tokenOf("b", 1, 10*i, 10*i+5)))
	}
	if n := len(a.nodes["b"].Rings[0].Spans); n != maxSpans {
		t.Errorf("%d spans", n)
	}
	if a.knows(t, tokenOf("b", 1, 20, 25)) || !a.knows(t, tokenOf("b", 1, 30, 35)) {
		t.Error("not the lowest went")
	}
	late := noteOf(tokenOf("c", 1, 0, 8))
	late.At = t0.Add(forgetAfter)
	a.must(t, late)
	if _, err := a.encode(1, t0.Add(forgetAfter+time.Second)); err != nil {
		t.Fatal(err)
	}
	if got := a.names(); !cmp.Equal(got, []string{"c"}) {
		t.Errorf("known: %q", got)
	}
}

func TestAcceptedCoverage(t *testing.T) {
	beat := func(node string, i int) call {
		return call{{Node: node, Start: t0.Add(time.Duration(i) * time.Second), End: t0.Add(time.Duration(i+1) * time.Second), Records: 3}}
	}
	gap := call{{Node: "a", Kind: flow.CoverageAttach, Start: t0, End: t0, Endpoint: "x"}}
	a := newAccepted()
	a.must(t, note{At: t0, Coverage: []call{beat("a", 0), beat("a", 1), gap, beat("b", 0)}})
	a = reread(t, a)
	for _, c := range []struct {
		call
		want bool
	}{{beat("a", 1), true}, {gap, true}, {beat("b", 0), true}, {beat("a", 2), false}, {beat("b", 1), false}, {beat("c", 0), false}} {
		if a.hasCoverage(c.call) != c.want {
			t.Errorf("%+v is known: %t", c.call, !c.want)
		}
	}
}
