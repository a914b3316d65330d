package inventory

import (
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

// Backends returns where connections to port of the service address addr end,
// each workload or address once; ok is false when addr is no service's address,
// or the service has no such port.
func (x *Index) Backends(addr netip.Addr, protocol flow.Protocol, port uint16) (out []Backend, ok bool) {
	s := x.services[addr.Unmap()]
	if s == nil {
		return nil, false
	}
	i := slices.IndexFunc(s.Ports, func(p ServicePort) bool { return p.Protocol == protocol && p.Port == port })
	if i < 0 {
		return nil, false
	}
	p := s.Ports[i]
	add := func(party flow.Party, port uint16) {
		if b := (Backend{party, port}); port != 0 && !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	target := p.TargetPort
	if target == 0 {
		target = p.Port
	}
	switch {
	case s.Reserved != "":
		add(flow.Party{Reserved: s.Reserved}, target)
	case len(s.Selector) > 0:
		for _, w := range x.Select(&policy.Selector{Namespace: s.Namespace, MatchLabels: s.Selector}) {
			for j := range w.Endpoints {
				add(flow.Party{Workload: w.Ref()}, p.at(&w.Endpoints[j], target))
			}
		}
	}
	for _, a := range s.Endpoints {
		switch o, known := x.Owner(a); {
		case !known:
			add(flow.Party{Reserved: flow.IdentityWorld.ReservedName(), Address: a}, target)
		case o.Workload != nil:
			add(flow.Party{Workload: o.Workload.Ref()}, p.at(o.Endpoint, target))
		default:
			add(flow.Party{Reserved: flow.IdentityRemoteNode.ReservedName(), Address: a}, target)
		}
	}
	return out, len(out) > 0
}

// at returns the number that the port has at an endpoint, 0 when it has none.
func (p *ServicePort) at(e *Endpoint, otherwise uint16) uint16 {
	if p.TargetName == "" {
		return otherwise
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
