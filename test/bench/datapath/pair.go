package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/bpf/drive"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/bench/frame"
	"github.com/ringfence/ringfence/test/bench/report"
)

var clientAddr = netip.MustParseAddr("10.9.0.1")

// serverAddrs is how many addresses a server has: so many that four in five
// connections of a run have tuples of their own. Where one is used again a firewall
// meets the old connection's remains, which at ordinary rates are long gone.
const serverAddrs = 16

func serverAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, byte(2 + i)}) } //nolint:gosec // far below

const (
	benchPort  = 7000
	policySize = 1000 // rules, and elements of nftables' set
)

// guard puts a pair's server under a policy.
type guard func(s *site, p *pair) error

// pair is a client and a server, each a process in a network namespace of its
// own, at the ends of a veth and on the same CPU.
type pair struct {
	s         *site
	serverNS  string
	index     int // of the server's interface
	processes []int
	in        io.Writer
	out       *bufio.Scanner
}

// newPair starts the processes of two roles behind a guard.
func (s *site) newPair(g guard, server, client string) (*pair, error) {
	clientNS, err := s.netNS()
	if err != nil {
		return nil, err
	}
	p := &pair{s: s}
	if p.serverNS, err = s.netNS(); err != nil {
		return nil, err
	}
	if err := p.connect(clientNS); err != nil {
		return nil, fmt.Errorf("connect the pair: %w", err)
	}
	if err := g(s, p); err != nil {
		return nil, err
	}
	_, ready, err := p.start(p.serverNS, server)
	if err != nil {
		return nil, err
	}
	if !ready.Scan() {
		return nil, errors.New("the server does not listen")
	}
	p.in, p.out, err = p.start(clientNS, client)
	return p, err
}

// connect makes the veth between the two namespaces.
func (p *pair) connect(clientNS string) error {
	err := within(clientNS, p.s.cpu, func() error {
		to, err := netns.GetFromName(p.serverNS)
		if err != nil {
			return err
		}
		defer func() { _ = to.Close() }()
		if err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "rf0"}, PeerName: "rf0", PeerNamespace: netlink.NsFd(to),
		}); err != nil {
			return err
		}
		return up(clientAddr)
	})
	if err != nil {
		return err
	}
	return within(p.serverNS, p.s.cpu, func() error {
		i, err := net.InterfaceByName("rf0")
		if err != nil {
			return err
		}
		p.index = i.Index
		var addrs []netip.Addr
		for i := range serverAddrs {
			addrs = append(addrs, serverAddress(i))
		}
		return up(addrs...)
	})
}

