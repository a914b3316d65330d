package wire

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/ringfence/ringfence/internal/flow"
)

// Hardware addresses that no interface has. A bridge floods what is for
// Everybody.
var (
	Everybody = net.HardwareAddr{2, 0, 0, 0, 0, 0xbb}
	Nobody    = net.HardwareAddr{2, 0, 0, 0, 0, 0xaa}
)

// Packet says what a frame is to hold.
type Packet struct {
	// From and To are Nobody and Everybody unless given.
	From, To            net.HardwareAddr
	Source, Destination netip.Addr
	Protocol            flow.Protocol
	SPort, DPort        uint16 // TCP, UDP, SCTP
	Flags               string // TCP: of S, A, F, R; SCTP: the chunk that means the same
	Kind, Code          uint8  // ICMP and ICMPv6
	ID                  uint16 // ICMP and ICMPv6
	Hops                uint8  // 64 unless given
	// Mark is the frame's last eight bytes, by which Received knows it.
	Mark uint64
}

// Bytes builds the frame.
func (p *Packet) Bytes() ([]byte, error) {
	eth, ip := p.headers()
	list := []gopacket.SerializableLayer{eth, ip}
	switch p.Protocol {
	case flow.TCP:
		tcp := &layers.TCP{SrcPort: layers.TCPPort(p.SPort), DstPort: layers.TCPPort(p.DPort), Seq: 7, Window: 1024}
		for _, c := range p.Flags {
			tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST = tcp.SYN || c == 'S', tcp.ACK || c == 'A', tcp.FIN || c == 'F', tcp.RST || c == 'R'
		}
		if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
			return nil, err
		}
		list = append(list, tcp)
	case flow.UDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(p.SPort), DstPort: layers.UDPPort(p.DPort)}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			return nil, err
		}
		list = append(list, udp)
	case flow.SCTP:
		list = append(list, &layers.SCTP{SrcPort: layers.SCTPPort(p.SPort), DstPort: layers.SCTPPort(p.DPort)})
	case flow.ICMP, flow.ICMPv6:
		h := []byte{p.Kind, p.Code, 0, 0, 0, 0, 0, 1}
		binary.BigEndian.PutUint16(h[4:], p.ID)
		list = append(list, gopacket.Payload(h))
	}
	// Long enough that nothing pads the frame behind its mark.
	body := binary.BigEndian.AppendUint64(make([]byte, 40), p.Mark)
	if p.Protocol == flow.SCTP {
		body[0] = p.chunk()
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	list = append(list, gopacket.Payload(body))
	if err := gopacket.SerializeLayers(buf, opts, list...); err != nil {
		return nil, fmt.Errorf("build %+v: %w", p, err)
	}
	return buf.Bytes(), nil
}

// chunk is the type of SCTP's chunk that means what TCP's flags do.
func (p *Packet) chunk() byte {
	switch p.Flags {
	case "S":
		return 1 // INIT
	case "SA":
		return 2 // INIT ACK
	case "R":
		return 6 // ABORT
	}
	return 0 // DATA
}

// network is a layer that is written, and that checksums above it need.
type network interface {
	gopacket.SerializableLayer
	gopacket.NetworkLayer
}

func (p *Packet) headers() (*layers.Ethernet, network) {
	eth := &layers.Ethernet{DstMAC: p.To, SrcMAC: p.From, EthernetType: layers.EthernetTypeIPv4}
	if eth.DstMAC == nil {
		eth.DstMAC = Everybody
	}
	if eth.SrcMAC == nil {
		eth.SrcMAC = Nobody
	}
	hops := p.Hops
	if hops == 0 {
		hops = 64
	}
	src, dst, protocol := p.Source.AsSlice(), p.Destination.AsSlice(), layers.IPProtocol(p.Protocol)
	if p.Source.Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		return eth, &layers.IPv6{Version: 6, HopLimit: hops, NextHeader: protocol, SrcIP: src, DstIP: dst}
	}
	return eth, &layers.IPv4{Version: 4, TTL: hops, Protocol: protocol, SrcIP: src, DstIP: dst}
}
