package bpf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

func without() func(*ebpf.Program) error {
	return func(*ebpf.Program) error { return fmt.Errorf("tcx: %w", ebpf.ErrNotSupported) }
}

// TestAttachMode checks which way is taken, on kernels with and without TCX.
func TestAttachMode(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   AttachMode
		err    string
	}{
		{"auto", func(*Config) {}, AttachTCX, ""},
		{"tcx", attachBy(AttachTCX), AttachTCX, ""},
		{"clsact", attachBy(AttachClsact), AttachClsact, ""},
		{"auto without TCX", func(c *Config) { c.probeTCX = without() }, AttachClsact, ""},
		{"clsact without TCX", func(c *Config) { c.Attach, c.probeTCX = AttachClsact, without() }, AttachClsact, ""},
		{"tcx without TCX", func(c *Config) { c.Attach, c.probeTCX = AttachTCX, without() }, "", "attach mode tcx: this kernel has no TCX, which came with Linux 6.6: choose auto or clsact"},
		{"probe fails", func(c *Config) { c.probeTCX = func(*ebpf.Program) error { return unix.EPERM } }, "", "look for TCX: operation not permitted: run as root"},
		{"nonsense", attachBy("xdp"), "", `attach mode "xdp": want auto, tcx or clsact`},
		{"long pin directory", func(c *Config) { c.PinDir += strings.Repeat("/"+strings.Repeat("x", 49), 5) }, "", "want at most 238"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := labConfig()
			c.change(&cfg)
			if c.err != "" {
				d, err := Open(cfg)
				if err == nil {
					_ = d.Remove()
				}
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want one with %q", err, c.err)
				}
				if _, err := os.Stat(cfg.PinDir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("pin directory: %v", err)
				}
				return
			}
			l := newLab(t, func(to *Config) { pins := to.PinDir; *to = cfg; to.PinDir = pins })
			if got := inMode(t, l.d, AttachTCX); (got == 2) != (c.want == AttachTCX) {
				t.Errorf("%d links", got)
			}
			if got := inMode(t, l.d, AttachClsact); (got == 2) != (c.want == AttachClsact) {
				t.Errorf("%d filters", got)
			}
		})
	}
}

// inMode counts the hooks that are attached by one way.
func inMode(t testing.TB, d *Datapath, mode AttachMode) (n int) {
	t.Helper()
	a := attacher(d.tcx)
	if mode == AttachClsact {
		a = d.clsact
	}
	list, err := a.places()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if a.attached(p) {
			n++
		}
	}
	return n
}

// onlyWeb lets web alone reach db, by UDP and TCP.
func onlyWeb() Table {
	return Table{
		TableKey: TableKey{dbIdent, flow.SlotLive, flow.Ingress}, Revision: 1,
		Entries: []Entry{allow(webIdent, flow.TCP, serverPort), allow(webIdent, flow.UDP, serverPort)},
	}
}

// counts are what the site's programs counted so far; both of an allowed
// packet's hooks count it.
func (s *site) counts(d *Datapath) (forwarded, dropped uint64) {
	s.t.Helper()
	c, err := d.Counters()
	if err != nil {
		s.t.Fatal(err)
	}
	return c["forwarded"], c["dropped"]
}

// knock sends one SYN. Unlike a datagram it can't be taken for an answer, so it
// is denied also while an upgrade is under way.
func knock(ns string, to netip.Addr) error {
	return netNS(ns).do(func() error {
		family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.As16(), Port: serverPort})
		if to.Is4() {
			family, address = unix.AF_INET, &unix.SockaddrInet4{Addr: to.As4(), Port: serverPort}
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		if err = unix.Connect(fd, address); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
		return errors.Join(err, unix.Close(fd))
	})
}

