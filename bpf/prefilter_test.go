package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	xdpDrop = uint32(1)
	xdpPass = uint32(2)
)

// filter is a prefilter whose program is run on crafted frames.
type filter struct {
	t testing.TB
	*Prefilter
}

func openFilter(t testing.TB, change ...func(*PrefilterConfig)) *filter {
	t.Helper()
	cfg := PrefilterConfig{PinDir: filepath.Join(bpffsRoot, fmt.Sprintf("node-%d", serial.Add(1))), NetNS: labNS}
	for _, f := range change {
		f(&cfg)
	}
	return &filter{t, openFilterAt(t, cfg)}
}

func openFilterAt(t testing.TB, cfg PrefilterConfig) *Prefilter {
	t.Helper()
	p, err := OpenPrefilter(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := p.Remove(); err != nil && !errors.Is(err, errPrefilterClosed) {
			t.Errorf("remove: %v", err)
		}
		_ = p.Close()
	})
	return p
}

func (f *filter) set(lists []DenyList, exempt ...netip.Prefix) PrefilterStats {
	f.t.Helper()
	stats, err := f.SetLists(lists, exempt)
	if err != nil {
		f.t.Fatal(err)
	}
	return stats
}

func (f *filter) run(frame []byte) uint32 {
	f.t.Helper()
	code, err := f.program.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		f.t.Fatal(err)
	}
	return code
}

func (f *filter) count(name string) DenyListCount {
	f.t.Helper()
	list, err := f.Counts()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, c := range list {
		if c.Name == name {
			return c
		}
	}
	f.t.Fatalf("no count of %s among %+v", name, list)
	return DenyListCount{}
}

func (f *filter) names() []string {
	f.t.Helper()
	list, err := f.Counts()
	if err != nil {
		f.t.Fatal(err)
	}
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
	}
	slices.Sort(names)
	return names
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// sourceFrame is a UDP packet from addr.
func sourceFrame(t testing.TB, addr netip.Addr) []byte {
	t.Helper()
	to := web.v4
	if addr.Is6() {
		to = web.v6
	}
	return udp(addr, to, 1000, 2000).frame(t)
}

// verdict is what a plain reading of the lists says of a source.
type verdict struct {
	list   string // "": none
	code   uint32
	exempt bool
}

// reference judges by looking at every prefix that holds an address.
type reference struct {
	lists  []DenyList
	sets   []map[netip.Prefix]bool
	exempt map[netip.Prefix]bool
}

func newReference(lists []DenyList, exempt []netip.Prefix) *reference {
	set := func(list []netip.Prefix) map[netip.Prefix]bool {
		m := make(map[netip.Prefix]bool, len(list))
		for _, p := range list {
			m[p] = true
		}
		return m
	}
	r := &reference{lists: lists, exempt: set(exempt)}
	for _, l := range lists {
		r.sets = append(r.sets, set(l.Prefixes))
	}
	return r
}

func holds(set map[netip.Prefix]bool, a netip.Addr) bool {
	for bits := range a.BitLen() + 1 {
		if p, _ := a.Prefix(bits); set[p] {
			return true
		}
	}
	return false
}

func (r *reference) judge(a netip.Addr) verdict {
	v := verdict{code: xdpPass}
	for _, enforce := range []bool{true, false} {
		for i, l := range r.lists {
			if v.list == "" && l.Enforce == enforce && holds(r.sets[i], a) {
				v.list = l.Name
				v.exempt = holds(r.exempt, a)
				if enforce && !v.exempt {
					v.code = xdpDrop
				}
			}
		}
	}
	return v
}

// edges are the addresses where the answer may change.
func edges(lists []netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, p := range lists {
		w := last(p)
		b := make([]byte, 16)
		binary.BigEndian.PutUint64(b, w.high)
		binary.BigEndian.PutUint64(b[8:], w.low)
		end, _ := netip.AddrFromSlice(b[16-p.Addr().BitLen()/8:])
		for _, a := range []netip.Addr{p.Addr(), p.Addr().Prev(), end, end.Next()} {
			if a.IsValid() {
				out = append(out, a)
			}
		}
	}
	return out
}

