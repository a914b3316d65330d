package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"regexp"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/pressly/goose/v3"

	"github.com/ringfence/ringfence/migrations"
)

// Status is how the store is. Sizes are in bytes.
type Status struct {
	Database string         `json:"database"`
	Cluster  string         `json:"cluster,omitempty"`
	Servers  []ServerStatus `json:"servers"`
	Tables   []TableStatus  `json:"tables"` // of all shards, each by one of its replicas
	Nodes    []NodeStatus   `json:"nodes"`
	Problems []string       `json:"problems"` // what people must look at
}

// ServerStatus is one ClickHouse server.
type ServerStatus struct {
	Addr    string `json:"addr"`
	Shard   string `json:"shard,omitempty"`
	Replica string `json:"replica,omitempty"`
	Error   string `json:"error,omitempty"` // why it says nothing; the rest is empty then

	Version       string `json:"version"`
	UptimeSeconds uint64 `json:"uptimeSeconds"`
	Step          int64  `json:"schemaStep"`
	DiskFree      uint64 `json:"diskFreeBytes"`
	DiskTotal     uint64 `json:"diskTotalBytes"`
	Merges        uint64 `json:"merges"`                  // that run
	Mutations     uint64 `json:"mutations"`               // that are not done
	MutationError string `json:"mutationError,omitempty"` // of one that does not get on
	BrokenParts   uint64 `json:"brokenParts"`             // put aside by the server
	ReplicaLag    uint64 `json:"replicaLagSeconds"`
	ReadOnly      uint64 `json:"readOnlyTables"` // replicated ones without their Keeper

	tables []TableStatus
}

// TableStatus is one table.
type TableStatus struct {
	Name          string    `json:"name"`
	Rows          uint64    `json:"rows"`
	Bytes         uint64    `json:"bytes"` // on disk
	BytesPerRow   float64   `json:"bytesPerRow"`
	Parts         uint64    `json:"parts"`
	Oldest        time.Time `json:"oldest,omitzero"`
	Newest        time.Time `json:"newest,omitzero"`
	RetentionDays int       `json:"retentionDays"`
}

// NodeStatus is what a node's agent told last, and what it lost in the window.
type NodeStatus struct {
	Node          string    `json:"node"`
	Last          time.Time `json:"last"`
	SilentSeconds float64   `json:"silentSeconds"` // since Last, by the clock of the store
	Spooled       uint64    `json:"spooled"`       // records that waited on the node's disk at Last
	Dropped       uint64    `json:"dropped"`       // records a full spool gave up
	Lost          uint64    `json:"lost"`          // records lost before they were read
	SkewSeconds   float64   `json:"skewSeconds"`   // the node's clock minus the store's, at Last
}

// Beyond these a number is a problem.
const (
	leastFree    = 0.05 // of the disk
	leastBytes   = 1 << 30
	longSilence  = time.Minute
	mostParts    = 1000 // of a table; the server slows inserts down at as many in one partition
	longestDelay = 5 * time.Minute
)

// Status asks every server how it is, and adds up what the agents told in the
// window that ends now. A server that does not answer is a problem in the
// Status, not an error; the error is that there is no Status at all.
func (s *Store) Status(ctx context.Context, window time.Duration) (Status, error) {
	st := Status{Database: s.cfg.Database, Cluster: s.cfg.Cluster, Problems: []string{}, Tables: []TableStatus{}, Nodes: []NodeStatus{}}
	target, err := NewestStep()
	if err != nil {
		return st, err
	}
	for _, r := range s.servers() {
		server := ServerStatus{Addr: r.Addr, Shard: r.Shard, Replica: r.Name}
		err := r.Err
		if err == nil {
			err = s.at(r.Addr).serverStatus(ctx, &server)
		}
		if err != nil {
			if s.cfg.Cluster == "" {
				return st, err
			}
			server.Error = err.Error()
		}
		st.Servers = append(st.Servers, server)
	}
	st.addTables()
	for i := range st.Servers {
		st.Problems = append(st.Problems, st.Servers[i].problems(target)...)
	}
	for i := range st.Tables {
		if t := &st.Tables[i]; t.Parts > mostParts {
			st.Problems = append(st.Problems, fmt.Sprintf("table %s has %d parts: merges do not keep up; give the server more time or faster disks", t.Name, t.Parts))
		}
	}
	if st.Nodes, err = s.nodes(ctx, window); err != nil {
		st.Problems = append(st.Problems, err.Error())
	}
	for i := range st.Nodes {
		st.Problems = append(st.Problems, st.Nodes[i].problems(window)...)
	}
	return st, nil
}

