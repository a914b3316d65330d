package policytest

import (
	"net/netip"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// Node is the node that holds the endpoints of the judged workload: its own
// addresses are "host" to them, the other node's are "remote-node".
const Node = "node-1"

// Subject is the workload that generated policies govern.
var Subject = flow.Workload{Namespace: "shop", Kind: "Host", Name: "cart"}

// Inventory returns the world: two nodes, and workloads in two namespaces whose
// labels overlap. Every endpoint has an IPv4 and an IPv6 address and a number, and
// names of ports, one of which is not everywhere the same. Each call returns a fresh copy.
func Inventory() inventory.Inventory {
	inv := inventory.Inventory{Nodes: []inventory.Node{
		{Name: Node, Addresses: addrs("10.0.0.1", "fd00::1")},
		{Name: "node-2", Addresses: addrs("10.0.0.2", "fd00::2")},
	}}
	inv.Namespaces = []inventory.Namespace{{Name: "shop", Labels: map[string]string{"env": "prod"}}}
	inv.Names = []inventory.Name{
		{Name: "api.example.com", Addresses: addrs("192.0.2.7", "2001:db8::7")},
		{Name: "cdn.example.com", Addresses: addrs("192.0.2.7", "10.1.0.4")},
	}
	for i, w := range []struct {
		namespace, name string
		labels          map[string]string
	}{
		{"shop", "cart", map[string]string{"app": "cart", "tier": "back"}},
		{"shop", "front", map[string]string{"app": "front", "tier": "web"}},
		{"shop", "pay", map[string]string{"app": "pay", "tier": "back"}},
		{"ops", "cart", map[string]string{"app": "cart", "tier": "web"}},
		{"ops", "dns", map[string]string{"app": "dns"}},
	} {
		n := byte(i + 1)
		node := Node
		if i%2 == 1 {
			node = "node-2"
		}
		inv.Workloads = append(inv.Workloads, inventory.Workload{
			Namespace: w.namespace, Kind: "Host", Name: w.name, Labels: w.labels,
			Identity: flow.FirstWorkloadIdentity + flow.Identity(n),
			Endpoints: []inventory.Endpoint{{
				Name: w.name + "-1", Node: node, Interface: "rfw" + string('0'+rune(n)), ID: uint32(n),
				Addresses: []netip.Addr{
					netip.AddrFrom4([4]byte{10, 1, 0, n}),
					netip.AddrFrom16([16]byte{0: 0xfd, 3: 1, 15: n}),
				},
				Ports: []policy.NamedPort{{Name: "web", Protocol: flow.TCP, Port: 80 + uint16(i%2)}, {Name: "dns", Protocol: flow.UDP, Port: 53}},
			}},
		})
	}
	// Two endpoints of one workload, of which only one has the names.
	pay := &inv.Workloads[2]
	pay.Endpoints = append(pay.Endpoints, inventory.Endpoint{Name: "pay-2", Node: "node-2", ID: 6, Addresses: addrs("10.1.0.6", "fd00:1::6")})
	return inv
}

// Strangers returns addresses that nobody in the world owns.
func Strangers() []netip.Addr {
	return addrs("10.1.0.200", "192.0.2.7", "198.51.100.66", "fd00:1::c8", "2001:db8::7", "2001:db8:66::66")
}

// Peers returns the facts of everybody who can be a flow's other end: endpoints
// of every workload, the nodes, and strangers.
func Peers() []policy.PeerFacts {
	inv := world.Inventory()
	var all []netip.Addr
	for i := range inv.Workloads {
		for _, e := range inv.Workloads[i].Endpoints {
			all = append(all, e.Addresses...)
		}
	}
	for _, n := range inv.Nodes {
		all = append(all, n.Addresses...)
	}
	peers := make([]policy.PeerFacts, 0, len(all))
	for _, a := range append(all, Strangers()...) {
		peers = append(peers, world.Peer(a, Node))
	}
	return peers
}

// Own returns the named ports of Subject's endpoint.
func Own() []policy.NamedPort { return world.Workload(Subject).NamedPorts() }

var world = inventory.NewIndex(Inventory())

func addrs(texts ...string) []netip.Addr {
	out := make([]netip.Addr, len(texts))
	for i, s := range texts {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}
