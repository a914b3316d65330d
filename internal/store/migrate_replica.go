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
// cluster: the steps may run again, so each replica runs them for itself.
func (s *Store) migrateReplica(ctx context.Context) error {
	return uncontested(ctx, func() error {
		if err := s.migrateServer(ctx); err != nil {
			return err
		}
		return s.spanShards(ctx)
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
	for _, table := range tables {
		// Checked identifiers, all of them; DDL takes no parameters.
		statement := fmt.Sprintf("CREATE OR REPLACE TABLE `%s`.`%s` AS `%s`.`%s` ENGINE = Distributed('%s', '%s', '%s')",
			s.readDatabase(), table, s.cfg.Database, table, s.cfg.Cluster, s.cfg.Database, table)
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return s.explain("create table "+s.readDatabase()+"."+table, err)
		}
	}
	return nil
}

// withRows picks the tables of system.tables that have rows of their own, the
// record of steps excepted.
const withRows = "endsWith(engine, 'MergeTree') AND name != '" + versionTable + "' AND NOT startsWith(name, '.')"

// localTables are the tables with rows in them.
func (s *Store) localTables(ctx context.Context, db *sql.DB) (out []string, err error) {
	rows, err := db.QueryContext(ctx, "SELECT name FROM system.tables WHERE database = {database:String} AND "+withRows+" ORDER BY name",
		clickhouse.Named("database", s.cfg.Database))
	if err != nil {
		return nil, s.explain("list tables", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, s.explain("list tables", err)
		}
		out = append(out, name)
	}
	return out, s.explain("list tables", rows.Err())
}

// checkMacros compares what the cluster calls a shard with what its servers do.
// Where they differ rows would be read twice, or not at all.
func (s *Store) checkMacros(ctx context.Context) error {
	query := `SELECT _shard_num, groupUniqArray(substitution) AS names
		FROM clusterAllReplicas({cluster:String}, system.macros) WHERE macro = 'shard' GROUP BY _shard_num ORDER BY names`
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"skip_unavailable_shards": 1}))
	rows, err := s.conn.Query(ctx, query, clickhouse.Named("cluster", s.cfg.Cluster))
	if err != nil {
		return s.explain("compare macros", err)
	}
	defer func() { _ = rows.Close() }()
	var numbered []string
	for rows.Next() {
		var number uint32
		var names []string
		if err := rows.Scan(&number, &names); err != nil {
			return s.explain("compare macros", err)
		}
		if len(names) != 1 || slices.Contains(numbered, names[0]) {
			return fmt.Errorf("shard %d of clickhouse cluster %q has servers whose macro \"shard\" is %s: give the replicas of a shard the same one, and each shard its own",
				number, s.cfg.Cluster, strings.Join(names, ", "))
		}
		numbered = append(numbered, names[0])
	}
	return s.explain("compare macros", rows.Err())
}
