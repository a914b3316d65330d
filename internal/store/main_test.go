package store

import (
	"context"
	"database/sql"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
	"github.com/ringfence/ringfence/internal/flow"
)

func TestMain(m *testing.M) { clickhousetest.Main(m) }

func testConfig(t testing.TB) Config {
	t.Helper()
	addr, user, password := clickhousetest.Start(t)
	return Config{Addrs: []string{addr}, User: user, Password: password, Database: clickhousetest.Database(t)}
}

// empty returns a store on a database of its own without a schema.
func empty(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.Context(), testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.cfg.Database != model.database { // tables take memory, also idle ones
			err := s.withDB("", func(db *sql.DB) error {
				_, err := db.ExecContext(context.Background(), "DROP DATABASE IF EXISTS `"+s.cfg.Database+"`")
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// model is a database that Migrate made, and the definitions of its tables.
var model struct {
	sync.Mutex
	database string
	tables   []string
}

// migrated returns a store on a database of its own that is as Migrate leaves
// it. One is migrated, and the others are made like it.
func migrated(t testing.TB) *Store {
	t.Helper()
	model.Lock()
	defer model.Unlock()
	if model.database == "" {
		s := empty(t)
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		const tables = "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() ORDER BY engine = 'MaterializedView', name"
		if err := s.conn.QueryRow(t.Context(), "SELECT groupArray(create_table_query) FROM ("+tables+")").Scan(&model.tables); err != nil {
			t.Fatal(err)
		}
		model.database = s.cfg.Database
	}
	s := empty(t)
	if err := s.createDatabase(t.Context(), s.cfg.Database); err != nil {
		t.Fatal(err)
	}
	for _, table := range model.tables {
		mustExec(t, s, strings.ReplaceAll(table, model.database+".", s.cfg.Database+"."))
	}
	mustExec(t, s, "INSERT INTO "+versionTable+" SELECT * FROM "+model.database+"."+versionTable)
	return s
}

// ask returns the one number that query gives.
func ask(t testing.TB, s *Store, query string) uint64 {
	t.Helper()
	var n uint64
	if err := s.conn.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func mustExec(t testing.TB, s *Store, query string) {
	t.Helper()
	if err := s.conn.Exec(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func mustInsert(t testing.TB, s *Store, token string, rows ...flow.Labelled) {
	t.Helper()
	if err := s.InsertFlows(t.Context(), token, rows); err != nil {
		t.Fatal(err)
	}
}

// noon is a time in the middle of an hour, a day and a month, so that tests
// choose themselves when to cross a border. It is recent: rows older than their
// TTL vanish when they are merged.
var noon = time.Now().UTC().AddDate(0, 0, -2).Truncate(24 * time.Hour).Add(12*time.Hour + 30*time.Minute)

var (
	frontend = flow.Workload{Namespace: "boutique", Kind: "Deployment", Name: "frontend"}
	cart     = flow.Workload{Namespace: "boutique", Kind: "Deployment", Name: "cart"}
	redis    = flow.Workload{Namespace: "boutique", Kind: "StatefulSet", Name: "redis"}
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func of(w flow.Workload) *flow.Party { return &flow.Party{Workload: w} }

// nobodys is a record that nobody is known to be an end of.
func nobodys(r flow.Record) flow.Labelled {
	return flow.Labelled{Record: r, Observer: flow.Nobody, Source: flow.Nobody, Dest: flow.Nobody}
}

// connection is one answered TCP connection, seen at its source.
func connection(from, to flow.Workload, sport uint16, at time.Time) flow.Labelled {
	return flow.Labelled{
		Record: flow.Record{
			Key: flow.Key{
				Source: addr("10.0.0.1"), Destination: addr("10.0.0.2"),
				SourcePort: sport, DestinationPort: 8080, Protocol: flow.TCP,
			},
			Event: flow.EventEnd, Direction: flow.Egress,
			Time: at, FirstSeen: at.Add(-time.Second),
			Endpoint: 7, Connections: 1, Answered: true, LiveNew: true, StagedNew: true,
			Forward: flow.Counters{Packets: 5, Bytes: 500}, Reverse: flow.Counters{Packets: 4, Bytes: 4000},
			ForwardFlags: 0x1b, ReverseFlags: 0x1b,
			Outcome: flow.OutcomeForwarded,
		},
		Node: "node-1", Observer: &flow.Party{Workload: from, Endpoint: from.Name + "-1"},
		Source: &flow.Party{Workload: from, Endpoint: from.Name + "-1", Identity: 300, Labels: "app=" + from.Name + ",tier=x"},
		Dest:   &flow.Party{Workload: to, Endpoint: to.Name + "-1", Identity: 301, Labels: "app=" + to.Name},
	}
}

// connections are n of them with different source ports.
func connections(n int, at time.Time) []flow.Labelled {
	out := make([]flow.Labelled, n)
	for i := range out {
		out[i] = connection(frontend, cart, uint16(i), at)
		out[i].Key.Source = netip.AddrFrom4([4]byte{10, 1, byte(i >> 16), 1})
	}
	return out
}

func edgeOf(t testing.TB, s *Store, f EdgeFilter) flow.Edge {
	t.Helper()
	edges, err := s.Edges(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	if len(edges) != 1 {
		t.Fatalf("%d edges, want 1: %v", len(edges), edges)
	}
	return edges[0]
}

// raw returns a connection that sends the given settings, as another program
// would.
func raw(t testing.TB, s *Store, settings clickhouse.Settings) clickhouse.Conn {
	t.Helper()
	o := s.options(s.cfg.Database)
	o.Settings = settings
	c, err := clickhouse.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func token(i int) string { return fmt.Sprintf("node-1/7/%d", i) }
