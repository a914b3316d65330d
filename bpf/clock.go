package bpf

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// clock turns the kernel's monotonic nanoseconds into wall time, by the
// difference of the two when it was made.
type clock struct{ offset int64 }

// newClock takes the best of a few readings: one that was interrupted between
// the two clocks would be late.
func newClock() (clock, error) {
	var best clock
	shortest := uint64(math.MaxUint64)
	for range 3 {
		before, err := monotonic()
		if err != nil {
			return clock{}, err
		}
		wall := time.Now().UnixNano()
		after, err := monotonic()
		if err != nil {
			return clock{}, err
		}
		if after-before < shortest {
			shortest = after - before
			best.offset = wall - int64(before) //nolint:gosec // nanoseconds since boot
		}
	}
	return best, nil
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
