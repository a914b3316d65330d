package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// lockPath is the machine's: namespace names are, too.
const lockPath = "/run/ringfence-lab.lock"

// lock is held by the lab that lives on the machine. The kernel lets go of it
// when its process ends, however it ends.
type lock struct{ file *os.File }

// holder is the lock file's content.
type holder struct {
	PID      int    `json:"pid"`
	StateDir string `json:"stateDir"`
}

// takeLock takes the machine's lock for this process. leftBy is the state
// directory of a lab that died with the lock, if one did.
func takeLock(stateDir string) (l *lock, leftBy string, err error) {
	for {
		f, err := os.OpenFile(lockPath, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, "", fmt.Errorf("open lab lock: %w", err)
		}
		l = &lock{file: f}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			h := l.read()
			return nil, "", errors.Join(fmt.Errorf("a lab is already running as process %d: stop it first, one lab at a time fits on a machine", h.PID), f.Close())
		}
		if err != nil {
			return nil, "", errors.Join(fmt.Errorf("lock %s: %w", lockPath, err), f.Close())
		}
		current, err := l.isCurrent()
		if err != nil {
			return nil, "", errors.Join(err, f.Close())
		}
		if current {
			break
		}
		// Its holder removed the file between the open and the lock.
		if err := f.Close(); err != nil {
			return nil, "", fmt.Errorf("close lab lock: %w", err)
		}
	}
	leftBy = l.read().StateDir
	claimed := stateDir
	if leftBy != "" {
		claimed = leftBy // it stays on record until its leftovers are gone
	}
	if err := l.claim(claimed); err != nil {
		return nil, "", errors.Join(err, l.abandon())
	}
	return l, leftBy, nil
}

// claim writes this process and the state directory in use into the lock file.
func (l *lock) claim(stateDir string) error {
	b, err := json.Marshal(holder{PID: os.Getpid(), StateDir: stateDir})
	if err == nil {
		err = l.file.Truncate(0)
	}
	if err == nil {
		_, err = l.file.WriteAt(b, 0)
	}
	if err != nil {
		return fmt.Errorf("write lab lock: %w", err)
	}
	return nil
}

func (l *lock) read() holder {
	var h holder
	b, err := io.ReadAll(io.NewSectionReader(l.file, 0, 4096))
	if err != nil || json.Unmarshal(b, &h) != nil {
		return holder{} // not written yet, so nothing was made yet
	}
	return h
}

// isCurrent reports whether the locked file is still the one under the path.
func (l *lock) isCurrent() (bool, error) {
	mine, err := l.file.Stat()
	if err != nil {
		return false, fmt.Errorf("look at lab lock: %w", err)
	}
	there, err := os.Stat(lockPath)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at lab lock: %w", err)
	}
	return os.SameFile(mine, there), nil
}

// release removes the file before letting go, so that a file that is there
// without a holder always means a lab that died.
func (l *lock) release() error {
	err := os.Remove(lockPath)
	return errors.Join(err, l.file.Close())
}

// abandon lets go and leaves the file as that of a lab that died, for a later
// one to try again.
func (l *lock) abandon() error { return l.file.Close() }