// exactly sends requests that are allowed and some that are not, and checks that
// each packet was judged and counted once.
func (s *site) exactly(d *Datapath, what string) {
	s.t.Helper()
	forwarded, dropped := s.counts(d)
	for _, family := range []int{4, 6} {
		if err := request(s.web.ns, "udp", s.db.in(family)); err != nil {
			s.t.Errorf("%s: allowed: %v", what, err)
		}
		if err := knock(s.evil.ns, s.db.in(family)); err != nil {
			s.t.Errorf("%s: %v", what, err)
		}
	}
	// Request and answer pass two hooks each; what is denied passes evil's.
	f, n := s.counts(d)
	for end := time.Now().Add(time.Second); f-forwarded+n-dropped < 12 && time.Now().Before(end); f, n = s.counts(d) {
		time.Sleep(time.Millisecond)
	}
	if f-forwarded != 2*4+2 || n-dropped != 2 {
		s.t.Errorf("%s: %d forwarded and %d dropped, want 10 and 2", what, f-forwarded, n-dropped)
	}
}

// warm has the neighbours known.
func (s *site) warm() {
	s.t.Helper()
	for _, family := range []int{4, 6} {
		s.reaches(true, s.web, "udp", s.db.in(family))
		s.reaches(true, s.evil, "udp", s.db.in(family))
	}
}

// TestHandOver goes from one way of attaching to the other and back, also to
// another layout at the same time, with traffic at every step.
func TestHandOver(t *testing.T) {
	s := newSite(t, attachBy(AttachTCX), func(c *Config) { c.FlowEntries = 8192 })
	s.warm()
	s.apply(onlyWeb())
	s.exactly(s.d, "before")
	for _, to := range []struct {
		mode AttachMode
		next bool
	}{{AttachClsact, false}, {AttachTCX, false}, {AttachClsact, true}, {AttachTCX, true}, {AttachClsact, true}, {AttachTCX, false}} {
		cfg := s.d.cfg
		if err := s.d.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.Attach, cfg.object = to.mode, nil
		if to.next {
			cfg.object = nextLayout
		}
		twice := 0
		cfg.step = func(d *Datapath, name string) {
			if d.attacher == nil {
				return // no programs of this process yet
			}
			if name == "attached twice" {
				twice++
			}
			s.exactly(d, fmt.Sprintf("to %s at %q", to.mode, name))
		}
		s.d = openAt(t, cfg)
		s.d.cfg.step = func(*Datapath, string) {}
		s.exactly(s.d, "in "+string(to.mode))
		if n := len(attachments(t, s.d)); n != 6 || inMode(t, s.d, to.mode) != 6 || twice != 6 || s.d.settings.value.Handover != 0 {
			t.Errorf("in %s: %d attachments, %d hooks handed over, stamp %x", to.mode, n, twice, s.d.settings.value.Handover)
		}
	}
}

// TestKilledHandOver kills the agent at every step of a change of attaching. In
// between, and with the next one, whichever way it attaches, each packet is
// judged and counted once.
func TestKilledHandOver(t *testing.T) {
	s := newSite(t, attachBy(AttachTCX), func(c *Config) { c.FlowEntries = 8192 })
	s.warm()
	s.apply(onlyWeb())
	modes := []AttachMode{AttachTCX, AttachClsact}
	mode, steps, twice := 0, 0, 0
	for done := false; !done; steps++ {
		cfg := s.d.cfg
		if err := s.d.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.Attach = modes[1-mode]
		done = !killed(t, killOrder{Config: cfg, Step: steps + 1})
		orphan := s.orphan(cfg)
		if len(attachments(t, orphan)) > 6 {
			twice++
		}
		s.exactly(orphan, fmt.Sprintf("killed at step %d", steps+1))
		_ = orphan.gen.close()
		if steps%2 == 0 { // go on, or go back
			mode = 1 - mode
		}
		cfg.Attach = modes[mode]
		s.d = openAt(t, cfg)
		s.exactly(s.d, fmt.Sprintf("after step %d", steps+1))
		if n := len(attachments(t, s.d)); n != 6 || inMode(t, s.d, modes[mode]) != 6 {
			t.Fatalf("after step %d: %d attachments", steps+1, n)
		}
	}
	if twice < 6 {
		t.Errorf("killed with both attached %d times only", twice)
	}
	t.Logf("killed at %d steps, %d times with both attached", steps-1, twice)
}

