package enforcer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/interfaces"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rollout"
	"github.com/ringfence/ringfence/test/pod"
	"github.com/ringfence/ringfence/test/wire"
)

// watching is an enforcer that runs and knows the interfaces of its node.
type watching struct {
	t  *testing.T
	ns string
	dp *bpf.Datapath
	e  *Enforcer
}

func newWatching(t *testing.T, ns, pins, dir string) *watching {
	t.Helper()
	n := &watching{t: t, ns: ns}
	var err error
	if n.dp, err = bpf.Open(bpf.Config{PinDir: pins, NetNS: ns, FlowEntries: 1024, RingBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.dp.Remove() })
	w, err := interfaces.New(interfaces.Config{NetNS: ns})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Check is never: only events can do it.
	if n.e, err = New(Config{Node: "node-1", StateDir: dir, Check: time.Hour, Interfaces: w}, n.dp, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := n.e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- w.Run(ctx) }()
	go func() { done <- n.e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *watching) apply(generation uint64, inv inventory.Inventory, slots ...rollout.Slots) {
	n.t.Helper()
	if _, err := n.e.Apply(n.t.Context(), rollout.State{Generation: generation, Inventory: inv, Slots: slots}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *watching) do(fn func() error) {
	n.t.Helper()
	if err := wire.In(n.ns, fn); err != nil {
		n.t.Fatal(err)
	}
}

// await waits by events, for at most 5 s, until exactly these endpoints are
// attached, by interface.
func (n *watching) await(what string, want func() map[string]bpf.Attached) {
	n.t.Helper()
	late := time.After(5 * time.Second)
	for {
		got := map[string]bpf.Attached{}
		list, err := n.dp.Attached()
		if err != nil {
			n.t.Fatal(err)
		}
		for _, a := range list {
			a.ObservedSince = time.Time{}
			got[a.Interface] = a
		}
		expected := want()
		if maps.Equal(got, expected) && len(list) == len(got) {
			_ = n.e.Report() // waits until it has counted too
			return
		}
		select {
		case <-n.e.Changed():
		case <-late:
			n.t.Fatalf("%s: after 5 s\n%+v are attached, want\n%+v\n%+v", what, got, expected, n.e.Report())
		}
	}
}

// levels waits by events, for at most 5 s, until the kernel holds so many
// endpoints, dead ones included.
func (n *watching) levels(want int) {
	n.t.Helper()
	for late := time.After(5 * time.Second); ; {
		l, err := n.dp.Levels()
		if err != nil {
			n.t.Fatal(err)
		}
		if l.Endpoints == want {
			return
		}
		select {
		case <-n.e.Changed():
		case <-late:
			n.t.Fatalf("%d endpoints are in the kernel, want %d", l.Endpoints, want)
		}
	}
}

func (n *watching) index(name string) (index int) {
	n.t.Helper()
	n.do(func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			index = l.Attrs().Index
		}
		return nil // there is none: 0
	})
	return index
}

// named and pending are what is attached to an interface.
func (n *watching) named(name string, id uint32) bpf.Attached {
	return bpf.Attached{Endpoint: bpf.Endpoint{Interface: name, ID: id, Identity: 301}, Index: n.index(name)}
}

func (n *watching) pending(name string) bpf.Attached {
	i := n.index(name)
	return bpf.Attached{Endpoint: bpf.Endpoint{Interface: name, ID: inventory.FirstPendingEndpoint + uint32(i)}, Index: i}
}

var peers int

func addVeth(name string) error {
	peers++
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: fmt.Sprintf("peer%d", peers)})
}

func withLink(name string, do func(netlink.Link) error) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return do(l)
}

func delLink(name string) error { return withLink(name, netlink.LinkDel) }

func rename(name, to string) error {
	return withLink(name, func(l netlink.Link) error { return netlink.LinkSetName(l, to) })
}

