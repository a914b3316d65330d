package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/cespare/xxhash/v2"

	"github.com/ringfence/ringfence/internal/flow"
)

// maxBlock is the most rows of one block. A batch with more goes as several,
// each under a token of its own, so that each is stored once.
const maxBlock = 500_000

// InsertFlows stores rows and returns when they are stored, edges included.
// After an error all of them may be sent again: the same rows in the same order
// under the same token are stored once. Other rows under a used token are
// dropped, so a token must never be used for anything else.
func (s *Store) InsertFlows(ctx context.Context, token string, rows []flow.Labelled) error {
	if token == "" {
		return errors.New("insert flows: no token")
	}
	dated, misdated := s.sortOut(rows, time.Now())
	if err := s.insertFlows(ctx, "flows", token, dated, maxBlock); err != nil {
		return err
	}
	return s.insertFlows(ctx, "flows_misdated", token+"#misdated", misdated, maxBlock)
}

// futureTolerance is how much the clock of a node may be ahead.
const futureTolerance = 10 * time.Minute

// misdating says what is wrong with the time of a record, or "".
func (s *Store) misdating(t, now time.Time) string {
	switch {
	case t.Unix() < int64(day/time.Second):
		return "zero"
	case t.After(now.Add(futureTolerance)):
		return "future"
	case t.Before(now.Add(-s.cfg.Retention.Flows)):
		return "expired"
	}
	return ""
}

// sortOut returns the rows with a time that can be right, and the others: those
// must not be taken for traffic of their time, nor be lost.
func (s *Store) sortOut(rows []flow.Labelled, now time.Time) (dated, misdated []flow.Labelled) {
	wrong := func(r flow.Labelled) bool { return s.misdating(r.Time, now) != "" }
	first := slices.IndexFunc(rows, wrong)
	if first < 0 {
		return rows, nil
	}
	dated = append(dated, rows[:first]...)
	for _, r := range rows[first:] {
		if reason := s.misdating(r.Time, now); reason != "" {
			s.metrics.misdated.WithLabelValues(reason).Inc()
			misdated = append(misdated, r)
			continue
		}
		dated = append(dated, r)
	}
	return dated, misdated
}

func (s *Store) insertFlows(ctx context.Context, table, token string, rows []flow.Labelled, block int) error {
	return perShard(ctx, s, rows, edgeHash{}.of, func(ctx context.Context, to *shard, suffix string, rows []flow.Labelled) error {
		for part := 0; len(rows) > 0; part++ {
			n := min(len(rows), block)
			settings := writeSettings()
			settings["insert_deduplication_token"] = fmt.Sprintf("%s#%d%s", token, part, suffix)
			if err := s.insertBlock(ctx, to, table, settings, rows[:n]); err != nil {
				return err
			}
			rows = rows[n:]
		}
		return nil
	})
}

// InsertCoverage stores heartbeats. The same rows sent again are stored once.
func (s *Store) InsertCoverage(ctx context.Context, rows []flow.Coverage) error {
	if len(rows) == 0 {
		return nil
	}
	byNode := func(c *flow.Coverage) uint64 { return xxhash.Sum64String(c.Node) }
	return perShard(ctx, s, rows, byNode, func(ctx context.Context, to *shard, _ string, rows []flow.Coverage) error {
		return insert(ctx, s, to, "coverage", coverageColumns, writeSettings(), rows)
	})
}

// column is one column of a table and how it is made from rows.
type column[R any] struct {
	name   string
	values func(rows []R) any
}

func col[R, V any](name string, value func(r *R) V) column[R] {
	return column[R]{name: name, values: func(rows []R) any {
		out := make([]V, len(rows))
		for i := range rows {
			out[i] = value(&rows[i])
		}
		return out
	}}
}

func insert[R any](ctx context.Context, s *Store, to *shard, table string, columns []column[R], settings clickhouse.Settings, rows []R) error {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	return s.send(ctx, to, table, names, settings, len(rows), func(batch driver.Batch) error {
		for i, c := range columns {
			if err := batch.Column(i).Append(c.values(rows)); err != nil {
				return fmt.Errorf("column %s: %w", c.name, err)
			}
		}
		return nil
	})
}

func (s *Store) insertBlock(ctx context.Context, to *shard, table string, settings clickhouse.Settings, rows []flow.Labelled) error {
	e := s.encoders.Get().(*encoder) //nolint:forcetypeassert // the pool holds nothing else
	defer s.encoders.Put(e)
	e.use(rows)
	return s.send(ctx, to, table, flowColumnNames, settings, len(rows), func(batch driver.Batch) error {
		return e.fill(batch.Columns())
	})
}

var flowColumnNames = func() []string {
	names := make([]string, len(flowColumns))
	for i, c := range flowColumns {
		names[i] = c.name
	}
	return names
}()

// send inserts one block that fill makes.
func (s *Store) send(ctx context.Context, to *shard, table string, names []string, settings clickhouse.Settings, rows int, fill func(driver.Batch) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.InsertTimeout)
	defer cancel()
	settings["max_execution_time"] = s.cfg.InsertTimeout.Seconds()
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settings))
	begin := time.Now()
	defer func() {
		err = s.explain("insert into "+table, err)
		s.metrics.query("insert "+table, time.Since(begin), err)
		if err == nil {
			s.metrics.inserted.WithLabelValues(table).Add(float64(rows))
		}
	}()
	batch, err := to.conn.PrepareBatch(ctx, "INSERT INTO "+table+" ("+strings.Join(names, ", ")+")")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, batch.Close()) }()
	if err := fill(batch); err != nil {
		return err
	}
	return batch.Send()
}
