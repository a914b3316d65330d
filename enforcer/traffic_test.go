package enforcer

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rollout"
	"github.com/ringfence/ringfence/test/pod"
	"github.com/ringfence/ringfence/test/wire"
)

var cart = flow.Workload{Namespace: "shop", Kind: "Host", Name: "cart"}

// shop is the pod, as cart, and the server, as front.
func shop() inventory.Inventory {
	addr := netip.MustParseAddr
	return inventory.Inventory{
		Nodes: []inventory.Node{{Name: "node-1", Addresses: []netip.Addr{addr("10.1.0.254"), addr("fd00:1::fe")}}},
		Workloads: []inventory.Workload{
			{
				Namespace: "shop", Kind: "Host", Name: "cart", Labels: map[string]string{"app": "cart"}, Identity: 301,
				Endpoints: []inventory.Endpoint{{Name: "cart-1", Node: "node-1", Interface: pod.Interface, ID: 1, Addresses: []netip.Addr{addr("10.1.0.1"), addr("fd00:1::1")}}},
			},
			{
				Namespace: "shop", Kind: "Host", Name: "front", Labels: map[string]string{"app": "front"}, Identity: 302,
				Endpoints: []inventory.Endpoint{{Name: "front-1", Node: "node-1", ID: 2, Addresses: []netip.Addr{addr(pod.Server[0]), addr(pod.Server[1])}}},
			},
		},
	}
}

func toFront(number uint32, port uint16) *rollout.Revision {
	return revision(number, policy.Policy{Workload: cart, IsolateEgress: true, Egress: []policy.Rule{{
		Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"app": "front"}}}},
		Ports: []policy.Port{{Protocol: flow.TCP, Port: port}},
	}}})
}

// client is a pod, and ports are where its server listens.
type client struct {
	*pod.Pod
	t *testing.T
}

var ports = []uint16{80, 443}

func newClient(t *testing.T) *client {
	t.Helper()
	return &client{pod.New(t, "enf", ports...), t}
}

// check says which of the server's ports the pod must reach, in both families.
func (p *client) check(when string, reached ...uint16) {
	p.t.Helper()
	for _, a := range pod.Server {
		for _, port := range ports {
			want := slices.Contains(reached, port)
			if got := p.Get(p.t.Context(), a, port, wire.Awaits(want)) == nil; got != want {
				p.t.Errorf("%s: %s port %d is reached: %v", when, a, port, got)
			}
		}
	}
}

// The whole way on real packets: observe, audit, enforce, restart, revert, drift
// and rollback.
func TestRealPackets(t *testing.T) {
	p := newClient(t)
	dir := t.TempDir()
	dp, e := openNode(t, p, dir, nil)
	apply := func(generation uint64, live, staged *rollout.Revision) rollout.Effective {
		t.Helper()
		r, err := e.Apply(t.Context(), rollout.State{Generation: generation, Inventory: shop(), Slots: []rollout.Slots{
			{Workload: cart, Live: live, Staged: staged, Confirm: 300 * time.Millisecond},
		}})
		if err != nil || r.Error != "" || len(r.Problems) > 0 || r.Generation != generation {
			t.Fatalf("apply %d: %v, %+v", generation, err, r)
		}
		return r.Workloads[0]
	}

	apply(1, nil, nil)
	p.check("observe", 80, 443)
	if got := apply(2, nil, toFront(1, 443)); got.Endpoints != 1 || got.ObservedSince.IsZero() || got.StagedRevision != 1 {
		t.Errorf("audit: %+v", got)
	}
	p.check("audit", 80, 443)

	began := time.Now()
	got := apply(3, toFront(1, 443), nil)
	if took := got.SwitchedAt.Sub(began); took > 100*time.Millisecond {
		t.Errorf("it took %s until the kernel switched", took)
	} else {
		t.Logf("%s until the kernel switched, %s for the report", took, time.Since(began))
	}
	if err := e.Confirm(cart, 1); err != nil {
		t.Fatal(err)
	}
	p.check("enforce", 443)

	// The agent dies; the kernel goes on, and the next agent finds nothing to do.
	if err := dp.Close(); err != nil {
		t.Fatal(err)
	}
	p.check("no agent", 443)
	dp, e = openNode(t, p, dir, confirmer(func(context.Context, flow.Workload, uint32) error { return errors.New("no way to the server") }))
	if n := testutil.ToFloat64(e.metrics.tables); n != 0 {
		t.Errorf("after the restart %v tables were written", n)
	}
	if r := e.Report(); r.Error != "" || r.Generation != 3 || r.Workloads[0].LiveRevision != 1 {
		t.Errorf("after the restart: %+v", r)
	}
	p.check("restarted", 443)

	// A revision that cuts everything off is not confirmed, and goes.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	apply(4, revision(2, policy.Policy{Workload: cart, IsolateEgress: true}), nil)
	reverted := func() rollout.Effective { return e.Report().Workloads[0] }
	for reverted().RevertedFrom != 2 {
		select {
		case <-e.Changed():
		case <-time.After(10 * time.Second):
			t.Fatalf("it stays: %+v", reverted())
		}
	}
	p.check("reverted", 443)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}

	// Somebody empties the kernel's table.
	if _, err := dp.Apply([]bpf.Table{{TableKey: bpf.TableKey{Identity: 301, Slot: flow.SlotLive, Direction: flow.Egress}, Delete: true}}); err != nil {
		t.Fatal(err)
	}
	p.check("emptied", 80, 443)
	e.checkKernel()
	p.check("repaired", 443)
	if n := testutil.ToFloat64(e.metrics.drift); n != 1 {
		t.Errorf("drift %v", n)
	}

	apply(5, revision(3, policy.Policy{Workload: cart}), toFront(1, 443))
	p.check("rolled back", 80, 443)
}

