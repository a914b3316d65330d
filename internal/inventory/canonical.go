package inventory

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/internal/policy"
)

// Clone returns a copy that shares nothing with inv.
func (inv *Inventory) Clone() Inventory {
	out := Inventory{Nodes: slices.Clone(inv.Nodes), Workloads: slices.Clone(inv.Workloads)}
	for i := range out.Nodes {
		out.Nodes[i].Addresses = slices.Clone(out.Nodes[i].Addresses)
		out.Nodes[i].DenyLists = slices.Clone(out.Nodes[i].DenyLists)
		out.Nodes[i].Interfaces = slices.Clone(out.Nodes[i].Interfaces)
	}
	for i := range out.Workloads {
		w := &out.Workloads[i]
		w.Labels = maps.Clone(w.Labels)
		w.Endpoints = slices.Clone(w.Endpoints)
		for j := range w.Endpoints {
			w.Endpoints[j].Addresses = slices.Clone(w.Endpoints[j].Addresses)
			w.Endpoints[j].Tunnels = slices.Clone(w.Endpoints[j].Tunnels)
			w.Endpoints[j].Ports = slices.Clone(w.Endpoints[j].Ports)
		}
	}
	out.Guardrails = slices.Clone(inv.Guardrails)
	for i := range out.Guardrails {
		out.Guardrails[i] = out.Guardrails[i].Clone()
	}
	out.Namespaces = slices.Clone(inv.Namespaces)
	for i := range out.Namespaces {
		out.Namespaces[i].Labels = maps.Clone(out.Namespaces[i].Labels)
	}
	out.Names = slices.Clone(inv.Names)
	for i := range out.Names {
		out.Names[i].Addresses = slices.Clone(out.Names[i].Addresses)
	}
	out.Services = slices.Clone(inv.Services)
	for i := range out.Services {
		s := &out.Services[i]
		s.Addresses, s.Endpoints = slices.Clone(s.Addresses), slices.Clone(s.Endpoints)
		s.Ports, s.Selector = slices.Clone(s.Ports), maps.Clone(s.Selector)
	}
	return out
}

// Sorted returns a copy in canonical order: everything that has a
// name by it, addresses by number.
func (inv *Inventory) Sorted() Inventory {
	out := inv.Clone()
	slices.SortFunc(out.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	for i := range out.Nodes {
		slices.SortFunc(out.Nodes[i].Addresses, netip.Addr.Compare)
	}
	slices.SortFunc(out.Workloads, func(a, b Workload) int { return a.Ref().Compare(b.Ref()) })
	for i := range out.Workloads {
		endpoints := out.Workloads[i].Endpoints
		slices.SortFunc(endpoints, func(a, b Endpoint) int { return cmp.Compare(a.Name, b.Name) })
		for j := range endpoints {
			slices.SortFunc(endpoints[j].Addresses, netip.Addr.Compare)
			slices.Sort(endpoints[j].Tunnels)
			slices.SortFunc(endpoints[j].Ports, comparePorts)
		}
	}
	slices.SortFunc(out.Guardrails, func(a, b policy.Guardrail) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Namespaces, func(a, b Namespace) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Names, func(a, b Name) int { return cmp.Compare(a.Name, b.Name) })
	for i := range out.Names {
		slices.SortFunc(out.Names[i].Addresses, netip.Addr.Compare)
	}
	slices.SortFunc(out.Services, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for i := range out.Services {
		s := &out.Services[i]
		slices.SortFunc(s.Addresses, netip.Addr.Compare)
		slices.SortFunc(s.Endpoints, netip.Addr.Compare)
		slices.SortFunc(s.Ports, func(a, b ServicePort) int {
			return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
		})
	}
	return out
}

func comparePorts(a, b policy.NamedPort) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

// Canonical returns JSON that is the same for inventories that mean the same.
func (inv *Inventory) Canonical() []byte {
	sorted := inv.Sorted()
	out, err := json.Marshal(&sorted)
	if err != nil {
		// Strings, numbers and addresses always encode.
		panic(fmt.Sprintf("encode inventory: %v", err))
	}
	return out
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
