// Package clickhousetest gives tests a real ClickHouse: one embedded engine a
// test binary, started by the first test that asks and stopped by Main.
package clickhousetest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/clickhouse"
)

// EngineCommand is the argument that makes the test binary an engine.
const EngineCommand = "ringfence-test-engine"

// Prefix begins the name of every database that the engine's user may use.
const Prefix = "ringfence"

const stopTimeout = 15 * time.Second

var shared struct {
	sync.Mutex
	engine *clickhouse.Engine
	dir    string
	err    error
	number atomic.Uint32
}

// Main is to be called by TestMain with nothing before it. It runs the tests,
// or, in a child, the engine.
func Main(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == EngineCommand {
		runEngine(os.Args[2:])
	}
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// runEngine is the engine's process. What changes its configuration comes first.
func runEngine(args []string) {
	dir := args[slices.Index(args, "--data-dir")+1]
	library := args[slices.Index(args, "--library")+1]
	var err error
	for ; err == nil && strings.HasPrefix(args[0], changeFlag); args = args[1:] {
		switch name, value, _ := strings.Cut(args[0], "="); name {
		case profileFlag:
			err = addToProfile(dir, value)
		case unsyncedFlag:
			err = dropSyncs(dir)
		case replicaFlag:
			err = beReplica(dir, library, value)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := clickhouse.RunEngine(args); err != nil {
		os.Exit(1) // the parent was told why
	}
	os.Exit(0)
}

const (
	changeFlag  = "--test-"
	profileFlag = changeFlag + "profile"
	// unsyncedFlag is for engines that tests share: none of those is about what a power cut
	// leaves, and waiting for the disk is most of what an insert of a few rows takes.
	unsyncedFlag = changeFlag + "unsynced"
	replicaFlag  = changeFlag + "replica"
)

// Profile makes the profile of an engine's user hold further elements, in the
// XML of users.xml, as the owner of another ClickHouse might have it.
func Profile(cfg *clickhouse.Config, elements string) {
	cfg.Command = append(cfg.Command, profileFlag+"="+elements)
}

func addToProfile(dataDir, elements string) error {
	if strings.Contains(elements, "<async_insert>") { // is there already, and must not be there twice
		if err := edit(dataDir, "users.xml", "<async_insert>0</async_insert>", ""); err != nil {
			return err
		}
	}
	return edit(dataDir, "users.xml", "</default>", elements+"</default>")
}

func dropSyncs(dataDir string) error {
	for _, name := range []string{"fsync_after_insert", "fsync_part_directory", "min_rows_to_fsync_after_merge"} {
		if err := edit(dataDir, "config.xml", "<"+name+">1<", "<"+name+">0<"); err != nil {
			return err
		}
	}
	return nil
}

// edit puts a text in the place of the first one of its kind in a file of the engine's configuration.
func edit(dataDir, file, text, with string) error {
	path := filepath.Join(dataDir, file)
	b, err := os.ReadFile(path) //nolint:gosec // the test's own directory
	if err != nil {
		return err
	}
	if !bytes.Contains(b, []byte(text)) {
		return fmt.Errorf("%s has no %s", path, text)
	}
	return os.WriteFile(path, bytes.Replace(b, []byte(text), []byte(with), 1), 0o600) //nolint:gosec // the test's own directory
}

// Start returns the address, user and password of the test binary's engine.
func Start(tb testing.TB) (addr, user, password string) {
	tb.Helper()
	c := Engine(tb).Credentials()
	return c.Addr, c.User, c.Password
}

// Engine returns the test binary's engine, started.
func Engine(tb testing.TB) *clickhouse.Engine {
	tb.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.engine == nil && shared.err == nil {
		shared.engine, shared.err = start(tb)
	}
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.engine
}

// Database returns the name of a database that no other test uses. The engine
// is thrown away at the end, so it need not be dropped.
func Database(testing.TB) string {
	return fmt.Sprintf("%s_%d", Prefix, shared.number.Add(1))
}

// Library returns the engine library's path: what the environment says, or
// build/libchdb.so of the module. A test cannot go without it.
func Library(tb testing.TB) string {
	tb.Helper()
	if path := os.Getenv(clickhouse.LibraryEnv); path != "" {
		return path
	}
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			tb.Fatal("no go.mod above the test's directory")
		}
		dir = parent
	}
	path := filepath.Join(dir, "build", "libchdb.so")
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("this test needs the engine library: run `make engine`, or set %s (%v)", clickhouse.LibraryEnv, err)
	}
	return path
}

// Config returns the configuration of an engine of the test's own in dir.
func Config(tb testing.TB, dir string) clickhouse.Config {
	tb.Helper()
	return clickhouse.Config{
		DataDir:  dir,
		Library:  Library(tb),
		Command:  []string{EngineCommand},
		Database: Prefix,
	}
}

func start(tb testing.TB) (*clickhouse.Engine, error) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "ringfence-engine-") // outlives this test, so not tb.TempDir
	if err != nil {
		return nil, fmt.Errorf("make a data directory: %w", err)
	}
	shared.dir = dir
	cfg := Config(tb, dir)
	cfg.Command = append(cfg.Command, unsyncedFlag)
	engine, err := clickhouse.New(cfg)
	if err != nil {
		return nil, err
	}
	return engine, engine.Start(context.Background())
}

func stop() error {
	shared.Lock()
	defer shared.Unlock()
	if shared.engine != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := shared.engine.Stop(ctx); err != nil {
			return fmt.Errorf("stop the test engine: %w", err)
		}
	}
	if shared.dir == "" {
		return nil
	}
	return os.RemoveAll(shared.dir)
}
