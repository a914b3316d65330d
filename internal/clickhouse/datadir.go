package clickhouse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What a data directory holds.
const (
	lockFile    = "lock"
	configFile  = "config.xml"
	usersFile   = "users.xml"
	versionFile = "engine-version" // of the newest engine that wrote the data
	dataSubdir  = "data"
	logSubdir   = "log"
)

// prepareDir makes dir and checks that it is ours alone.
func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("engine data directory %s: %w; make it writable or give another one", dir, bare(err))
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("engine data directory %s: %w", dir, bare(err))
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("engine data directory %s belongs to user %d and this is user %d: run as its owner, chown it, or give another one",
			dir, st.Uid, os.Geteuid())
	}
	if info.Mode().Perm() != 0o700 {
		if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory needs its x bit
			return fmt.Errorf("engine data directory %s: %w; make it writable or give another one", dir, bare(err))
		}
	}
	for _, sub := range []string{dataSubdir, logSubdir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return fmt.Errorf("engine data directory %s: %w; make it writable, or move it away to begin with an empty one", dir, bare(err))
		}
	}
	return checkLayout(dir)
}

// checkLayout refuses what the engine would take for an empty directory, and
// begin anew in.
func checkLayout(dir string) error {
	there := map[string]bool{}
	for _, name := range []string{"metadata", "store"} {
		info, err := os.Stat(filepath.Join(dir, dataSubdir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return damaged(dir, name+": "+bare(err).Error())
		case !info.IsDir():
			return damaged(dir, name+" is not a directory")
		}
		there[name] = true
	}
	if there["metadata"] || !there["store"] {
		return nil
	}
	tables, err := os.ReadDir(filepath.Join(dir, dataSubdir, "store"))
	if err != nil {
		return damaged(dir, "store: "+bare(err).Error())
	}
	if len(tables) > 0 {
		return damaged(dir, "the tables' definitions in metadata are gone")
	}
	return nil
}

func damaged(dir, why string) error {
	return fmt.Errorf("the engine's data in %s is damaged: %s; restore it, or move the directory away to begin with an empty one", dir, why)
}

// lockDir takes the lock of dir. The file description is passed on to the
// child, so that the lock lasts until both are gone. A lock held by an engine
// whose parent is dead is waited for: that engine is on its way out.
func lockDir(dir string, wait time.Duration) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("engine data directory %s: lock: %w; make it writable or give another one", dir, bare(err))
	}
	deadline := time.Now().Add(wait)
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("engine data directory %s: lock: %w", dir, err), f.Close())
		}
		owner := readOwner(path)
		if owner.alive() {
			return nil, errors.Join(fmt.Errorf("engine data directory %s is in use by process %d: stop that ringfence first, or give another directory",
				dir, owner.pid), f.Close())
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("engine data directory %s is held by an engine whose ringfence is gone: end the process that `fuser %s` shows",
				dir, path), f.Close())
		}
		time.Sleep(20 * time.Millisecond)
	}
	self := process{pid: os.Getpid()}
	self.started, _ = startTime(self.pid)
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(self.String()), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("engine data directory %s: lock: %w", dir, bare(err)), f.Close())
	}
	return f, nil
}

// process is a process id that cannot be mistaken for a later one.
type process struct {
	pid     int
	started string // in clock ticks since boot, as /proc says it
}

func (p process) String() string { return strconv.Itoa(p.pid) + " " + p.started + "\n" }

func (p process) alive() bool {
	if p.pid <= 0 {
		return false
	}
	started, err := startTime(p.pid)
	return err == nil && started == p.started
}

func readOwner(path string) process {
	b, err := os.ReadFile(path)
	if err != nil {
		return process{}
	}
	fields := strings.Fields(string(b))
	if len(fields) != 2 {
		return process{}
	}
	pid, err := strconv.Atoi(fields[0])
	if err != nil {
		return process{}
	}
	return process{pid: pid, started: fields[1]}
}

func startTime(pid int) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	// The command's name may hold anything, so count from its closing bracket.
	rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return "", fmt.Errorf("process %d: no start time", pid)
	}
	return fields[19], nil
}

// checkVersion refuses data that a newer engine wrote, and records this one.
func checkVersion(dir, version string) error {
	path := filepath.Join(dir, versionFile)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("engine data directory %s: %w", dir, bare(err))
	default:
		wrote := strings.TrimSpace(string(b))
		order, err := compareVersions(wrote, version)
		if err != nil {
			return fmt.Errorf("engine data directory %s: %s is damaged: move the directory away to begin with an empty one", dir, versionFile)
		}
		if order > 0 {
			return fmt.Errorf("engine data directory %s was written by engine %s, and this one is the older %s: install the newer engine library, or give another directory",
				dir, wrote, version)
		}
		if order == 0 {
			return nil
		}
	}
	return writePrivate(path, []byte(version+"\n"))
}

// compareVersions compares numbers between dots; what follows a dash is left out.
func compareVersions(a, b string) (int, error) {
	as, err := parseVersion(a)
	if err != nil {
		return 0, err
	}
	bs, err := parseVersion(b)
	if err != nil {
		return 0, err
	}
	for i := range max(len(as), len(bs)) {
		var x, y int
		if i < len(as) {
			x = as[i]
		}
		if i < len(bs) {
			y = bs[i]
		}
		if x != y {
			return x - y, nil
		}
	}
	return 0, nil
}

func parseVersion(s string) ([]int, error) {
	numbers, _, _ := strings.Cut(strings.TrimPrefix(s, "v"), "-")
	parts := strings.Split(numbers, ".")
	out := make([]int, len(parts))
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("version %q: want numbers between dots", s)
		}
		out[i] = n
	}
	return out, nil
}

// writePrivate replaces path by a new file that only its owner can read.
func writePrivate(path string, content []byte) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", path, bare(err))
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, bare(err))
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, bare(err))
	}
	return nil
}

// bare takes the path out of an error whose message names it already.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
