package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/wire"
)

// hostWire is a host interface under a prefilter, what is sent to it, and a count
// of what wire.Arrives behind the prefilter, by the source's last byte.
type hostWire struct {
	t       *testing.T
	ns      string
	cfg     PrefilterConfig
	socket  int
	arrived *ebpf.Map
}

// newHostWire makes eth0 a veth, whose driver runs XDP unless its peer has more
// queues than it can take from.
func newHostWire(t *testing.T, mode string) *hostWire {
	t.Helper()
	w := &hostWire{t: t, ns: newNetNS(t)}
	w.cfg = PrefilterConfig{PinDir: filepath.Join(bpffsRoot, fmt.Sprintf("node-%d", serial.Add(1))), NetNS: w.ns}
	inNetNS(t, w.ns, func() error {
		return errors.Join(sysctl("ipv6/conf/default/disable_ipv6", "1"), w.addInterfaces(mode), up("eth0"), up("out"), w.openSocket())
	})
	t.Cleanup(func() { _ = unix.Close(w.socket) })
	w.countArrivals()
	return w
}

func (w *hostWire) addInterfaces(mode string) error {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", NumRxQueues: 1, NumTxQueues: 1}, PeerName: "out", PeerNumTxQueues: 1}
	if mode == "generic" {
		veth.PeerNumTxQueues = 2
	}
	return netlink.LinkAdd(veth)
}

func (w *hostWire) openSocket() (err error) {
	l, err := netlink.LinkByName("out")
	if err != nil {
		return err
	}
	if w.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	return unix.Bind(w.socket, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index})
}

// countArrivals puts a program on eth0's ingress that counts IP frames without
// tags by the source's last byte.
func (w *hostWire) countArrivals() {
	w.t.Helper()
	var err error
	if w.arrived, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 256}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = w.arrived.Close() })
	count := func(at int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, at), asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8),
			asm.Mov.Imm(asm.R4, 1), asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, "out"), asm.Ja.Label("count"),
		}
	}
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R2, 0), asm.StoreMem(asm.RFP, -8, asm.R2, asm.DWord),
		asm.LoadMem(asm.R1, asm.R6, 16, asm.Word), // __sk_buff.protocol
		asm.JEq.Imm(asm.R1, 0x0008, "v4"),
		asm.JNE.Imm(asm.R1, 0xdd86, "out"),
	}
	code = append(code, count(etherLen+8+15)...)
	v4 := count(etherLen + 12 + 3)
	v4[0] = v4[0].WithSymbol("v4")
	code = append(code, v4...)
	code = append(code,
		asm.LoadMapPtr(asm.R1, w.arrived.FD()).WithSymbol("count"),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
		asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1), asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("out"), asm.Return())
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: code})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	inNetNS(w.t, w.ns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		made, err := link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			w.t.Cleanup(func() { _ = made.Close() })
		}
		return err
	})
}

func (w *hostWire) send(frame []byte) {
	w.t.Helper()
	if _, err := unix.Write(w.socket, frame); err != nil {
		w.t.Fatal(err)
	}
}

func (w *hostWire) arrivals(a netip.Addr) (n uint64) {
	w.t.Helper()
	b := a.AsSlice()
	if err := w.arrived.Lookup(uint32(b[len(b)-1]), &n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// await waits for the n-th arrival from a: frames of one sender stay in order,
// so everything sent before it was judged too.
func (w *hostWire) await(a netip.Addr, n uint64) {
	w.t.Helper()
	for deadline := time.Now().Add(wire.Arrives); w.arrivals(a) < n; time.Sleep(50 * time.Microsecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%d frames from %s arrived, want %d", w.arrivals(a), a, n)
		}
	}
}

func (w *hostWire) interfaces(p *Prefilter, names ...string) []PrefilterPort {
	w.t.Helper()
	ports, err := p.SetInterfaces(names)
	if err != nil {
		w.t.Fatal(err)
	}
	return ports
}

// TestPrefilterTraffic sends frames over a veth, to the driver's XDP and to the
// generic one.
func TestPrefilterTraffic(t *testing.T) {
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			families(t, func(t *testing.T, family int) {
				w := newHostWire(t, mode)
				p := openFilterAt(t, w.cfg)
				f := &filter{t, p}
				f.set([]DenyList{{"drop", true, prefixes("10.0.0.3/32", "fd00::3/128")}, {"watch", false, prefixes("10.0.0.2/32", "fd00::2/128")}},
					prefixes("10.0.0.254/32")...)
				ports := w.interfaces(p, "eth0")
				if len(ports) != 1 || ports[0].Mode != mode {
					t.Fatalf("ports %+v, want %s", ports, mode)
				}
				sent := map[string]uint64{}
				for range 20 {
					for name, a := range map[string]netip.Addr{"drop": evil.in(family), "watch": db.in(family), "": web.in(family)} {
						sent[name]++
						w.send(sourceFrame(t, a))
					}
					tagged := udp(evil.in(family), web.in(family), 1, 2)
					tagged.vlans = 1
					sent["drop"]++
					w.send(tagged.frame(t))
				}
				w.send(sourceFrame(t, web.in(family)))
				w.await(web.in(family), 21)
				if n := w.arrivals(evil.in(family)); n != 0 {
					t.Errorf("%d denied frames arrived", n)
				}
				w.await(db.in(family), 20)
				if c := f.count("drop"); c.Dropped.Packets != sent["drop"] || c.Audited.Packets != 0 {
					t.Errorf("counts %+v, want %d dropped", c, sent["drop"])
				}
				if c := f.count("watch"); c.Audited.Packets != sent["watch"] || c.Dropped.Packets != 0 {
					t.Errorf("counts %+v, want %d audited", c, sent["watch"])
				}

				w.interfaces(p)
				w.send(sourceFrame(t, evil.in(family)))
				w.await(evil.in(family), 1) // not filtered any more
			})
		})
	}
}

