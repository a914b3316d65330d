package control

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver, pure Go

	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/rollout"
)

// minSQLite is the oldest engine without a known way to damage a file in WAL mode.
var minSQLite = [3]int{3, 51, 3}

// Store is the open control database.
type Store struct {
	cfg     Config
	deps    Deps
	metrics *metrics
	lock    *os.File
	// reads serve queries beside the one writer.
	writes, reads *sql.DB

	// mu orders changes: it is held over a transaction and the rebuilding of
	// state, so that states come in the order of their generations.
	mu    sync.Mutex
	state atomic.Pointer[stateOrError]
	index atomic.Pointer[inventory.Index]

	documents documents
	reports   reports
	covered   covered
	passwords chan struct{} // bounds the memory of password checks

	slotsChanged signal // State has a newer generation
	updated      signal // anything a person looks at changed
}

type stateOrError struct {
	state rollout.State
	err   error
}

// Open opens or creates the database, takes its lock and checks it.
func Open(ctx context.Context, cfg Config, deps Deps) (*Store, error) {
	cfg, deps = cfg.withDefaults(), deps.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, deps: deps, passwords: make(chan struct{}, maxPasswordChecks)}
	s.state.Store(&stateOrError{err: refuse(CodeUnavailable, "the inventory is not loaded yet: try again in a moment")})
	var err error
	if s.metrics, err = newMetrics(deps.Registerer); err != nil {
		return nil, fmt.Errorf("register control metrics: %w", err)
	}
	if err := s.open(ctx); err != nil {
		s.Close() //nolint:errcheck // the first error says more
		return nil, err
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	path := s.cfg.Path
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("create directory of the control database: %w", err)
	}
	var err error
	if s.lock, err = acquire(path + ".lock"); err != nil {
		return err
	}
	if err := ownFile(path); err != nil {
		return err
	}
	if s.writes, err = s.pool("rwc", 1); err != nil {
		return err
	}
	if err := checkFile(ctx, s.writes, path); err != nil {
		return err
	}
	if err := migrate(ctx, s.writes, path); err != nil {
		return err
	}
	if s.reads, err = s.pool("rw", 4); err != nil {
		return err
	}
	s.metrics.chainIntact.Set(1)
	if err := s.VerifyChain(ctx); err != nil {
		// Enforcing and rolling back must still work, so this is no refusal.
		s.deps.Logger.Error("activity log was changed from outside", "error", err)
	}
	return nil
}

// pool opens connections with the pragmas that durability rests on.
func (s *Store) pool(mode string, conns int) (*sql.DB, error) {
	q := url.Values{"mode": {mode}, "_txlock": {"immediate"}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", s.cfg.BusyTimeout.Milliseconds()),
		"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "trusted_schema(0)",
	}}
	if mode == "rw" {
		q.Set("_txlock", "deferred")
		q["_pragma"] = []string{q["_pragma"][0], "query_only(1)", "trusted_schema(0)"}
	}
	dsn := (&url.URL{Scheme: "file", OmitHost: true, Path: s.cfg.Path, RawQuery: q.Encode()}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("open control database %s: %w", s.cfg.Path, err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// acquire locks the file for this process; the kernel lets go when it dies.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of the control database: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0)
		f.Close() //nolint:errcheck // nothing was written
		return nil, refuse(CodeUnavailable,
			"control database %s is in use by process %s: stop that one first, or give another path",
			strings.TrimSuffix(path, ".lock"), strings.TrimSpace(string(holder[:n])))
	}
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := errors.Join(f.Truncate(0), writeAt(f, pid)); err != nil {
		f.Close() //nolint:errcheck // the first error says more
		return nil, fmt.Errorf("write lock of the control database: %w", err)
	}
	return f, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// ownFile makes sure that nobody else can read the file, before SQLite writes to it.
func ownFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open control database: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open control database: %w", err)
	}
	if !st.Mode().IsRegular() {
		return refuse(CodeInvalid, "control database %s is not a regular file: give another path", path)
	}
	if err := f.Chmod(0o600); err != nil {
		return fmt.Errorf("make control database private: %w", err)
	}
	return nil
}

func checkFile(ctx context.Context, db *sql.DB, path string) error {
	var version, result string
	if err := db.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&version); err != nil {
		return damaged(path, err)
	}
	if !atLeast(version, minSQLite) {
		return refuse(CodeInternal, "this build holds SQLite %s, which can damage the control database: at least %d.%d.%d is needed",
			version, minSQLite[0], minSQLite[1], minSQLite[2])
	}
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); err != nil {
		return damaged(path, err)
	}
	if result != "ok" {
		return damaged(path, errors.New(strings.Join(strings.Fields(result), " ")))
	}
	var mode string
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return damaged(path, err)
	}
	if mode != "wal" {
		return refuse(CodeInternal, "control database %s: its file system does not support a write-ahead log; put it on a local disk", path)
	}
	return nil
}

func damaged(path string, err error) *Error {
	return &Error{Code: CodeInternal, Err: err, Message: fmt.Sprintf(
		"control database %s is damaged (%v): restore a backup, or move the file away to begin with an empty one", path, err)}
}

func atLeast(version string, want [3]int) bool {
	var got [3]int
	for i, part := range strings.SplitN(version, ".", 3) {
		n, err := strconv.Atoi(part)
		if err != nil {
			return false
		}
		got[i] = n
	}
	for i := range want {
		if got[i] != want[i] {
			return got[i] > want[i]
		}
	}
	return true
}

// Close closes the database and lets go of its lock.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.reads, s.writes} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var n int
	if err := s.reads.QueryRowContext(ctx, "SELECT generation FROM meta").Scan(&n); err != nil {
		return fmt.Errorf("read control database: %w", err)
	}
	return nil
}

// tx is one change: a transaction with its time.
type tx struct {
	*sql.Tx
	ctx context.Context
	now time.Time
	// newGeneration is set once the change needs nodes to hear of it.
	newGeneration bool
	generation    uint64
	// rebuild makes State anew without a new generation.
	rebuild bool
}

// write runs fn in one transaction. Once begun it is finished even when ctx
// ends, so that nobody is left not knowing whether a change was made. What is in
// committed runs after the commit and before anybody hears of it.
func (s *Store) write(ctx context.Context, fn func(*tx) error, committed ...func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*s.cfg.BusyTimeout)
	defer cancel()
	sqlTx, err := s.writes.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin control change: %w", err)
	}
	defer sqlTx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	t := &tx{Tx: sqlTx, ctx: ctx, now: s.deps.Now().UTC()}
	if err := fn(t); err != nil {
		return err
	}
	if err := sqlTx.Commit(); err != nil {
		return fmt.Errorf("commit control change: %w", err)
	}
	for _, f := range committed {
		f()
	}
	if t.newGeneration || t.rebuild {
		s.rebuild(ctx)
		s.slotsChanged.broadcast()
	}
	s.updated.broadcast()
	return nil
}

// nextGeneration raises the generation once a transaction and returns it. It is
// never below the Unix time, so that a database begun anew or restored from a
// backup still comes after what nodes already hold.
func (t *tx) nextGeneration() (uint64, error) {
	if t.newGeneration {
		return t.generation, nil
	}
	err := t.QueryRowContext(t.ctx,
		"UPDATE meta SET generation = max(generation + 1, ?) RETURNING generation", t.now.Unix()).Scan(&t.generation)
	if err != nil {
		return 0, fmt.Errorf("raise generation: %w", err)
	}
	t.newGeneration = true
	return t.generation, nil
}

// Times are stored as microseconds since 1970; 0 is no time.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func unstamp(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}
