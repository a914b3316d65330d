package enforcer

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
	"github.com/ringfence/ringfence/internal/rollout"
	"github.com/ringfence/ringfence/test/wire"
)

// The addresses of a service, one of each family. Nobody has them.
var serviceAddrs = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::10")}

// serving is a State in which the subject may reach peers on a TCP port, and a
// service stands in front of the workloads of the namespace with these labels.
func serving(generation uint64, labels map[string]string, port uint16, peers ...policy.Peer) rollout.State {
	st := rollout.State{Generation: generation, Inventory: policytest.Inventory()}
	if labels != nil {
		st.Inventory.Services = []inventory.Service{{
			Namespace: "shop", Name: "web", Addresses: serviceAddrs, Selector: labels,
			Ports: []inventory.ServicePort{{Protocol: flow.TCP, Port: 80, TargetPort: 8080}},
		}}
	}
	p := policy.Policy{Workload: policytest.Subject, IsolateEgress: true, Egress: []policy.Rule{
		{Peers: peers, Ports: []policy.Port{{Protocol: flow.TCP, Port: port}}},
	}}
	st.Slots = []rollout.Slots{{Workload: policytest.Subject, Live: revision(uint32(generation), p)}}
	return st
}

func shopWith(key, value string) policy.Peer {
	return policy.Peer{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{key: value}}}
}

// Who may reach all that is behind a service may reach it, whatever becomes of the
// service meanwhile: at every step of each change.
func TestServiceStaysReachable(t *testing.T) {
	m := newModel(systemClock{})
	e, err := New(Config{Node: policytest.Node, StateDir: t.TempDir()}, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	world := policy.Peer{Reserved: "world"}
	prefixes := []policy.Peer{
		{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("10.1.0.2/31")}}, {CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("fd00:1::2/127")}},
	}
	steps := 0
	for i, st := range []rollout.State{
		serving(1, nil, 80, world),
		serving(2, map[string]string{"app": "front"}, 8080, shopWith("app", "front")),
		serving(3, map[string]string{"app": "pay"}, 8080, shopWith("app", "pay")),
		serving(4, map[string]string{"app": "front"}, 8080, prefixes...),
		serving(5, map[string]string{"tier": "web"}, 8080, shopWith("tier", "web"), world),
		serving(6, nil, 80, world),
		serving(7, map[string]string{"app": "nobody"}, 80, world), // nobody is behind it
	} {
		if _, err := e.Apply(t.Context(), st); err != nil {
			t.Fatal(err)
		}
		m.step = func() {
			steps++
			for _, a := range serviceAddrs {
				key := bpf.TableKey{Identity: subjectIdentity(), Slot: flow.SlotLive, Direction: flow.Egress}
				if got := m.judge(key, a, flow.TCP, 80); got.verdict != flow.VerdictAllow {
					t.Errorf("step %d, from state %d on, %s: %+v", steps, i+1, a, got)
				}
			}
		}
	}
	if steps == 0 {
		t.Error("no step was looked at")
	}
}

// A packet may reach any of the backends, so all of them must be allowed, on their
// ports; and the address of a service is nothing else.
func TestServiceIsItsBackends(t *testing.T) {
	world := policy.Peer{Reserved: "world"}
	around := []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.PrefixFrom(serviceAddrs[0], 24)}}, {CIDR: &policy.CIDR{Prefix: netip.PrefixFrom(serviceAddrs[1], 64)}}}
	for i := range around {
		around[i].CIDR.Prefix = around[i].CIDR.Prefix.Masked()
	}
	front, back := map[string]string{"app": "front"}, map[string]string{"tier": "back"}
	for _, c := range []struct {
		name    string
		st      rollout.State
		allowed bool
		problem string
	}{
		{"the backend on its port", serving(1, front, 8080, shopWith("app", "front")), true, ""},
		{"the backend on the service's port", serving(1, front, 80, shopWith("app", "front")), false, ""},
		{"another workload", serving(1, front, 8080, shopWith("app", "pay")), false, ""},
		{"all of the backends", serving(1, back, 8080, shopWith("tier", "back")), true, ""},
		{"one of the backends", serving(1, back, 8080, shopWith("app", "pay")), false, "allows some of what is behind TCP 10.96.0.10:80, service shop/web"},
		{"the world, where the backend is not", serving(1, front, 80, world), false, ""},
		{"a prefix around the service", serving(1, front, 80, around...), false, ""},
		{"anybody on the service's port", serving(1, front, 80), false, ""},
		{"anybody on the backend's port", serving(1, front, 8080), true, ""},
		{"nobody behind the service", serving(1, map[string]string{"app": "nobody"}, 80, world), true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newModel(systemClock{})
			e, err := New(Config{Node: policytest.Node, StateDir: t.TempDir()}, m, nil)
			if err != nil {
				t.Fatal(err)
			}
			r, err := e.Apply(t.Context(), c.st)
			if err != nil || len(r.Problems) > 1 || c.problem == "" != (len(r.Problems) == 0) || !strings.Contains(strings.Join(r.Problems, ""), c.problem) {
				t.Errorf("%v, problems %q", err, r.Problems)
			}
			for _, a := range serviceAddrs {
				key := bpf.TableKey{Identity: subjectIdentity(), Slot: flow.SlotLive, Direction: flow.Egress}
				if got := m.judge(key, a, flow.TCP, 80); got.verdict == flow.VerdictAllow != c.allowed {
					t.Errorf("%s: %+v", a, got)
				}
				if got := m.judge(key, a, flow.TCP, 81); got.verdict == flow.VerdictAllow {
					t.Errorf("%s on a port that it lacks: %+v", a, got)
				}
				if got := m.judge(key, a, flow.UDP, 80); got.verdict == flow.VerdictAllow {
					t.Errorf("%s by a protocol that it lacks: %+v", a, got)
				}
			}
		})
	}
}

