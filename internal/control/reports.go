package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/rollout"
)

// reports holds the newest report of every node.
type reports struct {
	mu    sync.Mutex
	nodes map[string]*nodeReports
	// applied is signalled by every report.
	applied signal
}

type nodeReports struct {
	report    rollout.Report
	at        time.Time // when it arrived, by the server's clock
	gone      bool      // its connection ended
	workloads map[flow.Workload]*nodeWorkload
}

type nodeWorkload struct {
	effective rollout.Effective
	// lastConfirmed is the newest live revision that the node need not go back
	// from any more.
	lastConfirmed uint32
	// applied is the live revision seen in force under the newest change of the
	// live slot: a later RevertedFrom is about this change, not an older one.
	applied uint32
}

// Node is what is known of one node.
type Node struct {
	Name      string
	Connected bool
	// Reported is when the newest report arrived; zero if none did.
	Reported time.Time
	Report   rollout.Report
}

// NodeSlots is what one node holds for one workload, beside what is requested of it.
type NodeSlots struct {
	Node      string
	Connected bool
	Panicked  bool
	// Expected is the number of the workload's endpoints to attach on the node.
	Expected  int
	Effective rollout.Effective
	// LastConfirmed is the newest live revision that was confirmed on the node.
	LastConfirmed uint32
	// Error is why the node refused the newest state.
	Error string
	// Problems are what it could not do although it applied the state; they may
	// be about other workloads.
	Problems []string
	// Reported is when the node last said all this.
	Reported time.Time
}

// errorGrace is how long a node may go on reporting the refusal of an older
// state after a newer one: a heartbeat may be under way.
const errorGrace = 1500 * time.Millisecond

// Report takes a node's report. One that says that the node went back from the
// live revision by itself changes the live slot accordingly.
func (s *Store) Report(ctx context.Context, r rollout.Report) error {
	x := s.index.Load()
	if x == nil || x.Node(r.Node) == nil {
		return refuse(CodeNotFound, "node %q is not in the inventory: check the agent's --node", r.Node)
	}
	reverted, changed := s.reports.take(r, s.deps.Now(), s.cfg.ConnectedWithin)
	s.reports.applied.broadcast()
	if changed {
		s.updated.broadcast()
	}
	for _, e := range reverted {
		if err := s.revert(ctx, r, e); err != nil {
			return err
		}
	}
	return nil
}

// revert acts on one workload's RevertedFrom, unless it is about an older change.
func (s *Store) revert(ctx context.Context, r rollout.Report, e rollout.Effective) error {
	w := s.index.Load().Workload(e.Workload)
	if w == nil {
		return nil // it has left the inventory
	}
	now, err := readSlots(ctx, s.reads, w.Identity)
	if err != nil {
		return err
	}
	if now.Live != e.RevertedFrom || e.LiveRevision == e.RevertedFrom {
		return nil
	}
	if r.Generation < now.liveGeneration && !s.reports.sawApplied(r.Node, e.Workload, e.RevertedFrom) {
		return nil
	}
	err = s.nodeReverted(ctx, r.Node, e.Workload, e.RevertedFrom, e.LiveRevision)
	if CodeOf(err) == CodeConflict {
		return nil // another node's report came first
	}
	if err == nil {
		s.metrics.reverts.Inc()
	}
	return err
}

// take stores a report and returns what it says was reverted, and whether it
// says anything new.
func (n *reports) take(r rollout.Report, now time.Time, within time.Duration) (reverted []rollout.Effective, changed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes == nil {
		n.nodes = map[string]*nodeReports{}
	}
	node := n.nodes[r.Node]
	if node == nil {
		node = &nodeReports{workloads: map[flow.Workload]*nodeWorkload{}}
		n.nodes[r.Node] = node
		changed = true
	}
	old := node.report
	changed = changed || !node.connected(now, within) || old.Generation != r.Generation || old.Version != r.Version ||
		old.Panicked != r.Panicked || old.Error != r.Error || !slices.Equal(old.Problems, r.Problems) ||
		!slices.Equal(old.Workloads, r.Workloads)
	r.Problems, r.Workloads = slices.Clone(r.Problems), slices.Clone(r.Workloads)
	node.report, node.at, node.gone = r, now, false
	present := map[flow.Workload]bool{}
	for _, e := range r.Workloads {
		present[e.Workload] = true
		w := node.workloads[e.Workload]
		if w == nil {
			w = &nodeWorkload{}
			node.workloads[e.Workload] = w
		}
		w.effective = e
		if e.RevertedFrom == 0 && e.LiveRevision != 0 {
			w.applied = e.LiveRevision
		}
		if !e.Unconfirmed {
			w.lastConfirmed = e.LiveRevision
		}
		if e.RevertedFrom != 0 {
			reverted = append(reverted, e)
		}
	}
	for w := range node.workloads {
		if !present[w] {
			delete(node.workloads, w)
			changed = true
		}
	}
	return reverted, changed
}

