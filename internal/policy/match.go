package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
)

// match is the outcome of comparing one peer or one port with a flow.
type match uint8

const (
	hit match = iota
	missEmpty
	missWorkload
	missNamespace
	missLabels
	missPrefix
	missExcept
	missReserved
	missProtocol
	missPort
	missType
	missName
	missPortName
)

func (p *Peer) matches(f *Facts) match {
	switch {
	case p.Selector != nil:
		return p.Selector.matches(&f.Peer)
	case p.CIDR != nil:
		return p.CIDR.matches(f.Peer.Addr)
	case p.Reserved != "":
		if f.Peer.Reserved == flow.IdentityUnknown || f.Peer.Reserved.ReservedName() != p.Reserved {
			return missReserved
		}
		return hit
	case p.FQDN != "":
		for _, n := range f.Peer.Names {
			if NameMatches(p.FQDN, n) {
				return hit
			}
		}
		return missName
	}
	return missEmpty
}

// NameMatches reports whether pattern, a DNS name or "*." and one, means name.
// Both are in lower case and without a last dot.
func NameMatches(pattern, name string) bool {
	below, wild := strings.CutPrefix(pattern, "*.")
	if !wild {
		return pattern == name
	}
	label, parent, ok := strings.Cut(name, ".")
	return ok && label != "" && parent == below
}

func (c *CIDR) matches(a netip.Addr) match {
	a = a.Unmap().WithZone("")
	if !c.Prefix.Contains(a) {
		return missPrefix
	}
	for _, e := range c.Except {
		if e.Contains(a) {
			return missExcept
		}
	}
	return hit
}

func (p *Port) matches(f *Facts) match {
	switch {
	case p.Protocol != f.Protocol:
		return missProtocol
	case p.Protocol == flow.ICMP || p.Protocol == flow.ICMPv6:
		if p.ICMPType != nil && uint16(*p.ICMPType) != f.Port>>8 {
			return missType
		}
		if p.ICMPCode != nil && uint16(*p.ICMPCode) != f.Port&0xff {
			return missType
		}
	case p.Name != "":
		if !p.named(f.named, f.Port) {
			return missPortName
		}
	case !p.Protocol.HasPorts() || p.Port == 0:
		// Every port of the protocol.
	case f.Port < p.Port || f.Port > max(p.Port, p.EndPort):
		return missPort
	}
	return hit
}

// named reports whether the number is that of p's name in list.
func (p *Port) named(list []NamedPort, number uint16) bool {
	for i := range list {
		if n := &list[i]; n.Name == p.Name && n.Protocol == p.Protocol && n.Port == number {
			return true
		}
	}
	return false
}

// NumberOf returns the number that name has in list, 0 when it has none.
func NumberOf(list []NamedPort, name string, protocol flow.Protocol) uint16 {
	for i := range list {
		if n := &list[i]; n.Name == name && n.Protocol == protocol {
			return n.Port
		}
	}
	return 0
}

// TellAddresses reports whether a guardrail or a rule has a peer that is an
// address, or a name that stands for some: whether endpoints of one workload can
// get different answers.
func TellAddresses(guardrails []Guardrail, rules []Rule) bool {
	isAddress := func(p Peer) bool { return p.CIDR != nil || p.FQDN != "" }
	return slices.ContainsFunc(guardrails, func(g Guardrail) bool { return slices.ContainsFunc(g.Peers, isAddress) }) ||
		slices.ContainsFunc(rules, func(r Rule) bool { return slices.ContainsFunc(r.Peers, isAddress) })
}
