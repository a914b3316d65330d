package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// Retention is how long the tables keep their rows. Flows and hours are for
// looking closely; days and months answer the longer windows.
type Retention struct {
	Flows    time.Duration // default 30 days; also of what is kept apart for its time
	Hours    time.Duration // of edges; default 35 days
	Days     time.Duration // of edges added up by day; default 120 days
	Months   time.Duration // of edges added up by month; default 400 days
	Coverage time.Duration // default 400 days
}

func (r *Retention) setDefaults() {
	for _, f := range []struct {
		value *time.Duration
		days  time.Duration
	}{{&r.Flows, 30}, {&r.Hours, 35}, {&r.Days, 120}, {&r.Months, 400}, {&r.Coverage, 400}} {
		if *f.value == 0 {
			*f.value = f.days * day
		}
	}
}

func (r *Retention) problems() (errs []error) {
	const most = 3650 * day
	for name, d := range map[string]time.Duration{
		"flows": r.Flows, "hours": r.Hours, "days": r.Days, "months": r.Months, "coverage": r.Coverage,
	} {
		if d != 0 && (d < day || d > most || d%day != 0) {
			errs = append(errs, fmt.Errorf("retention of %s %s: want whole days from 24h to %s", name, d, most))
		}
	}
	return errs
}

// Retention returns how long the tables keep their rows.
func (s *Store) Retention() Retention { return s.cfg.Retention }

// lifetime is how long a table keeps a row, from the time that an expression gives.
type lifetime struct {
	table, from string
	keep        time.Duration
}

func (r *Retention) lifetimes() []lifetime {
	return []lifetime{
		{"flows", "toDateTime(time)", r.Flows},
		{"flows_misdated", "received", r.Flows},
		{"edges", "hour", r.Hours},
		{"edge_days", "day", r.Days},
		{"edge_months", "month", r.Months},
		{"coverage", "toDateTime(end)", r.Coverage},
	}
}

// retain makes the tables keep rows for as long as configured. What is already
// there follows when it is merged.
func (s *Store) retain(ctx context.Context, db *sql.DB) error {
	kept, err := s.kept(ctx, db)
	if err != nil {
		return s.explain("read retention", err)
	}
	for _, l := range s.cfg.Retention.lifetimes() {
		if kept[l.table] == l.keep {
			continue
		}
		statement := fmt.Sprintf("ALTER TABLE %s MODIFY TTL %s + INTERVAL %d DAY DELETE", l.table, l.from, int64(l.keep/day))
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return s.explain("set retention of "+l.table, err)
		}
	}
	return nil
}

// kept is how long each table keeps rows now.
func (s *Store) kept(ctx context.Context, db *sql.DB) (out map[string]time.Duration, err error) {
	rows, err := db.QueryContext(ctx, "SELECT name, create_table_query FROM system.tables WHERE database = {database:String}",
		clickhouse.Named("database", s.cfg.Database))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	out = map[string]time.Duration{}
	for rows.Next() {
		var name, statement string
		if err := rows.Scan(&name, &statement); err != nil {
			return nil, err
		}
		if _, days := lifetimeIn(statement); days > 0 {
			out[name] = time.Duration(days) * day
		}
	}
	return out, rows.Err()
}
