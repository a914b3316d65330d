package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/spool"
	"github.com/ringfence/ringfence/internal/statefile"
	"github.com/ringfence/ringfence/internal/store"
)

// Where a server keeps its state, and where it puts what lives until reboot.
const (
	defaultStateDir   = "/var/lib/ringfence"
	defaultRuntimeDir = "/run/ringfence"
	demoStateDir      = "/var/lib/ringfence-demo"
	demoRuntimeDir    = "/run/ringfence-demo"
)

// maxSocketPath is the kernel's limit on the path of a unix socket.
const maxSocketPath = 107

// layout names the files that the processes of one installation share.
type layout struct {
	StateDir   string `json:"stateDir"`
	RuntimeDir string `json:"runtimeDir"`
}

func (l layout) agentSocket() string     { return filepath.Join(l.RuntimeDir, "agents", "server.sock") }
func (l layout) agentToken() string      { return filepath.Join(l.RuntimeDir, "agents", "token") }
func (l layout) storeFile() string       { return filepath.Join(l.RuntimeDir, "agents", "store.json") }
func (l layout) serverConfig() string    { return filepath.Join(l.RuntimeDir, "server.json") }
func (l layout) bpffs() string           { return filepath.Join(l.RuntimeDir, "bpf") }
func (l layout) controlDB() string       { return filepath.Join(l.StateDir, "control.db") }
func (l layout) engineDir() string       { return filepath.Join(l.StateDir, "clickhouse") }
func (l layout) gatherDir() string       { return filepath.Join(l.StateDir, "gather") }
func (l layout) backupDir() string       { return filepath.Join(l.StateDir, "backup") }   // while one is made
func (l layout) restoreDir() string      { return filepath.Join(l.StateDir, "restore") }  // while one is made ready
func (l layout) restoredDir() string     { return filepath.Join(l.StateDir, "restored") } // ready to take its place
func (l layout) nodeDir(n string) string { return filepath.Join(l.StateDir, "nodes", n) }
func (l layout) spoolDir(n string) string {
	return filepath.Join(l.nodeDir(n), "spool")
}
func (l layout) pinDir(n string) string { return filepath.Join(l.bpffs(), pinName.Replace(n)) }
func (l layout) agentConfig(n string) string {
	return filepath.Join(l.RuntimeDir, "agents", n+".json")
}
func (l layout) agentMetrics(n string) string {
	return filepath.Join(l.RuntimeDir, "agents", n+".metrics.sock")
}

// lockName is the file that marks a directory as ringfence's, and is locked by
// the process that works with it.
const lockName = "ringfence.lock"

// A bpffs has no dots in its names; host names often have.
var (
	pinName   = strings.NewReplacer("%", "%25", ".", "%2E")
	unpinName = strings.NewReplacer("%25", "%", "%2E", ".")
)

// create makes the directories, all for their owner only. Directories that hold
// something else are refused: they are protected, and later removed, as a whole.
func (l layout) create() error {
	if err := checkOwn(l.StateDir); err != nil {
		return fmt.Errorf("--state-dir %s: %w", l.StateDir, err)
	}
	if err := checkOwn(l.RuntimeDir); err != nil {
		return fmt.Errorf("--runtime-dir %s: %w", l.RuntimeDir, err)
	}
	for _, dir := range []string{l.StateDir, l.RuntimeDir, filepath.Dir(l.agentSocket())} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create %s: %w", dir, err)
		}
		if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory needs its x bit
			return fmt.Errorf("protect %s: %w", dir, err)
		}
	}
	for _, dir := range []string{l.StateDir, l.RuntimeDir} {
		f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("mark %s: %w", dir, err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("mark %s: %w", dir, err)
		}
	}
	return nil
}

// checkOwn refuses a directory that is neither empty nor ringfence's.
func checkOwn(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(list) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w; name a directory of its own", err)
	}
	if !isOwn(dir) {
		return errors.New("it holds other files: name a new directory or an empty one")
	}
	return nil
}

func isOwn(dir string) bool {
	info, err := os.Lstat(filepath.Join(dir, lockName))
	return err == nil && info.Mode().IsRegular()
}

