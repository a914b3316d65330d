package bpf

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/ringfence/ringfence/internal/flow"
)

// broken returns p's frame after a change.
func broken(t *testing.T, p packet, change func(frame []byte) []byte) []byte {
	t.Helper()
	return change(append([]byte(nil), p.frame(t)...))
}

func put(offset int, b ...byte) func([]byte) []byte {
	return func(frame []byte) []byte {
		copy(frame[etherLen+offset:], b)
		return frame
	}
}

// TestMalformed checks packets that cannot be parsed: they pass, counted, until
// the direction they go is isolated. Beside each stands its like that can be.
func TestMalformed(t *testing.T) {
	v4 := tcp(web.v4, db.v4, 40000, 80, "S")
	v6 := tcp(web.v6, db.v6, 40000, 80, "S")
	u4, u6 := udp(web.v4, db.v4, 40000, 80), udp(web.v6, db.v6, 40000, 80)
	u6.payload = 64
	for _, c := range []struct {
		name   string
		p      packet
		change func([]byte) []byte
	}{
		{"IPv4 version", v4, put(0, 0x65)},
		{"IPv4 header length", v4, put(0, 0x44)},
		{"IPv4 total length below the header's", v4, put(2, 0, 19)},
		{"IPv4 total length beyond the frame", v4, put(2, 2, 0)},
		{"IPv4 total length within the TCP header", v4, put(2, 0, 39)},
		{"TCP header length in IPv4", v4, put(20+12, 0x40)},
		{"TCP options beyond the packet", v4, put(20+12, 0xf0)},
		{"UDP within its header in IPv4", u4, put(2, 0, 27)},
		{"IPv6 version", v6, put(0, 0x40)},
		{"IPv6 payload length beyond the frame", v6, put(4, 2, 0)},
		{"IPv6 payload length within the TCP header", v6, put(4, 0, 19)},
		{"TCP header length in IPv6", v6, put(40+12, 0x40)},
		{"IPv6 source that is an IPv4 address", v6, put(8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1)},
		{"IPv6 header after the end", v6, put(6, 0, 0, 0, 0, 0)},
		{"IPv6 routing header with segments left", u6, put(6, append([]byte{43}, chain(u6, []byte{17, 0, 4, 1, 0, 0, 0, 0})...)...)},
		{"IPv6 chain of nine headers", u6, put(6, append([]byte{60}, chain(u6, nine()...)...)...)},
		{"later fragment over the TCP header", v4, put(6, 0, 2)},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			frame := broken(t, c.p, c.change)
			if code := l.from(frame); code != pass {
				t.Errorf("observed: %s", verdictName(code))
			}
			l.apply(staged(flow.Egress, 1), live(flow.Ingress, 1, Entry{Peer: PeerAny}))
			if code := l.from(frame); code != pass {
				t.Errorf("audited: %s", verdictName(code))
			}
			l.apply(live(flow.Egress, 1, Entry{Peer: PeerAny}))
			if code := l.from(frame); code != drop {
				t.Errorf("enforced: %s", verdictName(code))
			}
			for name, want := range map[string]uint64{
				"malformed": 3, LiveDeny(flow.ReasonMalformed): 1, StagedDeny(flow.ReasonMalformed): 2,
			} {
				if n := l.counter(name); n != want {
					t.Errorf("counter %s: %d, want %d", name, n, want)
				}
			}
			if n := l.flows(); n != 0 {
				t.Errorf("%d flows, want none", n)
			}
			l.want(pass, c.p, "the whole packet")
		})
	}
}

// chain keeps p's header up to where extension headers go, and adds them.
func chain(p packet, headers ...[]byte) []byte {
	var t testing.T
	out := append([]byte(nil), p.frame(&t)[etherLen+7:etherLen+40]...)
	for _, h := range headers {
		out = append(out, h...)
	}
	return out
}

func nine() [][]byte {
	var list [][]byte
	for range 9 {
		list = append(list, []byte{60, 0, 1, 4, 0, 0, 0, 0})
	}
	return list
}

// TestHeadersWalked checks that what precedes the ports does not hide them.
func TestHeadersWalked(t *testing.T) {
	hopByHop := &layers.IPv6HopByHop{}
	hopByHop.NextHeader = layers.IPProtocolTCP
	hopByHop.Options = []*layers.IPv6HopByHopOption{{OptionType: 1, OptionData: make([]byte, 4)}}
	for _, c := range []struct {
		name  string
		frame func(t *testing.T, port uint16) []byte
	}{
		{"IPv4 options", func(t *testing.T, port uint16) []byte {
			ip := &layers.IPv4{
				Version: 4, TTL: 9, Protocol: 6, SrcIP: web.v4.AsSlice(), DstIP: db.v4.AsSlice(),
				Options: []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}},
			}
			return serialize(t, layers.EthernetTypeIPv4, ip, segment(port, ip))
		}},
		{"IPv6 hop-by-hop options", func(t *testing.T, port uint16) []byte {
			ip := &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: 0, SrcIP: web.v6.AsSlice(), DstIP: db.v6.AsSlice()}
			return serialize(t, layers.EthernetTypeIPv6, ip, hopByHop, segment(port, ip))
		}},
		{"IPv6 authentication and destination options", func(t *testing.T, port uint16) []byte {
			ip := &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: 51, SrcIP: web.v6.AsSlice(), DstIP: db.v6.AsSlice()}
			ah := gopacket.Payload{60, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
			options := gopacket.Payload{6, 0, 1, 4, 0, 0, 0, 0}
			return serialize(t, layers.EthernetTypeIPv6, ip, ah, options, segment(port, ip))
		}},
		{"IPv6 fragment header of a whole packet", func(t *testing.T, port uint16) []byte {
			ip := &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: 44, SrcIP: web.v6.AsSlice(), DstIP: db.v6.AsSlice()}
			return serialize(t, layers.EthernetTypeIPv6, ip, gopacket.Payload{6, 0, 0, 0, 0, 0, 0, 9}, segment(port, ip))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80)))
			if code := l.from(c.frame(t, 80)); code != pass {
				t.Errorf("allowed port: %s", verdictName(code))
			}
			if code := l.from(c.frame(t, 81)); code != drop {
				t.Errorf("denied port: %s", verdictName(code))
			}
			if n := l.counter("malformed"); n != 0 {
				t.Errorf("%d malformed", n)
			}
		})
	}
}

