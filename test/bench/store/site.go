package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/store"
	"github.com/ringfence/ringfence/test/bench/store/estate"
)

// seed makes every run's estate the same.
const seed = 1

// site is what the measurements share. What it made goes with close.
type site struct {
	config
	temp     string
	estate   *estate.Estate
	terminal bool
}

func newSite(cfg config) (*site, error) {
	s := &site{config: cfg, terminal: term.IsTerminal(int(os.Stderr.Fd()))}
	var err error
	if s.estate, err = estate.New(estate.Config{Seed: seed}); err != nil {
		return nil, err
	}
	s.temp, err = os.MkdirTemp("", "rf-bench-store-")
	return s, err
}

func (s *site) close() error { return os.RemoveAll(s.temp) }

// say tells a person how far the run is.
func (s *site) say(format string, args ...any) {
	if s.terminal {
		fmt.Fprint(os.Stderr, "\r\033[K") // over the last progress
	}
	fmt.Fprintf(os.Stderr, format, args...)
}

// progress is shown on a terminal only, and overwritten by what comes next.
func (s *site) progress(format string, args ...any) {
	if s.terminal {
		fmt.Fprintf(os.Stderr, "\r\033[K"+format, args...)
	}
}

// room refuses to begin what the disk cannot hold.
func room(dir string, bytes uint64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < bytes { //nolint:gosec // a block's size
		return fmt.Errorf("the disk of %s has %d MiB left and %d are needed: set TMPDIR or -data to another one", dir, free>>20, bytes>>20)
	}
	return nil
}

// database is the part of a name that the engine's user may use.
const database = "ringfence_bench"

// retention is of flows and hours: those that are loaded, and are found again
// some days later.
const retention = kept + 30*24*time.Hour

// engine is an embedded ClickHouse with a store on it.
type engine struct {
	*clickhouse.Engine
	dir   string
	store *store.Store
	*door
}

// start starts an engine, as `ringfence up` does, on a directory.
func (s *site) start(ctx context.Context, dir string) (e *engine, err error) {
	e = &engine{dir: dir}
	if e.Engine, err = clickhouse.New(clickhouse.Config{DataDir: dir, Library: s.library, Command: []string{engineCommand}}); err != nil {
		return nil, err
	}
	if err := e.Start(ctx); err != nil {
		return nil, err
	}
	c := e.Credentials()
	e.store, err = store.Open(ctx, store.Config{
		Addrs: []string{c.Addr}, User: c.User, Password: c.Password, Database: database,
		// Else what is older would be kept apart, and no edge made of it.
		Retention: store.Retention{Flows: retention, Hours: retention},
	})
	if err == nil {
		err = e.store.Migrate(ctx)
	}
	if err == nil {
		e.door, err = openDoor(c, database)
	}
	if err != nil {
		return nil, errors.Join(err, e.stop(ctx))
	}
	return e, nil
}

// stop also ends an engine whose context has ended.
func (e *engine) stop(ctx context.Context) error {
	var errs []error
	if e.door != nil {
		errs = append(errs, e.close())
		e.door = nil
	}
	if e.store != nil {
		errs = append(errs, e.store.Close())
		e.store = nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return errors.Join(append(errs, e.Stop(ctx))...)
}

// chill drops what the kernel holds of the engine's files in memory.
func chill(dir string) error {
	unix.Sync()
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path) //nolint:gosec // of a directory of our own
		if err != nil {
			return err
		}
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		return errors.Join(err, f.Close())
	})
}
