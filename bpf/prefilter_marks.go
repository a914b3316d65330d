package bpf

import (
	"cmp"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
)

// Constants of bpf/prefilter.c that no type carries.
const (
	denyListSlots = 128

	actionExempt  = 1
	actionAudit   = 2
	actionEnforce = 3

	prefixLevels = 8
	prefixFanOut = 8
)

// wide is an address as a number. An IPv4 one is in the lower 32 bits.
type wide struct{ high, low uint64 }

func wideOf(a netip.Addr) wide {
	if a.Is4() {
		b := a.As4()
		return wide{low: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return wide{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (w wide) compare(o wide) int {
	return cmp.Or(cmp.Compare(w.high, o.high), cmp.Compare(w.low, o.low))
}

func (w wide) next() wide {
	w.low++
	if w.low == 0 {
		w.high++
	}
	return w
}

// last returns the last address of p.
func last(p netip.Prefix) wide {
	w, host := wideOf(p.Addr()), p.Addr().BitLen()-p.Bits()
	if host >= 64 {
		// A shift by 64 is 0 in Go.
		w.high |= 1<<(host-64) - 1
		w.low = math.MaxUint64
		return w
	}
	w.low |= 1<<host - 1
	return w
}

// A mark says what holds from an address up to the next mark: slot << 2 |
// action, or 0.
type mark struct {
	at   wide
	what uint16
}

// span is a prefix with what to do there. The lowest rank decides.
type span struct {
	first, last wide
	rank        uint16
	exempt      bool
}

const noRank = math.MaxUint16

// flatten turns one family's prefixes into marks, ascending and the first one
// at address 0. It returns none when no list has a prefix.
func flatten(spans []span, ranks []uint16) []mark {
	if !slices.ContainsFunc(spans, func(s span) bool { return !s.exempt }) {
		return nil
	}
	slices.SortFunc(spans, func(a, b span) int {
		// Of those that begin together the longest range first: prefixes nest.
		return cmp.Or(a.first.compare(b.first), b.last.compare(a.last))
	})
	out := make([]mark, 1, 2*len(spans)+1)
	open := []span{{last: wide{math.MaxUint64, math.MaxUint64}, rank: noRank}}
	note := func(at wide) {
		top := open[len(open)-1]
		m := mark{at: at}
		if top.rank != noRank {
			m.what = ranks[top.rank]
			if top.exempt {
				m.what = m.what&^3 | actionExempt
			}
		}
		if out[len(out)-1].at == at {
			out = out[:len(out)-1]
		}
		if len(out) == 0 || out[len(out)-1].what != m.what {
			out = append(out, m)
		}
	}
	closeUpTo := func(at wide) {
		for len(open) > 1 && open[len(open)-1].last.compare(at) < 0 {
			end := open[len(open)-1].last
			open = open[:len(open)-1]
			note(end.next())
		}
	}
	for _, s := range spans {
		closeUpTo(s.first)
		outer := open[len(open)-1]
		s.rank, s.exempt = min(s.rank, outer.rank), s.exempt || outer.exempt
		open = append(open, s)
		note(s.first)
	}
	// What reaches the last address of all has no end.
	for len(open) > 1 {
		end := open[len(open)-1].last
		open = open[:len(open)-1]
		if end.next() != (wide{}) {
			note(end.next())
		}
	}
	return out
}

// prefilterTables are the program's tables, as bytes of the kernel's maps.
type prefilterTables struct {
	v4Index, v4Marks []byte
	v6Keys, v6Marks  []byte
	v4Length         uint32
	v6Levels         uint32
	v6Offset         [prefixLevels]uint32
	v6Count          [prefixLevels]uint32
}

func (t *prefilterTables) size() int {
	return len(t.v4Index) + len(t.v4Marks) + len(t.v6Keys) + len(t.v6Marks)
}

// makeTables flattens lists, whose counts are in slots. Enforced lists rank
// before audited ones, and each kind in the given order.
func makeTables(lists []DenyList, slots []uint16, exempt []netip.Prefix) *prefilterTables {
	var ranks []uint16
	var v4, v6 []span
	add := func(p netip.Prefix, rank uint16, exempt bool) {
		s := span{wideOf(p.Addr()), last(p), rank, exempt}
		if p.Addr().Is4() {
			v4 = append(v4, s)
		} else {
			v6 = append(v6, s)
		}
	}
	for _, enforce := range []bool{true, false} {
		for i, l := range lists {
			if l.Enforce != enforce {
				continue
			}
			action := uint16(actionAudit)
			if enforce {
				action = actionEnforce
			}
			rank := uint16(len(ranks)) //nolint:gosec // fewer than denyListSlots
			ranks = append(ranks, slots[i]<<2|action)
			for _, p := range l.Prefixes {
				add(p, rank, false)
			}
		}
	}
	for _, p := range exempt {
		add(p, noRank, true)
	}
	t := &prefilterTables{}
	t.indexV4(flatten(v4, ranks))
	t.growV6(flatten(v6, ranks))
	return t
}

// indexV4 lays out IPv4's marks and the index over their upper 16 bits.
func (t *prefilterTables) indexV4(marks []mark) {
	// The kernel refuses empty tables; the program does not look at these.
	t.v4Index, t.v4Marks = make([]byte, 4), make([]byte, 4)
	if n := len(marks); n > 0 && marks[n-1].at.low > math.MaxUint32 {
		marks = marks[:n-1] // where 255.255.255.255 ends
	}
	if len(marks) == 0 {
		return
	}
	const buckets = 1 << 16
	t.v4Index, t.v4Marks = make([]byte, 0, 4*(buckets+1)), make([]byte, 0, 4*len(marks))
	t.v4Length = uint32(len(marks)) //nolint:gosec // bounded by the entries
	at := 0
	for bucket := range uint64(buckets + 1) {
		for at+1 < len(marks) && marks[at+1].at.low < bucket<<16 {
			at++
		}
		t.v4Index = binary.NativeEndian.AppendUint32(t.v4Index, uint32(at))
	}
	for _, m := range marks {
		t.v4Marks = binary.NativeEndian.AppendUint32(t.v4Marks, uint32(m.at.low)<<16|uint32(m.what)) //nolint:gosec // its lower 16 bits
	}
}

// growV6 lays out IPv6's marks as a tree.
func (t *prefilterTables) growV6(marks []mark) {
	// The kernel refuses empty tables; the program does not look at these.
	t.v6Keys, t.v6Marks = make([]byte, 16*prefixFanOut), make([]byte, 2*prefixFanOut)
	if len(marks) == 0 {
		return
	}
	counts := []int{len(marks)}
	for counts[0] > prefixFanOut {
		counts = slices.Insert(counts, 0, (counts[0]+prefixFanOut-1)/prefixFanOut)
	}
	t.v6Levels = uint32(len(counts)) //nolint:gosec // at most prefixLevels, by maxPrefilterEntries
	t.v6Keys, t.v6Marks = t.v6Keys[:0], make([]byte, 0, 2*len(marks))
	stride := 1
	for range counts[1:] {
		stride *= prefixFanOut
	}
	for level, count := range counts {
		t.v6Offset[level] = uint32(len(t.v6Keys) / 16) //nolint:gosec // bounded by the entries
		t.v6Count[level] = uint32(count)               //nolint:gosec // bounded by the entries
		for i := range (count + prefixFanOut - 1) / prefixFanOut * prefixFanOut {
			key := marks[min(i, count-1)*stride].at
			t.v6Keys = binary.NativeEndian.AppendUint64(t.v6Keys, key.high)
			t.v6Keys = binary.NativeEndian.AppendUint64(t.v6Keys, key.low)
		}
		stride /= prefixFanOut
	}
	for _, m := range marks {
		t.v6Marks = binary.NativeEndian.AppendUint16(t.v6Marks, m.what)
	}
}
