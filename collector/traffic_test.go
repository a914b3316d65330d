package collector

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/spool"
	"github.com/ringfence/ringfence/test/pod"
	"github.com/ringfence/ringfence/test/wire"
)

// port is where the server listens.
const port = 443

// process is one agent's collector on the real datapath.
type process struct {
	t      *testing.T
	dp     *bpf.Datapath
	reader *bpf.Reader
	cancel context.CancelFunc
	done   chan error
}

func startProcess(t *testing.T, p *pod.Pod, dir string, s Sink, patience time.Duration) *process {
	t.Helper()
	dp, err := bpf.Open(bpf.Config{PinDir: p.Pins, NetNS: p.Node, FlowEntries: 4096, RingBytes: 1 << 20, SweepInterval: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dp.Remove() })
	if err := dp.Attach(bpf.Endpoint{Interface: pod.Interface, ID: 1, Identity: 301}); err != nil {
		t.Fatal(err)
	}
	if _, err := dp.SetAddresses([]bpf.AddressOwner{
		{Addr: addr("10.1.0.1"), Identity: 301, Endpoint: 1}, {Addr: addr("fd00:1::1"), Identity: 301, Endpoint: 1},
		{Addr: addr(pod.Server[0]), Identity: 302, Endpoint: 2}, {Addr: addr(pod.Server[1]), Identity: 302, Endpoint: 2},
	}); err != nil {
		t.Fatal(err)
	}
	r, err := dp.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	o := owners(t, snapshot{time.Now(), world(func(inv *inventory.Inventory) {
		inv.Workloads[1].Endpoints[0].Interface, inv.Workloads[3].Endpoints[0].Interface = "", "" // not watched
		inv.Workloads[1].Endpoints[0].Addresses = []netip.Addr{addr(pod.Server[0]), addr(pod.Server[1])}
	})})
	held, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool")})
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Node: "node-1", StateDir: dir, BatchAge: 20 * time.Millisecond, SmallAge: 20 * time.Millisecond, Sweep: 50 * time.Millisecond, Heartbeat: 200 * time.Millisecond, Flush: 200 * time.Millisecond, MinPause: 10 * time.Millisecond, MaxPause: 20 * time.Millisecond, Patience: patience},
		Deps{Reader: r, Datapath: dp, Owners: o, Sink: s, Spool: held})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	x := &process{t: t, dp: dp, reader: r, cancel: cancel, done: make(chan error, 1)}
	go func() { x.done <- c.Run(ctx) }()
	return x
}

func (x *process) stop() {
	x.t.Helper()
	x.cancel()
	if err := errors.Join(<-x.done, x.reader.Close(), x.dp.Close()); err != nil {
		x.t.Error(err)
	}
}

// Every real connection is stored once, whatever becomes of the store and of the
// agent meanwhile.
func TestRealConnectionsAreCountedExactly(t *testing.T) {
	p, dir, s := pod.New(t, "col", port), t.TempDir(), newSink()
	began := time.Now()
	x := startProcess(t, p, dir, s, time.Minute)
	total := 0
	connect := func(n int) {
		t.Helper()
		var wait sync.WaitGroup
		for i := range n {
			wait.Go(func() {
				if err := p.Get(t.Context(), pod.Server[i%2], port, wire.Arrives); err != nil {
					t.Error(err)
				}
			})
			if i%10 == 9 {
				wait.Wait()
			}
		}
		wait.Wait()
		total += n
	}
	// told waits until the store was asked after now.
	told := func() {
		t.Helper()
		for len(s.told) > 0 {
			<-s.told
		}
		for range 2 {
			select {
			case <-s.told:
			case <-time.After(wire.Arrives):
				t.Fatal("nothing is stored")
			}
		}
	}
	connect(60)
	// Answers are lost, and the agent ends with a batch of which it does not
	// know whether it was stored.
	s.set(func() { s.err, s.lose = errors.New("reset"), true })
	connect(40)
	told()
	x.stop()
	connect(50) // nobody reads
	s.set(func() { s.err, s.lose = nil, false })
	x = startProcess(t, p, dir, s, 50*time.Millisecond)
	connect(50)
	// The store is away altogether.
	s.set(func() { s.err = errors.New("refused") })
	connect(40)
	told()
	s.set(func() { s.err = nil })

	deadline := time.Now().Add(10 * time.Second)
	for connections(s)[""] < total && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond) // the sweep reports what is not yet reported
	}
	x.stop()
	got := connections(s)
	if got[""] != total || got[pod.Server[0]] != total/2 || got[pod.Server[1]] != total/2 {
		t.Errorf("%v connections are stored, %d were made", got, total)
	}
	for _, r := range s.rows() {
		if r.Protocol != flow.TCP {
			continue
		}
		if *r.Source != party("frontend") || *r.Dest != party("cart") || r.Observer.Workload != workload("frontend") || r.Direction != flow.Egress || r.DestinationPort != port {
			t.Fatalf("stored %+v", r)
		}
		if r.Time.Before(began.Add(-time.Second)) || r.Time.After(time.Now().Add(time.Second)) {
			t.Errorf("a record of %s", r.Time)
		}
	}
	starts := 0
	for _, c := range s.coverage {
		if c.Lost != 0 || c.Endpoints != 1 {
			t.Errorf("coverage %+v", c)
		}
		if c.Started {
			starts++
		}
	}
	if starts != 2 {
		t.Errorf("%d first heartbeats", starts)
	}
}

// connections returns how many began, by destination, and under "" altogether.
func connections(s *sink) map[string]int {
	out := map[string]int{}
	for _, r := range s.rows() {
		if r.Protocol == flow.TCP {
			out[r.Destination.String()] += int(r.Connections)
			out[""] += int(r.Connections)
		}
	}
	return out
}
