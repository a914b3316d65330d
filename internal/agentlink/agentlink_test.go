package agentlink

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/rollout"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "0123456789abcdef0123456789abcdef"

// patience bounds every wait in these tests; none of them needs it.
const patience = 10 * time.Second

// store is a Store whose state the test sets.
type store struct {
	mu      sync.Mutex
	state   rollout.State
	err     error // of State
	refuse  error // of Report
	changed chan struct{}
	live    uint32
	// Every call is told of.
	reports      chan rollout.Report
	disconnected chan string
	confirms     int
}

func newStore() *store {
	return &store{
		state: rollout.State{Generation: 1}, changed: make(chan struct{}),
		reports: make(chan rollout.Report, 1000), disconnected: make(chan string, 100),
	}
}

func (s *store) State(context.Context) (rollout.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.err
}

func (s *store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *store) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *store) Report(_ context.Context, r rollout.Report) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports <- r
	return s.refuse
}

func (s *store) ConfirmLive(_ context.Context, node string, w flow.Workload, revision uint32) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confirms++
	if node != "node-1" || w != workload {
		return false, fmt.Errorf("no workload %s on node %s", w, node)
	}
	return revision == s.live, nil
}

func (s *store) Disconnected(node string) { s.disconnected <- node }

var workload = flow.Workload{Namespace: "shop", Kind: "Host", Name: "cart"}

// handler remembers what it was given.
type handler struct {
	mu      sync.Mutex
	applied rollout.State
	at      chan time.Time
	changed chan struct{}
	error   string
	block   chan struct{} // Apply waits for it
}

func newHandler() *handler {
	return &handler{at: make(chan time.Time, 1000), changed: make(chan struct{}, 1)}
}

func (h *handler) Apply(ctx context.Context, st rollout.State) (rollout.Report, error) {
	if h.block != nil {
		select {
		case <-h.block:
		case <-ctx.Done():
		}
	}
	h.mu.Lock()
	h.applied = st
	h.mu.Unlock()
	h.at <- time.Now()
	return h.Report(), nil
}

func (h *handler) Report() rollout.Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	return rollout.Report{Node: "node-1", Version: "v1", Generation: h.applied.Generation, Error: h.error, Workloads: []rollout.Effective{}}
}

func (h *handler) Changed() <-chan struct{} { return h.changed }

func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rf-link-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "link", "agent.sock")
}

