package bpf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/ringfence/ringfence/internal/flow"
)

// bpffsRoot is this test binary's own bpffs.
var bpffsRoot string

func TestMain(m *testing.M) {
	if order := os.Getenv(killSteps); order != "" {
		os.Exit(killedChild(order))
	}
	if order := os.Getenv(prefilterHolder); order != "" {
		os.Exit(holdPrefilter(order))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "rf-bpf-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bpffsRoot = filepath.Join(dir, "bpf")
	if err := MountBPFFS(bpffsRoot); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root and eBPF:", err)
		return 1
	}
	defer func() {
		if err := UnmountBPFFS(bpffsRoot); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	labNS = fmt.Sprintf("rf-bpf-%d-lab", os.Getpid())
	if err := makeNetNS(labNS); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root and eBPF:", err)
		return 1
	}
	defer func() { _ = netns.DeleteNamed(labNS) }()
	if err := netNS(labNS).do(func() error { return vethPair("web", "web-peer") }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

var serial atomic.Int32

// labNS is shared by the tests that run programs on crafted frames: it lends
// them an interface.
var labNS string

// newNetNS makes a network namespace that goes with the test.
func newNetNS(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("rf-bpf-%d-%d", os.Getpid(), serial.Add(1))
	if err := makeNetNS(name); err != nil {
		t.Fatalf("make network namespace %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := netns.DeleteNamed(name); err != nil {
			t.Errorf("remove network namespace %s: %v", name, err)
		}
	})
	return name
}

func makeNetNS(name string) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread, which is left in the new namespace, dies.
		runtime.LockOSThread()
		ns, err := netns.NewNamed(name)
		if err == nil {
			err = ns.Close()
		}
		done <- err
	}()
	return <-done
}

func inNetNS(t testing.TB, name string, fn func() error) {
	t.Helper()
	if err := netNS(name).do(fn); err != nil {
		t.Fatal(err)
	}
}

// addVeth makes a pair of interfaces in ns. They stay down: programs can be run
// on them, and the kernel sends nothing of its own.
func addVeth(t testing.TB, ns, a, b string) {
	t.Helper()
	inNetNS(t, ns, func() error { return vethPair(a, b) })
}

func vethPair(a, b string) error {
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a}, PeerName: b})
}

// The cast of every test: one endpoint that is watched, and whom it talks to.
const (
	webID     = 11
	webIdent  = flow.Identity(300)
	dbID      = 12
	dbIdent   = flow.Identity(301)
	evilID    = 13
	evilIdent = flow.Identity(302)
)

// party has an address of each family.
type party struct{ v4, v6 netip.Addr }

func (p party) in(family int) netip.Addr {
	if family == 4 {
		return p.v4
	}
	return p.v6
}

func addrs(v4, v6 string) party { return party{netip.MustParseAddr(v4), netip.MustParseAddr(v6)} }

var (
	web   = addrs("10.0.0.1", "fd00::1")
	db    = addrs("10.0.0.2", "fd00::2")
	evil  = addrs("10.0.0.3", "fd00::3")
	node  = addrs("10.0.0.254", "fd00::fe")
	other = addrs("10.0.1.254", "fd00:1::fe") // another node
	world = addrs("198.51.100.66", "2001:db8:66::66")
)

func everyone() []AddressOwner {
	var list []AddressOwner
	for _, o := range []struct {
		p        party
		identity flow.Identity
		endpoint uint32
	}{
		{web, webIdent, webID}, {db, dbIdent, dbID}, {evil, evilIdent, evilID},
		{node, flow.IdentityHost, 0}, {other, flow.IdentityRemoteNode, 0},
	} {
		list = append(list, AddressOwner{o.p.v4, o.identity, o.endpoint}, AddressOwner{o.p.v6, o.identity, o.endpoint})
	}
	return list
}

// lab is a datapath whose programs are run on crafted frames.
type lab struct {
	t     testing.TB
	d     *Datapath
	ns    string
	index int
	r     *Reader
	now   uint64 // last sweep
}

func openAt(t testing.TB, cfg Config) *Datapath {
	t.Helper()
	d, err := Open(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Remove(); err != nil && !errors.Is(err, errClosed) {
			t.Errorf("remove: %v", err)
		}
	})
	return d
}

// labConfig is small, and has an endpoint observed for long at once.
func labConfig() Config {
	return Config{
		PinDir:      filepath.Join(bpffsRoot, fmt.Sprintf("node-%d", serial.Add(1))),
		NetNS:       labNS,
		FlowEntries: 1024, RingBytes: 1 << 20, Addresses: 64, CIDRs: 64, PolicyTables: 16, PolicyEntries: 64,
		Idle: IdleLimits{UDP: time.Nanosecond, Other: time.Nanosecond},
	}
}

