package collector

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/bpf/drive"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/test/pod"
	"github.com/ringfence/ringfence/test/wire"
)

// Of the benchmark's estate: 2,000 workloads with five endpoints each, every one
// of which the pod talks to, from twelve ports.
const (
	benchPeers   = 10_000
	benchPorts   = 12
	benchRecords = benchPeers * benchPorts
)

// BenchmarkDecodeAndLabel is what a record costs from the kernel's ring to a row
// that can be stored: read out of the mapped ring, checked, put into flow.Record,
// and both ends and the observer attributed. The ring is a real one, filled by
// the programs. A record is one flow's first; peers are hit in turn, so that
// look-ups miss the cache as they would.
func BenchmarkDecodeAndLabel(b *testing.B) {
	p := pod.New(b, "dec")
	dp, err := bpf.Open(bpf.Config{PinDir: p.Pins, NetNS: p.Node, FlowEntries: 1 << 18, EndpointFlows: 1 << 18, RingBytes: 16 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = dp.Remove() })
	if err := dp.Attach(bpf.Endpoint{Interface: pod.Interface, ID: 1, Identity: 301}); err != nil {
		b.Fatal(err)
	}
	if _, err := dp.SetAddresses([]bpf.AddressOwner{{Addr: addr("10.1.0.1"), Identity: 301, Endpoint: 1}}); err != nil {
		b.Fatal(err)
	}
	if err := wire.In(p.Node, fillRing); err != nil {
		b.Fatal(err)
	}
	labels := NewLabeller("node-1", owners(b, snapshot{t0, benchEstate()}))
	rows := make([]flow.Labelled, 0, benchRecords)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		// What the last one did not commit is read again.
		r, err := dp.NewReader()
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		rows = rows[:0]
		for len(rows) < benchRecords {
			batch, err := r.Next(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			rows, _ = labels.Label(rows, batch.Records)
		}
		b.StopTimer()
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	records := float64(b.N) * benchRecords
	b.ReportMetric(records/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/records, "ns/record")
	for i := range rows {
		if !rows[i].Source.IsWorkload() || !rows[i].Dest.IsWorkload() || rows[i].Observer != rows[i].Source {
			b.Fatalf("row %d: %+v → %+v", i, rows[i].Source, rows[i].Dest)
		}
	}
}

// benchEstate is the inventory; the pod is an endpoint of its first workload.
func benchEstate() *inventory.Index {
	inv := inventory.Inventory{Nodes: []inventory.Node{{Name: "node-1", Addresses: []netip.Addr{addr("10.0.0.1")}}}}
	for w := range benchPeers / 5 {
		name := fmt.Sprint("workload-", w)
		wl := inventory.Workload{
			Namespace: fmt.Sprint("namespace-", w%50), Kind: "Deployment", Name: name, Identity: flow.Identity(300 + w),
			Labels: map[string]string{"app": name, "tier": "backend"},
		}
		for e := range 5 {
			i := 5*w + e
			wl.Endpoints = append(wl.Endpoints, inventory.Endpoint{
				ID: uint32(i + 2), Name: fmt.Sprint(name, "-", e), Node: "node-1", Interface: "rf0", Addresses: []netip.Addr{benchPeer(i)},
			})
		}
		inv.Workloads = append(inv.Workloads, wl)
	}
	inv.Workloads[0].Endpoints = append(inv.Workloads[0].Endpoints, inventory.Endpoint{
		ID: 1, Name: "pod", Node: "node-1", Interface: pod.Interface, Addresses: []netip.Addr{addr("10.1.0.1")},
	})
	return inventory.NewIndex(inv)
}

func benchPeer(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}) }

// fillRing sends one UDP datagram of each flow past the programs.
func fillRing() error {
	iface, err := net.InterfaceByName(pod.Interface)
	if err != nil {
		return err
	}
	target, err := drive.Attached(iface.Index, drive.Ingress)
	if err != nil {
		return err
	}
	defer target.Close() //nolint:errcheck // a test's
	frame := make([]byte, 64)
	binary.BigEndian.PutUint16(frame[12:], 0x0800)
	ip := frame[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, byte(flow.UDP)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], addr("10.1.0.1").AsSlice())
	copy(ip[16:], benchPeer(0).AsSlice())
	binary.BigEndian.PutUint16(ip[22:], 53)
	binary.BigEndian.PutUint16(ip[24:], uint16(len(ip)-20))
	d, err := drive.New(target, drive.Walk{Fields: []drive.Field{{Offset: 14 + 18, Base: 0, Count: benchPeers}, {Offset: 14 + 20, Base: 40_000, Count: benchPorts}}}, len(frame))
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // a test's
	for range benchRecords / 1000 {
		if _, _, err := d.Run(frame, drive.Where{Index: iface.Index}, 1000); err != nil {
			return err
		}
	}
	if at, err := d.At(); err != nil || at != benchRecords {
		return fmt.Errorf("%d datagrams were sent, %w", at, err)
	}
	return nil
}