// agree runs frames of all sources and compares verdicts and counts with the
// reference's.
func (f *filter) agree(r *reference, sources []netip.Addr) (dropped int) {
	f.t.Helper()
	before := map[string]DenyListCount{}
	for _, l := range r.lists {
		before[l.Name] = f.count(l.Name)
	}
	frames := map[bool][]byte{true: sourceFrame(f.t, web.v4), false: sourceFrame(f.t, web.v6)}
	want := map[string]*DenyListCount{}
	for name, c := range before {
		want[name] = &c
	}
	for _, a := range sources {
		frame := frames[a.Is4()]
		if a.Is4() {
			copy(frame[etherLen+12:], a.AsSlice())
		} else {
			copy(frame[etherLen+8:], a.AsSlice())
		}
		v := r.judge(a)
		if code := f.run(frame); code != v.code {
			f.t.Fatalf("%s: action %d, want %d by list %q", a, code, v.code, v.list)
		}
		if v.list == "" {
			continue
		}
		c := want[v.list]
		n := &c.Audited
		if v.exempt {
			n = &c.Exempted
		} else if v.code == xdpDrop {
			n = &c.Dropped
			dropped++
		}
		n.Packets++
		n.Bytes += uint64(len(frame))
	}
	for _, l := range r.lists {
		if got := f.count(l.Name); got != *want[l.Name] {
			f.t.Errorf("counts of %s: %+v, want %+v", l.Name, got, *want[l.Name])
		}
	}
	return dropped
}

// TestPrefilterVerdict checks which of several lists decides, and that nothing
// beside them does.
func TestPrefilterVerdict(t *testing.T) {
	for _, c := range []struct {
		name   string
		lists  []DenyList
		exempt []netip.Prefix
	}{
		{name: "one enforced", lists: []DenyList{{"a", true, prefixes("192.0.2.0/24", "2001:db8::/32")}}},
		{name: "one audited", lists: []DenyList{{"a", false, prefixes("192.0.2.0/24", "2001:db8::/32")}}},
		{name: "single addresses", lists: []DenyList{{"a", true, prefixes("192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128", "2001:db8::3/128")}}},
		{name: "the first and the last address", lists: []DenyList{{"a", true, prefixes("0.0.0.0/32", "255.255.255.255/32", "::/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")}}},
		{name: "halves", lists: []DenyList{{"a", true, prefixes("128.0.0.0/1", "8000::/1")}}},
		{name: "neighbours", lists: []DenyList{{"a", true, prefixes("10.0.0.0/16", "10.1.0.0/16", "10.3.0.0/16", "fd00::/64", "fd00:0:0:1::/64", "fd00:0:0:3::/64")}}},
		{name: "IPv4 only", lists: []DenyList{{"a", true, prefixes("192.0.2.0/24")}}},
		{name: "IPv6 only", lists: []DenyList{{"a", true, prefixes("2001:db8::/32")}}},
		{name: "first of two enforced", lists: []DenyList{
			{"a", true, prefixes("192.0.2.64/26", "2001:db8:1::/48")}, {"b", true, prefixes("192.0.2.0/24", "2001:db8::/32")},
		}},
		{name: "the wider one first", lists: []DenyList{
			{"a", true, prefixes("192.0.2.0/24", "2001:db8::/32")}, {"b", true, prefixes("192.0.2.64/26", "2001:db8:1::/48")},
		}},
		{name: "enforce beats audit that comes first", lists: []DenyList{
			{"a", false, prefixes("192.0.2.0/24", "2001:db8::/32")}, {"b", true, prefixes("192.0.2.64/26", "2001:db8:1::/48")},
		}},
		{name: "the same prefix in three", lists: []DenyList{
			{"a", false, prefixes("192.0.2.0/24", "2001:db8::/32")}, {"b", true, prefixes("192.0.2.0/24", "2001:db8::/32")},
			{"c", true, prefixes("192.0.2.0/24", "2001:db8::/32")},
		}},
		{
			name:   "exempt within, around and beside",
			lists:  []DenyList{{"a", true, prefixes("192.0.2.0/24", "2001:db8::/32")}, {"b", false, prefixes("198.51.100.0/25", "2001:db9:1::/48")}},
			exempt: prefixes("192.0.2.7/32", "198.51.100.0/24", "203.0.113.1/32", "2001:db8::7/128", "2001:db9::/32", "fd00::1/128"),
		},
		{name: "two that end together", lists: []DenyList{{"a", true, prefixes("10.0.0.0/8", "10.255.0.0/16", "10.255.255.0/24", "fd00::/8", "fdff::/16")}}},
		{name: "an empty list", lists: []DenyList{{"a", true, nil}, {"b", true, prefixes("192.0.2.0/24", "2001:db8::/32")}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := openFilter(t)
			f.set(c.lists, c.exempt...)
			var all []netip.Prefix
			for _, l := range c.lists {
				all = append(all, l.Prefixes...)
			}
			f.agree(newReference(c.lists, c.exempt), append(edges(append(all, c.exempt...)), web.v4, web.v6))
		})
	}
}

