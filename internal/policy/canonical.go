package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
)

// Normalize returns a copy of p that shares nothing with it and is written the
// one canonical way: rules, peers, ports and exceptions sorted, each once, and
// every rule with its ID. It judges every flow as p does.
func Normalize(p Policy) Policy {
	p.Ingress = normalizeRules(flow.Ingress, p.Ingress)
	p.Egress = normalizeRules(flow.Egress, p.Egress)
	return p
}

// Canonical returns p's canonical JSON: policies that are Equal have the same
// bytes.
func (p *Policy) Canonical() []byte {
	b, err := json.Marshal(Normalize(*p))
	if err != nil {
		// Nothing in a Policy can refuse to be marshalled.
		panic("policy: marshal canonical JSON: " + err.Error())
	}
	return b
}

// Digest returns the hexadecimal SHA-256 of p's canonical JSON.
func Digest(p Policy) string {
	sum := sha256.Sum256(p.Canonical())
	return hex.EncodeToString(sum[:])
}

// Equal reports whether a and b say the same, in whatever order.
func Equal(a, b Policy) bool { return string(a.Canonical()) == string(b.Canonical()) }

// RuleID returns the stable name of a rule of direction d: 16 hexadecimal digits
// that depend on the direction, the peers and the ports only.
func RuleID(d flow.Direction, r Rule) string { return ruleID(d, normalizeRule(r)) }

// ruleID is RuleID of a normalized rule.
func ruleID(d flow.Direction, n Rule) string {
	n.ID = d.String()
	b, err := json.Marshal(n)
	if err != nil {
		panic("policy: marshal rule: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// SortRules sorts rules by what they say, in canonical order. Their peers and
// ports are compared as they stand, so normalize those first.
func SortRules(rules []Rule) { slices.SortStableFunc(rules, compareRules) }

func normalizeRules(d flow.Direction, rules []Rule) []Rule {
	out := make([]Rule, 0, len(rules))
	for _, r := range rules {
		n := normalizeRule(r)
		n.ID = ruleID(d, n)
		out = append(out, n)
	}
	return arrange(out)
}

// Arrange is Normalize of a policy whose rules are normalized each, which it
// shares with p.
func Arrange(p Policy) Policy {
	p.Ingress, p.Egress = arrange(slices.Clone(p.Ingress)), arrange(slices.Clone(p.Egress))
	return p
}

func arrange(rules []Rule) []Rule {
	if rules == nil {
		return []Rule{}
	}
	SortRules(rules)
	return slices.CompactFunc(rules, func(a, b Rule) bool { return a.ID == b.ID })
}

// normalizeRule copies r without its ID.
func normalizeRule(r Rule) Rule {
	n := Rule{Peers: make([]Peer, 0, len(r.Peers)), Ports: make([]Port, 0, len(r.Ports))}
	for _, p := range r.Peers {
		n.Peers = append(n.Peers, p.clone())
	}
	for _, p := range r.Ports {
		n.Ports = append(n.Ports, p.clone())
	}
	slices.SortFunc(n.Peers, comparePeers)
	slices.SortFunc(n.Ports, comparePorts)
	n.Peers = slices.CompactFunc(n.Peers, func(a, b Peer) bool { return comparePeers(a, b) == 0 })
	n.Ports = slices.CompactFunc(n.Ports, func(a, b Port) bool { return comparePorts(a, b) == 0 })
	return n
}

func (p Peer) clone() Peer {
	if p.Selector != nil {
		p.Selector = p.Selector.clone()
	}
	if p.CIDR != nil {
		c := &CIDR{Prefix: p.CIDR.Prefix, Except: slices.Clone(p.CIDR.Except)}
		slices.SortFunc(c.Except, netip.Prefix.Compare)
		c.Except = slices.Compact(c.Except)
		p.CIDR = c
	}
	return p
}

func (p Port) clone() Port {
	if p.EndPort == p.Port {
		p.EndPort = 0
	}
	if p.ICMPType != nil {
		t := *p.ICMPType
		p.ICMPType = &t
	}
	if p.ICMPCode != nil {
		c := *p.ICMPCode
		p.ICMPCode = &c
	}
	return p
}

func compareRules(a, b Rule) int {
	return cmp.Or(
		slices.CompareFunc(a.Peers, b.Peers, comparePeers),
		slices.CompareFunc(a.Ports, b.Ports, comparePorts),
	)
}

// comparePeers orders selectors before prefixes before DNS names before reserved
// names.
func comparePeers(a, b Peer) int {
	return cmp.Or(
		present(a.Selector, b.Selector), compareSelectors(a.Selector, b.Selector),
		present(a.CIDR, b.CIDR), compareCIDRs(a.CIDR, b.CIDR),
		strings.Compare(a.Reserved, b.Reserved),
		strings.Compare(a.FQDN, b.FQDN),
	)
}

func compareSelectors(a, b *Selector) int {
	if a == nil || b == nil {
		return 0
	}
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c // most do, and what follows sorts labels
	}
	x, y := a.Labels(), b.Labels()
	return cmp.Or(
		compareLabelSelectors(&x, &y),
		present(b.Namespaces, a.Namespaces),
		compareLabelSelectors(a.Namespaces, b.Namespaces),
	)
}

func compareLabelSelectors(a, b *LabelSelector) int {
	if a == nil || b == nil {
		return 0
	}
	all := func(s *LabelSelector) int {
		if s.All {
			return 1
		}
		return 0
	}
	return cmp.Or(
		slices.Compare(labelPairs(a.MatchLabels), labelPairs(b.MatchLabels)),
		slices.CompareFunc(a.MatchExpressions, b.MatchExpressions, compareExpressions),
		cmp.Compare(all(a), all(b)),
	)
}

func compareExpressions(a, b Expression) int {
	return cmp.Or(
		strings.Compare(a.Key, b.Key),
		strings.Compare(string(a.Operator), string(b.Operator)),
		slices.Compare(a.Values, b.Values),
	)
}

// labelPairs returns keys and values in turn, ordered by key.
func labelPairs(labels map[string]string) []string {
	pairs := make([]string, 0, 2*len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, k, labels[k])
	}
	return pairs
}

func compareCIDRs(a, b *CIDR) int {
	if a == nil || b == nil {
		return 0
	}
	return cmp.Or(
		a.Prefix.Compare(b.Prefix),
		slices.CompareFunc(a.Except, b.Except, netip.Prefix.Compare),
	)
}

func comparePorts(a, b Port) int {
	return cmp.Or(
		cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.EndPort, b.EndPort),
		strings.Compare(a.Name, b.Name),
		present(b.ICMPType, a.ICMPType), compareBytes(a.ICMPType, b.ICMPType),
		present(b.ICMPCode, a.ICMPCode), compareBytes(a.ICMPCode, b.ICMPCode),
	)
}

func compareBytes(a, b *uint8) int {
	if a == nil || b == nil {
		return 0
	}
	return cmp.Compare(*a, *b)
}

// present orders a value that is there before one that is not.
func present[T any](a, b *T) int {
	switch {
	case a != nil && b == nil:
		return -1
	case a == nil && b != nil:
		return 1
	}
	return 0
}
