package main

import "fmt"

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

// ratios divides the samples of a by those of b of the same rounds.
func ratios(a, b []float64) []float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return r
}
