package bpf

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/test/wire"
)

var update = flag.Bool("update", false, "record testdata/captures anew")

const captureDir = "testdata/captures"

// readCaptures returns the frames of every recording, file by file.
func readCaptures(t testing.TB) (frames [][]byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(captureDir, "*.pcap"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings in %s: %v", captureDir, err)
	}
	for _, file := range files {
		frames = append(frames, readCapture(t, file)...)
	}
	return frames
}

func readCapture(t testing.TB, file string) (frames [][]byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for {
		frame, _, err := r.ReadPacketData()
		if err != nil {
			return frames
		}
		frames = append(frames, frame)
	}
}

func writeCapture(t *testing.T, name string, frames [][]byte) {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for i, frame := range frames {
		at := time.Unix(int64(i), 0) // when it was does not matter
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(frame), Length: len(frame)}, frame); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(captureDir, name+".pcap"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestCaptures records real traffic between namespaces with -update, and checks
// that what is recorded holds what its names promise.
func TestCaptures(t *testing.T) {
	if *update {
		record(t)
	}
	for name, want := range map[string]func(p refPacket) bool{
		"tcp":       func(p refPacket) bool { return p.protocol == 6 && p.flags&tcpRST != 0 },
		"udp":       func(p refPacket) bool { return p.protocol == 17 && p.sport == 53 },
		"icmp":      func(p refPacket) bool { return p.report && p.icmp == map[bool]uint8{false: 11, true: 3}[p.v6] },
		"pmtu":      func(p refPacket) bool { return p.report && p.icmp == map[bool]uint8{false: 3, true: 2}[p.v6] },
		"fragments": func(p refPacket) bool { return p.later },
		"vlan":      func(p refPacket) bool { return p.flags&tcpSYN != 0 },
		"vxlan":     func(p refPacket) bool { return p.protocol == 17 && p.dport == vxlanPort },
		"discovery": func(p refPacket) bool { return p.icmp == 135 || p.icmp == 143 || !p.v6 },
	} {
		var v4, v6 int
		for _, frame := range readCapture(t, filepath.Join(captureDir, name+".pcap")) {
			if p, parsed := refFrame(frame, false, 0); parsed == refWhole && want(p) {
				if p.v6 {
					v6++
				} else {
					v4++
				}
			}
		}
		if v6 == 0 || v4 == 0 && name != "discovery" {
			t.Errorf("%s.pcap: %d frames of IPv4 and %d of IPv6 are what it is about", name, v4, v6)
		}
	}
}

// recorder keeps the frames that an interface sends and receives.
type recorder struct {
	t  *testing.T
	fd int
}

func newRecorder(t *testing.T, ns, name string) *recorder {
	t.Helper()
	r := &recorder{t: t, fd: -1}
	inNetNS(t, ns, func() (err error) {
		if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(networkOrder(unix.ETH_P_ALL))); err != nil {
			return err
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: l.Attrs().Index})
	})
	t.Cleanup(func() { _ = unix.Close(r.fd) })
	return r
}

// take returns what came since it was last called, once enough has.
func (r *recorder) take(enough func(refPacket) bool) (frames [][]byte) {
	r.t.Helper()
	deadline := time.Now().Add(wire.Arrives)
	b := make([]byte, 65536)
	for done := false; ; {
		n, _, err := unix.Recvfrom(r.fd, b, 0)
		switch {
		case err == nil:
			p, parsed := refFrame(b[:n], false, 0)
			done = done || parsed == refWhole && enough(p)
			frames = append(frames, slices.Clone(b[:n]))
		case !errors.Is(err, unix.EAGAIN):
			r.t.Fatal(err)
		case done:
			return frames
		case time.Now().After(deadline):
			r.t.Fatalf("%d frames, and what was awaited is not among them", len(frames))
		default:
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}, 100)
		}
	}
}

const vxlanPort = 4789

