package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

// minVersion is the oldest server whose views drop the repeated blocks of their
// source by its token.
var minVersion = proto.Version{Major: 25, Minor: 8}

// maxReplicaDelay is how far behind the others a replica may be and still be
// asked. New flows take as long to be seen anyway: agents send by the second.
const maxReplicaDelay = 10 * time.Second

const (
	maxConnections  = 8
	idleConnections = 4
)

// Store is a connection pool to one ClickHouse database.
type Store struct {
	cfg     Config
	conn    driver.Conn // for queries: of everything that is stored
	shards  []*shard    // for inserts: one, but in a cluster
	metrics *metrics

	replicas     []Replica // in a cluster
	mostReplicas uint64    // that a shard has

	encoders sync.Pool // of *encoder
}

// Open connects and checks that the server is one ringfence can work with. The
// schema need not exist yet; see Migrate.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register the store's metrics: %w", err)
	}
	s := &Store{cfg: cfg, metrics: m}
	s.encoders.New = func() any { return newEncoder() }
	check := s.checkServer
	if cfg.Cluster != "" {
		check = s.survey
	}
	if err := check(ctx); err != nil {
		return nil, err
	}
	if err := s.connect(); err != nil {
		return nil, fmt.Errorf("open clickhouse: %w", err)
	}
	return s, nil
}

// Close closes the connections.
func (s *Store) Close() error {
	err := s.conn.Close()
	if s.cfg.Cluster != "" {
		for _, sh := range s.shards {
			err = errors.Join(err, sh.conn.Close())
		}
	}
	return err
}

// Ping reports whether the server answers and the database exists.
func (s *Store) Ping(ctx context.Context) error {
	return s.explain("ping", s.conn.Ping(ctx))
}

func (s *Store) options(database string) *clickhouse.Options {
	return &clickhouse.Options{
		Addr:             s.cfg.Addrs,
		Auth:             clickhouse.Auth{Database: database, Username: s.cfg.User, Password: s.cfg.Password},
		TLS:              s.cfg.TLS,
		DialTimeout:      s.cfg.DialTimeout,
		ReadTimeout:      max(s.cfg.QueryTimeout, s.cfg.InsertTimeout) + s.cfg.DialTimeout,
		MaxOpenConns:     maxConnections,
		MaxIdleConns:     idleConnections,
		ConnOpenStrategy: clickhouse.ConnOpenInOrder,
		Compression:      &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
		Settings:         writeSettings(),
	}
}

// writeSettings are what idempotent inserts rest on. An asynchronous insert,
// the server's default, may put several batches into one block.
func writeSettings() clickhouse.Settings {
	return clickhouse.Settings{
		"async_insert":       0,
		"insert_deduplicate": 1,
		"deduplicate_blocks_in_dependent_materialized_views": 1,
		// Rows of nodes whose clocks are wrong may be of any number of months, and
		// must not hold up those of others.
		"max_partitions_per_insert_block": 0,
	}
}

// checkServer logs in without a database, since that may not exist yet.
func (s *Store) checkServer(ctx context.Context) error {
	return s.withDB("", func(db *sql.DB) error { return s.checkServerOn(ctx, db) })
}

func (s *Store) checkServerOn(ctx context.Context, db *sql.DB) error {
	var text string
	if err := db.QueryRowContext(ctx, "SELECT version()").Scan(&text); err != nil {
		return s.explain("connect", err)
	}
	if err := checkVersion(text); err != nil {
		return err
	}
	return s.checkSettings(ctx, db)
}

func checkVersion(text string) error {
	var v proto.Version
	if _, err := fmt.Sscanf(text, "%d.%d", &v.Major, &v.Minor); err != nil {
		return &configError{fmt.Sprintf("clickhouse version %q: not understood; ringfence needs %d.%d or newer", text, minVersion.Major, minVersion.Minor)}
	}
	if v.Major < minVersion.Major || v.Major == minVersion.Major && v.Minor < minVersion.Minor {
		return &configError{fmt.Sprintf("clickhouse is version %s: too old; upgrade it to %d.%d or newer", text, minVersion.Major, minVersion.Minor)}
	}
	return nil
}

// checkSettings asks for the settings as this connection has them, which a
// profile of the server may have pinned.
func (s *Store) checkSettings(ctx context.Context, db *sql.DB) (err error) {
	rows, err := db.QueryContext(ctx, `SELECT name, value FROM system.settings WHERE name IN
		('async_insert', 'insert_deduplicate', 'deduplicate_insert', 'deduplicate_blocks_in_dependent_materialized_views')`)
	if err != nil {
		return s.explain("read settings", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	bad := map[string]string{
		"async_insert":       "1",
		"insert_deduplicate": "0",
		"deduplicate_insert": "disable",
		"deduplicate_blocks_in_dependent_materialized_views": "0",
	}
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return s.explain("read settings", err)
		}
		if bad[name] == value {
			return &configError{fmt.Sprintf("clickhouse keeps %s at %s for user %q, so repeated batches would be counted twice: take it out of the user's profile",
				name, value, s.cfg.User)}
		}
	}
	return s.explain("read settings", rows.Err())
}

// read prepares ctx for a query with limits, and counts it.
func (s *Store) read(ctx context.Context, query string) (context.Context, func(error)) {
	settings := clickhouse.Settings{
		"max_execution_time":    s.cfg.QueryTimeout.Seconds(),
		"timeout_overflow_mode": "throw",
		"max_rows_to_read":      s.cfg.MaxRowsRead,
		"max_bytes_to_read":     s.cfg.MaxBytesRead,
		"read_overflow_mode":    "throw",
		"max_memory_usage":      s.cfg.MaxMemory,
	}
	if s.cfg.Cluster != "" {
		// All of it or nothing: neither without a shard nor from a replica that
		// is behind.
		settings["skip_unavailable_shards"] = 0
		settings["fallback_to_stale_replicas_for_distributed_queries"] = 0
		settings["max_replica_delay_for_distributed_queries"] = maxReplicaDelay.Seconds()
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settings))
	begin := time.Now()
	return ctx, func(err error) { s.metrics.query(query, time.Since(begin), err) }
}

// each runs a query and calls scan for each of its rows.
func (s *Store) each(ctx context.Context, name, query string, args []any, scan func(driver.Rows) error) (err error) {
	ctx, done := s.read(ctx, name)
	defer func() {
		err = s.explain(name, err)
		done(err)
	}()
	rows, err := s.conn.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
