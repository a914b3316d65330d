package estate

import (
	"fmt"
	"net/netip"

	"github.com/ringfence/ringfence/internal/inventory"
)

// Inventory says who owns which address of the estate, as a server numbers them.
func (e *Estate) Inventory() inventory.Inventory {
	var inv inventory.Inventory
	for _, n := range e.nodes {
		inv.Nodes = append(inv.Nodes, inventory.Node{Name: n.name, Addresses: []netip.Addr{n.end.v4, n.end.v6}})
	}
	for _, w := range e.workloads {
		out := inventory.Workload{
			Namespace: w.name.Namespace, Kind: w.name.Kind, Name: w.name.Name, Labels: w.labels, Identity: w.identity,
		}
		for _, at := range w.ends {
			out.Endpoints = append(out.Endpoints, inventory.Endpoint{
				Name: at.party.Endpoint, Node: e.nodes[at.node].name, Interface: fmt.Sprintf("veth%x", at.id),
				Addresses: []netip.Addr{at.v4, at.v6}, ID: at.id,
			})
		}
		inv.Workloads = append(inv.Workloads, out)
	}
	return inv
}

// NodeName is that of node i.
func (e *Estate) NodeName(i int) string { return e.nodes[i].name }
