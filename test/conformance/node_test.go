package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/enforcer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rollout"
	"github.com/ringfence/ringfence/test/pod"
	"github.com/ringfence/ringfence/test/wire"
)

// node is one node with an interface for every place, the real datapath on it,
// and the real enforcer that fills it. A bridge leads from each pod to the
// others, and to far, where everybody else is.
type node struct {
	dp         *compiled
	enforcer   *enforcer.Enforcer
	reader     *bpf.Reader
	pods       []*wire.Wire // by place
	far        *wire.Wire
	generation uint64
	marks      uint64
	client     uint16 // port of the comparison that goes on
	flows      int    // at most, in the table
}

const (
	nodeName    = "node-1"
	flowEntries = 1 << 17
)

func interfaceOf(place int) string { return fmt.Sprintf("rfw%d", place) }

func identityOf(place int) flow.Identity {
	return flow.FirstWorkloadIdentity + flow.Identity(place)
}

// stationOf is the hardware address of a place, or, for -1, of far.
func stationOf(place int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 1, byte(place + 1)} }

func newNode(t *testing.T) *node {
	t.Helper()
	prefix := fmt.Sprintf("rf-conf-%d-", os.Getpid())
	here, pods := prefix+"node", prefix+"pods"
	for _, ns := range []string{here, pods} {
		wire.Namespace(t, ns, wire.Quiet)
	}
	n := &node{client: firstClient}
	n.connect(t, here, pods)
	n.open(t, here)
	return n
}

