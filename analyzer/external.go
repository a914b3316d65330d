package analyzer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// A prefix is proposed once so many addresses of one block were seen; the blocks
// are those that sites commonly get.
const (
	widenFrom  = 8
	widenBits4 = 24
	widenBits6 = 64
)

// addressPeer names a peer that is no workload. A node is named as one, since
// the next node will have another address and the same processes. An address
// that a DNS name was seen to stand for is named so, where rules take names; any
// other is that one address. A crowd of addresses is the prefix that it was added
// up to, which is flagged.
func (v *view) addressPeer(d flow.Direction, p flow.Party) (policy.Peer, bool) {
	reserved, err := flow.ReservedIdentity(p.Reserved)
	if err == nil && (reserved == flow.IdentityHost || reserved == flow.IdentityRemoteNode) {
		return policy.Peer{Reserved: p.Reserved}, true
	}
	if p.Prefix.IsValid() {
		return policy.Peer{CIDR: &policy.CIDR{Prefix: p.Prefix}}, true
	}
	if a := p.Address.Unmap().WithZone(""); a.IsValid() {
		if name := v.nameOf(a); name != "" && d == flow.Egress {
			return policy.Peer{FQDN: name}, true
		}
		return policy.Peer{CIDR: &policy.CIDR{Prefix: netip.PrefixFrom(a, a.BitLen())}}, true
	}
	if err == nil && reserved != flow.IdentityWorld {
		return policy.Peer{Reserved: p.Reserved}, true
	}
	return policy.Peer{}, false
}

// nameOf returns the DNS name of an address: of several the one that stands for
// the fewest addresses, since that admits least.
func (v *view) nameOf(a netip.Addr) string {
	names := slices.Clone(v.index.Names(a))
	if len(names) == 0 {
		return ""
	}
	return slices.MinFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(v.index.Resolve(a)), len(v.index.Resolve(b))), cmp.Compare(a, b))
	})
}

// peersOf returns the peers of admissions, addresses merged into prefixes where
// all of a prefix was seen: fewer peers that admit the same.
func peersOf(admissions []*admission) []policy.Peer {
	var out []policy.Peer
	var b netipx.IPSetBuilder
	for _, a := range admissions {
		if a.peer.CIDR == nil {
			out = append(out, a.peer)
			continue
		}
		b.AddPrefix(a.peer.CIDR.Prefix)
	}
	set, err := b.IPSet()
	if err != nil {
		panic("analyzer: merge addresses: " + err.Error()) // only of invalid ones, which addressPeer never makes
	}
	for _, p := range set.Prefixes() {
		out = append(out, policy.Peer{CIDR: &policy.CIDR{Prefix: p}})
	}
	return out
}

// widened proposes, for a person to decide, the prefix of a crowd of addresses
// that use one port: rules of single addresses break with the next one.
func widened(admissions []admission) []Rule {
	type block struct {
		direction flow.Direction
		prefix    netip.Prefix
		port      string
	}
	seen := map[block][]*admission{}
	var order []block
	for i := range admissions {
		a := &admissions[i]
		if a.peer.CIDR == nil || !a.peer.CIDR.Prefix.IsSingleIP() {
			continue
		}
		addr, bits := a.peer.CIDR.Prefix.Addr(), widenBits6
		if addr.Is4() {
			bits = widenBits4
		}
		p, err := addr.Prefix(bits)
		if err != nil {
			continue
		}
		k := block{a.direction, p, a.port.String()}
		if seen[k] == nil {
			order = append(order, k)
		}
		seen[k] = append(seen[k], a)
	}
	var out []Rule
	for _, k := range order {
		if of := seen[k]; len(of) >= widenFrom {
			out = append(out, wider(of))
		}
	}
	return out
}

// wider returns the rule of the smallest prefix that holds all the addresses.
func wider(of []*admission) Rule {
	first := of[0].peer.CIDR.Prefix.Addr()
	bits := first.BitLen()
	for _, a := range of {
		for p := netip.PrefixFrom(first, bits); !p.Contains(a.peer.CIDR.Prefix.Addr()); p = netip.PrefixFrom(first, bits) {
			bits--
		}
	}
	p := netip.PrefixFrom(first, bits).Masked()
	r := Rule{
		Rule: policy.Rule{Peers: []policy.Peer{{CIDR: &policy.CIDR{Prefix: p}}}, Ports: []policy.Port{of[0].port}}, Direction: of[0].direction,
		Proposed: Review, Implied: true, Evidence: []Evidence{}, AlsoSelects: []flow.Workload{}, MayAdmit: []string{},
		Flags:      []Flag{{Code: FlagBroad, Reason: fmt.Sprintf("%d of its addresses were seen; accept it in place of them if the rest belongs to the same peer", len(of))}},
		AlsoAdmits: []string{unseen(p, uint64(len(of)), of[0].port)},
	}
	r.finish()
	return r
}

// unseen says what a rule of a prefix admits beside the addresses that were seen.
func unseen(p netip.Prefix, seen uint64, port policy.Port) string {
	others := "every other address"
	if p.Addr().Is4() {
		size := uint64(1) << (p.Addr().BitLen() - p.Bits())
		others = fmt.Sprintf("all %d other addresses", size-min(seen, size)) // seen may be an estimate
	}
	return fmt.Sprintf("%s of %s on %s, which were not observed", others, p, port)
}

// crowd is how many addresses were added up to the prefix that is the peer of s,
// or 0.
func (s *sighting) crowd() uint64 {
	return crowdOf(*s.peer(), s.direction, s.edge.SourceEndpoints, s.edge.DestinationEndpoints)
}

func crowdOf(peer flow.Party, d flow.Direction, sources, destinations uint64) uint64 {
	switch {
	case !peer.Prefix.IsValid():
		return 0
	case d == flow.Ingress:
		return sources
	}
	return destinations
}

// standIns are addresses of a prefix, one for each part of it that guardrails and
// rules can tell from the others.
func standIns(within netip.Prefix, guardrails []policy.Guardrail, rules []policy.Rule) []netip.Addr {
	out := []netip.Addr{within.Masked().Addr()}
	divide := func(peers []policy.Peer) {
		for i := range peers {
			if peers[i].CIDR == nil {
				continue
			}
			for _, p := range append([]netip.Prefix{peers[i].CIDR.Prefix}, peers[i].CIDR.Except...) {
				for _, a := range []netip.Addr{p.Masked().Addr(), netipx.PrefixLastIP(p).Next()} {
					if within.Contains(a) && !slices.Contains(out, a) {
						out = append(out, a)
					}
				}
			}
		}
	}
	for i := range guardrails {
		divide(guardrails[i].Peers)
	}
	for i := range rules {
		divide(rules[i].Peers)
	}
	return out
}