// servers are those of the cluster, or the only one.
func (s *Store) servers() []Replica {
	if s.cfg.Cluster != "" {
		return s.replicas
	}
	return []Replica{{Addr: s.cfg.Addrs[0]}}
}

// NewestStep is the last step of the schema that this ringfence knows.
func NewestStep() (int64, error) {
	names, err := fs.Glob(migrations.FS, "*.sql") // in order
	if err != nil {
		return 0, fmt.Errorf("load migrations: %w", err)
	}
	return goose.NumericComponent(names[len(names)-1])
}

const serverStatusQuery = `
SELECT
    version(), toUInt64(uptime()),
    (SELECT max(version_id) FROM ` + versionTable + ` WHERE is_applied = 1),
    (SELECT min(free_space) FROM system.disks WHERE total_space > 0),
    (SELECT argMin(total_space, free_space) FROM system.disks WHERE total_space > 0),
    (SELECT count() FROM system.merges WHERE database = currentDatabase()),
    (SELECT count() FROM system.mutations WHERE database = currentDatabase() AND NOT is_done),
    (SELECT max(latest_fail_reason) FROM system.mutations WHERE database = currentDatabase() AND NOT is_done),
    (SELECT count() FROM system.detached_parts WHERE database = currentDatabase() AND startsWith(reason, 'broken')),
    (SELECT toUInt64(max(absolute_delay)) FROM system.replicas WHERE database = currentDatabase()),
    (SELECT countIf(is_readonly) FROM system.replicas WHERE database = currentDatabase())`

