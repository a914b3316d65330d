package analyzer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

func TestEveryTrueEdgeIsLearnedAndNoneBesides(t *testing.T) {
	w := load(t, "online-boutique.input")
	recs := w.recommendAll()
	want := w.trueEdges()
	if len(want) != 23 {
		t.Fatalf("the fixture has %d true edges, want 23: two are the external client's, one a family", len(want))
	}
	for _, withFlagged := range []bool{false, true} {
		if diff := cmp.Diff(want, learnedEdges(recs, withFlagged)); diff != "" {
			t.Errorf("with flagged %v (-true +learned):\n%s", withFlagged, diff)
		}
	}
	for _, r := range recs {
		for _, rule := range r.Rules {
			if rule.Implied {
				continue
			}
			if len(rule.Evidence) != len(rule.Rule.Peers)*len(rule.Rule.Ports) {
				t.Errorf("%s %q: %d entries of evidence for %d edges", r.Workload, rule.Sentence, len(rule.Evidence), len(rule.Rule.Peers)*len(rule.Rule.Ports))
			}
		}
	}
}

// Each side alone must give the same edges as both together.
func TestTrueEdgesFromOneSide(t *testing.T) {
	for name, keep := range map[string]flow.Direction{"clients observed": flow.Egress, "servers observed": flow.Ingress} {
		t.Run(name, func(t *testing.T) {
			w := load(t, "online-boutique.input")
			want := w.trueEdges()
			if keep == flow.Egress {
				// Nobody watches the external client, so its edge cannot be known.
				want = slices.DeleteFunc(want, func(r edgeRef) bool { return !strings.Contains(r.Client, "/") })
			}
			w.edges = slices.DeleteFunc(w.edges, func(e flow.Edge) bool { return e.Direction != keep })
			if diff := cmp.Diff(want, learnedEdges(w.recommendAll(), true)); diff != "" {
				t.Errorf("(-true +learned):\n%s", diff)
			}
		})
	}
}

func TestScanIsNeverAcceptedInBulk(t *testing.T) {
	clean, scanned := load(t, "online-boutique.input"), load(t, "scan.input")
	recs := scanned.recommendAll()
	if diff := cmp.Diff(clean.trueEdges(), learnedEdges(recs, false)); diff != "" {
		t.Errorf("without a person's look (-true +accepted):\n%s", diff)
	}
	for _, r := range recs {
		for _, rule := range r.Rules {
			if rule.Proposed == analyzer.Review && len(rule.Evidence) > 1 {
				t.Errorf("%s: %q holds %d flagged edges; each must be accepted by itself", r.Workload, rule.Sentence, len(rule.Evidence))
			}
		}
	}
}

// A rollout changes every churning label of every workload. What was learned
// before must still admit what happens after.
func TestVersionChangeBreaksNothing(t *testing.T) {
	w := load(t, "online-boutique.input")
	for i := range w.inv.Workloads {
		labels := w.inv.Workloads[i].Labels
		for _, k := range []string{"version", "app.kubernetes.io/version", "pod-template-hash", "controller-revision-hash", "app.kubernetes.io/instance", "helm.sh/chart", "example.com/version"} {
			labels[k] = "v1"
		}
	}
	recs := w.recommendAll()
	for i := range w.inv.Workloads {
		for k, v := range w.inv.Workloads[i].Labels {
			if v == "v1" {
				w.inv.Workloads[i].Labels[k] = "v2"
			}
		}
	}
	a := w.analyzer(analyzer.Config{})
	for _, r := range recs {
		if r.Policy == nil {
			t.Errorf("%s: no policy: %s", r.Workload, r.NoPolicy)
			continue
		}
		if strings.Contains(string(r.Policy.Canonical()), "v1") {
			t.Errorf("%s selects on a label that changes: %s", r.Workload, r.Policy.Canonical())
		}
		got, err := a.Replay(context.Background(), *r.Policy, w.window())
		if err != nil {
			t.Fatal(err)
		}
		if got.DeniedEdges != 0 || got.JudgedEdges == 0 {
			t.Errorf("%s: %d of %d edges denied after the change: %+v", r.Workload, got.DeniedEdges, got.JudgedEdges, got.Denials)
		}
	}
}

