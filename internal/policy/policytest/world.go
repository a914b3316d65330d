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
// labels overlap. Every workload has an IPv4 and an IPv6 address, an identity,
// and numbered endpoints. Each call returns a fresh copy.
func Inventory() inventory.Inventory {
	inv := inventory.Inventory{Nodes: []inventory.Node{
		{Name: Node, Addresses: addrs("10.0.0.1", "fd00::1")},
		{Name: "node-2", Addresses: addrs("10.0.0.2", "fd00::2")},
	}}
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
			}},
		})
	}
	return inv
}

// Strangers returns addresses that nobody in the world owns.
func Strangers() []netip.Addr {
	return addrs("10.1.0.200", "192.0.2.7", "198.51.100.66", "fd00:1::c8", "2001:db8::7", "2001:db8:66::66")
}

// Peers returns the facts of everybody who can be a flow's other end: endpoints
// of every workload, the nodes, and strangers.
func Peers() []policy.PeerFacts {
	inv := Inventory()
	var peers []policy.PeerFacts
	for i := range inv.Workloads {
		w := &inv.Workloads[i]
		for _, e := range w.Endpoints {
			for _, a := range e.Addresses {
				peers = append(peers, policy.PeerFacts{Addr: a, Workload: w.Ref(), Labels: w.Labels})
			}
		}
	}
	for _, n := range inv.Nodes {
		id := flow.IdentityRemoteNode
		if n.Name == Node {
			id = flow.IdentityHost
		}
		for _, a := range n.Addresses {
			peers = append(peers, policy.PeerFacts{Addr: a, Reserved: id})
		}
	}
	for _, a := range Strangers() {
		peers = append(peers, policy.PeerFacts{Addr: a, Reserved: flow.IdentityWorld})
	}
	return peers
}

func addrs(texts ...string) []netip.Addr {
	out := make([]netip.Addr, len(texts))
	for i, s := range texts {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}
