package clickhouse

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

const listenPoll = 10 * time.Millisecond

var errStopped = errors.New("asked to leave")

// awaitListening returns when this process listens on the loopback port. The
// library's client does not say when it could not get the port, so another
// process that has it is looked for as well.
func awaitListening(port uint16, stop <-chan struct{}) error {
	tick := time.NewTicker(listenPoll)
	defer tick.Stop()
	for {
		inode, err := listener(port)
		if err != nil {
			return err
		}
		if inode != "" {
			own, err := ownSocket(inode)
			if err != nil {
				return err
			}
			if !own {
				return fmt.Errorf("listen on %s:%d: %w", loopback, port, errPortTaken)
			}
			return nil
		}
		select {
		case <-stop:
			return errStopped
		case <-tick.C:
		}
	}
}

// listener returns the inode of the socket that listens on the port at the
// loopback address or at all addresses, or "".
func listener(port uint16) (string, error) {
	b, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		return "", fmt.Errorf("look for the engine's listener: %w", err)
	}
	const (
		address, state, inode = 1, 3, 9 // columns
		listening             = "0A"
	)
	loopbackHere, anyAddress := fmt.Sprintf("0100007F:%04X", port), fmt.Sprintf("00000000:%04X", port)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > inode && f[state] == listening && (f[address] == loopbackHere || f[address] == anyAddress) {
			return f[inode], nil
		}
	}
	return "", nil
}

func ownSocket(inode string) (bool, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("look for the engine's listener: %w", err)
	}
	for _, e := range entries {
		// One that was closed meanwhile is not the listener.
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil && target == "socket:["+inode+"]" {
			return true, nil
		}
	}
	return false, nil
}
