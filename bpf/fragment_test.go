package bpf

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// fragments splits a datagram of p in two.
func fragments(t *testing.T, p packet, id uint16) (first, later []byte) {
	t.Helper()
	p.payload = 64
	whole := p.frame(t)
	if p.src.Is4() {
		cut := func(offset uint16, more uint16, body []byte) []byte {
			f := append(append([]byte(nil), whole[:etherLen+20]...), body...)
			binary.BigEndian.PutUint16(f[etherLen+2:], uint16(20+len(body)))
			binary.BigEndian.PutUint16(f[etherLen+4:], id)
			binary.BigEndian.PutUint16(f[etherLen+6:], more|offset/8)
			return f
		}
		body := whole[etherLen+20:]
		return cut(0, 0x2000, body[:32]), cut(32, 0, body[32:])
	}
	cut := func(offset, more uint16, body []byte) []byte {
		f := append([]byte(nil), whole[:etherLen+40]...)
		f[etherLen+6] = 44
		h := []byte{byte(p.proto), 0, byte((offset | more) >> 8), byte(offset | more), 0, 0, byte(id >> 8), byte(id)}
		f = append(append(f, h...), body...)
		binary.BigEndian.PutUint16(f[etherLen+4:], uint16(8+len(body)))
		return f
	}
	body := whole[etherLen+40:]
	return cut(0, 1, body[:32]), cut(32, 0, body[32:])
}

// TestFragments checks that later fragments go with their first one, and are
// refused without it where the direction is isolated.
func TestFragments(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.UDP, 53)))
		first, later := fragments(t, udp(web.in(family), db.in(family), 40000, 53), 1)
		if code := l.from(later); code != drop {
			t.Errorf("later fragment alone: %s", verdictName(code))
		}
		if code := l.from(first); code != pass {
			t.Errorf("first fragment: %s", verdictName(code))
		}
		if code := l.from(later); code != pass {
			t.Errorf("later fragment: %s", verdictName(code))
		}
		first, later = fragments(t, udp(web.in(family), db.in(family), 40000, 54), 2)
		if code := l.from(first); code != drop {
			t.Errorf("first fragment, denied: %s", verdictName(code))
		}
		if code := l.from(later); code != drop {
			t.Errorf("later fragment, denied: %s", verdictName(code))
		}
		l.sweep(5 * time.Second)
		var sum total
		sum.add(l.records())
		if sum.forward.Packets != 4 || sum.connections != 2 {
			t.Errorf("sums: %+v", sum)
		}
		for name, want := range map[string]uint64{"fragments": 3, "fragments_unmatched": 1} {
			if n := l.counter(name); n != want {
				t.Errorf("counter %s: %d, want %d", name, n, want)
			}
		}
		// A note is forgotten after its time.
		l.sweep(time.Minute)
		_, later = fragments(t, udp(web.in(family), db.in(family), 40000, 53), 1)
		if code := l.from(later); code != drop {
			t.Errorf("later fragment of long ago: %s", verdictName(code))
		}
	})
}

// wantAll runs frames out of the endpoint in turn.
func (l *lab) wantAll(code uint32, what string, frames ...[]byte) {
	l.t.Helper()
	for i, frame := range frames {
		if got := l.from(frame); got != code {
			l.t.Errorf("%s, frame %d: %s, want %s", what, i, verdictName(got), verdictName(code))
		}
	}
}

// TestFragmentsOfOneEndpoint checks that an endpoint which begins datagrams and
// never ends them leaves the others their room.
func TestFragmentsOfOneEndpoint(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t, func(c *Config) {
			c.FragmentEntries, c.EndpointFragments = 64, 4
			c.NetNS = newNetNS(t)
			addVeth(t, c.NetNS, "web", "db")
		})
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.UDP, 53)))
		var later [][]byte
		for id := range uint16(6) {
			first, rest := fragments(t, udp(web.in(family), db.in(family), 40000, 53), id)
			l.wantAll(pass, "first fragment", first, first) // sent again it takes no more room
			later = append(later, rest)
		}
		l.wantAll(pass, "noted", later[:4]...)
		l.wantAll(drop, "over the quota", later[4:]...)
		if n := l.counter("fragments_full"); n != 4 {
			t.Errorf("%d first fragments could not be noted, want 4", n)
		}
		l.attach(Endpoint{Interface: "db", ID: dbID, Identity: dbIdent})
		l.apply(Table{TableKey: TableKey{dbIdent, flow.SlotLive, flow.Egress}, Revision: 1, Entries: []Entry{allow(webIdent, flow.UDP, 53)}})
		first, rest := fragments(t, udp(db.in(family), web.in(family), 40000, 53), 1)
		l.wantAll(pass, "the other endpoint", first, rest)

		l.sweep(0)
		if n := l.levels().Fragments; n != 5 {
			t.Errorf("%d first fragments are remembered, want four and one", n)
		}
		l.sweep(time.Minute)
		if n := l.levels().Fragments; n != 0 {
			t.Errorf("%d first fragments are remembered after their time", n)
		}
		for _, id := range []uint32{webID, dbID} {
			if n := l.d.quotaOf(id).Fragments; n != 0 {
				t.Errorf("endpoint %d holds %d notes after the sweep", id, n)
			}
		}
		first, rest = fragments(t, udp(db.in(family), web.in(family), 40000, 53), 9)
		l.wantAll(pass, "after the sweep", first, rest)
	})
}