// serverConfig is what up and demo hand to the server process.
type serverConfig struct {
	layout
	Listen        string          `json:"listen"`        // host:port of the API and the UI
	TLSCert       string          `json:"tlsCert"`       // with TLSKey: needed off loopback
	TLSKey        string          `json:"tlsKey"`        //
	Inventory     string          `json:"inventory"`     // path of the YAML file
	ClickHouse    storeFlags      `json:"clickhouse"`    // no address embeds the engine
	Retention     store.Retention `json:"retention"`     // how long the tables keep rows
	EngineLibrary string          `json:"engineLibrary"` // path of libchdb.so; empty looks beside the binary
	WarmUp        time.Duration   `json:"warmUp"`        // observed for so long before an endpoint may be enforced
	Confirm       time.Duration   `json:"confirm"`       // a node goes back unless confirmed in this time
	Guard         time.Duration   `json:"guard"`         // after enforcing, denials of what was allowed roll back for so long
	MinWindow     time.Duration   `json:"minWindow"`     // the least observation for "ready to enforce"
	Gather        bool            `json:"gather"`        // agents hand their records over
}

// serverReady is the server's ready line.
type serverReady struct {
	URL      string `json:"url"`
	User     string `json:"user"`
	Password string `json:"password,omitempty"` // only on the first start
	Engine   string `json:"engine"`             // the store, for people
}

// agentConfig is what up and demo hand to one node's agent.
type agentConfig struct {
	layout
	Node   string         `json:"node"`
	NetNS  string         `json:"netns"`  // named network namespace; empty for the agent's own
	Attach bpf.AttachMode `json:"attach"` // empty for auto
	// SpoolBytes bounds what waits on disk for the store; 0 for the default.
	SpoolBytes int64 `json:"spoolBytes,omitempty"`
	// Gather says that records go to the server, which stores them.
	Gather bool `json:"gather,omitempty"`
	// StoreAddrs are the host:port of a store elsewhere, the way to which is
	// failsafe: this host's agent and server need it.
	StoreAddrs []string `json:"storeAddrs,omitempty"`
}

// spoolBytes reads what --spool-size takes.
func spoolBytes(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("--spool-size %q: want a number of bytes, such as 500MiB or 4GiB", s)
	}
	if n < spool.MinBytes {
		return 0, fmt.Errorf("--spool-size %s: want at least %s", s, humanize.IBytes(spool.MinBytes))
	}
	return int64(n), nil
}

func readJSON(path string, v any) error {
	doc, err := statefile.Read(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(doc, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	doc, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return statefile.Write(path, doc)
}

// takeLock makes this process the only one that works with the directories.
func (l layout) takeLock() (unlock func(), err error) {
	state, err := lockDir(l.StateDir, "stop that one, or give another --state-dir")
	if err != nil {
		return nil, err
	}
	runtime, err := lockDir(l.RuntimeDir, "stop that one, or give another --runtime-dir")
	if err != nil {
		state()
		return nil, err
	}
	return func() { runtime(); state() }, nil
}

// detach detaches every program that is pinned in the runtime directory, or was
// attached by the agents on record there. Its lock must be held.
func (l layout) detach() error {
	if err := l.removeFilters(); err != nil {
		return err
	}
	return bpf.UnmountBPFFS(l.bpffs())
}

// removeFilters detaches what does not end with its pins.
func (l layout) removeFilters() error {
	dir := filepath.Dir(l.agentSocket())
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for agents: %w", err)
	}
	for _, f := range files {
		var a agentConfig
		path := filepath.Join(dir, f.Name())
		if filepath.Ext(path) != ".json" || path == l.storeFile() {
			continue
		}
		if err := readJSON(path, &a); err != nil {
			return err
		}
		if err := bpf.RemoveFilters(l.pinDir(a.Node), a.NetNS); err != nil {
			return fmt.Errorf("node %s: %w", a.Node, err)
		}
	}
	return nil
}

// lockDir locks one directory; advice is what to do when another process has it.
func lockDir(dir, advice string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32))
		_ = f.Close()
		return nil, &inUseError{dir: dir, holder: strings.TrimSpace(string(holder)), advice: advice}
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// inUseError says that another process has the lock of a directory.
type inUseError struct{ dir, holder, advice string }

func (e *inUseError) Error() string {
	return fmt.Sprintf("%s is in use by another ringfence (process %s): %s", e.dir, e.holder, e.advice)
}
