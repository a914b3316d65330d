package bpf

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// twin is a datapath and the model of it. What is done to one is done to the
// other, and after every frame they must not differ. Its goroutine stays on one
// thread, inside the network namespace.
type twin struct {
	t      testing.TB
	d      *Datapath
	r      *Reader
	m      *model
	points []modelPoint
	index  []uint32 // interfaces of the points, and one that nobody watches

	run      *testRun
	ctx      *skb
	keys     []uint32
	values   []uint64
	before   [kernelRfCounterRF_COUNTERS]uint64
	coverage map[string]int
	last     func() string // what was done last
	steps    uint64        // sweeps, so that none is at the time of another
}

// The points of a twin: two pods, and the node's own interface.
var (
	pointNames = []string{"web", "db", "gateway"}
	identities = []flow.Identity{webIdent, dbIdent, 400}
)

// testRun is the part of union bpf_attr that BPF_PROG_TEST_RUN takes.
type testRun struct {
	progFD, retval, sizeIn, sizeOut    uint32
	in, out                            uint64
	repeat, duration, ctxSize, ctxRoom uint32
	ctxIn, ctxOut                      uint64
	flags, cpu, batch, _               uint32
}

// hour is what the model counts time in: no test lasts as long.
const hour = time.Hour

// modelIdle are the idle limits in hours; the twin's are the same.
var modelIdle = [8]int{
	stateSYN: 2, stateEstablished: 6, stateClosing: 3, stateUDP: 4, stateICMP: 1, stateOther: 4, stateMidstream: 2,
}

const modelInterval = 2

// twinSize picks how soon the kernel's tables are full.
type twinSize struct{ flows, ringBytes, fragments uint32 }

func newTwin(t testing.TB, size twinSize) *twin {
	t.Helper()
	w := &twin{t: t, run: &testRun{}, ctx: &skb{}, coverage: make(map[string]int)}
	ns := newNetNS(t)
	addVeth(t, ns, "web", "db")
	addVeth(t, ns, "gateway", "spare")
	h := func(state int) time.Duration { return time.Duration(modelIdle[state]) * hour }
	cfg := labConfig()
	cfg.NetNS, cfg.FlowEntries, cfg.RingBytes = ns, size.flows, size.ringBytes
	cfg.FragmentEntries, cfg.EndpointFragments = size.fragments, size.fragments/2
	cfg.Workloads, cfg.PolicyTables, cfg.PolicyEntries = 8, 64, 1024
	cfg.SweepInterval = modelInterval * hour
	cfg.Idle = IdleLimits{
		SYN: h(stateSYN), Established: h(stateEstablished), Closing: h(stateClosing),
		UDP: h(stateUDP), ICMP: h(stateICMP), Other: h(stateOther),
	}
	w.d = openAt(t, cfg)
	w.points = []modelPoint{{id: webID}, {id: dbID}, {id: 21, host: true}}
	for i := range w.points {
		w.points[i].identity = identities[i]
	}
	for i, name := range pointNames {
		p := w.points[i]
		if err := w.d.Attach(Endpoint{Interface: name, ID: p.id, Identity: p.identity, Host: p.host}); err != nil {
			t.Fatal(err)
		}
	}
	enter(t, ns)
	for _, name := range append(pointNames[:len(pointNames):len(pointNames)], "spare") {
		index, err := w.d.interfaceIndex(name)
		if err != nil {
			t.Fatal(err)
		}
		w.index = append(w.index, index)
	}
	r, err := w.d.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	w.r = r
	t.Cleanup(func() { _ = r.Close() })
	w.keys, w.values = make([]uint32, kernelRfCounterRF_COUNTERS+1), make([]uint64, int(kernelRfCounterRF_COUNTERS+1)*ebpf.MustPossibleCPU())
	w.m = &model{
		owners: make(map[refAddr]AddressOwner), failsafe: make(map[Failsafe]bool), services: make(map[Failsafe]flow.Identity), tables: make(map[TableKey]Table),
		idle: modelIdle, interval: modelInterval,
		room: int(size.flows), noteRoom: int(size.fragments), noteQuota: int(size.fragments) / 2,
		ringRoom: int(size.ringBytes) - 1,
		flows:    make(map[modelKey]*modelFlow), held: make(map[uint32]int), gone: make(map[uint32]bool), notes: make(map[modelNote]modelFirst), noted: make(map[uint32]int), pending: flow.VerdictAllow,
	}
	w.before = w.readCounters()
	return w
}

// enter moves the goroutine's thread into ns for good.
func enter(t testing.TB, ns string) {
	t.Helper()
	runtime.LockOSThread()
	f, err := os.Open(netNS(ns).path())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// fail ends the test with what led there.
func (w *twin) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), w.last())
}

