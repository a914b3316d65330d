package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"golang.org/x/sys/unix"

	engines "github.com/ringfence/ringfence/internal/clickhouse"
)

// door is a connection beside the store's: for what the store has no need of.
type door struct {
	conn     driver.Conn
	database string
}

func openDoor(c engines.Credentials, database string) (*door, error) {
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr:        []string{c.Addr},
		Auth:        clickhouse.Auth{Database: database, Username: c.User, Password: c.Password},
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
		ReadTimeout: time.Hour, // OPTIMIZE says nothing while it works
	})
	if err != nil {
		return nil, fmt.Errorf("open clickhouse: %w", err)
	}
	return &door{conn: conn, database: database}, nil
}

func (d *door) close() error { return d.conn.Close() }

func (d *door) exec(ctx context.Context, statement string) error {
	if err := d.conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%.60s: %w", statement, err)
	}
	return nil
}

func (d *door) number(ctx context.Context, query string, args ...any) (n uint64, err error) {
	if err := d.conn.QueryRow(ctx, query, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("%.60s: %w", query, err)
	}
	return n, nil
}

// Table is what a table takes on disk, in its active parts.
type Table struct {
	Rows  uint64 `json:"rows"`
	Bytes uint64 `json:"bytes"`
	Parts uint64 `json:"parts"`
}

func (d *door) tables(ctx context.Context) (out map[string]Table, err error) {
	rows, err := d.conn.Query(ctx, `SELECT table, sum(rows), sum(bytes_on_disk), count()
		FROM system.parts WHERE active AND database = {db:String} GROUP BY table`, clickhouse.Named("db", d.database))
	if err != nil {
		return nil, fmt.Errorf("read parts: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	out = map[string]Table{}
	for rows.Next() {
		var name string
		var t Table
		if err := rows.Scan(&name, &t.Rows, &t.Bytes, &t.Parts); err != nil {
			return nil, fmt.Errorf("read parts: %w", err)
		}
		out[name] = t
	}
	return out, rows.Err()
}

// merged merges every table into one part a partition.
func (d *door) merged(ctx context.Context) error {
	all, err := d.tables(ctx)
	if err != nil {
		return err
	}
	for name := range all {
		if err := d.exec(ctx, "OPTIMIZE TABLE `"+name+"` FINAL SETTINGS receive_timeout = 3600"); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until the engine has nothing left to merge by itself.
func (d *door) settle(ctx context.Context) error {
	quiet := 0
	for quiet < 5 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond): // there is no event to wait for
		}
		n, err := d.number(ctx, "SELECT count() FROM system.merges")
		if err != nil {
			return err
		}
		if quiet++; n > 0 {
			quiet = 0
		}
	}
	return nil
}

// processCPU is what a process has used of CPUs since it began.
func processCPU(pid int) (time.Duration, error) {
	var t unix.Timespec
	clock := ^pid<<3 | 2                                        // clock_getcpuclockid(3)
	if err := unix.ClockGettime(int32(clock), &t); err != nil { //nolint:gosec // a process's number
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// ownCPU is what this process has used of CPUs since it began.
func ownCPU() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("read own CPU time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
