package lab

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

const (
	namespacePrefix   = "rf-"
	externalNamespace = namespacePrefix + "external-1"
	hostInterface     = "eth0" // inside a host's namespace
)

// Family is the IP version of a connection.
type Family string

// Families, in the order in which clients take turns.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

var families = [...]Family{IPv4, IPv6}

func familyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// address returns the one of the family f. A validated scenario has it.
func address(addrs []netip.Addr, f Family) netip.Addr {
	for _, a := range addrs {
		if familyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}

// seat is one host: a namespace that processes run in and its addresses.
type seat struct {
	namespace string
	node      string
	iface     string // the node's side of its veth
	addresses []netip.Addr
}

// seats returns every host but the nodes, in the order of the scenario; the
// numbers in the interface names follow that order.
func (s *Scenario) seats() []seat {
	var out []seat
	for i := range s.Workloads {
		w := &s.Workloads[i]
		for j, e := range w.Endpoints {
			out = append(out, seat{
				namespace: namespacePrefix + endpointName(w, j),
				node:      e.Node,
				iface:     fmt.Sprintf("rfh%d", len(out)+1),
				addresses: e.Addresses,
			})
		}
	}
	if len(s.External.Peers) == 0 {
		return out
	}
	outside := seat{namespace: externalNamespace, node: s.External.Node, iface: "rfe1"}
	for i := range s.External.Peers {
		outside.addresses = append(outside.addresses, s.External.Peers[i].Addresses...)
	}
	return append(out, outside)
}

func endpointName(w *Workload, i int) string { return fmt.Sprintf("%s-%d", w.Name, i+1) }

// Namespaces returns the names of every network namespace of the lab.
func (s *Scenario) Namespaces() []string {
	var out []string
	for i := range s.Nodes {
		out = append(out, s.Nodes[i].Namespace())
	}
	for _, h := range s.seats() {
		out = append(out, h.namespace)
	}
	return out
}

// Inventory returns the lab's nodes and workloads. External peers are not in it.
func (s *Scenario) Inventory() inventory.Inventory {
	var inv inventory.Inventory
	for _, n := range s.Nodes {
		inv.Nodes = append(inv.Nodes, inventory.Node{Name: n.Name, Addresses: n.Addresses})
	}
	seats := s.seats()
	for i := range s.Workloads {
		w := &s.Workloads[i]
		out := inventory.Workload{Namespace: w.Namespace, Kind: inventory.DefaultKind, Name: w.Name, Labels: w.Labels}
		for j, e := range w.Endpoints {
			out.Endpoints = append(out.Endpoints, inventory.Endpoint{
				Name: endpointName(w, j), Node: e.Node, Interface: seats[0].iface, Addresses: e.Addresses,
			})
			seats = seats[1:]
		}
		inv.Workloads = append(inv.Workloads, out)
	}
	return inv
}

// party is one end of calls and attacks: a workload or an external peer.
type party struct {
	workload flow.Workload // zero for an external peer
	serves   []Listener
	seats    []seat // of a peer: one, with the peer's addresses alone
}

// party finds what ref names: namespace/name or an external peer.
func (s *Scenario) party(ref string) (party, error) {
	if !strings.Contains(ref, "/") {
		for _, p := range s.External.Peers {
			if p.Name == ref {
				return party{serves: p.Serves, seats: []seat{{
					namespace: externalNamespace, node: s.External.Node, addresses: p.Addresses,
				}}}, nil
			}
		}
		return party{}, fmt.Errorf("there is no external peer %q: add it to external.peers, or write a workload as namespace/name", ref)
	}
	first := 0
	seats := s.seats()
	for i := range s.Workloads {
		w := &s.Workloads[i]
		if w.Namespace+"/"+w.Name == ref {
			serves := append(append([]Listener{}, w.Serves...), s.Everywhere...)
			return party{workload: w.Ref(), serves: serves, seats: seats[first : first+len(w.Endpoints)]}, nil
		}
		first += len(w.Endpoints)
	}
	return party{}, fmt.Errorf("there is no workload %q: add it to workloads or correct the name", ref)
}

// name is how edges, counters and attack results spell the party: the workload,
// or an external peer's address of the family.
func (p *party) name(f Family) string {
	if p.workload.IsZero() {
		return address(p.seats[0].addresses, f).String()
	}
	return p.workload.String()
}

func (p *party) listener(proto flow.Protocol, port uint16) (Listener, bool) {
	for _, l := range p.serves {
		if l.Protocol == proto && l.Port == port {
			return l, true
		}
	}
	return Listener{}, false
}

// TrueEdge is who legitimately talks to whom. A peer outside is an address, so
// that a call from or to it is two edges, one of each family.
type TrueEdge struct {
	Client   string // "boutique/Host/frontend", or an external address
	Server   string
	Protocol flow.Protocol
	Port     uint16
	Rare     bool
}

// Edges returns the true edges of the scenario, in the order of its calls.
func (s *Scenario) Edges() []TrueEdge {
	var out []TrueEdge
	for _, c := range s.Calls {
		from, err := s.party(c.From)
		if err != nil {
			continue // a validated scenario has no such call
		}
		to, err := s.party(c.To)
		if err != nil {
			continue
		}
		var last TrueEdge
		for _, f := range families {
			e := TrueEdge{Client: from.name(f), Server: to.name(f), Protocol: c.Protocol, Port: c.Port, Rare: c.Rare}
			if e != last {
				out = append(out, e)
			}
			last = e
		}
	}
	return out
}
