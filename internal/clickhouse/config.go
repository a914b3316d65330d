package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// LibraryEnv names the environment variable that holds the library's path.
const LibraryEnv = "RINGFENCE_ENGINE_LIBRARY"

// libraryName is the file looked for beside the executable.
const libraryName = "libchdb.so"

// Config of an Engine.
type Config struct {
	// DataDir belongs to the engine alone; it is made when missing.
	DataDir string
	// Library is the path of the engine library; empty looks in LibraryEnv,
	// beside the executable, and in ../lib/ringfence from there.
	Library string
	// Executable and Command start the child, which must call RunEngine with
	// the arguments after Command. Executable defaults to the running binary.
	Executable string
	Command    []string
	// Database is a prefix: the engine's user may do everything in databases
	// whose names begin with it, and read system tables, and nothing else.
	// Default "ringfence".
	Database string
	// Probe logs in over the native protocol; it returns nil when the engine
	// answers. Default Handshake.
	Probe func(ctx context.Context, c Credentials) error

	// MemoryLimit is the most the engine may use, in bytes. Default 1.5 GiB.
	MemoryLimit uint64
	// Cluster makes the engine one replica of a cluster; nil is the rule.
	Cluster *Membership

	// StartTimeout bounds one start. Default 30 s.
	StartTimeout time.Duration
	// StopGrace is the time between asking the engine to leave and killing
	// it. Default 10 s.
	StopGrace time.Duration

	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil registers nothing
}

// Membership is an engine's part in a cluster of engines.
type Membership struct {
	Name           string // of the cluster
	Shard, Replica string // the engine's macros
	// Shards lists the host:port of every replica of every shard.
	Shards [][]string
	// Password of the engine's user, the same on all members.
	Password string
	// Secret is what the members know each other by.
	Secret string
}

// Credentials are those of one start of the engine.
type Credentials struct {
	Addr     string
	User     string
	Password string
}

const (
	defaultMemoryLimit  = 3 << 29
	minMemoryLimit      = 256 << 20
	defaultStartTimeout = 30 * time.Second
	defaultStopGrace    = 10 * time.Second
)

var databasePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

func (c *Config) setDefaults() {
	if c.Database == "" {
		c.Database = "ringfence"
	}
	if c.MemoryLimit == 0 {
		c.MemoryLimit = defaultMemoryLimit
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = defaultStartTimeout
	}
	if c.StopGrace == 0 {
		c.StopGrace = defaultStopGrace
	}
	if c.Probe == nil {
		c.Probe = Handshake
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate reports every problem of c.
func (c *Config) Validate() error {
	var errs []error
	if c.DataDir == "" {
		errs = append(errs, errors.New("engine data directory: missing"))
	}
	if len(c.Command) == 0 {
		errs = append(errs, errors.New("engine command: missing"))
	}
	if c.Database != "" && !databasePattern.MatchString(c.Database) {
		errs = append(errs, fmt.Errorf("engine database %q: want letters, digits and underscores", c.Database))
	}
	if c.MemoryLimit != 0 && c.MemoryLimit < minMemoryLimit {
		errs = append(errs, fmt.Errorf("engine memory limit: %d bytes is below the least that works, %d", c.MemoryLimit, uint64(minMemoryLimit)))
	}
	if c.StartTimeout < 0 || c.StopGrace < 0 {
		errs = append(errs, errors.New("engine timeouts: must not be negative"))
	}
	return errors.Join(errs...)
}

// FindLibrary returns the engine library's path: path itself when given, else
// what LibraryEnv says, else the first that exists of the places Config.Library
// lists for the given executable.
func FindLibrary(path, executable string) (string, error) {
	for _, given := range []struct{ path, by string }{{path, "--engine-library"}, {os.Getenv(LibraryEnv), "$" + LibraryEnv}} {
		if given.path == "" {
			continue
		}
		if err := isFile(given.path); err != nil {
			return "", fmt.Errorf("engine library %s (given by %s): %w; run `make build`, or give the right path with --engine-library PATH",
				given.path, given.by, err)
		}
		return filepath.Abs(given.path)
	}
	dir := filepath.Dir(executable)
	places := []string{filepath.Join(dir, libraryName), filepath.Join(dir, "..", "lib", "ringfence", libraryName)}
	for _, place := range places {
		if isFile(place) == nil {
			return filepath.Abs(place)
		}
	}
	return "", fmt.Errorf("engine library: neither %s nor %s exists; run `make build`, give its path with --engine-library PATH, or use a ClickHouse server with --clickhouse HOST:PORT",
		places[0], places[1])
}

func isFile(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("no such file")
	case err != nil:
		var pe *os.PathError
		if errors.As(err, &pe) {
			return pe.Err
		}
		return err
	case !info.Mode().IsRegular():
		return errors.New("not a regular file")
	}
	return nil
}
