package enforcer

import (
	"math/bits"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// match is the part of an entry that a policy's port decides.
type match struct {
	protocol flow.Protocol
	port     uint16
	bits     uint8
}

// everything is the match of a rule without ports.
var everything = []match{{}}

// matches returns the fewest matches that admit exactly p. The policy is valid,
// so p has a protocol, and a code only with a type.
func matches(p policy.Port) []match {
	switch {
	case p.Protocol == flow.ICMP || p.Protocol == flow.ICMPv6:
		return []match{icmpMatch(p)}
	case !p.Protocol.HasPorts() || p.Port == 0:
		return []match{{protocol: p.Protocol}}
	}
	var out []match
	// Wider than uint16, so that a range that ends with 65535 can be passed.
	first, last := uint32(p.Port), uint32(max(p.Port, p.EndPort))
	for first <= last {
		// The largest block that starts at first and stays within the range.
		size := uint32(1) << min(bits.TrailingZeros32(first), bits.Len32(last-first+1)-1)
		out = append(out, match{
			protocol: p.Protocol,
			port:     uint16(first),                          //nolint:gosec // at most last, a uint16
			bits:     uint8(16 - bits.TrailingZeros32(size)), //nolint:gosec // 0 to 16
		})
		first += size
	}
	return out
}

func icmpMatch(p policy.Port) match {
	m := match{protocol: p.Protocol}
	if p.ICMPType == nil {
		return m
	}
	m.port, m.bits = uint16(*p.ICMPType)<<8, 8
	if p.ICMPCode != nil {
		m.port, m.bits = m.port|uint16(*p.ICMPCode), 16
	}
	return m
}

func (m match) entry(peer flow.Identity, rule uint32) bpf.Entry {
	return bpf.Entry{Peer: peer, Protocol: m.protocol, Port: m.port, PortBits: m.bits, Rule: rule}
}
