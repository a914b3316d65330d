package wire

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace makes a network namespace that goes with the test, and runs setup
// in it.
func Namespace(tb testing.TB, name string, setup func() error) {
	tb.Helper()
	err := OnOwnThread(func() error {
		ns, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		return errors.Join(setup(), ns.Close())
	})
	tb.Cleanup(func() {
		if err := netns.DeleteNamed(name); err != nil {
			tb.Errorf("remove %s: %v", name, err)
		}
	})
	if err != nil {
		tb.Fatalf("this test needs root and network namespaces: make %s: %v", name, err)
	}
}

// Quiet keeps the kernel from saying anything by itself on the namespace's
// interfaces.
func Quiet() error {
	var errs []error
	for _, which := range []string{"all", "default"} {
		errs = append(errs, os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0))
	}
	return errors.Join(errs...)
}

// In runs fn in a network namespace.
func In(name string, fn func() error) error {
	return OnOwnThread(func() error {
		ns, err := netns.GetFromName(name)
		if err != nil {
			return err
		}
		defer func() { _ = ns.Close() }()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return fn()
	})
}

// OnOwnThread runs fn on a thread that ends with it, in whatever namespace and
// on whatever CPU fn leaves it.
func OnOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}

// OnOneCPU runs fn where the frames it sends keep their order.
func OnOneCPU(fn func() error) error {
	return OnOwnThread(func() error {
		var allowed, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &allowed); err != nil {
			return fmt.Errorf("read allowed CPUs: %w", err)
		}
		for cpu := range 1024 {
			if allowed.IsSet(cpu) {
				one.Set(cpu)
				break
			}
		}
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return fmt.Errorf("stay on one CPU: %w", err)
		}
		return fn()
	})
}