func TestSameInputSameBytes(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.input")
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range inputs {
		var want []byte
		for i := range 20 {
			w := load(t, filepath.Base(in))
			r := rand.New(rand.NewPCG(uint64(i), 1))
			r.Shuffle(len(w.edges), func(i, j int) { w.edges[i], w.edges[j] = w.edges[j], w.edges[i] })
			r.Shuffle(len(w.cover), func(i, j int) { w.cover[i], w.cover[j] = w.cover[j], w.cover[i] })
			r.Shuffle(len(w.inv.Workloads), func(i, j int) {
				w.inv.Workloads[i], w.inv.Workloads[j] = w.inv.Workloads[j], w.inv.Workloads[i]
			})
			got, err := json.Marshal(w.recommendAll())
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			}
			if string(got) != string(want) {
				t.Fatalf("%s: another order gave another answer:\n%s", in, cmp.Diff(string(want), string(got)))
			}
		}
	}
}

// One workload by itself must get what it gets among all.
func TestRecommendOneEqualsAll(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.input")
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range inputs {
		w := load(t, filepath.Base(in))
		a := w.analyzer(analyzer.Config{})
		for _, want := range w.recommendAll() {
			got, err := a.Recommend(context.Background(), want.Workload, w.window())
			if errors.Is(err, analyzer.ErrNoLabels) {
				if want.Policy != nil || want.NoPolicy != err.Error() {
					t.Errorf("%s: %v by itself, %+v among all", want.Workload, err, want)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("%s %s (-among all +by itself):\n%s", in, want.Workload, diff)
			}
		}
	}
}

func TestRecommendReadsOncePerWorkload(t *testing.T) {
	w := load(t, "online-boutique.input")
	w.recommendAll()
	if w.reads != 1 {
		t.Errorf("read the edges %d times for all workloads, want once", w.reads)
	}
	w.reads = 0
	w.recommend("boutique/frontend")
	if w.reads != 1 {
		t.Errorf("read the edges %d times for one quiet workload, want once", w.reads)
	}
}

func TestRecommendErrors(t *testing.T) {
	w := load(t, "not-learned.input")
	a := w.analyzer(analyzer.Config{})
	ctx := context.Background()
	for _, tc := range []struct {
		name string
		of   string
		win  analyzer.Window
		is   error
		want string
	}{
		{"not in the inventory", "shop/gone", w.window(), analyzer.ErrUnknownWorkload, "workload shop/Host/gone is not in the inventory; add it there or check its name"},
		{"only churning labels", "shop/bare", w.window(), analyzer.ErrNoLabels, "workload shop/Host/bare has no label that a selector can rely on; give it one, such as app"},
		{"window ends before it starts", "shop/cart", analyzer.Window{Since: epoch, Until: epoch}, nil, "the window ends at 2026-03-02T08:00:00Z, which is not after its start"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := a.Recommend(ctx, ref(tc.of), tc.win)
			if err == nil || r != nil || !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("got %v, %v; want %q", r, err, tc.want)
			}
		})
	}
	broken := errors.New("connection refused")
	for name, deps := range map[string]analyzer.Deps{
		"read edges: connection refused":    {Edges: failing{broken}, Coverage: w},
		"read coverage: connection refused": {Edges: w, Coverage: failing{broken}},
	} {
		deps.Inventory = func() inventory.Inventory { return w.inv }
		b, err := analyzer.New(analyzer.Config{}, deps)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Recommend(ctx, ref("shop/cart"), w.window()); !errors.Is(err, broken) || err.Error() != name {
			t.Errorf("error %v, want %s", err, name)
		}
		if _, err := b.RecommendAll(ctx, w.window()); !errors.Is(err, broken) || err.Error() != name {
			t.Errorf("error %v, want %s", err, name)
		}
		if _, err := b.Replay(ctx, policy.Policy{Workload: ref("shop/cart")}, w.window()); !errors.Is(err, broken) {
			t.Errorf("error %v, want %s", err, name)
		}
	}
	if _, err := analyzer.New(analyzer.Config{}, analyzer.Deps{}); err == nil {
		t.Error("made without sources")
	}
	_, err := analyzer.New(analyzer.Config{Burst: -1, MinShare: 2, ScanTargets: -1}, analyzer.Deps{Edges: w, Coverage: w, Inventory: func() inventory.Inventory { return w.inv }})
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("bad settings: %v, want three lines", err)
	}
}

type failing struct{ err error }

func (f failing) Edges(context.Context, flow.EdgeFilter) ([]flow.Edge, error) { return nil, f.err }