// hundred is a workload whose endpoints have the interfaces v0 to v99, and a
// rule that picks those called r.
func hundred() inventory.Inventory {
	inv := shop()
	inv.Nodes[0].Interfaces = []inventory.InterfaceRule{{Name: "r*", Kind: "veth"}}
	w := &inv.Workloads[0]
	w.Endpoints = nil
	for i := range uint32(100) {
		w.Endpoints = append(w.Endpoints, inventory.Endpoint{
			Name: fmt.Sprintf("cart-%d", i), Node: "node-1", Interface: fmt.Sprintf("v%d", i), ID: 100 + i,
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 2, 0, byte(i)})},
		})
	}
	return inv
}

// TestInterfacesComeAndGo makes, renames, makes anew and removes a hundred
// interfaces quickly: in the end each is attached as what it is, or gone.
func TestInterfacesComeAndGo(t *testing.T) {
	ns := fmt.Sprintf("rf-enf-%d-storm", os.Getpid())
	wire.Namespace(t, ns, wire.Quiet)
	n := newWatching(t, ns, pod.Pins(t, "enf"), t.TempDir())
	n.apply(1, hundred())
	waiting := func(want int) {
		t.Helper()
		if got := int(testutil.ToFloat64(n.e.metrics.waiting)); got != want {
			t.Errorf("%d endpoints wait, want %d", got, want)
		}
	}
	waiting(100)
	if r := n.e.Report(); len(r.Problems) != 100 || r.Problems[7] != `endpoint of shop/Host/cart: waits for interface "v7", which does not exist` {
		t.Errorf("problems %q", r.Problems)
	}

	n.do(func() error { return addVeth("v7") })
	n.await("one comes", func() map[string]bpf.Attached { return map[string]bpf.Attached{"v7": n.named("v7", 107)} })
	waiting(99)
	first := n.index("v7")
	n.do(func() error { return errors.Join(delLink("v7"), addVeth("v7")) })
	n.await("made anew", func() map[string]bpf.Attached { return map[string]bpf.Attached{"v7": n.named("v7", 107)} })
	if n.index("v7") == first {
		t.Error("it was not made anew")
	}
	n.do(func() error { return rename("v7", "r7") })
	n.await("renamed", func() map[string]bpf.Attached { return map[string]bpf.Attached{"r7": n.pending("r7")} })
	waiting(100)
	n.do(func() error { return rename("r7", "v7") })
	n.await("and back", func() map[string]bpf.Attached { return map[string]bpf.Attached{"v7": n.named("v7", 107)} })
	n.do(func() error { return errors.Join(rename("v7", "x7"), addVeth("x8")) })
	n.await("nobody's", func() map[string]bpf.Attached { return map[string]bpf.Attached{} })
	n.do(func() error { return errors.Join(delLink("x7"), delLink("x8")) })

	want := func() map[string]bpf.Attached {
		out := map[string]bpf.Attached{}
		for i := range uint32(100) {
			switch v, r := fmt.Sprintf("v%d", i), fmt.Sprintf("r%d", i); i % 4 {
			case 0:
				out[v] = n.named(v, 100+i)
			case 1:
				out[v] = n.named(v, 100+i)
			case 2:
				out[r] = n.pending(r)
			}
		}
		return out
	}
	n.do(func() error {
		var errs []error
		for i := range 100 {
			v, r := fmt.Sprintf("v%d", i), fmt.Sprintf("r%d", i)
			errs = append(errs, addVeth(v))
			switch i % 4 {
			case 1:
				errs = append(errs, delLink(v), addVeth(r), rename(r, v))
			case 2:
				errs = append(errs, rename(v, r))
			case 3:
				errs = append(errs, rename(v, r), delLink(r))
			}
		}
		return errors.Join(errs...)
	})
	n.await("the storm", want)
	waiting(50)
	if got := testutil.ToFloat64(n.e.metrics.unknown); got != 25 {
		t.Errorf("%v are pending, want 25", got)
	}
	n.levels(75)

	// Named by the inventory, and no longer.
	inv := hundred()
	inv.Workloads[0].Endpoints[3].Interface = "r2"
	n.apply(2, inv)
	n.await("named", func() map[string]bpf.Attached {
		out := want()
		out["r2"] = n.named("r2", 103)
		return out
	})
	inv.Workloads[0].Endpoints[3].Node = "node-2"
	inv.Nodes[0].Interfaces = []inventory.InterfaceRule{{Name: "r2", Kind: "device"}, {Name: "r2", Host: true}}
	inv.Nodes = append(inv.Nodes, inventory.Node{Name: "node-2"})
	n.apply(3, inv)
	n.await("no longer", func() map[string]bpf.Attached {
		out := want()
		maps.DeleteFunc(out, func(name string, _ bpf.Attached) bool { return strings.HasPrefix(name, "r") })
		a := n.pending("r2")
		a.Host = true
		out["r2"] = a
		return out
	})

	n.do(func() error { return errors.Join(delLink("r2"), delLink("v0")) })
	n.await("gone", func() map[string]bpf.Attached {
		out := want()
		maps.DeleteFunc(out, func(name string, _ bpf.Attached) bool { return strings.HasPrefix(name, "r") || name == "v0" })
		return out
	})
	// What is gone is not attached at once, and forgotten when the event came.
	n.levels(49)
}

