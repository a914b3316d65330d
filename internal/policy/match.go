package policy

import (
	"net/netip"

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
	}
	return missEmpty
}

func (s *Selector) matches(peer *PeerFacts) match {
	switch {
	case peer.Reserved != flow.IdentityUnknown || peer.Workload.IsZero():
		return missWorkload
	case s.Namespace == "" || len(s.MatchLabels) == 0:
		return missEmpty
	case s.Namespace != peer.Workload.Namespace:
		return missNamespace
	}
	for k, v := range s.MatchLabels {
		if have, ok := peer.Labels[k]; !ok || have != v {
			return missLabels
		}
	}
	return hit
}

// Selects reports whether s picks the workload w with the given labels.
func (s *Selector) Selects(w flow.Workload, labels map[string]string) bool {
	return s.matches(&PeerFacts{Workload: w, Labels: labels}) == hit
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
	case !p.Protocol.HasPorts() || p.Port == 0:
		// Every port of the protocol.
	case f.Port < p.Port || f.Port > max(p.Port, p.EndPort):
		return missPort
	}
	return hit
}
