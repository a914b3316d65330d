package policy

import (
	"maps"
	"slices"

	"go4.org/netipx"
)

// Shadowed returns, for each of the rules of one direction, the indexes of rules
// that together admit all that it admits, whatever workloads, labels, names and
// addresses there are; nil where they don't. Rules that are returned themselves
// are never among those that stand for another, so all of them can go at once.
//
// It compares what rules say: it finds no rule shadowed that is not, and may miss
// one whose selectors cover each other by their expressions alone.
func Shadowed(rules []Rule) [][]int {
	out := make([][]int, len(rules))
	all := make([]int, len(rules))
	for i := range all {
		all[i] = i
	}
	// A rule that one other covers goes before one that takes several.
	for _, most := range []int{1, len(rules)} {
		for i := range rules {
			if out[i] != nil {
				continue
			}
			others := slices.DeleteFunc(slices.Clone(all), func(k int) bool { return k == i || out[k] != nil })
			out[i] = covering(rules, i, others, most)
		}
	}
	return out
}

// covering returns those of others that rule i cannot go without, at most so
// many, when they cover it.
func covering(rules []Rule, i int, others []int, most int) []int {
	pick := func(of []int) []Rule {
		out := make([]Rule, len(of))
		for n, k := range of {
			out[n] = rules[k]
		}
		return out
	}
	if most == 1 {
		for _, k := range others {
			if covers(pick([]int{k}), &rules[i]) {
				return []int{k}
			}
		}
		return nil
	}
	if !covers(pick(others), &rules[i]) {
		return nil
	}
	needed := others
	for _, k := range others {
		without := slices.DeleteFunc(slices.Clone(needed), func(n int) bool { return n == k })
		if covers(pick(without), &rules[i]) {
			needed = without
		}
	}
	return needed
}

// Covers reports whether rules of one direction together admit all that r does,
// as far as Shadowed can tell.
func Covers(rules []Rule, r Rule) bool { return covers(rules, &r) }

func covers(rules []Rule, r *Rule) bool {
	peers, ports := r.Peers, r.Ports
	if len(peers) == 0 {
		peers = []Peer{{}} // anyone
	}
	if len(ports) == 0 {
		ports = []Port{{}} // every port
	}
	for i := range peers {
		for k := range ports {
			if !coversPair(rules, &peers[i], &ports[k]) {
				return false
			}
		}
	}
	return true
}

// coversPair reports whether the peer is covered on the port: by rules that name
// it, with their ports taken together, or by rules that have the port, with
// their prefixes taken together.
func coversPair(rules []Rule, peer *Peer, port *Port) bool {
	var ports []Port
	var prefixes []*CIDR
	for i := range rules {
		r := &rules[i]
		named := len(r.Peers) == 0 || slices.ContainsFunc(r.Peers, func(p Peer) bool { return p.covers(peer) })
		if named && len(r.Ports) == 0 {
			return true
		}
		if named {
			ports = append(ports, r.Ports...)
		}
		for k := range r.Peers {
			c := r.Peers[k].CIDR
			if c != nil && peer.CIDR != nil && c.Prefix.Overlaps(peer.CIDR.Prefix) && (len(r.Ports) == 0 || portsCover(r.Ports, port)) {
				prefixes = append(prefixes, c)
			}
		}
	}
	return portsCover(ports, port) || len(prefixes) > 0 && peer.CIDR.within(prefixes)
}

// within reports whether every address that c means is one of list's.
func (c *CIDR) within(list []*CIDR) bool {
	var rest netipx.IPSetBuilder
	rest.AddSet(c.set())
	for _, o := range list {
		rest.RemoveSet(o.set())
	}
	left, err := rest.IPSet()
	return err == nil && len(left.Ranges()) == 0
}

// set returns the addresses that c means.
func (c *CIDR) set() *netipx.IPSet {
	var b netipx.IPSetBuilder
	b.AddPrefix(c.Prefix)
	for _, e := range c.Except {
		b.RemovePrefix(e)
	}
	set, err := b.IPSet()
	if err != nil {
		return &netipx.IPSet{} // of a prefix that Validate refuses
	}
	return set
}