// TestRuleByAddress checks an interface that a rule picks by its address, which
// comes later than the interface.
func TestRuleByAddress(t *testing.T) {
	ns := fmt.Sprintf("rf-enf-%d-addr", os.Getpid())
	wire.Namespace(t, ns, wire.Quiet)
	n := newWatching(t, ns, pod.Pins(t, "enf"), t.TempDir())
	inv := shop()
	inv.Nodes[0].Interfaces = []inventory.InterfaceRule{
		{Address: netip.MustParsePrefix("10.9.0.0/16")}, {Kind: "veth", Address: netip.MustParsePrefix("fd00:9::/32")},
	}
	n.apply(1, inv)
	n.do(func() error {
		return errors.Join(addVeth("a"), addVeth("b"), wire.Address("lo", "10.9.0.9/32"), wire.Address("a", "10.9.0.1/24"))
	})
	n.await("an address", func() map[string]bpf.Attached { return map[string]bpf.Attached{"a": n.pending("a")} })
	n.do(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv6/conf/b/disable_ipv6", []byte("0"), 0), wire.Address("b", "fd00:9::1/64"))
	})
	n.await("another, v6", func() map[string]bpf.Attached {
		return map[string]bpf.Attached{"a": n.pending("a"), "b": n.pending("b")}
	})
	n.do(func() error {
		return withLink("a", func(l netlink.Link) error {
			a, _ := netlink.ParseAddr("10.9.0.1/24")
			return netlink.AddrDel(l, a)
		})
	})
	if r := n.e.Report(); slices.ContainsFunc(r.Problems, func(p string) bool { return strings.Contains(p, `"lo"`) }) {
		t.Errorf("problems %q", r.Problems)
	}
	n.await("the address goes", func() map[string]bpf.Attached { return map[string]bpf.Attached{"b": n.pending("b")} })
}

