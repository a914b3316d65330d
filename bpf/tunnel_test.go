package bpf

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/wire"
)

// wrapping puts a frame into a tunnel between two nodes.
type wrapping struct {
	name  string
	kind  Tunnels
	proto flow.Protocol // the tunnel's own
	port  uint16        // and port
	head  func(inner []byte) []byte
}

// outerPort is the tunnels' source port.
const outerPort = 45000

// overUDP makes the header of UDP, then h.
func overUDP(port uint16, h ...byte) func([]byte) []byte {
	return func(inner []byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, outerPort)
		b = binary.BigEndian.AppendUint16(b, port)
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(h)+len(inner)))
		b = append(b, 0, 0)
		return append(append(b, h...), inner...)
	}
}

// packetIn leaves out the inner frame's Ethernet header. Where h is given, its
// type of payload is put into bytes 2 and 3.
func packetIn(head func([]byte) []byte, at int) func([]byte) []byte {
	return func(inner []byte) []byte {
		b := head(inner[etherLen:])
		if at >= 0 {
			copy(b[at:], inner[12:14])
		}
		return b
	}
}

func bytesBefore(h ...byte) func([]byte) []byte {
	return func(inner []byte) []byte { return append(append([]byte(nil), h...), inner...) }
}

var wrappings = []wrapping{
	{"VXLAN", TunnelVXLAN, flow.UDP, 4789, overUDP(4789, 8, 0, 0, 0, 0, 0, 7, 0)},
	{"VXLAN on Linux's old port", TunnelVXLAN, flow.UDP, 8472, overUDP(8472, 8, 0, 0, 0, 0, 0, 7, 0)},
	{"GENEVE", TunnelGENEVE, flow.UDP, 6081, overUDP(6081, 0, 0, 0x65, 0x58, 0, 0, 7, 0)},
	{"GENEVE with options", TunnelGENEVE, flow.UDP, 6081, overUDP(6081, 2, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 1, 5, 6, 7, 8)},
	{"GENEVE without Ethernet", TunnelGENEVE, flow.UDP, 6081, packetIn(overUDP(6081, 0, 0, 0, 0, 0, 0, 7, 0), 8+2)},
	{"GRE", TunnelGRE, 47, 0, packetIn(bytesBefore(0, 0, 0, 0), 2)},
	{"GRE with checksum, key and sequence", TunnelGRE, 47, 0, packetIn(bytesBefore(0xb0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1), 2)},
	{"Ethernet in GRE", TunnelGRE, 47, 0, bytesBefore(0x20, 0, 0x65, 0x58, 0, 0, 0, 9)},
	{"IP in IP", TunnelIPIP, 0, 0, packetIn(bytesBefore(), -1)},
}

// wrap makes the frame that carries inner from one node to another.
func (w wrapping) wrap(family int, inner []byte) []byte {
	body := w.head(inner)
	proto := w.proto
	if proto == 0 {
		proto = 4
		if inner[12] == 0x86 {
			proto = 41
		}
	}
	src, dst := node.in(family).AsSlice(), other.in(family).AsSlice()
	frame := append(append(append([]byte(nil), macB...), macA...), 0x08, 0)
	if family == 4 {
		h := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, byte(proto), 0, 0}
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
		frame = append(frame, h...)
	} else {
		copy(frame[12:], []byte{0x86, 0xdd})
		h := []byte{0x60, 0, 0, 0, 0, 0, byte(proto), 64}
		binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
		frame = append(frame, h...)
	}
	return append(append(append(frame, src...), dst...), body...)
}

// newTunnelLab watches web as a node's own interface, where tunnels end.
func newTunnelLab(t *testing.T, tunnels Tunnels) *lab {
	t.Helper()
	l := newLab(t)
	l.attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent, Host: true, Tunnels: tunnels})
	return l
}