func segment(port uint16, network gopacket.NetworkLayer) gopacket.SerializableLayer {
	l := &layers.TCP{SrcPort: 40000, DstPort: layers.TCPPort(port), SYN: true}
	_ = l.SetNetworkLayerForChecksum(network)
	return l
}

func serialize(t *testing.T, ethertype layers.EthernetType, list ...gopacket.SerializableLayer) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: macA, DstMAC: macB, EthernetType: ethertype}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true}
	if err := gopacket.SerializeLayers(buf, opts, append([]gopacket.SerializableLayer{eth}, list...)...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// fragments splits a datagram of p in two.
func fragments(t *testing.T, p packet, id uint16) (first, later []byte) {
	t.Helper()
	p.payload = 64
	whole := p.frame(t)
	if p.src.Is4() {
		cut := func(offset uint16, more uint16, body []byte) []byte {
			f := append(append([]byte(nil), whole[:etherLen+20]...), body...)
			binary.BigEndian.PutUint16(f[etherLen+2:], uint16(20+len(body)))
			binary.BigEndian.PutUint16(f[etherLen+4:], id)
			binary.BigEndian.PutUint16(f[etherLen+6:], more|offset/8)
			return f
		}
		body := whole[etherLen+20:]
		return cut(0, 0x2000, body[:32]), cut(32, 0, body[32:])
	}
	cut := func(offset, more uint16, body []byte) []byte {
		f := append([]byte(nil), whole[:etherLen+40]...)
		f[etherLen+6] = 44
		h := []byte{17, 0, byte((offset | more) >> 8), byte(offset | more), 0, 0, byte(id >> 8), byte(id)}
		f = append(append(f, h...), body...)
		binary.BigEndian.PutUint16(f[etherLen+4:], uint16(8+len(body)))
		return f
	}
	body := whole[etherLen+40:]
	return cut(0, 1, body[:32]), cut(32, 0, body[32:])
}

// TestFragments checks that later fragments go with their first one, and are
// refused without it where the direction is isolated.
func TestFragments(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.UDP, 53)))
		first, later := fragments(t, udp(web.in(family), db.in(family), 40000, 53), 1)
		if code := l.from(later); code != drop {
			t.Errorf("later fragment alone: %s", verdictName(code))
		}
		if code := l.from(first); code != pass {
			t.Errorf("first fragment: %s", verdictName(code))
		}
		if code := l.from(later); code != pass {
			t.Errorf("later fragment: %s", verdictName(code))
		}
		first, later = fragments(t, udp(web.in(family), db.in(family), 40000, 54), 2)
		if code := l.from(first); code != drop {
			t.Errorf("first fragment, denied: %s", verdictName(code))
		}
		if code := l.from(later); code != drop {
			t.Errorf("later fragment, denied: %s", verdictName(code))
		}
		l.sweep(5 * time.Second)
		var sum total
		sum.add(l.records())
		if sum.forward.Packets != 4 || sum.connections != 2 {
			t.Errorf("sums: %+v", sum)
		}
		for name, want := range map[string]uint64{"fragments": 3, "fragments_unmatched": 1} {
			if n := l.counter(name); n != want {
				t.Errorf("counter %s: %d, want %d", name, n, want)
			}
		}
		// A note is forgotten after its time.
		l.sweep(time.Minute)
		_, later = fragments(t, udp(web.in(family), db.in(family), 40000, 53), 1)
		if code := l.from(later); code != drop {
			t.Errorf("later fragment of long ago: %s", verdictName(code))
		}
	})
}

// TestOffload checks that a packet made of several counts as several.
func TestOffload(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		p := tcp(web.in(family), db.in(family), 40000, 80, "A")
		p.payload = 3000
		code := l.sendAs(l.d.programs.RfFromEndpoint, skb{GSOSegs: 3, GSOSize: 1400}, p.frame(t))
		if r := l.record(); code != pass || r.Forward.Packets != 3 || r.Forward.Bytes != uint64(len(p.frame(t))) {
			t.Errorf("%s, record %+v", verdictName(code), r)
		}
	})
}
