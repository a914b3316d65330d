package bpf

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
)

// rule is an element of the kernel's rules: of one peer and protocol, those
// children of a node of the port tree that match whole. bpf/types.h has the tree.
type rule struct {
	peer     flow.Identity
	protocol flow.Protocol
	node     uint16
	ports    uint64 // bit n: child n
}

// levels are those of the port tree, the widest first: its nodes are the ports
// that begin with the same prefix bits, and their children 1<<child ports each.
// Level n is RF_LEVEL bit n.
var levels = [...]struct{ prefix, child int }{{0, 12}, {4, 6}, {10, 0}}

func (r rule) key(table uint32) kernelRfRuleKey {
	return kernelRfRuleKey{Table: table, Peer: uint32(r.peer), Node: r.node, Protocol: uint8(r.protocol)}
}

func ruleOf(k kernelRfRuleKey, ports uint64) rule {
	return rule{flow.Identity(k.Peer), flow.Protocol(k.Protocol), k.Node, ports}
}

func (r rule) compare(o rule) int {
	return cmp.Or(cmp.Compare(r.peer, o.peer), cmp.Compare(r.protocol, o.protocol), cmp.Compare(r.node, o.node))
}

// level returns the node's, -1 for one that the tree does not have.
func (r rule) level() int {
	return slices.IndexFunc(levels[:], func(l struct{ prefix, child int }) bool { return l.prefix == bits.Len16(r.node)-1 })
}

// rulesOf returns the rules that stand for normalized entries, in order. Each
// set of ports is written in one way only: in the widest children that it fills.
func rulesOf(entries []Entry) []rule {
	var list []rule
	for _, e := range entries {
		last := e.Last
		if e.Protocol == 0 {
			last = 65535
		}
		list = appendPorts(list, rule{peer: e.Peer, protocol: e.Protocol}, 0, uint32(e.First), uint32(last))
	}
	slices.SortFunc(list, rule.compare)
	out := list[:0]
	for _, r := range list {
		if n := len(out) - 1; n >= 0 && out[n].compare(r) == 0 {
			out[n].ports |= r.ports
		} else {
			out = append(out, r)
		}
	}
	return out
}

// appendPorts appends the rules of r's peer for a range of ports within one node
// of the level. What fills a child is a bit; the rest, at most one piece at
// either end, goes a level down.
func appendPorts(list []rule, r rule, level int, first, last uint32) []rule {
	prefix, child := levels[level].prefix, levels[level].child
	r.node = uint16(1<<prefix | first>>(16-prefix)) //nolint:gosec // below 2048
	r.ports = 0
	for at := first; at <= last; {
		end := min(at|(1<<child-1), last)
		if end-at == 1<<child-1 {
			r.ports |= 1 << (at >> child & 63)
		} else {
			list = appendPorts(list, r, level+1, at, end)
		}
		at = end + 1
	}
	if r.ports != 0 {
		list = append(list, r)
	}
	return list
}

// entriesOf returns what the programs find of the rules in a table with this
// head, normalized.
func entriesOf(head kernelRfTable, rules []rule) []Entry {
	var list []Entry
	for _, r := range rules {
		level := r.level()
		if level < 0 || !finds(head, r, level) {
			continue
		}
		prefix, child := levels[level].prefix, levels[level].child
		base := uint32(r.node) &^ (1 << prefix) << (16 - prefix)
		for at := range uint32(1) << (16 - prefix - child) {
			if r.ports>>at&1 != 0 {
				first := base | at<<child
				list = append(list, Entry{r.peer, r.protocol, uint16(first), uint16(first | (1<<child - 1))}) //nolint:gosec // within a node
			}
		}
	}
	list = Normalize(list)
	for i := range list {
		if e := &list[i]; e.Protocol == 0 && e.First == 0 && e.Last == 65535 {
			e.Last = 0
		}
	}
	return list
}

// finds reports whether the programs look for rules like r.
func finds(head kernelRfTable, r rule, level int) bool {
	switch {
	case r.peer == PeerAny && head.Flags&tableAnyPeer == 0:
		return false
	case r.protocol == 0:
		return level == 0 && head.Flags&tableAnyProto != 0
	}
	return head.Levels>>level&1 != 0
}

// headOf returns what holds for all of the rules.
func headOf(rules []rule) (head kernelRfTable) {
	for _, r := range rules {
		if r.peer == PeerAny {
			head.Flags |= tableAnyPeer
		}
		if r.protocol == 0 {
			head.Flags |= tableAnyProto
		} else {
			head.Levels |= 1 << r.level()
		}
	}
	head.Rules = uint32(len(rules)) //nolint:gosec // far below the map's limit, which is checked
	return head
}

// Normalize returns entries that match the same, by peer, protocol and port, and
// of each peer and protocol as few as there can be. So are those of a Table that
// is read back.
func Normalize(entries []Entry) []Entry {
	list := slices.Clone(entries)
	slices.SortFunc(list, Entry.compare)
	out := list[:0]
	for _, e := range list {
		if n := len(out) - 1; n >= 0 && out[n].Peer == e.Peer && out[n].Protocol == e.Protocol && int(e.First) <= int(out[n].Last)+1 {
			out[n].Last = max(out[n].Last, e.Last)
		} else {
			out = append(out, e)
		}
	}
	return out
}

func (e Entry) compare(o Entry) int {
	return cmp.Or(cmp.Compare(e.Peer, o.Peer), cmp.Compare(e.Protocol, o.Protocol),
		cmp.Compare(e.First, o.First), cmp.Compare(e.Last, o.Last))
}

// Size returns how much of Limits.PolicyEntries the table takes: of each peer
// and protocol one for the single ports in an aligned block of 64, one for the
// whole blocks in an aligned 4096, and one for the whole 4096s. A range of ports
// takes five at most.
func (t Table) Size() int { return len(rulesOf(Normalize(t.Entries))) }
