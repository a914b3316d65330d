package policy_test

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
)

var cart = flow.Workload{Namespace: "shop", Kind: "Host", Name: "cart"}

func ptr[T any](v T) *T { return &v }

func workload(addr, ns, name string, labels map[string]string) policy.PeerFacts {
	return policy.PeerFacts{
		Addr:     netip.MustParseAddr(addr),
		Workload: flow.Workload{Namespace: ns, Kind: "Host", Name: name},
		Labels:   labels,
	}
}

func address(addr string, id flow.Identity) policy.PeerFacts {
	return policy.PeerFacts{Addr: netip.MustParseAddr(addr), Reserved: id}
}

func selector(ns string, pairs ...string) policy.Peer {
	labels := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		labels[pairs[i]] = pairs[i+1]
	}
	return policy.Peer{Selector: &policy.Selector{Namespace: ns, MatchLabels: labels}}
}

func cidr(prefix string, except ...string) policy.Peer {
	c := &policy.CIDR{Prefix: netip.MustParsePrefix(prefix)}
	for _, e := range except {
		c.Except = append(c.Except, netip.MustParsePrefix(e))
	}
	return policy.Peer{CIDR: c}
}

func tcp(port uint16) policy.Port { return policy.Port{Protocol: flow.TCP, Port: port} }

func rule(peers []policy.Peer, ports ...policy.Port) policy.Rule {
	return policy.Rule{Peers: peers, Ports: ports}
}

func peers(p ...policy.Peer) []policy.Peer { return p }