func newLab(t testing.TB, change ...func(*Config)) *lab {
	t.Helper()
	cfg := labConfig()
	for _, f := range change {
		f(&cfg)
	}
	l := &lab{t: t, d: openAt(t, cfg), ns: cfg.NetNS}
	l.attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent})
	if _, err := l.d.SetAddresses(everyone()); err != nil {
		t.Fatal(err)
	}
	l.openReader()
	return l
}

func (l *lab) attach(e Endpoint) {
	l.t.Helper()
	if err := l.d.Attach(e); err != nil {
		l.t.Fatal(err)
	}
	list, err := l.d.Attached()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, a := range list {
		if a.ID == e.ID {
			l.index = a.Index
		}
	}
}

func (l *lab) openReader() {
	l.t.Helper()
	r, err := l.d.NewReader()
	if err != nil {
		l.t.Fatal(err)
	}
	l.r = r
	l.t.Cleanup(func() { _ = r.Close() })
}

func (l *lab) apply(tables ...Table) {
	l.t.Helper()
	if _, err := l.d.Apply(tables); err != nil {
		l.t.Fatal(err)
	}
}

// live and staged make the web workload's tables.
func live(dir flow.Direction, revision uint32, entries ...Entry) Table {
	return Table{TableKey: TableKey{webIdent, flow.SlotLive, dir}, Revision: revision, Entries: entries}
}

func staged(dir flow.Direction, revision uint32, entries ...Entry) Table {
	t := live(dir, revision, entries...)
	t.Slot = flow.SlotStaged
	return t
}

// guardrail makes the web workload's table of what is denied first.
func guardrail(dir flow.Direction, entries ...Entry) Table {
	t := live(dir, 0, entries...)
	t.Slot = SlotGuardrail
	return t
}

func allow(peer flow.Identity, p flow.Protocol, port uint16) Entry {
	return Entry{Peer: peer, Protocol: p, First: port, Last: port}
}

// skb is struct __sk_buff as BPF_PROG_TEST_RUN takes it.
type skb struct {
	_              [36]byte
	IngressIfindex uint32
	Ifindex        uint32
	_              [120]byte
	GSOSegs        uint32
	_              [8]byte
	GSOSize        uint32
	_              [12]byte
}

const (
	pass = ^uint32(0) // TCX_NEXT
	drop = uint32(2)  // TCX_DROP
)

func verdictName(code uint32) string {
	switch code {
	case pass:
		return "passed"
	case drop:
		return "dropped"
	}
	return fmt.Sprintf("returned %d", int32(code))
}

// sendAs runs a program on a frame. Frames to the endpoint count as forwarded,
// not as the node's own, unless the context says otherwise.
func (l *lab) sendAs(prog *ebpf.Program, ctx skb, frame []byte) uint32 {
	l.t.Helper()
	var code uint32
	inNetNS(l.t, l.ns, func() (err error) {
		ctx.Ifindex = uint32(l.index)
		code, err = prog.Run(&ebpf.RunOptions{Data: frame, Context: ctx})
		return err
	})
	return code
}

// from sends a frame out of the endpoint, to into it.
func (l *lab) from(frame []byte) uint32 {
	l.t.Helper()
	return l.sendAs(l.d.programs.RfFromEndpoint, skb{}, frame)
}

func (l *lab) to(frame []byte) uint32 {
	l.t.Helper()
	return l.sendAs(l.d.programs.RfToEndpoint, skb{IngressIfindex: uint32(l.index)}, frame)
}

// fromNode sends a frame that the node itself made to the endpoint.
func (l *lab) fromNode(frame []byte) uint32 {
	l.t.Helper()
	return l.sendAs(l.d.programs.RfToEndpoint, skb{}, frame)
}

// send picks the program by the frame's source.
func (l *lab) send(p packet) uint32 {
	l.t.Helper()
	if p.src == web.v4 || p.src == web.v6 {
		return l.from(p.frame(l.t))
	}
	return l.to(p.frame(l.t))
}

func (l *lab) want(code uint32, p packet, what string) {
	l.t.Helper()
	if got := l.send(p); got != code {
		l.t.Errorf("%s: packet %s: %s, want %s", what, p, verdictName(got), verdictName(code))
	}
}

