package bpf

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/test/wire"
)

// onWire sends frames through real interfaces. That is the only way to packets
// whose bytes are not in one piece, to tags that the kernel has taken out of the
// frame before the programs see it, and to frames too short for
// BPF_PROG_TEST_RUN.
type onWire struct {
	*twin
	sockets map[string]int
}

// wireMTU lets frames through that are larger than a page, and so not linear.
const wireMTU = 9000

func newWire(t *testing.T) *onWire {
	t.Helper()
	w := &onWire{twin: newTwin(t, twinSizes[0]), sockets: make(map[string]int)}
	// What one CPU sends it also receives, in the same order.
	var one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	for cpu := range runtime.NumCPU() {
		if one.Count() > 1 {
			one.Clear(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"} {
		if err := sysctl(path, "1"); err != nil { // or the kernel would talk, too
			t.Fatal(err)
		}
	}
	for _, name := range []string{"web", "db", "gateway", "spare"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(netlink.LinkSetMTU(l, wireMTU), netlink.LinkSetARPOff(l), netlink.LinkSetUp(l)); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
			unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}),
		)
		if err != nil {
			t.Fatal(err)
		}
		w.sockets[name] = fd
	}
	return w
}

// send puts a frame on an interface. Should it be larger than a page only its
// first bytes, linear, are in one piece. It returns false if it was dropped there.
func (w *onWire) send(name string, linear int, frame []byte) bool {
	w.t.Helper()
	header := make([]byte, 10) // struct virtio_net_hdr
	binary.NativeEndian.PutUint16(header[2:], uint16(linear))
	_, err := unix.SendmsgN(w.sockets[name], slices.Concat(header, frame), nil, nil, 0)
	if err != nil && !errors.Is(err, unix.ENOBUFS) {
		w.fail("send %d bytes on %s: %v", len(frame), name, err)
	}
	return err == nil
}

// untagged is the frame as the kernel hands it in: one tag stands beside it. ok
// is false for one that ends in its tag, which goes no further.
func untagged(frame []byte) (f []byte, ok bool) {
	if len(frame) < 14 {
		return nil, false
	}
	if kind := binary.BigEndian.Uint16(frame[12:]); kind != 0x8100 && kind != 0x88a8 {
		return frame, true
	}
	if len(frame) < 20 {
		return nil, false
	}
	return slices.Concat(frame[:12], frame[16:]), true
}

// pass sends a frame to gateway from outside, or from web to db; there it comes
// to db's hook first, since it is on db's side that it is put on the wire.
func (w *onWire) pass(s shot, linear int) {
	w.t.Helper()
	w.last = s.String
	in, ok := untagged(s.frame)
	if s.point == 2 {
		w.send("spare", linear, s.frame)
		if ok {
			w.m.packet(&w.points[2], shot{frame: in})
		}
	} else {
		passed := w.m.packet(&w.points[1], shot{own: true, frame: s.frame})
		if w.send("db", linear, s.frame) != passed {
			w.fail("sent on db's side: the model says passed: %t", passed)
		}
		if passed && ok {
			w.m.packet(&w.points[0], shot{from: true, frame: in})
		}
	}
	w.awaitCounters()
	w.compareCounters("on the wire")
}

// awaitCounters waits until the kernel has counted as much as the model. It
// does with the CPU's next interrupt, as a rule before send returns.
func (w *onWire) awaitCounters() {
	for deadline := time.Now().Add(wire.Arrives); time.Now().Before(deadline); {
		now := w.readCounters()
		for i := range now {
			now[i] -= w.before[i]
		}
		if now == w.m.counters {
			return
		}
	}
}

// TestAgreementOnWire sends frames through real interfaces and compares what was
// counted, recorded and kept with the model.
func TestAgreementOnWire(t *testing.T) {
	const frames = 20_000
	w := newWire(t)
	r := rand.New(rand.NewPCG(1, 2))
	g := newGenerator(1, readCaptures(t))
	w.reset(r)
	var tagged, scattered, short int
	for range frames {
		w.event(r)
		s := g.next()
		linear := len(s.frame)
		if r.IntN(4) == 0 { // nothing but its Ethernet header in one piece
			s.frame = append(s.frame, make([]byte, 6000-len(s.frame))...)
			linear = etherLen + r.IntN(60)
			scattered++
		}
		if len(s.frame) < etherLen {
			continue
		}
		if in, ok := untagged(s.frame); ok && len(in) < len(s.frame) {
			tagged++
		}
		if kind := binary.BigEndian.Uint16(s.frame[12:]); kind == 0x0800 && len(s.frame) < 34 || kind == 0x86dd && len(s.frame) < 54 {
			short++
		}
		w.pass(s, linear)
		if w.m.ringUsed() > w.m.ringRoom*2/3 {
			w.drain()
		}
	}
	w.sweep(100)
	if tagged == 0 || scattered == 0 || short == 0 {
		t.Errorf("%d tagged frames, %d scattered ones, %d short ones: want some of each", tagged, scattered, short)
	}
	t.Logf("%d frames on the wire agree: %d tagged, %d scattered, %d short", frames, tagged, scattered, short)
}