// record makes traffic of every kind and writes it down as the node sees it on
// web's interface.
func record(t *testing.T) {
	if err := os.MkdirAll(captureDir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	r := newRecorder(t, s.ns, "web")
	r.discovery(s)
	r.tcp(s)
	r.udp(s)
	r.icmp(s)
	r.vxlan(s)
	r.fragments(s)
	r.pmtu(s)
}

// each makes traffic in both families, IPv4 first.
func each(t *testing.T, traffic func(family int) error) {
	t.Helper()
	for _, family := range []int{4, 6} {
		if err := traffic(family); err != nil {
			t.Fatalf("IPv%d: %v", family, err)
		}
	}
}

// in runs fn in web's namespace.
func (r *recorder) in(s *site, fn func() error) error { return netNS(s.web.ns).do(fn) }

func (r *recorder) discovery(s *site) {
	err := r.in(s, func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		c, err := net.ListenMulticastUDP("udp6", eth0, &net.UDPAddr{IP: net.ParseIP("ff02::1234"), Port: 9999})
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		r.t.Fatal(err)
	}
	each(r.t, func(family int) error { return request(s.web.ns, "tcp", s.db.in(family), wire.Arrives) })
	all := r.take(func(p refPacket) bool { return p.v6 && p.flags&tcpFIN != 0 })
	writeCapture(r.t, "discovery", slices.DeleteFunc(all, func(f []byte) bool {
		p, parsed := refFrame(f, false, 0)
		return parsed == refWhole && p.protocol != 58
	}))
}

// tcp records a handshake, data and close, a refusal, and a reset.
func (r *recorder) tcp(s *site) {
	each(r.t, func(family int) error {
		if err := request(s.web.ns, "tcp", s.db.in(family), wire.Arrives); err != nil {
			return err
		}
		err := r.in(s, func() error {
			_, err := net.DialTimeout("tcp", netip.AddrPortFrom(s.db.in(family), 81).String(), wire.Arrives)
			return err
		})
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("want a refusal: %w", err)
		}
		c, err := dial(s.web.ns, "tcp", s.db.in(family), wire.Arrives)
		if err != nil {
			return err
		}
		if err := errors.Join(ask(c, wire.Arrives), c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
			return err
		}
		c, err = dial(s.db.ns, "tcp", s.web.in(family), wire.Arrives)
		if err != nil {
			return err
		}
		return errors.Join(ask(c, wire.Arrives), c.Close())
	})
	resets := 0
	frames := r.take(func(p refPacket) bool {
		if p.v6 && p.flags&tcpRST != 0 {
			resets++
		}
		return resets == 2
	})
	writeCapture(r.t, "tcp", frames)
	// Devices for tags are not in every kernel: they are put in by hand.
	for i, f := range frames {
		tags := []byte{0x81, 0, 0, 7}
		if i%2 == 1 {
			tags = []byte{0x88, 0xa8, 0, 9, 0x81, 0, 0, 7}
		}
		frames[i] = slices.Concat(f[:12], tags, f[12:])
	}
	writeCapture(r.t, "vlan", frames)
}

// udp records an echo, a query to a resolver, and a port that is closed.
func (r *recorder) udp(s *site) {
	serveDNS(r.t, s.db.ns)
	each(r.t, func(family int) error {
		if err := request(s.web.ns, "udp", s.db.in(family), wire.Arrives); err != nil {
			return err
		}
		return r.in(s, func() error {
			query := []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 'd', 'b', 0, 0, 1, 0, 1}
			return exchange(netip.AddrPortFrom(s.db.in(family), 53), query, true)
		})
	})
	each(r.t, func(family int) error {
		return r.in(s, func() error { return exchange(netip.AddrPortFrom(s.db.in(family), 9), []byte("discard"), false) })
	})
	writeCapture(r.t, "udp", r.take(func(p refPacket) bool { return p.v6 && p.report }))
}

func serveDNS(t *testing.T, ns string) {
	t.Helper()
	inNetNS(t, ns, func() error {
		c, err := net.ListenPacket("udp", ":53")
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			b := make([]byte, 512)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				b[2] |= 0x80 // an answer
				_, _ = c.WriteTo(b[:n], from)
			}
		}()
		return nil
	})
}

// exchange sends a datagram, and awaits an answer to it.
func exchange(to netip.AddrPort, b []byte, answered bool) error {
	c, err := net.Dial("udp", to.String())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(b); err != nil || !answered {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(wire.Arrives)); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 512))
	return err
}

// icmp records an echo, what has no route, and what lived too short.
func (r *recorder) icmp(s *site) {
	each(r.t, func(family int) error {
		return r.in(s, func() error { return errors.Join(pingOnce(s.db.in(family)), hopless(s.db.in(family))) })
	})
	each(r.t, func(family int) error {
		// Sent in vain: the error comes back.
		return r.in(s, func() error { return exchange(netip.AddrPortFrom(world.in(family), 53), []byte("lost"), false) })
	})
	writeCapture(r.t, "icmp", r.take(func(p refPacket) bool { return p.v6 && p.icmp == 1 }))
}