// What the kernel really holds, read back, is what was compiled.
func TestKernelHoldsWhatWasCompiled(t *testing.T) {
	p := newClient(t)
	dp, e := openNode(t, p, t.TempDir(), nil)
	prefix := netip.MustParsePrefix
	rules := []policy.Rule{
		{Peers: []policy.Peer{
			{CIDR: &policy.CIDR{Prefix: prefix("192.0.2.0/24"), Except: []netip.Prefix{prefix("192.0.2.128/25")}}},
			{CIDR: &policy.CIDR{Prefix: prefix("2001:db8::/32")}},
		}, Ports: []policy.Port{{Protocol: flow.TCP, Port: 440, EndPort: 450}}},
		{Peers: []policy.Peer{{Reserved: "world"}}, Ports: []policy.Port{{Protocol: flow.ICMP}}},
	}
	r, err := e.Apply(t.Context(), rollout.State{Generation: 1, Inventory: shop(), Slots: []rollout.Slots{
		{Workload: cart, Live: revision(1, policy.Policy{Workload: cart, IsolateEgress: true, Egress: rules})},
	}})
	if err != nil || len(r.Problems) > 0 {
		t.Fatal(err, r.Problems)
	}
	if drifted, err := e.readKernel(); err != nil || drifted != 0 {
		t.Errorf("%d tables differ, %v", drifted, err)
	}
	p.check("by prefix", 443)
	levels, err := dp.Levels()
	if err != nil || levels.CIDRs != 3 || levels.Addresses != 6 || levels.Tables != 2 || levels.Endpoints != 1 {
		t.Errorf("levels %+v, %v", levels, err)
	}
}

func TestUnknownInterface(t *testing.T) {
	p := newClient(t)
	_, e := openNode(t, p, t.TempDir(), nil)
	inv := shop()
	inv.Workloads[0].Endpoints[0].Interface = "rfnone"
	r, err := e.Apply(t.Context(), rollout.State{Generation: 1, Inventory: inv})
	if err != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "rfnone") || strings.Contains(r.Problems[0], "\n") {
		t.Errorf("error %v, problems %q", err, r.Problems)
	}
	t.Log(r.Problems)
}

func openNode(t *testing.T, p *client, dir string, c Confirmer) (*bpf.Datapath, *Enforcer) {
	t.Helper()
	dp, err := bpf.Open(bpf.Config{PinDir: p.Pins, NetNS: p.Node, FlowEntries: 1024, RingBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dp.Remove() })
	e, err := New(Config{Node: "node-1", StateDir: dir, Check: time.Hour, ConfirmRetry: 20 * time.Millisecond}, dp, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return dp, e
}
