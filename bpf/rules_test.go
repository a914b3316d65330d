package bpf

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/internal/flow"
)

func tcpPorts(first, last uint16) Entry {
	return Entry{Peer: dbIdent, Protocol: flow.TCP, First: first, Last: last}
}

// portRanges are at the edges of the port tree's nodes.
var portRanges = []struct {
	name    string
	entries []Entry
	rules   int
	denied  []uint16
}{
	{"one", []Entry{tcpPorts(80, 80)}, 1, []uint16{0, 16, 79, 81, 144, 4176, 65535}},
	{"zero", []Entry{tcpPorts(0, 0)}, 1, []uint16{1, 64, 4096}},
	{"the last", []Entry{tcpPorts(65535, 65535)}, 1, []uint16{65534, 65471, 0}},
	{"two of a block", []Entry{tcpPorts(80, 80), tcpPorts(82, 82)}, 1, []uint16{79, 81, 83}},
	{"a block", []Entry{tcpPorts(64, 127)}, 1, []uint16{63, 128, 4160, 4223}},
	{"a block but its ends", []Entry{tcpPorts(65, 126)}, 1, []uint16{64, 127}},
	{"over the edge of a block", []Entry{tcpPorts(63, 64)}, 2, []uint16{62, 65}},
	{"4096", []Entry{tcpPorts(4096, 8191)}, 1, []uint16{4095, 8192}},
	{"over the edge of 4096", []Entry{tcpPorts(4095, 4096)}, 2, []uint16{4094, 4097}},
	{"the most of a range", []Entry{tcpPorts(4001, 61510)}, 5, []uint16{4000, 61511, 0, 65535}},
	{"all but 0", []Entry{tcpPorts(1, 65535)}, 3, []uint16{0}},
	{"all", []Entry{tcpPorts(0, 65535)}, 1, nil},
	{"side by side", []Entry{tcpPorts(96, 127), tcpPorts(64, 95)}, 1, []uint16{63, 128}},
	{"overlapping", []Entry{tcpPorts(1000, 3000), tcpPorts(2000, 5000), tcpPorts(2500, 2600)}, 4, []uint16{999, 5001}},
}

// TestPortRanges checks that the kernel allows the ports that entries name, and
// no others, with as few rules as said.
func TestPortRanges(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		sport := uint16(1)
		for i, c := range portRanges {
			table := live(flow.Egress, uint32(i+1), c.entries...)
			if got := table.Size(); got != c.rules {
				t.Errorf("%s: %d rules, want %d", c.name, got, c.rules)
			}
			l.apply(table)
			table.Entries = Normalize(c.entries)
			if diff := cmp.Diff([]Table{table}, l.tables()); diff != "" {
				t.Errorf("%s: tables (-want +got):\n%s", c.name, diff)
			}
			for _, e := range c.entries {
				for _, port := range []uint16{e.First, e.Last, e.First + (e.Last-e.First)/2} {
					l.want(pass, tcp(web.in(family), db.in(family), sport, port, "S"), c.name)
					l.want(drop, tcp(web.in(family), evil.in(family), sport, port, "S"), c.name+", another peer")
					l.want(drop, udp(web.in(family), db.in(family), sport, port), c.name+", another protocol")
					sport++
				}
			}
			for _, port := range c.denied {
				l.want(drop, tcp(web.in(family), db.in(family), sport, port, "S"), c.name)
				sport++
			}
		}
	})
}

func drawPorts(t *rapid.T) []Entry {
	edge := rapid.SampledFrom([]uint16{0, 1, 63, 64, 65, 127, 128, 4095, 4096, 4097, 8191, 8192, 61439, 61440, 65471, 65534, 65535})
	port := rapid.OneOf(edge, rapid.Uint16())
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Entry {
		e := Entry{
			Peer:     rapid.SampledFrom([]flow.Identity{dbIdent, webIdent, PeerAny}).Draw(t, "peer"),
			Protocol: rapid.SampledFrom([]flow.Protocol{0, flow.TCP, flow.UDP}).Draw(t, "protocol"),
		}
		if e.Protocol != 0 {
			a, b := port.Draw(t, "a"), port.Draw(t, "b")
			if rapid.Bool().Draw(t, "single") {
				b = a
			}
			e.First, e.Last = min(a, b), max(a, b)
		}
		return e
	}), 0, 8).Draw(t, "entries")
}

// TestRules checks that rules hold the ports of their entries and no others, that
// what is the same is written the same, and that reading gives the entries back.
func TestRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := drawPorts(t)
		rules := rulesOf(Normalize(list))
		for _, peer := range []flow.Identity{dbIdent, webIdent, PeerAny} {
			for _, protocol := range []flow.Protocol{0, flow.TCP, flow.UDP} {
				want, got := make([]bool, 65536), make([]bool, 65536)
				for _, e := range list {
					for port := int(e.First); e.Peer == peer && e.Protocol == protocol && port <= int(e.Last); port++ {
						want[port] = true
					}
				}
				if protocol == 0 && want[0] {
					want = slices.Repeat([]bool{true}, 65536)
				}
				for port := range got {
					got[port] = portHeld(rules, peer, protocol, port)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("peer %d protocol %s: rules %+v hold other ports than %+v", peer, protocol, rules, list)
				}
			}
		}
		if got, want := entriesOf(headOf(rules), rules), Normalize(list); !slices.Equal(got, want) {
			t.Fatalf("read back %+v, want %+v", got, want)
		}
		if len(rules) > 5*len(list) {
			t.Fatalf("%d rules of %d ranges", len(rules), len(list))
		}
		// The same ports in other pieces.
		var pieces []Entry
		for _, e := range list {
			middle := e.First + (e.Last-e.First)/2
			pieces = append(pieces, Entry{e.Peer, e.Protocol, middle, e.Last}, Entry{e.Peer, e.Protocol, e.First, middle})
		}
		if again := rulesOf(Normalize(pieces)); !slices.Equal(again, rules) {
			t.Fatalf("in pieces %+v, whole %+v", again, rules)
		}
	})
}

// portHeld looks a port up at every level, as types.h says.
func portHeld(rules []rule, peer flow.Identity, protocol flow.Protocol, port int) bool {
	return slices.ContainsFunc(rules, func(r rule) bool {
		if r.peer != peer || r.protocol != protocol {
			return false
		}
		switch node := int(r.node); {
		case node == 1:
			return r.ports>>(port/4096)&1 != 0
		case node >= 16 && node < 32:
			return node-16 == port/4096 && r.ports>>(port/64%64)&1 != 0
		case node >= 1024 && node < 2048:
			return node-1024 == port/64 && r.ports>>(port%64)&1 != 0
		}
		panic(fmt.Sprintf("no such node: %d", r.node))
	})
}
