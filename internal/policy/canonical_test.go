package policy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
)

func sample() policy.Policy {
	return policy.Policy{
		Workload: cart, IsolateIngress: true, IsolateEgress: true,
		Ingress: []policy.Rule{
			rule(peers(selector("shop", "tier", "web", "app", "front"), cidr("10.0.0.0/8", "10.2.0.0/16", "10.1.0.0/16")), tcp(8080), tcp(80)),
		},
		Egress: []policy.Rule{
			rule(peers(selector("ops", "app", "dns")), policy.Port{Protocol: flow.UDP, Port: 53, EndPort: 53}),
			rule(peers(policy.Peer{Reserved: "world"}), policy.Port{Protocol: flow.ICMP, ICMPType: ptr(uint8(8)), ICMPCode: ptr(uint8(0))}),
		},
	}
}

// The document is a contract: a digest stored yesterday has to be found today.
func TestCanonicalDocument(t *testing.T) {
	p := sample()
	const want = `{"workload":{"namespace":"shop","kind":"Host","name":"cart"},"isolateIngress":true,"isolateEgress":true,` +
		`"ingress":[{"id":"cb7bc3a835f464ce","peers":[{"selector":{"namespace":"shop","matchLabels":{"app":"front","tier":"web"}}},` +
		`{"cidr":{"prefix":"10.0.0.0/8","except":["10.1.0.0/16","10.2.0.0/16"]}}],"ports":[{"protocol":"TCP","port":80},{"protocol":"TCP","port":8080}]}],` +
		`"egress":[{"id":"652162437a9e0e82","peers":[{"selector":{"namespace":"ops","matchLabels":{"app":"dns"}}}],"ports":[{"protocol":"UDP","port":53}]},` +
		`{"id":"5246066ff2541a1b","peers":[{"reserved":"world"}],"ports":[{"protocol":"ICMP","icmpType":8,"icmpCode":0}]}]}`
	if diff := cmp.Diff(want, string(p.Canonical())); diff != "" {
		t.Errorf("canonical document changed (-want +got):\n%s", diff)
	}
	empty := policy.Policy{Workload: cart}
	const wantEmpty = `{"workload":{"namespace":"shop","kind":"Host","name":"cart"},"isolateIngress":false,"isolateEgress":false,"ingress":[],"egress":[]}`
	if got := string(empty.Canonical()); got != wantEmpty {
		t.Errorf("empty policy: %s", got)
	}
	if got := len(policy.Digest(p)); got != 64 {
		t.Errorf("digest of %d digits, want 64", got)
	}
}

func TestNormalizeSharesNothing(t *testing.T) {
	p := sample()
	before := string(p.Canonical())
	n := policy.Normalize(p)
	n.Ingress[0].Peers[0].Selector.MatchLabels["app"] = "other"
	n.Ingress[0].Peers[1].CIDR.Except[0] = n.Ingress[0].Peers[1].CIDR.Prefix
	*n.Egress[1].Ports[0].ICMPType = 3
	n.Ingress[0].Ports[0].Port = 1
	if string(p.Canonical()) != before {
		t.Errorf("changing the copy changed the policy")
	}
}

func TestRuleIDTellsDirectionsApart(t *testing.T) {
	r := rule(peers(selector("shop", "app", "cart")), tcp(9094))
	in, out := policy.RuleID(flow.Ingress, r), policy.RuleID(flow.Egress, r)
	if in == out || len(in) != 16 {
		t.Errorf("ingress %q, egress %q: want two IDs of 16 digits", in, out)
	}
	r.ID = "given"
	if got := policy.RuleID(flow.Ingress, r); got != in {
		t.Errorf("a given ID changed the ID from %q to %q", in, got)
	}
	r.Ports[0].Protocol = flow.UDP
	if got := policy.RuleID(flow.Ingress, r); got == in {
		t.Errorf("TCP and UDP have the same ID")
	}
}

func TestCanonicalProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policytest.Policy(t)
		want := p.Canonical()

		var wire bytes.Buffer
		if err := json.NewEncoder(&wire).Encode(p); err != nil {
			t.Fatal(err)
		}
		decoded, err := policy.Decode(wire.Bytes())
		if err != nil {
			t.Fatalf("decode what was encoded: %v", err)
		}
		if !policy.Equal(p, decoded) {
			t.Fatalf("JSON turned\n%s into\n%s", want, decoded.Canonical())
		}
		n := policy.Normalize(p)
		if diff := cmp.Diff(n, policy.Normalize(n), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Fatalf("normalizing twice changed it again:\n%s", diff)
		}

		seed := rapid.Uint64().Draw(t, "seed")
		mixed := n
		mixed.Ingress, mixed.Egress = slices.Concat(n.Ingress, n.Ingress), slices.Clone(n.Egress)
		slices.Reverse(mixed.Ingress)
		slices.Reverse(mixed.Egress)
		if got, err := json.Marshal(policy.Arrange(mixed)); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("normalized rules, arranged, gave\n%s, want\n%s (%v)", got, want, err)
		}
		if got := shuffled(p, seed).Canonical(); !bytes.Equal(got, want) {
			t.Fatalf("another order gave\n%s, want\n%s", got, want)
		}
		if c := policy.Diff(p, *shuffled(p, seed)); !c.Empty() {
			t.Fatalf("another order is a change: %+v", c)
		}
	})
}

