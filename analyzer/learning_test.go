package analyzer_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// shop is a world of two workloads of two endpoints, watched for a day.
func shop(t *testing.T, lines ...string) *world {
	t.Helper()
	w := &world{tb: t}
	for _, line := range append([]string{
		"window 24h", "node node-1 10.0.0.1", "node node-2 10.0.0.2", "covered node-1 24h", "covered node-2 24h",
		"workload shop/front app=front front-1@node-1 front-2@node-2",
		"workload shop/cart app=cart cart-1@node-1 cart-2@node-2",
	}, lines...) {
		if err := w.line(line); err != nil {
			t.Fatal(line, err)
		}
	}
	return w
}

// sentences are r's rules in words, those to review with their flags.
func sentences(r *analyzer.Recommendation) []string {
	out := []string{}
	for _, rule := range r.Rules {
		s := rule.Direction.String() + ": " + rule.Sentence
		for _, f := range rule.Flags {
			s += " !" + f.Code
		}
		out = append(out, s)
	}
	return out
}

func TestPeersOfRules(t *testing.T) {
	for _, c := range []struct {
		name, of string
		lines    []string
		want     []string
	}{
		{
			"a service's address is the workload behind it on its target port", "shop/front",
			[]string{"service 10.96.0.10 port=80 target=7070 app=cart", "flow shop/front > world/10.96.0.10 TCP 80 hours=20 clients=2", "flow shop/front > shop/cart TCP 7070 hours=20 seen=server"},
			[]string{"egress: may connect to workloads with app=cart in shop on TCP 7070"},
		},
		{
			"seen before and after translation, it is one edge", "shop/front",
			[]string{
				"service 10.96.0.10 port=80 target=7070 app=cart", "flow shop/front > world/10.96.0.10 TCP 80 hours=20 clients=2",
				"flow shop/front > shop/cart TCP 7070 hours=20 seen=both",
			},
			[]string{"egress: may connect to workloads with app=cart in shop on TCP 7070"},
		},
		{
			"a service without a selector is its endpoints", "shop/front",
			[]string{"service 10.96.0.11 port=5432 endpoint=192.0.2.7", "flow shop/front > world/10.96.0.11 TCP 5432 hours=20"},
			[]string{"egress: may connect to 192.0.2.7 on TCP 5432"},
		},
		{
			"default/kubernetes is the API server", "shop/front",
			[]string{"service 10.96.0.1 port=443 target=6443 reserved=kube-apiserver", "flow shop/front > world/10.96.0.1 TCP 443 hours=20 clients=2"},
			[]string{"egress: may connect to the Kubernetes API server on TCP 6443"},
		},
		{
			"a port that the service lacks stays an address", "shop/front",
			[]string{"service 10.96.0.10 port=80 target=7070 app=cart", "flow shop/front > world/10.96.0.10 TCP 81 hours=20 clients=2"},
			[]string{"egress: may connect to 10.96.0.10 on TCP 81"},
		},
		{
			"a name where one is known, the one of fewest addresses", "shop/front",
			[]string{
				"name api.example.com 192.0.2.1 192.0.2.2", "name cdn.example.com 192.0.2.1 192.0.2.2 192.0.2.3",
				"flow shop/front > world/192.0.2.1 TCP 443 hours=20 clients=2", "flow shop/front > world/192.0.2.2 TCP 443 hours=20 clients=2",
			},
			[]string{"egress: may connect to api.example.com on TCP 443"},
		},
		{
			"names are for egress", "shop/cart",
			[]string{"name api.example.com 192.0.2.1", "flow world/192.0.2.1 > shop/cart TCP 443 hours=20"},
			[]string{"ingress: 192.0.2.1 may connect on TCP 443"},
		},
		{
			"neighbours merge only when all of a prefix was seen", "shop/front",
			[]string{
				"flow shop/front > world/192.0.2.4 TCP 443 hours=20 clients=2", "flow shop/front > world/192.0.2.5 TCP 443 hours=20 clients=2",
				"flow shop/front > world/192.0.2.6 TCP 443 hours=20 clients=2",
			},
			[]string{"egress: may connect to 192.0.2.4/31 or 192.0.2.6 on TCP 443"},
		},
		{
			"an IPv6 address is one address", "shop/front",
			[]string{"flow shop/front > world/2001:db8::1 TCP 443 hours=20 clients=2"},
			[]string{"egress: may connect to 2001:db8::1 on TCP 443"},
		},
		{
			"a node is a node, whatever runs on it", "shop/front",
			[]string{"flow shop/front > remote-node/10.0.0.2 TCP 9100 hours=20 clients=2"},
			[]string{"egress: may connect to the other nodes on TCP 9100"},
		},
		{
			"its own node's probes are not learned, another node's connections wait", "shop/cart",
			[]string{"flow host/10.0.0.1 > shop/cart TCP 8080 hours=20", "flow remote-node/10.0.0.2 > shop/cart TCP 8080 hours=20"},
			[]string{"ingress: the other nodes may connect on TCP 8080 !node"},
		},
		{
			"UDP servers above 1024", "shop/front",
			[]string{"flow shop/front > shop/cart UDP 9094 hours=20 seen=both"},
			[]string{"egress: may connect to workloads with app=cart in shop on UDP 9094"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, sentences(shop(t, c.lines...).recommend(c.of))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		lost  []flow.Gap // of node-1
		want  []string
	}{
		{"nothing to say", []string{"flow shop/front > shop/cart TCP 80 hours=20"}, nil, nil},
		{"seen once", []string{"flow shop/front > shop/cart TCP 80 conns=1 clients=1 first=1h last=1h hours=1"}, nil, []string{"seen-once", "rare", "single-replica"}},
		{"late", []string{"flow shop/front > shop/cart TCP 80 first=20h hours=4"}, nil, []string{"late"}},
		{"a single slice", []string{"flow shop/front > shop/cart TCP 80 first=1h last=1h30m hours=1"}, nil, []string{"rare"}},
		{"a single replica", []string{"flow shop/front > shop/cart TCP 80 hours=20 clients=1"}, nil, []string{"single-replica"}},
		{"administrative", []string{"flow shop/front > shop/cart TCP 22 hours=20"}, nil, []string{"admin-port"}},
		{"external, new", []string{"flow shop/front > world/192.0.2.1 TCP 443 first=13h hours=9 clients=2"}, nil, []string{"external-first-seen"}},
		{"denied before", []string{"flow shop/front > shop/cart TCP 80 hours=20 live=3"}, nil, []string{"denied"}},
		{"sensitivity", []string{"workload shop/pci app=pci,sensitivity=high pci-1@node-1", "workload shop/low app=low,sensitivity=low low-1@node-1", "flow shop/front > shop/cart TCP 80 hours=20", "flow shop/low > shop/pci TCP 81 hours=20"}, nil, nil},
		{"all of it during a loss", []string{"flow shop/front > shop/cart TCP 80 first=2h last=5h hours=3"}, []flow.Gap{{Start: epoch.Add(time.Hour), End: epoch.Add(3 * time.Hour)}, {Start: epoch.Add(3 * time.Hour), End: epoch.Add(6 * time.Hour)}}, []string{"losses"}},
		{"some of it during a loss", []string{"flow shop/front > shop/cart TCP 80 first=2h last=7h hours=3"}, []flow.Gap{{Start: epoch.Add(time.Hour), End: epoch.Add(6 * time.Hour)}}, nil},
		{"a loss nobody can date", []string{"flow shop/front > shop/cart TCP 80 first=2h last=7h hours=3"}, []flow.Gap{}, []string{"losses"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := shop(t, c.lines...)
			if c.lost != nil {
				w.cover[0].Lost, w.cover[0].Losses = 1, c.lost
			}
			r := w.recommend("shop/front")
			var got []string
			for _, f := range r.Rules[0].Flags {
				got = append(got, f.Code)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if accepted := r.Rules[0].Proposed == analyzer.Accept; accepted != (c.want == nil) {
				t.Errorf("accepted %v with flags %v", accepted, got)
			}
		})
	}
	for _, key := range []string{"env", "environment", "sensitivity", "compliance"} {
		w := shop(t, "workload shop/a app=a,"+key+"=x a-1@node-1", "workload shop/b app=b,"+key+"=y b-1@node-1", "flow shop/a > shop/b TCP 80 hours=20")
		if got := sentences(w.recommend("shop/a")); !strings.HasSuffix(got[0], "!cross-environment") {
			t.Errorf("%s: %q", key, got)
		}
	}
}

// A workload that is enforced is learned from as any other: what its policy
// allows stays learnable, what it denies waits for a person.
func TestProtectedWorkloadsAreLearnedFrom(t *testing.T) {
	r := shop(t, "flow shop/front > shop/cart TCP 80 hours=20", "flow shop/front > shop/cart TCP 81 hours=20 answered=50 live=50",
		"flow shop/front > shop/cart TCP 82 hours=20 answered=0 live=100").recommend("shop/cart")
	want := []string{
		"ingress: workloads with app=front in shop may connect on TCP 80",
		"ingress: workloads with app=front in shop may connect on TCP 81 !denied",
	}
	if diff := cmp.Diff(want, sentences(r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(r.Excluded) != 1 || !strings.Contains(r.Excluded[0].Reason, "100 denied by the live policy") {
		t.Errorf("left out: %+v", r.Excluded)
	}
}

func TestMayAdmit(t *testing.T) {
	r := shop(t, "name api.example.com 192.0.2.1", "flow shop/front > shop/cart TCP 80 hours=20", "flow shop/front > world/192.0.2.1 TCP 443 hours=20",
		"flow shop/front > remote-node/10.0.0.2 TCP 9100 hours=20", "flow shop/front > host/10.0.0.1 TCP 9100 hours=20", "flow shop/front > world/192.0.2.9 TCP 444 hours=20").recommend("shop/front")
	var got []string
	for _, rule := range r.Rules {
		got = append(got, rule.MayAdmit...)
	}
	slices.Sort(got)
	want := []string{
		"any later workload in shop with app=cart", "every process of every other node, later ones included",
		"every process of the node that the endpoint is on", "whatever addresses api.example.com will have",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What a policy names, replay finds again: services behind their addresses,
// names and nodes.
func TestReplayKnowsServicesAndNames(t *testing.T) {
	w := shop(t, "service 10.96.0.10 port=80 target=7070 app=cart", "name api.example.com 192.0.2.1",
		"flow shop/front > world/10.96.0.10 TCP 80 hours=20 clients=2", "flow shop/front > shop/cart TCP 7070 hours=20 seen=server", "flow shop/front > world/192.0.2.1 TCP 443 hours=20 clients=2",
		"flow shop/front > remote-node/10.0.0.2 TCP 9100 hours=20 clients=2")
	r := w.recommend("shop/front")
	got, err := w.analyzer(analyzer.Config{}).Replay(context.Background(), *r.Policy, w.window())
	if err != nil || got.Denied != 0 || got.JudgedEdges != 3 {
		t.Errorf("%+v, %v: want three edges and none denied", got, err)
	}
	got, err = w.analyzer(analyzer.Config{}).Replay(context.Background(), policy.Policy{Workload: ref("shop/front"), IsolateEgress: true}, w.window())
	if err != nil || got.DeniedEdges != 3 {
		t.Errorf("%+v, %v: want all three denied by nothing allowed", got, err)
	}
}