// serverStatus fills in what the one server of s says of itself.
func (s *Store) serverStatus(ctx context.Context, out *ServerStatus) (err error) {
	conn, err := clickhouse.Open(s.options(s.cfg.Database))
	if err != nil {
		return fmt.Errorf("open clickhouse: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	s.conn = conn
	err = s.each(ctx, "status", serverStatusQuery, nil, func(rows driver.Rows) error {
		return rows.Scan(&out.Version, &out.UptimeSeconds, &out.Step, &out.DiskFree, &out.DiskTotal,
			&out.Merges, &out.Mutations, &out.MutationError, &out.BrokenParts, &out.ReplicaLag, &out.ReadOnly)
	})
	if err != nil {
		return err
	}
	const tables = `
SELECT name, create_table_query, ifNull(total_rows, 0), ifNull(total_bytes, 0), parts.count
FROM system.tables
LEFT JOIN (SELECT table, count() AS count FROM system.parts WHERE database = currentDatabase() AND active GROUP BY table) AS parts ON parts.table = name
WHERE database = currentDatabase() AND ` + withRows + ` AND NOT (endsWith(name, '_v1') AND total_rows = 0) -- emptied by a migration
ORDER BY name`
	var definitions []string
	err = s.each(ctx, "status", tables, nil, func(rows driver.Rows) error {
		var t TableStatus
		var definition string
		if err := rows.Scan(&t.Name, &definition, &t.Rows, &t.Bytes, &t.Parts); err != nil {
			return err
		}
		out.tables, definitions = append(out.tables, t), append(definitions, definition)
		return nil
	})
	for i, definition := range definitions {
		if err == nil {
			err = s.span(ctx, &out.tables[i], definition)
		}
	}
	return err
}

var lifetimePattern = regexp.MustCompile(`\bTTL (.+?) \+ toIntervalDay\((\d+)\)`)

// lifetimeIn finds in a table's definition the expression of the time that its
// rows are kept from, and for how many days.
func lifetimeIn(definition string) (from string, days int) {
	m := lifetimePattern.FindStringSubmatch(definition)
	if m == nil {
		return "", 0
	}
	days, _ = strconv.Atoi(m[2]) // the server wrote digits
	return m[1], days
}

// span fills in how far back the rows of t go, and may.
func (s *Store) span(ctx context.Context, t *TableStatus, definition string) error {
	var from string
	from, t.RetentionDays = lifetimeIn(definition)
	if t.Rows == 0 || from == "" {
		return nil
	}
	// The server's own words, out of its definition of the table.
	query := fmt.Sprintf("SELECT toDateTime(min(%s), 'UTC'), toDateTime(max(%[1]s), 'UTC') FROM `%s`", from, t.Name)
	return s.each(ctx, "status", query, nil, func(rows driver.Rows) error { return rows.Scan(&t.Oldest, &t.Newest) })
}

// addTables adds up the tables of the shards. Replicas of one hold the same.
func (st *Status) addTables() {
	shards := map[string]bool{}
	index := map[string]int{}
	for i := range st.Servers {
		server := &st.Servers[i]
		if server.Error != "" || shards[server.Shard] {
			continue
		}
		shards[server.Shard] = true
		for _, t := range server.tables {
			at, ok := index[t.Name]
			if !ok {
				index[t.Name] = len(st.Tables)
				st.Tables = append(st.Tables, t)
				continue
			}
			st.Tables[at].add(t)
		}
	}
	for i := range st.Tables {
		if t := &st.Tables[i]; t.Rows > 0 {
			t.BytesPerRow = math.Round(float64(t.Bytes)/float64(t.Rows)*100) / 100
		}
	}
}

func (t *TableStatus) add(other TableStatus) {
	if t.Rows == 0 || other.Rows > 0 && other.Oldest.Before(t.Oldest) {
		t.Oldest = other.Oldest
	}
	if other.Newest.After(t.Newest) {
		t.Newest = other.Newest
	}
	t.Rows, t.Bytes, t.Parts = t.Rows+other.Rows, t.Bytes+other.Bytes, t.Parts+other.Parts
}

func (s *ServerStatus) problems(target int64) (out []string) {
	problem := func(format string, args ...any) { out = append(out, s.Addr+": "+fmt.Sprintf(format, args...)) }
	if s.Error != "" {
		problem("%s", s.Error)
		return out
	}
	switch {
	case s.Step < target:
		problem("the schema is at step %d of %d: start the ringfence server of this version, which migrates it", s.Step, target)
	case s.Step > target:
		problem("the schema is at step %d and this ringfence knows %d: upgrade it", s.Step, target)
	}
	if s.DiskFree < leastBytes || float64(s.DiskFree) < leastFree*float64(s.DiskTotal) {
		problem("%d of %d bytes of its disk are free: make room, or keep flows for a shorter time", s.DiskFree, s.DiskTotal)
	}
	if s.MutationError != "" {
		problem("a mutation does not get on: %s", s.MutationError)
	}
	if s.BrokenParts > 0 {
		problem("%d broken parts were put aside: see system.detached_parts, and the disk", s.BrokenParts)
	}
	if s.ReadOnly > 0 {
		problem("%d replicated tables are read-only: see that it reaches its Keeper", s.ReadOnly)
	}
	if delay := time.Duration(s.ReplicaLag) * time.Second; delay > longestDelay { //nolint:gosec // seconds of delay
		problem("the replica is %s behind: see system.replication_queue", delay)
	}
	return out
}

const nodesQuery = `
SELECT
    toString(node), maxIf(end, kind = 'heartbeat') AS last, toFloat64(toUnixTimestamp64Micro(now64(6)) - toUnixTimestamp64Micro(last)) / 1e6,
    argMaxIf(spooled, end, kind = 'heartbeat'), sum(dropped), sum(lost), toFloat64(argMaxIf(skew_microseconds, end, kind = 'heartbeat')) / 1e6
FROM coverage
WHERE end >= now64(6) - toIntervalSecond({window:Int64})
GROUP BY node
ORDER BY node`

func (s *Store) nodes(ctx context.Context, window time.Duration) ([]NodeStatus, error) {
	out := []NodeStatus{}
	args := []any{clickhouse.Named("window", int64(window/time.Second))}
	err := s.each(ctx, "status", nodesQuery, args, func(rows driver.Rows) error {
		var n NodeStatus
		err := rows.Scan(&n.Node, &n.Last, &n.SilentSeconds, &n.Spooled, &n.Dropped, &n.Lost, &n.SkewSeconds)
		out = append(out, n)
		return err
	})
	return out, err
}

func (n *NodeStatus) problems(window time.Duration) (out []string) {
	switch silent := time.Duration(n.SilentSeconds * float64(time.Second)).Round(time.Second); {
	case n.Last.Unix() <= 0:
		out = append(out, fmt.Sprintf("node %s sent no heartbeat in %s: see that its agent runs and reaches the store", n.Node, window))
	case silent > longSilence:
		out = append(out, fmt.Sprintf("node %s has been silent for %s: see that its agent runs and reaches the store", n.Node, silent))
	}
	if n.Dropped > 0 {
		out = append(out, fmt.Sprintf("node %s gave up %d records in %s, since its spool was full: give it a larger --spool-size, or the store more to work with", n.Node, n.Dropped, window))
	}
	if n.Lost > 0 {
		out = append(out, fmt.Sprintf("node %s lost %d records in %s before its agent read them: see that the agent gets processor time", n.Node, n.Lost, window))
	}
	return out
}