// covers reports whether p means everybody that o means.
func (p *Peer) covers(o *Peer) bool {
	switch {
	case p.Selector != nil && o.Selector != nil:
		return p.Selector.covers(o.Selector)
	case p.FQDN != "" && o.FQDN != "":
		return p.FQDN == o.FQDN || NameMatches(p.FQDN, o.FQDN)
	case p.Reserved != "":
		return p.Reserved == o.Reserved
	}
	return false // prefixes are compared as sets of addresses
}

func (s *Selector) covers(o *Selector) bool {
	namespaces, of := s.namespaces(), o.namespaces()
	labels, ofLabels := s.Labels(), o.Labels()
	return namespaces.covers(&of) && labels.covers(&ofLabels)
}

// namespaces returns the part of s that picks namespaces.
func (s *Selector) namespaces() LabelSelector {
	if s.Namespaces != nil {
		return *s.Namespaces
	}
	return LabelSelector{MatchLabels: map[string]string{NamespaceName: s.Namespace}}
}

// covers reports whether s asks for nothing that o does not ask for.
func (s *LabelSelector) covers(o *LabelSelector) bool {
	switch {
	case o.empty() || s.All:
		return true
	case s.empty() || o.All:
		return false
	}
	for k, v := range s.MatchLabels {
		if !o.implies(Expression{Key: k, Operator: OpIn, Values: []string{v}}) {
			return false
		}
	}
	return !slices.ContainsFunc(s.MatchExpressions, func(e Expression) bool { return !o.implies(e) })
}

// implies reports whether e holds for all that s picks.
func (s *LabelSelector) implies(e Expression) bool {
	if v, ok := s.MatchLabels[e.Key]; ok {
		return e.matches(labelSet{labels: map[string]string{e.Key: v}})
	}
	return slices.ContainsFunc(s.MatchExpressions, func(o Expression) bool {
		if o.Key != e.Key {
			return false
		}
		within := func(a, b []string) bool {
			return !slices.ContainsFunc(a, func(v string) bool { return !slices.Contains(b, v) })
		}
		switch {
		case o.Operator == OpIn && e.Operator == OpIn:
			return within(o.Values, e.Values)
		case o.Operator == OpNotIn && e.Operator == OpNotIn:
			return within(e.Values, o.Values)
		case o.Operator == OpIn && e.Operator == OpNotIn:
			return !slices.ContainsFunc(o.Values, func(v string) bool { return slices.Contains(e.Values, v) })
		case o.Operator == OpDoesNotExist:
			return e.Operator == OpDoesNotExist || e.Operator == OpNotIn
		case e.Operator == OpExists:
			return o.Operator == OpExists || o.Operator == OpIn
		}
		return false
	})
}

// portsCover reports whether ports together mean all that p means; the zero Port
// stands for every port of every protocol, which no list means.
func portsCover(ports []Port, p *Port) bool {
	if p.Protocol == 0 {
		return false
	}
	from, to := uint32(p.Port), uint32(max(p.Port, p.EndPort))
	if p.Port == 0 {
		to = 1<<16 - 1
	}
	spans := map[uint32]uint32{} // numbers from the key on, to the value
	for i := range ports {
		o := &ports[i]
		if o.Protocol != p.Protocol {
			continue
		}
		switch {
		case !p.Protocol.HasPorts():
			if within(p.ICMPType, o.ICMPType) && within(p.ICMPCode, o.ICMPCode) {
				return true
			}
		case o.Name != "":
			if o.Name == p.Name {
				return true
			}
		case o.Port == 0:
			return true
		case p.Name == "":
			spans[uint32(o.Port)] = max(spans[uint32(o.Port)], uint32(max(o.Port, o.EndPort)))
		}
	}
	for _, begin := range slices.Sorted(maps.Keys(spans)) {
		if begin <= from {
			from = max(from, spans[begin]+1)
		}
	}
	return p.Protocol.HasPorts() && p.Name == "" && from > to
}

// within reports whether every number that a means, all when it is nil, is one
// that b means.
func within(a, b *uint8) bool { return b == nil || a != nil && *a == *b }