func (n *nodeReports) connected(now time.Time, within time.Duration) bool {
	return !n.gone && !n.at.IsZero() && now.Sub(n.at) <= within
}

func (n *reports) sawApplied(node string, w flow.Workload, revision uint32) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.nodes[node]; r != nil && r.workloads[w] != nil {
		return r.workloads[w].applied == revision
	}
	return false
}

// forget drops what was seen of a workload's live slot: it has just changed.
func (n *reports) forget(w flow.Workload) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.nodes {
		if r.workloads[w] != nil {
			r.workloads[w].applied = 0
		}
	}
}

// Disconnected says that a node's connection has ended.
func (s *Store) Disconnected(node string) {
	s.reports.mu.Lock()
	if r := s.reports.nodes[node]; r != nil {
		r.gone = true
	}
	s.reports.mu.Unlock()
	s.reports.applied.broadcast()
	s.updated.broadcast()
}

// ConfirmLive reports whether a node may keep a live revision: whether it is the
// one that is requested.
func (s *Store) ConfirmLive(ctx context.Context, node string, w flow.Workload, revision uint32) (bool, error) {
	x := s.index.Load()
	if x == nil || x.Node(node) == nil {
		return false, refuse(CodeNotFound, "node %q is not in the inventory: check the agent's --node", node)
	}
	found, err := s.present(w)
	if err != nil {
		return false, err
	}
	now, err := readSlots(ctx, s.reads, found.Identity)
	if err != nil {
		return false, err
	}
	return now.Live == revision && revision != 0, nil
}

// Nodes returns every node of the inventory, by name.
func (s *Store) Nodes() []Node {
	x := s.index.Load()
	if x == nil {
		return nil
	}
	s.reports.mu.Lock()
	defer s.reports.mu.Unlock()
	var out []Node
	for _, n := range x.Inventory().Nodes {
		node := Node{Name: n.Name, Report: rollout.Report{Node: n.Name}}
		if r := s.reports.nodes[n.Name]; r != nil {
			node.Connected, node.Reported, node.Report = r.connected(s.deps.Now(), s.cfg.ConnectedWithin), r.at, r.report
		}
		out = append(out, node)
	}
	slices.SortFunc(out, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// nodeSlots returns the nodes that attach endpoints of w, by name.
func (s *Store) nodeSlots(w *inventory.Workload) []NodeSlots {
	expected := map[string]int{}
	for _, e := range w.Endpoints {
		if e.Interface != "" {
			expected[e.Node]++
		}
	}
	s.reports.mu.Lock()
	defer s.reports.mu.Unlock()
	out := make([]NodeSlots, 0, len(expected))
	for name, n := range expected {
		slots := NodeSlots{Node: name, Expected: n, Effective: rollout.Effective{Workload: w.Ref()}}
		if r := s.reports.nodes[name]; r != nil {
			slots.Connected, slots.Panicked = r.connected(s.deps.Now(), s.cfg.ConnectedWithin), r.report.Panicked
			slots.Error, slots.Problems, slots.Reported = r.report.Error, r.report.Problems, r.at
			if nw := r.workloads[w.Ref()]; nw != nil {
				slots.Effective, slots.LastConfirmed = nw.effective, nw.lastConfirmed
			}
		}
		out = append(out, slots)
	}
	slices.SortFunc(out, func(a, b NodeSlots) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

// WaitApplied waits until every node that holds endpoints of the workload has
// the requested slots in its kernel. It ends early, with an error that says why,
// when a node refused them, is not connected, or went back by itself.
func (s *Store) WaitApplied(ctx context.Context, w flow.Workload, want Slots) error {
	began := s.deps.Now()
	for {
		changed := s.reports.applied.wait()
		found, err := s.present(w)
		if err != nil {
			return err
		}
		pending, err := s.pending(s.nodeSlots(found), want, began)
		if err != nil || !pending {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return &Error{Code: CodeUnavailable, Err: ctx.Err(),
				Message: fmt.Sprintf("not every node has applied the change of %s yet: look at its nodes", w)}
		}
	}
}

// pending reports whether a connected node has yet to apply want. Once none has,
// the error names one that will not.
func (s *Store) pending(nodes []NodeSlots, want Slots, began time.Time) (bool, error) {
	var failed error
	for _, n := range nodes {
		e := n.Effective
		switch {
		case e.LiveRevision == want.Live && e.StagedRevision == want.Staged && n.Connected:
		case !n.Connected:
			failed = refuse(CodeUnavailable, "node %s is not connected: it applies the change once it is back", n.Node)
		case n.Error != "" && n.Reported.After(began.Add(errorGrace)):
			failed = refuse(CodeUnavailable, "node %s refused the change: %s", n.Node, n.Error)
		case want.Live != 0 && e.RevertedFrom == want.Live && s.reports.sawApplied(n.Node, e.Workload, want.Live):
			failed = refuse(CodeUnavailable, "node %s went back from revision %d by itself", n.Node, want.Live)
		default:
			return true, nil
		}
	}
	return false, failed
}
