package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/test/wire"
)

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
	if !o.sees(s.t, seen, wire.Arrives) {
		s.t.Error("the other program went with ringfence")
	}
	inNetNS(s.t, s.ns, func() error { return where.detach(o, p) })
	if err := s.d.Attach(Endpoint{Interface: s.db.veth, ID: dbID, Identity: dbIdent}); err != nil {
		s.t.Fatal(err)
	}
}

// send sends one datagram and awaits nothing.
func send(from host, to netip.Addr) error {
	c, err := dial(from.ns, "udp", to, wire.Arrives)
	if err != nil {
		return err
	}
	_, err = c.Write([]byte("hello"))
	return errors.Join(err, c.Close())
}

// quiet is how long to look for what should not be seen: frames pass both hooks
// before they have been sent, but for what the kernel puts off.
const quiet = 20 * time.Millisecond

// sees waits for the count to go up.
func (o *stranger) sees(t *testing.T, since uint64, limit time.Duration) bool {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(time.Millisecond) {
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
		if !o.sees(s.t, seen, wire.Arrives) {
			s.t.Errorf("%s, IPv%d: the other program did not see what ringfence passed", what, family)
		}
		// Dropped before it got here, or by ringfence.
		mine := !before || passes
		var dropped uint64
		if !s.d.closed {
			_, dropped = s.counts(s.d)
		}
		seen = o.seen(s.t)
		if err := send(s.evil, s.db.in(family)); err != nil {
			s.t.Fatal(err)
		}
		if mine && !s.d.closed {
			await(s.t, "ringfence's drop", func() bool { _, n := s.counts(s.d); return n > dropped })
		}
		limit := quiet
		if before {
			limit = wire.Arrives
		}
		if o.sees(s.t, seen, limit) != before {
			s.t.Errorf("%s, IPv%d: the other program saw what ringfence dropped: want %t", what, family, before)
		}
		if s.d.closed {
			continue
		}
		if _, after := s.counts(s.d); (after-dropped == 1) != mine {
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