// TestTunnels checks that the inner flow is recorded and judged where the
// interface says so, and the tunnel's own where not.
func TestTunnels(t *testing.T) {
	for _, w := range wrappings {
		for _, pair := range [][2]int{{4, 4}, {4, 6}, {6, 4}, {6, 6}} {
			outer, inner := pair[0], pair[1]
			t.Run(fmt.Sprintf("%s, %d in %d", w.name, inner, outer), func(t *testing.T) {
				p := tcp(web.in(inner), db.in(inner), 40000, 80, "S")
				denied := p
				denied.dport = 81
				frame := w.wrap(outer, p.frame(t))

				l := newTunnelLab(t, w.kind)
				l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80)))
				if code := l.from(frame); code != pass {
					t.Errorf("inner flow that is allowed: %s", verdictName(code))
				}
				if r := l.record(); r.Source != p.src || r.Destination != p.dst || r.SourcePort != 40000 ||
					r.DestinationPort != 80 || r.Direction != flow.Egress || r.Forward.Bytes != uint64(len(frame)) {
					t.Errorf("record: %+v", r)
				}
				if code := l.to(w.wrap(outer, p.reply("SA").frame(t))); code != pass {
					t.Errorf("its answer: %s", verdictName(code))
				}
				if code := l.from(w.wrap(outer, denied.frame(t))); code != drop {
					t.Errorf("inner flow that is denied: %s", verdictName(code))
				}
				if n := l.flows(); n != 2 {
					t.Errorf("%d flows, want 2", n)
				}

				l = newTunnelLab(t, allTunnels&^w.kind)
				if code := l.from(frame); code != pass {
					t.Errorf("not looked into: %s", verdictName(code))
				}
				r := l.record()
				if r.Source != node.in(outer) || r.Destination != other.in(outer) || w.proto != 0 && r.Protocol != w.proto ||
					r.DestinationPort != w.port {
					t.Errorf("record of the tunnel's flow: %+v", r)
				}
			})
		}
	}
}