// Every case is judged in both directions with the rule in that direction.
func TestEvaluateRules(t *testing.T) {
	front := map[string]string{"app": "front", "tier": "web"}
	v4, v6 := workload("10.1.0.2", "shop", "front", front), workload("fd00:1::2", "shop", "front", front)
	to := func(p policy.PeerFacts, proto flow.Protocol, port uint16) policy.Facts {
		return policy.Facts{Peer: p, Protocol: proto, Port: port}
	}
	web4, web6 := address("192.0.2.7", flow.IdentityWorld), address("2001:db8::7", flow.IdentityWorld)
	tests := []struct {
		name    string
		rule    policy.Rule
		allowed []policy.Facts
		denied  []policy.Facts
	}{
		{
			"selector needs its namespace and all its labels",
			rule(peers(selector("shop", "app", "front", "tier", "web")), tcp(80)),
			[]policy.Facts{to(v4, flow.TCP, 80), to(v6, flow.TCP, 80)},
			[]policy.Facts{
				to(workload("10.1.0.3", "ops", "front", front), flow.TCP, 80),
				to(workload("fd00:1::3", "ops", "front", front), flow.TCP, 80),
				to(workload("10.1.0.3", "shop", "front", map[string]string{"app": "front"}), flow.TCP, 80),
				to(workload("fd00:1::3", "shop", "front", map[string]string{"app": "front", "tier": "back"}), flow.TCP, 80),
				to(web4, flow.TCP, 80), to(web6, flow.TCP, 80),
			},
		},
		{
			"empty selector picks nobody",
			rule(peers(policy.Peer{Selector: &policy.Selector{Namespace: "shop"}}, selector("shop", "tier", "web")), tcp(80)),
			[]policy.Facts{to(v4, flow.TCP, 80), to(v6, flow.TCP, 80)},
			[]policy.Facts{
				to(workload("10.1.0.3", "shop", "pay", nil), flow.TCP, 80),
				to(workload("fd00:1::3", "shop", "pay", nil), flow.TCP, 80),
			},
		},
		{
			"empty peer matches nobody",
			rule(peers(policy.Peer{}, cidr("192.0.2.7/32"), cidr("2001:db8::7/128")), tcp(80)),
			[]policy.Facts{to(web4, flow.TCP, 80), to(web6, flow.TCP, 80)},
			[]policy.Facts{to(v4, flow.TCP, 80), to(v6, flow.TCP, 80)},
		},
		{
			"an unknown owner inherits no labels",
			rule(peers(selector("shop", "app", "front")), tcp(80)),
			[]policy.Facts{to(v4, flow.TCP, 80), to(v6, flow.TCP, 80)},
			[]policy.Facts{
				to(policy.PeerFacts{Addr: v4.Addr, Labels: front}, flow.TCP, 80),
				to(policy.PeerFacts{Addr: v6.Addr, Labels: front}, flow.TCP, 80),
				to(policy.PeerFacts{Addr: v4.Addr, Workload: v4.Workload, Labels: front, Reserved: flow.IdentityRemoteNode}, flow.TCP, 80),
			},
		},
		{
			"cidr matches workloads' addresses too, but for what is carved out",
			rule(peers(cidr("10.1.0.0/24", "10.1.0.128/25"), cidr("fd00:1::/64", "fd00:1::8000/113")), tcp(80)),
			[]policy.Facts{to(v4, flow.TCP, 80), to(v6, flow.TCP, 80), to(address("10.1.0.127", flow.IdentityWorld), flow.TCP, 80)},
			[]policy.Facts{
				to(address("10.1.0.128", flow.IdentityWorld), flow.TCP, 80), to(address("10.1.1.0", flow.IdentityWorld), flow.TCP, 80),
				to(address("fd00:1::8000", flow.IdentityWorld), flow.TCP, 80), to(web6, flow.TCP, 80),
				to(workload("10.1.0.200", "shop", "front", front), flow.TCP, 80),
			},
		},
		{
			"an IPv4 address written as IPv6 or with a zone is still itself",
			rule(peers(cidr("192.0.2.0/24"), cidr("fe80::/10")), tcp(80)),
			[]policy.Facts{to(address("::ffff:192.0.2.7", flow.IdentityWorld), flow.TCP, 80), to(address("fe80::1%eth0", flow.IdentityWorld), flow.TCP, 80)},
			[]policy.Facts{to(address("::ffff:192.0.3.7", flow.IdentityWorld), flow.TCP, 80), to(address("fd00::1%eth0", flow.IdentityWorld), flow.TCP, 80)},
		},
		{
			"every IPv4 address is no IPv6 address",
			rule(peers(cidr("0.0.0.0/0")), tcp(80)),
			[]policy.Facts{to(web4, flow.TCP, 80), to(v4, flow.TCP, 80)},
			[]policy.Facts{to(web6, flow.TCP, 80), to(v6, flow.TCP, 80)},
		},
		{
			"reserved peer matches by identity only",
			rule(peers(policy.Peer{Reserved: "world"}), tcp(80)),
			[]policy.Facts{to(web4, flow.TCP, 80), to(web6, flow.TCP, 80)},
			[]policy.Facts{
				to(v4, flow.TCP, 80), to(v6, flow.TCP, 80),
				to(address("10.0.0.2", flow.IdentityRemoteNode), flow.TCP, 80),
				to(policy.PeerFacts{Addr: web4.Addr}, flow.TCP, 80),
			},
		},
		{
			"no peers means anyone",
			rule(nil, tcp(80)),
			[]policy.Facts{to(v4, flow.TCP, 80), to(web6, flow.TCP, 80), to(policy.PeerFacts{}, flow.TCP, 80)},
			[]policy.Facts{to(v4, flow.TCP, 81), to(web6, flow.TCP, 81)},
		},
		{
			"no ports means every port of every protocol",
			rule(peers(selector("shop", "app", "front"))),
			[]policy.Facts{to(v4, flow.TCP, 1), to(v6, flow.UDP, 53), to(v4, 47, 0), to(v6, flow.ICMPv6, 0x8000)},
			[]policy.Facts{to(web4, flow.TCP, 1), to(web6, flow.TCP, 1)},
		},
		{
			"a TCP port never matches UDP",
			rule(nil, tcp(9094)),
			[]policy.Facts{to(v4, flow.TCP, 9094), to(v6, flow.TCP, 9094)},
			[]policy.Facts{to(v4, flow.UDP, 9094), to(v6, flow.UDP, 9094), to(v4, flow.SCTP, 9094)},
		},
		{
			"port 0 is every port of its protocol only",
			rule(nil, policy.Port{Protocol: flow.UDP}),
			[]policy.Facts{to(v4, flow.UDP, 1), to(v6, flow.UDP, 65535), to(v6, flow.UDP, 0)},
			[]policy.Facts{to(v4, flow.TCP, 1), to(v6, flow.TCP, 65535)},
		},
		{
			"a range holds both its ends",
			rule(nil, policy.Port{Protocol: flow.TCP, Port: 8000, EndPort: 8010}),
			[]policy.Facts{to(v4, flow.TCP, 8000), to(v6, flow.TCP, 8010), to(v6, flow.TCP, 8005)},
			[]policy.Facts{to(v4, flow.TCP, 7999), to(v6, flow.TCP, 8011)},
		},
		{
			"a single port stands alone",
			rule(nil, tcp(8000)),
			[]policy.Facts{to(v4, flow.TCP, 8000), to(v6, flow.TCP, 8000)},
			[]policy.Facts{to(v4, flow.TCP, 8001), to(v6, flow.TCP, 0)},
		},
		{
			"any of several peers and any of several ports",
			rule(peers(selector("shop", "app", "front"), cidr("192.0.2.7/32"), cidr("2001:db8::7/128")), tcp(80), policy.Port{Protocol: flow.UDP, Port: 53}),
			[]policy.Facts{to(v4, flow.UDP, 53), to(web4, flow.TCP, 80), to(web6, flow.UDP, 53), to(v6, flow.TCP, 80)},
			[]policy.Facts{to(v4, flow.UDP, 80), to(web6, flow.TCP, 53), to(address("192.0.2.8", flow.IdentityWorld), flow.TCP, 80)},
		},
		{
			"ICMP type without a code is all its codes",
			rule(nil, policy.Port{Protocol: flow.ICMP, ICMPType: ptr(uint8(3))}, policy.Port{Protocol: flow.ICMPv6, ICMPType: ptr(uint8(1))}),
			[]policy.Facts{to(v4, flow.ICMP, 0x0300), to(v4, flow.ICMP, 0x0304), to(v6, flow.ICMPv6, 0x0103)},
			[]policy.Facts{to(v4, flow.ICMP, 0x0800), to(v6, flow.ICMPv6, 0x0300), to(v4, flow.ICMPv6, 0x0300)},
		},
		{
			"ICMP type with its code",
			rule(nil, policy.Port{Protocol: flow.ICMP, ICMPType: ptr(uint8(8)), ICMPCode: ptr(uint8(0))}, policy.Port{Protocol: flow.ICMPv6, ICMPType: ptr(uint8(128)), ICMPCode: ptr(uint8(0))}),
			[]policy.Facts{to(v4, flow.ICMP, 0x0800), to(v6, flow.ICMPv6, 0x8000)},
			[]policy.Facts{to(v4, flow.ICMP, 0x0801), to(v6, flow.ICMPv6, 0x8001)},
		},
		{
			"ICMP without a type is every message",
			rule(nil, policy.Port{Protocol: flow.ICMP}, policy.Port{Protocol: flow.ICMPv6}),
			[]policy.Facts{to(v4, flow.ICMP, 0x0801), to(v6, flow.ICMPv6, 0x0100)},
			[]policy.Facts{to(v4, flow.TCP, 0), to(v6, flow.UDP, 1)},
		},
		{
			"a protocol without ports",
			rule(nil, policy.Port{Protocol: 47}),
			[]policy.Facts{to(v4, 47, 0), to(v6, 47, 0)},
			[]policy.Facts{to(v4, 50, 0), to(v6, 50, 0)},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			p := policy.Normalize(policy.Policy{
				Workload: cart, IsolateIngress: true, IsolateEgress: true,
				Ingress: []policy.Rule{tc.rule}, Egress: []policy.Rule{tc.rule},
			})
			for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
				for _, f := range tc.allowed {
					f.Direction = d
					want := policy.Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonRule, Rule: p.Rules(d)[0].ID}
					if got := policy.Evaluate(&p, f); got != want {
						t.Errorf("%s %v: %+v, want %+v", d, f, got, want)
					}
				}
				for _, f := range tc.denied {
					f.Direction = d
					want := policy.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Index: -1}
					if got := policy.Evaluate(&p, f); got != want {
						t.Errorf("%s %v: %+v, want %+v", d, f, got, want)
					}
				}
			}
		})
	}
}

