package netpol

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

const head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: allow, namespace: shop}\nspec: "

func imported(t *testing.T, spec string) Policy {
	t.Helper()
	np, err := Decode([]byte(head + spec))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Import(np)
	if err != nil {
		t.Fatal(err)
	}
	p.Rules.Workload = flow.Workload{Namespace: "shop", Kind: "Pod", Name: "cart"}
	if err := p.Rules.Validate(); err != nil {
		t.Fatalf("imported as what is not valid: %v", err)
	}
	return p
}

func pod(addr, ns, name string, labels, namespace map[string]string) policy.PeerFacts {
	return policy.PeerFacts{
		Addr: netip.MustParseAddr(addr), Workload: flow.Workload{Namespace: ns, Kind: "Pod", Name: name}, Labels: labels, NamespaceLabels: namespace,
	}
}

// Each case is one ingress and the same egress rule, asked in IPv4 and IPv6.
func TestImportedRules(t *testing.T) {
	shop, ops := map[string]string{"team": "sales"}, map[string]string{"team": "operations", "env": "prod"}
	front := map[string]string{"app": "front", "tier": "web"}
	both := func(ns, name string, labels, namespace map[string]string) []policy.PeerFacts {
		return []policy.PeerFacts{pod("10.1.0.2", ns, name, labels, namespace), pod("fd00:1::2", ns, name, labels, namespace)}
	}
	world := func(v4, v6 string) []policy.PeerFacts {
		return []policy.PeerFacts{
			{Addr: netip.MustParseAddr(v4), Reserved: flow.IdentityWorld}, {Addr: netip.MustParseAddr(v6), Reserved: flow.IdentityWorld},
		}
	}
	web := []policy.NamedPort{{Name: "web", Protocol: flow.TCP, Port: 8080}, {Name: "web", Protocol: flow.UDP, Port: 9090}}
	type ask struct {
		peers    []policy.PeerFacts
		protocol flow.Protocol
		port     uint16
	}
	everyone := world("192.0.2.7", "2001:db8::7")
	for _, c := range []struct {
		name, peers, ports string
		allowed, denied    []ask
	}{
		{"everybody on everything", "", "",
			[]ask{{everyone, flow.TCP, 1}, {both("ops", "x", nil, nil), flow.UDP, 53}, {everyone, flow.ICMP, 0x0800}}, nil},
		{"every pod of the policy's own namespace", "{podSelector: {}}", "",
			[]ask{{both("shop", "x", nil, nil), flow.TCP, 1}},
			[]ask{{both("ops", "x", nil, nil), flow.TCP, 1}, {everyone, flow.TCP, 1}}},
		{"every pod of every namespace", "{namespaceSelector: {}}", "",
			[]ask{{both("ops", "x", nil, nil), flow.TCP, 1}, {both("shop", "x", front, shop), flow.TCP, 1}},
			[]ask{{everyone, flow.TCP, 1}}},
		{"a namespace by the label that all have", "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}}", "",
			[]ask{{both("ops", "x", nil, nil), flow.TCP, 1}}, []ask{{both("shop", "x", nil, shop), flow.TCP, 1}}},
		{"In and Exists of both", "{podSelector: {matchExpressions: [{key: tier, operator: In, values: [web, api]}]}, namespaceSelector: {matchExpressions: [{key: env, operator: Exists}]}}", "",
			[]ask{{both("ops", "x", front, ops), flow.TCP, 1}},
			[]ask{{both("shop", "x", front, shop), flow.TCP, 1}, {both("ops", "x", map[string]string{"tier": "db"}, ops), flow.TCP, 1}, {both("ops", "x", nil, ops), flow.TCP, 1}}},
		{"NotIn and DoesNotExist", "{podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [web]}]}, namespaceSelector: {matchExpressions: [{key: env, operator: DoesNotExist}]}}", "",
			[]ask{{both("shop", "x", nil, shop), flow.TCP, 1}, {both("shop", "x", map[string]string{"tier": "db"}, nil), flow.TCP, 1}},
			[]ask{{both("shop", "x", front, shop), flow.TCP, 1}, {both("ops", "x", nil, ops), flow.TCP, 1}}},
		{"blocks, pods among them", "{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.0.128/25]}}, {ipBlock: {cidr: 'fd00:1::/32', except: ['fd00:1::8000/113']}}", "",
			[]ask{{both("ops", "x", nil, nil), flow.TCP, 1}, {world("10.1.255.1", "fd00:1:1::1"), flow.TCP, 1}},
			[]ask{{world("10.1.0.129", "fd00:1::8001"), flow.TCP, 1}, {world("10.2.0.1", "fd01::1"), flow.TCP, 1}}},
		{"bits behind the block's length", "{ipBlock: {cidr: 192.0.2.7/24}}, {ipBlock: {cidr: '2001:db8::7/64'}}", "",
			[]ask{{world("192.0.2.200", "2001:db8::c8"), flow.TCP, 1}}, []ask{{world("192.0.3.7", "2001:db8:1::7"), flow.TCP, 1}}},
		{"a port without protocol is TCP", "", "{port: 80}",
			[]ask{{everyone, flow.TCP, 80}}, []ask{{everyone, flow.UDP, 80}, {everyone, flow.TCP, 81}}},
		{"a protocol without port is all of it, and it alone", "", "{protocol: UDP}",
			[]ask{{everyone, flow.UDP, 1}, {everyone, flow.UDP, 65535}}, []ask{{everyone, flow.TCP, 1}, {everyone, flow.SCTP, 1}}},
		{"nothing at all is all of TCP", "", "{}",
			[]ask{{everyone, flow.TCP, 1}}, []ask{{everyone, flow.UDP, 1}}},
		{"a range", "", "{protocol: SCTP, port: 8000, endPort: 8010}",
			[]ask{{everyone, flow.SCTP, 8000}, {everyone, flow.SCTP, 8010}}, []ask{{everyone, flow.SCTP, 7999}, {everyone, flow.SCTP, 8011}, {everyone, flow.TCP, 8005}}},
		{"a name is the responder's number of that protocol", "", "{port: web}, {protocol: SCTP, port: web}",
			[]ask{{everyone, flow.TCP, 8080}}, []ask{{everyone, flow.UDP, 9090}, {everyone, flow.TCP, 9090}, {everyone, flow.SCTP, 8080}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := imported(t, "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: ["+c.peers+"], ports: ["+c.ports+"]}], egress: [{to: ["+c.peers+"], ports: ["+c.ports+"]}]}")
			check := func(list []ask, want bool) {
				for _, a := range list {
					for _, peer := range a.peers {
						for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
							peer.Named = web
							f := policy.Facts{Direction: d, Peer: peer, Protocol: a.protocol, Port: a.port}
							if j := (policy.Evaluator{Own: web}).Evaluate(&p.Rules, f); j.Allowed() != want {
								t.Errorf("%s %s %s %d: %s %s", d, peer, a.protocol, a.port, j.Verdict, j.Reason)
							}
						}
					}
				}
			}
			check(c.allowed, true)
			check(c.denied, false)
		})
	}
}