func TestTooManyServices(t *testing.T) {
	m := newModel(systemClock{})
	m.limits.Services = 1
	e, err := New(Config{Node: policytest.Node, StateDir: t.TempDir()}, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Apply(t.Context(), serving(1, map[string]string{"app": "front"}, 8080))
	if err == nil || !strings.Contains(err.Error(), "inventory has 2 ports of services' addresses") || m.services != nil || len(m.tables) > 0 {
		t.Errorf("error %v, the kernel has %v and %d tables", err, m.services, len(m.tables))
	}
}

// shopServices is shop with the server behind a service, by two ports of each
// protocol, of which one leads to 443.
func shopServices(labels map[string]string) inventory.Inventory {
	inv := shop()
	inv.Services = []inventory.Service{{
		Namespace: "shop", Name: "front", Addresses: serviceAddrs, Selector: labels,
		Ports: []inventory.ServicePort{
			{Protocol: flow.TCP, Port: 8443, TargetPort: 443}, {Protocol: flow.TCP, Port: 8080, TargetPort: 80},
			{Protocol: flow.UDP, Port: 8443, TargetPort: 443}, {Protocol: flow.UDP, Port: 8080, TargetPort: 80},
		},
	}}
	return inv
}

// proxy is what a node's kube-proxy does: nftables behind the pod's interface.
const proxy = `table inet proxy {
	chain services {
		type nat hook prerouting priority dstnat;
		ip daddr 10.96.0.10 meta l4proto { tcp, udp } th dport 8443 dnat ip to 192.0.2.10:443
		ip daddr 10.96.0.10 meta l4proto { tcp, udp } th dport 8080 dnat ip to 192.0.2.10:80
		ip6 daddr fd00:96::10 meta l4proto { tcp, udp } th dport 8443 dnat ip6 to [2001:db8::10]:443
		ip6 daddr fd00:96::10 meta l4proto { tcp, udp } th dport 8080 dnat ip6 to [2001:db8::10]:80
	}
}
`

// Real packets to a service's address, through a real address translation.
func TestRealPacketsToService(t *testing.T) {
	p := newClient(t)
	if err := wire.In(p.Node, func() error {
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(proxy)
		out, err := nft.CombinedOutput()
		if err != nil {
			t.Logf("nft: %s", out)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// The policy allows by UDP the port that it denies by TCP.
	other := map[uint16]uint16{8443: 8080, 8080: 8443}
	check := func(when string, reached ...uint16) {
		t.Helper()
		for _, a := range serviceAddrs {
			for _, port := range []uint16{8443, 8080} {
				want := slices.Contains(reached, port)
				if got := p.Get(t.Context(), a.String(), port, wire.Awaits(want)) == nil; got != want {
					t.Errorf("%s: %s TCP %d is reached: %v", when, a, port, got)
				}
				want = slices.Contains(reached, other[port])
				if got := p.Ask(t.Context(), a.String(), port, wire.Awaits(want)) == nil; got != want {
					t.Errorf("%s: %s UDP %d is reached: %v", when, a, port, got)
				}
			}
		}
	}
	dir := t.TempDir()
	dp, e := openNode(t, p, dir, nil)
	denied := func(name string) uint64 {
		t.Helper()
		n, err := dp.Counters()
		if err != nil {
			t.Fatal(err)
		}
		return n[name]
	}
	apply := func(generation uint64, inv inventory.Inventory, live, staged *rollout.Revision) {
		t.Helper()
		r, err := e.Apply(t.Context(), rollout.State{Generation: generation, Inventory: inv, Slots: []rollout.Slots{
			{Workload: cart, Live: live, Staged: staged, Confirm: time.Hour},
		}})
		if err != nil || r.Error != "" || len(r.Problems) > 0 {
			t.Fatalf("apply %d: %v, %+v", generation, err, r)
		}
	}
	front := map[string]string{"app": "front"}
	toFront := revision(1, policy.Policy{Workload: cart, IsolateEgress: true, Egress: []policy.Rule{{
		Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: "shop", MatchLabels: front}}},
		Ports: []policy.Port{{Protocol: flow.TCP, Port: 443}, {Protocol: flow.UDP, Port: 80}},
	}}})

	apply(1, shopServices(front), nil, nil)
	check("observe", 8443, 8080)
	apply(2, shopServices(front), nil, toFront)
	staged := bpf.StagedDeny(flow.ReasonDefault)
	before := denied(staged)
	if check("audit", 8443, 8080); denied(staged) == before {
		t.Error("nothing was audited")
	}
	apply(3, shopServices(front), toFront, nil)
	check("enforce", 8443)
	p.check("enforce, directly", 443)
	if denied(bpf.LiveDeny(flow.ReasonDefault)) == 0 {
		t.Error("nothing was denied by default")
	}

	if err := dp.Close(); err != nil {
		t.Fatal(err)
	}
	check("no agent", 8443)
	dp, e = openNode(t, p, dir, nil)
	check("restarted", 8443)
	if err := e.Confirm(cart, 1); err != nil {
		t.Fatal(err)
	}

	// Somebody else is behind it, then the service is no more.
	apply(4, shopServices(map[string]string{"app": "cart"}), toFront, nil)
	check("another's")
	apply(5, shopServices(front), toFront, nil)
	check("front's again", 8443)
	apply(6, shop(), toFront, nil)
	check("nobody's")
	toWorld := revision(2, policy.Policy{Workload: cart, IsolateEgress: true, Egress: []policy.Rule{{Peers: []policy.Peer{{Reserved: "world"}}}}})
	apply(7, shopServices(front), toWorld, nil)
	check("the world is not what is behind it")
	apply(8, shop(), toWorld, nil)
	check("without a service, the world is", 8443, 8080)
}

// BenchmarkServices plans a node of 50 workloads, in a cluster of 5,000 services
// of two ports each, when an endpoint behind one of them comes and goes.
func BenchmarkServices(b *testing.B) {
	var inv inventory.Inventory
	inv.Nodes = []inventory.Node{{Name: "node-1"}}
	var wanted []flow.Workload
	policies := map[flow.Workload]slots{}
	for i := range 5000 {
		w := inventory.Workload{
			Namespace: fmt.Sprint("team-", i%100), Kind: "Deployment", Name: fmt.Sprint("app-", i), Labels: map[string]string{"app": fmt.Sprint("app-", i)},
			Identity: flow.FirstWorkloadIdentity + flow.Identity(i),
		}
		for j := range 3 {
			n := 3*i + j
			e := inventory.Endpoint{Name: fmt.Sprint(j), Node: "node-2", ID: uint32(n + 1), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)})}}
			if i < 50 && j == 0 {
				e.Node, e.Interface = "node-1", fmt.Sprint("veth", i)
			}
			w.Endpoints = append(w.Endpoints, e)
		}
		inv.Workloads = append(inv.Workloads, w)
		inv.Services = append(inv.Services, inventory.Service{
			Namespace: w.Namespace, Name: w.Name, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})}, Selector: w.Labels,
			Ports: []inventory.ServicePort{{Protocol: flow.TCP, Port: 80, TargetPort: 8080}, {Protocol: flow.TCP, Port: 443, TargetPort: 8443}},
		})
		if i < 50 {
			wanted = append(wanted, w.Ref())
		}
	}
	for i, ref := range wanted {
		p := policy.Policy{Workload: ref, IsolateEgress: true}
		for j := range 10 {
			to := inv.Workloads[100*j+i]
			p.Egress = append(p.Egress, policy.Rule{
				Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: to.Namespace, MatchLabels: to.Labels}}},
				Ports: []policy.Port{{Protocol: flow.TCP, Port: 8080}},
			})
		}
		policies[ref] = slots{Live: revision(1, p)}
	}
	changed := inv.Clone()
	changed.Workloads[100].Endpoints = changed.Workloads[100].Endpoints[:2]
	limits := bpf.Limits{Endpoints: 4096, Workloads: 4096, Addresses: 65536, CIDRs: 65536, Services: 65536, PolicyTables: 32768, PolicyEntries: 262144}
	for _, services := range []bool{true, false} {
		list := []inventory.Inventory{changed, inv}
		if !services {
			list = []inventory.Inventory{changed.Clone(), inv.Clone()}
			list[0].Services, list[1].Services = nil, nil
		}
		b.Run(fmt.Sprintf("services=%t", services), func(b *testing.B) {
			pl := planner{node: "node-1", limits: limits}
			for i := 0; b.Loop(); i++ {
				p, err := pl.plan(list[i%2], policies)
				if err != nil || len(p.refused) > 0 {
					b.Fatal(err, p.refused)
				}
				pl.former, pl.known = p, p.numbers
			}
		})
	}
}