// orphan looks at what an agent that is gone left behind.
func (s *site) orphan(cfg Config) *Datapath {
	s.t.Helper()
	d := &Datapath{cfg: cfg.WithDefaults(), netns: netNS(cfg.NetNS)}
	d.tcx, d.clsact = &tcx{dir: d.linkDir(), netns: d.netns}, &clsact{pinDir: cfg.PinDir, netns: d.netns}
	dirs, err := filepath.Glob(filepath.Join(cfg.PinDir, dirMaps+"*"))
	if err != nil || len(dirs) != 1 {
		s.t.Fatalf("generations %v, error %v", dirs, err)
	}
	d.gen = &generation{dir: dirs[0]}
	if err := d.gen.open(); err != nil {
		s.t.Fatal(err)
	}
	d.maps.Counters = d.gen.maps[kernelMapCounters]
	return d
}

// TestReplaceInPlace listens to the kernel while the agent restarts and upgrades:
// no filter is removed, not even for a moment.
func TestReplaceInPlace(t *testing.T) {
	l := newLab(t, attachBy(AttachClsact), func(c *Config) { c.NetNS = newNetNS(t); addVeth(t, c.NetNS, "web", "web-peer") })
	var events *nl.NetlinkSocket
	inNetNS(t, l.ns, func() (err error) {
		events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_TC)
		return err
	})
	defer events.Close()
	if err := events.SetReceiveTimeout(&unix.Timeval{Usec: 100_000}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.upgrade(func(*Config) {})
		l.upgrade(func(c *Config) { c.object = nextLayout })
		l.upgrade(func(c *Config) { c.object = nil })
	}
	replaced := 0
	for {
		messages, _, err := events.Receive()
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.RTM_NEWTFILTER:
				replaced++
			case unix.RTM_DELTFILTER, unix.RTM_DELQDISC:
				t.Errorf("message %d: something was removed", m.Header.Type)
			}
		}
	}
	if replaced != 18 {
		t.Errorf("%d filters replaced, want 2 in each of 9 starts", replaced)
	}
}

// stranger is a program of others: it counts the requests of this file's tests,
// which it knows by their length, and answers them with a code of its own.
type stranger struct {
	prog  *ebpf.Program
	count *ebpf.Map
	link  link.Link
}

func newStranger(t *testing.T, code int32) *stranger {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMem(asm.R1, asm.R1, 0, asm.Word), // the length
		asm.Mov.Imm(asm.R0, -1),
		asm.JEq.Imm(asm.R1, etherLen+20+8+5, "ours"),
		asm.JNE.Imm(asm.R1, etherLen+40+8+5, "out"),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word).WithSymbol("ours"),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, code),
		asm.Return().WithSymbol("out"),
	}})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	o := &stranger{prog: prog, count: m}
	t.Cleanup(func() {
		if o.link != nil {
			_ = o.link.Close()
		}
		_ = errors.Join(prog.Close(), m.Close())
	})
	return o
}