func (f failing) Coverage(context.Context, time.Time, time.Time) ([]flow.NodeCoverage, error) {
	return nil, f.err
}

func TestPolicyOf(t *testing.T) {
	r := load(t, "scan.input").recommend("boutique/adservice")
	if r.Policy.IsolateEgress {
		t.Fatal("egress is isolated although a person accepted none of its flagged edges")
	}
	var accepted []string
	for _, rule := range r.Rules {
		if rule.Proposed == analyzer.Accept || strings.Contains(rule.Sentence, "redis-cart") {
			accepted = append(accepted, rule.Rule.ID)
		}
	}
	p, err := r.PolicyOf(accepted)
	if err != nil {
		t.Fatal(err)
	}
	if !p.IsolateIngress || !p.IsolateEgress || len(p.Ingress) != 1 || len(p.Egress) != 1 {
		t.Errorf("accepting one egress rule gave %s", p.Canonical())
	}
	if p, err := r.PolicyOf(nil); err != nil || p.IsolateIngress || p.IsolateEgress {
		t.Errorf("accepting nothing gave %s, %v; want nothing isolated", p.Canonical(), err)
	}
	if _, err := r.PolicyOf([]string{"0123456789abcdef"}); err == nil {
		t.Error("accepted a rule that was never recommended")
	}
}

func TestManyExternalClientsAreRemarkedOn(t *testing.T) {
	w := load(t, "online-boutique.input")
	for i := range 30 {
		if err := w.line(fmt.Sprintf("flow world/192.0.2.%d > boutique/frontend TCP 8080", i)); err != nil {
			t.Fatal(err)
		}
	}
	r := w.recommend("boutique/frontend")
	if len(r.Notes) != 1 || !strings.HasPrefix(r.Notes[0], "ingress: 32 addresses outside the inventory use TCP 8080") {
		t.Errorf("notes %q", r.Notes)
	}
	if n := len(load(t, "online-boutique.input").recommend("boutique/frontend").Notes); n != 0 {
		t.Errorf("%d notes on two addresses", n)
	}
	var accepted, proposed []string
	for _, rule := range r.Rules {
		for _, p := range rule.Rule.Peers {
			switch {
			case p.CIDR != nil && rule.Proposed == analyzer.Accept:
				accepted = append(accepted, p.CIDR.Prefix.String())
			case p.CIDR != nil:
				proposed = append(proposed, p.CIDR.Prefix.String()+": "+strings.Join(rule.AlsoAdmits, ", "))
			}
		}
	}
	// The 30 seen, and the fixture's two: not one address more.
	if diff := cmp.Diff([]string{"192.0.2.0/28", "192.0.2.16/29", "192.0.2.24/30", "192.0.2.28/31", "203.0.113.10/32", "2001:db8:113::10/128"}, accepted); diff != "" {
		t.Errorf("accepted (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"192.0.2.0/27: all 2 other addresses of 192.0.2.0/27 on TCP 8080, which were not observed"}, proposed); diff != "" {
		t.Errorf("proposed (-want +got):\n%s", diff)
	}
}

func TestAnalyzerIsSafeForConcurrentUse(t *testing.T) {
	w := load(t, "scan.input")
	src := &locked{world: w}
	a, err := analyzer.New(analyzer.Config{}, analyzer.Deps{Edges: src, Coverage: w, Inventory: func() inventory.Inventory { return w.inv }})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range w.inv.Workloads {
				if _, err := a.Recommend(context.Background(), w.inv.Workloads[i].Ref(), w.window()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

type locked struct {
	mu sync.Mutex
	*world
}

func (l *locked) Edges(ctx context.Context, f flow.EdgeFilter) ([]flow.Edge, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.world.Edges(ctx, f)
}

// Whatever was seen, the candidate admits every edge proposed for acceptance and,
// in the directions that it isolates, no other one.
func TestCandidateAdmitsExactlyWhatIsAccepted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := randomWorld(t)
		a, err := analyzer.New(analyzer.Config{}, analyzer.Deps{Edges: w, Coverage: w, Inventory: func() inventory.Inventory { return w.inv }})
		if err != nil {
			t.Fatal(err)
		}
		recs, err := a.RecommendAll(context.Background(), w.window())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			if r.Policy == nil {
				continue
			}
			if err := r.Policy.Validate(); err != nil {
				t.Fatalf("%s: recommended an invalid policy: %v", r.Workload, err)
			}
			checkAdmits(t, a, w, r)
		}
	})
}

