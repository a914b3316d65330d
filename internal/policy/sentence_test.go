package policy_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

func TestSentence(t *testing.T) {
	var many []policy.Peer
	for i := range 15 {
		many = append(many, cidr(fmt.Sprintf("192.0.2.%d/32", i)))
	}
	tests := []struct {
		rule    policy.Rule
		ingress string
		egress  string
	}{
		{
			rule(peers(selector("boutique", "app", "frontend")), tcp(8080)),
			"workloads with app=frontend in boutique may connect on TCP 8080",
			"may connect to workloads with app=frontend in boutique on TCP 8080",
		},
		{
			rule(peers(cidr("10.0.0.0/8", "10.1.2.3/32"), cidr("2001:db8::7/128"), policy.Peer{Reserved: "world"}), tcp(80), policy.Port{Protocol: flow.UDP, Port: 5000, EndPort: 5010}),
			"10.0.0.0/8 except 10.1.2.3, 2001:db8::7 or any address that is in no inventory may connect on TCP 80 or UDP 5000–5010",
			"may connect to 10.0.0.0/8 except 10.1.2.3, 2001:db8::7 or any address that is in no inventory on TCP 80 or UDP 5000–5010",
		},
		{
			rule(nil),
			"anyone may connect on any port of any protocol",
			"may connect to anyone on any port of any protocol",
		},
		{
			rule(peers(policy.Peer{Reserved: "host"}), policy.Port{Protocol: flow.TCP}, policy.Port{Protocol: 47}),
			"the workload's own node may connect on any TCP port or protocol 47",
			"may connect to the workload's own node on any TCP port or protocol 47",
		},
		{
			rule(peers(policy.Peer{Reserved: "remote-node"}, policy.Peer{Reserved: "kube-apiserver"}),
				policy.Port{Protocol: flow.ICMP, ICMPType: ptr(uint8(8)), ICMPCode: ptr(uint8(0))}, policy.Port{Protocol: flow.ICMP, ICMPType: ptr(uint8(3)), ICMPCode: ptr(uint8(4))},
				policy.Port{Protocol: flow.ICMPv6}),
			"the Kubernetes API server or the other nodes may connect on ICMP type 3 code 4, ICMP echo request or any ICMPv6 message",
			"may connect to the Kubernetes API server or the other nodes on ICMP type 3 code 4, ICMP echo request or any ICMPv6 message",
		},
		{
			rule(many, tcp(1)),
			"192.0.2.0, 192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4, 192.0.2.5, 192.0.2.6, 192.0.2.7, 192.0.2.8, 192.0.2.9, 192.0.2.10, 192.0.2.11 or 3 more may connect on TCP 1",
			"may connect to 192.0.2.0, 192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4, 192.0.2.5, 192.0.2.6, 192.0.2.7, 192.0.2.8, 192.0.2.9, 192.0.2.10, 192.0.2.11 or 3 more on TCP 1",
		},
	}
	for _, tc := range tests {
		if got := policy.Sentence(tc.rule, flow.Ingress); got != tc.ingress {
			t.Errorf("ingress: %s\nwant     %s", got, tc.ingress)
		}
		if got := policy.Sentence(tc.rule, flow.Egress); got != tc.egress {
			t.Errorf("egress: %s\nwant    %s", got, tc.egress)
		}
	}
}

func TestExplainSaysWhyNot(t *testing.T) {
	p := policy.Policy{
		IsolateIngress: true,
		Ingress: []policy.Rule{
			rule(peers(selector("ops", "app", "front")), tcp(80)),
			rule(peers(selector("shop", "app", "pay"), selector("shop", "zone", "a")), tcp(80)),
			rule(peers(cidr("192.0.2.0/24"), cidr("10.0.0.0/8", "10.1.0.0/16"), policy.Peer{Reserved: "world"}), tcp(80), policy.Port{Protocol: flow.UDP, Port: 9090}),
			rule(nil, tcp(9090)),
		},
	}
	f := policy.Facts{Direction: flow.Ingress, Peer: workload("10.1.0.2", "shop", "front", map[string]string{"app": "front"}), Protocol: flow.TCP, Port: 9090}
	e := policy.Evaluator{}.Explain(&p, f)
	if !e.Allowed() || e.Index != 3 {
		t.Errorf("judged %+v, want allowed by rule 3", e.Judgement)
	}
	want := [][]string{
		{"the peer is in namespace shop, the rule selects ops", "the flow is to TCP 9090, the rule allows TCP 80"},
		{`the peer's label app is "front", the rule wants "pay"`, "the peer has no label zone, the rule wants \"a\"", "the flow is to TCP 9090, the rule allows TCP 80"},
		{
			"the peer's address 10.1.0.2 is not in 192.0.2.0/24", "the peer's address 10.1.0.2 is carved out of 10.0.0.0/8", "the peer shop/Host/front is not world",
			"the flow is to TCP 9090, the rule allows TCP 80", "the flow is to TCP 9090, the rule allows UDP 9090",
		},
		{},
	}
	for i, o := range e.Rules {
		if diff := cmp.Diff(want[i], o.Why); diff != "" {
			t.Errorf("rule %d (-want +got):\n%s", i, diff)
		}
	}
	f.Port = 81
	f.Peer = address("192.0.2.7", flow.IdentityWorld)
	e = policy.Evaluator{}.Explain(&p, f)
	if e.Summary != "denied: ingress is isolated and none of its 4 rules matches" {
		t.Errorf("summary %q", e.Summary)
	}
	if got, want := e.Rules[0].Why[0], "the peer 192.0.2.7 (world) is no workload, the rule selects workloads with app=front in ops"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