// randomPrefixes draws prefixes as real lists have them, of which some nest.
func randomPrefixes(r *rand.Rand, n int, family int) []netip.Prefix {
	seen := make(map[netip.Prefix]bool, n)
	out := make([]netip.Prefix, 0, n)
	for len(out) < n {
		p := netip.PrefixFrom(randomAddr(r, family), 0)
		if family == 4 {
			p = netip.PrefixFrom(p.Addr(), 32-min(r.IntN(12), r.IntN(12)))
		} else {
			p = netip.PrefixFrom(p.Addr(), 128-8*r.IntN(12))
		}
		if p = p.Masked(); !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}

// randomAddr draws from a small part of IPv6, so that prefixes meet.
func randomAddr(r *rand.Rand, family int) netip.Addr {
	if family == 4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], r.Uint32())
		return netip.AddrFrom4(b)
	}
	b := [16]byte{0x20, 1}
	binary.BigEndian.PutUint32(b[2:], r.Uint32N(1<<18)<<14)
	binary.BigEndian.PutUint64(b[8:], r.Uint64())
	if r.IntN(2) == 0 {
		binary.BigEndian.PutUint64(b[8:], r.Uint64N(256))
	}
	return netip.AddrFrom16(b)
}

// TestPrefilterMillion loads as many entries as there may be, and asks for
// sources at random, near entries, and within them.
func TestPrefilterMillion(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	lists := []DenyList{{Name: "audited"}, {Name: "one", Enforce: true}, {Name: "two", Enforce: true}}
	const each = maxPrefilterEntries / 6
	for i := range lists {
		lists[i].Prefixes = append(randomPrefixes(r, each, 4), randomPrefixes(r, each, 6)...)
	}
	for len(lists[0].Prefixes)+4*each < maxPrefilterEntries {
		lists[0].Prefixes = append(lists[0].Prefixes, randomPrefixes(r, 1, 6)...)
	}
	exempt := randomPrefixes(r, 100, 4)
	for i := range 100 {
		exempt = append(exempt, lists[1].Prefixes[i*each/100])
	}
	f := openFilter(t)
	stats := f.set(lists, exempt...)
	if stats.Entries != maxPrefilterEntries {
		t.Fatalf("%d entries, want %d", stats.Entries, maxPrefilterEntries)
	}
	ref := newReference(lists, exempt)
	for _, family := range []int{4, 6} {
		var sources []netip.Addr
		for range 50_000 {
			sources = append(sources, randomAddr(r, family))
		}
		for len(sources) < 100_000 {
			list := lists[r.IntN(3)].Prefixes
			if p := list[r.IntN(len(list))]; p.Addr().Is4() == (family == 4) {
				sources = append(sources, edges([]netip.Prefix{p})...)
			}
		}
		dropped := f.agree(ref, sources)
		t.Logf("IPv%d: %d sources, %d dropped, all as the plain reading says", family, len(sources), dropped)
	}
	again := f.set(lists, exempt...)
	t.Logf("%d entries: %d bytes, loaded in %s, reloaded in %s", stats.Entries, stats.Bytes, stats.Took, again.Took)

	lists[2].Prefixes = append(lists[2].Prefixes, netip.MustParsePrefix("192.0.2.1/32"))
	if _, err := f.SetLists(lists, exempt); err == nil {
		t.Error("one entry too many was taken")
	}
	f.agree(ref, edges(lists[1].Prefixes[:100]))
}

// TestPrefilterFrames checks where the source is looked for, and that what is
// too short to have one passes.
func TestPrefilterFrames(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		f := openFilter(t)
		f.set([]DenyList{{"a", true, prefixes("10.0.0.3/32", "fd00::3/128")}})
		for vlans := range 4 {
			p := udp(evil.in(family), web.in(family), 1, 2)
			p.vlans = vlans
			want := xdpDrop
			if vlans > 2 {
				want = xdpPass // as the programs behind see it: not IP
			}
			frame := p.frame(t)
			if code := f.run(frame); code != want {
				t.Errorf("denied source behind %d tags: action %d, want %d", vlans, code, want)
			}
			p.src = db.in(family)
			if code := f.run(p.frame(t)); code != xdpPass {
				t.Errorf("another source behind %d tags: action %d", vlans, code)
			}
			if vlans > 2 {
				continue
			}
			source := etherLen + 4*vlans + 16
			if family == 6 {
				source += 8
			}
			for n := 14; n <= source+4; n++ {
				want := xdpPass
				if n >= source {
					want = xdpDrop
				}
				if code := f.run(frame[:n]); code != want {
					t.Errorf("%d tags, cut to %d bytes: action %d, want %d", vlans, n, code, want)
				}
			}
		}
	})
	t.Run("ARP", func(t *testing.T) {
		f := openFilter(t)
		f.set([]DenyList{{"a", true, prefixes("0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1")}})
		arp := append(append(append([]byte{}, macB...), macA...), 0x08, 0x06)
		if code := f.run(append(arp, make([]byte, 28)...)); code != xdpPass {
			t.Errorf("action %d", code)
		}
	})
}

