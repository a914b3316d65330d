package analyzer_test

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/policy"
)

// Several policies at once are judged as each alone, and the edges are read once.
func TestReplayAllIsReplayOfEach(t *testing.T) {
	w := load(t, "online-boutique.input")
	a := w.analyzer(analyzer.Config{})
	var policies []policy.Policy
	var want []*analyzer.ReplayResult
	for _, name := range []string{"boutique/cartservice", "boutique/frontend", "kube-system/dns"} {
		// Of what was learned, half: some is denied.
		p := *w.recommend(name).Policy
		p.IsolateIngress, p.IsolateEgress = true, true
		p.Ingress, p.Egress = p.Ingress[:len(p.Ingress)/2], p.Egress[:len(p.Egress)/2]
		policies = append(policies, p)
		r, err := a.Replay(context.Background(), p, w.window())
		if err != nil {
			t.Fatal(err)
		}
		if r.DeniedEdges == 0 || r.Denied == 0 {
			t.Errorf("%s: nothing is denied, which tells nothing", name)
		}
		want = append(want, r)
	}
	w.reads = 0
	got, err := a.ReplayAll(context.Background(), policies, w.window())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("together %+v\nalone %+v", got, want)
	}
	if w.reads != 1 {
		t.Errorf("%d reads, want 1", w.reads)
	}
	policies[1].Workload = ref("boutique/nobody")
	if _, err := a.ReplayAll(context.Background(), policies, w.window()); err == nil || !strings.Contains(err.Error(), "is not in the inventory") {
		t.Errorf("of a workload that is not there: %v", err)
	}
}

// A difference is in connections: what is denied anew, what is allowed anew, and
// what stays as it was.
func TestDiffInConnections(t *testing.T) {
	w := shop(t, "workload shop/pay app=pay pay-1@node-1",
		"flow shop/front > shop/cart TCP 80 conns=7", "flow shop/front > shop/cart TCP 81 conns=5", "flow shop/pay > shop/cart TCP 80 conns=3", "flow shop/cart > shop/pay TCP 80 conns=2")
	diff := func(before, after policy.Policy) (*analyzer.Difference, error) {
		d, err := w.analyzer(analyzer.Config{}).Diff(context.Background(), []policy.Policy{before}, []policy.Policy{after}, w.window())
		if err != nil {
			return nil, err
		}
		return d[0], nil
	}
	before := policyOf(t, "ingress app=front TCP:80", "ingress app=front TCP:81")
	after := policyOf(t, "ingress app=front TCP:80", "ingress app=pay TCP:80")
	d, err := diff(before, after)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Denied) != 1 || d.Denied[0].Port != 81 || d.DeniedConnections != 5 {
		t.Errorf("denied anew: %+v, %d connections", d.Denied, d.DeniedConnections)
	}
	if len(d.Allowed) != 1 || d.Allowed[0].Source.Workload != ref("shop/pay") || d.AllowedConnections != 3 {
		t.Errorf("allowed anew: %+v, %d connections", d.Allowed, d.AllowedConnections)
	}
	if d.Same != 9 || len(d.Changes.Ingress.Added) != 1 || len(d.Changes.Ingress.Removed) != 1 {
		t.Errorf("%d connections as before, changes %+v", d.Same, d.Changes)
	}
	if d, err := diff(before, before); err != nil || len(d.Denied)+len(d.Allowed) > 0 || d.Same != 17 || !d.Changes.Empty() {
		t.Errorf("of nothing: %+v, %v", d, err)
	}
	other := after
	other.Workload = ref("shop/pay")
	if _, err := diff(before, other); err == nil || !strings.Contains(err.Error(), "are no pair") {
		t.Errorf("of two workloads: %v", err)
	}
	if _, err := w.analyzer(analyzer.Config{}).Diff(context.Background(), []policy.Policy{before}, nil, w.window()); err == nil {
		t.Error("of one policy and none: no error")
	}
}