// TestTunnelMalformed checks that a tunnel's packet whose inside cannot be
// parsed is malformed, and that what is not looked into is the tunnel's own.
func TestTunnelMalformed(t *testing.T) {
	p := tcp(web.v4, db.v4, 40000, 80, "S").frame(t)
	vxlan, geneve, gre, teb, ipip := wrappings[0], wrappings[2], wrappings[5], wrappings[7], wrappings[8]
	change := func(w wrapping, at int, b ...byte) []byte {
		frame := w.wrap(4, p)
		copy(frame[at:], b)
		return frame
	}
	cut := func(w wrapping, n int) []byte { // with outer lengths that fit
		frame := w.wrap(4, p)[:n]
		binary.BigEndian.PutUint16(frame[etherLen+2:], uint16(n-etherLen))
		if w.proto == flow.UDP {
			binary.BigEndian.PutUint16(frame[etherLen+24:], uint16(n-etherLen-20))
		}
		return frame
	}
	const l4 = etherLen + 20
	arp := append(append(append([]byte(nil), macA...), macB...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	for _, c := range []struct {
		name    string
		frame   []byte
		counter string // "" for a flow of the tunnel's
		passes  bool   // even enforced
	}{
		{"VXLAN without its network", change(vxlan, l4+8, 0), "malformed", false},
		{"VXLAN cut in its header", cut(vxlan, l4+12), "malformed", false},
		{"VXLAN cut in the inner Ethernet header", cut(vxlan, l4+16+8), "malformed", false},
		{"VXLAN cut in the inner IP header", cut(vxlan, l4+16+14+10), "malformed", false},
		{"VXLAN with a forged inner length", change(vxlan, l4+16+14+2, 9, 9), "malformed", false},
		{"VXLAN with an inner version of 5", change(vxlan, l4+16+14, 0x55), "malformed", false},
		{"VXLAN cut in the inner TCP header", cut(vxlan, l4+16+14+20+12), "malformed", false},
		{"GENEVE of another version", change(geneve, l4+8, 0x40), "malformed", false},
		{"GENEVE with options beyond the end", change(geneve, l4+8, 0x3f), "malformed", false},
		{"GRE cut in its header", cut(gre, l4+2), "malformed", false},
		{"GRE with a key beyond the end", append(cut(gre, l4+4)[:l4], 0x20, 0, 8, 0), "malformed", false},
		{"IP in IP cut in the inner header", cut(ipip, l4+10), "malformed", false},
		{"three inner tags", vxlan.wrap(4, append(append(append([]byte(nil), p[:12]...), 0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3), p[12:]...)), "malformed", false},
		{"VXLAN that ends before its ARP", put(24, 0, 20)(put(2, 0, 40)(vxlan.wrap(4, arp))), "malformed", false},
		{"ARP in VXLAN", vxlan.wrap(4, arp), "non_ip", true},
		{"ARP in GRE", teb.wrap(4, arp), "non_ip", true},
		{"LLC in VXLAN", vxlan.wrap(4, append(append([]byte(nil), p[:12]...), 0, 3, 0x42, 0x42, 3)), "", false},
		{"GRE of version 1", change(gre, l4, 0x30, 0x81), "", false},
		{"GRE routed by its sender", change(gre, l4, 0x40), "", false},
		{"MPLS in GRE", change(gre, l4+2, 0x88, 0x47), "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newTunnelLab(t, allTunnels)
			if code := l.from(c.frame); code != pass {
				t.Errorf("observed: %s", verdictName(code))
			}
			flows := 0
			if c.counter == "" {
				flows = 1
				if r := l.record(); r.Source != node.v4 || r.Destination != other.v4 {
					t.Errorf("record: %+v", r)
				}
			} else if n := l.counter(c.counter); n != 1 {
				t.Errorf("counter %s: %d, want 1", c.counter, n)
			}
			l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80)))
			want := drop
			if c.passes {
				want = pass
			}
			if code := l.from(c.frame); code != want {
				t.Errorf("enforced: %s, want %s", verdictName(code), verdictName(want))
			}
			if n := l.flows(); n != flows {
				t.Errorf("%d flows, want %d", n, flows)
			}
		})
	}
}

// TestTunnelInFragments checks that fragments of a tunnel's packets are judged as
// the tunnel's, and that this does not let its whole packets in beside.
func TestTunnelInFragments(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newTunnelLab(t, TunnelVXLAN)
		port := Entry{Peer: PeerAny, Protocol: flow.UDP, First: 4789, Last: 4789}
		l.apply(live(flow.Egress, 1, port))
		outer := udp(node.in(family), other.in(family), outerPort, 4789)
		first, later := fragments(t, outer, 7)
		for _, frame := range [][]byte{first, later, first} {
			if code := l.from(frame); code != pass {
				t.Errorf("fragment of the tunnel: %s", verdictName(code))
			}
		}
		inner := tcp(web.in(family), db.in(family), 40000, 80, "S").frame(t)
		if code := l.from(wrappings[0].wrap(family, inner)); code != drop {
			t.Errorf("inner flow that is denied: %s", verdictName(code))
		}
		l.apply(live(flow.Egress, 2, allow(dbIdent, flow.TCP, 80)))
		if code := l.from(first); code != drop {
			t.Errorf("fragment of a tunnel that is denied: %s", verdictName(code))
		}
		if code := l.from(wrappings[0].wrap(family, inner)); code != pass {
			t.Errorf("inner flow that is allowed: %s", verdictName(code))
		}
	})
}

