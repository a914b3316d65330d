package inventory

import (
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Index finds things in an inventory. It is immutable and safe for concurrent
// use; what it returns must not be changed.
type Index struct {
	inv        Inventory
	owners     map[netip.Addr]Owner
	nodes      map[string]*Node
	workloads  map[flow.Workload]*Workload
	endpoints  map[uint32]Owner
	identities map[flow.Identity]*Workload
	namespaces map[string][]*Workload
	all        []*Workload
	labels     map[string]map[string]string // of namespaces
	names      map[netip.Addr][]string      // DNS names by address
	services   map[netip.Addr]*Service
}

// Owner is who an address belongs to: either a node, or an endpoint with its
// workload.
type Owner struct {
	Node     *Node
	Workload *Workload
	Endpoint *Endpoint
}

// NewIndex indexes a copy of inv. Of an address given twice the first owner
// wins, nodes before endpoints; Validate refuses such an inventory.
func NewIndex(inv Inventory) *Index {
	x := &Index{
		inv:        inv.Clone(),
		owners:     map[netip.Addr]Owner{},
		nodes:      map[string]*Node{},
		workloads:  map[flow.Workload]*Workload{},
		endpoints:  map[uint32]Owner{},
		identities: map[flow.Identity]*Workload{},
		namespaces: map[string][]*Workload{},
		labels:     map[string]map[string]string{},
		names:      map[netip.Addr][]string{},
		services:   map[netip.Addr]*Service{},
	}
	for i := range x.inv.Services {
		for _, a := range x.inv.Services[i].Addresses {
			x.services[a.Unmap()] = &x.inv.Services[i]
		}
	}
	for _, n := range x.inv.Namespaces {
		x.labels[n.Name] = n.Labels
	}
	for _, n := range x.inv.Names {
		for _, a := range n.Addresses {
			x.names[a.Unmap()] = append(x.names[a.Unmap()], n.Name)
		}
	}
	for i := range x.inv.Nodes {
		n := &x.inv.Nodes[i]
		x.nodes[n.Name] = n
		x.own(n.Addresses, Owner{Node: n})
	}
	for i := range x.inv.Workloads {
		w := &x.inv.Workloads[i]
		x.workloads[w.Ref()] = w
		x.all = append(x.all, w)
		x.namespaces[w.Namespace] = append(x.namespaces[w.Namespace], w)
		if w.Identity != flow.IdentityUnknown {
			x.identities[w.Identity] = w
		}
		for j := range w.Endpoints {
			o := Owner{Workload: w, Endpoint: &w.Endpoints[j]}
			if o.Endpoint.ID != 0 {
				x.endpoints[o.Endpoint.ID] = o
			}
			x.own(o.Endpoint.Addresses, o)
		}
	}
	return x
}

func (x *Index) own(addrs []netip.Addr, o Owner) {
	for _, a := range addrs {
		a = a.Unmap()
		if _, taken := x.owners[a]; !taken {
			x.owners[a] = o
		}
	}
}

// Inventory returns what is indexed.
func (x *Index) Inventory() *Inventory { return &x.inv }

// Guardrails returns those that guard the workload w.
func (x *Index) Guardrails(w flow.Workload) []policy.Guardrail {
	if known := x.workloads[w]; known != nil {
		return policy.Governing(x.inv.Guardrails, x.Facts(known))
	}
	return nil
}

// Owner returns who owns addr.
func (x *Index) Owner(addr netip.Addr) (Owner, bool) {
	o, ok := x.owners[addr.Unmap()]
	return o, ok
}

// Node returns the node of that name, or nil.
func (x *Index) Node(name string) *Node { return x.nodes[name] }

// Workload returns the workload of that name, or nil.
func (x *Index) Workload(ref flow.Workload) *Workload { return x.workloads[ref] }

// Endpoint returns the endpoint of that number with its workload.
func (x *Index) Endpoint(id uint32) (Owner, bool) {
	o, ok := x.endpoints[id]
	return o, ok
}

// Identity returns the workload of that number, or nil.
func (x *Index) Identity(id flow.Identity) *Workload { return x.identities[id] }

// Select returns the workloads that s picks, in the inventory's order.
func (x *Index) Select(s *policy.Selector) []*Workload {
	candidates := x.namespaces[s.Namespace]
	if s.Namespaces != nil {
		candidates = x.all
	}
	var out []*Workload
	for _, w := range candidates {
		if s.Selects(x.Facts(w)) {
			out = append(out, w)
		}
	}
	return out
}

// Facts returns what selectors ask of w: its name, its labels and those of its
// namespace. It is any of its endpoints', so there is no address.
func (x *Index) Facts(w *Workload) policy.PeerFacts {
	return policy.PeerFacts{Workload: w.Ref(), Labels: w.Labels, NamespaceLabels: x.labels[w.Namespace]}
}

// All returns the facts of every workload, in the inventory's order.
func (x *Index) All() []policy.PeerFacts {
	out := make([]policy.PeerFacts, len(x.all))
	for i, w := range x.all {
		out[i] = x.Facts(w)
	}
	return out
}

// Peer returns what is known of who has an address, as an endpoint on node sees
// it.
func (x *Index) Peer(addr netip.Addr, node string) policy.PeerFacts {
	out := policy.PeerFacts{Reserved: flow.IdentityWorld}
	switch o := x.owners[addr.Unmap()]; {
	case o.Workload != nil:
		out = x.Facts(o.Workload)
		out.Named = o.Endpoint.Ports
	case o.Node != nil && o.Node.Name == node:
		out.Reserved = flow.IdentityHost
	case o.Node != nil:
		out.Reserved = flow.IdentityRemoteNode
	}
	out.Addr, out.Names = addr, x.names[addr.Unmap()]
	return out
}

// Names returns the DNS names that an address was seen to have.
func (x *Index) Names(addr netip.Addr) []string { return x.names[addr.Unmap()] }

// NamedPorts returns those of the endpoint that has an address; nil for others.
func (x *Index) NamedPorts(addr netip.Addr) []policy.NamedPort {
	if o := x.owners[addr.Unmap()]; o.Endpoint != nil {
		return o.Endpoint.Ports
	}
	return nil
}

// Resolve returns the addresses that a DNS name, or all names that a pattern
// means, were seen to have, in order.
func (x *Index) Resolve(pattern string) []netip.Addr {
	var out []netip.Addr
	for i := range x.inv.Names {
		if n := &x.inv.Names[i]; policy.NameMatches(pattern, n.Name) {
			out = append(out, n.Addresses...)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