// TestFragmentsOfOpenFlow checks that fragments are noted, and take no other
// flow's way, where plain packets of their ports would only be counted.
func TestFragmentsOfOpenFlow(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80)))
		p := tcp(web.in(family), db.in(family), 40000, 80, "A")
		l.connect(p)
		first, later := fragments(t, p, 1)
		l.wantAll(pass, "allowed", first, later)

		// One that looks like the open flow's packet, of a datagram that is none.
		_, later = fragments(t, udp(web.in(family), db.in(family), 40000, 80), 2)
		body := len(later) - 40 // 64 bytes and the header in all, 32 of them gone
		if family == 4 {
			later[etherLen+9] = byte(flow.TCP)
		} else {
			later[etherLen+40] = byte(flow.TCP)
		}
		copy(later[body:], p.frame(t)[len(p.frame(t))-20:])
		counted := l.counted()
		l.wantAll(drop, "in disguise", later)
		if got := l.counted(); got != counted {
			t.Errorf("counted %#x, want %#x still", got, counted)
		}
	})
}

// TestFragmentForgotten checks that a note is not believed for longer than its
// time, also while nobody sweeps.
func TestFragmentForgotten(t *testing.T) {
	l := newLab(t)
	l.apply(live(flow.Egress, 1, allow(dbIdent, flow.UDP, 53)))
	first, later := fragments(t, udp(web.v4, db.v4, 40000, 53), 1)
	l.wantAll(pass, "in time", first, later)
	notes, err := readMap[kernelRfFragmentKey, kernelRfFragment](l.d.maps.Fragments)
	if err != nil || len(notes) != 1 {
		t.Fatalf("notes %v, error %v", notes, err)
	}
	for key, note := range notes {
		note.Seen -= uint64(30 * time.Second)
		if err := l.d.maps.Fragments.Put(key, note); err != nil {
			t.Fatal(err)
		}
	}
	l.wantAll(drop, "too late", later)
	l.wantAll(pass, "identifier used again", first, later)
}

// TestFragmentsOverlap checks that no fragment may write over the first one,
// whose ports were judged.
func TestFragmentsOverlap(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		first, later := fragments(t, udp(web.in(family), db.in(family), 40000, 53), 1)
		overlapping := append([]byte(nil), later...)
		if family == 4 {
			overlapping[etherLen+7]-- // counts eights of bytes
		} else {
			overlapping[etherLen+43] -= 8
		}
		l.wantAll(pass, "observed", first, later, overlapping)
		if n := l.counter("malformed"); n != 1 {
			t.Errorf("%d malformed, want 1", n)
		}
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.UDP, 53)), staged(flow.Egress, 2))
		l.wantAll(pass, "enforced", first, later)
		l.wantAll(drop, "overlapping", overlapping)
		if n := l.counter(LiveDeny(flow.ReasonMalformed)); n != 1 {
			t.Errorf("%d packets denied as malformed, want 1", n)
		}
	})
}

// TestFragmentsBehindOptions checks that fragments whose options are within the
// fragmented part, and in the first one only, belong together.
func TestFragmentsBehindOptions(t *testing.T) {
	cut := func(port byte) (first, later []byte) {
		first, later = fragments(t, udp(web.v6, db.v6, 40000, 0), uint16(port))
		const options = 60
		head, body := first[:etherLen+40], first[etherLen+48:]
		fragment := append([]byte{options}, first[etherLen+41:etherLen+48]...)
		body[3] = port
		binary.BigEndian.PutUint16(head[4+etherLen:], uint16(8+8+len(body)))
		first = append(append(append(append([]byte(nil), head...), fragment...), 17, 0, 1, 4, 0, 0, 0, 0), body...)
		later[etherLen+40] = options
		later[etherLen+43] += 8 // its offset
		return first, later
	}
	l := newLab(t)
	l.apply(live(flow.Egress, 1, allow(dbIdent, flow.UDP, 53)))
	first, later := cut(53)
	l.wantAll(pass, "allowed", first, later)
	first, later = cut(54)
	l.wantAll(drop, "denied", first, later)
	if n := l.counter("malformed") + l.counter("fragments_unmatched"); n != 0 {
		t.Errorf("%d fragments could not be judged", n)
	}
}
