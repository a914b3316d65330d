package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fence is the EtherType of the frames that tell when all before them are
// through. No policy concerns it.
const fence = 0x88b5

// received bounds what waits to be read of one wire and protocol, in bytes of
// the kernel's own accounting.
const received = 4 << 20

// Wire is one end of a cable. What it receives has passed the programs: sockets
// of one protocol, unlike those of all, come behind the hook.
type Wire struct {
	index int
	send  int
	recv  []int // IPv4, IPv6
	fence int
	told  uint64
}

// Open returns the wire of an interface, which is closed with the test.
func Open(tb testing.TB, ns, name string) *Wire {
	tb.Helper()
	w, err := open(ns, name)
	if err != nil {
		tb.Fatalf("packet sockets on %s of %s: %v", name, ns, err)
	}
	tb.Cleanup(func() { _ = w.close() })
	return w
}

func open(ns, name string) (*Wire, error) {
	w := &Wire{send: -1, fence: -1}
	err := In(ns, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		w.index = l.Attrs().Index
		for _, s := range []struct {
			protocol uint16
			keep     func(fd int)
		}{
			{0, func(fd int) { w.send = fd }},
			{unix.ETH_P_IP, func(fd int) { w.recv = append(w.recv, fd) }},
			{unix.ETH_P_IPV6, func(fd int) { w.recv = append(w.recv, fd) }},
			{fence, func(fd int) { w.fence = fd }},
		} {
			protocol := networkOrder(s.protocol)
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(protocol))
			if err != nil {
				return err
			}
			s.keep(fd)
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, received); err != nil {
				return err
			}
			if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: w.index}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *Wire) close() error {
	var errs []error
	for _, fd := range append([]int{w.send, w.fence}, w.recv...) {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

func networkOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// Transmit sends a frame. That a program drops it is no error.
func (w *Wire) Transmit(b []byte) error {
	err := unix.Sendto(w.send, b, 0, &unix.SockaddrLinklayer{Ifindex: w.index})
	if errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

// Received returns, and forgets, the marks of the frames that arrived.
func (w *Wire) Received() map[uint64]bool {
	out := map[uint64]bool{}
	for _, fd := range w.recv {
		for {
			mark, ok := markOf(fd)
			if !ok {
				break
			}
			out[mark] = true
		}
	}
	return out
}

// markOf reads one frame and returns its last eight bytes.
func markOf(fd int) (uint64, bool) {
	var b [2048]byte
	n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_DONTWAIT)
	if err != nil || n < 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[n-8 : n]), true
}

// Path is one way through programs: where frames go in, and where those come
// out that the programs let by.
type Path struct {
	In  *Wire
	Out *Wire
}

// Flush waits until everything that went into p is through.
func (p Path) Flush() error {
	number, err := p.sendFence()
	if err != nil {
		return err
	}
	if !p.passed(number, 5*time.Second) {
		return errors.New("a frame that no policy concerns did not come through")
	}
	return nil
}

// Settle waits until p carries frames: a link that comes up drops the first.
func (p Path) Settle() error {
	for range 100 {
		number, err := p.sendFence()
		if err != nil {
			return err
		}
		if p.passed(number, 50*time.Millisecond) {
			return nil
		}
	}
	return errors.New("a link does not come up")
}

func (p Path) sendFence() (number uint64, err error) {
	p.In.told++
	number = p.In.told<<8 | uint64(p.In.index) //nolint:gosec // an interface's number
	b := binary.BigEndian.AppendUint16(append(append([]byte{}, Everybody...), Nobody...), fence)
	b = binary.BigEndian.AppendUint64(append(b, make([]byte, 46)...), number)
	if err := p.In.Transmit(b); err != nil {
		return 0, fmt.Errorf("send a fence: %w", err)
	}
	return number, nil
}

// passed reports whether the fence of that number came out of p in time.
func (p Path) passed(number uint64, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) {
		ready := []unix.PollFd{{Fd: int32(p.Out.fence), Events: unix.POLLIN}} //nolint:gosec // a file descriptor
		_, _ = unix.Poll(ready, int(limit.Milliseconds()))                    // what it says is read below
		for {
			got, ok := markOf(p.Out.fence)
			if !ok {
				break
			}
			if got == number {
				return true
			}
		}
	}
	return false
}