// kernel runs a program on the shot. runnable is false for frames that
// BPF_PROG_TEST_RUN will not take: those shorter than their network header.
func (w *twin) kernel(s shot) (code uint32, runnable bool) {
	prog := w.d.programs.RfToEndpoint
	if s.from {
		prog = w.d.programs.RfFromEndpoint
	}
	ifindex := w.index[len(w.index)-1]
	if s.point >= 0 {
		ifindex = w.index[s.point]
	}
	*w.ctx = skb{Ifindex: ifindex, GSOSegs: s.gsoSegs, GSOSize: s.gsoSize}
	if !s.own {
		w.ctx.IngressIfindex = ifindex
	}
	pin := func(p unsafe.Pointer) uint64 { return uint64(uintptr(p)) }
	*w.run = testRun{
		progFD: uint32(prog.FD()), sizeIn: uint32(len(s.frame)), in: pin(unsafe.Pointer(unsafe.SliceData(s.frame))),
		repeat: 1, ctxSize: uint32(unsafe.Sizeof(skb{})), ctxIn: pin(unsafe.Pointer(w.ctx)),
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(w.run)), unsafe.Sizeof(*w.run))
	runtime.KeepAlive(s.frame)
	if errno == unix.EINVAL {
		return 0, false
	}
	if errno != 0 {
		w.fail("run on %d bytes: %v", len(s.frame), errno)
	}
	return w.run.retval, true
}

// unmodelled counts what the kernel does when it likes, not what packets do.
const unmodelled = "orphan_sweeps"

func (w *twin) readCounters() (sums [kernelRfCounterRF_COUNTERS]uint64) {
	w.t.Helper()
	var cursor ebpf.MapBatchCursor
	n, err := w.d.maps.Counters.BatchLookup(&cursor, w.keys, w.values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) || n != len(sums) {
		w.fail("read %d counters: %v", n, err)
	}
	cpus := ebpf.MustPossibleCPU()
	for i, key := range w.keys[:n] {
		if counterName(kernelRfCounter(key)) == unmodelled {
			continue
		}
		for cpu := range cpus {
			sums[key] += w.values[i*cpus+cpu]
		}
	}
	return sums
}

// compareCounters compares what was counted since it was last called.
func (w *twin) compareCounters(what string) {
	w.t.Helper()
	now := w.readCounters()
	var differ []string
	for i := range now {
		kernel, model := now[i]-w.before[i], w.m.counters[i]
		if kernel != model {
			differ = append(differ, fmt.Sprintf("%s: kernel %d, model %d", counterName(kernelRfCounter(i)), kernel, model))
		}
		if model > 0 {
			w.coverage["counter "+counterName(kernelRfCounter(i))] += int(model)
		}
	}
	w.before, w.m.counters = now, [kernelRfCounterRF_COUNTERS]uint64{}
	if len(differ) > 0 {
		w.fail("%s: counters differ: %s", what, strings.Join(differ, ", "))
	}
}

// shoot sends one shot to both and compares. What the kernel would not
// run it leaves out.
func (w *twin) shoot(s shot) (code uint32) {
	w.t.Helper()
	w.last = s.String
	code, runnable := w.kernel(s)
	if !runnable {
		w.coverage["not runnable"]++
		return pass
	}
	var at *modelPoint
	if s.point >= 0 {
		at = &w.points[s.point]
	}
	want := drop
	if w.m.packet(at, s) {
		want = pass
	}
	if code != want {
		w.fail("%s, the model says %s", verdictName(code), verdictName(want))
	}
	w.compareCounters("frame")
	w.cover(s, code)
	return code
}

func (s shot) String() string {
	hook := "to"
	if s.from {
		hook = "from"
	}
	p, parsed := refFrame(s.frame, s.gsoSize > 0, 0)
	return fmt.Sprintf("shot{point: %d, from: %t, own: %t, gsoSize: %d, gsoSegs: %d, frame: unhex(%q)} // %s, %s, parsed %d as %+v",
		s.point, s.from, s.own, s.gsoSize, s.gsoSegs, fmt.Sprintf("%x", s.frame), hook, s.origin, parsed, p)
}

// drain takes the ring's records and compares them with the model's.
func (w *twin) drain() {
	w.t.Helper()
	w.sameRecords(w.readRing())
}

func (w *twin) sameRecords(got []rawRecord) {
	w.t.Helper()
	want := w.m.records
	w.m.records = nil
	if !slices.Equal(got, want) {
		w.fail("%d records, the model has %d (-model +kernel):\n%s", len(got), len(want), gocmp.Diff(want, got, cmpopts.EquateEmpty()))
	}
	for _, r := range got {
		w.coverage["event "+flow.Event(r.Event).String()]++
		w.coverage["direction "+flow.Direction(r.Direction).String()]++
		w.coverage["live reason "+flow.Reason(r.LiveReason).String()]++
		w.coverage["staged reason "+flow.Reason(r.StagedReason).String()]++
	}
}

