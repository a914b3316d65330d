package main

import (
	"net/netip"

	"github.com/ringfence/ringfence/bpf/drive"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/wire"
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

const (
	etherLen = 14
	portLen  = 2
)

// newFrame builds a packet of flow 0, with flags as test/wire spells them.
func newFrame(endpoint, peers netip.Addr, toEndpoint bool, flags string) (frame, error) {
	p := wire.Packet{
		Source: endpoint, Destination: peerAddr(peers, 1), Protocol: flow.TCP, SPort: firstPort, DPort: peerPort, Flags: flags,
	}
	if toEndpoint {
		p.Source, p.Destination, p.SPort, p.DPort = p.Destination, p.Source, p.DPort, p.SPort
	}
	bytes, err := p.Bytes()
	if err != nil {
		return frame{}, err
	}
	addresses, length, headers := 12, 4, 20
	if endpoint.Is6() {
		addresses, length, headers = 8, 16, 40
	}
	f := frame{bytes: bytes, toEndpoint: toEndpoint}
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
	apart int // from one of them to the next; 0: 1
	// endpointPorts, from firstPort on, change last. It is what makes new flows.
	endpointPorts int
}

func (f flows) count() int { return f.hosts * f.ports * f.endpointPorts }

func (f flows) walk(on frame, random bool) drive.Walk {
	w := drive.Walk{Fields: []drive.Field{
		{Offset: on.peerHost, Base: 1, Count: uint32(f.hosts)},                               //nolint:gosec // far below
		{Offset: on.peerPort, Base: peerPort, Count: uint32(f.ports), Step: uint16(f.apart)}, //nolint:gosec // far below
		{Offset: on.endpointPort, Base: firstPort, Count: uint32(f.endpointPorts)},           //nolint:gosec // far below
	}}
	if random {
		w.Random = uint32(f.count()) //nolint:gosec // far below
	}
	return w
}

const firstPort, peerPort = 20000, 1000