// TestPrefilterReload swaps the lists under traffic. A source in all of them
// never gets through, one in none is never dropped, and no frame is uncounted.
func TestPrefilterReload(t *testing.T) {
	t.Parallel() // nearly all of it is waiting for the kernel's grace periods
	for mode, swaps := range map[string]int{"native": 1000, "generic": 100} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newHostWire(t, mode)
			f := &filter{t, openFilterAt(t, w.cfg)}
			lists := func(i int) []DenyList {
				all := prefixes("10.0.0.3/32", "fd00::3/128")
				some := prefixes(fmt.Sprintf("198.51.%d.0/24", i&255), fmt.Sprintf("2001:db8:%x::/48", i))
				if i%2 == 0 {
					return []DenyList{{"one", true, append(some, all...)}, {"two", true, some}}
				}
				return []DenyList{{"two", true, all}, {"one", true, append(some, all...)}}
			}
			f.set(lists(0))
			w.interfaces(f.Prefilter, "eth0")
			done := make(chan error, 1)
			go func() {
				for i := range swaps {
					if _, err := f.SetLists(lists(i), nil); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
			denied := [][]byte{sourceFrame(t, evil.v4), sourceFrame(t, evil.v6)}
			allowed := [][]byte{sourceFrame(t, web.v4), sourceFrame(t, web.v6)}
			pace := time.NewTicker(time.Millisecond) // leaves a CPU to the swaps
			defer pace.Stop()
			var rounds uint64
			for running := true; running; rounds++ {
				for i := range denied {
					for range 16 {
						w.send(denied[i])
						w.send(allowed[i])
					}
				}
				w.await(web.v4, 32*(rounds+1)) // both addresses end in 1; none was lost
				select {
				case err := <-done:
					if err != nil {
						t.Fatal(err)
					}
					running = false
				case <-pace.C:
				}
			}
			if n := w.arrivals(evil.v4); n != 0 {
				t.Errorf("%d denied frames got through", n)
			}
			if n := f.count("one").Dropped.Packets + f.count("two").Dropped.Packets; n != 32*rounds {
				t.Errorf("%d frames dropped, want %d", n, 32*rounds)
			}
			t.Logf("%d swaps under %d frames: of %d denied ones %d arrived, of %d allowed ones %d",
				swaps, 64*rounds, 32*rounds, w.arrivals(evil.v4), 32*rounds, w.arrivals(web.v4))
		})
	}
}