func (o *stranger) seen(t *testing.T) (n uint64) {
	t.Helper()
	if err := o.count.Lookup(uint32(0), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// spot is where a stranger attaches itself.
type spot struct {
	name   string
	attach func(o *stranger, p place) error
	mode   AttachMode
	head   bool // it asks to be first
}

func (w spot) detach(o *stranger, p place) error {
	if o.link != nil {
		return o.link.Close()
	}
	list, err := filters(p)
	for _, f := range list {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Name == "stranger" {
			err = errors.Join(err, netlink.FilterDel(f))
		}
	}
	return err
}

var strangers = []spot{
	{"tcx head", func(o *stranger, p place) (err error) {
		o.link, err = link.AttachTCX(link.TCXOptions{Interface: int(p.index), Program: o.prog, Attach: p.hook.attach, Anchor: link.Head()})
		return err
	}, AttachTCX, true},
	{"tcx tail", func(o *stranger, p place) (err error) {
		o.link, err = link.AttachTCX(link.TCXOptions{Interface: int(p.index), Program: o.prog, Attach: p.hook.attach, Anchor: link.Tail()})
		return err
	}, AttachTCX, false},
	{"clsact priority 1", func(o *stranger, p place) error { return o.filter(p, 1) }, AttachClsact, true},
	{"clsact priority 50", func(o *stranger, p place) error { return o.filter(p, 50) }, AttachClsact, false},
}

func (o *stranger) filter(p place, priority uint16) error {
	err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: int(p.index), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: int(p.index), Parent: p.hook.parent, Priority: priority, Protocol: unix.ETH_P_ALL},
		Fd:          o.prog.FD(), Name: "stranger", DirectAction: true,
	})
}

// TestCoexistence runs beside programs of others, that were there before or came
// later, and run before or after: what either drops is dropped, and they stay
// when ringfence is updated and removed.
func TestCoexistence(t *testing.T) {
	modes(t, func(t *testing.T, mode AttachMode) {
		s := newSite(t, attachBy(mode))
		s.warm()
		s.apply(onlyWeb())
		// What goes to db passes the egress hook of its interface.
		p := place{uint32(s.index(s.db.veth)), hooks[1]}
		for _, where := range strangers {
			for _, later := range []bool{false, true} {
				for _, code := range []int32{-1, 2} {
					t.Run(fmt.Sprintf("%s, later %t, returns %d", where.name, later, code), func(t *testing.T) {
						root := s.t
						s.t = t
						defer func() { s.t = root }()
						s.besideAt(func(c Config) *Datapath { return openAt(root, c) }, p, mode, where, later, code)
					})
				}
			}
		}
		o := newStranger(t, -1)
		inNetNS(t, s.ns, func() error { return strangers[3].attach(o, p) })
		if err := s.d.Remove(); err != nil {
			t.Fatal(err)
		}
		s.reaches(true, s.evil, "udp", s.db.v4)
		if o.seen(t) == 0 {
			t.Error("the other program went with ringfence")
		}
	})
}

func (s *site) besideAt(open func(Config) *Datapath, p place, mode AttachMode, where spot, later bool, code int32) {
	s.t.Helper()
	o := newStranger(s.t, code)
	if !later {
		if err := s.d.Detach(int(p.index)); err != nil {
			s.t.Fatal(err)
		}
	}
	inNetNS(s.t, s.ns, func() error { return where.attach(o, p) })
	if !later {
		if err := s.d.Attach(Endpoint{Interface: s.db.veth, ID: dbID, Identity: dbIdent}); err != nil {
			s.t.Fatal(err)
		}
	}
	before := (mode == AttachClsact && where.mode == AttachTCX) || (mode == where.mode && where.head && later)
	s.beside(o, code == -1, before, "with an agent")
	cfg := s.d.cfg
	if err := s.d.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.beside(o, code == -1, before, "without an agent")
	s.d = open(cfg)
	s.beside(o, code == -1, before, "after a restart")
	if n, err := s.d.Preceded(); err != nil || (n == 1) != before || n > 1 {
		s.t.Errorf("%d hooks preceded, error %v; want one: %t", n, err, before)
	}
	if err := s.d.Detach(int(p.index)); err != nil {
		s.t.Fatal(err)
	}
	seen := o.seen(s.t)
	if err := send(s.evil, s.db.v4); err != nil {
		s.t.Fatal(err)
	}
	if !o.sees(s.t, seen) {
		s.t.Error("the other program went with ringfence")
	}
	inNetNS(s.t, s.ns, func() error { return where.detach(o, p) })
	if err := s.d.Attach(Endpoint{Interface: s.db.veth, ID: dbID, Identity: dbIdent}); err != nil {
		s.t.Fatal(err)
	}
}

