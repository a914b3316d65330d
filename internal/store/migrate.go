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

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
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
// yet. Running it again, also after a crash half way, does no harm.
func (s *Store) Migrate(ctx context.Context) error {
	if err := s.migrateTo(ctx, math.MaxInt64); err != nil {
		return err
	}
	return s.checkWindows(ctx)
}

// migrateTo runs the steps up to the one of that number.
func (s *Store) migrateTo(ctx context.Context, step int64) error {
	if err := s.createDatabase(ctx); err != nil {
		return err
	}
	db := clickhouse.OpenDB(s.options(s.cfg.Database))
	err := s.runSteps(ctx, db, step)
	if closeErr := db.Close(); err == nil && closeErr != nil {
		return fmt.Errorf("close clickhouse: %w", closeErr)
	}
	return err
}

func (s *Store) createDatabase(ctx context.Context) error {
	conn, err := clickhouse.Open(s.options(""))
	if err != nil {
		return fmt.Errorf("open clickhouse: %w", err)
	}
	// The name is a checked identifier; DDL takes no parameters.
	err = s.explain("create database", conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS `"+s.cfg.Database+"`"))
	return errors.Join(err, conn.Close())
}

func (s *Store) runSteps(ctx context.Context, db *sql.DB, step int64) error {
	steps, err := migrations.Schema{}.Steps()
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

var windowPattern = regexp.MustCompile(`\bnon_replicated_deduplication_window = (\d+)`)

// checkWindows refuses tables that would not notice a repeated batch.
func (s *Store) checkWindows(ctx context.Context) error {
	tables := []string{"coverage", "edges", "flows"}
	var seen []string
	const query = "SELECT name, engine, engine_full FROM system.tables WHERE database = {database:String} AND has({tables:Array(String)}, name)"
	err := s.each(ctx, "check tables", query, []any{clickhouse.Named("database", s.cfg.Database), clickhouse.Named("tables", tables)},
		func(rows driver.Rows) error {
			var name, engine, full string
			if err := rows.Scan(&name, &engine, &full); err != nil {
				return err
			}
			seen = append(seen, name)
			if engine != "MergeTree" && engine != "AggregatingMergeTree" {
				return nil // the replicated ones remember by themselves
			}
			m := windowPattern.FindStringSubmatch(full)
			if m != nil {
				if n, err := strconv.Atoi(m[1]); err == nil && n >= minWindow {
					return nil
				}
			}
			return &windowError{database: s.cfg.Database, table: name}
		})
	var we *windowError
	if errors.As(err, &we) {
		return we
	}
	if err != nil {
		return err
	}
	slices.Sort(seen)
	if !slices.Equal(seen, tables) {
		return fmt.Errorf("clickhouse database %q has only the tables %q of %q: drop the database, or use another one", s.cfg.Database, seen, tables)
	}
	return nil
}

type windowError struct{ database, table string }

func (e *windowError) Error() string {
	return fmt.Sprintf("clickhouse table %s.%s forgets batches too early, so a repeated one would count twice: "+
		"run ALTER TABLE %s.%s MODIFY SETTING non_replicated_deduplication_window = 50000", e.database, e.table, e.database, e.table)
}