func outside(p policy.PeerFacts) policy.PeerFacts {
	p.Outside = true
	return p
}

func TestEvaluateBeforeRules(t *testing.T) {
	closed := &policy.Policy{Workload: cart, IsolateIngress: true, IsolateEgress: true}
	host4, host6 := address("10.0.0.1", flow.IdentityHost), address("fd00::1", flow.IdentityHost)
	node4, node6 := address("10.0.0.2", flow.IdentityRemoteNode), address("fd00::2", flow.IdentityRemoteNode)
	allow := func(r flow.Reason) policy.Judgement {
		return policy.Judgement{Verdict: flow.VerdictAllow, Reason: r, Index: -1}
	}
	deny := policy.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Index: -1}
	tests := []struct {
		name  string
		p     *policy.Policy
		facts policy.Facts
		want  policy.Judgement
	}{
		{"own node in, v4", closed, policy.Facts{Direction: flow.Ingress, Peer: host4, Protocol: flow.TCP, Port: 8080}, allow(flow.ReasonFailsafe)},
		{"own node in, v6", closed, policy.Facts{Direction: flow.Ingress, Peer: host6, Protocol: flow.TCP, Port: 8080}, allow(flow.ReasonFailsafe)},
		{"own node's address from outside, v4", closed, policy.Facts{Direction: flow.Ingress, Peer: outside(host4), Protocol: flow.TCP, Port: 8080}, deny},
		{"own node's address from outside, v6", closed, policy.Facts{Direction: flow.Ingress, Peer: outside(host6), Protocol: flow.TCP, Port: 8080}, deny},
		{"own node out, v4", closed, policy.Facts{Direction: flow.Egress, Peer: host4, Protocol: flow.TCP, Port: 8080}, deny},
		{"own node out, v6", closed, policy.Facts{Direction: flow.Egress, Peer: host6, Protocol: flow.TCP, Port: 8080}, deny},
		{"other node in, v4", closed, policy.Facts{Direction: flow.Ingress, Peer: node4, Protocol: flow.TCP, Port: 8080}, deny},
		{"other node in, v6", closed, policy.Facts{Direction: flow.Ingress, Peer: node6, Protocol: flow.TCP, Port: 8080}, deny},
		{"own node in, ingress left open", &policy.Policy{IsolateEgress: true}, policy.Facts{Direction: flow.Ingress, Peer: host4, Protocol: flow.TCP, Port: 1}, allow(flow.ReasonNoPolicy)},
		{"ingress left open", &policy.Policy{IsolateEgress: true}, policy.Facts{Direction: flow.Ingress, Peer: node4, Protocol: flow.TCP, Port: 1}, allow(flow.ReasonNoPolicy)},
		{"egress isolated beside it", &policy.Policy{IsolateEgress: true}, policy.Facts{Direction: flow.Egress, Peer: node6, Protocol: flow.TCP, Port: 1}, deny},
		{"egress left open", &policy.Policy{IsolateIngress: true}, policy.Facts{Direction: flow.Egress, Peer: node6, Protocol: flow.TCP, Port: 1}, allow(flow.ReasonNoPolicy)},
		{"ingress isolated beside it", &policy.Policy{IsolateIngress: true}, policy.Facts{Direction: flow.Ingress, Peer: node4, Protocol: flow.TCP, Port: 1}, deny},
		{"rules of a direction left open do not close it", &policy.Policy{Ingress: []policy.Rule{rule(nil, tcp(80))}}, policy.Facts{Direction: flow.Ingress, Peer: node4, Protocol: flow.TCP, Port: 1}, allow(flow.ReasonNoPolicy)},
		{"the zero policy", &policy.Policy{}, policy.Facts{Direction: flow.Egress, Peer: node4, Protocol: flow.TCP, Port: 1}, allow(flow.ReasonNoPolicy)},
		{"an empty slot", nil, policy.Facts{Direction: flow.Ingress, Peer: node4, Protocol: flow.TCP, Port: 1}, policy.Judgement{Reason: flow.ReasonNoPolicy, Index: -1}},
		{"no direction", closed, policy.Facts{Peer: host4, Protocol: flow.TCP, Port: 1}, policy.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonMidstream, Index: -1}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := policy.Evaluate(tc.p, tc.facts); got != tc.want {
				t.Errorf("%+v, want %+v", got, tc.want)
			}
			if got := (policy.Evaluator{}).Explain(tc.p, tc.facts).Judgement; got != tc.want {
				t.Errorf("explained as %+v, want %+v", got, tc.want)
			}
		})
	}
	if j := policy.Evaluate(nil, policy.Facts{Direction: flow.Ingress}); j.Allowed() || j.Denied() {
		t.Errorf("an empty slot judged: %+v", j)
	}
}