// TestPrefilterCounts checks that a list keeps its count as long as it is one.
func TestPrefilterCounts(t *testing.T) {
	frame := sourceFrame(t, evil.v4)
	list := func(name string, enforce bool) DenyList { return DenyList{name, enforce, prefixes("10.0.0.3/32")} }
	f := openFilter(t)
	f.set([]DenyList{list("a", false), list("b", false)})
	f.run(frame)
	f.set([]DenyList{list("b", true), list("a", false)})
	f.run(frame)
	f.set([]DenyList{list("c", true), list("a", true)})
	f.run(frame)
	one := flow.Counters{Packets: 1, Bytes: uint64(len(frame))}
	if got, want := f.count("a"), (DenyListCount{Name: "a", Audited: one}); got != want {
		t.Errorf("a: %+v, want %+v", got, want)
	}
	if got, want := f.count("c"), (DenyListCount{Name: "c", Dropped: one}); got != want {
		t.Errorf("c: %+v, want %+v", got, want)
	}
	f.set([]DenyList{list("b", true)})
	if got, want := f.count("b"), (DenyListCount{Name: "b"}); got != want {
		t.Errorf("b, come back: %+v, want %+v", got, want)
	}
	if got := f.names(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("lists %q", got)
	}
	// Many more than there are slots, one after another.
	for i := range 3 * denyListSlots {
		f.set([]DenyList{list(fmt.Sprintf("list-%d", i), true)})
	}
}

// TestPrefilterPanic checks that panic keeps lists from dropping, wherever it is
// said, and that a prefilter made during it obeys.
func TestPrefilterPanic(t *testing.T) {
	frame := sourceFrame(t, evil.v6)
	panicked := false
	f := openFilter(t, func(c *PrefilterConfig) { c.Panicked = func() bool { return panicked } })
	lists := []DenyList{{"a", true, prefixes("fd00::3/128")}}
	f.set(lists)
	want := func(code uint32, what string) {
		t.Helper()
		if got := f.run(frame); got != code {
			t.Errorf("%s: action %d, want %d", what, got, code)
		}
	}
	want(xdpDrop, "enforced")
	setPinned := func(on bool) {
		t.Helper()
		if _, err := OpenPinnedPanic(bpffsRoot, on); err != nil {
			t.Fatal(err)
		}
	}
	setPinned(true)
	want(xdpPass, "panic")
	if c := f.count("a"); c.Audited.Packets != 1 || c.Dropped.Packets != 1 {
		t.Errorf("counts %+v", c)
	}
	f.set(lists)
	want(xdpPass, "reloaded during panic")
	setPinned(false)
	want(xdpDrop, "panic over")
	if err := f.Panic(true); err != nil {
		t.Fatal(err)
	}
	want(xdpPass, "panic by the agent")

	if err := f.Remove(); err != nil {
		t.Fatal(err)
	}
	panicked = true
	f.set(lists)
	want(xdpPass, "made during panic")
}

// TestPrefilterRefuses checks what is refused, and that the lists before stay.
func TestPrefilterRefuses(t *testing.T) {
	f := openFilter(t, func(c *PrefilterConfig) { c.MaxEntries = 3 })
	f.set([]DenyList{{"a", true, prefixes("10.0.0.3/32", "fd00::3/128")}})
	many := make([]DenyList, MaxDenyLists+1)
	for i := range many {
		many[i].Name = fmt.Sprint(i)
	}
	for _, c := range []struct {
		name  string
		lists []DenyList
		want  string
	}{
		{"too many entries", []DenyList{{"b", true, prefixes("10.0.0.0/32", "10.0.0.1/32", "10.0.0.2/32")}, {"c", true, prefixes("fd00::/8")}},
			"deny lists have 4 entries together: there is room for 3"},
		{"too many lists", many, "33 deny lists: a node may have 32"},
		{"no name", []DenyList{{"", true, nil}}, `deny list "": want a name of 1 to 63 bytes`},
		{"one name twice", []DenyList{{"b", true, nil}, {"b", false, nil}}, "deny list b is there twice"},
		{"host bits", []DenyList{{"b", true, prefixes("10.0.0.1/8")}}, "deny list b: 10.0.0.1/8 is not a plain prefix"},
		{"mapped", []DenyList{{"b", true, prefixes("::ffff:10.0.0.1/128")}}, "deny list b: ::ffff:10.0.0.1/128 is not a plain prefix"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := f.SetLists(c.lists, nil)
			if err == nil || err.Error() != c.want {
				t.Errorf("error %v, want %q", err, c.want)
			}
			for _, a := range []netip.Addr{evil.v4, evil.v6} {
				if code := f.run(sourceFrame(t, a)); code != xdpDrop {
					t.Errorf("%s: action %d after the refusal", a, code)
				}
			}
			if got := f.names(); !slices.Equal(got, []string{"a"}) {
				t.Errorf("lists %q", got)
			}
		})
	}
}