// TestPendingInterface checks on real packets what an interface may that only a
// rule picks, and that the endpoint which takes it over leaves no gap: from deny
// to deny nothing gets through, from allow to allow nothing is lost.
func TestPendingInterface(t *testing.T) {
	p := newClient(t)
	n := newWatching(t, p.Node, p.Pins, t.TempDir())
	nobody := shop()
	nobody.Nodes[0].Interfaces = []inventory.InterfaceRule{{Name: pod.Interface}}
	nobody.Workloads[0].Endpoints[0].Interface = ""
	known := shop()
	known.Nodes[0].Interfaces = nobody.Nodes[0].Interfaces
	unknown := func() map[string]bpf.Attached {
		return map[string]bpf.Attached{pod.Interface: n.pending(pod.Interface)}
	}
	taken := func() map[string]bpf.Attached {
		return map[string]bpf.Attached{pod.Interface: n.named(pod.Interface, 1)}
	}
	live := func(r *rollout.Revision) rollout.Slots {
		return rollout.Slots{Workload: cart, Live: r, Confirm: time.Hour}
	}

	n.apply(1, nobody)
	n.await("pending", unknown)
	p.check("pending, allowed", 80, 443)
	nobody.Nodes[0].Pending, known.Nodes[0].Pending = flow.VerdictDeny, flow.VerdictDeny
	n.apply(2, nobody)
	p.check("pending, denied")

	// during keeps asking for a port of the server while do happens.
	during := func(what string, port uint16, reached bool, do func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		wrong := make(chan string, 2)
		for _, a := range pod.Server {
			go func() {
				asked, bad := 0, 0
				for ; ctx.Err() == nil || asked == 0; asked++ {
					if got := p.Get(context.WithoutCancel(ctx), a, port, wire.Awaits(reached)) == nil; got != reached {
						bad++
					}
				}
				if bad > 0 {
					wrong <- fmt.Sprintf("%s: %d of %d to %s port %d went wrong", what, bad, asked, a, port)
				} else {
					wrong <- ""
				}
			}()
		}
		for range 20 {
			do()
		}
		cancel()
		for range pod.Server {
			if why := <-wrong; why != "" {
				t.Error(why)
			}
		}
	}
	generation := uint64(2)
	back := func(r *rollout.Revision) func() {
		return func() {
			generation += 2
			n.apply(generation, known, live(r))
			n.await("taken over", taken)
			n.apply(generation+1, nobody)
			n.await("given back", unknown)
		}
	}
	during("from deny to deny", 80, false, back(toFront(1, 443)))
	nobody.Nodes[0].Pending, known.Nodes[0].Pending = flow.VerdictAllow, flow.VerdictUnknown
	generation++
	n.apply(generation+1, nobody)
	during("from allow to allow", 443, true, back(toFront(2, 443)))

	n.apply(100, known, live(revision(3, policy.Policy{Workload: cart, IsolateEgress: true})))
	p.check("taken over")
	if r := n.e.Report(); len(r.Problems) > 0 || r.Workloads[0].Endpoints != 1 {
		t.Errorf("report %+v", r)
	}
	if waiting, unknown := testutil.ToFloat64(n.e.metrics.waiting), testutil.ToFloat64(n.e.metrics.unknown); waiting != 0 || unknown != 0 {
		t.Errorf("%v endpoints wait and %v are pending, want none", waiting, unknown)
	}
}

// TestTooManyInterfaces checks that what rules pick never takes the room of what
// the inventory names.
func TestTooManyInterfaces(t *testing.T) {
	n := newNode(t)
	links := &fixed{}
	for i := range 70 {
		links.list = append(links.list, inventory.Interface{Index: i + 1, Name: fmt.Sprintf("x%d", i), Kind: "veth", Ethernet: true})
	}
	n.e.cfg.Interfaces = links
	st := state(1, nil, nil)
	for i := range st.Inventory.Nodes {
		st.Inventory.Nodes[i].Interfaces = []inventory.InterfaceRule{{Kind: "veth"}}
	}
	r, err := n.e.Apply(t.Context(), st)
	if err != nil || len(n.m.attached) != 61 {
		t.Errorf("%d attached, want 61 of 64: three named endpoints wait; error %v", len(n.m.attached), err)
	}
	const want = "9 interfaces that rules pick are not watched: the table holds 64 endpoints: raise the agent's endpoint limit"
	if !slices.Contains(r.Problems, want) {
		t.Errorf("problems %q", r.Problems)
	}
	st.Generation = 2
	st.Inventory.Workloads[0].Endpoints[0].ID = inventory.FirstPendingEndpoint
	if _, err := n.e.Apply(t.Context(), st); err == nil || !strings.Contains(err.Error(), "the server must assign its own") {
		t.Errorf("a number of the node's: error %v", err)
	}
}

type fixed struct{ list []inventory.Interface }

func (f *fixed) Interfaces() []inventory.Interface { return f.list }
func (f *fixed) Changed() <-chan struct{}          { return nil }
