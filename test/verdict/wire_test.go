package verdict

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fence is the EtherType of the frames that tell when all before them are
// through. No policy concerns it.
const fence = 0x88b5

// wire is one end of a cable. What it receives has passed the programs: sockets
// of one protocol, unlike those of all, come behind the hook.
type wire struct {
	index int
	send  int
	recv  []int // IPv4, IPv6
	fence int
	told  uint64
}

func openWire(ns, name string) (*wire, error) {
	w := &wire{send: -1, fence: -1}
	err := inNS(ns, func() error {
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

func (w *wire) close() error {
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

// transmit sends a frame. That a program drops it is no error.
func (w *wire) transmit(b []byte) error {
	err := unix.Sendto(w.send, b, 0, &unix.SockaddrLinklayer{Ifindex: w.index})
	if errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

// flush waits until everything that went into p is through.
func (p path) flush() error {
	number, err := p.sendFence()
	if err != nil {
		return err
	}
	if !p.passed(number, 5*time.Second) {
		return errors.New("a frame that no policy concerns did not come through")
	}
	return nil
}

// settle waits until p carries frames: a link that comes up drops the first.
func (p path) settle() error {
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

func (p path) sendFence() (number uint64, err error) {
	p.in.told++
	number = p.in.told<<8 | uint64(p.in.index)
	b := binary.BigEndian.AppendUint16(append([]byte{}, macs...), fence)
	b = binary.BigEndian.AppendUint64(append(b, make([]byte, 46)...), number)
	if err := p.in.transmit(b); err != nil {
		return 0, fmt.Errorf("send a fence: %w", err)
	}
	return number, nil
}

// passed reports whether the fence of that number came out of p in time.
func (p path) passed(number uint64, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) {
		ready := []unix.PollFd{{Fd: int32(p.out.fence), Events: unix.POLLIN}}
		_, _ = unix.Poll(ready, int(limit.Milliseconds())) // what it says is read below
		for {
			got, ok := markOf(p.out.fence)
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

// received returns the marks of the frames that arrived.
func (w *wire) received() map[uint64]bool {
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
	b := make([]byte, 2048)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
	if err != nil || n < 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[n-8 : n]), true
}
