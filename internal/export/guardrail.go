package export

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// ruleAt is a rule with its path in the normalized policy.
type ruleAt struct {
	at string
	policy.Rule
}

// rulesAt returns s's rules of direction d.
func (s *subject) rulesAt(d flow.Direction) []ruleAt {
	p := policy.Normalize(s.policy)
	var out []ruleAt
	for i, r := range p.Rules(d) {
		out = append(out, ruleAt{fmt.Sprintf("%s[%d]", d, i), r})
	}
	return out
}

// carved returns s's rules of direction d without what guardrails deny, for
// dialects that have no deny. Where a guardrail is a block and the rule's peer is
// a block, it becomes an exception; what cannot be taken out is a loss.
func (x *exporter) carved(s *subject, d flow.Direction) []ruleAt {
	rules := s.rulesAt(d)
	for _, g := range s.guardrails {
		if g.Guards(d) {
			kept := rules[:0]
			for _, r := range rules {
				if x.carve(&r, &g) {
					kept = append(kept, r)
				}
			}
			rules = kept
		}
	}
	return rules
}

// carve takes what g denies out of r, and reports whether anything is left.
func (x *exporter) carve(r *ruleAt, g *policy.Guardrail) bool {
	if !portsMeet(r.Ports, g.Ports) {
		return true
	}
	whole := portsCover(g.Ports, r.Ports)
	if len(g.Peers) == 0 && whole {
		return false // the guardrail denies all of it
	}
	if len(r.Peers) == 0 {
		x.open(g, r.at, "anyone")
		return true
	}
	r.Peers = slices.DeleteFunc(r.Peers, func(p policy.Peer) bool {
		for _, q := range guarded(g) {
			switch meeting(p, q) {
			case maybe:
				x.lose(Assumes, r.at, p.String(), "it has no address in %s, which guardrail %q denies", q, g.Name)
			case meet:
				if !whole || p.CIDR == nil || q.CIDR == nil {
					x.open(g, r.at, p.String())
				} else if !x.except(r.at, p.CIDR, q.CIDR) {
					return true
				}
			}
		}
		return false
	})
	return len(r.Peers) > 0
}

// open records that what g denies stays open to who.
func (x *exporter) open(g *policy.Guardrail, at, who string) {
	x.lose(NotDenied, fmt.Sprintf("guardrails[%s]", g.Name), g.String(), "%s has no deny, and %s admits %s", x.dialect.title, at, who)
}

// guarded returns g's peers; an empty one is anyone.
func guarded(g *policy.Guardrail) []policy.Peer {
	if len(g.Peers) > 0 {
		return g.Peers
	}
	return []policy.Peer{{}}
}

// except takes q out of c, and reports whether anything is left.
func (x *exporter) except(at string, c, q *policy.CIDR) bool {
	if len(q.Except) > 0 {
		x.lose(LeftOut, at, c.String(), "all of %s is taken out for a guardrail, its exceptions included", q.Prefix)
	}
	if q.Prefix.Bits() <= c.Prefix.Bits() {
		return false
	}
	if !slices.Contains(c.Except, q.Prefix) {
		c.Except = append(c.Except, q.Prefix)
		slices.SortFunc(c.Except, netip.Prefix.Compare)
	}
	return true
}

// meetings of a rule's peer and a guardrail's.
const (
	apart = iota
	maybe // if addresses say so
	meet
)

// meeting says whether somebody can be both p and q. An empty q is anyone.
func meeting(p, q policy.Peer) int {
	switch {
	case q == (policy.Peer{}):
		return meet
	case p.CIDR != nil && q.CIDR != nil:
		if !p.CIDR.Prefix.Overlaps(q.CIDR.Prefix) || slices.ContainsFunc(p.CIDR.Except, func(e netip.Prefix) bool {
			return e.Bits() <= q.CIDR.Prefix.Bits() && e.Contains(q.CIDR.Prefix.Addr())
		}) {
			return apart
		}
		return meet
	case p.CIDR != nil:
		return meet // of whomever it is, the address may be in the block
	case q.CIDR != nil:
		return maybe
	case p.Selector != nil && q.Selector != nil:
		return selectorsMeet(p.Selector, q.Selector)
	case p.Reserved != "" && p.Reserved == q.Reserved:
		return meet
	case p.FQDN != "" && q.Selector == nil:
		return meet
	case p.FQDN != "":
		return maybe
	}
	return apart
}

// selectorsMeet tells apart what differs in a namespace's name or in one label.
func selectorsMeet(p, q *policy.Selector) int {
	if p.Namespace != "" && q.Namespace != "" && p.Namespace != q.Namespace {
		return apart
	}
	for k, v := range p.MatchLabels {
		if other, ok := q.MatchLabels[k]; ok && other != v {
			return apart
		}
	}
	return meet
}

// portsMeet reports whether a flow can be on a port of a and of b; an empty list
// is every port.
func portsMeet(a, b []policy.Port) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	for i := range a {
		for j := range b {
			if portMeets(&a[i], &b[j]) {
				return true
			}
		}
	}
	return false
}

func portMeets(a, b *policy.Port) bool {
	differ := func(x, y *uint8) bool { return x != nil && y != nil && *x != *y }
	switch {
	case a.Protocol != b.Protocol || differ(a.ICMPType, b.ICMPType) || differ(a.ICMPCode, b.ICMPCode):
		return false
	case !a.Protocol.HasPorts() || a.Name != "" || b.Name != "" || a.Port == 0 || b.Port == 0:
		return true
	}
	return a.Port <= max(b.Port, b.EndPort) && b.Port <= max(a.Port, a.EndPort)
}

// portsCover reports whether each port of inner is within one of outer.
func portsCover(outer, inner []policy.Port) bool {
	if len(outer) == 0 {
		return true
	}
	for i := range inner {
		in := &inner[i]
		if !slices.ContainsFunc(outer, func(out policy.Port) bool { return portCovers(&out, in) }) {
			return false
		}
	}
	return len(inner) > 0
}

func portCovers(out, in *policy.Port) bool {
	within := func(o, i *uint8) bool { return o == nil || i != nil && *o == *i }
	switch {
	case out.Protocol != in.Protocol || !within(out.ICMPType, in.ICMPType) || !within(out.ICMPCode, in.ICMPCode):
		return false
	case !out.Protocol.HasPorts() || out.Port == 0 && out.Name == "":
		return true
	}
	return in.Name == "" && in.Port != 0 && out.Port <= in.Port && max(in.Port, in.EndPort) <= max(out.Port, out.EndPort)
}