func compareRecords(a, b rawRecord) int {
	raw := func(r *rawRecord) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(r)), recordSize) }
	return bytes.Compare(raw(&a), raw(&b))
}

func compareKeys(a, b modelKey) int {
	return cmp.Or(cmp.Compare(a.endpoint, b.endpoint), cmp.Compare(a.protocol, b.protocol),
		bytes.Compare(a.local[:], b.local[:]), bytes.Compare(a.remote[:], b.remote[:]),
		cmp.Compare(a.localPort, b.localPort), cmp.Compare(a.remotePort, b.remotePort))
}

func (w *twin) readRing() (list []rawRecord) {
	w.t.Helper()
	ring := w.r.ring
	pos, end := ring.consumed(), ring.produced()
	for pos < end {
		data, next, ok := ring.at(pos)
		if !ok {
			w.fail("a record is being written")
		}
		raw, err := decodeRecord(data)
		if err != nil {
			w.fail("%v", err)
		}
		raw.Time, raw.FirstSeen = 0, 0
		list = append(list, raw)
		pos = next
	}
	ring.setConsumed(end)
	w.r.pos = end
	return list
}

func (w *twin) table() map[kernelRfFlowKey]kernelRfFlow {
	w.t.Helper()
	table, err := readFlows(&w.d.maps)
	if err != nil {
		w.fail("read the flow table: %v", err)
	}
	return table
}

// compareFlows compares the flow tables, entry by entry.
func (w *twin) compareFlows() {
	w.t.Helper()
	table := w.table()
	if len(table) != len(w.m.flows) {
		w.fail("%d flows, the model has %d", len(table), len(w.m.flows))
	}
	for k, f := range table {
		key := modelKeyOf(k)
		want := w.m.flows[key]
		if want == nil {
			w.fail("flow %+v is unknown to the model", key)
		}
		got, shown := kernelFlowView(f), modelFlowView(want)
		if got != shown {
			w.fail("flow %+v (-model +kernel):\n%s", key, gocmp.Diff(shown, got))
		}
		w.coverage[fmt.Sprintf("state %d", shown.State)]++
	}
	w.compareQuotas()
}

// compareQuotas compares what the kernel thinks that each endpoint holds.
func (w *twin) compareQuotas() {
	w.t.Helper()
	quotas, err := readMap[uint32, kernelRfQuota](w.d.maps.Quotas)
	if err != nil {
		w.fail("read the quotas: %v", err)
	}
	for _, p := range w.points {
		q := quotas[p.id] // none is as good as nothing held
		if int(q.Flows) != w.m.held[p.id] || int(q.Fragments) != w.m.noted[p.id] {
			w.fail("endpoint %d: %d flows and %d notes counted, the model has %d and %d",
				p.id, q.Flows, q.Fragments, w.m.held[p.id], w.m.noted[p.id])
		}
	}
}

// sweep runs one as if hours had passed, and compares what it did.
func (w *twin) sweep(hours int) {
	w.t.Helper()
	w.last = func() string { return fmt.Sprintf("sweep in %d hours", hours) }
	w.drain()
	now, err := coarse()
	if err != nil {
		w.t.Fatal(err)
	}
	w.steps++
	at := int64(now) + int64(hours)*int64(hour) + int64(w.steps)*int64(100*time.Millisecond)
	stats, err := w.d.sweepAt(context.Background(), uint64(at))
	if err != nil {
		w.t.Fatal(err)
	}
	got := w.readRing()
	var table map[kernelRfFlowKey]kernelRfFlow
	if stats.RingFull > 0 { // whose records found room is then the kernel's choice
		table = w.table()
	}
	w.m.sweep(hours, func(k modelKey, f *modelFlow, e flow.Event) bool {
		if table != nil {
			v := kernelFlowView(table[kernelKeyOf(k)])
			if e == flow.EventEnd && !v.Ended || v.Connections > 0 || v.Packets != [2]uint64{} {
				w.m.count(kernelRfCounterRF_COUNT_RING_FULL)
				return false
			}
		}
		return w.m.record(k, f, e, hours)
	})
	w.coverage["swept flows"] += int(stats.Flows)
	w.coverage["swept away"] += int(stats.Deleted)
	w.coverage["sweeps, ring full"] += int(stats.RingFull)
	slices.SortFunc(got, compareRecords)
	slices.SortFunc(w.m.records, compareRecords)
	w.sameRecords(got)
	w.compareCounters("sweep")
	w.compareFlows()
}
