// Package disk gives tests disks that can be full.
package disk

import (
	"testing"

	"golang.org/x/sys/unix"
)

// New returns a directory in memory that holds so much, in the words of tmpfs'
// option size. It goes with the test.
func New(tb testing.TB, size string) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		tb.Fatalf("this test needs root: %v", err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
	return dir
}
