package bpf

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// nextLayout is the programs compiled with RF_LAYOUT_TEST: another member at the
// head of flows and records, and one more setting.
func nextLayout() (*ebpf.CollectionSpec, error) {
	return ebpf.LoadCollectionSpec("testdata/next_bpfel.o")
}

// upgrade opens the lab's datapath with what change makes of its configuration.
func (l *lab) upgrade(change func(*Config)) {
	l.t.Helper()
	cfg := l.d.cfg
	if err := errors.Join(l.r.Close(), l.d.Close()); err != nil {
		l.t.Fatal(err)
	}
	change(&cfg)
	l.d = openAt(l.t, cfg)
	l.openReader()
}

// drainAll takes every record there is, however many rings hold them.
func (l *lab) drainAll() []flow.Record {
	l.t.Helper()
	var list []flow.Record
	for range 20 {
		list = append(list, l.records()...)
		ring := l.r.mapID
		if err := l.r.advance(); err != nil {
			l.t.Fatal(err)
		}
		if l.r.mapID == ring && l.r.ring.produced() == l.r.pos {
			return list
		}
	}
	l.t.Fatal("the rings do not run dry")
	return nil
}

func (l *lab) generations() []string {
	l.t.Helper()
	entries, err := os.ReadDir(l.d.cfg.PinDir)
	if err != nil {
		l.t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		if e.Name() != linksName {
			list = append(list, e.Name())
		}
	}
	return list
}

// change is one way from one generation to the next.
var upgrades = []struct {
	name   string
	change func(*Config)
	flows  bool // the flow table is another one
	ring   bool // so is the ring
}{
	{"same", func(*Config) {}, false, false},
	{"next layout", func(c *Config) { c.object = nextLayout }, true, true},
	{"grown", func(c *Config) {
		c.FlowEntries, c.RingBytes, c.Endpoints = 2*c.FlowEntries, 2*c.RingBytes, 2*c.Endpoints
		c.Addresses, c.CIDRs, c.PolicyTables, c.FailsafeEntries = 2*c.Addresses, 2*c.CIDRs, 2*c.PolicyTables, 2*c.FailsafeEntries
		c.PolicyEntries, c.Workloads, c.FragmentEntries = 2*c.PolicyEntries, 2*c.Workloads, 2*c.FragmentEntries
	}, true, true},
	{"larger ring", func(c *Config) { c.RingBytes *= 4 }, false, true},
	{"more addresses", func(c *Config) { c.Addresses *= 4 }, false, false},
}

// TestUpgrade goes to another layout or size and back, with live flows, counters
// that are not reported and records that are not stored.
func TestUpgrade(t *testing.T) { modes(t, upgradeBy) }

func upgradeBy(t *testing.T, mode AttachMode) {
	t.Helper()
	for _, u := range upgrades {
		t.Run(u.name, func(t *testing.T) {
			families(t, func(t *testing.T, family int) {
				l := newLab(t, attachBy(mode))
				original := l.d.cfg
				prepareUpgrade(t, l)
				s := &upgradeState{t: t, l: l, family: family}
				s.begin()
				s.to(u.change, u.flows, u.ring)
				s.to(func(c *Config) { pins := c.PinDir; *c = original; c.PinDir = pins }, u.flows, u.ring)
				s.end()
			})
		})
	}
}

// prepareUpgrade fills every map that userspace writes.
func prepareUpgrade(t *testing.T, l *lab) {
	t.Helper()
	_, e1 := l.d.SetCIDRs(cidrs("198.51.100.0/24", "2001:db8:66::/48"))
	_, e2 := l.d.SetFailsafe([]Failsafe{{flow.TCP, netip.MustParseAddrPort("203.0.113.9:9000")}})
	_, e3 := l.d.SetServices([]ServiceIdentity{{flow.TCP, netip.MustParseAddrPort("203.0.113.80:80"), serviceIdent}})
	if err := errors.Join(e1, e2, e3); err != nil {
		t.Fatal(err)
	}
	egress := live(flow.Egress, 3, allow(dbIdent, flow.TCP, 80), allow(dbIdent, flow.UDP, 53), allow(400, flow.TCP, 443))
	egress.UsesCIDRs = true
	l.apply(egress, live(flow.Ingress, 4), staged(flow.Ingress, 5))
}

func cidrs(list ...string) (out []CIDRIdentity) {
	for _, s := range list {
		out = append(out, CIDRIdentity{netip.MustParsePrefix(s), 400})
	}
	return out
}

