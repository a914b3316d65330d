package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// Codes of DDL that another one came in the way of: a server that migrates at
// the same time, or the other replica of the same tables.
var contested = []int32{
	codeTableExists, codeUnknownTable, codeUnknownIdentifier, codeNoFile, codeNoCreateQuery,
	codeDatabaseExists, codeReplicaExists, codeCannotAssignAlter, codeAborted,
}

const (
	migrateTries = 6
	migratePause = 100 * time.Millisecond // and twice as long each time
)

// migrateReplica brings one replica up to date. There is no DDL for the whole
// cluster: the steps may run again, so each replica runs them for itself. Peers
// are the other replicas of its shard.
func (s *Store) migrateReplica(ctx context.Context, peers []string) error {
	return uncontested(ctx, func() error {
		for _, peer := range peers {
			if err := s.adoptTables(ctx, s.at(peer)); err != nil {
				return err
			}
		}
		if err := s.migrateServer(ctx); err != nil {
			return err
		}
		return s.spanShards(ctx)
	})
}

// adoptTables makes the tables that a peer has and this replica has not. They are
// as later steps left them, and Keeper takes a replica of a table only as the
// table is now; the steps then find them made.
func (s *Store) adoptTables(ctx context.Context, peer *Store) error {
	var here, there []localTable
	for of, out := range map[*Store]*[]localTable{s: &here, peer: &there} {
		err := of.withDB("", func(db *sql.DB) (err error) { *out, err = of.localTables(ctx, db); return err })
		if err != nil {
			return err
		}
	}
	have := map[string]bool{}
	for _, t := range here {
		have[t.name] = true
	}
	there = slices.DeleteFunc(there, func(t localTable) bool { return have[t.name] })
	if len(there) == 0 {
		return nil
	}
	if err := s.createDatabase(ctx, s.cfg.Database); err != nil {
		return err
	}
	return s.withDB(s.cfg.Database, func(db *sql.DB) error {
		for _, t := range there {
			if _, err := db.ExecContext(ctx, t.definition); err != nil {
				return s.explain("create table "+t.name+" as "+strings.Join(peer.cfg.Addrs, ", ")+" has it", err)
			}
		}
		return nil
	})
}

// uncontested runs DDL again that another one came in the way of.
func uncontested(ctx context.Context, run func() error) error {
	pause := migratePause
	for try := 1; ; try++ {
		err := run()
		var exception *clickhouse.Exception
		if !errors.As(err, &exception) || !slices.Contains(contested, exception.Code) || try == migrateTries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// spanShards makes the Distributed tables anew: they hold nothing, and have the
// columns that the tables below them have now.
func (s *Store) spanShards(ctx context.Context) error {
	if err := s.createDatabase(ctx, s.readDatabase()); err != nil {
		return err
	}
	return s.withDB(s.readDatabase(), func(db *sql.DB) error { return s.spanShardsOn(ctx, db) })
}

func (s *Store) spanShardsOn(ctx context.Context, db *sql.DB) error {
	tables, err := s.localTables(ctx, db)
	if err != nil {
		return err
	}
	for _, t := range tables {
		// Checked identifiers, all of them; DDL takes no parameters.
		statement := fmt.Sprintf("CREATE OR REPLACE TABLE `%s`.`%s` AS `%s`.`%s` ENGINE = Distributed('%s', '%s', '%s')",
			s.readDatabase(), t.name, s.cfg.Database, t.name, s.cfg.Cluster, s.cfg.Database, t.name)
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return s.explain("create table "+s.readDatabase()+"."+t.name, err)
		}
	}
	return nil
}

// withRows picks the tables of system.tables that have rows of their own, the
// record of steps excepted.
const withRows = "endsWith(engine, 'MergeTree') AND name != '" + versionTable + "' AND NOT startsWith(name, '.')"

// localTable is a table with rows in it, and the statement that makes it.
type localTable struct{ name, definition string }

func (s *Store) localTables(ctx context.Context, db *sql.DB) (out []localTable, err error) {
	rows, err := db.QueryContext(ctx, "SELECT name, create_table_query FROM system.tables WHERE database = {database:String} AND "+withRows+" ORDER BY name",
		clickhouse.Named("database", s.cfg.Database))
	if err != nil {
		return nil, s.explain("list tables", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var t localTable
		if err := rows.Scan(&t.name, &t.definition); err != nil {
			return nil, s.explain("list tables", err)
		}
		out = append(out, t)
	}
	return out, s.explain("list tables", rows.Err())
}

// checkMacros compares what the cluster calls a shard with what its servers do.
// Where they differ rows would be read twice, or not at all.
func (s *Store) checkMacros(ctx context.Context) error {
	shards := shardNames{}
	for first := range s.mostReplicas {
		// Each shard's replica at that place answers, or another one in its stead.
		ctx := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
			"skip_unavailable_shards": 1, "prefer_localhost_replica": 0, "use_hedged_requests": 0,
			"load_balancing": "first_or_random", "load_balancing_first_offset": first,
		}))
		const query = "SELECT groupArray(_shard_num), groupArray(substitution) FROM cluster({cluster:String}, system.macros) WHERE macro = 'shard'"
		var numbers []uint32
		var names []string
		if err := s.conn.QueryRow(ctx, query, clickhouse.Named("cluster", s.cfg.Cluster)).Scan(&numbers, &names); err != nil {
			return s.explain("compare macros", err)
		}
		for i, number := range numbers {
			if !shards.fit(number, names[i]) {
				return fmt.Errorf("a server in shard %d of clickhouse cluster %q has the macro \"shard\" at %s: give the replicas of a shard the same one, and each shard its own",
					number, s.cfg.Cluster, names[i])
			}
		}
	}
	return nil
}

// shardNames are the cluster's numbers of its shards with the names that their servers have for them.
type shardNames map[uint32]string

// fit notes that a server has a name for its shard, and reports whether that of
// another replica is the same and that of another shard another one.
func (n shardNames) fit(number uint32, name string) bool {
	for other, has := range n {
		if (other == number) != (has == name) {
			return false
		}
	}
	n[number] = name
	return true
}
