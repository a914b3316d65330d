package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/migrations"
)

// Two shards of two replicas, which copy each other's parts.
func TestReplicated(t *testing.T) {
	c := clickhousetest.StartCluster(t, 2, 2)
	for i := range c.Engines {
		serveParts(t, c, i)
	}
	t.Run("migrates step by step", func(t *testing.T) { testReplicatedSteps(t, c) })
	t.Run("migrates at once", func(t *testing.T) { testReplicatedMigratesAtOnce(t, c) })
	t.Run("a replica comes later", func(t *testing.T) { testReplicaComesLater(t, c) })
	t.Run("answers as one server does", func(t *testing.T) { testReplicatedAnswers(t, c) })
	t.Run("batch sent to the other replica", func(t *testing.T) { testReplicatedToken(t, c) })
	t.Run("batch half stored", func(t *testing.T) { testReplicatedHalf(t, c) })
	t.Run("quorum", func(t *testing.T) { testReplicatedQuorum(t, c) })
	t.Run("folds", func(t *testing.T) { testReplicatedFold(t, c) })
	t.Run("replica killed", func(t *testing.T) { testReplicaKilled(t, c) })
	t.Run("without Keeper", func(t *testing.T) { testReplicatedWithoutKeeper(t, c) })
	t.Run("refuses", func(t *testing.T) { testReplicatedRefuses(t, c) })
}

// serveParts makes an engine listen for replicas that fetch parts.
func serveParts(t testing.TB, c *clickhousetest.Cluster, i int) {
	t.Helper()
	on(t, &Store{cfg: clusterConfig(t, c)}, c.Links[i].Addr(), "", func(db *sql.DB) error {
		if _, err := db.ExecContext(t.Context(), "SYSTEM START LISTEN HTTP"); err != nil {
			return err
		}
		var port uint16
		err := db.QueryRowContext(t.Context(), "SELECT getServerPort('http_port')").Scan(&port)
		c.Parts[i].Lead(fmt.Sprint("127.0.0.1:", port))
		return err
	})
}

// on lends a connection to one server.
func on(t testing.TB, s *Store, addr, database string, do func(db *sql.DB) error) {
	t.Helper()
	if err := s.at(addr).withDB(database, do); err != nil {
		t.Fatalf("%s: %v", addr, err)
	}
}

// tablesOn are the definitions of a server's tables.
func tablesOn(t testing.TB, s *Store, addr string) (out map[string]string) {
	t.Helper()
	on(t, s, addr, s.cfg.Database, func(db *sql.DB) error {
		tables, err := s.localTables(t.Context(), db)
		out = map[string]string{}
		for _, table := range tables {
			out[table.name] = table.definition
		}
		return err
	})
	return out
}

