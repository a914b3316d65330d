package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/ringfence/ringfence/migrations"
)

// versionTable is goose's record of the steps that ran.
const versionTable = "schema_migrations"

// minWindow is the fewest batches a table must remember: a replay after more
// would be stored again.
const minWindow = 1000

// Migrate makes the database and runs the steps of the schema that have not run
// yet. Running it again, also after a crash half way or beside another server's
// run, does no harm. In a cluster it does so on every replica that answered Open;
// Replicas says which did not.
func (s *Store) Migrate(ctx context.Context) error {
	if s.cfg.Cluster == "" {
		return uncontested(ctx, func() error { return s.migrateServer(ctx) })
	}
	for _, r := range s.replicas {
		if r.Err != nil {
			continue
		}
		if err := s.at(r.Addr).migrateReplica(ctx, s.peers(r)); err != nil {
			return fmt.Errorf("%s: %w", r.Addr, err)
		}
	}
	return s.checkMacros(ctx)
}

func (s *Store) migrateServer(ctx context.Context) error {
	if err := s.migrateTo(ctx, math.MaxInt64); err != nil {
		return err
	}
	if err := s.checkWindows(ctx); err != nil {
		return err
	}
	return s.withDB(s.cfg.Database, func(db *sql.DB) error { return s.retain(ctx, db) })
}

// migrateTo runs the steps up to the one of that number.
func (s *Store) migrateTo(ctx context.Context, step int64) error {
	if err := s.createDatabase(ctx, s.cfg.Database); err != nil {
		return err
	}
	return s.withDB(s.cfg.Database, func(db *sql.DB) error { return s.runSteps(ctx, db, step) })
}

// withDB lends a connection of the kind that goose wants.
func (s *Store) withDB(database string, do func(db *sql.DB) error) error {
	db := clickhouse.OpenDB(s.options(database))
	err := do(db)
	if closeErr := db.Close(); err == nil && closeErr != nil {
		return fmt.Errorf("close clickhouse: %w", closeErr)
	}
	return err
}

func (s *Store) createDatabase(ctx context.Context, name string) error {
	conn, err := clickhouse.Open(s.options(""))
	if err != nil {
		return fmt.Errorf("open clickhouse: %w", err)
	}
	// The name is a checked identifier; DDL takes no parameters.
	err = s.explain("create database", conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS `"+name+"`"))
	return errors.Join(err, conn.Close())
}

func (s *Store) runSteps(ctx context.Context, db *sql.DB, step int64) error {
	steps, err := migrations.Schema{Replicated: s.replicated()}.Steps()
	if err != nil {
		return fmt.Errorf("load migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectClickHouse, db, steps,
		goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("load migrations: %w", err)
	}
	// goose would make its table itself, but try for seconds and then tell of the
	// last try instead of what is wrong.
	versions, err := database.NewStore(goose.DialectClickHouse, versionTable)
	if err != nil {
		return fmt.Errorf("load migrations: %w", err)
	}
	if err := versions.CreateVersionTable(ctx, db); err != nil {
		return s.explain("create table "+versionTable, err)
	}
	current, target, err := provider.GetVersions(ctx)
	if err != nil {
		return s.explain("read the schema's version", err)
	}
	if current > target {
		return fmt.Errorf("the schema in clickhouse database %q is at step %d and this ringfence knows %d: upgrade ringfence, or use another database",
			s.cfg.Database, current, target)
	}
	results, err := provider.UpTo(ctx, min(step, target))
	if err != nil {
		return s.explain(fmt.Sprintf("migrate (after %d steps)", len(results)), err)
	}
	return nil
}

var windowPattern = regexp.MustCompile(`\breplicated_deduplication_window = (\d+)|\bnon_replicated_deduplication_window = (\d+)`)

// checkWindows refuses tables that would not notice a repeated batch.
func (s *Store) checkWindows(ctx context.Context) error {
	return s.withDB(s.cfg.Database, func(db *sql.DB) error { return s.checkWindowsOn(ctx, db) })
}

func (s *Store) checkWindowsOn(ctx context.Context, db *sql.DB) (err error) {
	var tables, seen []string
	for _, l := range s.cfg.Retention.lifetimes() {
		tables = append(tables, l.table)
	}
	slices.Sort(tables)
	rows, err := db.QueryContext(ctx, "SELECT name, engine, engine_full FROM system.tables WHERE database = {database:String} AND has({tables:Array(String)}, name)",
		clickhouse.Named("database", s.cfg.Database), clickhouse.Named("tables", tables))
	if err != nil {
		return s.explain("check tables", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name, engine, full string
		if err := rows.Scan(&name, &engine, &full); err != nil {
			return s.explain("check tables", err)
		}
		seen = append(seen, name)
		replicated := strings.HasPrefix(engine, "Replicated")
		if replicated != s.replicated() {
			return s.engineError(name, engine)
		}
		if !remembers(full, replicated) {
			return &windowError{database: s.cfg.Database, table: name, replicated: replicated}
		}
	}
	if err := rows.Err(); err != nil {
		return s.explain("check tables", err)
	}
	slices.Sort(seen)
	if !slices.Equal(seen, tables) {
		return fmt.Errorf("clickhouse database %q has only the tables %q of %q: drop the database, or use another one", s.cfg.Database, seen, tables)
	}
	return nil
}

// remembers reports whether a table's definition has a large enough window.
func remembers(definition string, replicated bool) bool {
	for _, m := range windowPattern.FindAllStringSubmatch(definition, -1) {
		digits := m[2]
		if replicated {
			digits = m[1]
		}
		if n, err := strconv.Atoi(digits); err == nil {
			return n >= minWindow
		}
	}
	return replicated // its default is as large
}

// engineError says that a table is replicated and should not be, or the other
// way round: the cluster got or lost its second replicas after the first start.
func (s *Store) engineError(table, engine string) error {
	if s.replicated() {
		return fmt.Errorf("clickhouse table %s.%s has the engine %s, which copies nothing to the shard's other replicas: "+
			"convert it with ATTACH TABLE %[1]s.%[2]s AS REPLICATED, or use another database", s.cfg.Database, table, engine)
	}
	return fmt.Errorf("clickhouse table %s.%s has the engine %s and cluster %q has one replica a shard: name all replicas in remote_servers and in --clickhouse, or use another database",
		s.cfg.Database, table, engine, s.cfg.Cluster)
}

type windowError struct {
	database, table string
	replicated      bool
}

func (e *windowError) Error() string {
	setting := "non_replicated_deduplication_window"
	if e.replicated {
		setting = "replicated_deduplication_window"
	}
	return fmt.Sprintf("clickhouse table %s.%s forgets batches too early, so a repeated one would count twice: "+
		"run ALTER TABLE %[1]s.%[2]s MODIFY SETTING %[3]s = %[4]d", e.database, e.table, setting, migrations.Window)
}