// sweep runs a sweep as if d had passed since the last one.
func (l *lab) sweep(d time.Duration) SweepStats {
	l.t.Helper()
	if l.now == 0 {
		now, err := coarse()
		if err != nil {
			l.t.Fatal(err)
		}
		l.now = now
	}
	l.now += uint64(d)
	s, err := l.d.sweepAt(context.Background(), l.now)
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

// records returns and commits what is in the ring.
func (l *lab) records() []flow.Record {
	l.t.Helper()
	b, err := l.r.take(l.r.ring.produced(), 1<<20)
	if err != nil {
		l.t.Fatal(err)
	}
	if b.Truncated > 0 {
		l.t.Errorf("%d truncated records", b.Truncated)
	}
	if err := l.r.Commit(b.End); err != nil {
		l.t.Fatal(err)
	}
	return append([]flow.Record(nil), b.Records...)
}

// record returns the ring's only record.
func (l *lab) record() flow.Record {
	l.t.Helper()
	list := l.records()
	if len(list) != 1 {
		l.t.Fatalf("%d records, want one: %+v", len(list), list)
	}
	return list[0]
}

func (l *lab) counter(name string) uint64 {
	l.t.Helper()
	values, err := l.d.Counters()
	if err != nil {
		l.t.Fatal(err)
	}
	n, ok := values[name]
	if !ok {
		l.t.Fatalf("no counter %q", name)
	}
	return n
}

func (l *lab) table() map[kernelRfFlowKey]kernelRfFlow {
	l.t.Helper()
	flows, err := readFlows(&l.d.maps)
	if err != nil {
		l.t.Fatal(err)
	}
	return flows
}

// readFlows reads the tables of both families, by IPv6's keys.
func readFlows(m *kernelMaps) (map[kernelRfFlowKey]kernelRfFlow, error) {
	flows, err6 := readMap[kernelRfFlowKey, kernelRfFlow](m.Flows6)
	flows4, err4 := readMap[kernelRfFlow4Key, kernelRfFlow](m.Flows4)
	if err := errors.Join(err6, err4); err != nil {
		return nil, err
	}
	for k, f := range flows4 {
		flows[k.wide()] = f
	}
	return flows, nil
}

// putFlow writes a flow into the table that it belongs to.
func putFlow(m *kernelMaps, k kernelRfFlowKey, f kernelRfFlow) error {
	if !netip.AddrFrom16(k.Local).Is4In6() {
		return m.Flows6.Put(k, f)
	}
	return m.Flows4.Put(narrow(k), f)
}

func narrow(k kernelRfFlowKey) kernelRfFlow4Key {
	return kernelRfFlow4Key{
		Local: binary.NativeEndian.Uint32(k.Local[12:]), Remote: binary.NativeEndian.Uint32(k.Remote[12:]),
		LocalPort: k.LocalPort, RemotePort: k.RemotePort, Endpoint: k.Endpoint, Protocol: k.Protocol,
	}
}

func (l *lab) flows() int {
	l.t.Helper()
	return len(l.table())
}

// total adds up what records count.
type total struct {
	connections      uint32
	forward, reverse flow.Counters
}

func (s *total) add(list []flow.Record) {
	for _, r := range list {
		s.connections += r.Connections
		s.forward.Packets += r.Forward.Packets
		s.forward.Bytes += r.Forward.Bytes
		s.reverse.Packets += r.Reverse.Packets
		s.reverse.Bytes += r.Reverse.Bytes
	}
}

func (s *total) packets() uint64 { return s.forward.Packets + s.reverse.Packets }

// families runs a test for IPv4 and for IPv6.
func families(t *testing.T, test func(t *testing.T, family int)) {
	t.Helper()
	for _, family := range []int{4, 6} {
		t.Run(fmt.Sprintf("IPv%d", family), func(t *testing.T) { test(t, family) })
	}
}

func init() {
	if n := binary.Size(skb{}); n != 192 {
		panic(fmt.Sprintf("struct __sk_buff of %d bytes", n))
	}
}

// modes runs a test for each way of attaching.
func modes(t *testing.T, test func(t *testing.T, mode AttachMode)) {
	t.Helper()
	for _, mode := range []AttachMode{AttachTCX, AttachClsact} {
		t.Run(string(mode), func(t *testing.T) { test(t, mode) })
	}
}

func attachBy(mode AttachMode) func(*Config) {
	return func(c *Config) { c.Attach = mode }
}

// attachments returns what stays the same as long as nothing is detached: the
// numbers of links, the handles of filters.
func attachments(t testing.TB, d *Datapath) (list []uint32) {
	t.Helper()
	for _, a := range d.attachers() {
		places, err := a.places()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range places {
			if id, attached := d.tcx.look(p); a == d.tcx && attached {
				list = append(list, uint32(id))
			}
			inNetNS(t, d.cfg.NetNS, func() error {
				f, err := d.clsact.find(p)
				if a == d.clsact && f != nil {
					list = append(list, f.Handle)
				}
				return err
			})
		}
	}
	return list
}

// linkInfo returns the number of the pinned link.
func linkInfo(t testing.TB, path string) uint32 {
	t.Helper()
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	info, err := l.Info()
	if err != nil {
		t.Fatal(err)
	}
	return uint32(info.ID)
}
