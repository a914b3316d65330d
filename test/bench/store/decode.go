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
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/bpf/drive"
	"github.com/ringfence/ringfence/collector"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/test/bench/frame"
	"github.com/ringfence/ringfence/test/bench/report"
	"github.com/ringfence/ringfence/test/wire"
)

// Decode is what reading records and saying who they are of takes one CPU.
type Decode struct {
	RecordsPerS     float64 `json:"records_per_s"`
	AllocsPerRecord float64 `json:"allocs_per_record"`
	NS              float64 `json:"ns_per_record"`
	LabelNS         float64 `json:"label_ns_per_record"` // of it
	Records         int     `json:"records"`             // in the ring
}

const (
	decodeRounds    = 30
	decodeWorkloads = 2000
	decodeReplicas  = 4
	decodePorts     = 12 // flows of each endpoint, each with a record
	decodeEndpoint  = 1
)

// ringed is a datapath whose ring is full of first records.
type ringed struct {
	undo []func() error
	d    *bpf.Datapath
	size int
	lab  *collector.Labeller
	rows []flow.Labelled
}

// decode reads the same ring again and again, as every new reader does with what
// was not committed.
func decode(ctx context.Context, s *site, r *Report) (err error) {
	k := &ringed{}
	defer func() { err = errors.Join(err, k.close()) }()
	if err := k.open(s); err != nil {
		return err
	}
	rounds := decodeRounds
	if s.quick {
		rounds = 3
	}
	var whole, label, allocs []float64
	for range rounds {
		p, err := k.pass(ctx)
		if err != nil {
			return err
		}
		whole = append(whole, float64(p.took.Nanoseconds())/float64(p.records))
		label = append(label, float64(p.labelling.Nanoseconds())/float64(p.records))
		allocs = append(allocs, float64(p.allocs)/float64(p.records))
	}
	out := &Decode{
		NS: r.Series.Add("decode.ns_per_record", whole).Q1, LabelNS: r.Series.Add("decode.label_ns_per_record", label).Q1,
		// Go counts what the process allocates, its runtime too; what reading does is in each round.
		AllocsPerRecord: report.Round(slices.Min(allocs)), Records: k.size,
	}
	out.RecordsPerS = float64(int(1e9 / out.NS))
	r.Decode = out
	return nil
}

// pass is one reading of the ring but for its first batch, in which buffers grow.
type pass struct {
	records         int
	took, labelling time.Duration
	allocs          uint64
}

func (k *ringed) pass(ctx context.Context) (p pass, err error) {
	reader, err := k.d.NewReader()
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after runtime.MemStats
	var begin time.Time
	for read := 0; read < k.size; {
		b, err := reader.Next(ctx)
		if err != nil {
			return p, err
		}
		labelling := time.Now()
		var strangers int
		k.rows, strangers = k.lab.Label(k.rows[:0], b.Records)
		labelled := time.Since(labelling)
		if read += len(b.Records); begin.IsZero() {
			if err := k.check(strangers); err != nil {
				return p, err
			}
			runtime.ReadMemStats(&before)
			begin = time.Now()
			continue
		}
		p.labelling += labelled
		p.records += len(b.Records)
	}
	p.took = time.Since(begin)
	runtime.ReadMemStats(&after)
	p.allocs = after.Mallocs - before.Mallocs
	return p, nil
}

// check makes sure that what is measured is what is meant.
func (k *ringed) check(strangers int) error {
	if strangers > 0 {
		return fmt.Errorf("%d records are of nobody's endpoint", strangers)
	}
	for i := range k.rows {
		if r := &k.rows[i]; !r.Source.IsWorkload() || !r.Dest.IsWorkload() {
			return fmt.Errorf("record %d from %s to %s has an end that is no workload", i, r.Key.Source, r.Destination)
		}
	}
	return nil
}