// TestPrefilterRestart checks that an agent that died leaves its lists in force,
// and that the next one takes them over without a gap.
func TestPrefilterRestart(t *testing.T) {
	w := newHostWire(t, "native")
	p := openFilterAt(t, w.cfg)
	f := &filter{t, p}
	f.set([]DenyList{{"a", true, prefixes("10.0.0.3/32", "fd00::3/128")}})
	w.interfaces(p, "eth0")
	before := linkInfo(t, p.linkPath(uint32(w.interfaces(p, "eth0")[0].Index)))
	if _, err := OpenPrefilter(w.cfg); err == nil || !strings.Contains(err.Error(), "is held by another agent") {
		t.Errorf("a second agent: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	n := uint64(0)
	check := func(what string) {
		t.Helper()
		for _, frame := range [][]byte{sourceFrame(t, evil.v4), sourceFrame(t, evil.v6), sourceFrame(t, web.v4)} {
			w.send(frame)
		}
		n++
		w.await(web.v4, n)
		if got := w.arrivals(evil.v4); got != 0 {
			t.Errorf("%s: %d denied frames arrived", what, got)
		}
	}
	check("without an agent")

	f = &filter{t, openFilterAt(t, w.cfg)}
	check("adopted")
	if got := f.count("a").Dropped.Packets; got != 4 {
		t.Errorf("%d dropped, want 4 with those of the time without an agent", got)
	}
	// Another interface, before the files were read again.
	inNetNS(t, w.ns, func() error { return vethPair("eth1", "out1") })
	ports := w.interfaces(f.Prefilter, "eth0", "eth1")
	if len(ports) != 2 {
		t.Fatalf("ports %+v", ports)
	}
	if after := linkInfo(t, f.linkPath(uint32(ports[0].Index))); after != before {
		t.Errorf("link %d became %d: it was attached anew", before, after)
	}
	f.set([]DenyList{{"a", true, prefixes("10.0.0.3/32", "fd00::/16")}}, prefixes("fd00::1/128")...)
	check("reloaded")

	// The interface comes and goes.
	inNetNS(t, w.ns, func() error {
		l, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkDel(l), vethPair("eth1", "out1"))
	})
	if again := w.interfaces(f.Prefilter, "eth0", "eth1"); len(again) != 2 || again[1].Index == ports[1].Index {
		t.Errorf("ports %+v", again)
	}
	if pins, err := f.links(); err != nil || len(pins) != 2 {
		t.Errorf("links %v, %v", pins, err)
	}
	if ports, err := f.SetInterfaces([]string{"eth0", "eth7"}); len(ports) != 1 || err == nil || !strings.Contains(err.Error(), `"eth7": there is none`) {
		t.Errorf("ports %+v, %v", ports, err)
	}
	check("beside a missing interface")
	if err := f.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(f.dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
	w.send(sourceFrame(t, evil.v4))
	w.await(evil.v4, 1)
}

// TestPrefilterKilled kills the process that put the lists there, and sends on.
func TestPrefilterKilled(t *testing.T) {
	w := newHostWire(t, "native")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), prefilterHolder+"="+w.cfg.PinDir+" "+w.ns)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, 8)
	if _, err := out.Read(ready); err != nil || !strings.HasPrefix(string(ready), "holding") {
		t.Fatalf("holder said %q, %v", ready, err)
	}
	var wait sync.WaitGroup
	wait.Add(1)
	go func() {
		defer wait.Done()
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	const rounds = 2000
	for i := range uint64(rounds) {
		w.send(sourceFrame(t, evil.v4))
		w.send(sourceFrame(t, evil.v6))
		w.send(sourceFrame(t, web.v4))
		if i%32 == 31 {
			w.await(web.v4, i+1)
		}
	}
	wait.Wait()
	w.await(web.v4, rounds)
	if n := w.arrivals(evil.v4); n != 0 {
		t.Errorf("%d denied frames arrived", n)
	}
	f := &filter{t, openFilterAt(t, w.cfg)}
	if c := f.count("a"); c.Dropped.Packets != 2*rounds {
		t.Errorf("%d dropped, want %d", c.Dropped.Packets, 2*rounds)
	}
}

// prefilterHolder names, to a child of TestPrefilterKilled, what to hold.
const prefilterHolder = "RF_PREFILTER_HOLDER"

// holdPrefilter is the process that TestPrefilterKilled kills.
func holdPrefilter(order string) int {
	place, ns, _ := strings.Cut(order, " ")
	p, err := OpenPrefilter(PrefilterConfig{PinDir: place, NetNS: ns})
	if err == nil {
		_, err = p.SetLists([]DenyList{{"a", true, prefixes("10.0.0.3/32", "fd00::3/128")}}, nil)
	}
	if err == nil {
		_, err = p.SetInterfaces([]string{"eth0"})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("holding")
	time.Sleep(time.Minute)
	return 0
}

// TestPrefilterForeign checks that another's XDP program is left alone.
func TestPrefilterForeign(t *testing.T) {
	for _, mode := range []link.XDPAttachFlags{link.XDPDriverMode, link.XDPGenericMode} {
		w := newHostWire(t, "native")
		p := openFilterAt(t, w.cfg)
		f := &filter{t, p}
		f.set([]DenyList{{"a", true, prefixes("10.0.0.3/32")}})
		other, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(xdpPass)), asm.Return()},
		})
		if err != nil {
			t.Fatal(err)
		}
		var foreign link.Link
		inNetNS(t, w.ns, func() error {
			l, err := netlink.LinkByName("eth0")
			if err == nil {
				foreign, err = link.AttachXDP(link.XDPOptions{Program: other, Interface: l.Attrs().Index, Flags: mode})
			}
			return errors.Join(err, vethPair("eth1", "out1"))
		})
		ports, err := p.SetInterfaces([]string{"eth0", "eth1"})
		if err == nil || !strings.Contains(err.Error(), `interface "eth0": XDP program`) || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("beside another's program: %v", err)
		}
		if len(ports) != 1 || ports[0].Interface != "eth1" {
			t.Errorf("ports %+v, want eth1", ports)
		}
		info, err := foreign.Info()
		if err != nil || info.XDP().Ifindex == 0 {
			t.Errorf("the other's link: %+v, %v", info, err)
		}
		// Once it is gone, the next attempt succeeds.
		if err := errors.Join(foreign.Detach(), foreign.Close(), other.Close()); err != nil {
			t.Fatal(err)
		}
		if ports := w.interfaces(p, "eth0", "eth1"); len(ports) != 2 {
			t.Errorf("ports %+v", ports)
		}
	}
}

