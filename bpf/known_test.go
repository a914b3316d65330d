package bpf

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ringfence/ringfence/internal/flow"
)

// TestKnownFlow counts packets of open flows, single ones and those made of
// several, each way, and by verdict.
func TestKnownFlow(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		for _, c := range []struct {
			name    string
			request packet
			tables  []Table
			outcome flow.Outcome
			code    uint32
		}{
			{"TCP observed", tcp(web.in(family), db.in(family), 40000, 80, "A"), nil, flow.OutcomeForwarded, pass},
			{"UDP observed", udp(web.in(family), db.in(family), 40000, 80), nil, flow.OutcomeForwarded, pass},
			{"TCP audited", tcp(web.in(family), db.in(family), 40000, 80, "A"), []Table{staged(flow.Egress, 1)}, flow.OutcomeAudited, pass},
			{"UDP audited", udp(web.in(family), db.in(family), 40000, 80), []Table{staged(flow.Egress, 1)}, flow.OutcomeAudited, pass},
			{"TCP enforced", tcp(web.in(family), db.in(family), 40000, 80, "A"), []Table{live(flow.Egress, 1)}, flow.OutcomeDropped, drop},
			{"UDP enforced", udp(web.in(family), db.in(family), 40000, 80), []Table{live(flow.Egress, 1), live(flow.Ingress, 1)}, flow.OutcomeDropped, drop},
		} {
			t.Run(c.name, func(t *testing.T) {
				l := newLab(t)
				if c.request.proto == flow.TCP {
					l.connect(c.request)
				} else {
					l.want(pass, c.request, "first")
				}
				l.apply(c.tables...)
				l.want(c.code, c.request, "judged again")
				before, counted := l.counter(c.outcome.String()), l.counted()

				request, answer := c.request, c.request.reply("A")
				request.vlans = 1
				answer.payload = 3000
				l.want(c.code, request, "request")
				many := skb{GSOSegs: 3, GSOSize: 1000, IngressIfindex: uint32(l.index)}
				frame := answer.frame(t)
				for i := range 2 { // the second one says no length: it may not fit its field
					if code := l.sendAs(l.d.programs.RfToEndpoint, many, frame); code != c.code {
						t.Errorf("answer %d of several packets: %s", i, verdictName(code))
					}
					at := etherLen + 2
					if family == 6 {
						at = etherLen + 4
					}
					frame[at], frame[at+1] = 0, 0
				}
				counted[0] += 1<<40 | uint64(len(request.frame(t)))
				counted[1] += 6<<40 | 2*uint64(len(frame))
				if got := l.counted(); got != counted {
					t.Errorf("counted %#x, want %#x", got, counted)
				}
				if n := l.counter(c.outcome.String()); n != before+3 {
					t.Errorf("%d packets %s, want 3", n-before, c.outcome)
				}
			})
		}
	})
}

// counted is what the only flow has counted.
func (l *lab) counted() [2]uint64 {
	l.t.Helper()
	list := l.table()
	if len(list) != 1 {
		l.t.Fatalf("%d flows, want one", len(list))
	}
	for _, f := range list {
		return f.Counted
	}
	return [2]uint64{}
}

// TestCarry checks that counters which nobody takes for long lose nothing when
// their halves fill up.
func TestCarry(t *testing.T) {
	l := newLab(t)
	p := tcp(web.v4, db.v4, 40000, 80, "")
	l.connect(p)
	l.records()
	const packets, bytes = 1<<23 - 2, 1<<39 - 100
	for key, f := range l.table() {
		f.Counted[0], f.Counted[1] = packets<<40|bytes, packets<<40|bytes
		if err := putFlow(&l.d.maps, key, f); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		l.want(pass, p.with("A"), "request")
		l.want(pass, p.reply("A"), "answer")
	}
	for _, f := range l.table() {
		for side, c := range f.Carried {
			if c.Packets != 1 || c.Bytes != 1 || f.Counted[side]&(1<<39|1<<63) != 0 {
				t.Errorf("side %d: %+v carried, %#x counted", side, c, f.Counted[side])
			}
		}
	}
	l.sweep(6 * time.Second)
	want := flow.Counters{Packets: packets + 5, Bytes: bytes + 5*uint64(len(p.frame(t)))}
	if r := l.record(); r.Forward != want || r.Reverse != want {
		t.Errorf("record: %+v, want %+v each way", r, want)
	}
	l.want(pass, p.with("A"), "one more")
	l.sweep(6 * time.Second)
	if r := l.record(); r.Forward.Packets != 1 || r.Reverse.Packets != 0 {
		t.Errorf("record after: %+v", r)
	}
}

