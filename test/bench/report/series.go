package report

import (
	"math"
	"slices"
)

// Series sums up the samples of one measured thing, in its own unit.
type Series struct {
	Samples int     `json:"samples"`
	Min     float64 `json:"min"`
	Q1      float64 `json:"q1"`
	Median  float64 `json:"median"`
	Q3      float64 `json:"q3"`
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
}

// List is the series of a run, by name.
type List map[string]Series

// Add notes the samples under a name and returns what they come to; there must
// be at least one.
func (l List) Add(name string, samples []float64) Series {
	l[name] = Sum(samples)
	return l[name]
}

// Sum sums up samples; there must be at least one.
func Sum(samples []float64) Series {
	s := slices.Sorted(slices.Values(samples))
	at := func(q float64) float64 { return Round(s[int(q*float64(len(s)-1))]) }
	return Series{len(s), at(0), at(0.25), at(0.5), at(0.75), at(0.99), at(1)}
}

// Round keeps three digits after the point, and six that count where those are
// more: a figure of hundredths would else move in steps of a percent and more.
func Round(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return v
	}
	scale := math.Pow10(max(3, 5-int(math.Floor(math.Log10(math.Abs(v))))))
	return math.Round(v*scale) / scale
}
