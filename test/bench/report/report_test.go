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

func TestRound(t *testing.T) {
	for v, want := range map[float64]float64{
		0: 0, 0.0961234567: 0.0961235, 0.00012345678: 0.000123457, 17.4412345: 17.4412, 184.4444: 184.444, 1234567.8916: 1234567.892,
	} {
		if got := Round(v); got != want {
			t.Errorf("Round(%g) = %g, want %g", v, got, want)
		}
	}
	if s := Sum([]float64{0.09612, 0.09613}); s.Min == s.Max {
		t.Errorf("a difference of a ten-thousandth is gone: %+v", s)
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