// send sends one datagram and awaits nothing.
func send(from host, to netip.Addr) error {
	c, err := dial(from.ns, "udp", to)
	if err != nil {
		return err
	}
	_, err = c.Write([]byte("hello"))
	return errors.Join(err, c.Close())
}

// sees waits a moment for the count to go up.
func (o *stranger) sees(t *testing.T, since uint64) bool {
	t.Helper()
	for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if o.seen(t) != since {
			return true
		}
	}
	return false
}

func (s *site) index(name string) (index int) {
	s.t.Helper()
	inNetNS(s.t, s.ns, func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			index = l.Attrs().Index
		}
		return err
	})
	return index
}

// beside checks that ringfence and the other program both decide.
func (s *site) beside(o *stranger, passes, before bool, what string) {
	s.t.Helper()
	for _, family := range []int{4, 6} {
		seen := o.seen(s.t)
		if passes {
			s.reaches(true, s.web, "udp", s.db.in(family))
		} else if err := send(s.web, s.db.in(family)); err != nil {
			s.t.Fatal(err)
		}
		if !o.sees(s.t, seen) {
			s.t.Errorf("%s, IPv%d: the other program did not see what ringfence passed", what, family)
		}
		var dropped, after uint64
		if !s.d.closed {
			_, dropped = s.counts(s.d)
		}
		seen = o.seen(s.t)
		if err := send(s.evil, s.db.in(family)); err != nil {
			s.t.Fatal(err)
		}
		if o.sees(s.t, seen) != before {
			s.t.Errorf("%s, IPv%d: the other program saw what ringfence dropped: want %t", what, family, before)
		}
		// Dropped before it got here, or by ringfence.
		if s.d.closed {
			continue
		}
		if _, after = s.counts(s.d); (after-dropped == 1) == (before && !passes) {
			s.t.Errorf("%s, IPv%d: ringfence dropped %d", what, family, after-dropped)
		}
	}
}

// TestPreceded checks that a program which lets packets past ours is noticed.
func TestPreceded(t *testing.T) {
	s := newSite(t)
	s.warm()
	s.apply(onlyWeb())
	s.reaches(false, s.evil, "udp", s.db.v4)
	o := newStranger(t, 0)
	inNetNS(t, s.ns, func() error {
		return strangers[0].attach(o, place{uint32(s.index(s.db.veth)), hooks[1]})
	})
	s.reaches(true, s.evil, "udp", s.db.v4)
	if n, err := s.d.Preceded(); n != 1 || err != nil {
		t.Errorf("%d hooks preceded, error %v", n, err)
	}
	if err := o.link.Close(); err != nil {
		t.Fatal(err)
	}
	o.link = nil
	s.reaches(false, s.evil, "udp", s.db.v4)
	if n, err := s.d.Preceded(); n != 0 || err != nil {
		t.Errorf("%d hooks preceded, error %v", n, err)
	}
}

// qdiscs lists an interface's.
func qdiscs(t *testing.T, ns, name string) (list []string) {
	t.Helper()
	inNetNS(t, ns, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		all, err := netlink.QdiscList(l)
		for _, q := range all {
			if q.Type() == "clsact" || q.Type() == "ingress" {
				list = append(list, q.Type())
			}
		}
		return err
	})
	return list
}