func checkAdmits(t *rapid.T, a *analyzer.Analyzer, w *world, r *analyzer.Recommendation) {
	type seen struct {
		d        flow.Direction
		peer     flow.Party // a node's address is another peer to its own endpoints than to others'
		protocol flow.Protocol
		port     uint16
	}
	accepted, implied := map[seen]bool{}, map[seen]bool{}
	for _, rule := range r.Rules {
		for _, e := range rule.Evidence {
			k := seen{rule.Direction, e.Peer, e.Protocol, e.Port}
			if rule.Proposed == analyzer.Accept {
				accepted[k] = true
				// The same peer's fallback is admitted with it, seen or not.
				if e.Protocol == flow.UDP && e.Port == 53 {
					implied[seen{rule.Direction, e.Peer, flow.TCP, 53}] = true
				}
			}
		}
	}
	got, err := a.Replay(context.Background(), *r.Policy, w.window())
	if err != nil {
		t.Fatal(err)
	}
	denied := map[seen]bool{}
	for _, d := range got.Denials {
		k := seen{d.Direction, d.Source, d.Protocol, d.Port}
		if d.Direction == flow.Egress {
			k.peer = d.Destination
		}
		denied[k] = true
	}
	for k := range accepted {
		if denied[k] {
			t.Fatalf("%s: %+v was accepted and is denied by %s", r.Workload, k, r.Policy.Canonical())
		}
	}
	for i := range w.edges {
		e := &w.edges[i]
		for _, k := range []seen{{flow.Ingress, e.Source, e.Protocol, e.Port}, {flow.Egress, e.Destination, e.Protocol, e.Port}} {
			mine := e.Destination.Workload
			if k.d == flow.Egress {
				mine = e.Source.Workload
			}
			failsafe := k.d == flow.Ingress && e.Source.Reserved == "host"
			if mine != r.Workload || e.Observer.IsZero() || e.Direction == flow.DirectionUnknown || !r.Policy.Isolates(k.d) || accepted[k] || implied[k] || failsafe {
				continue
			}
			if !denied[k] {
				t.Fatalf("%s: %+v was not accepted and is allowed by %s", r.Workload, k, r.Policy.Canonical())
			}
		}
	}
}

// A node is "host" to the endpoints on it and "remote-node" to all others. What
// was learned of it as one says nothing of it as the other, though the address
// is the same.
func TestNodeIsOneThingToItsOwnAndAnotherToOthers(t *testing.T) {
	for answered, other := range map[string]string{"host": "remote-node", "remote-node": "host"} {
		t.Run(answered, func(t *testing.T) {
			w := &world{tb: t}
			for _, line := range []string{
				"window 2h", "node node-1 10.0.0.1", "node node-2 10.0.0.2", "covered node-1 2h", "covered node-2 2h",
				"workload a/two app=two two-1@node-1 two-2@node-2",
				"flow a/two > " + answered + "/10.0.0.1 UDP 80 conns=5", "flow a/two > " + other + "/10.0.0.1 UDP 80 conns=5 answered=0",
			} {
				if err := w.line(line); err != nil {
					t.Fatal(err)
				}
			}
			r := w.recommend("a/two")
			want := []policy.Peer{{Reserved: answered}}
			if len(r.Rules) != 1 || r.Policy == nil || !cmp.Equal(r.Rules[0].Rule.Peers, want) {
				t.Fatalf("rules %+v, policy %+v, want one rule of %s", r.Rules, r.Policy, answered)
			}
			if len(r.Excluded) != 1 || r.Excluded[0].Destination.Reserved != other || r.Excluded[0].Code != analyzer.ExcludedUnanswered {
				t.Errorf("left out %+v, want the unanswered of %s", r.Excluded, other)
			}
			got, err := w.analyzer(analyzer.Config{}).Replay(t.Context(), *r.Policy, w.window())
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Denials) != 1 || got.Denials[0].Destination.Reserved != other || got.Judged != 10 || got.Denied != 5 {
				t.Errorf("denied %d of %d: %+v, want the 5 to %s", got.Denied, got.Judged, got.Denials, other)
			}
		})
	}
}