// upgradeState follows the same flows over several upgrades.
type upgradeState struct {
	t        *testing.T
	l        *lab
	family   int
	sent     uint64
	opened   uint32
	sum      total
	attached []Attached
	tables   []Table
	links    []uint32
}

func (s *upgradeState) flow() (tcpFlow, udpFlow packet) {
	return tcp(web.in(s.family), db.in(s.family), 1000, 80, ""), udp(web.in(s.family), db.in(s.family), 1001, 53)
}

func (s *upgradeState) send(code uint32, p packet, what string) {
	s.t.Helper()
	s.l.want(code, p, what)
	s.sent++
}

func (s *upgradeState) begin() {
	s.t.Helper()
	p, q := s.flow()
	for _, packet := range []packet{p.with("S"), p.reply("SA"), p.with("A"), q, q.reply("")} {
		s.send(pass, packet, "before")
	}
	s.opened = 2
	var err error
	if s.attached, err = s.l.d.Attached(); err != nil {
		s.t.Fatal(err)
	}
	s.tables, s.links = s.l.tables(), attachments(s.t, s.l.d)
}

// to upgrades and checks that everything is as it was.
func (s *upgradeState) to(change func(*Config), flows, ring bool) {
	s.t.Helper()
	t, l := s.t, s.l
	p, q := s.flow()
	// A batch is noted as about to be stored, and neither stored nor given back.
	noted, err := l.r.take(l.r.ring.produced(), 1<<20)
	if err != nil || len(noted.Records) == 0 {
		t.Fatalf("batch %+v, error %v", noted, err)
	}
	owed := append([]flow.Record(nil), noted.Records...)
	if err := l.r.Intend(noted.Start, noted.End); err != nil {
		t.Fatal(err)
	}
	s.send(pass, p.with("A"), "not reported")
	id, counted, before := l.r.RingID(), l.counter("flows"), l.d.gen.ids
	l.upgrade(change)

	for name, want := range map[string]bool{
		kernelMapFlows4: flows, kernelMapFlows6: flows, kernelMapQuotas: flows, kernelMapEvents: ring, kernelMapRingIntent: ring, kernelMapCounters: false,
	} {
		if anew := l.d.gen.ids[name] != before[name]; anew != want {
			t.Errorf("map %s made anew: %t, want %t", name, anew, want)
		}
	}
	if ids := attachments(t, l.d); !slices.Equal(ids, s.links) {
		t.Errorf("links %v were %v: detached and attached again", ids, s.links)
	}
	after, err := l.d.Attached()
	if err != nil {
		t.Fatal(err)
	}
	for i := range after {
		if d := after[i].ObservedSince.Sub(s.attached[i].ObservedSince); d.Abs() < 10*time.Millisecond {
			after[i].ObservedSince = s.attached[i].ObservedSince
		}
	}
	if diff := cmp.Diff(s.attached, after); diff != "" {
		t.Errorf("endpoints (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(s.tables, l.tables()); diff != "" {
		t.Errorf("tables (-before +after):\n%s", diff)
	}
	// Replies that only their flows allow, and what was denied.
	s.send(pass, p.reply("A"), "established")
	s.send(pass, q.reply(""), "reply")
	if n := l.counter("flows"); n != counted {
		t.Errorf("%d flows began, were %d: state was lost", n, counted)
	}
	for _, denied := range []packet{
		udp(db.in(s.family), web.in(s.family), 53, uint16(2000+s.sent)), tcp(web.in(s.family), db.in(s.family), uint16(2000+s.sent), 81, "S"),
		tcp(evil.in(s.family), web.in(s.family), uint16(2000+s.sent), 80, "S"),
	} {
		s.send(drop, denied, "denied")
		s.opened++
	}
	s.send(pass, tcp(web.in(s.family), world.in(s.family), uint16(3000+s.sent), 443, "S"), "by prefix")
	s.opened++
	replay, ok, err := l.r.Replay()
	if err != nil || !ok || l.r.RingID() != id || replay.Start != noted.Start || replay.End != noted.End {
		t.Fatalf("replay %+v (%t) of ring %x, error %v; noted %+v of ring %x", replay, ok, l.r.RingID(), err, noted, id)
	}
	if diff := cmp.Diff(owed, replay.Records, cmp.Comparer(sameTime), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("replayed records (-noted +replayed):\n%s", diff)
	}
	s.sum.add(replay.Records)
	if err := l.r.Commit(replay.End); err != nil {
		t.Fatal(err)
	}
	if flows || ring {
		if n := len(l.generations()); n != 2 {
			t.Errorf("generations %v before the old one is read", l.generations())
		}
	}
	s.sum.add(l.drainAll())
	if ring == (l.r.RingID() == id) {
		t.Errorf("ring %x, was %x", l.r.RingID(), id)
	}
	if list := l.generations(); len(list) != 1 || !strings.HasPrefix(list[0], dirMaps) {
		t.Errorf("generations %v are left", list)
	}
	// For the next upgrade to find a record that is not stored.
	s.send(pass, udp(web.in(s.family), db.in(s.family), uint16(4000+s.sent), 53), "new flow")
	s.opened++
}

func (s *upgradeState) end() {
	s.t.Helper()
	s.l.sweep(10 * time.Second)
	s.sum.add(s.l.drainAll())
	if s.sum.packets() != s.sent || s.sum.connections != s.opened {
		s.t.Errorf("records of %d packets and %d connections, want %d and %d", s.sum.packets(), s.sum.connections, s.sent, s.opened)
	}
	p, _ := s.flow()
	key, f := s.l.flowOf(p)
	if f.Direction != uint8(flow.Egress) || f.State != stateEstablished {
		s.t.Errorf("flow %+v: %+v", key, f)
	}
	q := s.l.quota(webID)
	if int(q.Flows) != s.l.flows() {
		s.t.Errorf("quota counts %d flows, the table holds %d", q.Flows, s.l.flows())
	}
}

func (l *lab) quota(id uint32) (q kernelRfQuota) {
	l.t.Helper()
	if err := l.d.maps.Quotas.Lookup(id, &q); err != nil {
		l.t.Fatal(err)
	}
	return q
}

// flowOf finds a flow by its ports.
func (l *lab) flowOf(p packet) (kernelRfFlowKey, kernelRfFlow) {
	l.t.Helper()
	for k, f := range l.table() {
		ports := []uint16{networkOrder(k.LocalPort), networkOrder(k.RemotePort)}
		if slices.Contains(ports, p.sport) && slices.Contains(ports, p.dport) && k.Protocol == uint64(p.proto) {
			return k, f
		}
	}
	l.t.Fatalf("no flow of %s", p)
	return kernelRfFlowKey{}, kernelRfFlow{}
}

// sameTime allows for two readings of the clock.
func sameTime(a, b time.Time) bool { return a.Sub(b).Abs() < 20*time.Millisecond }

// TestUpgradeFullRing upgrades with a ring that is full and flows that could not
// be reported: each of them gets one new record all the same.
func TestUpgradeFullRing(t *testing.T) {
	l := newLab(t, func(c *Config) { c.RingBytes = 4096 })
	const flows = 200
	for i := range uint16(flows) {
		l.want(pass, udp(web.v4, db.v4, 1000+i, 53), "before")
	}
	if l.counter("ring_full") == 0 {
		t.Fatal("the ring was never full")
	}
	l.upgrade(func(c *Config) { c.object = nextLayout })
	for i := range uint16(flows) {
		l.want(pass, udp(db.v4, web.v4, 53, 1000+i), "after")
	}
	l.upgrade(func(c *Config) { c.object = nil })
	if n := len(l.generations()); n != 3 {
		t.Errorf("generations %v while nothing is read", l.generations())
	}
	var sum total
	began := 0
	for range 3 {
		for _, r := range l.drainAll() {
			sum.add([]flow.Record{r})
			if r.Event == flow.EventNew {
				began++
			}
		}
		l.sweep(10 * time.Second)
	}
	if sum.packets() != 2*flows || sum.connections != flows || began != flows {
		t.Errorf("records of %d packets, %d connections and %d beginnings, want %d, %d and %d",
			sum.packets(), sum.connections, began, 2*flows, flows, flows)
	}
	if n := len(l.generations()); n != 1 {
		t.Errorf("generations %v are left", l.generations())
	}
}

// TestShrink checks that what does not fit is refused with the numbers, and
// what does is carried.
func TestShrink(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"addresses", func(c *Config) { c.Addresses = 9 }, "carry map addresses: it holds 10 entries and the new one has room for 9"},
		{"prefixes", func(c *Config) { c.CIDRs = 1 }, "carry map cidrs: it holds 2 entries and the new one has room for 1"},
		{"tables", func(c *Config) { c.PolicyTables = 2 }, "carry map tables: it holds 4 entries and the new one has room for 3"},
		{"policy entries", func(c *Config) { c.PolicyEntries = 2 }, "carry map rules: it holds 3 entries and the new one has room for 2"},
		{"flows", func(c *Config) { c.FlowEntries = 2 }, "the former tables hold 8, of which 6 found no room in the new ones of 2 each"},
		{"enough", func(c *Config) {
			c.Addresses, c.CIDRs, c.PolicyTables, c.PolicyEntries, c.FlowEntries, c.RingBytes = 10, 2, 3, 3, 8, 4096
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			prepareUpgrade(t, l)
			for i := range uint16(8) {
				l.want(pass, udp(web.v4, db.v4, 1000+i, 53), "before")
			}
			orphan, err := l.d.programs.RfFromEndpoint.Clone()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = orphan.Close() }()
			cfg, pins := l.d.cfg, l.pins()
			if err := errors.Join(l.r.Close(), l.d.Close()); err != nil {
				t.Fatal(err)
			}
			smaller := cfg
			c.change(&smaller)
			d, err := Open(smaller)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				cfg = smaller
				_ = d.Close()
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			} else if after := l.pins(); !slices.Equal(after, pins) {
				t.Errorf("pins %v, were %v", after, pins)
			}
			l.d = openAt(t, cfg)
			l.openReader()
			l.want(pass, udp(db.v4, web.v4, 53, 1001), "after")
			if n := l.flows(); n != 8 {
				t.Errorf("%d flows, want 8", n)
			}
		})
	}
}

