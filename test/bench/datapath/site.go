package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/bpf/drive"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/bench/frame"
	"github.com/ringfence/ringfence/test/wire"
)

// site is what the measurements share: a bpffs and names for namespaces. All
// of it goes with close.
type site struct {
	bpffs   string
	serial  atomic.Int32
	undo    []func() error
	cpu     int // measured on; the rest of the work is done on another one
	quick   bool
	softirq int // process number, once known
}

func newSite(quick bool) (*site, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("read usable CPUs: %w", err)
	}
	s := &site{quick: quick}
	for i := range 8 * len(set) * 8 {
		if set.IsSet(i) {
			s.cpu = i
		}
	}
	dir, err := os.MkdirTemp("", "rf-bench-")
	if err != nil {
		return nil, err
	}
	s.later(func() error { return os.RemoveAll(dir) })
	s.bpffs = filepath.Join(dir, "bpf")
	if err := bpf.MountBPFFS(s.bpffs); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.later(func() error { return bpf.UnmountBPFFS(s.bpffs) })
	return s, nil
}

func (s *site) later(f func() error) { s.undo = append(s.undo, f) }

// close undoes what was set up since the site held n undos.
func (s *site) closeTo(n int) error {
	var errs []error
	for len(s.undo) > n {
		last := s.undo[len(s.undo)-1]
		s.undo = s.undo[:len(s.undo)-1]
		errs = append(errs, last())
	}
	return errors.Join(errs...)
}

func (s *site) close() error { return s.closeTo(0) }

// rounds is how often a measurement is repeated.
func (s *site) rounds(n int) int {
	if s.quick {
		return max(n/20, 2)
	}
	return n
}

// netNS makes a network namespace.
func (s *site) netNS() (string, error) {
	name := fmt.Sprintf("rf-bench-%d-%d", os.Getpid(), s.serial.Add(1))
	if err := wire.OnOwnThread(func() error {
		ns, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		return ns.Close()
	}); err != nil {
		return "", fmt.Errorf("make network namespace %s: %w", name, err)
	}
	s.later(func() error { return netns.DeleteNamed(name) })
	return name, nil
}

// within runs fn on a thread of its own in a network namespace, pinned to cpu.
func within(ns string, cpu int, fn func() error) error {
	return wire.OnOwnThread(func() error {
		if err := settle(ns, cpu); err != nil {
			return err
		}
		return fn()
	})
}

// settle brings the calling thread into a network namespace and onto a CPU.
func settle(ns string, cpu int) error {
	if err := pin(cpu); err != nil {
		return err
	}
	h, err := netns.GetFromName(ns)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", ns, err)
	}
	defer func() { _ = h.Close() }()
	if err := netns.Set(h); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", ns, err)
	}
	return nil
}

func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	return nil
}

// aside runs fn on a thread of its own, pinned to cpu.
func aside(cpu int, fn func() error) error {
	return wire.OnOwnThread(func() error {
		if err := pin(cpu); err != nil {
			return err
		}
		return fn()
	})
}

// worker is a thread that measures: pinned, in a namespace, and at a priority
// at which nothing takes the CPU, and its caches, away from it.
type worker chan func()

func (s *site) newWorker(ns string) (worker, error) { return s.newWorkerOn(ns, s.cpu) }

func (s *site) newWorkerOn(ns string, cpu int) (worker, error) {
	w := make(worker)
	ready := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		err := settle(ns, cpu)
		if err == nil {
			err = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
		}
		ready <- err
		for fn := range w {
			fn()
		}
	}()
	if err := <-ready; err != nil {
		close(w)
		return nil, fmt.Errorf("start a measuring thread: %w", err)
	}
	s.later(func() error { close(w); return nil })
	return w, nil
}

func (w worker) do(fn func() error) error {
	done := make(chan error, 1)
	w <- func() { done <- fn() }
	return <-done
}

// otherCPU is for what must not disturb the measured one.
func (s *site) otherCPU() int {
	if s.cpu == 0 {
		return 0
	}
	return s.cpu - 1
}

const (
	endpointID    = 1
	endpointIdent = flow.Identity(1000)
	firstPeer     = flow.Identity(2000)
)

// tableSize is the default size of a flow table.
const tableSize = 131072

// bench is a datapath with one endpoint, whose programs are run on frames.
type bench struct {
	s        *site
	worker   worker
	d        *bpf.Datapath
	r        *bpf.Reader
	ns       string
	index    int
	from, to *drive.Program
	endpoint netip.Addr
	peers    netip.Addr
	flows    frame.Flows
	revision uint32
}

// newBench opens a datapath for an endpoint with f.Hosts peers.
func (s *site) newBench(v6 bool, f frame.Flows, size uint32) (*bench, error) {
	b := &bench{s: s, flows: f, endpoint: netip.MustParseAddr("10.1.0.1"), peers: netip.MustParseAddr("10.2.0.0")}
	if v6 {
		b.endpoint, b.peers = netip.MustParseAddr("fd00:1::1"), netip.MustParseAddr("fd00:2::")
	}
	var err error
	if b.ns, err = s.netNS(); err != nil {
		return nil, err
	}
	if b.worker, err = s.newWorker(b.ns); err != nil {
		return nil, err
	}
	if err := b.worker.do(func() error {
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "web"}, PeerName: "peer"})
		if err != nil {
			return fmt.Errorf("make veth: %w", err)
		}
		web, err := net.InterfaceByName("web")
		if err != nil {
			return err
		}
		b.index = web.Index
		return nil
	}); err != nil {
		return nil, err
	}
	if b.d, err = s.open(bpf.Config{NetNS: b.ns, FlowEntries: size, EndpointFlows: size,
		Idle: bpf.IdleLimits{SYN: time.Nanosecond}}); err != nil {
		return nil, err
	}
	if err := b.d.Attach(bpf.Endpoint{Interface: "web", ID: endpointID, Identity: endpointIdent}); err != nil {
		return nil, err
	}
	owners := []bpf.AddressOwner{{Addr: b.endpoint, Identity: endpointIdent, Endpoint: endpointID}}
	for i := range f.Hosts {
		owners = append(owners, bpf.AddressOwner{
			Addr: frame.Peer(b.peers, i+1), Identity: firstPeer + flow.Identity(i), Endpoint: uint32(i + 2),
		})
	}
	if _, err := b.d.SetAddresses(owners); err != nil {
		return nil, err
	}
	if b.r, err = b.d.NewReader(); err != nil {
		return nil, err
	}
	s.later(b.r.Close)
	if b.from, err = b.attached(drive.Ingress); err != nil {
		return nil, err
	}
	b.to, err = b.attached(drive.Egress)
	return b, err
}

