package policy_test

import (
	"fmt"
	"net/netip"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Selectors mean what Kubernetes' own implementation says they mean.
func TestSelectorsAsInKubernetes(t *testing.T) {
	keys, values := rapid.SampledFrom([]string{"app", "tier", "env"}), rapid.SampledFrom([]string{"", "a", "b"})
	rapid.Check(t, func(t *rapid.T) {
		have := rapid.MapOf(keys, values).Draw(t, "labels")
		theirs := metav1.LabelSelector{MatchLabels: rapid.MapOfN(keys, values, 0, 2).Draw(t, "matchLabels")}
		ours := policy.Selector{Namespace: "shop", MatchLabels: theirs.MatchLabels}
		for range rapid.IntRange(0, 3).Draw(t, "expressions") {
			e := policy.Expression{Key: keys.Draw(t, "key"), Operator: rapid.SampledFrom([]policy.Operator{
				policy.OpIn, policy.OpNotIn, policy.OpExists, policy.OpDoesNotExist,
			}).Draw(t, "operator")}
			if e.Operator == policy.OpIn || e.Operator == policy.OpNotIn {
				e.Values = rapid.SliceOfN(values, 1, 2).Draw(t, "values")
			}
			ours.MatchExpressions = append(ours.MatchExpressions, e)
			theirs.MatchExpressions = append(theirs.MatchExpressions, metav1.LabelSelectorRequirement{
				Key: e.Key, Operator: metav1.LabelSelectorOperator(e.Operator), Values: e.Values,
			})
		}
		ours.All = len(ours.MatchLabels)+len(ours.MatchExpressions) == 0
		judge, err := metav1.LabelSelectorAsSelector(&theirs)
		if err != nil {
			t.Fatal(err)
		}
		who := policy.PeerFacts{Workload: cart, Labels: have}
		if got, want := ours.Selects(who), judge.Matches(labels.Set(have)); got != want {
			t.Fatalf("%s of %v: %t, want %t", judge, have, got, want)
		}
	})
}

// What nobody wrote down selects nobody, valid or not.
func TestEmptySelectsNobody(t *testing.T) {
	who := policy.PeerFacts{Workload: cart, Labels: map[string]string{"app": "cart"}}
	for _, s := range []policy.Selector{
		{}, {Namespace: "shop"}, {All: true}, {Namespaces: &policy.LabelSelector{}, All: true}, {Namespaces: &policy.LabelSelector{All: true}},
	} {
		if s.Selects(who) {
			t.Errorf("%+v", s)
		}
	}
}

func TestNamesMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"api.example.com", "api.example.com", true},
		{"api.example.com", "www.example.com", false},
		{"*.example.com", "api.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "a.b.example.com", false},
		{"*.example.com", ".example.com", false},
		{"*.example.com", "api.example.org", false},
	} {
		if got := policy.NameMatches(c.pattern, c.name); got != c.want {
			t.Errorf("%s of %s: %t", c.pattern, c.name, got)
		}
	}
}

func TestFQDNPeers(t *testing.T) {
	p := policy.Normalize(policy.Policy{Workload: cart, IsolateEgress: true, Egress: []policy.Rule{rule(peers(policy.Peer{FQDN: "*.example.com"}), tcp(443))}})
	at := func(a string, names ...string) policy.Facts {
		return policy.Facts{Direction: flow.Egress, Protocol: flow.TCP, Port: 443, Peer: policy.PeerFacts{Addr: netip.MustParseAddr(a), Reserved: flow.IdentityWorld, Names: names}}
	}
	for _, a := range []string{"192.0.2.7", "2001:db8::7"} {
		if j := policy.Evaluate(&p, at(a, "example.org", "api.example.com")); !j.Allowed() {
			t.Errorf("%s with the name: %+v", a, j)
		}
		if j := policy.Evaluate(&p, at(a, "example.org")); j.Allowed() {
			t.Errorf("%s with another name: %+v", a, j)
		}
		if j := policy.Evaluate(&p, at(a)); j.Allowed() {
			t.Errorf("%s with no name: %+v", a, j)
		}
	}
}

