package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/ringfence/ringfence/internal/flow"
)

// maxPeers is how many addresses, or pairs of them, one service of one workload
// has an edge each for. Where more were seen, as at whatever faces the internet,
// edges are to prefixes: of the lengths below, the longest of which there are
// that few.
const maxPeers = 1000

// foldLevels is how often addresses can be folded: IPv4 ones to /24, /16, /8 and
// /0, IPv6 ones to /48, /32, /16 and /0. The first are those that rows are
// sharded by.
const foldLevels = 4

// edgeService is edgeKey without the addresses.
const edgeService = `direction,
    observer_namespace, observer_kind, observer_name,
    source_namespace, source_kind, source_name, source_reserved,
    destination_namespace, destination_kind, destination_name, destination_reserved,
    protocol, port`

// folded stands in a query for rows of edges in which the peers of crowded
// services are prefixes. Rows that are folded further already stay so.
func folded(rows string) string {
	return `(
SELECT * EXCEPT (level, source_address, source_folded, destination_address, destination_folded, source_bits, destination_bits),
    ` + foldedPrefix("t.source", "source_bits") + ` AS source_address, source_bits AS source_folded,
    ` + foldedPrefix("t.destination", "destination_bits") + ` AS destination_address, destination_bits AS destination_folded
FROM
(
    SELECT *, ` + foldedBits("source", "level") + ` AS source_bits, ` + foldedBits("destination", "level") + ` AS destination_bits
    FROM ` + rows + ` AS r
    LEFT JOIN ` + crowds(rows) + ` AS c USING (` + edgeService + `)
) AS t)`
}

// crowds are the services with more peers than may have an edge each, and how
// often theirs are folded. Between two workloads there are no addresses to count.
func crowds(rows string) string {
	bits := []string{edgeService, "source_address", "source_folded", "destination_address", "destination_folded"}
	counts := []string{"uniq(source_folded, source_address, destination_folded, destination_address)"}
	for level := range foldLevels {
		number := string(rune('1' + level))
		var peer []string
		for _, end := range []string{"source", "destination"} {
			name := end + "_bits_" + number
			bits = append(bits, foldedBits(end, number)+" AS "+name)
			peer = append(peer, name, foldedPrefix(end, name))
		}
		counts = append(counts, "uniq("+strings.Join(peer, ", ")+")")
	}
	return `(
    SELECT ` + edgeService + `, toUInt8(arrayFirstIndex(peers -> peers <= {max_peers:UInt64}, [` + strings.Join(counts, ",\n        ") + `]) - 1) AS level
    FROM
    (
        SELECT ` + strings.Join(bits, ",\n            ") + `
        FROM ` + rows + `
        WHERE source_name = '' OR destination_name = ''
    )
    GROUP BY ` + edgeService + `
    HAVING level > 0
)`
}

// foldedBits is how many bits of an end's address are dropped at a level: none of
// a workload's, which has no address.
func foldedBits(end, level string) string {
	return "if(" + end + "_name = '', greatest(" + end + "_folded, " + levelBits(end, level) + "), toUInt8(0))"
}

func levelBits(end, level string) string {
	return strings.NewReplacer("END", end, "LEVEL", level).Replace(
		"if(END_address BETWEEN toIPv6('::ffff:0:0') AND toIPv6('::ffff:ffff:ffff'), [0, 8, 16, 24, 32], [0, 80, 96, 112, 128])[LEVEL + 1]")
}

func foldedPrefix(end, bits string) string {
	return "IPv6CIDRToRange(" + end + "_address, toUInt8(128 - " + bits + ")).1"
}

// quiet is how long after its last row a part of the tables is rewritten. No agent
// stores a flow as old: it would be misdated.
func (r *Retention) quiet() time.Duration {
	var least Retention
	least.setDefaults() // an agent that knows no other
	return max(r.Flows, least.Flows) + day
}

// foldedTables are those whose old partitions, of a month each, are folded, with
// the column of their time.
var foldedTables = map[string]string{"edge_days": "day", "edge_months": "month"}

// Fold gives up the addresses of crowds in months that no flow comes for any more:
// what Edges would show as prefixes is stored as such. It returns how many
// partitions it rewrote; one that was folded needs it no more.
func (s *Store) Fold(ctx context.Context) (int, error) {
	folds := 0
	shards := map[string]bool{}
	for _, r := range s.servers() {
		if r.Err != nil || shards[r.Shard] {
			continue
		}
		shards[r.Shard] = true
		n, err := s.at(r.Addr).foldServer(ctx, time.Now())
		if folds += n; err != nil {
			return folds, fmt.Errorf("fold edges of %s: %w", r.Addr, err)
		}
	}
	return folds, nil
}

func (s *Store) foldServer(ctx context.Context, now time.Time) (folds int, err error) {
	if s.conn, err = clickhouse.Open(s.options(s.cfg.Database)); err != nil {
		return 0, fmt.Errorf("open clickhouse: %w", err)
	}
	defer func() { err = errors.Join(err, s.conn.Close()) }()
	if err := s.dropScratch(ctx, 2*foldTime); err != nil {
		return 0, err
	}
	before := startOfMonth(now.Add(-s.cfg.Retention.quiet())).Format("200601")
	for _, table := range slices.Sorted(maps.Keys(foldedTables)) {
		partitions, err := s.foldable(ctx, table, before)
		if err != nil {
			return folds, err
		}
		for _, id := range partitions {
			if err := s.foldPartition(ctx, table, id); err != nil {
				return folds, s.explain("fold "+table, err)
			}
			folds++
		}
	}
	return folds, nil
}

