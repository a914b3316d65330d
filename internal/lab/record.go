package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/statefile"
)

// record is what a lab has made or is about to make on the machine.
type record struct {
	// Boot is the kernel's boot id: what an earlier boot made is gone, and its
	// names and process numbers may be anybody's now.
	Boot       string          `json:"boot"`
	Namespaces []string        `json:"namespaces"`
	Processes  []processRecord `json:"processes"`
}

// processRecord names a process for good: its number alone may be used again.
type processRecord struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
	Name  string `json:"name"`
}

func recordPath(stateDir string) string { return filepath.Join(stateDir, "lab.state") }

func (r *record) write(stateDir string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode lab record: %w", err)
	}
	return statefile.Write(recordPath(stateDir), b)
}

// readRecord returns nil if there is none. A damaged record gives way to the one
// before it, which lacks at most processes, and those end by themselves.
func readRecord(stateDir string) (*record, error) {
	path := recordPath(stateDir)
	b, err := statefile.Read(path)
	if _, damaged := errors.AsType[*statefile.DamagedError](err); damaged {
		if older, olderErr := statefile.ReadPrevious(path); olderErr == nil {
			b, err = older, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("state file %s is of another version (%w): remove it and the rf-* files in %s", path, err, namespaceDir)
	}
	return &r, nil
}

// Cleanup removes what a lab that was killed left behind: the namespaces and
// processes recorded under stateDir, or under the directory that the killed lab
// used. It returns the number of namespaces removed, and an error that names
// the process when a lab is running.
func Cleanup(ctx context.Context, stateDir string, log *slog.Logger) (removed int, err error) {
	stateDir, err = filepath.Abs(stateDir)
	if err != nil {
		return 0, fmt.Errorf("find state directory: %w", err)
	}
	l, leftBy, err := takeLock(stateDir)
	if err != nil {
		return 0, err
	}
	removed, err = cleanLeftovers(ctx, stateDir, leftBy, log)
	if err != nil {
		return removed, errors.Join(err, l.abandon())
	}
	return removed, l.release()
}

// cleanLeftovers needs the lock. A state directory that a killed lab named in
// the lock file may differ from this one's.
func cleanLeftovers(ctx context.Context, stateDir, leftBy string, log *slog.Logger) (int, error) {
	dirs := []string{stateDir}
	if leftBy != "" && leftBy != stateDir {
		dirs = append(dirs, leftBy)
	}
	removed := 0
	var errs []error
	for _, dir := range dirs {
		r, err := readRecord(dir)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if r == nil {
			continue
		}
		log.Info("removing what an earlier lab left", "state_dir", dir, "namespaces", len(r.Namespaces), "processes", len(r.Processes))
		n, err := r.clean(ctx)
		removed += n
		if err == nil {
			err = forget(dir)
		}
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// clean ends the recorded processes and removes the recorded namespaces.
func (r *record) clean(ctx context.Context) (removed int, err error) {
	boot, err := bootID()
	if err != nil {
		return 0, err
	}
	if r.Boot != boot {
		return 0, nil
	}
	var errs []error
	for _, p := range r.Processes {
		errs = append(errs, p.kill(ctx))
	}
	for _, name := range r.Namespaces {
		exists, err := namespaceExists(name)
		if err == nil && exists {
			removed++
			err = deleteNamespace(name)
		}
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// kill ends the process if it is still the one recorded, and waits for its end.
func (p *processRecord) kill(ctx context.Context) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	// The descriptor holds whoever has the number now, so that what is checked
	// is what is signalled.
	start, alive, err := startTime(p.PID)
	if err != nil || !alive || start != p.Start {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	limit := 5 * time.Second
	if d, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(d))
	}
	until := time.Now().Add(limit)
	for {
		wait := time.Until(until)
		if wait <= 0 {
			return fmt.Errorf("process %d (%s) does not end after SIGKILL: look at its state in /proc/%d/status", p.PID, p.Name, p.PID)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait.Milliseconds())+1) //nolint:gosec // a descriptor is small
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("await end of process %d: %w", p.PID, err)
		}
		if n > 0 {
			return nil
		}
	}
}

// startTime returns when a process began, in clock ticks since boot, and whether
// it is there and no zombie.
func startTime(pid int) (ticks uint64, alive bool, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) //nolint:gosec // a number names it
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read process %d: %w", pid, err)
	}
	// The name in parentheses may hold anything; what follows it does not.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	const state, start = 0, 19 // fields 3 and 22 of proc_pid_stat(5)
	if len(fields) <= start {
		return 0, false, fmt.Errorf("read process %d: /proc/%d/stat has %d fields", pid, pid, len(fields))
	}
	if ticks, err = strconv.ParseUint(fields[start], 10, 64); err != nil {
		return 0, false, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	return ticks, fields[state] != "Z", nil
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// forget removes the record, and the default directory with it: any other one
// is its owner's.
func forget(stateDir string) error {
	if err := statefile.Remove(recordPath(stateDir)); err != nil {
		return err
	}
	if stateDir != DefaultStateDir {
		return nil
	}
	if err := os.Remove(DefaultStateDir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("remove lab state directory: %w", err)
	}
	return nil
}
