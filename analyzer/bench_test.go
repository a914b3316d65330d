package analyzer_test

import (
	"fmt"
	"testing"
)

// BenchmarkRecommendAll learns 500 workloads with 20 clients each: 20,000 stored
// edges, two for each true one.
func BenchmarkRecommendAll(b *testing.B) {
	w := &world{tb: b}
	lines := []string{"window 24h", "covered node-1 24h"}
	const workloads = 500
	for i := range workloads {
		lines = append(lines, fmt.Sprintf("workload n%d/w%d app=w%d,team=t%d w%d-1@node-1", i%10, i, i, i%7, i))
	}
	for i := range workloads {
		for j := range 20 {
			k := (i*31 + j*17 + 1) % workloads
			lines = append(lines, fmt.Sprintf("flow n%d/w%d > n%d/w%d TCP %d hours=24", i%10, i, k%10, k, 8000+j))
		}
	}
	for _, l := range lines {
		if err := w.line(l); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for b.Loop() {
		w.recommendAll()
	}
	b.ReportMetric(float64(len(w.edges)), "edges")
}