func up(addrs ...netip.Addr) error {
	l, err := netlink.LinkByName("rf0")
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		a, err := netlink.ParseAddr(addr.String() + "/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// start starts a process that ends with its standard input.
func (p *pair) start(ns, role string) (io.Writer, *bufio.Scanner, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(self, "-child", role) //nolint:noctx // ends with its standard input
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	w, err := p.s.newWorker(ns) // the process inherits its namespace, CPU and priority
	if err != nil {
		return nil, nil, err
	}
	if err := w.do(cmd.Start); err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", role, err)
	}
	p.processes = append(p.processes, cmd.Process.Pid)
	p.s.later(func() error { return errors.Join(in.Close(), cmd.Wait()) })
	return in, bufio.NewScanner(out), nil
}

// work lets the client do n of what it does. It returns how long that took, and
// the CPU time of both processes and of the CPU's softirq thread.
func (p *pair) work(n int) (wall, cpu time.Duration, err error) {
	before, err := p.cpuTime()
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Fprintln(p.in, n); err != nil {
		return 0, 0, err
	}
	if !p.out.Scan() {
		return 0, 0, errors.New("the client has ended")
	}
	ns, err := strconv.Atoi(p.out.Text())
	if err != nil {
		return 0, 0, err
	}
	after, err := p.cpuTime()
	return time.Duration(ns), after - before, err
}

func (p *pair) cpuTime() (time.Duration, error) {
	softirq, err := p.s.softirqThread()
	if err != nil {
		return 0, err
	}
	var total time.Duration
	for _, pid := range append([]int{softirq}, p.processes...) {
		var t unix.Timespec
		clock := ^pid<<3 | 2                                        // clock_getcpuclockid(3)
		if err := unix.ClockGettime(int32(clock), &t); err != nil { //nolint:gosec // a process's number
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
		}
		total += time.Duration(t.Nano())
	}
	return total, nil
}

// softirqThread finds the kernel thread that does the measured CPU's softirqs
// when there are too many of them.
func (s *site) softirqThread() (int, error) {
	if s.softirq != 0 {
		return s.softirq, nil
	}
	name := fmt.Sprintf("ksoftirqd/%d", s.cpu)
	list, _ := filepath.Glob("/proc/[0-9]*/comm") // the pattern is right
	for _, path := range list {
		if report.State(path) == name {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			s.softirq = pid
			return pid, err
		}
	}
	return 0, fmt.Errorf("no thread %s", name)
}

// unguarded leaves the server without any policy.
func unguarded(*site, *pair) error { return nil }

// emptyPrograms attaches programs that do nothing.
func emptyPrograms(s *site, p *pair) error {
	return within(p.serverNS, s.cpu, func() error {
		for _, h := range []drive.Hook{drive.Ingress, drive.Egress} {
			prog, err := drive.Empty()
			if err != nil {
				return err
			}
			s.later(prog.Close)
			detach, err := prog.Attach(p.index, h)
			if err != nil {
				return err
			}
			s.later(detach)
		}
		return nil
	})
}

// stranger is the address of a client that never calls.
func stranger(i int) netip.Addr { return frame.Peer(netip.MustParseAddr("10.10.0.0"), i) }

// ringfence enforces an allowlist of policySize clients, with an agent that
// reads records and sweeps.
func ringfence(s *site, p *pair) error {
	d, err := s.enforced(p)
	if err != nil {
		return err
	}
	return s.agent(d)
}

// withoutAgent is the same with nobody there who reads.
func withoutAgent(s *site, p *pair) error {
	_, err := s.enforced(p)
	return err
}

func (s *site) enforced(p *pair) (*bpf.Datapath, error) {
	// One endpoint makes all connections here, within its quota.
	d, err := s.open(bpf.Config{NetNS: p.serverNS, FlowEntries: tableSize, EndpointFlows: tableSize})
	if err != nil {
		return nil, err
	}
	if err := d.Attach(bpf.Endpoint{Interface: "rf0", ID: endpointID, Identity: endpointIdent, Host: true}); err != nil {
		return nil, err
	}
	owners := []bpf.AddressOwner{
		{Addr: clientAddr, Identity: firstPeer, Endpoint: 2},
	}
	for i := range serverAddrs {
		owners = append(owners, bpf.AddressOwner{Addr: serverAddress(i), Identity: endpointIdent, Endpoint: endpointID})
	}
	in := bpf.Table{TableKey: bpf.TableKey{Identity: endpointIdent, Slot: flow.SlotLive, Direction: flow.Ingress}, Revision: 1}
	out := in
	out.Direction = flow.Egress
	for i := range policySize {
		id := firstPeer + flow.Identity(i)
		in.Entries = append(in.Entries, bpf.Entry{Peer: id, Protocol: flow.TCP, First: benchPort, Last: benchPort})
		if i > 0 {
			owners = append(owners, bpf.AddressOwner{Addr: stranger(i), Identity: id, Endpoint: uint32(i + 2)})
		}
	}
	if _, err := d.SetAddresses(owners); err != nil {
		return nil, err
	}
	if _, err := d.Apply([]bpf.Table{in, out}); err != nil {
		return nil, err
	}
	return d, nil
}

// agent does for d what an agent does, on the other CPU, until the site closes.
func (s *site) agent(d *bpf.Datapath) error {
	r, err := d.NewReader()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() {
		done <- aside(s.otherCPU(), func() error { return read(ctx, r) })
	}()
	go func() {
		done <- aside(s.otherCPU(), func() error { return sweep(ctx, d) })
	}()
	s.later(func() error {
		cancel()
		return errors.Join(<-done, <-done, r.Close())
	})
	return nil
}

func read(ctx context.Context, r *bpf.Reader) error {
	for {
		b, err := r.Next(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // that is why
		}
		if err != nil {
			return err
		}
		if err := r.Commit(b.End); err != nil {
			return err
		}
	}
}

func sweep(ctx context.Context, d *bpf.Datapath) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if _, err := d.Sweep(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// nftables enforces the same allowlist as a set, and lets through by conntrack
// what belongs to a connection that it allowed.
func nftables(s *site, p *pair) error {
	var set []string
	for i := range policySize {
		addr := clientAddr
		if i > 0 {
			addr = stranger(i)
		}
		set = append(set, fmt.Sprintf("%s . %d", addr, benchPort))
	}
	rules := fmt.Sprintf(`table inet bench {
	set allow { type ipv4_addr . inet_service; elements = { %s }; }
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		ip saddr . tcp dport @allow accept
	}
	chain output {
		type filter hook output priority filter; policy drop;
		ct state established,related accept
	}
}
`, strings.Join(set, ", "))
	return within(p.serverNS, s.cpu, func() error {
		cmd := exec.Command("nft", "-f", "-") //nolint:noctx // ends by itself
		cmd.Stdin = strings.NewReader(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("load the nftables ruleset: %w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	})
}