// TestQdisc checks whose qdisc is removed, and what stands in the way of ours.
func TestQdisc(t *testing.T) {
	attrs := func(p place) netlink.QdiscAttrs {
		return netlink.QdiscAttrs{LinkIndex: int(p.index), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	}
	for _, c := range []struct {
		name   string
		before func(t *testing.T, p place) error
		later  func(t *testing.T, p place) error
		err    string
		left   []string
	}{
		{name: "made for us"},
		{name: "there before", before: func(_ *testing.T, p place) error { return netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: attrs(p)}) }, left: []string{"clsact"}},
		{name: "used by others later", later: func(t *testing.T, p place) error { return newStranger(t, -1).filter(p, 7) }, left: []string{"clsact"}},
		{name: "of another kind", before: func(_ *testing.T, p place) error { return netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: attrs(p)}) },
			err: "ingress qdisc stands in the place of a clsact one", left: []string{"ingress"}},
		{name: "first priority taken", before: func(_ *testing.T, p place) error {
			return errors.Join(netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: attrs(p)}), netlink.FilterAdd(&netlink.U32{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: int(p.index), Parent: p.hook.parent, Priority: 1, Protocol: unix.ETH_P_ALL},
				ClassId:     1,
			}))
		}, err: "a u32 filter has priority 1 and could let packets past: give it a higher number", left: []string{"clsact"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := labConfig()
			cfg.NetNS, cfg.Attach = newNetNS(t), AttachClsact
			addVeth(t, cfg.NetNS, "web", "web-peer")
			var p place
			inNetNS(t, cfg.NetNS, func() error {
				l, err := netlink.LinkByName("web")
				if err == nil {
					p = place{uint32(l.Attrs().Index), hooks[0]}
				}
				if err == nil && c.before != nil {
					err = c.before(t, p)
				}
				return err
			})
			d := openAt(t, cfg)
			err := d.Attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent})
			if (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if c.later != nil {
				inNetNS(t, cfg.NetNS, func() error { return c.later(t, p) })
			}
			if err := d.Remove(); err != nil {
				t.Fatal(err)
			}
			if got := qdiscs(t, cfg.NetNS, "web"); !slices.Equal(got, c.left) {
				t.Errorf("qdiscs %v are left, want %v", got, c.left)
			}
			if n := inMode(t, d, AttachClsact); n != 0 {
				t.Errorf("%d filters are left", n)
			}
		})
	}
}

// TestLeftovers checks what happens to filters whose pins went, and to pins and
// filters whose namespace did.
func TestLeftovers(t *testing.T) {
	gone := func(t *testing.T, l *lab) {
		t.Helper()
		if err := errors.Join(l.r.Close(), l.d.Close(), os.RemoveAll(l.d.cfg.PinDir)); err != nil {
			t.Fatal(err)
		}
		if n := inMode(t, l.d, AttachClsact); n != 2 {
			t.Fatalf("%d filters", n)
		}
	}
	t.Run("found by the next start", func(t *testing.T) {
		l := newLab(t, attachBy(AttachClsact))
		other := newLab(t, attachBy(AttachClsact))
		gone(t, l)
		l.d = openAt(t, l.d.cfg)
		if n := inMode(t, l.d, AttachClsact); n != 0 {
			t.Errorf("%d filters of before are left", n)
		}
		l.attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent})
		if n := inMode(t, l.d, AttachClsact); n != 2 {
			t.Errorf("%d filters", n)
		}
		if n := inMode(t, other.d, AttachClsact); n != 2 {
			t.Errorf("%d filters of another node on the same interface, want 2", n)
		}
	})
	t.Run("removed without pins", func(t *testing.T) {
		l := newLab(t, attachBy(AttachClsact))
		gone(t, l)
		for range 2 {
			if err := RemoveFilters(l.d.cfg.PinDir, l.ns); err != nil {
				t.Fatal(err)
			}
		}
		if n := inMode(t, l.d, AttachClsact); n != 0 {
			t.Errorf("%d filters are left", n)
		}
	})
	t.Run("namespace is gone", func(t *testing.T) {
		modes(t, func(t *testing.T, mode AttachMode) {
			name := fmt.Sprintf("rf-bpf-%d-%d", os.Getpid(), serial.Add(1))
			if err := makeNetNS(name); err != nil {
				t.Fatal(err)
			}
			addVeth(t, name, "web", "web-peer")
			l := newLab(t, attachBy(mode), func(c *Config) { c.NetNS = name })
			if err := netns.DeleteNamed(name); err != nil {
				t.Fatal(err)
			}
			// Links end when the kernel gets to it.
			for end := time.Now().Add(5 * time.Second); l.d.alive(uint32(l.index)) && time.Now().Before(end); time.Sleep(time.Millisecond) {
			}
			if l.d.alive(uint32(l.index)) {
				t.Error("alive in a namespace that is gone")
			}
			if err := errors.Join(l.d.Detach(l.index), RemoveFilters(l.d.cfg.PinDir, name), l.r.Close(), l.d.Remove()); err != nil {
				t.Error(err)
			}
		})
	})
}

