package inventory

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Service is an address that stands for others: connections to it end at one of
// its backends, mostly on another port. A headless one has no address.
type Service struct {
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	Addresses []netip.Addr  `json:"addresses,omitempty"`
	Ports     []ServicePort `json:"ports"`

	// The backends are exactly one of: the workloads of the namespace with these
	// labels; these addresses, as of a service without a selector; a reserved peer.
	Selector  map[string]string `json:"selector,omitempty"`
	Endpoints []netip.Addr      `json:"endpoints,omitempty"`
	Reserved  string            `json:"reserved,omitempty"`
}

// ServicePort is a port of a service and what it becomes at a backend.
type ServicePort struct {
	Protocol flow.Protocol `json:"protocol"`
	Port     uint16        `json:"port"`
	// TargetPort is the backends' port; 0 means Port. TargetName stands instead
	// for what a backend calls so.
	TargetPort uint16 `json:"targetPort,omitempty"`
	TargetName string `json:"targetName,omitempty"`
}

// Backend is where connections to a service's address end.
type Backend struct {
	Party flow.Party
	Port  uint16
}

// Destination is a port of an address.
type Destination struct {
	Protocol flow.Protocol
	Addr     netip.AddrPort
}

// Service returns the service that an address is of, or nil.
func (x *Index) Service(addr netip.Addr) *Service { return x.services[addr.Unmap()] }

// Ends returns what a connection to a service's port may become, for endpoints on
// node: one connection for each address that its backends have in the family. It
// is empty when d is no service's, or nobody is behind it: then the address is all
// that is known.
func (x *Index) Ends(d Destination, node string) []policy.Facts {
	s, p := x.service(d.Addr.Addr(), d.Protocol, d.Addr.Port())
	if p == nil {
		return nil
	}
	return x.ends(s, p, x.behind(s), d.Addr.Addr().Unmap().Is4(), node)
}

// AllEnds returns Ends of every service's port that has some.
func (x *Index) AllEnds(node string) map[Destination][]policy.Facts {
	out := map[Destination][]policy.Facts{}
	for i := range x.inv.Services {
		s := &x.inv.Services[i]
		behind := x.behind(s)
		for _, a := range s.Addresses {
			for j := range s.Ports {
				p := &s.Ports[j]
				if ends := x.ends(s, p, behind, a.Unmap().Is4(), node); len(ends) > 0 {
					out[Destination{p.Protocol, netip.AddrPortFrom(a.Unmap(), p.Port)}] = ends
				}
			}
		}
	}
	return out
}

func (x *Index) ends(s *Service, p *ServicePort, behind []*Workload, is4 bool, node string) (out []policy.Facts) {
	add := func(peer policy.PeerFacts, port uint16) {
		if port != 0 {
			out = append(out, policy.Facts{Direction: flow.Egress, Peer: peer, Protocol: p.Protocol, Port: port})
		}
	}
	if s.Reserved != "" {
		// A valid inventory names only identities that there are.
		if id, err := flow.ReservedIdentity(s.Reserved); err == nil {
			add(policy.PeerFacts{Reserved: id}, p.target())
		}
	}
	for _, w := range behind {
		for i := range w.Endpoints {
			for _, a := range w.Endpoints[i].Addresses {
				if a.Unmap().Is4() == is4 {
					add(x.Peer(a, node), p.at(&w.Endpoints[i]))
				}
			}
		}
	}
	for _, a := range s.Endpoints {
		if a.Unmap().Is4() != is4 {
			continue
		}
		if o := x.owners[a.Unmap()]; o.Endpoint != nil {
			add(x.Peer(a, node), p.at(o.Endpoint))
		} else {
			add(x.Peer(a, node), p.target())
		}
	}
	return out
}

// service returns the service that has an address, with one of its ports; nil when
// there is none.
func (x *Index) service(addr netip.Addr, protocol flow.Protocol, port uint16) (*Service, *ServicePort) {
	s := x.services[addr.Unmap()]
	if s == nil {
		return nil, nil
	}
	for i := range s.Ports {
		if p := &s.Ports[i]; p.Protocol == protocol && p.Port == port {
			return s, p
		}
	}
	return nil, nil
}

// behind returns the workloads that a service selects.
func (x *Index) behind(s *Service) []*Workload {
	if len(s.Selector) == 0 {
		return nil
	}
	return x.Select(&policy.Selector{Namespace: s.Namespace, MatchLabels: s.Selector})
}