// A connection to a service is allowed when all that it may become is.
func TestEvaluateService(t *testing.T) {
	p := policy.Policy{IsolateEgress: true, Egress: []policy.Rule{{Peers: []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("10.1.0.0/30")}}, {CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("fd00:1::/126")}}}}}}
	guarded := policy.Evaluator{Guardrails: []policy.Guardrail{{Name: "old", Peers: []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("10.1.0.3/32")}}, {CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("fd00:1::3/128")}}}}}}
	to := func(ends ...string) (out []policy.Facts) {
		for _, a := range ends {
			out = append(out, policy.Facts{Direction: flow.Egress, Peer: policy.PeerFacts{Addr: netip.MustParseAddr(a), Reserved: flow.IdentityWorld}, Protocol: flow.TCP, Port: 80})
		}
		return out
	}
	for _, c := range []struct {
		name string
		ends []policy.Facts
		want flow.Reason
	}{
		{"one, v4", to("10.1.0.1"), flow.ReasonRule},
		{"one, v6", to("fd00:1::1"), flow.ReasonRule},
		{"all, v4", to("10.1.0.1", "10.1.0.2"), flow.ReasonRule},
		{"all, v6", to("fd00:1::1", "fd00:1::2"), flow.ReasonRule},
		{"not the first, v4", to("10.1.0.4", "10.1.0.1"), flow.ReasonDefault},
		{"not the last, v6", to("fd00:1::1", "fd00:1::4"), flow.ReasonDefault},
		{"a guardrail of one, v4", to("10.1.0.1", "10.1.0.3"), flow.ReasonGuardrail},
		{"a guardrail after another denial, v6", to("fd00:1::4", "fd00:1::3", "fd00:1::1"), flow.ReasonGuardrail},
	} {
		t.Run(c.name, func(t *testing.T) {
			if j := guarded.EvaluateService(&p, c.ends); j.Reason != c.want || j.Allowed() != (c.want == flow.ReasonRule) {
				t.Errorf("%+v, want %s", j, c.want)
			}
		})
	}
}

