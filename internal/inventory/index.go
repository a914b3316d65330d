package inventory

import (
	"net/netip"

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
	}
	for i := range x.inv.Nodes {
		n := &x.inv.Nodes[i]
		x.nodes[n.Name] = n
		x.own(n.Addresses, Owner{Node: n})
	}
	for i := range x.inv.Workloads {
		w := &x.inv.Workloads[i]
		x.workloads[w.Ref()] = w
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
		return policy.Governing(x.inv.Guardrails, w, known.Labels)
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

// Select returns the workloads of a namespace that have all the labels, in the
// inventory's order. No labels select nothing: an empty selector would mean the
// whole namespace.
func (x *Index) Select(namespace string, labels map[string]string) []*Workload {
	if len(labels) == 0 {
		return nil
	}
	var out []*Workload
	for _, w := range x.namespaces[namespace] {
		if w.Matches(labels) {
			out = append(out, w)
		}
	}
	return out
}

// Matches reports whether w has all the labels, of which there must be one.
func (w *Workload) Matches(labels map[string]string) bool {
	for k, v := range labels {
		if have, ok := w.Labels[k]; !ok || have != v {
			return false
		}
	}
	return len(labels) > 0
}
