package enforcer

import (
	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// match is the part of an entry that a policy's port decides.
type match struct {
	protocol    flow.Protocol
	first, last uint16
}

// everything is the match of a rule without ports.
var everything = []match{{}}

// matchOf returns the match that admits exactly p. The policy is valid, so p has
// a protocol, and a code only with a type.
func matchOf(p policy.Port) match {
	m := match{protocol: p.Protocol, last: 65535}
	switch {
	case p.Protocol == flow.ICMP || p.Protocol == flow.ICMPv6:
		if p.ICMPType != nil {
			m.first = uint16(*p.ICMPType) << 8
			m.last = m.first | 0xff
		}
		if p.ICMPType != nil && p.ICMPCode != nil {
			m.first |= uint16(*p.ICMPCode)
			m.last = m.first
		}
	case p.Protocol.HasPorts() && p.Port != 0:
		m.first, m.last = p.Port, max(p.Port, p.EndPort)
	}
	return m
}

func (m match) entry(peer flow.Identity) bpf.Entry {
	return bpf.Entry{Peer: peer, Protocol: m.protocol, First: m.first, Last: m.last}
}