func TestPolicyTypes(t *testing.T) {
	for _, c := range []struct {
		name, spec              string
		ingress, egress         bool
		ingressRules, egressSay int
	}{
		{"omitted", "{podSelector: {}}", true, false, 0, 0},
		{"omitted, with egress", "{podSelector: {}, egress: [{}]}", true, true, 0, 1},
		{"omitted, with no egress", "{podSelector: {}, egress: []}", true, false, 0, 0},
		{"egress alone", "{podSelector: {}, policyTypes: [Egress], ingress: [{}]}", false, true, 0, 0},
		{"ingress alone", "{podSelector: {}, policyTypes: [Ingress], ingress: [{}], egress: [{}]}", true, false, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := imported(t, c.spec).Rules
			if p.IsolateIngress != c.ingress || p.IsolateEgress != c.egress || len(p.Ingress) != c.ingressRules || len(p.Egress) != c.egressSay {
				t.Errorf("%+v", p)
			}
		})
	}
}

func TestSum(t *testing.T) {
	list := []Policy{
		imported(t, "{podSelector: {}, policyTypes: [Ingress, Egress]}"),
		imported(t, "{podSelector: {matchLabels: {app: cart}}, ingress: [{ports: [{port: 80}]}]}"),
		imported(t, "{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [front]}]}, ingress: [{ports: [{port: 443}]}, {ports: [{port: 80}]}]}"),
		imported(t, "{podSelector: {matchLabels: {app: front}}, policyTypes: [Egress], egress: [{}]}"),
	}
	for i, name := range []string{"deny", "web", "tls", "front"} {
		list[i].Name = name
	}
	who := pod("10.1.0.2", "shop", "cart-1", map[string]string{"app": "cart"}, nil)
	p, from := Sum(list, who)
	if p == nil || !p.IsolateIngress || !p.IsolateEgress || len(p.Ingress) != 2 || len(p.Egress) != 0 || p.Workload != who.Workload {
		t.Fatalf("%+v", p)
	}
	got := map[string][]string{}
	for _, r := range p.Ingress {
		got[policy.Sentence(r, flow.Ingress)] = from[r.ID]
	}
	want := map[string][]string{"anyone may connect on TCP 80": {"shop/web", "shop/tls"}, "anyone may connect on TCP 443": {"shop/tls"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if p, _ := Sum(list, pod("10.1.0.3", "ops", "cart", map[string]string{"app": "cart"}, nil)); p != nil {
		t.Errorf("a pod of another namespace is governed by %+v", p)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ name, document, want string }{
		{"unknown field", head + "{podSelectr: {}}", `unknown field "spec.podSelectr"`},
		{"field twice", head + "{podSelector: {}, podSelector: {}}", `already`},
		{"another kind", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}", "want NetworkPolicy"},
		{"policy type", head + "{podSelector: {}, policyTypes: [Both]}", `shop/allow: spec.policyTypes[0]: Unsupported value: "Both": supported values: "Ingress", "Egress"`},
		{"empty peer", head + "{podSelector: {}, ingress: [{from: [{}]}]}", "spec.ingress[0].from[0]: Required value: give podSelector, namespaceSelector or ipBlock"},
		{"two kinds of peer", head + "{podSelector: {}, egress: [{to: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}", "spec.egress[0].to[0]: Forbidden: ipBlock stands alone"},
		{"no block", head + "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0}}]}]}", `ipBlock.cidr: Invalid value: "10.0.0.0": must be a block`},
		{"exception outside", head + "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}", "except[0]: Invalid value: \"11.0.0.0/16\": must be a part of 10.0.0.0/8"},
		{"exception of all", head + "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}", "and not the whole of it"},
		{"port", head + "{podSelector: {}, ingress: [{ports: [{port: 70000}]}]}", "spec.ingress[0].ports[0].port: Invalid value: 70000: must be between 1 and 65535"},
		{"end without a port", head + "{podSelector: {}, ingress: [{ports: [{endPort: 80}]}]}", "endPort: Forbidden: has no port to begin at"},
		{"end of a name", head + "{podSelector: {}, ingress: [{ports: [{port: web, endPort: 80}]}]}", "endPort: Forbidden: a range begins at a number"},
		{"end before", head + "{podSelector: {}, ingress: [{ports: [{port: 90, endPort: 80}]}]}", "endPort: Invalid value: 80: must be port 90 or above"},
		{"protocol", head + "{podSelector: {}, ingress: [{ports: [{protocol: ICMP}]}]}", `protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"`},
		{"name", head + "{podSelector: {}, ingress: [{ports: [{port: 'not a name'}]}]}", `port: Invalid value: "not a name"`},
		{"operator", head + "{podSelector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}}", `spec.podSelector.matchExpressions[0].operator`},
		{"no values", head + "{podSelector: {matchExpressions: [{key: a, operator: In}]}}", `spec.podSelector.matchExpressions[0].values`},
		{"every problem", head + "{podSelector: {}, ingress: [{ports: [{port: 0}]}, {from: [{}]}]}", "ports[0].port: Invalid value: 0: must be between 1 and 65535; spec.ingress[1].from[0]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			np, err := Decode([]byte(c.document))
			if err == nil {
				_, err = Import(np)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// What is imported is valid, and survives the canonical form.
func FuzzImport(f *testing.F) {
	f.Add([]byte(head + "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {namespaceSelector: {matchExpressions: [{key: a, operator: NotIn, values: [b]}]}}], ports: [{port: web}, {port: 1, endPort: 9, protocol: UDP}]}]}"))
	f.Fuzz(func(t *testing.T, document []byte) {
		np, err := Decode(document)
		if err != nil {
			return
		}
		p, err := Import(np)
		if err != nil {
			return
		}
		p.Rules.Workload = flow.Workload{Namespace: "shop", Kind: "Pod", Name: "cart"}
		if err := p.Rules.Validate(); err != nil {
			t.Fatalf("%q: %v", document, err)
		}
		again, err := policy.Decode(p.Rules.Canonical())
		if err != nil || !policy.Equal(again, p.Rules) {
			t.Fatalf("%q: read again: %v", document, err)
		}
	})
}