// TestTunnelQuoted checks that an ICMP error which quotes a tunnel's packet
// belongs to the inner flow.
func TestTunnelQuoted(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newTunnelLab(t, TunnelVXLAN)
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80)), live(flow.Ingress, 1))
		quoting := func(p packet) uint32 {
			e := icmpError(t, world.in(family), p)
			e.src, e.dst = other.in(family), node.in(family)
			e.quoted = wrappings[0].wrap(family, p.frame(t))[etherLen:]
			return l.to(e.frame(t))
		}
		p := tcp(web.in(family), db.in(family), 40000, 80, "S")
		if code := quoting(p); code != drop {
			t.Errorf("before the flow: %s", verdictName(code))
		}
		if code := l.from(wrappings[0].wrap(family, p.frame(t))); code != pass {
			t.Fatalf("inner flow: %s", verdictName(code))
		}
		if code := quoting(p); code != pass {
			t.Errorf("error of the inner flow: %s", verdictName(code))
		}
		p.sport++
		if code := quoting(p); code != drop {
			t.Errorf("error of another: %s", verdictName(code))
		}
	})
}

// TestTunnelTraffic sends real connections through the kernel's own VXLAN, of
// which the node sees the tunnel's packets only.
func TestTunnelTraffic(t *testing.T) {
	s := newSite(t)
	// Before there is a tunnel: its devices speak as soon as they are up.
	for _, h := range []host{s.web, s.db} {
		if err := s.d.Attach(Endpoint{Interface: h.veth, ID: h.id, Identity: h.ident, Tunnels: TunnelVXLAN}); err != nil {
			t.Fatal(err)
		}
	}
	inside := func(h host, local party) {
		for _, family := range []int{4, 6} {
			name := fmt.Sprintf("vx%d", family)
			peer := s.db
			if h.ns == s.db.ns {
				peer = s.web
			}
			inNetNS(t, h.ns, func() error {
				eth, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				vx := &netlink.Vxlan{
					LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1400}, VxlanId: 70 + family, Port: 4789, VtepDevIndex: eth.Attrs().Index,
					SrcAddr: h.in(family).AsSlice(), Group: peer.in(family).AsSlice(), UDPCSum: true,
				}
				if err := netlink.LinkAdd(vx); err != nil {
					return fmt.Errorf("add vxlan: %w", err)
				}
				if err := up(name); err != nil {
					return err
				}
				addr := &netlink.Addr{IPNet: &net.IPNet{IP: local.in(family).AsSlice(), Mask: net.CIDRMask(120, 128)}}
				if family == 4 {
					addr.Mask = net.CIDRMask(24, 32)
				} else {
					addr.Flags = 2
				}
				return netlink.AddrAdd(vx, addr)
			})
		}
	}
	a := addrs("10.9.0.1", "fd09::1")
	b := addrs("10.9.0.2", "fd09::2")
	inside(s.web, a)
	inside(s.db, b)
	owners := everyone()
	for _, family := range []int{4, 6} {
		owners = append(owners, AddressOwner{a.in(family), webIdent, webID}, AddressOwner{b.in(family), dbIdent, dbID})
	}
	if _, err := s.d.SetAddresses(owners); err != nil {
		t.Fatal(err)
	}
	s.apply(Table{
		TableKey: TableKey{webIdent, flow.SlotLive, flow.Egress}, Revision: 1, Entries: []Entry{allow(dbIdent, flow.TCP, serverPort)},
	})
	for _, family := range []int{4, 6} {
		s.reaches(true, s.web, "tcp", b.in(family))
		s.reaches(false, s.web, "udp", b.in(family))
	}
	r, err := s.d.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	seen := map[netip.Addr]uint64{}
	deadline := time.Now().Add(wire.Arrives)
	for time.Now().Before(deadline) && (seen[b.v4] == 0 || seen[b.v6] == 0) {
		batch, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range batch.Records {
			if rec.DestinationPort == 4789 {
				t.Errorf("record of the tunnel's own flow: %+v", rec)
			}
			if rec.Protocol == flow.TCP && rec.Endpoint == dbID && rec.Direction == flow.Ingress {
				seen[rec.Destination] += uint64(rec.Connections)
			}
		}
		if err := r.Commit(batch.End); err != nil {
			t.Fatal(err)
		}
	}
	if seen[b.v4] != 1 || seen[b.v6] != 1 {
		t.Errorf("inner connections at the server: %v", seen)
	}
}