// TestNobodyWatched checks that what was seen at an interface which is nobody's
// teaches nobody anything.
func TestNobodyWatched(t *testing.T) {
	for observer, want := range map[string]int{"client": 0, "server": 1} {
		w := &world{tb: t}
		for _, line := range []string{
			"window 2h", "node node-1 10.0.0.1", "covered node-1 2h", "workload a/one app=one one-1@node-1",
			"flow world/192.0.2.1 > a/one TCP 80 conns=5 answered=5 first=0m last=110m clients=1 staged=0 seen=" + observer,
		} {
			if err := w.line(line); err != nil {
				t.Fatal(err)
			}
		}
		a, err := analyzer.New(analyzer.Config{}, analyzer.Deps{Edges: w, Coverage: w, Inventory: func() inventory.Inventory { return w.inv }})
		if err != nil {
			t.Fatal(err)
		}
		recs, err := a.RecommendAll(t.Context(), w.window())
		if err != nil || len(recs) != 1 {
			t.Fatal(recs, err)
		}
		if n := len(recs[0].Rules) + len(recs[0].Excluded); n != want {
			t.Errorf("seen by the %s: %d rules and exclusions, want %d: %+v", observer, n, want, recs[0])
		}
	}
}

// randomWorld draws edges among a few workloads, two of which no selector can
// tell apart, and a few addresses.
func randomWorld(t *rapid.T) *world {
	w := &world{tb: t}
	for _, line := range []string{
		"window 2h", "node node-1 10.0.0.1", "covered node-1 2h",
		"workload a/one app=one,version=1 one-1@node-1 one-2@node-1", "workload a/two app=two two-1@node-1",
		"workload a/twin-1 app=twin t1@node-1", "workload a/twin-2 app=twin t2@node-1!", "workload b/bare version=1 b1@node-1",
	} {
		if err := w.line(line); err != nil {
			t.Fatal(err)
		}
	}
	parties := []string{"a/one", "a/two", "a/twin-1", "a/twin-2", "b/bare", "a/gone", "world/192.0.2.1", "world/2001:db8::1", "host/10.0.0.1", "remote-node/10.0.0.1"}
	for range rapid.IntRange(0, 25).Draw(t, "edges") {
		line := fmt.Sprintf("flow %s > %s %s conns=%d answered=%d first=%dm last=%dm clients=%d staged=%d seen=%s",
			rapid.SampledFrom(parties).Draw(t, "client"), rapid.SampledFrom(parties).Draw(t, "server"),
			rapid.SampledFrom([]string{"TCP 80", "UDP 80", "TCP 53", "UDP 53", "TCP 22", "ICMP 2048", "47 0"}).Draw(t, "port"),
			rapid.IntRange(0, 5).Draw(t, "conns"), rapid.IntRange(0, 5).Draw(t, "answered"),
			rapid.IntRange(0, 60).Draw(t, "first"), rapid.IntRange(60, 120).Draw(t, "last"),
			rapid.IntRange(1, 2).Draw(t, "clients"), rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "staged"),
			rapid.SampledFrom([]string{"", "both", "client", "server", "unknown"}).Draw(t, "seen"))
		if err := w.line(line); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func TestChurningLabelsAreNeverSelectedOn(t *testing.T) {
	churning := []string{
		"pod-template-hash", "controller-revision-hash", "pod-template-generation", "controller-uid", "batch.kubernetes.io/controller-uid",
		"statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index", "job-name", "batch.kubernetes.io/job-name", "job-completion-index",
		"batch.kubernetes.io/job-completion-index", "version", "instance", "managed-by", "helm.sh/chart",
		"app.kubernetes.io/version", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "example.com/version",
		"rollouts-pod-template-hash", "chart", "heritage", "release", "revision", "example.com/revision",
	}
	stable := map[string]string{"app": "x", "app.kubernetes.io/name": "x", "app.kubernetes.io/component": "c", "tier": "web", "versioned": "yes", "job": "x"}
	w := load(t, "online-boutique.input")
	front := w.find(ref("boutique/frontend"))
	front.Labels = maps.Clone(stable)
	for _, k := range churning {
		front.Labels[k] = "1"
	}
	r := w.recommend("boutique/adservice")
	if len(r.Rules) != 1 {
		t.Fatalf("%d rules, want 1", len(r.Rules))
	}
	want := &policy.Selector{Namespace: "boutique", MatchLabels: stable}
	if diff := cmp.Diff(want, r.Rules[0].Rule.Peers[0].Selector); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