// TestKnownDHCP checks that DHCP's answer passes beside a flow that is denied.
func TestKnownDHCP(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		l.apply(live(flow.Egress, 1), live(flow.Ingress, 1))
		client, server := uint16(68), uint16(67)
		if family == 6 {
			client, server = 546, 547
		}
		renewal := udp(web.in(family), db.in(family), client, server)
		for range 2 {
			l.want(drop, renewal, "renewal to somebody who is not the node")
			l.want(pass, renewal.reply(""), "answer")
		}
	})
}

// TestInterfacesShareSlot checks endpoints whose interfaces take the same slot of
// the settings, and an interface that another endpoint takes over.
func TestInterfacesShareSlot(t *testing.T) {
	ns := newNetNS(t)
	names := map[string]int{"web": 300, "db": 300 + len(kernelRfSettings{}.Interfaces)}
	inNetNS(t, ns, func() error {
		for name, index := range names {
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Index: index}, PeerName: name + "-peer"}); err != nil {
				return err
			}
		}
		return nil
	})
	l := newLab(t, func(c *Config) { c.NetNS = ns })
	p := tcp(web.v4, db.v4, 40000, 80, "A")
	both := func(name string, id, want uint32) {
		t.Helper()
		l.attach(Endpoint{Interface: name, ID: id, Identity: webIdent})
		l.index = names[name]
		l.connect(p)
		for range 3 {
			l.want(pass, p, "known")
		}
		for key, f := range l.table() {
			if key.Endpoint != id {
				continue
			}
			if n := f.Counted[0]>>40 + f.Counted[1]>>40; n != uint64(want) {
				t.Errorf("endpoint %d on %s counted %d packets, want %d", id, name, n, want)
			}
			return
		}
		t.Errorf("endpoint %d on %s has no flow", id, name)
	}
	// Its first record takes the SYN.
	both("web", webID, 5)
	both("db", dbID, 5)
	l.attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent})
	l.index = names["db"]
	l.want(pass, p, "known, while the slot is the other's")
	both("web", evilID, 5)
	for key, f := range l.table() {
		if n := f.Counted[0]>>40 + f.Counted[1]>>40; key.Endpoint == dbID && n != 6 || key.Endpoint == webID && n != 5 {
			t.Errorf("endpoint %d counted %d packets", key.Endpoint, n)
		}
	}
	if err := l.d.Detach(names["web"]); err != nil {
		t.Fatal(err)
	}
	l.index = names["web"]
	before := l.counter("no_endpoint")
	l.want(pass, p, "detached")
	if n := l.counter("no_endpoint"); n != before+1 {
		t.Errorf("%d packets of no endpoint, want 1", n-before)
	}
}

// TestKnownMapped checks that an IPv6 packet between mapped addresses does not
// pass for one of the IPv4 flow that it names.
func TestKnownMapped(t *testing.T) {
	l := newLab(t)
	l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80)))
	p := tcp(web.v4, db.v4, 40000, 80, "A")
	l.connect(p)
	forged := tcp(web.v6, db.v6, 40000, 80, "A").frame(t)
	for i, a := range []netip.Addr{web.v4, db.v4} {
		mapped := a.As16()
		copy(forged[etherLen+8+16*i:], mapped[:])
	}
	counted := l.counted()
	if code := l.from(forged); code != drop {
		t.Errorf("forged: %s", verdictName(code))
	}
	if got := l.counted(); got != counted {
		t.Errorf("counted %#x, want %#x still", got, counted)
	}
}
