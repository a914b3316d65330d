package store

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
	"github.com/ringfence/ringfence/internal/flow"
)

func TestStatus(t *testing.T) {
	s := migrated(t)
	mustInsert(t, s, token(1), connections(1000, noon)...)
	now := time.Now()
	beat := func(node string, ago time.Duration, c flow.Coverage) flow.Coverage {
		c.Node, c.Start, c.End = node, now.Add(-ago-5*time.Second), now.Add(-ago)
		return c
	}
	err := s.InsertCoverage(t.Context(), []flow.Coverage{
		beat("fine", 10*time.Second, flow.Coverage{Spooled: 9}),
		beat("fine", 0, flow.Coverage{Spooled: 7, Skew: 20 * time.Millisecond}),
		beat("silent", 10*time.Minute, flow.Coverage{}),
		beat("gone", 2*time.Hour, flow.Coverage{Dropped: 99}), // before the window
		beat("losing", 0, flow.Coverage{Lost: 3}),
		beat("losing", time.Minute, flow.Coverage{Kind: flow.CoverageDropped, Dropped: 5}),
	})
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Status(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Servers) != 1 || st.Servers[0].Version == "" || st.Servers[0].DiskFree == 0 || st.Servers[0].DiskTotal < st.Servers[0].DiskFree {
		t.Errorf("servers: %+v", st.Servers)
	}
	i := slices.IndexFunc(st.Tables, func(t TableStatus) bool { return t.Name == "flows" })
	if i < 0 {
		t.Fatalf("tables: %+v", st.Tables)
	}
	if f := st.Tables[i]; f.Rows != 1000 || f.Bytes == 0 || f.BytesPerRow == 0 || f.Parts != 1 || f.RetentionDays == 0 || !f.Oldest.Equal(noon) || !f.Newest.Equal(noon) {
		t.Errorf("flows: %+v, want 1000 rows of %s", f, noon)
	}
	if i := slices.IndexFunc(st.Tables, func(t TableStatus) bool { return strings.HasSuffix(t.Name, "_v1") }); i >= 0 {
		t.Errorf("%s is listed, which a migration left empty", st.Tables[i].Name)
	}
	var nodes []string
	for _, n := range st.Nodes {
		nodes = append(nodes, n.Node)
	}
	if want := []string{"fine", "losing", "silent"}; !slices.Equal(nodes, want) {
		t.Fatalf("nodes %q, want %q", nodes, want)
	}
	if n := st.Nodes[0]; n.Spooled != 7 || n.SkewSeconds != .02 || n.SilentSeconds > 60 || n.Last.IsZero() {
		t.Errorf("fine: %+v", n)
	}
	wantProblems(t, st, "node losing gave up 5 records", "node losing lost 3 records", "node silent has been silent for 10m")
}

func wantProblems(t *testing.T, st Status, want ...string) {
	t.Helper()
	ok := len(st.Problems) == len(want)
	for i := range min(len(want), len(st.Problems)) {
		ok = ok && strings.Contains(st.Problems[i], want[i])
	}
	if !ok {
		t.Errorf("problems %q, want %q", st.Problems, want)
	}
}

func TestStatusOfASchemaThatIsBehind(t *testing.T) {
	s := empty(t)
	target, err := NewestStep()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Status(t.Context(), time.Hour); err == nil || !strings.Contains(err.Error(), "start the ringfence server, which makes it") {
		t.Errorf("status without a schema: %v", err)
	}
	if err := s.migrateTo(t.Context(), target-1); err != nil {
		t.Fatal(err)
	}
	st, err := s.Status(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Problems) == 0 || !strings.Contains(st.Problems[0], "migrates it") {
		t.Errorf("problems %q", st.Problems)
	}
}

func TestServerProblems(t *testing.T) {
	fine := ServerStatus{Addr: "a:9000", Step: 5, DiskFree: 50 << 30, DiskTotal: 100 << 30}
	for name, c := range map[string]struct {
		change func(*ServerStatus)
		want   string
	}{
		"fine":             {func(*ServerStatus) {}, ""},
		"away":             {func(s *ServerStatus) { s.Error = "refuses" }, "refuses"},
		"schema behind":    {func(s *ServerStatus) { s.Step = 4 }, "step 4 of 5"},
		"schema ahead":     {func(s *ServerStatus) { s.Step = 6 }, "upgrade it"},
		"little room":      {func(s *ServerStatus) { s.DiskFree = 4 << 30 }, "make room"},
		"very little room": {func(s *ServerStatus) { s.DiskFree, s.DiskTotal = 1<<29, 1<<30 }, "make room"},
		"stuck mutation":   {func(s *ServerStatus) { s.Mutations, s.MutationError = 1, "why" }, "does not get on: why"},
		"broken parts":     {func(s *ServerStatus) { s.BrokenParts = 2 }, "2 broken parts"},
		"no keeper":        {func(s *ServerStatus) { s.ReadOnly = 2 }, "read-only"},
		"replica behind":   {func(s *ServerStatus) { s.ReplicaLag = 600 }, "10m0s behind"},
	} {
		t.Run(name, func(t *testing.T) {
			s := fine
			c.change(&s)
			got := strings.Join(s.problems(5), "; ")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("problems %q, want %q", got, c.want)
			}
		})
	}
}

func TestTablesOfReplicasCountOnce(t *testing.T) {
	of := func(shard string, rows uint64) ServerStatus {
		return ServerStatus{Shard: shard, tables: []TableStatus{{Name: "flows", Rows: rows, Bytes: 10 * rows, Parts: 1}}}
	}
	away := of("s1", 0)
	away.Error = "away"
	st := Status{Servers: []ServerStatus{away, of("s1", 30), of("s1", 29), of("s2", 70)}}
	st.addTables()
	if len(st.Tables) != 1 || st.Tables[0].Rows != 100 || st.Tables[0].BytesPerRow != 10 || st.Tables[0].Parts != 2 {
		t.Errorf("tables %+v, want 100 rows", st.Tables)
	}
}

func TestStatusOfACluster(t *testing.T) {
	c := clickhousetest.StartCluster(t, 1, 1)
	cfg := Config{Addrs: c.Addrs(), Cluster: clickhousetest.ClusterName, User: c.User, Password: c.Password, Database: clickhousetest.Database(t)}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // the test is over
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows := connections(100, noon)
	for i := range rows {
		rows[i].DestinationPort = uint16(i) // an edge each, so both shards have some
	}
	mustInsert(t, s, token(1), rows...)
	st, err := s.Status(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(st.Tables, func(t TableStatus) bool { return t.Name == "flows" })
	if len(st.Servers) != 2 || i < 0 || st.Tables[i].Rows != 100 || len(st.Problems) > 0 {
		t.Errorf("status %+v, want 100 rows on 2 servers", st)
	}
	c.Links[1].Cut()
	st, err = s.Status(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if st.Servers[1].Error == "" || len(st.Problems) != 2 { // the server, and the nodes that nobody can add up
		t.Errorf("status with a shard away: %+v", st)
	}
}
