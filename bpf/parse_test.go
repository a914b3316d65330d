package bpf

import (
	"encoding/binary"
	"slices"
	"testing"

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

// keep cuts the frame after n bytes of what Ethernet carries.
func keep(n int) func([]byte) []byte {
	return func(frame []byte) []byte { return frame[:etherLen+n] }
}

func tags(n int) func([]byte) []byte {
	return func(frame []byte) []byte {
		tagged := append([]byte(nil), frame[:12]...)
		for i := range n {
			tagged = append(tagged, 0x88, 0xa8, 0, byte(1+i))
		}
		return append(tagged, frame[12:]...)
	}
}

// TestMalformed checks packets that cannot be parsed: they pass, counted, until
// the direction they go is isolated. Beside each stands its like that can be.
func TestMalformed(t *testing.T) {
	v4 := tcp(web.v4, db.v4, 40000, 80, "S")
	v6 := tcp(web.v6, db.v6, 40000, 80, "S")
	u4, u6 := udp(web.v4, db.v4, 40000, 80), udp(web.v6, db.v6, 40000, 80)
	u6.payload = 64
	s4, _ := sctp(4, web, db)
	tagged, tagged6 := v4, v6
	tagged.vlans, tagged6.vlans = 1, 1
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
		{"IPv6 routing header with segments left", u6, insert(43, []byte{17, 0, 4, 1, 0, 0, 0, 0})},
		{"IPv6 chain of nine headers", u6, insert(60, options(9)...)},
		{"later fragment over the TCP header", v4, put(6, 0, 2)},
		{"later fragment over the TCP header in IPv6", u6, insert(44, []byte{6, 0, 0, 16, 0, 0, 0, 1})},
		{"later fragment over SCTP's chunk", s4, put(6, 0, 1)},
		{"frame within the IPv4 header", tagged, keep(4 + 19)},
		{"frame within the IPv6 header", tagged6, keep(4 + 39)},
		{"frame within a tag", tagged, keep(1)},
		{"three tags", v4, tags(3)},
		{"UDP length below its header's", u4, put(20+4, 0, 7)},
		{"UDP length beyond the packet in IPv4", u4, put(20+4, 0, 9)},
		{"UDP length beyond the packet in IPv6", u6, put(40+4, 0, 99)},
		{"UDP length of 0", u6, put(40+4, 0, 0)},
		{"first fragment within the TCP header", v4, func(f []byte) []byte { return put(2, 0, 36, 0, 0, 0x20, 0)(f) }},
		{"SCTP without a chunk", s4, put(2, 0, 32)},
		{"SCTP's INIT cut short", s4.chunk(sctpInit, 1), put(2, 0, 48)},
		{"ICMP within its header", echo(web.v4, db.v4, 1, false), put(2, 0, 27)},
		{"ICMPv6 within its header", echo(web.v6, db.v6, 1, false), put(4, 0, 7)},
		{"IPv6 destination that is an IPv4 address", v6, put(24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2)},
		{"IPv6 fragment of a fragment", u6, insert(44, []byte{44, 0, 0, 0, 0, 0, 0, 1}, []byte{17, 0, 0, 0, 0, 0, 0, 1})},
		{"IPv6 authentication header beyond the end", u6, insert(51, []byte{17, 99, 0, 0, 0, 0, 0, 0})},
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
			// Nor does it pass for one of a flow that is open.
			if c.p.proto == flow.TCP {
				l.want(pass, c.p.reply("SA"), "handshake")
				l.want(pass, c.p.with("A"), "handshake")
			}
			if code := l.from(broken(t, c.p.with("A"), c.change)); code != drop {
				t.Errorf("in an open flow: %s", verdictName(code))
			}
		})
	}
}

// insert puts extension headers, the first of type next, behind the IPv6 header.
func insert(next byte, headers ...[]byte) func([]byte) []byte {
	return func(frame []byte) []byte {
		all := slices.Concat(headers...)
		frame[etherLen+6] = next
		payload := binary.BigEndian.Uint16(frame[etherLen+4:])
		binary.BigEndian.PutUint16(frame[etherLen+4:], payload+uint16(len(all)))
		return slices.Insert(frame, etherLen+40, all...)
	}
}

// options makes n headers of options, the last one before UDP.
func options(n int) [][]byte {
	var list [][]byte
	for range n - 1 {
		list = append(list, []byte{60, 0, 1, 4, 0, 0, 0, 0})
	}
	return append(list, []byte{17, 0, 1, 4, 0, 0, 0, 0})
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

// TestExtensionsWalked checks, beside those that are malformed, the longest
// chain and headers that look like them.
func TestExtensionsWalked(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"seven headers":                        insert(60, options(8)...),
		"routing header without segments left": insert(43, []byte{17, 0, 4, 0, 0, 0, 0, 0}),
		"fragment header of a whole packet":    insert(44, []byte{17, 0, 0, 0, 0, 0, 0, 1}),
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.apply(live(flow.Egress, 1, allow(dbIdent, flow.UDP, 53)))
			if code := l.from(broken(t, udp(web.v6, db.v6, 40000, 53), change)); code != pass {
				t.Errorf("allowed port: %s", verdictName(code))
			}
			if code := l.from(broken(t, udp(web.v6, db.v6, 40000, 54), change)); code != drop {
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
