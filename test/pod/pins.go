package pod

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ringfence/ringfence/bpf"
)

// Pins mounts a bpffs that goes with the test, and returns a directory on it that
// a datapath may make.
func Pins(tb testing.TB, name string) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "rf-"+name+"-")
	if err != nil {
		tb.Fatal(err)
	}
	fs := filepath.Join(dir, "bpf")
	if err := bpf.MountBPFFS(fs); err != nil {
		tb.Fatalf("this test needs root and eBPF: %v", errors.Join(err, os.RemoveAll(dir)))
	}
	tb.Cleanup(func() {
		if err := errors.Join(bpf.UnmountBPFFS(fs), os.RemoveAll(dir)); err != nil {
			tb.Error(err)
		}
	})
	return filepath.Join(fs, "node-1")
}
