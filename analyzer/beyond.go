package analyzer

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// beyond says in words what a rule of w's admits and was not observed: ports,
// workloads, addresses and names. It returns the workloads of these apart.
func (v *view) beyond(w flow.Workload, r *Rule) (says []string, also []flow.Workload) {
	says, also = []string{}, []flow.Workload{}
	if len(r.Rule.Ports) == 0 {
		says = append(says, "every other port of every protocol")
	}
	used := map[string]bool{}
	for _, p := range r.Rule.Ports {
		n := distinctPorts(p, r.Evidence)
		used[p.String()] = n > 0
		if other := otherPorts(p, n); other != "" {
			says = append(says, other)
		}
	}
	if len(r.Rule.Peers) == 0 {
		return append(says, fmt.Sprintf("anyone but the %s that were seen", number(len(seenPeers(r.Evidence)), "peer"))), also
	}
	for _, p := range r.Rule.Peers {
		if other := v.otherAddresses(p, r); other != "" {
			says = append(says, other)
		}
	}
	pairs, also := v.otherWorkloads(w, r, used)
	return append(says, pairs...), also
}

// otherWorkloads lists the workloads that r admits and that were not seen to use
// it, or not on a port that others used.
func (v *view) otherWorkloads(w flow.Workload, r *Rule, used map[string]bool) (says []string, also []flow.Workload) {
	also = []flow.Workload{}
	picks := v.asks(w, r.Direction, policy.Rule{Peers: slices.DeleteFunc(slices.Clone(r.Rule.Peers), func(p policy.Peer) bool { return p.Selector == nil })})
	if !slices.ContainsFunc(r.Rule.Peers, func(p policy.Peer) bool { return p.Selector != nil }) {
		return nil, also
	}
	for _, other := range v.order {
		if !picks(flow.Party{Workload: other}, flow.TCP, 1) {
			continue
		}
		of := slices.DeleteFunc(slices.Clone(r.Evidence), func(e Evidence) bool { return e.Peer.Workload != other })
		if len(of) == 0 {
			also = append(also, other)
			says = append(says, fmt.Sprintf("%s, whose labels match too", other))
			continue
		}
		for _, p := range r.Rule.Ports {
			if used[p.String()] && distinctPorts(p, of) == 0 {
				says = append(says, fmt.Sprintf("%s on %s", other, p))
			}
		}
	}
	return says, also
}

func seenPeers(evidence []Evidence) map[flow.Party]bool {
	out := map[flow.Party]bool{}
	for i := range evidence {
		out[evidence[i].Peer] = true
	}
	return out
}

// distinctPorts counts the ports of evidence that p means. The number that a
// name stands for is taken on trust: the evaluator said that the rule matched.
func distinctPorts(p policy.Port, evidence []Evidence) int {
	seen := map[uint16]bool{}
	for i := range evidence {
		e := &evidence[i]
		if p.Name != "" && e.Protocol == p.Protocol || policy.Covers([]policy.Rule{{Ports: []policy.Port{p}}}, policy.Rule{Ports: []policy.Port{evidencePort(e)}}) {
			seen[e.Port] = true
		}
	}
	return len(seen)
}

func evidencePort(e *Evidence) policy.Port {
	return policy.PortOf(e.Protocol, e.Port)
}

// otherPorts says what p means beside n ports that were seen.
func otherPorts(p policy.Port, n int) string {
	icmp := p.Protocol == flow.ICMP || p.Protocol == flow.ICMPv6
	size := int(max(p.EndPort, p.Port)) - int(p.Port) + 1
	switch {
	case n == 0:
		return p.String() + ", which was not observed"
	case icmp && p.ICMPCode == nil, p.Protocol.HasPorts() && p.Port == 0 && p.Name == "":
		return "all but " + number(n, "port") + " of " + p.String()
	case size > n && p.EndPort > 0:
		return fmt.Sprintf("%s of %s", number(size-n, "more port"), p)
	}
	return ""
}

// otherAddresses says what a peer that is no selector means beside what was seen.
func (v *view) otherAddresses(p policy.Peer, r *Rule) string {
	evidence := r.Evidence
	seen := map[netip.Addr]bool{}
	for party := range seenPeers(evidence) {
		if party.Address.IsValid() {
			seen[party.Address.Unmap().WithZone("")] = true
		}
		if w := v.workloads[party.Workload]; w != nil {
			for _, e := range w.Endpoints {
				for _, a := range e.Addresses {
					seen[a.Unmap()] = true
				}
			}
		}
	}
	switch {
	case p.CIDR != nil:
		n := 0
		for a := range seen {
			if p.CIDR.Prefix.Contains(a) && !slices.ContainsFunc(p.CIDR.Except, func(e netip.Prefix) bool { return e.Contains(a) }) {
				n++
			}
		}
		return otherThan(p, n+crowdsIn(p.CIDR.Prefix, r))
	case p.FQDN != "":
		for a := range seen {
			if slices.ContainsFunc(v.index.Names(a), func(name string) bool { return policy.NameMatches(p.FQDN, name) }) {
				return ""
			}
		}
		return p.FQDN + ", which was not observed"
	case p.Reserved != "":
		if p.Reserved == flow.IdentityWorld.ReservedName() {
			return "every other address that is in no inventory"
		}
		if !slices.ContainsFunc(evidence, func(e Evidence) bool { return e.Peer.Reserved == p.Reserved }) {
			return p.String() + ", which was not observed"
		}
	}
	return ""
}

// crowdsIn is how many addresses of a prefix were seen that have no edge each.
func crowdsIn(p netip.Prefix, r *Rule) int {
	seen := map[netip.Prefix]uint64{}
	for i := range r.Evidence {
		e := &r.Evidence[i]
		if of := e.Peer.Prefix; of.IsValid() && p.Bits() <= of.Bits() && p.Contains(of.Addr()) {
			seen[of] = max(seen[of], crowdOf(e.Peer, r.Direction, e.SourceEndpoints, e.DestinationEndpoints))
		}
	}
	n := 0
	for _, one := range seen {
		n += int(one) //nolint:gosec // far fewer
	}
	return n
}

// otherThan says how many addresses of a prefix were not seen, n were.
func otherThan(p policy.Peer, n int) string {
	size := func(p netip.Prefix) *big.Int {
		return new(big.Int).Lsh(big.NewInt(1), uint(p.Addr().BitLen()-p.Bits()))
	}
	left := size(p.CIDR.Prefix)
	for _, e := range p.CIDR.Except {
		left.Sub(left, size(e))
	}
	switch left.Sub(left, big.NewInt(int64(n))); {
	case left.Sign() <= 0:
		return ""
	case p.CIDR.Prefix.IsSingleIP():
		return p.String() + ", which was not observed"
	case left.BitLen() > 40:
		return "every other address of " + p.String()
	}
	return fmt.Sprintf("%s more of the addresses of %s", left, p)
}