// foldable are the partitions before a month that have crowds.
func (s *Store) foldable(ctx context.Context, table, before string) ([]string, error) {
	// A replica that has not fetched all parts must not replace any.
	const list = `
SELECT DISTINCT partition_id FROM system.parts
WHERE database = currentDatabase() AND table = {table:String} AND active AND partition_id < {before:String}
  AND table NOT IN (SELECT table FROM system.replicas
      WHERE database = currentDatabase() AND (is_readonly OR inserts_in_queue > 0 OR log_pointer <= log_max_index))
ORDER BY partition_id`
	var all, out []string
	args := []any{clickhouse.Named("table", table), clickhouse.Named("before", before)}
	err := s.each(ctx, "fold", list, args, func(rows driver.Rows) error {
		var id string
		err := rows.Scan(&id)
		all = append(all, id)
		return err
	})
	for _, id := range all {
		if err != nil {
			break
		}
		args := []any{clickhouse.Named("partition", id), clickhouse.Named("max_peers", uint64(maxPeers))}
		err = s.each(ctx, "fold", "SELECT count() FROM "+crowds(partitionOf(table)), args, func(rows driver.Rows) error {
			var services uint64
			err := rows.Scan(&services)
			if services > 0 {
				out = append(out, id)
			}
			return err
		})
	}
	return out, err
}

func partitionOf(table string) string {
	return "(SELECT * FROM `" + table + "` WHERE _partition_id = {partition:String})"
}

// scratchPrefix begins the name of a table that is not part of the schema.
const scratchPrefix = ".fold_"

// foldPartition writes the folded rows of a partition to a table of their own and
// then puts them in its place, all at once.
func (s *Store) foldPartition(ctx context.Context, table, id string) (err error) {
	scratch := fmt.Sprintf("%s%s_%d", scratchPrefix, table, time.Now().UnixNano())
	var partition, primary, order string
	err = s.conn.QueryRow(ctx, "SELECT partition_key, primary_key, sorting_key FROM system.tables WHERE database = currentDatabase() AND name = {table:String}",
		clickhouse.Named("table", table)).Scan(&partition, &primary, &order)
	if err != nil {
		return err
	}
	// The keys are the server's own words.
	err = s.conn.Exec(ctx, fmt.Sprintf("CREATE TABLE `%s` AS `%s` ENGINE = AggregatingMergeTree PARTITION BY %s PRIMARY KEY (%s) ORDER BY (%s)",
		scratch, table, partition, primary, order))
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, s.conn.Exec(context.WithoutCancel(ctx), fmt.Sprintf("DROP TABLE IF EXISTS `%s`", scratch)))
	}()
	columns := strings.Join([]string{foldedTables[table], edgeKey, judgements, edgeValues, "hours"}, ", ")
	fill := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"max_memory_usage": s.cfg.MaxMemory, "max_execution_time": foldTime.Seconds()}))
	err = s.conn.Exec(fill, fmt.Sprintf("INSERT INTO `%s` (%s) SELECT %[2]s FROM %s", scratch, columns, folded(partitionOf(table))),
		clickhouse.Named("partition", id), clickhouse.Named("max_peers", uint64(maxPeers)))
	if err != nil {
		return err
	}
	var same bool
	const sums = "(SELECT tuple(sum(connections), sum(answered), sum(forward_bytes), sum(reverse_bytes), min(first_seen), max(last_seen)) FROM "
	err = s.conn.QueryRow(ctx, "SELECT "+sums+partitionOf(table)+") = "+sums+"`"+scratch+"`)", clickhouse.Named("partition", id)).Scan(&same)
	if err != nil {
		return err
	}
	if !same {
		return fmt.Errorf("rows of %s came while its month %s was folded: it stays as it is", table, id)
	}
	// The identifier of a partition is the server's own.
	return s.conn.Exec(ctx, fmt.Sprintf("ALTER TABLE `%s` REPLACE PARTITION ID '%s' FROM `%s`", table, id, scratch))
}

// foldTime is the most that folding a month may take. A scratch table that is much
// older is one that a killed server left.
const foldTime = time.Hour

// dropScratch drops scratch tables of an age.
func (s *Store) dropScratch(ctx context.Context, age time.Duration) error {
	const list = `SELECT name FROM system.tables
		WHERE database = currentDatabase() AND startsWith(name, {prefix:String}) AND metadata_modification_time < now() - toIntervalSecond({age:Int64})`
	args := []any{clickhouse.Named("prefix", scratchPrefix), clickhouse.Named("age", int64(age/time.Second))}
	var left []string
	err := s.each(ctx, "fold", list, args, func(rows driver.Rows) error {
		var name string
		err := rows.Scan(&name)
		left = append(left, name)
		return err
	})
	for _, name := range left {
		err = errors.Join(err, s.conn.Exec(ctx, "DROP TABLE IF EXISTS `"+name+"`"))
	}
	return err
}

// crowded reports whether a service has more edges than peers may have one each.
// A query for edges gives one more of each service at most.
func crowded(edges []flow.Edge) bool {
	type service struct {
		direction flow.Direction
		observer  flow.Workload
		from, to  flow.Party
		protocol  flow.Protocol
		port      uint16
	}
	peers := map[service]int{}
	for i := range edges {
		e := &edges[i]
		if e.Source.IsWorkload() && e.Destination.IsWorkload() {
			continue
		}
		s := service{e.Direction, e.Observer, withoutAddress(e.Source), withoutAddress(e.Destination), e.Protocol, e.Port}
		if peers[s]++; peers[s] > maxPeers {
			return true
		}
	}
	return false
}

func withoutAddress(p flow.Party) flow.Party {
	return flow.Party{Workload: p.Workload, Reserved: p.Reserved}
}
