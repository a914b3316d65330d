// Package frame crafts packets of many TCP flows at once: one frame, and the
// places in it by which a driver of bpf/drive makes it any flow's.
package frame

import (
	"net/netip"

	"github.com/ringfence/ringfence/bpf/drive"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/wire"
)

// TCP is a packet of a TCP flow between an endpoint and one of its peers, with
// the places where flows differ, as offsets in bytes.
type TCP struct {
	Bytes        []byte
	EndpointPort int
	PeerHost     int // of the peer's address, the last two bytes
	PeerPort     int
	ToEndpoint   bool
}

const (
	etherLen = 14
	portLen  = 2
)

// New builds a packet of flow 0, with flags as test/wire spells them. Peers' addresses
// begin after peers, which ends in 0.0.
func New(endpoint, peers netip.Addr, toEndpoint bool, flags string) (TCP, error) {
	p := wire.Packet{
		Source: endpoint, Destination: Peer(peers, 1), Protocol: flow.TCP, SPort: FirstPort, DPort: PeerPort, Flags: flags,
	}
	if toEndpoint {
		p.Source, p.Destination, p.SPort, p.DPort = p.Destination, p.Source, p.DPort, p.SPort
	}
	bytes, err := p.Bytes()
	if err != nil {
		return TCP{}, err
	}
	addresses, length, headers := 12, 4, 20
	if endpoint.Is6() {
		addresses, length, headers = 8, 16, 40
	}
	f := TCP{Bytes: bytes, ToEndpoint: toEndpoint}
	ports := etherLen + headers
	peerAt := etherLen + addresses
	if toEndpoint {
		f.PeerPort, f.EndpointPort = ports, ports+portLen
	} else {
		f.EndpointPort, f.PeerPort = ports, ports+portLen
		peerAt += length
	}
	f.PeerHost = peerAt + length - 2
	return f, nil
}

// Flows numbers the flows of an endpoint.
type Flows struct {
	Hosts int // peers, from the address that ends in 0.1 on
	Ports int // of a peer, from PeerPort on
	Apart int // from one port of a peer to the next; 0 is 1
	// EndpointPorts, from FirstPort on, change last. It is what makes new flows.
	EndpointPorts int
}

// Count is how many there are.
func (f Flows) Count() int { return f.Hosts * f.Ports * f.EndpointPorts }

// Walk goes through all of them in a frame, or draws one each time.
func (f Flows) Walk(on TCP, random bool) drive.Walk {
	w := drive.Walk{Fields: []drive.Field{
		{Offset: on.PeerHost, Base: 1, Count: uint32(f.Hosts)},                               //nolint:gosec // far below
		{Offset: on.PeerPort, Base: PeerPort, Count: uint32(f.Ports), Step: uint16(f.Apart)}, //nolint:gosec // far below
		{Offset: on.EndpointPort, Base: FirstPort, Count: uint32(f.EndpointPorts)},           //nolint:gosec // far below
	}}
	if random {
		w.Random = uint32(f.Count()) //nolint:gosec // far below
	}
	return w
}

// The ports of flow 0.
const (
	FirstPort = 20000 // the endpoint's
	PeerPort  = 1000
)

// Peer is the address of peer i, from 1 on.
func Peer(base netip.Addr, i int) netip.Addr {
	b := base.AsSlice()
	b[len(b)-2], b[len(b)-1] = byte(i>>8), byte(i) //nolint:gosec // two bytes of a number
	a, _ := netip.AddrFromSlice(b)
	return a
}
