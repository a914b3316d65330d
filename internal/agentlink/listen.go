package agentlink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// maxSocketPath is the kernel's limit on the path of a unix socket.
const maxSocketPath = 107

// Listen opens the unix socket that agents of this machine connect to: mode
// 0600, in a directory of mode 0700, which it
// makes if there is none. A socket that a dead server left behind is
// replaced; one that is in use is an error.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("agent socket %s: the path has %d characters, at most %d: choose a shorter state directory", path, len(path), maxSocketPath)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("agent socket: %w", err)
	}
	if info, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("agent socket: %w", err)
	} else if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("agent socket: directory %s has mode %#o and is open to others: use one of its own with mode 0700", dir, info.Mode().Perm())
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	// The directory keeps others out until the socket has its own mode.
	lis, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("agent socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("agent socket: %w", err), lis.Close())
	}
	return lis, nil
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("agent socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("agent socket %s: a file is in its place: remove it", path)
	}
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("agent socket %s is in use: another server runs with this state directory; stop it first", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("agent socket %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("agent socket: %w", err)
	}
	return nil
}
