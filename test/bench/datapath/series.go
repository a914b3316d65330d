package main

import (
	"fmt"
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

func sum(samples []float64) Series {
	s := slices.Sorted(slices.Values(samples))
	at := func(q float64) float64 { return round(s[int(q*float64(len(s)-1))]) }
	return Series{len(s), at(0), at(0.25), at(0.5), at(0.75), at(0.99), at(1)}
}

// round keeps three digits after the point.
func round(v float64) float64 { return math.Round(v*1000) / 1000 }

// column is one thing measured.
type column struct {
	name string
	// prepare is not measured. It may be nil.
	prepare func() error
	measure func() (float64, error)
}

// interleave measures every column once a round, so that whatever slows the
// machine down slows them all, and returns their samples by name.
func interleave(rounds int, columns []column) (map[string][]float64, error) {
	samples := make(map[string][]float64, len(columns))
	for range rounds {
		for _, c := range columns {
			if c.prepare != nil {
				if err := c.prepare(); err != nil {
					return nil, fmt.Errorf("prepare %s: %w", c.name, err)
				}
			}
			v, err := c.measure()
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", c.name, err)
			}
			samples[c.name] = append(samples[c.name], v)
		}
	}
	return samples, nil
}

// difference subtracts the samples of the same rounds.
func difference(a, b []float64) []float64 {
	d := make([]float64, len(a))
	for i := range a {
		d[i] = a[i] - b[i]
	}
	return d
}
