package verdict

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/enforcer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
	"github.com/ringfence/ringfence/internal/rollout"
	"github.com/ringfence/ringfence/test/pod"
	"github.com/ringfence/ringfence/test/wire"
)

// node is a real datapath on a site, and the real enforcer that fills it.
type node struct {
	*site
	dp         *bpf.Datapath
	enforcer   *enforcer.Enforcer
	reader     *bpf.Reader
	world      inventory.Inventory
	generation uint64
	revision   uint32
	pending    flow.Verdict // the datapath's answer, VerdictUnknown where nobody is pending
	marks      uint64
}

// What the tests call for.
var (
	// instant ends flows with the next sweep, and endpoints are never fresh.
	instant = bpf.Config{Idle: bpf.IdleLimits{
		SYN: 1, Established: 1, Closing: 1, UDP: 1, ICMP: 1, Other: 1,
	}}
	// fresh is an endpoint that may still see answers to what came before it.
	fresh = bpf.Config{Idle: bpf.IdleLimits{
		SYN: 1, Established: 1, Closing: 1, UDP: time.Hour, ICMP: 1, Other: time.Hour,
	}}
	// stateless has room for one flow an endpoint.
	stateless = bpf.Config{EndpointFlows: 1, Idle: bpf.IdleLimits{UDP: 1, Other: 1}}
)

func newNode(t *testing.T, cfg bpf.Config) *node {
	t.Helper()
	n := &node{site: newSite(t), world: world()}
	cfg.PinDir = pod.Pins(t, "verdict")
	cfg.NetNS = n.ns
	cfg.FlowEntries, cfg.RingBytes = 1<<17, 1<<20
	var err error
	if n.dp, err = bpf.Open(cfg); err != nil {
		t.Fatalf("this test needs root and eBPF: %v", err)
	}
	t.Cleanup(func() {
		if err := n.dp.Remove(); err != nil {
			t.Error(err)
		}
	})
	if n.enforcer, err = enforcer.New(enforcer.Config{Node: policytest.Node, StateDir: t.TempDir()}, n.dp, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := n.enforcer.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.reader, err = n.dp.NewReader(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.reader.Close() })
	n.apply(t, slot{}, slot{})
	return n
}

// The endpoints of the judged workload: a pod, the node itself, and one that
// lives elsewhere.
const (
	podID  = 1
	hostID = 11
)

// world is policytest's, with more endpoints of the judged workload.
func world() inventory.Inventory {
	inv := policytest.Inventory()
	for i := range inv.Workloads {
		w := &inv.Workloads[i]
		if w.Ref() != policytest.Subject {
			for j := range w.Endpoints {
				w.Endpoints[j].Interface = "" // nothing is enforced there
			}
			continue
		}
		pod := &w.Endpoints[0]
		pod.Addresses = append(pod.Addresses, addr("10.1.0.31"), addr("fd00:1::1f"))
		w.Endpoints = append(w.Endpoints,
			inventory.Endpoint{
				Name: "cart-host", Node: policytest.Node, Interface: hostInterface, Host: true, ID: hostID, Ports: pod.Ports,
				Addresses: addrs("10.1.0.21", "fd00:1::15"),
			},
			inventory.Endpoint{Name: "cart-far", Node: "node-2", ID: 12, Ports: pod.Ports, Addresses: addrs("10.1.0.22", "fd00:1::16")},
		)
	}
	return inv
}

// apply puts the slots in force through the enforcer.
func (n *node) apply(tb rapid.TB, live, staged slot) {
	tb.Helper()
	n.generation++
	st := rollout.State{Generation: n.generation, Inventory: n.world, Slots: []rollout.Slots{{
		Workload: policytest.Subject, Live: live.rollout(), Staged: staged.rollout(), Confirm: time.Hour,
	}}}
	r, err := n.enforcer.Apply(context.Background(), st)
	if err != nil || r.Error != "" || len(r.Problems) > 0 || r.Generation != n.generation {
		tb.Fatalf("apply: %v, %+v", err, r)
	}
	at := slices.IndexFunc(r.Workloads, func(w rollout.Effective) bool { return w.Workload == policytest.Subject })
	if at < 0 || r.Workloads[at].Endpoints != 2 || r.Workloads[at].LiveRevision != live.revision || r.Workloads[at].StagedRevision != staged.revision {
		tb.Fatalf("in force: %+v", r.Workloads)
	}
	if r.Workloads[at].Unconfirmed {
		if err := n.enforcer.Confirm(policytest.Subject, live.revision); err != nil {
			tb.Fatal(err)
		}
	}
}

// slot numbers a policy.
func (n *node) slot(p *policy.Policy) slot {
	if p == nil {
		return slot{}
	}
	n.revision++
	normal := policy.Normalize(*p)
	guardrails := inventory.NewIndex(n.world).Guardrails(policytest.Subject)
	return slot{p: &normal, revision: n.revision, beside: policy.Evaluator{Guardrails: guardrails, Pending: n.pending, Own: policytest.Own()}}
}

func (s slot) rollout() *rollout.Revision {
	if s.p == nil {
		return nil
	}
	return &rollout.Revision{Number: s.revision, Digest: policy.Digest(*s.p), Policy: *s.p}
}

// send puts every frame on its wire, waits until all are through, and returns
// which arrived.
func (n *node) send(tb rapid.TB, frames []*frame) map[*frame]bool {
	tb.Helper()
	for _, p := range n.paths() {
		p.Out.Received()
	}
	err := wire.OnOneCPU(func() error {
		for _, f := range frames {
			n.marks++
			f.mark = n.marks<<16 | 0xfe
			b, err := f.bytes()
			if err != nil {
				return err
			}
			if err := n.pathOf(f).In.Transmit(b); err != nil {
				return fmt.Errorf("send %s: %w", f, err)
			}
		}
		for _, p := range n.paths() {
			if err := p.Flush(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	marks := map[*wire.Wire]map[uint64]bool{}
	for _, p := range n.paths() {
		if marks[p.Out] == nil {
			marks[p.Out] = p.Out.Received()
		}
	}
	out := map[*frame]bool{}
	for _, f := range frames {
		out[f] = marks[n.pathOf(f).Out][f.mark]
	}
	return out
}

// seen names a flow of an endpoint.
type seen struct {
	endpoint uint32
	key      flow.Key
}

func (f *frame) seen() seen {
	if f.host {
		return seen{hostID, f.key()}
	}
	return seen{podID, f.key()}
}

// records returns and commits what is in the ring. All frames are through, so
// nothing is on its way.
func (n *node) records(tb rapid.TB) []flow.Record {
	tb.Helper()
	done, cancel := context.WithCancel(context.Background())
	cancel()
	var out []flow.Record
	for {
		b, err := n.reader.Next(done)
		if err != nil && !errors.Is(err, context.Canceled) {
			tb.Fatal(err)
		}
		if b.Truncated > 0 {
			tb.Fatalf("%d truncated records", b.Truncated)
		}
		if b.End == b.Start {
			return out
		}
		out = append(out, b.Records...)
		if err := n.reader.Commit(b.End); err != nil {
			tb.Fatal(err)
		}
	}
}

// forget ends every flow. The kernel's coarse clock must tick before one is idle.
func (n *node) forget(tb rapid.TB) {
	tb.Helper()
	for range 500 {
		s, err := n.dp.Sweep(context.Background())
		if err != nil {
			tb.Fatal(err)
		}
		n.records(tb)
		if s.Deleted == s.Flows {
			return
		}
		time.Sleep(time.Millisecond)
	}
	tb.Fatal("flows do not end")
}
