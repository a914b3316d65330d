package bpf

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// clock turns the kernel's monotonic nanoseconds into wall time, by the
// difference of the two when it was made.
type clock struct{ offset int64 }

func newClock() (clock, error) {
	mono, err := monotonic()
	if err != nil {
		return clock{}, err
	}
	return clock{offset: time.Now().UnixNano() - int64(mono)}, nil //nolint:gosec // nanoseconds since boot
}

func (c clock) wall(ns uint64) time.Time {
	return time.Unix(0, c.offset+int64(ns)) //nolint:gosec // nanoseconds since boot
}

func monotonic() (uint64, error) { return readClock(unix.CLOCK_MONOTONIC) }

// coarse reads the clock that the programs stamp flows with.
func coarse() (uint64, error) { return readClock(unix.CLOCK_MONOTONIC_COARSE) }

func readClock(id int32) (uint64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return uint64(ts.Nano()), nil //nolint:gosec // nanoseconds since boot
}
