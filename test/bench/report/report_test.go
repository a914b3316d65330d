package report

import (
	"math"
	"strings"
	"testing"
)

func TestSum(t *testing.T) {
	if s := Sum([]float64{5, 1, 4, 2, 3}); s != (Series{Samples: 5, Min: 1, Q1: 2, Median: 3, Q3: 4, P99: 4, Max: 5}) {
		t.Errorf("%+v", s)
	}
}

func TestGoals(t *testing.T) {
	var g Goals
	g.AtMost("low", "ms", 5, 5)
	g.AtMost("high", "ms", 5.1, 5)
	g.AtLeast("enough", "records/s", 1_000_000, 1_000_000)
	g.AtLeast("short", "records/s", 999_999, 1_000_000)
	g.AtMost("never", "ms", math.NaN(), 5)
	g.AtLeast("by nothing", "ms", math.Inf(1), 5)
	var got []bool
	for _, goal := range g {
		got = append(got, goal.Reached)
	}
	if want := []bool{true, false, true, false}; len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] || got[3] != want[3] {
		t.Errorf("reached %v, want %v", got, want)
	}
	var b strings.Builder
	g.Print(&b)
	if !strings.Contains(b.String(), "at least 1000000 records/s\t999999 records/s\tNOT REACHED") {
		t.Errorf("printed\n%s", b.String())
	}
}