// open makes the datapath, an endpoint with flows to all of the others, and
// their inventory.
func (k *ringed) open(s *site) error {
	pins := filepath.Join(s.temp, "bpf")
	if err := bpf.MountBPFFS(pins); err != nil {
		return err
	}
	k.later(func() error { return bpf.UnmountBPFFS(pins) })
	name := fmt.Sprintf("rf-bench-store-%d", os.Getpid())
	if err := wire.OnOwnThread(func() error {
		ns, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		return errors.Join(ns.Close(), netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "web"}, PeerName: "peer"}))
	}); err != nil {
		return fmt.Errorf("make network namespace %s: %w", name, err)
	}
	k.later(func() error { return netns.DeleteNamed(name) })
	const table = 131072
	var err error
	if k.d, err = bpf.Open(bpf.Config{PinDir: filepath.Join(pins, "node-1"), NetNS: name, FlowEntries: table, EndpointFlows: table}); err != nil {
		return err
	}
	k.later(k.d.Remove)
	if err := k.d.Attach(bpf.Endpoint{Interface: "web", ID: decodeEndpoint, Identity: flow.FirstWorkloadIdentity}); err != nil {
		return err
	}
	self := netip.MustParseAddr("10.1.0.1")
	// Else its packets would count as forged.
	if _, err := k.d.SetAddresses([]bpf.AddressOwner{{Addr: self, Identity: flow.FirstWorkloadIdentity, Endpoint: decodeEndpoint}}); err != nil {
		return err
	}
	owners, err := inventory.NewOwnership(inventory.OwnershipConfig{Node: "node-1"})
	if err != nil {
		return err
	}
	owners.Learn(inventory.NewIndex(decodeInventory(self)), time.Now().Add(-time.Hour))
	k.lab = collector.NewLabeller("node-1", owners)
	k.size = decodeWorkloads * decodeReplicas * decodePorts
	return wire.In(name, func() error { return k.fill(self) })
}

func decodeInventory(self netip.Addr) inventory.Inventory {
	inv := inventory.Inventory{Nodes: []inventory.Node{{Name: "node-1"}}}
	id := uint32(decodeEndpoint)
	add := func(w int, interfaceName string, addrs ...netip.Addr) {
		out := inventory.Workload{
			Namespace: fmt.Sprintf("ns-%d", w%40), Kind: "Deployment", Name: fmt.Sprintf("w%d", w),
			Labels:   map[string]string{"app": fmt.Sprintf("w%d", w), "tier": "service"},
			Identity: flow.FirstWorkloadIdentity + flow.Identity(w), //nolint:gosec // far below
		}
		for i, a := range addrs {
			out.Endpoints = append(out.Endpoints, inventory.Endpoint{
				Name: fmt.Sprintf("w%d-%d", w, i), Node: "node-1", Interface: interfaceName, Addresses: []netip.Addr{a}, ID: id,
			})
			id++
		}
		inv.Workloads = append(inv.Workloads, out)
	}
	add(0, "web", self)
	for w := range decodeWorkloads {
		var addrs []netip.Addr
		for i := range decodeReplicas {
			addrs = append(addrs, frame.Peer(peersAddr, w*decodeReplicas+i+1))
		}
		add(w+1, "", addrs...)
	}
	return inv
}

// fill begins the flows.
func (k *ringed) fill(self netip.Addr) error {
	link, err := net.InterfaceByName("web")
	if err != nil {
		return err
	}
	t := &target{index: link.Index, addr: self}
	defer func() { _ = t.close() }()
	if t.from.Program, err = drive.Attached(t.index, drive.Ingress); err != nil {
		return err
	}
	return t.each(frame.Flows{Hosts: decodeWorkloads * decodeReplicas, Ports: 1, EndpointPorts: decodePorts}, false, "S")
}

func (k *ringed) later(f func() error) { k.undo = append(k.undo, f) }

func (k *ringed) close() error {
	var errs []error
	for i := len(k.undo) - 1; i >= 0; i-- {
		errs = append(errs, k.undo[i]())
	}
	return errors.Join(errs...)
}
