package bpf

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// netNS is the network namespace of a node: "" the process's own, else a name
// below /run/netns or a path.
type netNS string

func (n netNS) path() string {
	if strings.ContainsRune(string(n), '/') {
		return string(n)
	}
	return filepath.Join("/run/netns", string(n))
}

// do runs fn on a thread inside n. Interface names and indexes mean something
// there only.
func (n netNS) do(fn func() error) error {
	if n == "" {
		return fn()
	}
	done := make(chan error, 1)
	go func() { done <- n.enter(fn) }()
	return <-done
}

// enter must run on a goroutine of its own: when the thread cannot be brought
// back it stays locked, and dies with the goroutine.
func (n netNS) enter(fn func() error) error {
	target, err := os.Open(n.path())
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", n, err)
	}
	defer func() { _ = target.Close() }()
	runtime.LockOSThread()
	origin, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("own network namespace: %w", err)
	}
	defer func() { _ = origin.Close() }()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", n, err)
	}
	err = fn()
	if unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}
