package policy_test

import (
	"net/netip"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
)

func TestShadowed(t *testing.T) {
	app := func(v string) policy.Peer {
		return policy.Peer{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"app": v}}}
	}
	prefix := func(s string, except ...string) policy.Peer {
		c := &policy.CIDR{Prefix: netip.MustParsePrefix(s)}
		for _, e := range except {
			c.Except = append(c.Except, netip.MustParsePrefix(e))
		}
		return policy.Peer{CIDR: c}
	}
	in := func(values ...string) policy.Peer {
		return policy.Peer{Selector: &policy.Selector{Namespace: "shop", MatchExpressions: []policy.Expression{{Key: "app", Operator: policy.OpIn, Values: values}}}}
	}
	everywhere := policy.Peer{Selector: &policy.Selector{Namespaces: &policy.LabelSelector{All: true}, MatchExpressions: []policy.Expression{{Key: "app", Operator: policy.OpExists}}}}
	peers := func(p ...policy.Peer) []policy.Peer { return p }
	tcp := func(from uint16, to ...uint16) policy.Port {
		p := policy.Port{Protocol: flow.TCP, Port: from}
		if len(to) > 0 {
			p.EndPort = to[0]
		}
		return p
	}
	ports := func(p ...policy.Port) []policy.Port { return p }
	echo := uint8(8)
	for _, c := range []struct {
		name  string
		rules []policy.Rule
		want  [][]int
	}{
		{"nothing in common", []policy.Rule{{Peers: peers(app("a")), Ports: ports(tcp(80))}, {Peers: peers(app("b")), Ports: ports(tcp(80))}}, [][]int{nil, nil}},
		{"another port", []policy.Rule{{Peers: peers(app("a")), Ports: ports(tcp(80))}, {Peers: peers(app("a")), Ports: ports(tcp(81))}}, [][]int{nil, nil}},
		{"one port of several", []policy.Rule{{Peers: peers(app("a")), Ports: ports(tcp(80))}, {Peers: peers(app("a")), Ports: ports(tcp(80), tcp(81))}}, [][]int{{1}, nil}},
		{"anyone", []policy.Rule{{Ports: ports(tcp(80))}, {Peers: peers(app("a"), prefix("192.0.2.0/24")), Ports: ports(tcp(80))}}, [][]int{nil, {0}}},
		{"every port", []policy.Rule{{Peers: peers(app("a"))}, {Peers: peers(app("a")), Ports: ports(policy.Port{Protocol: flow.TCP})}}, [][]int{nil, {0}}},
		{"two rules together", []policy.Rule{
			{Peers: peers(app("a")), Ports: ports(tcp(80, 90))}, {Peers: peers(app("c")), Ports: ports(tcp(80))}, {Peers: peers(app("a")), Ports: ports(tcp(91, 99))}, {Peers: peers(app("a")), Ports: ports(tcp(85, 95))},
		}, [][]int{nil, nil, nil, {0, 2}}},
		{"a hole between two ranges", []policy.Rule{
			{Peers: peers(app("a")), Ports: ports(tcp(80, 90))}, {Peers: peers(app("a")), Ports: ports(tcp(92, 99))}, {Peers: peers(app("a")), Ports: ports(tcp(85, 95))},
		}, [][]int{nil, nil, nil}},
		{"halves and their whole", []policy.Rule{
			{Peers: peers(prefix("10.0.0.0/25")), Ports: ports(tcp(80))}, {Peers: peers(prefix("10.0.0.128/25"))}, {Peers: peers(prefix("10.0.0.0/24")), Ports: ports(tcp(80))},
		}, [][]int{{2}, nil, nil}},
		{"a whole of halves", []policy.Rule{
			{Peers: peers(prefix("10.0.0.0/25"))}, {Peers: peers(prefix("10.0.0.128/25"))}, {Peers: peers(prefix("10.0.0.0/24")), Ports: ports(tcp(80))},
		}, [][]int{nil, nil, {0, 1}}},
		{"a carved prefix", []policy.Rule{
			{Peers: peers(prefix("2001:db8::/32", "2001:db8:1::/48"))}, {Peers: peers(prefix("2001:db8:1::/64"))}, {Peers: peers(prefix("2001:db8:2::/64"))},
		}, [][]int{nil, nil, {0}}},
		{"fewer values", []policy.Rule{{Peers: peers(in("a", "b"))}, {Peers: peers(in("a"))}, {Peers: peers(app("b"))}, {Peers: peers(app("c"))}}, [][]int{nil, {0}, {0}, nil}},
		{"every namespace", []policy.Rule{{Peers: peers(everywhere)}, {Peers: peers(app("a"))}}, [][]int{nil, {0}}},
		{"a name under a wildcard", []policy.Rule{{Peers: peers(policy.Peer{FQDN: "*.example.com"})}, {Peers: peers(policy.Peer{FQDN: "a.example.com"})}, {Peers: peers(policy.Peer{FQDN: "a.b.example.com"})}}, [][]int{nil, {0}, nil}},
		{"reserved peers", []policy.Rule{{Peers: peers(policy.Peer{Reserved: "world"})}, {Peers: peers(policy.Peer{Reserved: "host"})}, {Peers: peers(policy.Peer{Reserved: "world"}), Ports: ports(tcp(80))}}, [][]int{nil, nil, {0}}},
		{"ICMP types", []policy.Rule{{Ports: ports(policy.Port{Protocol: flow.ICMP})}, {Ports: ports(policy.Port{Protocol: flow.ICMP, ICMPType: &echo})}}, [][]int{nil, {0}}},
		{"names of ports", []policy.Rule{{Ports: ports(tcp(80))}, {Ports: ports(policy.Port{Protocol: flow.TCP, Name: "web"})}, {Peers: peers(app("a")), Ports: ports(policy.Port{Protocol: flow.TCP, Name: "web"})}}, [][]int{nil, nil, {1}}},
		{"what stands for another stays", []policy.Rule{
			{Peers: peers(app("a"), app("b"))}, {Peers: peers(app("a"))}, {Peers: peers(app("b"))},
		}, [][]int{nil, {0}, {0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := policy.Shadowed(c.rules); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// Without its shadowed rules, all at once, a policy judges every flow as before,
// and so does each shadowed rule's place with only those that stand for it.
func TestShadowedRulesDecideNothing(t *testing.T) {
	found := 0
	rapid.Check(t, func(t *rapid.T) {
		p := policytest.Policy(t)
		p.IsolateIngress, p.IsolateEgress = true, true
		p.Ingress = append(p.Ingress, rapid.SliceOfN(rapid.Custom(policytest.Rule), 0, 6).Draw(t, "more")...)
		less := p
		less.Ingress, less.Egress = nil, nil
		for d, rules := range map[flow.Direction]*[]policy.Rule{flow.Ingress: &less.Ingress, flow.Egress: &less.Egress} {
			for i, by := range policy.Shadowed(p.Rules(d)) {
				if by == nil {
					*rules = append(*rules, p.Rules(d)[i])
					continue
				}
				found++
			}
		}
		ev := policy.Evaluator{Own: policytest.Own()}
		for range 20 {
			f := policytest.Facts(t, &p)
			if was, is := ev.Evaluate(&p, f), ev.Evaluate(&less, f); was.Allowed() != is.Allowed() {
				t.Fatalf("%+v: %v with all rules, %v without the shadowed ones\n%+v\n%+v", f, was.Verdict, is.Verdict, p, less)
			}
		}
	})
	if found < 20 {
		t.Errorf("%d shadowed rules drawn: too few to say anything", found)
	}
}
