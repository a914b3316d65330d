package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
)

// clusterConfig is that of a store on a database of its own.
func clusterConfig(t testing.TB, c *clickhousetest.Cluster) Config {
	t.Helper()
	return Config{
		Addrs: c.Addrs(), Cluster: clickhousetest.ClusterName, User: c.User, Password: c.Password,
		Database: clickhousetest.Database(t), DialTimeout: 2 * time.Second,
	}
}

// opened is a store on a database that has no schema yet.
func opened(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func openCluster(t testing.TB, c *clickhousetest.Cluster) *Store {
	t.Helper()
	s := opened(t, clusterConfig(t, c))
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// estate are flows between some workloads and external peers, seen at both ends,
// allowed and denied, over two days.
func estate(n int) []flow.Labelled {
	random := rand.New(rand.NewPCG(1, 2))
	var parties []*flow.Party
	for i := range 12 {
		parties = append(parties, &flow.Party{
			Workload: flow.Workload{Namespace: fmt.Sprintf("ns%d", i%3), Kind: "Deployment", Name: fmt.Sprintf("w%d", i)},
			Endpoint: fmt.Sprintf("w%d-1", i), Identity: flow.Identity(1000 + i), Labels: fmt.Sprintf("app=w%d", i),
		})
	}
	world := &flow.Party{Reserved: "world"}
	rows := make([]flow.Labelled, n)
	for i := range rows {
		from, to := parties[random.IntN(len(parties))], parties[random.IntN(len(parties))]
		source := addr(fmt.Sprintf("10.0.0.%d", random.IntN(200)+1))
		if random.IntN(4) == 0 {
			from, source = world, addr(fmt.Sprintf("198.51.%d.%d", random.IntN(8), random.IntN(200)))
		}
		r := connection(frontend, cart, uint16(i), noon.Add(-time.Duration(random.IntN(48*3600))*time.Second))
		r.Time = r.Time.Add(time.Duration(i) * time.Microsecond)
		r.Source, r.Dest, r.Key.Source = from, to, source
		r.Observer, r.Direction = to, flow.Ingress
		if from != world && i%2 == 0 {
			r.Observer, r.Direction = from, flow.Egress
		}
		r.Node = fmt.Sprintf("node-%d", i%5)
		r.DestinationPort = uint16(8000 + random.IntN(3))
		r.Forward.Bytes = uint64(random.IntN(100_000))
		r.Staged = flow.Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonNone, Revision: 3}
		if random.IntN(5) == 0 {
			r.Staged.Verdict, r.Outcome = flow.VerdictDeny, flow.OutcomeAudited
		}
		rows[i] = r
	}
	return rows
}

// reads are all queries of a store. What a new one answers belongs here.
func reads(t testing.TB, s *Store) map[string]any {
	t.Helper()
	ctx := t.Context()
	since := noon.Add(-24 * time.Hour)
	w := &flow.Workload{Namespace: "ns1", Kind: "Deployment", Name: "w4"}
	out := map[string]any{}
	note := func(name string, v any, err error) {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[name] = v
	}
	edges, err := s.Edges(ctx, EdgeFilter{})
	note("edges", edges, err)
	edges, err = s.Edges(ctx, EdgeFilter{Workload: w, Since: since, Direction: flow.Ingress, StagedRevision: 3})
	note("edges of a workload", edges, err)
	totals, err := s.Totals(ctx, EdgeFilter{Since: since})
	note("totals", totals, err)
	denials, err := s.Denials(ctx, DenialFilter{Slot: flow.SlotStaged})
	note("denials", denials, err)
	denials, err = s.Denials(ctx, DenialFilter{Slot: flow.SlotStaged, Workload: w, Revision: 3, Limit: 5})
	note("denials of a workload", denials, err)
	judged, err := s.Judged(ctx, DenialFilter{Slot: flow.SlotStaged, Workload: w, Revision: 3})
	note("judged", judged, err)
	stats, err := s.Stats(ctx, since)
	note("stats", stats, err)
	summary, err := s.Summary(ctx)
	note("summary", summary, err)
	coverage, err := s.Coverage(ctx, since, noon)
	note("coverage", coverage, err)
	all := query.Filter{Until: noon.Add(time.Hour)}
	one := parse(t, "to.workload=ns1/w4 port=8001")
	for name, f := range map[string]query.Filter{"all": all, "one": one} {
		page, err := s.Flows(ctx, f, query.Cursor{}, 500)
		note("flows of "+name, labelled(page.Rows), err)
		page, err = s.Flows(ctx, f, page.Next, 500)
		note("more flows of "+name, labelled(page.Rows), err)
		facets, err := s.Facets(ctx, f, 20)
		note("facets of "+name, facets, err)
		tail, err := s.Next(ctx, NewTail(f, 100))
		note("tail of "+name, labelled(tail), err)
	}
	return out
}

func heartbeats() []flow.Coverage {
	var out []flow.Coverage
	for i := range 200 {
		start := noon.Add(-time.Duration(i) * time.Minute)
		out = append(out, flow.Coverage{
			Node: fmt.Sprintf("node-%d", i%5), Start: start, End: start.Add(time.Minute),
			Records: uint64(i), Lost: uint64(i % 7 / 6), Endpoints: 3, Started: i > 190,
		})
	}
	return out
}

func fill(t testing.TB, s *Store, rows []flow.Labelled) {
	t.Helper()
	for i := range 4 {
		part := rows[i*len(rows)/4 : (i+1)*len(rows)/4]
		for range 2 { // the second time changes nothing
			mustInsert(t, s, token(i), part...)
		}
	}
	for range 2 {
		if err := s.InsertCoverage(t.Context(), heartbeats()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCluster(t *testing.T) {
	c := clickhousetest.StartCluster(t, 1, 1)
	t.Run("answers as one server does", func(t *testing.T) { testClusterAnswers(t, c) })
	t.Run("migrates at once", func(t *testing.T) { testClusterMigratesAtOnce(t, c) })
	t.Run("insert reaches half", func(t *testing.T) { testClusterHalf(t, c) })
	t.Run("lost shard", func(t *testing.T) { testClusterLostShard(t, c) })
	t.Run("refuses", func(t *testing.T) { testClusterRefuses(t, c) })
}

func testClusterAnswers(t *testing.T, c *clickhousetest.Cluster) {
	rows := append(estate(8000), visits(clients(2*maxPeers, false))...)
	one, two := migrated(t), openCluster(t, c)
	fill(t, one, rows)
	fill(t, two, rows)
	want, got := reads(t, one), reads(t, two)
	for name := range want {
		if diff := cmp.Diff(want[name], got[name], compareAddrs); diff != "" {
			t.Errorf("%s (-one server, +two shards):\n%s", name, diff)
		}
	}
	for _, sh := range two.shards {
		n := askOn(t, sh, "SELECT count() FROM flows")
		if n < uint64(len(rows))/4 {
			t.Errorf("shard %s has %d of %d flows: that is no sharding", sh.name, n, len(rows))
		}
	}
	if n := ask(t, two, `SELECT count() FROM (SELECT uniqExact(_shard_num) AS shards FROM edges GROUP BY
		source_namespace, source_kind, source_name, source_reserved, source_address,
		destination_namespace, destination_kind, destination_name, destination_reserved, destination_address, protocol, port
		HAVING shards > 1)`); n != 0 {
		t.Errorf("%d edges are on more than one shard", n)
	}
}

func askOn(t testing.TB, sh *shard, query string) uint64 {
	t.Helper()
	var n uint64
	if err := sh.conn.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func testClusterMigratesAtOnce(t *testing.T, c *clickhousetest.Cluster) {
	cfg := clusterConfig(t, c)
	var stores []*Store
	for range 4 {
		stores = append(stores, opened(t, cfg))
	}
	migrateAtOnce(t, stores)
	mustInsert(t, stores[0], "a", connections(10, noon)...)
	wantStored(t, stores[1], 10)
}

func migrateAtOnce(t *testing.T, stores []*Store) {
	t.Helper()
	var wg sync.WaitGroup
	for _, s := range stores {
		wg.Go(func() {
			if err := s.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A batch of which only one shard got its part is whole after it was sent again.
func testClusterHalf(t *testing.T, c *clickhousetest.Cluster) {
	s := openCluster(t, c)
	rows := estate(1000)
	c.Links[1].Cut()
	err := s.InsertFlows(t.Context(), "a", rows)
	c.Links[1].Mend()
	if err == nil {
		t.Fatal("no error though a shard is away")
	}
	half := askOn(t, s.shards[0], "SELECT count() FROM flows")
	if half == 0 || half == 1000 {
		t.Fatalf("%d rows on the shard that was there: the test proves nothing", half)
	}
	for range 3 {
		mustInsert(t, s, "a", rows...)
	}
	wantStored(t, s, 1000)
}

func testClusterLostShard(t *testing.T, c *clickhousetest.Cluster) {
	s := openCluster(t, c)
	fill(t, s, estate(1000))
	c.Links[1].Cut()
	defer c.Links[1].Mend()
	ctx := t.Context()
	for name, read := range map[string]func() error{
		"edges":    func() error { _, err := s.Edges(ctx, EdgeFilter{}); return err },
		"totals":   func() error { _, err := s.Totals(ctx, EdgeFilter{}); return err },
		"denials":  func() error { _, err := s.Denials(ctx, DenialFilter{Slot: flow.SlotStaged}); return err },
		"stats":    func() error { _, err := s.Stats(ctx, time.Time{}); return err },
		"summary":  func() error { _, err := s.Summary(ctx); return err },
		"coverage": func() error { _, err := s.Coverage(ctx, noon.Add(-time.Hour), noon); return err },
		"facets":   func() error { _, err := s.Facets(ctx, query.Filter{}, 10); return err },
		"tail":     func() error { _, err := s.Next(ctx, NewTail(query.Filter{}, 10)); return err },
		"flows":    func() error { _, err := s.Flows(ctx, query.Filter{}, query.Cursor{}, 10); return err },
	} {
		err := read()
		var partial *PartialError
		if !errors.As(err, &partial) {
			t.Errorf("%s without a shard: %v, want a PartialError", name, err)
			continue
		}
		wantError(t, err, "shard", clickhousetest.ClusterName, "partial")
	}
	_, err := Open(ctx, s.cfg)
	var partial *PartialError
	if !errors.As(err, &partial) {
		t.Errorf("open without a shard: %v, want a PartialError", err)
	}
	wantError(t, err, "1 of 2 shards", c.Links[1].Addr())
}

func testClusterRefuses(t *testing.T, c *clickhousetest.Cluster) {
	tests := []struct {
		name   string
		change func(*Config)
		want   []string
	}{
		{"unknown cluster", func(c *Config) { c.Cluster = "other" }, []string{`no cluster "other"`, "remote_servers", "--clickhouse-cluster"}},
		{"a shard is not named", func(c *Config) { c.Addrs = c.Addrs[:1] }, []string{"2 shards", "names servers of 1 (s1)"}},
		{"a server twice", func(c *Config) { c.Addrs = append(c.Addrs, c.Addrs[0]) }, []string{`replica "r1" of shard "s1"`, "once"}},
		{"wrong password", func(c *Config) { c.Password = "wrong" }, []string{"wrong password", "--clickhouse-password-file"}},
		{"bad name", func(c *Config) { c.Cluster = "a'b" }, []string{"clickhouse cluster", "letters, digits"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := clusterConfig(t, c)
			tt.change(&cfg)
			s, err := Open(t.Context(), cfg)
			if err == nil {
				_ = s.Close()
			}
			wantError(t, err, tt.want...)
		})
	}
}
