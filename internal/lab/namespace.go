package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespaceDir is where named network namespaces are kept, by every tool's convention.
const namespaceDir = "/run/netns"

// currentNamespace is the calling thread's; /proc/self would be the main thread's.
const currentNamespace = "/proc/thread-self/ns/net"

func namespacePath(name string) string { return filepath.Join(namespaceDir, name) }

// namespaceExists reports whether something stands under the name, even if it
// is a file that was never mounted on.
func namespaceExists(name string) (bool, error) {
	_, err := os.Lstat(namespacePath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// createNamespace makes a named network namespace with the given settings, which
// are paths below /proc/sys/net, and returns it open.
func createNamespace(name string, settings []setting) (*os.File, error) {
	if err := os.MkdirAll(namespaceDir, 0o755); err != nil { //nolint:gosec // the convention's mode
		return nil, fmt.Errorf("create namespace directory: %w", err)
	}
	path := namespacePath(name)
	mark, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444) //nolint:gosec // the convention's mode, too
	if err != nil {
		return nil, fmt.Errorf("create namespace %s: %w", name, err)
	}
	if err := mark.Close(); err != nil {
		return nil, fmt.Errorf("create namespace %s: %w", name, err)
	}
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create namespace %s: %w", name, err)
		}
		if err := unix.Mount(currentNamespace, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount namespace %s: %w", name, err)
		}
		return apply(settings)
	})
	if err != nil {
		return nil, errors.Join(err, deleteNamespace(name))
	}
	ns, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open namespace %s: %w", name, err), deleteNamespace(name))
	}
	return ns, nil
}

// deleteNamespace removes the name. The namespace itself goes when the last
// process in it does. A missing name is no error.
func deleteNamespace(name string) error {
	path := namespacePath(name)
	// A mount may have been stacked on by somebody else: each is one step.
	for range 16 {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				break // not mounted any more
			}
			return fmt.Errorf("unmount namespace %s: %w", name, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace %s: %w", name, err)
	}
	return nil
}

// onThread runs fn on an operating system thread whose network namespace fn may
// change. The thread goes back to where it was before anything else runs on it;
// one that cannot ends with its goroutine.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open(currentNamespace)
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own namespace: %w", err)
			return
		}
		defer own.Close() //nolint:errcheck // only read from
		err = fn()
		if back := enter(own); back != nil {
			err = errors.Join(err, fmt.Errorf("return to own namespace: %w", back))
		} else {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// enter moves the calling thread, which must be locked, into ns.
func enter(ns *os.File) error {
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}

// setting is a kernel setting of one network namespace.
type setting struct{ key, value string }

// hostSettings make addresses usable at once and keep hosts from configuring
// themselves by what they hear. An interface takes them over when it is made.
func hostSettings() []setting {
	var out []setting
	for _, scope := range []string{"all", "default"} {
		v6 := "ipv6/conf/" + scope
		out = append(out,
			setting{v6 + "/disable_ipv6", "0"},
			setting{v6 + "/accept_dad", "0"},
			setting{v6 + "/dad_transmits", "0"},
			setting{v6 + "/accept_ra", "0"},
			setting{v6 + "/autoconf", "0"},
			setting{v6 + "/router_solicitations", "0"},
			setting{"ipv4/conf/" + scope + "/rp_filter", "0"},
		)
	}
	return out
}

// nodeSettings make a namespace a router too.
func nodeSettings() []setting {
	return append(hostSettings(),
		setting{"ipv4/ip_forward", "1"},
		setting{"ipv6/conf/all/forwarding", "1"},
	)
}

// apply changes settings of the namespace that the calling thread is in.
func apply(settings []setting) error {
	for _, s := range settings {
		path := filepath.Join("/proc/sys/net", s.key)
		if err := os.WriteFile(path, []byte(s.value), 0); err != nil {
			return fmt.Errorf("set net/%s to %s: %w", s.key, s.value, err)
		}
	}
	return nil
}
