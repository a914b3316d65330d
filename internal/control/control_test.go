package control

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rollout"
)

var (
	cart  = flow.Workload{Namespace: "shop", Kind: "Host", Name: "cart"}
	front = flow.Workload{Namespace: "shop", Kind: "Host", Name: "front"}
)

// clock is a time that a test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func testInventory() inventory.Inventory {
	addr := netip.MustParseAddr
	return inventory.Inventory{
		Nodes: []inventory.Node{
			{Name: "node-1", Addresses: []netip.Addr{addr("10.0.0.1")}},
			{Name: "node-2", Addresses: []netip.Addr{addr("10.0.0.2")}},
		},
		Workloads: []inventory.Workload{
			{Namespace: "shop", Kind: "Host", Name: "cart", Labels: map[string]string{"app": "cart"}, Endpoints: []inventory.Endpoint{
				{Name: "cart-1", Node: "node-1", Interface: "rfc1", Addresses: []netip.Addr{addr("10.1.0.1"), addr("fd00:1::1")}},
				{Name: "cart-2", Node: "node-2", Interface: "rfc2", Addresses: []netip.Addr{addr("10.1.0.2"), addr("fd00:1::2")}},
			}},
			{Namespace: "shop", Kind: "Host", Name: "front", Labels: map[string]string{"app": "front"}, Endpoints: []inventory.Endpoint{
				{Name: "front-1", Node: "node-1", Interface: "rff1", Addresses: []netip.Addr{addr("10.1.0.3"), addr("fd00:1::3")}},
			}},
		},
	}
}

// allow returns a policy of cart that isolates ingress and lets front in on ports.
func allow(ports ...uint16) policy.Policy {
	r := policy.Rule{Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"app": "front"}}}}}
	for _, p := range ports {
		r.Ports = append(r.Ports, policy.Port{Protocol: flow.TCP, Port: p})
	}
	return policy.Policy{Workload: cart, IsolateIngress: true, Ingress: []policy.Rule{r}}
}

type fixture struct {
	*Store
	t     *testing.T
	clock *clock
	path  string
}

func openAt(t *testing.T, path string, c *clock) *fixture {
	t.Helper()
	s, err := Open(t.Context(), Config{Path: path}, Deps{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) //nolint:errcheck // tests close again
	return &fixture{Store: s, t: t, clock: c, path: path}
}

// open returns an empty store with the test's inventory.
func open(t *testing.T) *fixture {
	t.Helper()
	f := openAt(t, filepath.Join(t.TempDir(), "control.db"), newClock())
	f.load()
	return f
}

func (f *fixture) load() {
	f.t.Helper()
	if _, err := f.SetInventory(f.t.Context(), testInventory(), System); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) slots() Slots {
	f.t.Helper()
	w, err := f.Workload(f.t.Context(), cart)
	if err != nil {
		f.t.Fatal(err)
	}
	return w.Requested
}

func (f *fixture) create(p policy.Policy) uint32 {
	f.t.Helper()
	revs, err := f.Revisions(f.t.Context(), cart)
	if err != nil {
		f.t.Fatal(err)
	}
	var parent uint32
	if len(revs) > 0 {
		parent = revs[0].Number
	}
	rev, err := f.CreateRevision(f.t.Context(), NewRevision{Workload: cart, Policy: p, Origin: OriginEdit, Actor: "ann", Parent: parent})
	if err != nil {
		f.t.Fatal(err)
	}
	return rev.Number
}

// ask returns a change of revision by somebody who sees the slots as they are.
func (f *fixture) ask(revision uint32) Change {
	return Change{Workload: cart, Revision: revision, Version: f.slots().Version, Actor: "ann"}
}

func (f *fixture) stage(revision uint32) {
	f.t.Helper()
	if _, err := f.Stage(f.t.Context(), f.ask(revision)); err != nil {
		f.t.Fatal(err)
	}
	f.obey()
}

func (f *fixture) promote(revision uint32) {
	f.t.Helper()
	if _, err := f.Promote(f.t.Context(), f.ask(revision)); err != nil {
		f.t.Fatal(err)
	}
	f.obey()
}

// report is what a node says that has applied the newest state, warm.
func (f *fixture) report(node string) rollout.Report {
	f.t.Helper()
	state, err := f.State(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	r := rollout.Report{Node: node, Generation: state.Generation, Time: f.clock.now()}
	for _, s := range state.Slots {
		e := rollout.Effective{Workload: s.Workload, Endpoints: 1, ObservedSince: f.clock.now().Add(-2 * time.Hour)}
		if s.Live != nil {
			e.LiveRevision = s.Live.Number
		}
		if s.Staged != nil {
			e.StagedRevision = s.Staged.Number
		}
		r.Workloads = append(r.Workloads, e)
	}
	return r
}

// obey lets both nodes report that they do as told.
func (f *fixture) obey() {
	f.t.Helper()
	for _, node := range []string{"node-1", "node-2"} {
		f.say(f.report(node))
	}
}

func (f *fixture) say(r rollout.Report) {
	f.t.Helper()
	if err := f.Report(f.t.Context(), r); err != nil {
		f.t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code Code) Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("error is %v, want code %s", err, code)
	}
	return *e
}

func newest(t *testing.T, s *Store) Event {
	t.Helper()
	events, err := s.Events(context.Background(), EventFilter{Limit: 1})
	if err != nil || len(events) != 1 {
		t.Fatalf("events: %v, %v", events, err)
	}
	return events[0]
}