func TestEvaluateMidstream(t *testing.T) {
	peer4, peer6 := address("192.0.2.7", flow.IdentityWorld), address("2001:db8::7", flow.IdentityWorld)
	both := policy.Normalize(policy.Policy{
		IsolateIngress: true, IsolateEgress: true,
		Ingress: []policy.Rule{rule(nil, tcp(80))},
		Egress:  []policy.Rule{rule(nil, tcp(443))},
	})
	in, out := both.Ingress[0].ID, both.Egress[0].ID
	tests := []struct {
		name        string
		p           *policy.Policy
		peer        policy.PeerFacts
		local, far  uint16
		want        flow.Verdict
		reason      flow.Reason
		rule        string
		ruleAtIndex int
	}{
		{"as a server, v4", &both, peer4, 80, 40000, flow.VerdictAllow, flow.ReasonMidstream, in, 0},
		{"as a server, v6", &both, peer6, 80, 40000, flow.VerdictAllow, flow.ReasonMidstream, in, 0},
		{"as a client, v4", &both, peer4, 40000, 443, flow.VerdictAllow, flow.ReasonMidstream, out, 0},
		{"as a client, v6", &both, peer6, 40000, 443, flow.VerdictAllow, flow.ReasonMidstream, out, 0},
		{"neither, v4", &both, peer4, 443, 80, flow.VerdictDeny, flow.ReasonMidstream, "", -1},
		{"neither, v6", &both, peer6, 443, 80, flow.VerdictDeny, flow.ReasonMidstream, "", -1},
		{"one direction left open", &policy.Policy{IsolateIngress: true}, peer4, 1, 2, flow.VerdictAllow, flow.ReasonMidstream, "", -1},
		{"both left open", &policy.Policy{}, peer4, 1, 2, flow.VerdictAllow, flow.ReasonMidstream, "", -1},
		{"both ways by rules", &both, peer6, 80, 443, flow.VerdictAllow, flow.ReasonMidstream, out, 0},
		{"from the own node", &both, address("10.0.0.1", flow.IdentityHost), 1, 2, flow.VerdictAllow, flow.ReasonFailsafe, "", -1},
		{"from outside with the own node's address", &both, outside(address("10.0.0.1", flow.IdentityHost)), 1, 2, flow.VerdictDeny, flow.ReasonMidstream, "", -1},
		{"empty slot", nil, peer4, 1, 2, flow.VerdictUnknown, flow.ReasonNoPolicy, "", -1},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got := policy.EvaluateMidstream(tc.p, tc.peer, flow.TCP, tc.local, tc.far)
			want := policy.Judgement{Verdict: tc.want, Reason: tc.reason, Rule: tc.rule, Index: tc.ruleAtIndex}
			if got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

// The evaluator runs once per edge of a replay and once per flow of a test of
// the datapath, so it must not allocate.
func TestEvaluateDoesNotAllocate(t *testing.T) {
	p := policy.Normalize(policy.Policy{
		IsolateIngress: true,
		Ingress: []policy.Rule{
			rule(peers(selector("shop", "app", "front"), cidr("10.0.0.0/8", "10.2.0.0/16")), tcp(80)),
			rule(peers(policy.Peer{Reserved: "world"}), tcp(443)),
		},
	})
	f := policy.Facts{Direction: flow.Ingress, Peer: address("192.0.2.7", flow.IdentityWorld), Protocol: flow.TCP, Port: 443}
	if n := testing.AllocsPerRun(100, func() { policy.Evaluate(&p, f) }); n != 0 {
		t.Errorf("%v allocations a call, want 0", n)
	}
}

func TestEvaluateProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policytest.Policy(t)
		f := policytest.Facts(t, &p)
		if err := p.Validate(); err != nil {
			t.Fatalf("generated an invalid policy: %v", err)
		}
		n := policy.Normalize(p)
		ev := policy.Evaluator{Own: policytest.Own()}
		j := ev.Evaluate(&n, f)
		resolved := ev.Resolve(&n, policytest.Peers())
		if got := resolved.Evaluate(&n, f); got != j {
			t.Fatalf("resolved: %+v, else %+v", got, j)
		}

		e := ev.Explain(&n, f)
		if e.Judgement != j {
			t.Fatalf("explained as %+v, judged %+v", e.Judgement, j)
		}
		if len(e.Rules) != len(n.Rules(f.Direction)) {
			t.Fatalf("explained %d of %d rules", len(e.Rules), len(n.Rules(f.Direction)))
		}
		for _, o := range e.Rules {
			if o.Matched == (len(o.Why) > 0) {
				t.Fatalf("rule %d: matched %v, why %q", o.Index, o.Matched, o.Why)
			}
		}
		if first := slices.IndexFunc(e.Rules, func(o policy.Outcome) bool { return o.Matched }); j.Reason == flow.ReasonRule && first != j.Index {
			t.Fatalf("decided by rule %d, the first match is %d", j.Index, first)
		}
		if got := ev.Evaluate(&p, f); got.Verdict != j.Verdict || got.Reason != j.Reason {
			t.Fatalf("normalizing turned %+v into %+v", got, j)
		}
		if !n.Isolates(f.Direction) && !j.Allowed() {
			t.Fatalf("denied in a direction left open: %+v", j)
		}

		wider := n
		extra := rapid.Custom(policytest.Rule).Draw(t, "extra")
		wider.Ingress, wider.Egress = append(slices.Clone(n.Ingress), extra), append(slices.Clone(n.Egress), extra)
		if j.Allowed() && !ev.Evaluate(&wider, f).Allowed() {
			t.Fatalf("one more rule denied what was allowed")
		}
		bare := n
		bare.Ingress, bare.Egress = nil, nil
		if got := ev.Evaluate(&bare, f); j.Denied() && !got.Denied() {
			t.Fatalf("taking rules away allowed what was denied: %+v", got)
		}
	})
}