// TestCheckFeatures checks that what the kernel lacks is named.
func TestCheckFeatures(t *testing.T) {
	if err := CheckHost(); err != nil {
		t.Error(err)
	}
	lacks := func() error { return fmt.Errorf("probe: %w", ebpf.ErrNotSupported) }
	list := []feature{{"wheels", "7.1", lacks}, {"ring buffers", "5.8", func() error { return nil }}, {"wings", "7.2", lacks}}
	err := checkFeatures("5.15.0", list)
	if err == nil || err.Error() != "kernel 5.15.0 lacks wheels (Linux 7.1), wings (Linux 7.2): use one that has them" {
		t.Errorf("error %v", err)
	}
	list[1].probe = func() error { return unix.EPERM }
	if err := checkFeatures("5.15.0", list); err == nil || !strings.Contains(err.Error(), "ask the kernel for ring buffers: operation not permitted: run as root") {
		t.Errorf("error %v", err)
	}
}

// TestHandOverUnderLoad sends all the while that hooks go to and fro: no packet
// is lost, none counted twice.
func TestHandOverUnderLoad(t *testing.T) {
	s := newSite(t, attachBy(AttachTCX))
	s.warm()
	s.apply(onlyWeb())
	var sink net.PacketConn
	inNetNS(t, s.db.ns, func() (err error) {
		sink, err = net.ListenPacket("udp4", fmt.Sprintf("%s:%d", s.db.v4, serverPort+1))
		return err
	})
	defer func() { _ = sink.Close() }()
	var c net.Conn
	inNetNS(t, s.web.ns, func() (err error) {
		c, err = net.Dial("udp4", sink.LocalAddr().String())
		return err
	})
	defer func() { _ = c.Close() }()
	sinkOpen := onlyWeb()
	sinkOpen.Entries = append(sinkOpen.Entries, allow(webIdent, flow.UDP, serverPort+1))
	s.apply(sinkOpen)
	before, dropped := s.counts(s.d)
	ctx, stop := context.WithCancel(t.Context())
	var sender sync.WaitGroup
	sent := uint64(0)
	sender.Go(func() {
		for ; ctx.Err() == nil; sent++ {
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Errorf("packet %d: %v", sent, err)
				return
			}
			if sent%64 == 0 {
				time.Sleep(time.Millisecond) // the agent needs a CPU too
			}
		}
	})
	const times = 20
	for i := range times {
		cfg := s.d.cfg
		if err := s.d.Close(); err != nil {
			t.Error(err)
		}
		cfg.Attach = []AttachMode{AttachClsact, AttachTCX}[i%2]
		s.d = openAt(t, cfg)
	}
	stop()
	sender.Wait()
	f, n := s.counts(s.d)
	for end := time.Now().Add(time.Second); f-before < 2*sent && time.Now().Before(end); f, n = s.counts(s.d) {
		time.Sleep(time.Millisecond)
	}
	if f-before != 2*sent || n != dropped {
		t.Errorf("%d packets sent: %d counted at two hooks, %d dropped", sent, f-before, n-dropped)
	}
	t.Logf("%d packets, %d changes", sent, times)
}