// TestCarryWindow sends packets while links move: flows that begin, go on and
// begin again in the old table are as they would be without an upgrade.
func TestCarryWindow(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		prepareUpgrade(t, l)
		old := l.d.programs
		from, to := clone(t, old.RfFromEndpoint), clone(t, old.RfToEndpoint)
		sendOld := func(code uint32, p packet) {
			t.Helper()
			prog, ctx := to, skb{IngressIfindex: uint32(l.index)}
			if p.src == web.in(family) {
				prog, ctx = from, skb{}
			}
			if got := l.sendAs(prog, ctx, p.frame(t)); got != code {
				t.Errorf("old program: packet %s: %s, want %s", p, verdictName(got), verdictName(code))
			}
		}
		stray := udp(db.in(family), web.in(family), 53, 1007)
		half := tcp(web.in(family), db.in(family), 1000, 80, "")
		closing := tcp(web.in(family), db.in(family), 1001, 80, "")
		again := tcp(web.in(family), db.in(family), 1002, 80, "")
		late := udp(web.in(family), db.in(family), 1003, 53)
		closed := tcp(web.in(family), db.in(family), 1008, 80, "")
		l.want(pass, half.with("S"), "before")
		l.connect(closing)
		l.connect(again)
		l.want(pass, again.with("R"), "before")
		l.connect(closed)
		l.want(pass, closed.with("R"), "before")
		steps := 0
		l.upgrade(func(c *Config) {
			c.object = nextLayout
			c.step = func(d *Datapath, name string) {
				switch name {
				case "window open":
					// The old programs still run, on the table that was read.
					steps++
					sendOld(pass, half.reply("SA"))
					sendOld(pass, half.with("A"))
					sendOld(pass, closing.with("R"))
					again.seq = 77
					sendOld(pass, again.with("S"))
					sendOld(pass, late)
				case "links moved":
					steps++
					l.d = d
					l.want(pass, late.reply(""), "answer to a flow that only the old table has")
					// An answer to nothing, for all that can be known now.
					l.want(pass, stray, "possible answer")
					l.want(drop, udp(evil.in(family), web.in(family), 53, 1004), "never allowed")
					// The other hook may not have moved yet.
					l.want(pass, udp(web.in(family), db.in(family), 1005, 53), "new flow")
					time.Sleep(10 * time.Millisecond) // the flows' clock is coarse
					sendOld(pass, udp(db.in(family), web.in(family), 53, 1005))
				}
			}
		})
		if steps != 2 {
			t.Fatalf("%d steps", steps)
		}
		flows := l.nextTable()
		for _, c := range []struct {
			p         packet
			state     uint64
			direction flow.Direction
		}{
			{half, stateEstablished, flow.Egress}, {closing, stateClosing, flow.Egress}, {again, 1, flow.Egress}, {late, stateUDP, flow.Egress},
			{udp(web.in(family), db.in(family), 1005, 53), stateUDP, flow.Egress},
		} {
			f := flows[c.p.sport]
			if f["state"] != c.state || f["direction"] != uint64(c.direction) {
				t.Errorf("flow %s: %v, want state %d %s", c.p, f, c.state, c.direction)
			}
		}
		if isn := flows[1002]["isn"]; isn != 77 {
			t.Errorf("the flow that began again has sequence number %d", isn)
		}
		l.want(drop, udp(db.in(family), web.in(family), 53, 1006), "no answer, after the window")
		l.want(drop, stray, "no answer, after the window")
		var sum total
		ends := make(map[uint16]int)
		for range 3 {
			list := l.drainAll()
			sum.add(list)
			for _, r := range list {
				if r.Event == flow.EventEnd && r.Protocol == flow.TCP {
					ends[r.SourcePort]++
				}
			}
			l.sweep(25 * time.Second)
		}
		// What the old programs closed the old table's sweep told of; the SYN that
		// nobody answered ends too.
		if want := map[uint16]int{1001: 1, 1002: 2, 1008: 1}; !maps.Equal(ends, want) {
			t.Errorf("end records by port %v, want %v", ends, want)
		}
		if sum.packets() != 24 {
			t.Errorf("records of %d packets, want 24", sum.packets())
		}
	})
}