// Backends returns where connections to port of the service address addr end,
// each workload or address once; ok is false when addr is no service's address,
// or the service has no such port.
func (x *Index) Backends(addr netip.Addr, protocol flow.Protocol, port uint16) (out []Backend, ok bool) {
	s, p := x.service(addr, protocol, port)
	if p == nil {
		return nil, false
	}
	add := func(party flow.Party, port uint16) {
		if b := (Backend{party, port}); port != 0 && !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	if s.Reserved != "" {
		add(flow.Party{Reserved: s.Reserved}, p.target())
	}
	for _, w := range x.behind(s) {
		for j := range w.Endpoints {
			add(flow.Party{Workload: w.Ref()}, p.at(&w.Endpoints[j]))
		}
	}
	for _, a := range s.Endpoints {
		switch o, known := x.Owner(a); {
		case !known:
			add(flow.Party{Reserved: flow.IdentityWorld.ReservedName(), Address: a}, p.target())
		case o.Workload != nil:
			add(flow.Party{Workload: o.Workload.Ref()}, p.at(o.Endpoint))
		default:
			add(flow.Party{Reserved: flow.IdentityRemoteNode.ReservedName(), Address: a}, p.target())
		}
	}
	return out, len(out) > 0
}

// target returns the number that the port has where nothing is called by name.
func (p *ServicePort) target() uint16 { return cmp.Or(p.TargetPort, p.Port) }

// at returns the number that the port has at an endpoint, 0 when it has none.
func (p *ServicePort) at(e *Endpoint) uint16 {
	if p.TargetName == "" {
		return p.target()
	}
	return policy.NumberOf(e.Ports, p.TargetName, p.Protocol)
}

func (c *checker) checkServices(list []Service) {
	names := map[[2]string]int{}
	for i := range list {
		s, path := &list[i], fmt.Sprintf("services[%d]", i)
		named := c.checkName(path+".namespace", s.Namespace)
		if c.checkName(path+".name", s.Name) && named {
			if first, ok := names[[2]string{s.Namespace, s.Name}]; ok {
				c.add(path+".name", "service %s/%s is already services[%d]: merge the two", s.Namespace, s.Name, first)
			} else {
				names[[2]string{s.Namespace, s.Name}] = i
			}
		}
		c.checkAddresses(path, s.Addresses, "service "+s.Namespace+"/"+s.Name)
		c.checkServicePorts(path, s)
		c.checkLabelText(path+".selector", s.Selector)
		ways := 0
		for _, given := range []bool{len(s.Selector) > 0, len(s.Endpoints) > 0, s.Reserved != ""} {
			if given {
				ways++
			}
		}
		if ways != 1 {
			c.add(path, "service %s/%s needs exactly one of selector, endpoints and reserved: where do its connections end?", s.Namespace, s.Name)
		}
		if s.Reserved != "" {
			if _, err := flow.ReservedIdentity(s.Reserved); err != nil {
				c.add(path+".reserved", "%s", err)
			}
		}
		for j, a := range s.Endpoints {
			if why := badAddress(a); a.IsValid() && why != "" {
				c.add(fmt.Sprintf("%s.endpoints[%d]", path, j), "%s %s", a, why)
			}
		}
	}
}

func (c *checker) checkServicePorts(path string, s *Service) {
	if len(s.Ports) == 0 {
		c.add(path+".ports", "there are none: list at least one")
	}
	for j, p := range s.Ports {
		at := fmt.Sprintf("%s.ports[%d]", path, j)
		if !p.Protocol.HasPorts() {
			c.add(at+".protocol", "%s has no ports: want TCP, UDP or SCTP", p.Protocol)
		}
		if p.Port == 0 {
			c.add(at+".port", "missing: want a number from 1 to 65535")
		}
		if p.TargetPort != 0 && p.TargetName != "" {
			c.add(at+".targetPort", "given as a number and as a name: choose one")
		}
		if p.TargetName != "" && len(s.Selector) == 0 {
			c.add(at+".targetName", "a name needs a selector: give the number in targetPort")
		}
		if slices.ContainsFunc(s.Ports[:j], func(o ServicePort) bool { return o.Protocol == p.Protocol && o.Port == p.Port }) {
			c.add(at+".port", "%s %d is listed twice", p.Protocol, p.Port)
		}
	}
}
