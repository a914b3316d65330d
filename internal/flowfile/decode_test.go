package flowfile

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// Lines are decoded side by side, in batches; what they add up to depends on
// their order all the same: of connections, and of the bad lines that are shown.
func TestLinesKeepTheirOrder(t *testing.T) {
	const connections = 5000 // some tens of batches
	var lines []any
	for i := range connections {
		out := packet{l4: tcp(20000+i%7, 80, syn), reply: "false", second: i / 100 % 60}
		lines = append(lines, out, out.back(tcp(80, 20000+i%7, synAck), "true"))
		if i%7 < 3 { // closed: the next SYN with these ports is another connection, if it comes later
			lines = append(lines, packet{l4: tcp(20000+i%7, 80, rst), reply: "false", second: i / 100 % 60})
		}
		if i%1000 == 999 {
			lines = append(lines, fmt.Sprintf("no JSON %d", i))
		}
	}
	var want []BadLine
	for i, l := range lines {
		if text, ok := l.(string); ok {
			want = append(want, BadLine{File: "-", Line: uint64(i + 1), Why: readLines(t, Hubble, text).Summary.First[0].Why})
		}
	}
	first := readLines(t, Hubble, lines...)
	if !slices.Equal(first.Summary.First, want) {
		t.Errorf("bad lines are %v, want %v", first.Summary.First, want)
	}
	// One after the other, as a reader of single lines would.
	one := newSet(first.cfg)
	h := &hubble{one, map[string]*party{}}
	for _, l := range lines {
		if v, err := decodeHubble([]byte(fmt.Sprint(l))); err == nil {
			if err := h.take(&v); err != nil {
				t.Fatal(err)
			}
		}
	}
	one.finish()
	if got, want := edgeTexts(t, first), edgeTexts(t, one); !slices.Equal(got, want) {
		t.Errorf("edges are %q, one by one %q", got, want)
	}
	if got, want := first.Summary.Connections, one.Summary.Connections; got != want || got < 10 {
		t.Errorf("%d connections, one by one %d", got, want)
	}
}

// What comes before the end of a broken file counts before it: the answer does
// not depend on who is faster. Nothing is left running either way.
func TestReadingStops(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	many := strings.Repeat(packet{l4: tcp(40000, 80, syn), reply: "false"}.String()+"\n", 5000)
	broken := errors.New("broken")
	in := func(text string) io.Reader { return io.MultiReader(strings.NewReader(text), errorReader{broken}) }
	for range 5 {
		if _, err := Read(t.Context(), Config{Format: Hubble}, []string{"-"}, in(many)); !errors.Is(err, broken) {
			t.Fatalf("broken file: %v", err)
		}
		two := many + packet{l4: tcp(40000, 81, syn), reply: "false"}.String() + "\n"
		_, err := Read(t.Context(), Config{Format: Hubble, MaxEdges: 1}, []string{"-"}, in(two))
		if _, ok := errors.AsType[*LimitError](err); !ok {
			t.Fatalf("too many edges, then broken: %v", err)
		}
		_, err = Read(t.Context(), Config{Format: Hubble, MaxEdges: 1}, []string{"-"}, strings.NewReader(two+many+many))
		if _, ok := errors.AsType[*LimitError](err); !ok {
			t.Fatalf("too many edges in the middle: %v", err)
		}
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }
