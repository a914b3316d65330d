package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Snapshot is what the tables held at one moment. The server keeps it, as
// further links to its files, until the caller removes Root.
type Snapshot struct {
	Root   string
	Step   int64 // of the schema
	Tables []SnapshotTable
}

// SnapshotTable is one table with rows of its own.
type SnapshotTable struct {
	Name string `json:"name"`
	Dir  string `json:"-"`    // below Root; missing when the table has no rows
	Rows uint64 `json:"rows"` // rows that a merge will add up count each
	Days int    `json:"days"` // how long rows are kept; 0 is for good

	lifetime string // the expression of the time that Days count from
}

const (
	// closedFor bounds how long a snapshot keeps flows out, also when its process
	// is killed: the constraint that does it ends by itself.
	closedFor = time.Minute
	drainTime = 30 * time.Second
	drainPoll = 10 * time.Millisecond
)

// Snapshot freezes all tables at one moment: no batch of flows is in it without
// its edges, or the other way round. While it is made, which takes as long as
// the longest running insert, batches of flows are refused and their senders
// try again. Meanwhile each is called with every table and the directory that
// the server keeps it in. It is for one server whose files the caller can read.
func (s *Store) Snapshot(ctx context.Context, each func(table, dir string) error) (snap Snapshot, err error) {
	if s.cfg.Cluster != "" {
		return Snapshot{}, errors.New("a cluster has no snapshot of one moment: use the servers' own BACKUP, or the replicas")
	}
	if snap.Step, err = s.step(ctx); err != nil {
		return Snapshot{}, err
	}
	open, err := s.closeFlows(ctx)
	if err != nil {
		return Snapshot{}, err
	}
	defer func() { err = errors.Join(err, open()) }()
	if err := s.drain(ctx); err != nil {
		return Snapshot{}, err
	}
	if snap.Tables, err = s.ownTables(ctx); err != nil {
		return Snapshot{}, err
	}
	name := fmt.Sprintf("ringfence_%d", time.Now().UnixNano())
	for i := range snap.Tables {
		t := &snap.Tables[i]
		// Checked identifiers; DDL takes no parameters.
		if err := s.conn.Exec(ctx, fmt.Sprintf("ALTER TABLE `%s` FREEZE WITH NAME '%s'", t.Name, name)); err != nil {
			return Snapshot{}, s.explain("freeze "+t.Name, err)
		}
		if err := each(t.Name, t.Dir); err != nil {
			return Snapshot{}, err
		}
		data, rel, ok := strings.Cut(t.Dir, "/store/")
		if !ok {
			return Snapshot{}, fmt.Errorf("clickhouse keeps table %s in %s: want a directory below store", t.Name, t.Dir)
		}
		snap.Root = data + "/shadow/" + name
		t.Dir = snap.Root + "/store/" + rel
	}
	return snap, nil
}

// Restore gives an empty database the schema and the retention of snap, lets
// place put each table's parts into a directory, takes them in, and then
// migrates the schema to the newest step.
func (s *Store) Restore(ctx context.Context, snap Snapshot, place func(table, dir string) error) error {
	if err := s.migrateTo(ctx, snap.Step); err != nil {
		return err
	}
	tables, err := s.ownTables(ctx)
	if err != nil {
		return err
	}
	for _, want := range snap.Tables {
		i := slices.IndexFunc(tables, func(t SnapshotTable) bool { return t.Name == want.Name })
		if i < 0 {
			return fmt.Errorf("step %d of the schema has no table %q, which the snapshot holds: restore it with the ringfence that made it", snap.Step, want.Name)
		}
		// Before there are rows that a shorter time would have deleted.
		if t := &tables[i]; want.Days > 0 && t.Days > 0 && want.Days != t.Days {
			// The expression is the server's own, out of its definition of the table.
			if err := s.conn.Exec(ctx, fmt.Sprintf("ALTER TABLE `%s` MODIFY TTL %s + INTERVAL %d DAY DELETE", t.Name, t.lifetime, want.Days)); err != nil {
				return s.explain("set retention of "+t.Name, err)
			}
		}
		if err := place(want.Name, strings.TrimSuffix(tables[i].Dir, "/")+"/detached"); err != nil {
			return err
		}
		if err := s.conn.Exec(ctx, fmt.Sprintf("ALTER TABLE `%s` ATTACH PARTITION ALL", want.Name)); err != nil {
			return s.explain("take in "+want.Name, err)
		}
	}
	var left uint64
	err = s.conn.QueryRow(ctx, "SELECT count() FROM system.detached_parts WHERE database = currentDatabase()").Scan(&left)
	if err != nil {
		return s.explain("look for parts left out", err)
	}
	if left > 0 {
		return fmt.Errorf("clickhouse did not take in %d parts: see its log", left)
	}
	return s.migrateTo(ctx, math.MaxInt64)
}

// step is the newest step of the schema that has run.
func (s *Store) step(ctx context.Context) (int64, error) {
	var step int64
	err := s.conn.QueryRow(ctx, "SELECT max(version_id) FROM "+versionTable+" WHERE is_applied = 1").Scan(&step)
	return step, s.explain("read the schema's version", err)
}

// ownTables are the tables that a snapshot holds.
func (s *Store) ownTables(ctx context.Context) (out []SnapshotTable, err error) {
	const query = `SELECT name, data_paths[1], ifNull(total_rows, 0), create_table_query FROM system.tables
		WHERE database = currentDatabase() AND ` + withRows + ` ORDER BY name`
	err = s.each(ctx, "list tables", query, nil, func(rows driver.Rows) error {
		var t SnapshotTable
		var definition string
		err := rows.Scan(&t.Name, &t.Dir, &t.Rows, &definition)
		t.lifetime, t.Days = lifetimeIn(definition)
		out = append(out, t)
		return err
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("clickhouse database %q has no tables", s.cfg.Database)
	}
	return out, err
}

// closeFlows makes the server refuse new batches of flows until open is called.
func (s *Store) closeFlows(ctx context.Context) (open func() error, err error) {
	const drop = "ALTER TABLE flows DROP CONSTRAINT IF EXISTS snapshot_is_made"
	if err := s.conn.Exec(ctx, drop); err != nil { // of one that was killed
		return nil, s.explain("open flows", err)
	}
	open = func() error { return s.explain("open flows", s.conn.Exec(context.WithoutCancel(ctx), drop)) }
	add := fmt.Sprintf("ALTER TABLE flows ADD CONSTRAINT snapshot_is_made CHECK toUnixTimestamp(now()) >= %d",
		time.Now().Add(closedFor).Unix())
	if err := s.conn.Exec(ctx, add); err != nil {
		return nil, errors.Join(s.explain("close flows", err), open())
	}
	return open, nil
}

// drain waits for the inserts that began before flows were closed.
func (s *Store) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	var running []string
	const list = "SELECT groupArray(query_id) FROM system.processes WHERE query_kind = 'Insert'"
	if err := s.conn.QueryRow(ctx, list).Scan(&running); err != nil {
		return s.explain("wait for inserts", err)
	}
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for len(running) > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d inserts of flows did not end within %s: try again when the store has less to do", len(running), drainTime)
		case <-tick.C:
		}
		err := s.conn.QueryRow(ctx, list+" AND has({ids:Array(String)}, query_id)", clickhouse.Named("ids", running)).Scan(&running)
		if err != nil {
			return s.explain("wait for inserts", err)
		}
	}
	return nil
}