// serve starts a server and returns a function that stops it and waits.
func serve(t *testing.T, path string, s *store, change func(*Config)) (stop func()) {
	t.Helper()
	cfg := Config{Token: token}
	if change != nil {
		change(&cfg)
	}
	srv, err := New(cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, lis) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := receive(t, done); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func client(t *testing.T, path string, change func(*ClientConfig)) *Client {
	t.Helper()
	cfg := ClientConfig{Address: "unix://" + path, Token: token, Node: "node-1", Version: "v1", Heartbeat: 50 * time.Millisecond, MinPause: 5 * time.Millisecond, MaxPause: 50 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run starts a client and returns the channel of its result.
func run(t *testing.T, c *Client, h Handler) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ended := make(chan struct{})
	go func() { done <- c.Run(ctx, h); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return done
}

func receive[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return v
}

// reported waits for a report that fits.
func reported(t *testing.T, s *store, fits func(rollout.Report) bool) rollout.Report {
	t.Helper()
	for {
		if r := receive(t, s.reports); fits(r) {
			return r
		}
	}
}

func TestStateReachesNodeInMilliseconds(t *testing.T) {
	path, s, h := socket(t), newStore(), newHandler()
	serve(t, path, s, nil)
	run(t, client(t, path, func(c *ClientConfig) { c.Heartbeat = time.Hour }), h)
	receive(t, h.at)
	if r := receive(t, s.reports); r.Generation != 0 || r.Node != "node-1" {
		t.Errorf("the first report is %+v", r)
	}
	reported(t, s, func(r rollout.Report) bool { return r.Generation == 1 })
	var took, back []time.Duration
	for generation := uint64(2); generation < 52; generation++ {
		began := time.Now()
		s.set(func() { s.state.Generation = generation })
		took = append(took, receive(t, h.at).Sub(began))
		reported(t, s, func(r rollout.Report) bool { return r.Generation == generation })
		back = append(back, time.Since(began))
	}
	if m := median(took); m > 5*time.Millisecond {
		t.Errorf("a state takes %s to its node", m)
	}
	if m := median(back); m > 10*time.Millisecond {
		t.Errorf("a state and its report take %s", m)
	}
	t.Logf("to the node %s, and the report back %s", median(took), median(back))
}

func median(d []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[len(sorted)/2]
}

func TestStateArrivesWhole(t *testing.T) {
	path, s, h := socket(t), newStore(), newHandler()
	s.state = rollout.State{
		Generation: 7,
		Inventory: inventory.Inventory{
			Nodes: []inventory.Node{{Name: "node-1", Addresses: []netip.Addr{netip.MustParseAddr("fd00::1")}}},
			Workloads: []inventory.Workload{{
				Namespace: "shop", Kind: "Host", Name: "cart", Labels: map[string]string{"app": "cart"}, Identity: 300,
				Endpoints: []inventory.Endpoint{{Name: "cart-1", Node: "node-1", Interface: "rfh1", ID: 4, Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1")}}},
			}},
		},
		Slots: []rollout.Slots{{Workload: workload, Live: &rollout.Revision{Number: 3, Digest: "d"}, Confirm: 30 * time.Second}},
	}
	serve(t, path, s, nil)
	run(t, client(t, path, nil), h)
	receive(t, h.at)
	h.mu.Lock()
	defer h.mu.Unlock()
	if diff := cmp.Diff(s.state, h.applied, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func TestHeartbeatAndNews(t *testing.T) {
	path, s, h := socket(t), newStore(), newHandler()
	serve(t, path, s, nil)
	run(t, client(t, path, nil), h)
	for range 5 { // hello, applied, and heartbeats
		receive(t, s.reports)
	}
	h.mu.Lock()
	h.error = "news"
	h.mu.Unlock()
	h.changed <- struct{}{}
	reported(t, s, func(r rollout.Report) bool { return r.Error == "news" })
}

func TestNewsDoNotWaitForHeartbeat(t *testing.T) {
	path, s, h := socket(t), newStore(), newHandler()
	serve(t, path, s, nil)
	run(t, client(t, path, func(c *ClientConfig) { c.Heartbeat = time.Hour }), h)
	receive(t, h.at)
	h.mu.Lock()
	h.error = "news"
	h.mu.Unlock()
	h.changed <- struct{}{}
	reported(t, s, func(r rollout.Report) bool { return r.Error == "news" })
}

// Of states that come while one is applied, only the newest is applied next.
func TestOnlyNewestStateCounts(t *testing.T) {
	path, s, h := socket(t), newStore(), newHandler()
	h.block = make(chan struct{})
	serve(t, path, s, nil)
	c := client(t, path, nil)
	run(t, c, h)
	sent := func() float64 { return testutil.ToFloat64(c.metrics.states) }
	await(t, func() bool { return sent() == 1 })
	for g := uint64(2); g <= 6; g++ {
		s.set(func() { s.state.Generation = g })
		await(t, func() bool { return sent() == float64(g) })
	}
	close(h.block)
	reported(t, s, func(r rollout.Report) bool { return r.Generation == 6 })
	if n := len(h.at); n != 2 {
		t.Errorf("%d states were applied, want the first and the last", n)
	}
}

// await polls, for what nothing tells of.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never happened")
		}
	}
}

func TestServerRestart(t *testing.T) {
	path, s, h := socket(t), newStore(), newHandler()
	stop := serve(t, path, s, nil)
	run(t, client(t, path, nil), h)
	receive(t, h.at)
	stop()
	if node := receive(t, s.disconnected); node != "node-1" {
		t.Errorf("disconnected %q", node)
	}
	next := newStore()
	next.state.Generation = 9
	serve(t, path, next, nil)
	receive(t, h.at)
	reported(t, next, func(r rollout.Report) bool { return r.Generation == 9 })
}

func TestAgentStartsBeforeServer(t *testing.T) {
	path, s, h := socket(t), newStore(), newHandler()
	c := client(t, path, nil)
	run(t, c, h)
	await(t, func() bool { return testutil.ToFloat64(c.metrics.reconnects) >= 2 })
	serve(t, path, s, nil)
	receive(t, h.at)
}

// What a node says of itself is known before it is told what to do: it may have
// gone back from the very revision that it would be sent.
func TestReportComesBeforeState(t *testing.T) {
	path, s, h := socket(t), newStore(), newHandler()
	s.refuse = errors.New("node \"node-1\" is not in the inventory")
	serve(t, path, s, nil)
	c := client(t, path, nil)
	run(t, c, h)
	receive(t, s.reports)
	receive(t, s.reports)
	if len(h.at) != 0 {
		t.Error("a state was sent to a node whose report was refused")
	}
	s.mu.Lock()
	s.refuse = nil
	s.mu.Unlock()
	receive(t, h.at)
}

func TestServerWithoutState(t *testing.T) {
	path, s, h := socket(t), newStore(), newHandler()
	s.err = errors.New("no inventory yet")
	serve(t, path, s, nil)
	run(t, client(t, path, nil), h)
	for range 3 {
		receive(t, s.reports)
	}
	if len(h.at) != 0 {
		t.Error("a state was sent")
	}
	s.set(func() { s.err = nil })
	receive(t, h.at)
}

func TestSecondAgentOfANodeReplacesFirst(t *testing.T) {
	path, s := socket(t), newStore()
	serve(t, path, s, nil)
	first, second := newHandler(), newHandler()
	// The first one does not come back soon, so that the two do not alternate.
	c := client(t, path, func(c *ClientConfig) { c.MinPause, c.MaxPause = time.Hour, time.Hour })
	run(t, c, first)
	receive(t, first.at)
	run(t, client(t, path, nil), second)
	receive(t, second.at)
	await(t, func() bool { return testutil.ToFloat64(c.metrics.reconnects) == 1 })
	if len(s.disconnected) != 0 {
		t.Error("the node counts as disconnected")
	}
	s.set(func() { s.state.Generation = 2 })
	receive(t, second.at)
	if len(first.at) != 0 {
		t.Error("the first agent still gets states")
	}
}

func TestConfirm(t *testing.T) {
	path, s := socket(t), newStore()
	s.live = 4
	stop := serve(t, path, s, nil)
	c := client(t, path, nil)
	// No Run: the question has a connection of its own.
	if err := c.Confirm(t.Context(), workload, 4); err != nil {
		t.Error(err)
	}
	if err := c.Confirm(t.Context(), workload, 3); err == nil || !strings.Contains(err.Error(), "the server wants another one") {
		t.Errorf("another revision: %v", err)
	}
	if err := c.Confirm(t.Context(), flow.Workload{Namespace: "a", Kind: "b", Name: "c"}, 4); err == nil || !strings.Contains(err.Error(), "no workload a/b/c on node node-1") {
		t.Errorf("another workload: %v", err)
	}
	stop()
	if err := c.Confirm(t.Context(), workload, 4); err == nil {
		t.Error("confirmed by nobody")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Confirm(ctx, workload, 4); err == nil {
		t.Error("confirmed after its context ended")
	}
}

func TestLargeState(t *testing.T) {
	path, s, h := socket(t), newStore(), newHandler()
	for i := range 200_000 {
		s.state.Inventory.Nodes = append(s.state.Inventory.Nodes, inventory.Node{Name: fmt.Sprint("node-", i)})
	}
	serve(t, path, s, nil)
	run(t, client(t, path, nil), h)
	receive(t, h.at)
	if h.mu.Lock(); len(h.applied.Inventory.Nodes) != 200_000 {
		t.Errorf("%d nodes arrived", len(h.applied.Inventory.Nodes))
	}
	h.mu.Unlock()
}