func clone(t *testing.T, p *ebpf.Program) *ebpf.Program {
	t.Helper()
	c, err := p.Clone()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// nextTable reads the flow table of any layout, by the higher of the ports.
func (l *lab) nextTable() map[uint16]map[string]uint64 {
	l.t.Helper()
	table := make(map[uint16]map[string]uint64)
	for name, c := range l.d.gen.schema.maps {
		if c.value != "rf_flow" {
			continue
		}
		keys, flows := l.d.gen.schema.structs[c.key], l.d.gen.schema.structs[c.value]
		err := eachEntry(l.d.gen.maps[name], func(k, v []byte) error {
			key, value := keys.numbers(k), flows.numbers(v)
			lo, hi := networkOrder(uint16(key["local_port"])), networkOrder(uint16(key["remote_port"]))
			table[max(lo, hi)] = value
			return nil
		})
		if err != nil {
			l.t.Fatal(err)
		}
	}
	return table
}

// numbers reads the members that are numbers.
func (c structure) numbers(b []byte) map[string]uint64 {
	out := make(map[string]uint64)
	for _, m := range c.members {
		if m.size > 8 || m.size != m.element {
			continue
		}
		for i := range m.size {
			out[m.name] |= uint64(b[m.offset+i]) << (8 * i)
		}
	}
	return out
}

// TestPanicDuringUpgrade sets panic, by the way that needs no agent, at every
// step of an upgrade: it holds.
func TestPanicDuringUpgrade(t *testing.T) { modes(t, panicDuringUpgradeBy) }

func panicDuringUpgradeBy(t *testing.T, mode AttachMode) {
	t.Helper()
	root := filepath.Join(bpffsRoot, fmt.Sprintf("root-%d", serial.Add(1)))
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(root) })
	l := newLab(t, func(c *Config) { c.PinDir = filepath.Join(root, "node") }, attachBy(mode))
	l.apply(live(flow.Egress, 1))
	next, on := false, false
	var names []string
	for at := 1; ; at++ {
		on, next = !on, !next
		step := 0
		l.upgrade(func(c *Config) {
			c.object = nil
			if next {
				c.object = nextLayout
			}
			c.step = func(_ *Datapath, name string) {
				if step++; step != at {
					return
				}
				names = append(names, name)
				if nodes, err := OpenPinnedPanic(root, on); err != nil || !slices.Equal(nodes, []string{"node"}) {
					t.Errorf("at %q: nodes %v, error %v", name, nodes, err)
				}
			}
		})
		l.d.cfg.step = func(*Datapath, string) {}
		l.drainAll()
		if at > len(names) {
			break
		}
		if l.d.Panicked() != on {
			t.Fatalf("set to %t at %q, and afterwards %t", on, names[at-1], !on)
		}
		code := drop
		if on {
			code = pass
		}
		l.want(code, tcp(web.v4, db.v4, uint16(at), 2, "S"), "after "+names[at-1])
	}
	if len(names) < 12 {
		t.Errorf("steps %v", names)
	}
}
