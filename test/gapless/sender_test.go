package gapless

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/wire"
)

// want is what must happen to a class's frames.
type want int

const (
	arrive want = iota // every one
	never              // not one
	flip               // by the revision in force
)

// class is a kind of frames, from one host to another.
type class struct {
	name     string
	number   uint32
	from, to *host
	want     want
	family   int
	protocol flow.Protocol
	// Ports. flows of them in a row are taken on the side that ports is, over
	// and over; without an end when flows is 0: then each frame is a new flow's.
	sport, dport uint16
	flows        int
	spread       spread
	share        int // frames of a burst

	frames [][]byte // the flows', or the one that is changed with each use
	next   int
	sent   atomic.Uint64
}

// spread says which port tells a class's flows apart.
type spread int

const (
	bySource spread = iota
	byDestination
)

const (
	etherLen   = 14
	portsOf4   = etherLen + 20
	portsOf6   = etherLen + 40
	payloadLen = trailerLen + 8
)

// build makes the class's frames; checksums are those of the first flow, which
// the node, that only forwards, does not look at above IP.
func (c *class) build() error {
	for i := range max(c.flows, 1) {
		frame, err := c.frame(uint16(i))
		if err != nil {
			return fmt.Errorf("class %s: %w", c.name, err)
		}
		c.frames = append(c.frames, frame)
	}
	return nil
}

func (c *class) frame(offset uint16) ([]byte, error) {
	src, dst := c.from.in(c.family), c.to.in(c.family)
	sport, dport := c.sport, c.dport
	if c.spread == bySource {
		sport += offset
	} else {
		dport += offset
	}
	eth := &layers.Ethernet{SrcMAC: c.from.mac, DstMAC: c.from.via, EthernetType: layers.EthernetTypeIPv4}
	list := []gopacket.SerializableLayer{eth}
	if c.family == 4 {
		list = append(list, ip4(src, dst, c.protocol))
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		list = append(list, ip6(src, dst, c.protocol))
	}
	if c.protocol == flow.UDP {
		list = append(list, &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)})
	} else {
		list = append(list, &layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), SYN: true, Window: 1024})
	}
	payload := make([]byte, payloadLen)
	trailer := payload[payloadLen-trailerLen:]
	binary.NativeEndian.PutUint32(trailer, magic)
	binary.NativeEndian.PutUint32(trailer[4:], c.number)
	buf := gopacket.NewSerializeBuffer()
	// Without a checksum over the ports: they change.
	opts := gopacket.SerializeOptions{FixLengths: true}
	if err := gopacket.SerializeLayers(buf, opts, append(list, gopacket.Payload(payload))...); err != nil {
		return nil, err
	}
	frame := buf.Bytes()
	if c.family == 4 {
		sumIPv4(frame[etherLen:portsOf4])
	}
	return frame, nil
}

func ip4(src, dst netip.Addr, p flow.Protocol) *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocol(p), SrcIP: src.AsSlice(), DstIP: dst.AsSlice(),
	}
}

func ip6(src, dst netip.Addr, p flow.Protocol) *layers.IPv6 {
	return &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(p), SrcIP: src.AsSlice(), DstIP: dst.AsSlice(),
	}
}

func sumIPv4(header []byte) {
	header[10], header[11] = 0, 0
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
}

// take returns the class's next frame, numbered. It is good until the class's
// flows have come round.
func (c *class) take() []byte {
	frame := c.frames[c.next%len(c.frames)]
	if c.flows == 0 {
		frame = append([]byte(nil), frame...)
		at, first := portsOf4, c.sport
		if c.family == 6 {
			at = portsOf6
		}
		if c.spread == byDestination {
			at, first = at+2, c.dport
		}
		binary.BigEndian.PutUint16(frame[at:], first+uint16(c.next%portsFrom(first)))
	}
	c.next++
	binary.NativeEndian.PutUint64(frame[len(frame)-8:], uint64(c.next))
	return frame
}

// portsFrom is how many ports there are from the first on.
func portsFrom(first uint16) int { return 1<<16 - int(first) }

// begun is how many flows the class has begun.
func (c *class) begun() uint64 {
	if c.flows > 0 {
		return uint64(c.flows)
	}
	first := c.sport
	if c.spread == byDestination {
		first = c.dport
	}
	return min(c.sent.Load(), uint64(portsFrom(first)))
}

// sender puts the classes of one host on its interface, behind no queue: what
// the system call says it sent was handed to the node.
type sender struct {
	fd      int
	classes []*class
	pattern []*class // a burst
	done    chan error
	stop    context.CancelFunc
	began   time.Time
	elapsed time.Duration
}

const packetQdiscBypass = 20

func newSender(t *testing.T, classes ...*class) *sender {
	t.Helper()
	s := &sender{classes: classes, done: make(chan error, 1)}
	for _, c := range classes {
		must(t, c.build())
		for range c.share {
			s.pattern = append(s.pattern, c)
		}
	}
	must(t, wire.In(classes[0].from.ns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		t.Cleanup(func() { _ = unix.Close(s.fd) })
		if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, packetQdiscBypass, 1); err != nil {
			return err
		}
		return unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index})
	}))
	return s
}

// start sends rate frames a second until halt is called; short of time it
// catches up. It returns when every flow has begun.
func (s *sender) start(t testing.TB, rate int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.stop, s.began = cancel, time.Now()
	go func() { s.done <- s.run(ctx, rate) }()
	for _, c := range s.classes {
		for c.sent.Load() < uint64(len(c.frames)) {
			if time.Since(s.began) > 10*time.Second {
				t.Fatalf("%s: %d frames in 10 s", c.name, c.sent.Load())
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func (s *sender) halt(t testing.TB) {
	t.Helper()
	s.stop()
	err := <-s.done
	s.elapsed = time.Since(s.began)
	must(t, err)
}

func (s *sender) run(ctx context.Context, rate int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	sent := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		// At most so much in one go that a change in between is noticed.
		due := int(time.Since(s.began).Seconds()*float64(rate)) - sent
		for due = min(due, rate/50); due > 0; {
			n, err := s.burst()
			if err != nil {
				return err
			}
			sent, due = sent+n, due-n
		}
	}
}

type message struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

// burst sends each class's share once.
func (s *sender) burst() (int, error) {
	messages := make([]message, len(s.pattern))
	vectors := make([]unix.Iovec, len(s.pattern))
	for i, c := range s.pattern {
		frame := c.take()
		vectors[i].Base = &frame[0]
		vectors[i].SetLen(len(frame))
		messages[i].header.Iov = &vectors[i]
		messages[i].header.SetIovlen(1)
	}
	for sent := 0; sent < len(messages); {

		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&messages[sent])),
			uintptr(len(messages)-sent), 0, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return sent, fmt.Errorf("sendmmsg: %w", errno)
		}
		for _, c := range s.pattern[sent : sent+int(n)] {
			c.sent.Add(1)
		}
		sent += int(n)
	}
	runtime.KeepAlive(vectors)
	return len(messages), nil
}

func (s *sender) sent() (n uint64) {
	for _, c := range s.classes {
		n += c.sent.Load()
	}
	return n
}

// verdict compares what was sent of a class with what arrived.
func (c *class) verdict(t testing.TB, r *receiver) (lost, slipped uint64) {
	t.Helper()
	sent, got := c.sent.Load(), r.arrival(t, c.number).Packets
	switch c.want {
	case arrive:
		return sent - got, 0
	case never:
		return 0, got
	default:
		return 0, 0
	}
}
