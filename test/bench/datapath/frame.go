package main

import (
	"fmt"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/ringfence/ringfence/bpf/drive"
)

// frame is a packet of a TCP flow between the endpoint and one of its peers,
// with the places where flows differ.
type frame struct {
	bytes        []byte
	endpointPort int // offsets
	peerHost     int // of the peer's address, the last two bytes
	peerPort     int
	toEndpoint   bool
}

// tcpFlags are those of a frame.
type tcpFlags struct{ syn, ack bool }

var (
	syn    = tcpFlags{syn: true}
	synAck = tcpFlags{syn: true, ack: true}
	ack    = tcpFlags{ack: true}
)

const etherLen, portLen = 14, 2

// newFrame builds a packet of 64 bytes of payload, of flow 0.
func newFrame(endpoint, peers netip.Addr, toEndpoint bool, flags tcpFlags) (frame, error) {
	src, dst := endpoint, peerAddr(peers, 1)
	sport, dport := layers.TCPPort(firstPort), layers.TCPPort(peerPort)
	if toEndpoint {
		src, dst, sport, dport = dst, src, dport, sport
	}
	f := frame{toEndpoint: toEndpoint}
	eth := &layers.Ethernet{
		SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4,
	}
	tcp := &layers.TCP{SrcPort: sport, DstPort: dport, SYN: flags.syn, ACK: flags.ack, Seq: 1, Window: 1024}
	addresses, length, headers := 12, 4, 20
	var ip gopacket.SerializableLayer
	if src.Is4() {
		l := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip = l
		_ = tcp.SetNetworkLayerForChecksum(l)
	} else {
		addresses, length, headers = 8, 16, 40
		eth.EthernetType = layers.EthernetTypeIPv6
		l := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip = l
		_ = tcp.SetNetworkLayerForChecksum(l)
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, eth, ip, tcp, gopacket.Payload(make([]byte, 64))); err != nil {
		return frame{}, fmt.Errorf("build a packet: %w", err)
	}
	f.bytes = buf.Bytes()
	ports := etherLen + headers
	peerAt := etherLen + addresses
	if toEndpoint {
		f.peerPort, f.endpointPort = ports, ports+portLen
	} else {
		f.endpointPort, f.peerPort = ports, ports+portLen
		peerAt += length
	}
	f.peerHost = peerAt + length - 2
	return f, nil
}

// flows numbers the flows of a scenario.
type flows struct {
	hosts int // peers, from the address that ends in 0.1 on
	ports int // of a peer, from peerPort on
	// endpointPorts, from firstPort on, change last. It is what makes new flows.
	endpointPorts int
}

func (f flows) count() int { return f.hosts * f.ports * f.endpointPorts }

func (f flows) walk(on frame, random bool) drive.Walk {
	w := drive.Walk{Fields: []drive.Field{
		{Offset: on.peerHost, Base: 1, Count: uint32(f.hosts)},                     //nolint:gosec // far below
		{Offset: on.peerPort, Base: peerPort, Count: uint32(f.ports)},              //nolint:gosec // far below
		{Offset: on.endpointPort, Base: firstPort, Count: uint32(f.endpointPorts)}, //nolint:gosec // far below
	}}
	if random {
		w.Random = uint32(f.count()) //nolint:gosec // far below
	}
	return w
}

const firstPort, peerPort = 20000, 1000