// settle waits until these replicas, or all, have what the others of their shard have.
func settle(t testing.TB, s *Store, replicas ...Replica) {
	t.Helper()
	if replicas == nil {
		replicas = s.Replicas()
	}
	for _, r := range replicas {
		tables := tablesOn(t, s, r.Addr)
		on(t, s, r.Addr, s.cfg.Database, func(db *sql.DB) error {
			for table := range tables {
				if _, err := db.ExecContext(t.Context(), "SYSTEM SYNC REPLICA "+table+" LIGHTWEIGHT"); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// wantOnReplicas checks that a number of each shard's replicas is the same, and the sum of the shards'.
func wantOnReplicas(t *testing.T, s *Store, query string, want uint64) {
	t.Helper()
	var sum uint64
	shards := map[string]uint64{}
	for _, r := range s.Replicas() {
		n := askReplica(t, s, r.Addr, query)
		if other, known := shards[r.Shard]; !known {
			shards[r.Shard] = n
			sum += n
		} else if n != other {
			t.Errorf("%s: %d on %s, %d on the shard's other replica", query, n, r.Addr, other)
		}
	}
	if sum != want {
		t.Errorf("%s: %d, want %d", query, sum, want)
	}
}

func askReplica(t testing.TB, s *Store, addr, query string) (n uint64) {
	t.Helper()
	on(t, s, addr, s.cfg.Database, func(db *sql.DB) error { return db.QueryRowContext(t.Context(), query).Scan(&n) })
	return n
}

// wantAlike checks that all replicas have the very tables, replicated ones at the paths of their macros.
func wantAlike(t *testing.T, s *Store) {
	t.Helper()
	first := tablesOn(t, s, s.Replicas()[0].Addr)
	for _, r := range s.Replicas() {
		if diff := cmp.Diff(first, tablesOn(t, s, r.Addr)); diff != "" {
			t.Errorf("tables (-on the first, +on %s):\n%s", r.Addr, diff)
		}
		if err := s.at(r.Addr).checkWindows(t.Context()); err != nil {
			t.Error(err)
		}
		on(t, s, r.Addr, s.cfg.Database, func(db *sql.DB) error {
			for table := range first {
				var path, name string
				const query = "SELECT zookeeper_path, replica_name FROM system.replicas WHERE database = currentDatabase() AND NOT is_readonly AND table = "
				if err := db.QueryRowContext(t.Context(), query+"'"+table+"'").Scan(&path, &name); err != nil {
					return fmt.Errorf("%s: %w", table, err)
				}
				if want := "/clickhouse/tables/" + r.Shard + "/" + s.cfg.Database + "/" + table; path != want || name != r.Name {
					t.Errorf("%s on %s: replica %s at %s, want %s at %s", table, r.Addr, name, path, r.Name, want)
				}
			}
			return nil
		})
	}
}

// Each step on every replica before the next, as when all had an earlier schema, and
// each twice, as after a crash before it was noted. Migrate then runs all again.
func testReplicatedSteps(t *testing.T, c *clickhousetest.Cluster) {
	s := opened(t, clusterConfig(t, c))
	steps, err := migrations.Schema{Replicated: true}.Steps()
	if err != nil {
		t.Fatal(err)
	}
	names, err := fs.Glob(steps, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.Replicas() {
		if err := s.at(r.Addr).createDatabase(t.Context(), s.cfg.Database); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		step, err := fs.ReadFile(steps, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range s.Replicas() {
			for range 2 {
				on(t, s, r.Addr, s.cfg.Database, func(db *sql.DB) error {
					return uncontested(t.Context(), func() error {
						_, err := db.ExecContext(t.Context(), strings.TrimRight(string(step), "; \n"))
						return err
					})
				})
			}
		}
	}
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantAlike(t, s)
	mustInsert(t, s, "a", estate(100)...)
	settle(t, s)
	wantStored(t, s, 100)
}

// Several servers of ringfence that start at the same time, each with another replica first.
func testReplicatedMigratesAtOnce(t *testing.T, c *clickhousetest.Cluster) {
	cfg := clusterConfig(t, c)
	var stores []*Store
	for i := range cfg.Addrs {
		one := cfg
		one.Addrs = append(slices.Clone(cfg.Addrs[i:]), cfg.Addrs[:i]...)
		stores = append(stores, opened(t, one))
	}
	migrateAtOnce(t, stores)
	wantAlike(t, stores[0])
}

// A replica that was away, or is new, gets the tables as they are by now, and the rows.
func testReplicaComesLater(t *testing.T, c *clickhousetest.Cluster) {
	cfg := clusterConfig(t, c)
	c.Links[1].Cut()
	early := opened(t, cfg)
	c.Links[1].Mend()
	if r := early.Replicas(); r[0].Err != nil || r[1].Err == nil {
		t.Fatalf("replicas %v, want the second away", r)
	}
	if err := early.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustInsert(t, early, "a", estate(1000)...)
	late := opened(t, cfg)
	if err := late.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantAlike(t, late)
	settle(t, late)
	wantOnReplicas(t, late, "SELECT count() FROM flows", 1000)
	mustInsert(t, late, "a", estate(1000)...)
	wantStored(t, late, 1000)
}

func testReplicatedAnswers(t *testing.T, c *clickhousetest.Cluster) {
	rows := append(estate(3000), visits(clients(2*maxPeers, false))...)
	one, all := migrated(t), openCluster(t, c)
	fill(t, one, rows)
	fill(t, all, rows)
	settle(t, all)
	want, got := reads(t, one), reads(t, all)
	for name := range want {
		if diff := cmp.Diff(want[name], got[name], compareAddrs); diff != "" {
			t.Errorf("%s (-one server, +two shards of two replicas):\n%s", name, diff)
		}
	}
}

// A batch is stored once though it is sent to both replicas, also before the
// second has fetched what the first has.
func testReplicatedToken(t *testing.T, c *clickhousetest.Cluster) {
	s := openCluster(t, c)
	rows := estate(1000)
	send := func(to int) {
		t.Helper()
		mustInsert(t, only(t, s, c.Links[to]), "a", rows...)
	}
	c.Parts[0].Cut()
	defer c.Parts[0].Mend()
	send(0)
	send(1)
	const flows = "SELECT count() FROM flows"
	if first, second := askReplica(t, s, c.Links[0].Addr(), flows), askReplica(t, s, c.Links[1].Addr(), flows); first != 1000 || second != 0 {
		t.Fatalf("%d and %d flows, want 1000 on the first replica and none on the second, which cannot fetch them", first, second)
	}
	c.Parts[0].Mend()
	settle(t, s)
	send(1)
	settle(t, s)
	wantOnReplicas(t, s, flows, 1000)
	wantOnReplicas(t, s, "SELECT sum(connections) FROM edges", 1000)
}

// A replica that dies between flows and their edges: the other one takes the same
// batch for its edges alone, also though its view is another.
func testReplicatedHalf(t *testing.T, c *clickhousetest.Cluster) {
	s := openCluster(t, c)
	first, second := only(t, s, c.Links[0]), only(t, s, c.Links[1])
	rows := estate(1000)
	var view string
	if err := first.conn.QueryRow(t.Context(), "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = 'hours_from_flows'").Scan(&view); err != nil {
		t.Fatal(err)
	}
	mustExec(t, first, "DROP TABLE hours_from_flows SYNC")
	mustInsert(t, first, "a", rows...)
	settle(t, s)
	wantOnReplicas(t, s, "SELECT count() FROM flows", 1000)
	wantOnReplicas(t, s, "SELECT count() FROM edges", 0)
	mustInsert(t, second, "a", rows...)
	mustExec(t, first, view)
	mustInsert(t, first, "a", rows...)
	settle(t, s)
	for _, table := range []string{"flows", "edges", "edge_days", "edge_months"} {
		wantOnReplicas(t, s, "SELECT sum(connections) FROM "+table, 1000)
	}
}

// With a quorum of both replicas a batch is not told to be stored before the second
// has fetched it, however often it is sent and to which.
func testReplicatedQuorum(t *testing.T, c *clickhousetest.Cluster) {
	s := openCluster(t, c)
	rows := estate(1000)
	send := func(to int) error {
		settings := writeSettings()
		settings["insert_deduplication_token"] = "a"
		settings["insert_quorum"] = 2
		settings["insert_quorum_timeout"] = 500 // milliseconds
		one := only(t, s, c.Links[to])
		return one.insertBlock(t.Context(), one.shards[0], "flows", settings, rows)
	}
	c.Parts[0].Cut()
	defer c.Parts[0].Mend()
	for _, to := range []int{0, 0, 1} {
		if err := send(to); err == nil {
			t.Error("told to be stored, and the second replica could not fetch it")
		}
	}
	c.Parts[0].Mend()
	for try := 1; ; try++ {
		err := send(0)
		if err == nil {
			break
		}
		if try == 100 {
			t.Fatal(err)
		}
	}
	wantOnReplicas(t, s, "SELECT count() FROM flows", 1000)
	settle(t, s)
	wantOnReplicas(t, s, "SELECT sum(connections) FROM edges", 1000)
}

// only is a store on one of the replicas, as if there were no others.
func only(t testing.TB, s *Store, link *clickhousetest.Link) *Store {
	t.Helper()
	cfg := s.cfg
	cfg.Addrs, cfg.Cluster = []string{link.Addr()}, ""
	return opened(t, cfg)
}

// Old months are folded on one replica a shard, and the others fetch what came of
// it. One that has not fetched all of a month replaces none of it.
func testReplicatedFold(t *testing.T, c *clickhousetest.Cluster) {
	cfg := clusterConfig(t, c)
	cfg.Retention = Retention{Flows: 365 * day, Hours: 365 * day, Days: 365 * day, Months: 400 * day, Coverage: 400 * day}
	s := opened(t, cfg)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows := visits(clients(4*maxPeers, false))
	for i := range rows {
		rows[i].Time = noon.AddDate(0, 0, -120)
		rows[i].FirstSeen = rows[i].Time
	}
	mustInsert(t, s, "a", rows[:3*maxPeers]...)
	settle(t, s)
	c.Links[2].Cut() // so the second shard's second replica gets the rest, and keeps it for itself
	c.Parts[3].Cut()
	insertAtLast(t, s, "b", rows[3*maxPeers:])
	c.Links[2].Mend()
	s.cfg.Retention.Flows = 30 * day // nothing comes for that month any more
	fold := func(want int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if n, err := s.Fold(ctx); err != nil || n != want {
			t.Fatalf("%d partitions folded, %v; want %d", n, err, want)
		}
	}
	settle(t, s, s.Replicas()[:2]...)
	fold(2) // both tables on the first shard
	c.Parts[3].Mend()
	settle(t, s)
	before, err := s.Edges(t.Context(), EdgeFilter{Times: true})
	if err != nil {
		t.Fatal(err)
	}
	fold(2)
	fold(0)
	settle(t, s)
	for _, table := range []string{"edge_days", "edge_months"} {
		for _, r := range s.Replicas() {
			on(t, s, r.Addr, s.cfg.Database, func(db *sql.DB) error {
				_, err := db.ExecContext(t.Context(), "OPTIMIZE TABLE "+table+" FINAL")
				return err
			})
		}
		wantOnReplicas(t, s, "SELECT count() FROM "+table, 16)
		wantOnReplicas(t, s, "SELECT sum(connections) FROM "+table, uint64(len(rows)))
	}
	wantOnReplicas(t, s, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND startsWith(name, '.')", 0)
	s.cfg.Retention.Hours = time.Nanosecond // days answer
	after, err := s.Edges(t.Context(), EdgeFilter{Times: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after, compareAddrs); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// insertAtLast sends a batch until one replica of each shard has its part.
func insertAtLast(t testing.TB, s *Store, token string, rows []flow.Labelled) {
	t.Helper()
	for try := 1; ; try++ {
		err := s.InsertFlows(t.Context(), token, rows)
		if err == nil {
			return
		}
		if try == 100 {
			t.Fatal(err)
		}
	}
}

// A server of each shard is killed in the middle of inserts.
func testReplicaKilled(t *testing.T, c *clickhousetest.Cluster) {
	s := openCluster(t, c)
	const batches = 20
	var sent uint64
	for round, at := range []int{0, 3} {
		for batch := range batches {
			rows := connections(200, noon.Add(-time.Duration(batch)*time.Hour))
			for i := range rows {
				rows[i].Key.Source = netip.AddrFrom4([4]byte{10, byte(round), byte(batch), byte(i)})
				rows[i].DestinationPort = uint16(8000 + i%20)
			}
			if batch == batches/3 {
				kill := time.AfterFunc(20*time.Millisecond, func() { _ = syscall.Kill(c.Engines[at].PID(), syscall.SIGKILL) })
				defer kill.Stop()
			}
			insertAtLast(t, s, token(round*batches+batch), rows)
			sent += uint64(len(rows))
		}
		if err := <-c.Engines[at].Done(); err == nil {
			t.Fatal("it was not killed")
		}
		if err := c.Engines[at].Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		serveParts(t, c, at)
	}
	settle(t, s)
	wantStored(t, s, sent)
	const keys = "source_name, destination_name, port, sum(connections), sum(answered), sum(forward_bytes)"
	for _, table := range []string{"edges", "edge_days", "edge_months"} {
		wantOnReplicas(t, s, "SELECT sum(connections) FROM "+table, sent)
		wantOnReplicas(t, s, "SELECT count() FROM (SELECT "+keys+" FROM "+table+" GROUP BY ALL EXCEPT SELECT "+
			strings.Replace(keys, "port", "destination_port", 1)+" FROM flows GROUP BY ALL)", 0)
	}
}

// Without Keeper nothing is stored, everything is read, and it is said why.
func testReplicatedWithoutKeeper(t *testing.T, c *clickhousetest.Cluster) {
	cfg := clusterConfig(t, c)
	cfg.InsertTimeout = 2 * time.Second
	s := opened(t, cfg)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustInsert(t, s, "a", estate(100)...)
	settle(t, s)
	c.Keeper.Cut()
	defer c.Keeper.Mend()
	if err := s.InsertFlows(t.Context(), "b", estate(200)[100:]); err == nil {
		t.Error("stored without Keeper")
	}
	wantStored(t, s, 100)
	s.cfg.Retention.Days += day
	wantError(t, s.Migrate(t.Context()), "does not reach its Keeper", "<zookeeper>")
	st, err := s.Status(t.Context(), time.Hour)
	if err != nil || !strings.Contains(strings.Join(st.Problems, "\n"), "replicated tables are read-only") {
		t.Errorf("status says %q, %v", st.Problems, err)
	}
	c.Keeper.Mend()
	insertAtLast(t, s, "b", estate(200)[100:])
	settle(t, s)
	wantStored(t, s, 200)
}

func testReplicatedRefuses(t *testing.T, c *clickhousetest.Cluster) {
	s := openCluster(t, c)
	s.mostReplicas = 1 // as another remote_servers would have it
	wantError(t, s.checkWindows(t.Context()), "ReplicatedMergeTree", "one replica a shard")

	// A new disk, while Keeper has the tables of the old one.
	lost := opened(t, clusterConfig(t, c))
	if err := lost.at(c.Links[0].Addr()).migrateReplica(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	table := strings.NewReplacer("{replica}", "r2", lost.cfg.Database+".flows", lost.cfg.Database+"_old.flows").Replace(tablesOn(t, lost, c.Links[0].Addr())["flows"])
	on(t, lost, c.Links[0].Addr(), "", func(db *sql.DB) error {
		_, err1 := db.ExecContext(t.Context(), "CREATE DATABASE "+lost.cfg.Database+"_old")
		_, err2 := db.ExecContext(t.Context(), table)
		return errors.Join(err1, err2)
	})
	wantError(t, lost.Migrate(t.Context()), c.Links[1].Addr(), "listed by Keeper", "SYSTEM DROP REPLICA")
}

func TestShardNames(t *testing.T) {
	type server struct {
		number uint32
		name   string
	}
	for name, c := range map[string]struct {
		servers []server
		fit     bool
	}{
		"two of two":             {[]server{{1, "a"}, {2, "b"}, {1, "a"}, {2, "b"}}, true},
		"two names of a shard":   {[]server{{1, "a"}, {2, "b"}, {1, "c"}}, false},
		"one name of two shards": {[]server{{1, "a"}, {2, "a"}}, false},
		"changed over":           {[]server{{1, "a"}, {2, "b"}, {1, "b"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			shards, fit := shardNames{}, true
			for _, s := range c.servers {
				fit = shards.fit(s.number, s.name) && fit
			}
			if fit != c.fit {
				t.Errorf("they fit: %v, want %v", fit, c.fit)
			}
		})
	}
}
