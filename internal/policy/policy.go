package policy

import (
	"net/netip"

	"github.com/ringfence/ringfence/internal/flow"
)

// Policy is the allowlist of one workload. A direction that is not isolated
// allows everything, so the zero value restricts nothing.
type Policy struct {
	Workload       flow.Workload `json:"workload"`
	IsolateIngress bool          `json:"isolateIngress"`
	IsolateEgress  bool          `json:"isolateEgress"`
	Ingress        []Rule        `json:"ingress"`
	Egress         []Rule        `json:"egress"`
}

// Rule allows every combination of its peers and ports. No peers means any peer,
// no ports means every port of every protocol.
type Rule struct {
	// ID is the rule's stable name: a digest of its direction, peers and ports.
	// Normalize sets it; a given one is never trusted.
	ID    string `json:"id"`
	Peers []Peer `json:"peers"`
	Ports []Port `json:"ports"`
}

// Peer is exactly one of its fields.
type Peer struct {
	Selector *Selector `json:"selector,omitempty"`
	CIDR     *CIDR     `json:"cidr,omitempty"`
	// Reserved is a name flow.ReservedIdentity knows.
	Reserved string `json:"reserved,omitempty"`
	// FQDN is a DNS name in lower case; "*.example.com" is every name one label
	// below. It means the addresses that the name was seen to have, and is for
	// egress only.
	FQDN string `json:"fqdn,omitempty"`
}

// CIDR is a prefix without the prefixes carved out of it.
type CIDR struct {
	Prefix netip.Prefix   `json:"prefix"`
	Except []netip.Prefix `json:"except,omitempty"`
}

// Port is a protocol with a port range. Port 0 means every port of the
// protocol; EndPort 0 means Port alone. ICMP and ICMPv6 take a type and a code
// instead: no type means all types, no code all codes of the type.
type Port struct {
	Protocol flow.Protocol `json:"protocol"`
	Port     uint16        `json:"port,omitempty"`
	EndPort  uint16        `json:"endPort,omitempty"`
	// Name stands for whatever number the responder's endpoint has under it. A
	// responder that has none, or that is no endpoint, is not meant.
	Name     string `json:"name,omitempty"`
	ICMPType *uint8 `json:"icmpType,omitempty"`
	ICMPCode *uint8 `json:"icmpCode,omitempty"`
}

// PortOf returns the port that means one flow's alone, whose number is as in
// Facts.
func PortOf(protocol flow.Protocol, port uint16) Port {
	switch {
	case protocol == flow.ICMP || protocol == flow.ICMPv6:
		kind, code := uint8(port>>8), uint8(port&0xff)
		return Port{Protocol: protocol, ICMPType: &kind, ICMPCode: &code}
	case !protocol.HasPorts():
		return Port{Protocol: protocol}
	}
	return Port{Protocol: protocol, Port: port}
}

// NamedPort is a port that an endpoint serves under a name.
type NamedPort struct {
	Name     string        `json:"name" yaml:"name"`
	Protocol flow.Protocol `json:"protocol" yaml:"protocol"`
	Port     uint16        `json:"port" yaml:"port"`
}
