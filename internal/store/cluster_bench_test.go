package store

import (
	"fmt"
	"sync"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
)

// Who splits rows over two shards: the sender, or a Distributed table.
func BenchmarkClusterInsert(b *testing.B) {
	c := clickhousetest.StartCluster(b, 1, 1)
	rows := estate(50_000)
	report := func(b *testing.B, before uint64, s *Store) {
		b.ReportMetric(float64(b.N)*float64(len(rows))/b.Elapsed().Seconds(), "rows/s")
		b.ReportMetric(float64(engineCPU(b, s)-before)/float64(b.N)/float64(len(rows)), "engine-µs/row")
	}
	b.Run("by the sender", func(b *testing.B) {
		s := openCluster(b, c)
		before := engineCPU(b, s)
		for i := 0; b.Loop(); i++ {
			mustInsert(b, s, token(i), rows...)
		}
		report(b, before, s)
	})
	b.Run("by a Distributed table", func(b *testing.B) {
		s := openCluster(b, c)
		mustExec(b, s, fmt.Sprintf("CREATE TABLE spread AS flows ENGINE = Distributed('%s', '%s', 'flows', cityHash64(source_name, destination_name, destination_port))",
			clickhousetest.ClusterName, s.cfg.Database))
		before := engineCPU(b, s)
		for i := 0; b.Loop(); i++ {
			settings := writeSettings()
			settings["insert_deduplication_token"] = token(i)
			settings["distributed_foreground_insert"] = 1
			if err := s.insertBlock(b.Context(), &shard{conn: s.conn}, "spread", settings, rows); err != nil {
				b.Fatal(err)
			}
		}
		report(b, before, s)
	})
}

// engineCPU is the processor time of all engines, in microseconds.
func engineCPU(b *testing.B, s *Store) uint64 {
	b.Helper()
	var sum uint64
	for _, sh := range s.shards {
		sum += askOn(b, sh, "SELECT toUInt64(sum(value)) FROM system.events WHERE event = 'OSCPUVirtualTimeMicroseconds'")
	}
	return sum
}

// Many agents with little to say, each batch an insert of its own, on one server and
// on a shard of two replicas: every part is fetched by the other then, and Keeper
// notes it.
func BenchmarkSmallInserts(b *testing.B) {
	b.Run("one server", func(b *testing.B) { benchmarkSmallInserts(b, migrated(b)) })
	b.Run("two replicas", func(b *testing.B) {
		c := clickhousetest.StartCluster(b, 2)
		for i := range c.Engines {
			serveParts(b, c, i)
		}
		benchmarkSmallInserts(b, openCluster(b, c))
	})
}

func benchmarkSmallInserts(b *testing.B, s *Store) {
	const agents = 40 // as many inserts of 2,000 rows fit the embedded engine's memory
	o := s.options(s.cfg.Database)
	o.ConnOpenStrategy = clickhouse.ConnOpenRandom
	o.MaxOpenConns, o.MaxIdleConns = agents, agents
	conn, err := clickhouse.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	many := &Store{cfg: s.cfg, shards: []*shard{{conn: conn}}, metrics: s.metrics}
	many.encoders.New = s.encoders.New
	for _, size := range []int{20, 200, 2000} {
		b.Run(fmt.Sprintf("rows=%d", size), func(b *testing.B) {
			rows := estate(size)
			for i := 0; b.Loop(); i++ {
				var wg sync.WaitGroup
				for agent := range agents {
					wg.Go(func() {
						if err := many.InsertFlows(b.Context(), fmt.Sprintf("node-%d/%d/%d", agent, size, i), rows); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
			}
			inserts := float64(b.N*agents) / b.Elapsed().Seconds()
			b.ReportMetric(inserts, "inserts/s")
			b.ReportMetric(inserts*float64(size), "rows/s")
			b.ReportMetric(float64(askOn(b, many.shards[0], "SELECT count() FROM system.parts WHERE database = currentDatabase() AND active")), "parts")
		})
	}
}
