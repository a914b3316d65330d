package bpf

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/ringfence/ringfence/internal/flow"
)

// packet is a frame to be. For ICMP sport is the identifier and dport
// type<<8|code, whatever the type is.
type packet struct {
	src, dst     netip.Addr
	proto        flow.Protocol
	sport, dport uint16
	flags        string // TCP: of S, A, F, R
	seq          uint32
	payload      int
	quoted       []byte // ICMP error: from its IP header on
	hopLimit     uint8
	vlans        int
	sctp         []byte // the first chunk; default DATA
}

func (p packet) String() string {
	return fmt.Sprintf("%s %s:%d > %s:%d %s", p.proto, p.src, p.sport, p.dst, p.dport, p.flags)
}

// reply is the packet the other way.
func (p packet) reply(flags string) packet {
	p.src, p.dst, p.sport, p.dport, p.flags = p.dst, p.src, p.dport, p.sport, flags
	return p
}

func (p packet) with(flags string) packet {
	p.flags = flags
	return p
}

func tcp(src, dst netip.Addr, sport, dport uint16, flags string) packet {
	return packet{src: src, dst: dst, proto: flow.TCP, sport: sport, dport: dport, flags: flags}
}

func udp(src, dst netip.Addr, sport, dport uint16) packet {
	return packet{src: src, dst: dst, proto: flow.UDP, sport: sport, dport: dport}
}

// echo makes an echo request, or its answer.
func echo(src, dst netip.Addr, id uint16, answer bool) packet {
	p := packet{src: src, dst: dst, proto: flow.ICMP, sport: id, dport: 8 << 8}
	if answer {
		p.dport = 0
	}
	if src.Is6() {
		p.proto, p.dport = flow.ICMPv6, 128<<8
		if answer {
			p.dport = 129 << 8
		}
	}
	return p
}

var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

// frame builds the packet with correct lengths and checksums.
func (p packet) frame(t testing.TB) []byte {
	t.Helper()
	ethertype := layers.EthernetTypeIPv4
	if p.src.Is6() {
		ethertype = layers.EthernetTypeIPv6
	}
	eth := &layers.Ethernet{SrcMAC: macA, DstMAC: macB, EthernetType: ethertype}
	list := []gopacket.SerializableLayer{eth}
	for i := range p.vlans {
		list = append(list, &layers.Dot1Q{VLANIdentifier: uint16(10 + i), Type: ethertype})
		eth.EthernetType = layers.EthernetTypeDot1Q
		if i > 0 {
			list[i].(*layers.Dot1Q).Type = layers.EthernetTypeDot1Q
		}
	}
	ip, network := p.network()
	list = append(list, ip)
	list = append(list, p.transport(t, network)...)
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, list...); err != nil {
		t.Fatalf("build packet %s: %v", p, err)
	}
	return buf.Bytes()
}

func (p packet) network() (gopacket.SerializableLayer, gopacket.NetworkLayer) {
	limit := p.hopLimit
	if limit == 0 {
		limit = 64
	}
	if p.src.Is4() {
		ip := &layers.IPv4{
			Version: 4, TTL: limit, Protocol: layers.IPProtocol(p.proto), SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice(),
		}
		return ip, ip
	}
	ip := &layers.IPv6{
		Version: 6, HopLimit: limit, NextHeader: layers.IPProtocol(p.proto), SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice(),
	}
	return ip, ip
}

func (p packet) transport(t testing.TB, network gopacket.NetworkLayer) []gopacket.SerializableLayer {
	t.Helper()
	payload := gopacket.Payload(make([]byte, p.payload))
	switch p.proto {
	default:
		return []gopacket.SerializableLayer{gopacket.Payload(append(make([]byte, 8), payload...))}
	case flow.TCP:
		l := &layers.TCP{SrcPort: layers.TCPPort(p.sport), DstPort: layers.TCPPort(p.dport), Seq: p.seq, Window: 1024}
		for _, f := range p.flags {
			switch f {
			case 'S':
				l.SYN = true
			case 'A':
				l.ACK = true
			case 'F':
				l.FIN = true
			case 'R':
				l.RST = true
			}
		}
		_ = l.SetNetworkLayerForChecksum(network)
		return []gopacket.SerializableLayer{l, payload}
	case flow.SCTP:
		chunk := p.sctp
		if chunk == nil {
			chunk = []byte{0, 3, 0, 16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}
		}
		head := &layers.SCTP{SrcPort: layers.SCTPPort(p.sport), DstPort: layers.SCTPPort(p.dport)}
		return []gopacket.SerializableLayer{head, gopacket.Payload(chunk), payload}
	case flow.UDP:
		l := &layers.UDP{SrcPort: layers.UDPPort(p.sport), DstPort: layers.UDPPort(p.dport)}
		_ = l.SetNetworkLayerForChecksum(network)
		return []gopacket.SerializableLayer{l, payload}
	case flow.ICMP, flow.ICMPv6:
		body := []byte{byte(p.dport >> 8), byte(p.dport), 0, 0, byte(p.sport >> 8), byte(p.sport), 0, 1}
		if p.quoted != nil {
			body = append(body[:4:4], 0, 0, 0, 0)
			body = append(body, p.quoted...)
		}
		return []gopacket.SerializableLayer{gopacket.Payload(append(body, payload...))}
	}
}

// etherLen is the length of an untagged Ethernet header.
const etherLen = 14

// icmpError is the error by which from tells p's sender, quoting p.
func icmpError(t testing.TB, from netip.Addr, p packet) packet {
	quoted := p.frame(t)[etherLen:]
	e := packet{src: from, dst: p.src, proto: flow.ICMP, dport: 3<<8 | 1, quoted: quoted[:28]}
	if from.Is6() {
		e.proto, e.dport, e.quoted = flow.ICMPv6, 1<<8, quoted[:48]
	}
	return e
}