func (n *node) connect(t *testing.T, here, pods string) {
	t.Helper()
	err := wire.In(here, func() error {
		ports := []string{"up0"}
		err := wire.Pair("up0", "far", pods)
		for i := range places {
			ports = append(ports, interfaceOf(i))
			err = errors.Join(err, wire.Pair(interfaceOf(i), fmt.Sprintf("pod%d", i), pods))
		}
		err = errors.Join(err, wire.Bridge("br0", ports...))
		for i, port := range ports {
			err = errors.Join(err, wire.Station(port, stationOf(i-1)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string) *wire.Wire {
		if err := wire.In(pods, func() error { return wire.Up(name) }); err != nil {
			t.Fatal(err)
		}
		return wire.Open(t, pods, name)
	}
	n.far = open("far")
	for i := range places {
		n.pods = append(n.pods, open(fmt.Sprintf("pod%d", i)))
	}
	for _, p := range n.paths() {
		if err := p.Settle(); err != nil {
			t.Fatal(err)
		}
	}
}

// paths lead over every link, both ways.
func (n *node) paths() []wire.Path {
	var out []wire.Path
	for _, w := range n.pods {
		out = append(out, wire.Path{In: w, Out: n.far}, wire.Path{In: n.far, Out: w})
	}
	return out
}

func (n *node) open(t *testing.T, ns string) {
	t.Helper()
	// There is room for many comparisons. Flows end with the next sweep, and endpoints are never fresh.
	dp, err := bpf.Open(bpf.Config{
		PinDir: pod.Pins(t, "conf"), NetNS: ns, FlowEntries: flowEntries, EndpointFlows: flowEntries, RingBytes: 1 << 22,
		Idle: bpf.IdleLimits{SYN: 1, Established: 1, Closing: 1, UDP: 1, ICMP: 1, Other: 1},
	})
	if err != nil {
		t.Fatalf("this test needs root and eBPF: %v", err)
	}
	t.Cleanup(func() {
		if err := dp.Remove(); err != nil {
			t.Error(err)
		}
	})
	n.dp = &compiled{Datapath: dp, tables: map[bpf.TableKey]entries{}}
	if n.enforcer, err = enforcer.New(enforcer.Config{Node: nodeName, StateDir: t.TempDir()}, n.dp, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := n.enforcer.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.reader, err = dp.NewReader(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.reader.Close() })
}

// enforce puts policies in force for a cluster's pods through the enforcer.
func (n *node) enforce(c *cluster, all policies) error {
	n.generation++
	st := rollout.State{Generation: n.generation, Inventory: inventory.Inventory{
		Nodes: []inventory.Node{{Name: nodeName, Addresses: []netip.Addr{netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("fd09::9")}}},
	}}
	for name, labels := range c.resources.Namespaces {
		st.Inventory.Namespaces = append(st.Inventory.Namespaces, inventory.Namespace{Name: name, Labels: labels})
	}
	for _, pod := range c.resources.Pods {
		name := pod.PodString().String()
		st.Inventory.Workloads = append(st.Inventory.Workloads, owner(pod))
		if p := all[name]; p != nil {
			st.Slots = append(st.Slots, rollout.Slots{Workload: workloadOf(pod), Confirm: time.Hour, Live: &rollout.Revision{
				Number: uint32(n.generation), Digest: policy.Digest(*p), Policy: *p,
			}})
		}
	}
	slices.SortFunc(st.Slots, func(a, b rollout.Slots) int { return a.Workload.Compare(b.Workload) })
	r, err := n.enforcer.Apply(context.Background(), st)
	if err != nil || r.Error != "" || len(r.Problems) > 0 || r.Generation != n.generation {
		return fmt.Errorf("apply: %w, %+v", err, r)
	}
	return nil
}

// owner is a pod in the inventory, with both of its addresses.
func owner(pod *probe.Pod) inventory.Workload {
	w := workloadOf(pod)
	at := placeOf(pod.PodString().String())
	v4 := netip.MustParseAddr(places[at].addr)
	return inventory.Workload{
		Namespace: w.Namespace, Kind: w.Kind, Name: w.Name, Labels: pod.Labels, Identity: identityOf(at),
		Endpoints: []inventory.Endpoint{{
			Name: pod.Name, Node: nodeName, Interface: interfaceOf(at), ID: uint32(at + 1), Addresses: []netip.Addr{v4, sixth(v4)},
			Ports: named(pod),
		}},
	}
}

// wireOf returns the wire of a place, or, for -1, far's.
func (n *node) wireOf(place int) *wire.Wire {
	if place < 0 {
		return n.far
	}
	return n.pods[place]
}

// shot is one frame: where it goes in, where it must come out, and whether it did.
type shot struct {
	packet  wire.Packet
	in, out int // places; -1 is far
	arrived bool
}

// send sends frames, waits until all are through, and notes which arrived.
func (n *node) send(shots []*shot) error {
	return wire.OnOneCPU(func() error {
		for _, s := range shots {
			n.marks++
			s.packet.Mark = n.marks<<16 | 0xfe
			s.packet.From, s.packet.To = stationOf(s.in), stationOf(s.out)
			b, err := s.packet.Bytes()
			if err != nil {
				return err
			}
			if err := n.wireOf(s.in).Transmit(b); err != nil {
				return fmt.Errorf("send %+v: %w", s.packet, err)
			}
		}
		for _, p := range n.paths() {
			if err := p.Flush(); err != nil {
				return err
			}
		}
		arrived := map[int]map[uint64]bool{-1: n.far.Received()}
		for i, w := range n.pods {
			arrived[i] = w.Received()
		}
		for _, s := range shots {
			s.arrived = arrived[s.out][s.packet.Mark]
		}
		return nil
	})
}

// seen names a flow of an endpoint.
type seen struct {
	endpoint uint32
	key      flow.Key
}

// records returns and commits what is in the ring. All frames are through, so
// nothing is on its way.
func (n *node) records() (map[seen]flow.Record, error) {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	out := map[seen]flow.Record{}
	for {
		b, err := n.reader.Next(done)
		if err != nil && !errors.Is(err, context.Canceled) {
			return nil, err
		}
		if b.Truncated > 0 {
			return nil, fmt.Errorf("%d truncated records", b.Truncated)
		}
		if b.End == b.Start {
			return out, nil
		}
		for _, r := range b.Records {
			at := seen{r.Endpoint, r.Key}
			if was, twice := out[at]; twice {
				return nil, fmt.Errorf("two records of one flow: %+v and %+v", was, r)
			}
			out[at] = r
		}
		if err := n.reader.Commit(b.End); err != nil {
			return nil, err
		}
	}
}

// renew makes room for flows, of which none may be one of before.
func (n *node) renew(flows int) error {
	n.flows += flows
	n.client++
	if n.flows < flowEntries && n.client < lastClient {
		return nil
	}
	n.flows, n.client = flows, firstClient
	return n.forget()
}

// forget ends every flow. The kernel's coarse clock must tick before one is idle.
func (n *node) forget() error {
	for range 500 {
		s, err := n.dp.Sweep(context.Background())
		if err != nil {
			return err
		}
		if _, err := n.records(); err != nil {
			return err
		}
		if s.Deleted == s.Flows {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("flows do not end")
}