// TestPrefilterUnmount checks that the prefilter goes with its bpffs, as `down`
// has it.
func TestPrefilterUnmount(t *testing.T) {
	w := newHostWire(t, "native")
	root := filepath.Join(t.TempDir(), "bpf")
	if err := MountBPFFS(root); err != nil {
		t.Fatal(err)
	}
	w.cfg.PinDir = filepath.Join(root, "node-1")
	p, err := OpenPrefilter(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := &filter{t, p}
	f.set([]DenyList{{"a", true, prefixes("10.0.0.3/32")}})
	w.interfaces(p, "eth0")
	w.send(sourceFrame(t, evil.v4))
	w.send(sourceFrame(t, web.v4))
	w.await(web.v4, 1)
	if err := errors.Join(p.Close(), UnmountBPFFS(root)); err != nil {
		t.Fatal(err)
	}
	// The kernel frees a link some time later.
	for deadline := time.Now().Add(wire.Arrives); w.arrivals(evil.v4) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("still filtered")
		}
		w.send(sourceFrame(t, evil.v4))
	}
}

// TestPrefilterThenDatapath checks that the programs behind the prefilter see
// frames as they would without it. They did not behind generic XDP for a program
// that takes frames in pieces: every packet counted as not IP, and passed.
func TestPrefilterThenDatapath(t *testing.T) {
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			families(t, func(t *testing.T, family int) {
				w := newHostWire(t, mode)
				f := &filter{t, openFilterAt(t, w.cfg)}
				f.set([]DenyList{{"a", true, prefixes("198.51.100.0/24", "2001:db8::/32")}})
				if ports := w.interfaces(f.Prefilter, "eth0"); ports[0].Mode != mode {
					t.Fatalf("ports %+v", ports)
				}
				cfg := labConfig()
				cfg.NetNS = w.ns
				l := &lab{t: t, d: openAt(t, cfg), ns: w.ns}
				l.attach(Endpoint{Interface: "eth0", ID: webID, Identity: webIdent, Host: true})
				if _, err := l.d.SetAddresses(everyone()); err != nil {
					t.Fatal(err)
				}
				l.apply(live(flow.Ingress, 1, allow(dbIdent, flow.TCP, 80)))
				for i := range uint16(10) {
					w.send(tcp(evil.in(family), web.in(family), 1000+i, 80, "S").frame(t))
					w.send(tcp(db.in(family), web.in(family), 1000+i, 80, "S").frame(t))
				}
				w.await(db.in(family), 10)
				if n := w.arrivals(evil.in(family)); n != 0 {
					t.Errorf("%d frames that policy denies arrived", n)
				}
				if n, other := l.counter("dropped"), l.counter("non_ip"); n != 10 || other != 0 {
					t.Errorf("%d dropped and %d not IP, want 10 and none", n, other)
				}
			})
		})
	}
}

// TestPrefilterBesideDatapath checks that the two share a node's directory, over
// a restart, and obey one panic.
func TestPrefilterBesideDatapath(t *testing.T) {
	cfg := labConfig()
	d := openAt(t, cfg)
	f := openFilter(t, func(c *PrefilterConfig) { c.PinDir, c.Panicked = cfg.PinDir, d.Panicked })
	f.set([]DenyList{{"a", true, prefixes("10.0.0.3/32")}})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := Open(cfg)
	if err != nil {
		t.Fatalf("beside a prefilter: %v", err)
	}
	for _, on := range []bool{true, false} {
		nodes, err := OpenPinnedPanic(bpffsRoot, on)
		if err != nil || len(nodes) != 1 || nodes[0] != filepath.Base(cfg.PinDir) {
			t.Errorf("panic reached %q, %v", nodes, err)
		}
		want := xdpDrop
		if on {
			want = xdpPass
		}
		if code := f.run(sourceFrame(t, evil.v4)); code != want || d.Panicked() != on {
			t.Errorf("panic %v: action %d, and of the datapath %v", on, code, d.Panicked())
		}
	}
	if err := errors.Join(f.Remove(), d.Remove()); err != nil {
		t.Error(err)
	}
}
