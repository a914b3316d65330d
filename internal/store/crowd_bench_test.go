package store

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// BenchmarkCrowd reads the edges of a workload that 500,000 addresses from all
// over the internet connected to, before and after they were folded where they
// lie.
func BenchmarkCrowd(b *testing.B) {
	s := migrated(b)
	random := rand.New(rand.NewPCG(3, 4))
	for part := range 10 {
		addrs := make([]netip.Addr, 50_000)
		for i := range addrs {
			addrs[i] = netip.AddrFrom4([4]byte{byte(1 + random.IntN(223)), byte(random.IntN(256)), byte(random.IntN(256)), byte(random.IntN(256))})
		}
		mustInsert(b, s, token(part), visits(addrs)...)
	}
	mustExec(b, s, "TRUNCATE TABLE edges") // long gone when months are folded
	s.cfg.Retention.Hours = time.Nanosecond
	for _, folded := range []bool{false, true} {
		if folded {
			if _, err := s.at(s.cfg.Addrs...).foldServer(b.Context(), noon.AddDate(0, 3, 0)); err != nil {
				b.Fatal(err)
			}
		}
		for _, table := range []string{"edge_days", "edge_months"} {
			mustExec(b, s, "OPTIMIZE TABLE "+table+" FINAL")
		}
		b.Run(fmt.Sprintf("folded=%v", folded), func(b *testing.B) {
			var edges int
			for b.Loop() {
				got, err := s.Edges(b.Context(), EdgeFilter{Workload: &cart, Times: true})
				if err != nil {
					b.Fatal(err)
				}
				edges = len(got)
			}
			b.ReportMetric(float64(edges), "edges")
			const months = " FROM system.parts WHERE database = currentDatabase() AND active AND table = 'edge_months'"
			b.ReportMetric(float64(ask(b, s, "SELECT sum(rows)"+months)), "rows")
			b.ReportMetric(float64(ask(b, s, "SELECT sum(bytes_on_disk)"+months)), "bytes")
		})
	}
}