func pingOnce(to netip.Addr) error {
	network, kind := "ip4:icmp", byte(8)
	if to.Is6() {
		network, kind = "ip6:ipv6-icmp", 128
	}
	c, err := net.Dial(network, to.String())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	b := []byte{kind, 0, 0, 0, 0x12, 0x34, 0, 1, 'e', 'c', 'h', 'o'}
	if to.Is4() {
		sum := uint32(0)
		for i := 0; i < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		sum = sum>>16 + sum&0xffff
		b[2], b[3] = byte(^sum>>8), byte(^sum)
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(wire.Arrives)); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 512))
	return err
}

// hopless sends a datagram that the node must not forward.
func hopless(to netip.Addr) error {
	c, err := net.Dial("udp", netip.AddrPortFrom(to, serverPort).String())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	level, option := unix.IPPROTO_IP, unix.IP_TTL
	if to.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, 1) }); err != nil {
		return err
	}
	_, err = c.Write([]byte("hello"))
	return errors.Join(set, err)
}

// vxlan records connections inside a tunnel, of both families over both.
func (r *recorder) vxlan(s *site) {
	each(r.t, func(family int) error {
		for i, h := range []host{s.web, s.db} {
			peer := []host{s.db, s.web}[i]
			err := netNS(h.ns).do(func() error { return addTunnel(family, i, h.in(family), peer.in(family)) })
			if err != nil {
				return err
			}
		}
		for _, inner := range []int{4, 6} {
			if err := request(s.web.ns, "tcp", tunnelAddress(family, 1).in(inner), wire.Arrives); err != nil {
				return err
			}
		}
		return nil
	})
	fins := 0
	writeCapture(r.t, "vxlan", r.take(func(p refPacket) bool {
		if p.v6 && p.protocol == 17 {
			fins++
		}
		return fins > 16
	}))
}

func tunnelAddress(family, side int) party {
	return addrs(fmt.Sprintf("10.9.%d.%d", family, side+1), fmt.Sprintf("fd09:%d::%d", family, side+1))
}

func addTunnel(family, side int, local, remote netip.Addr) error {
	name := fmt.Sprintf("vxlan%d", family)
	err := netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1400}, VxlanId: 40 + family, Port: vxlanPort,
		SrcAddr: local.AsSlice(), Group: remote.AsSlice(),
	})
	if err != nil {
		return err
	}
	own := tunnelAddress(family, side)
	return errors.Join(
		sysctl("ipv6/conf/"+name+"/accept_dad", "0"), addAddress(name, own.v4), addAddress(name, own.v6), up(name),
		linkRoute(name, tunnelAddress(family, 1-side)),
	)
}

func linkRoute(name string, p party) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range []netip.Addr{p.v4, p.v6} {
		errs = append(errs, netlink.RouteAdd(&netlink.Route{
			LinkIndex: l.Attrs().Index, Dst: netlink.NewIPNet(a.AsSlice()), Scope: netlink.SCOPE_LINK,
		}))
	}
	return errors.Join(errs...)
}

// fragments records datagrams larger than the link's frames.
func (r *recorder) fragments(s *site) {
	each(r.t, func(family int) error {
		return r.in(s, func() error {
			return exchange(netip.AddrPortFrom(s.db.in(family), serverPort), make([]byte, 4000), true)
		})
	})
	pieces := 0
	writeCapture(r.t, "fragments", r.take(func(p refPacket) bool {
		if p.v6 && p.later {
			pieces++
		}
		return pieces >= 2
	}))
}

// pmtu records what does not fit the next link.
func (r *recorder) pmtu(s *site) {
	inNetNS(r.t, s.ns, func() error {
		l, err := netlink.LinkByName("db")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1280)
	})
	each(r.t, func(family int) error {
		return r.in(s, func() error {
			return exchange(netip.AddrPortFrom(s.db.in(family), serverPort), make([]byte, 1400), false)
		})
	})
	writeCapture(r.t, "pmtu", r.take(func(p refPacket) bool { return p.v6 && p.report }))
}