// open opens a datapath that goes with the site.
func (s *site) open(cfg bpf.Config) (*bpf.Datapath, error) {
	cfg.PinDir = filepath.Join(s.bpffs, fmt.Sprintf("node-%d", s.serial.Add(1)))
	d, err := bpf.Open(cfg)
	if err != nil {
		return nil, err
	}
	s.later(d.Remove)
	return d, nil
}

func (b *bench) attached(h drive.Hook) (p *drive.Program, err error) {
	err = b.worker.do(func() error {
		p, err = drive.Attached(b.index, h)
		return err
	})
	if err == nil {
		b.s.later(p.Close)
	}
	return p, err
}

func (b *bench) key(slot flow.Slot, dir flow.Direction) bpf.TableKey {
	return bpf.TableKey{Identity: endpointIdent, Slot: slot, Direction: dir}
}

// rules allows the endpoint to open f's flows, with an entry for every port of
// every peer.
func rules(f frame.Flows) []bpf.Entry {
	var list []bpf.Entry
	for h := range f.Hosts {
		for p := range f.Ports {
			port := uint16(frame.PeerPort + p*max(f.Apart, 1)) //nolint:gosec // a port
			list = append(list, bpf.Entry{Peer: firstPeer + flow.Identity(h), Protocol: flow.TCP, First: port, Last: port})
		}
	}
	return list
}

// mode is what the endpoint's policy is used for.
type mode int

const (
	observe mode = iota
	audit
	enforce
)

func (m mode) String() string { return [...]string{"observe", "audit", "enforce"}[m] }

// setMode puts the endpoint's allowlist to use, in both directions.
func (b *bench) setMode(m mode) error {
	b.revision++
	entries := rules(b.flows)
	var tables []bpf.Table
	for _, slot := range []flow.Slot{flow.SlotLive, flow.SlotStaged} {
		for _, dir := range []flow.Direction{flow.Egress, flow.Ingress} {
			t := bpf.Table{TableKey: b.key(slot, dir), Revision: b.revision}
			if dir == flow.Egress {
				t.Entries = entries
			}
			used := m == enforce && slot == flow.SlotLive || m == audit && slot == flow.SlotStaged
			t.Delete = !used
			tables = append(tables, t)
		}
	}
	_, err := b.d.Apply(tables)
	return err
}

// drain empties the ring.
func (b *bench) drain() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		l, err := b.d.Levels()
		if err != nil || l.RingBytes == 0 {
			return err
		}
		batch, err := b.r.Next(ctx)
		if err != nil {
			return err
		}
		if err := b.r.Commit(batch.End); err != nil {
			return err
		}
	}
}

// run runs p on n frames and returns the ns of one.
func (b *bench) run(p *drive.Program, f frame.TCP, n int) (ns float64, err error) {
	err = b.worker.do(func() error {
		ns, err = b.runHere(p, f, n)
		return err
	})
	return ns, err
}

// runHere is run on the worker itself: nothing comes in between two of its calls.
func (b *bench) runHere(p *drive.Program, f frame.TCP, n int) (ns float64, err error) {
	code, each, err := p.Run(f.Bytes, drive.Where{Index: b.index, Forwarded: f.ToEndpoint}, n)
	if err == nil && !p.Passed(code) {
		err = fmt.Errorf("a packet that the policy allows got answer %d", int32(code)) //nolint:gosec // as the kernel means it
	}
	return float64(each), err
}

// driver makes a driver for target over f's flows.
func (b *bench) driver(target *drive.Program, f frame.TCP, fl frame.Flows, random bool) (*drive.Driver, error) {
	d, err := drive.New(target, fl.Walk(f, random), len(f.Bytes))
	if err == nil {
		b.s.later(d.Close)
	}
	return d, err
}

// establish shakes hands on every flow and returns the frame of the packets
// that follow.
func (b *bench) establish(fl frame.Flows) (frame.TCP, error) {
	var last frame.TCP
	for _, step := range []struct {
		to    bool
		flags string
	}{{false, "S"}, {true, "SA"}, {false, "A"}} {
		f, err := frame.New(b.endpoint, b.peers, step.to, step.flags)
		if err != nil {
			return frame.TCP{}, err
		}
		target := b.from
		if step.to {
			target = b.to
		}
		d, err := b.driver(target, f, fl, false)
		if err != nil {
			return frame.TCP{}, err
		}
		if _, err := b.run(&d.Program, f, fl.Count()); err != nil {
			return frame.TCP{}, fmt.Errorf("open flows: %w", err)
		}
		last = f
	}
	return last, b.drain()
}