func TestValidateExtensions(t *testing.T) {
	in := func(p policy.Peer, ports ...policy.Port) policy.Policy {
		return policy.Policy{Workload: cart, Ingress: []policy.Rule{{Peers: peers(p), Ports: ports}}}
	}
	some := policy.Peer{Reserved: "world"}
	sel := func(s policy.Selector) policy.Policy { return in(policy.Peer{Selector: &s}) }
	for _, c := range []struct {
		name string
		p    policy.Policy
		want string
	}{
		{"two namespaces", sel(policy.Selector{Namespace: "shop", All: true, Namespaces: &policy.LabelSelector{All: true}}), "ingress[0].peers[0].selector: has both namespace and namespaceSelector; want one of the two"},
		{"no namespaces", sel(policy.Selector{All: true, Namespaces: &policy.LabelSelector{}}), "ingress[0].peers[0].selector.namespaceSelector.matchLabels: is empty, which would select every namespace; give at least one label, or all: true if that is meant"},
		{"all and labels", sel(policy.Selector{Namespace: "shop", All: true, MatchLabels: map[string]string{"a": "b"}}), "ingress[0].peers[0].selector.all: stands beside labels; want one or the other"},
		{"operator", sel(policy.Selector{Namespace: "shop", MatchExpressions: []policy.Expression{{Key: "a", Operator: "Gt"}}}), `ingress[0].peers[0].selector.matchExpressions[0].operator: "Gt" is not known; want In, NotIn, Exists or DoesNotExist`},
		{"no values", sel(policy.Selector{Namespace: "shop", MatchExpressions: []policy.Expression{{Key: "a", Operator: policy.OpIn}}}), "ingress[0].peers[0].selector.matchExpressions[0].values: is empty; In needs at least one"},
		{"values", sel(policy.Selector{Namespace: "shop", MatchExpressions: []policy.Expression{{Key: "a", Operator: policy.OpExists, Values: []string{"b"}}}}), "ingress[0].peers[0].selector.matchExpressions[0].values: Exists takes no values"},
		{"a client by name", in(policy.Peer{FQDN: "api.example.com"}), "ingress[0].peers[0].fqdn: a client has no name that was looked up; give a cidr or a selector"},
		{"name and number", in(some, policy.Port{Protocol: flow.TCP, Port: 80, Name: "web"}), "ingress[0].ports[0].name: stands beside a number; want one or the other"},
		{"name of what has no ports", in(some, policy.Port{Protocol: flow.ICMP, Name: "web"}), "ingress[0].ports[0].name: ICMP has no ports"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.p.Validate(); err == nil || err.Error() != c.want {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// A judgement of a resolved policy compares no labels and allocates nothing.
func TestResolvedDoesNotAllocate(t *testing.T) {
	p, workloads := large(50, 200)
	ev := policy.Evaluator{}.Resolve(p, workloads)
	f := policy.Facts{Direction: flow.Ingress, Peer: workloads[7], Protocol: flow.TCP, Port: 9999}
	if n := testing.AllocsPerRun(100, func() { ev.Evaluate(p, f) }); n != 0 {
		t.Errorf("%v allocations a call, want 0", n)
	}
}

// large returns a policy of many rules, each with two selectors, and workloads.
func large(rules, workloads int) (*policy.Policy, []policy.PeerFacts) {
	p := policy.Policy{Workload: cart, IsolateIngress: true}
	for i := range rules {
		p.Ingress = append(p.Ingress, rule(peers(
			selector("shop", "app", fmt.Sprint("app-", i), "tier", "web"),
			policy.Peer{Selector: &policy.Selector{Namespace: "shop", MatchExpressions: []policy.Expression{{Key: "app", Operator: policy.OpIn, Values: []string{fmt.Sprint("job-", i)}}}}},
		), tcp(uint16(8000+i))))
	}
	var facts []policy.PeerFacts
	for i := range workloads {
		facts = append(facts, workload("10.1.0.2", "shop", fmt.Sprint("w-", i), map[string]string{"app": fmt.Sprint("app-", i), "tier": "web"}))
	}
	n := policy.Normalize(p)
	return &n, facts
}

// BenchmarkEvaluate judges what no rule of 50 admits, which asks all of them.
func BenchmarkEvaluate(b *testing.B) {
	p, workloads := large(50, 2000)
	for _, c := range []struct {
		name string
		ev   policy.Evaluator
	}{{"labels", policy.Evaluator{}}, {"resolved", policy.Evaluator{}.Resolve(p, workloads)}} {
		b.Run(c.name, func(b *testing.B) {
			f := policy.Facts{Direction: flow.Ingress, Protocol: flow.TCP, Port: 9999}
			for i := 0; b.Loop(); i++ {
				f.Peer = workloads[i%len(workloads)]
				c.ev.Evaluate(p, f)
			}
		})
	}
}