// shuffled returns p in another order, with each rule, peer and port twice.
func shuffled(p policy.Policy, seed uint64) *policy.Policy {
	r := rand.New(rand.NewPCG(seed, 1))
	p.Ingress, p.Egress = shuffledRules(r, p.Ingress), shuffledRules(r, p.Egress)
	return &p
}

func shuffledRules(r *rand.Rand, rules []policy.Rule) []policy.Rule {
	out := twice(r, rules)
	for i := range out {
		out[i].ID = "x"
		out[i].Peers, out[i].Ports = twice(r, out[i].Peers), twice(r, out[i].Ports)
	}
	return out
}

func twice[T any](r *rand.Rand, in []T) []T {
	out := append(append([]T{}, in...), in...)
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func TestDiff(t *testing.T) {
	a := sample()
	b := sample()
	b.IsolateEgress = false
	b.Ingress = append(b.Ingress, rule(nil, tcp(22)))
	b.Egress = b.Egress[:1]
	c := policy.Diff(a, b)
	if c.IsolatesIngress != nil || c.IsolatesEgress == nil || *c.IsolatesEgress {
		t.Errorf("isolation: %v %v, want only egress, to false", c.IsolatesIngress, c.IsolatesEgress)
	}
	if len(c.Ingress.Added) != 1 || policy.Sentence(c.Ingress.Added[0], flow.Ingress) != "anyone may connect on TCP 22" || len(c.Ingress.Removed) != 0 {
		t.Errorf("ingress: %+v", c.Ingress)
	}
	if len(c.Egress.Removed) != 1 || c.Egress.Removed[0].Peers[0].Reserved != "world" || len(c.Egress.Added) != 0 {
		t.Errorf("egress: %+v", c.Egress)
	}
	if c.Empty() || !policy.Diff(a, a).Empty() {
		t.Errorf("Empty is wrong")
	}
}

func TestDecodeRefuses(t *testing.T) {
	const head = `{"workload":{"namespace":"shop","kind":"Host","name":"cart"},"isolateIngress":true,`
	tests := []struct{ name, doc, want string }{
		{"nothing", ``, "ends too early"},
		{"not an object", `[]`, "cannot unmarshal array"},
		{"cut off", head + `"ingress":[`, "ends too early"},
		{"unknown field", head + `"ingresses":[]}`, `unknown field "ingresses"`},
		{"unknown field deep down", head + `"ingress":[{"ports":[{"protocol":"TCP","ports":80}]}]}`, `unknown field "ports"`},
		{"a field in another case", head + `"Ingress":[]}`, `unknown field "Ingress"`},
		{"a field twice", head + `"isolateIngress":false}`, `field "isolateIngress" is given twice`},
		{"a label twice", head + `"ingress":[{"peers":[{"selector":{"namespace":"a","matchLabels":{"app":"x","app":"y"}}}]}]}`, `field "app" is given twice`},
		{"something behind it", head + `"ingress":[]}{}`, "something follows the document"},
		{"protocol nobody knows", head + `"ingress":[{"ports":[{"protocol":"TPC"}]}]}`, `protocol "TPC": want TCP`},
		{"port too large", head + `"ingress":[{"ports":[{"protocol":"TCP","port":65536}]}]}`, "cannot unmarshal number 65536"},
		{"not a prefix", head + `"ingress":[{"peers":[{"cidr":{"prefix":"10.0.0.0"}}]}]}`, "no '/'"},
		{"too deep", strings.Repeat(`[`, 1000), "nested too deeply"},
		{"no workload", `{}`, "workload.namespace: is missing"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			_, err := policy.Decode([]byte(tc.doc))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q in it", err, tc.want)
			}
		})
	}
	if _, err := policy.Decode([]byte(head + `"ingress":[{"peers":[{"selector":{"namespace":"a","matchLabels":{"Anything":"x","anything":"y"}}}]}]}`)); err != nil {
		t.Errorf("label keys may be any, in any case: %v", err)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	p := policy.Policy{
		Workload: flow.Workload{Namespace: "shop", Kind: "Host/", Name: ""},
		Ingress: []policy.Rule{
			rule(peers(policy.Peer{}, policy.Peer{Reserved: "moon"}, policy.Peer{Reserved: "world", CIDR: cidr("10.0.0.0/8").CIDR})),
			rule(peers(selector("shop"), selector("", "app", "x"), selector("shop", "a\x00", "b\n"))),
			rule(nil,
				policy.Port{Protocol: flow.TCP, Port: 443, EndPort: 80}, policy.Port{Protocol: flow.TCP, EndPort: 80}, policy.Port{Port: 80},
				policy.Port{Protocol: flow.ICMP, Port: 80}, policy.Port{Protocol: 47, Port: 80},
				policy.Port{Protocol: flow.TCP, ICMPType: ptr(uint8(8))}, policy.Port{Protocol: flow.ICMP, ICMPCode: ptr(uint8(3))}),
		},
		Egress: []policy.Rule{
			rule(peers(cidr("10.0.0.1/8"), cidr("10.0.0.0/8", "11.0.0.0/16", "10.0.0.0/8", "10.1.0.1/16", "2001:db8::/32"), cidr("::ffff:10.0.0.0/104"),
				policy.Peer{CIDR: &policy.CIDR{}})),
		},
	}
	want := []string{
		`workload.kind: "Host/" contains a slash`,
		`workload.name: is missing`,
		`ingress[0].peers[0]: has 0 of selector, cidr, reserved and fqdn; want exactly one`,
		`ingress[0].peers[1].reserved: reserved peer "moon": want one of host, kube-apiserver, remote-node, world`,
		`ingress[0].peers[2]: has 2 of selector, cidr, reserved and fqdn; want exactly one`,
		`ingress[1].peers[0].selector.matchLabels: is empty, which would select the whole namespace; give at least one label, or all: true if that is meant`,
		`ingress[1].peers[1].selector.namespace: is missing`,
		`ingress[1].peers[2].selector.matchLabels["a\x00"]: "a\x00" holds characters that cannot be shown`,
		`ingress[1].peers[2].selector.matchLabels["a\x00"]: "b\n" holds characters that cannot be shown`,
		`ingress[2].ports[0].endPort: 80 is below port 443`,
		`ingress[2].ports[1].endPort: 80 has no port to begin at; give port too`,
		`ingress[2].ports[2].protocol: is missing; want TCP, UDP, SCTP, ICMP, ICMPv6 or a number from 1 to 255`,
		`ingress[2].ports[3].port: ICMP has no ports`,
		`ingress[2].ports[4].port: 47 has no ports`,
		`ingress[2].ports[5].icmpType: is only for ICMP and ICMPv6, not for TCP`,
		`ingress[2].ports[6].icmpCode: 3 has no type to belong to; give icmpType too`,
		`egress[0].peers[0].cidr.prefix: 10.0.0.1/8 has bits set behind the prefix; want 10.0.0.0/8`,
		`egress[0].peers[1].cidr.except[0]: 11.0.0.0/16 is not a part of 10.0.0.0/8`,
		`egress[0].peers[1].cidr.except[1]: 10.0.0.0/8 is not a part of 10.0.0.0/8`,
		`egress[0].peers[1].cidr.except[2]: 10.1.0.1/16 has bits set behind the prefix; want 10.1.0.0/16`,
		`egress[0].peers[1].cidr.except[3]: 2001:db8::/32 is not a part of 10.0.0.0/8`,
		`egress[0].peers[2].cidr.prefix: ::ffff:10.0.0.0/104 is an IPv4 address written as IPv6; write it as IPv4`,
		`egress[0].peers[3].cidr.prefix: is missing; want a prefix such as 192.0.2.0/24 or 2001:db8::/32`,
	}
	err := p.Validate()
	if err == nil {
		t.Fatal("no problem found")
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	var one *policy.Problem
	if !errors.As(err, &one) || one.Path != "workload.kind" {
		t.Errorf("problems do not carry their path: %+v", one)
	}
	good := sample()
	if err := good.Validate(); err != nil {
		t.Errorf("a good policy: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	p := sample()
	f.Add(p.Canonical())
	f.Add([]byte(`{"workload":{"namespace":"a","kind":"b","name":"c"},"ingress":null,"egress":[{"peers":null,"ports":[{"protocol":"47"}]}]}`))
	f.Add([]byte(`{"workload":{"namespace":"a","kind":"b","name":"c"},"ingress":[{"peers":[{"cidr":{"prefix":"::/0","except":["fe80::/10"]}}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := policy.Decode(b)
		if err != nil {
			return
		}
		again, err := policy.Decode(p.Canonical())
		if err != nil {
			t.Fatalf("canonical document of a valid policy refused: %v", err)
		}
		if !policy.Equal(p, again) {
			t.Fatalf("%s became %s", p.Canonical(), again.Canonical())
		}
		for _, peer := range policytest.Peers() {
			for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
				facts := policy.Facts{Direction: d, Peer: peer, Protocol: flow.TCP, Port: 443}
				if a, b := policy.Evaluate(&p, facts), policy.Evaluate(&again, facts); a.Verdict != b.Verdict {
					t.Fatalf("%v: %v became %v", facts, a, b)
				}
			}
		}
	})
}
