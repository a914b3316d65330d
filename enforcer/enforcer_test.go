package enforcer

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
	"github.com/ringfence/ringfence/internal/rollout"
)

// node is an enforcer under test with its kernel, its clock and its disk.
type node struct {
	t     *testing.T
	dir   string
	clock *clock
	m     *model
	e     *Enforcer
	known []time.Time // since when each inventory counts that it told of
}

func newNode(t *testing.T) *node {
	t.Helper()
	c := newClock()
	n := &node{t: t, dir: t.TempDir(), clock: c, m: newModel(c)}
	n.restart()
	return n
}

// restart begins a new process on the same disk and the same kernel.
func (n *node) restart() rollout.Report {
	n.t.Helper()
	e, err := New(Config{Node: policytest.Node, StateDir: n.dir, Clock: n.clock, Version: "v1", Known: func(_ *inventory.Index, since time.Time) {
		n.known = append(n.known, since)
	}}, n.m, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	n.e = e
	r, err := e.Start(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	return r
}

func (n *node) apply(st rollout.State) rollout.Effective {
	n.t.Helper()
	if _, err := n.e.Apply(n.t.Context(), st); err != nil {
		n.t.Fatal(err)
	}
	return n.subject()
}

// subject is the report's line about policytest.Subject.
func (n *node) subject() rollout.Effective {
	n.t.Helper()
	for _, w := range n.e.Report().Workloads {
		if w.Workload == policytest.Subject {
			return w
		}
	}
	n.t.Fatalf("no line about %s in %+v", policytest.Subject, n.e.Report())
	return rollout.Effective{}
}

// packets checks what the live slot says of TCP 443 from Subject to a stranger,
// in IPv4 and in IPv6.
func (n *node) packets(want flow.Verdict, number uint32) {
	n.t.Helper()
	key := bpf.TableKey{Identity: subjectIdentity(), Slot: flow.SlotLive, Direction: flow.Egress}
	for _, a := range []string{"192.0.2.7", "2001:db8::7"} {
		if got := n.m.judge(key, netip.MustParseAddr(a), flow.TCP, 443); got.verdict != want || got.revision != number {
			n.t.Errorf("to %s: %s at revision %d, want %s at %d", a, got.verdict, got.revision, want, number)
		}
	}
}

func closed() policy.Policy { return policy.Policy{Workload: policytest.Subject, IsolateEgress: true} }

func https() policy.Policy {
	p := closed()
	p.Egress = []policy.Rule{{Ports: []policy.Port{{Protocol: flow.TCP, Port: 443}}}}
	return p
}

func open() policy.Policy { return policy.Policy{Workload: policytest.Subject} }

func state(generation uint64, live, staged *rollout.Revision) rollout.State {
	return rollout.State{Generation: generation, Inventory: policytest.Inventory(), Slots: []rollout.Slots{
		{Workload: policytest.Subject, Live: live, Staged: staged, Confirm: 10 * time.Second},
	}}
}

func TestStages(t *testing.T) {
	n := newNode(t)
	n.apply(state(1, nil, nil))
	n.packets(flow.VerdictUnknown, 0)

	got := n.apply(state(2, nil, revision(1, closed())))
	if got.LiveRevision != 0 || got.StagedRevision != 1 || got.Unconfirmed {
		t.Errorf("audit: %+v", got)
	}
	n.packets(flow.VerdictUnknown, 0)
	key := bpf.TableKey{Identity: subjectIdentity(), Slot: flow.SlotStaged, Direction: flow.Egress}
	if j := n.m.judge(key, netip.MustParseAddr("192.0.2.7"), flow.TCP, 443); j.verdict != flow.VerdictDeny {
		t.Errorf("the staged slot says %s", j.verdict)
	}

	got = n.apply(state(3, revision(1, closed()), nil))
	if got.LiveRevision != 1 || got.StagedRevision != 0 || !got.Unconfirmed || !got.Deadline.Equal(n.clock.Now().Add(10*time.Second)) || !got.SwitchedAt.Equal(n.clock.Now()) {
		t.Errorf("enforce: %+v", got)
	}
	n.packets(flow.VerdictDeny, 1)
	if _, ok := n.m.tables[key]; ok {
		t.Error("the staged table is still there")
	}

	// The way back asks nobody.
	got = n.apply(state(4, revision(2, open()), revision(1, closed())))
	if got.LiveRevision != 2 || got.StagedRevision != 1 || got.Unconfirmed {
		t.Errorf("rollback: %+v", got)
	}
	n.packets(flow.VerdictAllow, 2)
	if r := n.e.Report(); r.Generation != 4 || r.Error != "" || r.Version != "v1" || r.Node != policytest.Node {
		t.Errorf("report %+v", r)
	}
}

func TestEndpoints(t *testing.T) {
	n := newNode(t)
	n.m.absent["rfw3"] = true
	r, err := n.e.Apply(t.Context(), state(1, nil, nil))
	if err != nil || r.Error != "" || !slices.Equal(r.Problems, []string{"endpoint of shop/Host/pay: attach to rfw3: there is no such interface"}) {
		t.Errorf("error %v, report %+v", err, r)
	}
	if r.Generation != 1 || len(r.Workloads) != 3 || r.Workloads[1].Endpoints != 1 || r.Workloads[2].Endpoints != 0 {
		t.Errorf("report %+v", r)
	}
	if !r.Workloads[1].ObservedSince.Equal(n.clock.Now()) {
		t.Errorf("observed since %s", r.Workloads[1].ObservedSince)
	}
	// It appears.
	delete(n.m.absent, "rfw3")
	n.e.checkKernel()
	if r := n.e.Report(); len(r.Problems) != 0 || r.Workloads[2].Endpoints != 1 {
		t.Errorf("report %+v", r)
	}
	// An endpoint leaves, and another node's never was ours.
	st := state(2, nil, nil)
	st.Inventory.Workloads[2].Endpoints[0].Node = "node-2"
	n.apply(st)
	if len(n.m.attached) != 2 {
		t.Errorf("attached %+v", n.m.attached)
	}
	if r := n.e.Report(); len(r.Workloads) != 2 {
		t.Errorf("workloads %+v", r.Workloads)
	}
}

// Tunnels that the inventory wants looked into reach the kernel, also when they
// change.
func TestTunnels(t *testing.T) {
	n := newNode(t)
	for i, c := range []struct {
		names []inventory.Tunnel
		want  bpf.Tunnels
	}{
		{nil, 0},
		{[]inventory.Tunnel{inventory.TunnelVXLAN}, bpf.TunnelVXLAN},
		{[]inventory.Tunnel{inventory.TunnelIPIP, inventory.TunnelGENEVE, inventory.TunnelGRE}, bpf.TunnelGENEVE | bpf.TunnelGRE | bpf.TunnelIPIP},
		{nil, 0},
	} {
		st := state(uint64(i+1), nil, nil)
		e := &st.Inventory.Workloads[0].Endpoints[0]
		e.Tunnels = c.names
		n.apply(st)
		found := false
		for _, a := range n.m.attached {
			if a.ID == e.ID {
				found = true
				if a.Tunnels != c.want {
					t.Errorf("step %d: tunnels %#x, want %#x", i, a.Tunnels, c.want)
				}
			}
		}
		if !found {
			t.Errorf("step %d: not attached", i)
		}
	}
}

// A workload that leaves is unwatched before its tables go: it must not be
// watched without them.
func TestLeavingWorkloadIsDetachedFirst(t *testing.T) {
	n := newNode(t)
	n.apply(state(1, revision(1, closed()), nil))
	n.m.step = func() {
		watched := false
		for _, a := range n.m.attached {
			watched = watched || a.Identity == subjectIdentity()
		}
		if _, ok := n.m.tables[bpf.TableKey{Identity: subjectIdentity(), Direction: flow.Egress}]; watched && !ok {
			t.Error("the endpoint is watched and has no policy")
		}
	}
	st := state(2, revision(1, closed()), nil)
	st.Inventory.Workloads[0].Endpoints[0].Node = "node-2"
	if _, err := n.e.Apply(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	if len(n.m.tables) != 0 {
		t.Errorf("tables %v", n.m.tables)
	}
}

func TestDriftIsRepaired(t *testing.T) {
	n := newNode(t)
	n.apply(state(1, revision(1, closed()), nil))
	n.e.checkKernel()
	if got := testutil.ToFloat64(n.e.metrics.drift); got != 0 {
		t.Errorf("drift %v without any", got)
	}
	key := bpf.TableKey{Identity: subjectIdentity(), Slot: flow.SlotLive, Direction: flow.Egress}
	stray := bpf.TableKey{Identity: 999, Slot: flow.SlotLive, Direction: flow.Egress}
	delete(n.m.tables, key)
	n.m.tables[stray] = bpf.Table{TableKey: stray, Revision: 3}
	n.m.addresses, n.m.attached = nil, nil
	n.packets(flow.VerdictUnknown, 0)
	n.e.checkKernel()
	n.packets(flow.VerdictDeny, 1)
	if _, ok := n.m.tables[stray]; ok {
		t.Error("the stray table is still there")
	}
	if len(n.m.addresses) != 16 || len(n.m.attached) != 3 {
		t.Errorf("%d addresses, %d endpoints", len(n.m.addresses), len(n.m.attached))
	}
	if got := testutil.ToFloat64(n.e.metrics.drift); got != 2 {
		t.Errorf("drift %v, want 2", got)
	}
}

func TestOnlyDifferencesAreWritten(t *testing.T) {
	n := newNode(t)
	n.apply(state(1, revision(1, closed()), nil))
	written := testutil.ToFloat64(n.e.metrics.tables)
	calls := n.m.calls["SetAddresses"] + n.m.calls["SetCIDRs"] + n.m.calls["Attach"]
	n.apply(state(2, revision(1, closed()), nil))
	if got := testutil.ToFloat64(n.e.metrics.tables); got != written {
		t.Errorf("%v tables were written", got-written)
	}
	if got := n.m.calls["SetAddresses"] + n.m.calls["SetCIDRs"] + n.m.calls["Attach"]; got != calls {
		t.Errorf("%d other writes", got-calls)
	}
	n.apply(state(3, revision(1, closed()), revision(2, https())))
	if got := testutil.ToFloat64(n.e.metrics.tables); got != written+2 {
		t.Errorf("%v tables were written for one more slot", got-written)
	}
}

func TestInventory(t *testing.T) {
	n := newNode(t)
	if x, _ := n.e.Inventory(); x != nil {
		t.Error("an inventory before any State")
	}
	n.apply(state(1, nil, nil))
	first, since := n.e.Inventory()
	if first == nil || !since.Equal(n.clock.Now()) {
		t.Fatalf("got %v, %s", first, since)
	}
	n.clock.Advance(time.Minute)
	n.apply(state(2, revision(1, closed()), nil))
	if x, at := n.e.Inventory(); x != first || !at.Equal(since) {
		t.Error("another policy made it another inventory")
	}
	st := state(3, revision(1, closed()), nil)
	st.Inventory.Workloads[1].Labels["tier"] = "x"
	n.apply(st)
	if x, at := n.e.Inventory(); x == first || !at.Equal(n.clock.Now()) {
		t.Error("the new inventory is not shown")
	}
	n.restart()
	if x, _ := n.e.Inventory(); x == nil || x.Workload(flow.Workload{Namespace: "shop", Kind: "Host", Name: "front"}).Labels["tier"] != "x" {
		t.Error("the inventory is gone after a restart")
	}
	if want := []time.Time{since, n.clock.Now(), n.clock.Now()}; !slices.EqualFunc(n.known, want, time.Time.Equal) {
		t.Errorf("told of inventories since %v, want %v", n.known, want)
	}
}

// A policy that stays the same means something else when its surroundings change.
func TestUnchangedPolicyFollowsItsSurroundings(t *testing.T) {
	front := policy.Peer{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"tier": "web"}}}
	around := policy.Peer{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("192.0.0.0/16")}}
	p := closed()
	p.Egress = []policy.Rule{{Peers: []policy.Peer{front, around}}}
	live := revision(1, p)
	judge := func(n *node, a string) flow.Verdict {
		key := bpf.TableKey{Identity: subjectIdentity(), Slot: flow.SlotLive, Direction: flow.Egress}
		return n.m.judge(key, netip.MustParseAddr(a), flow.TCP, 443).verdict
	}
	peers := policytest.Inventory().Workloads
	frontAddr, payAddr := peers[1].Endpoints[0].Addresses, peers[2].Endpoints[0].Addresses
	t.Run("labels of a peer", func(t *testing.T) {
		n := newNode(t)
		n.apply(state(1, live, nil))
		st := state(2, live, nil)
		st.Inventory.Workloads[1].Labels["tier"] = "back"
		st.Inventory.Workloads[2].Labels["tier"] = "web"
		n.apply(st)
		for i := range 2 {
			if got := judge(n, frontAddr[i].String()); got != flow.VerdictDeny {
				t.Errorf("no longer selected, %s: %s", frontAddr[i], got)
			}
			if got := judge(n, payAddr[i].String()); got != flow.VerdictAllow {
				t.Errorf("selected now, %s: %s", payAddr[i], got)
			}
		}
	})
	t.Run("a longer prefix elsewhere", func(t *testing.T) {
		n := newNode(t)
		n.apply(state(1, live, nil))
		other := policy.Policy{Workload: flow.Workload{Namespace: "shop", Kind: "Host", Name: "pay"}, IsolateEgress: true, Egress: []policy.Rule{
			{Peers: []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("192.0.2.0/24")}}}},
		}}
		st := state(2, live, nil)
		st.Slots = append(st.Slots, rollout.Slots{Workload: other.Workload, Live: revision(1, other)})
		n.apply(st)
		for _, a := range []string{"192.0.2.7", "192.0.1.7"} {
			if got := judge(n, a); got != flow.VerdictAllow {
				t.Errorf("%s: %s", a, got)
			}
		}
		if got := judge(n, "192.1.0.1"); got != flow.VerdictDeny {
			t.Errorf("outside: %s", got)
		}
		n.apply(state(3, live, nil))
		if got := judge(n, "192.0.2.7"); got != flow.VerdictAllow {
			t.Errorf("when the longer one is gone: %s", got)
		}
	})
}

func TestPanicIsReported(t *testing.T) {
	n := newNode(t)
	n.m.panicked = true
	if !n.e.Report().Panicked {
		t.Error("not reported")
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{Check: -1}, newModel(systemClock{}), nil); err == nil ||
		!strings.Contains(err.Error(), "node name") || !strings.Contains(err.Error(), "state directory") || !strings.Contains(err.Error(), "check interval") {
		t.Errorf("got %v", err)
	}
	reg := prometheus.NewPedanticRegistry()
	if _, err := New(Config{Node: "n", StateDir: "d", Registerer: reg}, newModel(systemClock{}), nil); err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
}
