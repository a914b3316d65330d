package enforcer

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
	"github.com/ringfence/ringfence/internal/rollout"
)

func revision(number uint32, p policy.Policy) *rollout.Revision {
	return &rollout.Revision{Number: number, Digest: policy.Digest(p), Policy: p}
}

// tempDir is t.TempDir for rapid, which has none.
func tempDir(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "rf-enforcer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func subjectIdentity() flow.Identity {
	inv := policytest.Inventory()
	return inventory.NewIndex(inv).Workload(policytest.Subject).Identity
}

// guardOf returns what judges the subject under st.
func guardOf(st rollout.State) policy.Evaluator {
	return policy.Evaluator{Guardrails: inventory.NewIndex(st.Inventory).Guardrails(policytest.Subject), Own: policytest.Own()}
}

// evaluate judges a flow of the subject under st, also one to a service.
func evaluate(st rollout.State, p *policy.Policy, f policy.Facts) policy.Judgement {
	x := inventory.NewIndex(st.Inventory)
	ends := x.Ends(destinationOf(f), policytest.Node)
	if _, owned := x.Owner(f.Peer.Addr); f.Direction == flow.Egress && len(ends) > 0 && !owned {
		return guardOf(st).EvaluateService(p, ends)
	}
	return guardOf(st).Evaluate(p, f)
}

func destinationOf(f policy.Facts) inventory.Destination {
	return inventory.Destination{Protocol: f.Protocol, Addr: netip.AddrPortFrom(f.Peer.Addr, f.Port)}
}

// drawFacts draws a flow, often one to a service of st.
func drawFacts(t *rapid.T, st rollout.State, p *policy.Policy) policy.Facts {
	f := policytest.Facts(t, p)
	if len(st.Inventory.Services) == 0 || rapid.Bool().Draw(t, "not to a service") {
		return f
	}
	s := rapid.SampledFrom(st.Inventory.Services).Draw(t, "service")
	if len(s.Addresses) == 0 {
		return f
	}
	port := rapid.SampledFrom(s.Ports).Draw(t, "port of the service")
	f.Peer = inventory.NewIndex(st.Inventory).Peer(rapid.SampledFrom(s.Addresses).Draw(t, "address"), policytest.Node)
	f.Direction, f.Protocol, f.Port = flow.Egress, port.Protocol, port.Port
	return f
}

// compare fails unless the model judges f as the evaluator does.
func compare(t *rapid.T, m *model, slot flow.Slot, r *rollout.Revision, st rollout.State, f policy.Facts) {
	key := bpf.TableKey{Identity: subjectIdentity(), Slot: slot, Direction: f.Direction}
	got := m.judge(key, f.Peer.Addr, f.Protocol, f.Port)
	var p *policy.Policy
	number := uint32(0)
	if r != nil {
		p, number = &r.Policy, r.Number
	}
	want := evaluate(st, p, f)
	if want.Reason == flow.ReasonFailsafe {
		return // decided before the tables
	}
	if got.verdict != want.Verdict || got.reason != want.Reason || got.revision != number {
		t.Fatalf("%s %+v\nkernel: %+v\nevaluator: %+v\npolicy %+v", slot, f, got, want, p)
	}
}

// drawState draws a State with policies of Subject and of a second workload on
// the same node, whose prefixes cut into the first one's.
func drawState(t *rapid.T, generation uint64) rollout.State {
	st := rollout.State{Generation: generation, Inventory: policytest.Inventory()}
	st.Inventory.Guardrails = policytest.Guardrails(t)
	st.Inventory.Services = policytest.Services(t)
	draw := func(w flow.Workload, number uint32) *rollout.Revision {
		if rapid.IntRange(0, 4).Draw(t, "empty") == 0 {
			return nil
		}
		p := policytest.Policy(t)
		p.Workload = w
		return revision(number, p)
	}
	n := uint32(generation) * 10
	other := flow.Workload{Namespace: "shop", Kind: "Host", Name: "pay"}
	st.Slots = []rollout.Slots{
		{Workload: policytest.Subject, Live: draw(policytest.Subject, n+1), Staged: draw(policytest.Subject, n+2)},
		{Workload: other, Live: draw(other, n+3), Staged: draw(other, n+4)},
	}
	return st
}

func TestKernelEqualsEvaluator(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(systemClock{})
		e, err := New(Config{Node: policytest.Node, StateDir: tempDir(t)}, m, nil)
		if err != nil {
			t.Fatal(err)
		}
		st := rollout.State{}
		for generation := range uint64(rapid.IntRange(1, 3).Draw(t, "states")) {
			next := drawState(t, generation+1)
			for i := range st.Slots {
				if rapid.IntRange(0, 2).Draw(t, "keep") == 0 {
					next.Slots[i] = st.Slots[i]
				}
			}
			st = next
			if _, err := e.Apply(t.Context(), st); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				slot := rapid.SampledFrom([]flow.Slot{flow.SlotLive, flow.SlotStaged}).Draw(t, "slot")
				r := st.Slots[0].Live
				if slot == flow.SlotStaged {
					r = st.Slots[0].Staged
				}
				p := &policy.Policy{}
				if r != nil {
					p = &r.Policy
				}
				compare(t, m, slot, r, st, drawFacts(t, st, p))
			}
		}
		if len(m.attached) != 3 {
			t.Fatalf("attached %v", m.attached)
		}
	})
}

// At every step of a change, a flow is judged by the policy before or by the one
// after, never by something else.
func TestEveryStepIsOldOrNew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(systemClock{})
		e, err := New(Config{Node: policytest.Node, StateDir: tempDir(t)}, m, nil)
		if err != nil {
			t.Fatal(err)
		}
		before, after := drawState(t, 1), drawState(t, 2)
		if _, err := e.Apply(t.Context(), before); err != nil {
			t.Fatal(err)
		}
		var facts []policy.Facts
		for _, st := range []rollout.State{before, after} {
			for range 10 {
				p := &policy.Policy{}
				if r := st.Slots[0].Live; r != nil {
					p = &r.Policy
				}
				facts = append(facts, drawFacts(t, st, p))
			}
		}
		verdict := func(st rollout.State, f policy.Facts) flow.Verdict {
			if r := st.Slots[0].Live; r != nil {
				return evaluate(st, &r.Policy, f).Verdict
			}
			return flow.VerdictUnknown
		}
		steps := 0
		m.step = func() {
			steps++
			for _, f := range facts {
				if policy.Failsafe(f) {
					continue
				}
				key := bpf.TableKey{Identity: subjectIdentity(), Slot: flow.SlotLive, Direction: f.Direction}
				got := m.judge(key, f.Peer.Addr, f.Protocol, f.Port).verdict
				if was, will := verdict(before, f), verdict(after, f); got != was && got != will {
					t.Fatalf("step %d: %+v is judged %s; before %s, after %s", steps, f, got, was, will)
				}
			}
		}
		if _, err := e.Apply(t.Context(), after); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPortMatches(t *testing.T) {
	u8 := func(n uint8) *uint8 { return &n }
	for _, c := range []struct {
		name string
		port policy.Port
		want match
	}{
		{"one port", policy.Port{Protocol: flow.TCP, Port: 80}, match{flow.TCP, 80, 80}},
		{"every port", policy.Port{Protocol: flow.UDP}, match{flow.UDP, 0, 65535}},
		{"one to the last", policy.Port{Protocol: flow.TCP, Port: 1, EndPort: 65535}, match{flow.TCP, 1, 65535}},
		{"a range", policy.Port{Protocol: flow.SCTP, Port: 8192, EndPort: 16383}, match{flow.SCTP, 8192, 16383}},
		{"the last port", policy.Port{Protocol: flow.TCP, Port: 65535, EndPort: 65535}, match{flow.TCP, 65535, 65535}},
		{"any ICMP", policy.Port{Protocol: flow.ICMP}, match{flow.ICMP, 0, 65535}},
		{"ICMP type", policy.Port{Protocol: flow.ICMPv6, ICMPType: u8(128)}, match{flow.ICMPv6, 0x8000, 0x80ff}},
		{"ICMP type and code", policy.Port{Protocol: flow.ICMP, ICMPType: u8(3), ICMPCode: u8(1)}, match{flow.ICMP, 0x0301, 0x0301}},
		{"ICMP type 0", policy.Port{Protocol: flow.ICMP, ICMPType: u8(0)}, match{flow.ICMP, 0, 0xff}},
		{"ICMP type and code 0", policy.Port{Protocol: flow.ICMP, ICMPType: u8(0), ICMPCode: u8(0)}, match{flow.ICMP, 0, 0}},
		{"a protocol without ports", policy.Port{Protocol: 47}, match{47, 0, 65535}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := matchOf(c.port); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// Cases that the generated world may not hit, each with an allowed and a denied
// packet in IPv4 and IPv6.
func TestCompiledCases(t *testing.T) {
	prefix := netip.MustParsePrefix
	type packet struct {
		peer     string
		protocol flow.Protocol
		port     uint16
	}
	cidr := func(p string, except ...string) policy.Peer {
		c := &policy.CIDR{Prefix: prefix(p)}
		for _, e := range except {
			c.Except = append(c.Except, prefix(e))
		}
		return policy.Peer{CIDR: c}
	}
	tcp := []policy.Port{{Protocol: flow.TCP, Port: 443}}
	for _, c := range []struct {
		name          string
		rules         []policy.Rule
		allow, refuse []packet
	}{
		{
			"selector of one workload",
			[]policy.Rule{{Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"app": "front"}}}}, Ports: tcp}},
			[]packet{{"10.1.0.2", flow.TCP, 443}, {"fd00:1::2", flow.TCP, 443}},
			[]packet{{"10.1.0.3", flow.TCP, 443}, {"fd00:1::3", flow.TCP, 443}, {"10.1.0.2", flow.TCP, 444}, {"10.1.0.2", flow.UDP, 443}, {"192.0.2.1", flow.TCP, 443}},
		},
		{
			"every IPv6 address is no IPv4 address",
			[]policy.Rule{{Peers: []policy.Peer{cidr("::/0")}, Ports: tcp}},
			[]packet{{"2001:db8::1", flow.TCP, 443}, {"fd00:1::2", flow.TCP, 443}},
			[]packet{{"192.0.2.1", flow.TCP, 443}, {"10.1.0.2", flow.TCP, 443}, {"2001:db8::1", flow.TCP, 80}},
		},
		{
			"every IPv4 address is no IPv6 address",
			[]policy.Rule{{Peers: []policy.Peer{cidr("0.0.0.0/0")}, Ports: tcp}},
			[]packet{{"192.0.2.1", flow.TCP, 443}, {"10.1.0.2", flow.TCP, 443}},
			[]packet{{"2001:db8::1", flow.TCP, 443}, {"fd00:1::2", flow.TCP, 443}},
		},
		{
			"an exception, and a longer prefix of another rule inside it",
			[]policy.Rule{
				{Peers: []policy.Peer{cidr("192.0.2.0/24", "192.0.2.128/25"), cidr("2001:db8::/32", "2001:db8:1::/48")}, Ports: tcp},
				{Peers: []policy.Peer{cidr("192.0.2.200/32"), cidr("2001:db8:1::2/128")}, Ports: []policy.Port{{Protocol: flow.UDP, Port: 53}}},
			},
			[]packet{{"192.0.2.1", flow.TCP, 443}, {"2001:db8::1", flow.TCP, 443}, {"192.0.2.200", flow.UDP, 53}, {"2001:db8:1::2", flow.UDP, 53}},
			[]packet{{"192.0.2.129", flow.TCP, 443}, {"2001:db8:1::1", flow.TCP, 443}, {"192.0.2.200", flow.TCP, 443}, {"2001:db8:1::2", flow.TCP, 443}, {"192.0.2.1", flow.UDP, 53}},
		},
		{
			"a longer prefix does not take an address out of a shorter one",
			[]policy.Rule{
				{Peers: []policy.Peer{cidr("192.0.0.0/16"), cidr("2001:db8::/32")}, Ports: tcp},
				{Peers: []policy.Peer{cidr("192.0.2.7/32"), cidr("2001:db8::7/128")}, Ports: []policy.Port{{Protocol: flow.UDP, Port: 53}}},
			},
			[]packet{{"192.0.2.7", flow.TCP, 443}, {"2001:db8::7", flow.TCP, 443}, {"192.0.2.7", flow.UDP, 53}},
			[]packet{{"192.0.2.8", flow.UDP, 53}, {"2001:db8::8", flow.UDP, 53}, {"192.1.0.0", flow.TCP, 443}},
		},
		{
			"a prefix around a pod admits the pod",
			[]policy.Rule{{Peers: []policy.Peer{cidr("10.1.0.0/24"), cidr("fd00:1::/64")}, Ports: tcp}},
			[]packet{{"10.1.0.2", flow.TCP, 443}, {"fd00:1::2", flow.TCP, 443}, {"10.1.0.77", flow.TCP, 443}},
			[]packet{{"10.2.0.2", flow.TCP, 443}, {"fd00:2::2", flow.TCP, 443}},
		},
		{
			"no peers and no ports", []policy.Rule{{}},
			[]packet{{"192.0.2.1", flow.TCP, 1}, {"2001:db8::1", 99, 0}, {"10.1.0.2", flow.ICMP, 0x0800}}, nil,
		},
		{
			"no rules", nil, nil,
			[]packet{{"192.0.2.1", flow.TCP, 1}, {"2001:db8::1", 99, 0}, {"10.1.0.2", flow.ICMP, 0x0800}},
		},
		{
			"a named port of a workload whose endpoints do not all have it",
			[]policy.Rule{{Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"app": "pay"}}}}, Ports: []policy.Port{{Protocol: flow.TCP, Name: "web"}}}},
			[]packet{{"10.1.0.3", flow.TCP, 80}, {"fd00:1::3", flow.TCP, 80}},
			[]packet{{"10.1.0.6", flow.TCP, 80}, {"fd00:1::6", flow.TCP, 80}, {"10.1.0.3", flow.TCP, 81}, {"10.1.0.3", flow.UDP, 80}, {"10.1.0.2", flow.TCP, 80}},
		},
		{
			"world is not a remote node",
			[]policy.Rule{{Peers: []policy.Peer{{Reserved: "world"}}}},
			[]packet{{"192.0.2.1", flow.TCP, 443}, {"2001:db8::1", flow.TCP, 443}},
			[]packet{{"10.0.0.2", flow.TCP, 443}, {"fd00::2", flow.TCP, 443}, {"10.1.0.2", flow.TCP, 443}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newModel(systemClock{})
			e, err := New(Config{Node: policytest.Node, StateDir: t.TempDir()}, m, nil)
			if err != nil {
				t.Fatal(err)
			}
			p := policy.Policy{Workload: policytest.Subject, IsolateEgress: true, Egress: c.rules}
			st := rollout.State{Generation: 1, Inventory: policytest.Inventory(), Slots: []rollout.Slots{{Workload: policytest.Subject, Live: revision(1, p)}}}
			if _, err := e.Apply(t.Context(), st); err != nil {
				t.Fatal(err)
			}
			key := bpf.TableKey{Identity: subjectIdentity(), Slot: flow.SlotLive, Direction: flow.Egress}
			check := func(packets []packet, want flow.Verdict) {
				for _, k := range packets {
					if got := m.judge(key, netip.MustParseAddr(k.peer), k.protocol, k.port); got.verdict != want {
						t.Errorf("%s %s %d: %s, want %s", k.peer, k.protocol, k.port, got.verdict, want)
					}
				}
			}
			check(c.allow, flow.VerdictAllow)
			check(c.refuse, flow.VerdictDeny)
			in := m.judge(bpf.TableKey{Identity: subjectIdentity(), Direction: flow.Ingress}, netip.MustParseAddr("192.0.2.1"), flow.TCP, 1)
			if in != (judgement{flow.VerdictAllow, flow.ReasonNoPolicy, 1}) {
				t.Errorf("the direction that is not isolated: %+v", in)
			}
		})
	}
}

// What is in force is not held up by a name whose addresses went: the rule admits
// nobody, and the report says so.
func TestNameLosesItsAddresses(t *testing.T) {
	m := newModel(systemClock{})
	e, err := New(Config{Node: policytest.Node, StateDir: t.TempDir()}, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := policy.Policy{Workload: policytest.Subject, IsolateEgress: true, Egress: []policy.Rule{{Peers: []policy.Peer{{FQDN: "api.example.com"}}}}}
	st := rollout.State{Generation: 1, Inventory: policytest.Inventory(), Slots: []rollout.Slots{{Workload: policytest.Subject, Live: revision(1, p)}}}
	key := bpf.TableKey{Identity: subjectIdentity(), Slot: flow.SlotLive, Direction: flow.Egress}
	judge := func(addr string, want flow.Verdict) {
		t.Helper()
		if got := m.judge(key, netip.MustParseAddr(addr), flow.TCP, 443); got.verdict != want {
			t.Errorf("%s: %s, want %s", addr, got.verdict, want)
		}
	}
	r, err := e.Apply(t.Context(), st)
	if err != nil || len(r.Problems) > 0 {
		t.Fatal(err, r.Problems)
	}
	for _, a := range []string{"192.0.2.7", "2001:db8::7"} {
		judge(a, flow.VerdictAllow)
	}
	for _, a := range []string{"192.0.2.8", "2001:db8::8"} {
		judge(a, flow.VerdictDeny)
	}
	st.Generation, st.Inventory = 2, policytest.Inventory()
	st.Inventory.Names = nil
	r, err = e.Apply(t.Context(), st)
	if err != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "allows api.example.com (egress rule 1), of which no address is known") {
		t.Errorf("%v, problems %q", err, r.Problems)
	}
	judge("192.0.2.7", flow.VerdictDeny)
	judge("2001:db8::7", flow.VerdictDeny)
}

func TestIdentitiesStay(t *testing.T) {
	set := func(list ...string) map[netip.Prefix]bool {
		out := map[netip.Prefix]bool{}
		for _, p := range list {
			out[netip.MustParsePrefix(p)] = true
		}
		return out
	}
	first := allocate(set("10.0.0.0/8", "10.1.0.0/16"), nil, flow.FirstCIDRIdentity, comparePrefixes)
	again := allocate(set("10.1.0.0/16", "10.0.0.0/8"), nil, flow.FirstCIDRIdentity, comparePrefixes)
	if fmt.Sprint(first) != fmt.Sprint(again) {
		t.Errorf("not deterministic: %v, %v", first, again)
	}
	second := allocate(set("10.1.0.0/16", "10.0.0.0/7", "9.0.0.0/8"), first, flow.FirstCIDRIdentity, comparePrefixes)
	if second[netip.MustParsePrefix("10.1.0.0/16")] != first[netip.MustParsePrefix("10.1.0.0/16")] {
		t.Error("a prefix that stays got another number")
	}
	for p, id := range second {
		for q, other := range first {
			if id == other && p != q {
				t.Errorf("%s has the number that %s had a moment ago", p, q)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	subject := policytest.Subject
	wide := policy.Policy{Workload: subject, IsolateEgress: true, Egress: []policy.Rule{{Ports: []policy.Port{{Protocol: flow.TCP, Port: 1, EndPort: 65535}}}}}
	open := policy.Policy{Workload: subject}
	prefixes := policy.Policy{Workload: subject, IsolateEgress: true, Egress: []policy.Rule{{}}}
	for i := range 40 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32)
		prefixes.Egress[0].Peers = append(prefixes.Egress[0].Peers, policy.Peer{CIDR: &policy.CIDR{Prefix: p}})
	}
	for _, c := range []struct {
		name   string
		change func(*rollout.State, *model)
		want   string
	}{
		{"too many entries", func(st *rollout.State, m *model) {
			m.limits.PolicyEntries = 2
			st.Slots[0].Staged = revision(8, wide)
		}, "policy shop/Host/cart revision 8 needs 3 entries for egress, the table holds 2"},
		{"too many entries of all tables", func(st *rollout.State, m *model) {
			m.limits.PolicyEntries = 5
			st.Slots[0].Live, st.Slots[0].Staged = revision(8, wide), revision(9, wide)
		}, "policy shop/Host/cart revision 9 does not fit: this node's policies need 6 entries until they have switched, there is room for 5"},
		{"too many prefixes", func(st *rollout.State, m *model) {
			m.limits.CIDRs = 39
			st.Slots[0].Staged = revision(8, prefixes)
		}, "policy shop/Host/cart revision 8 does not fit: this node's policies need 40 prefixes, the table holds 39"},
		{"too many tables", func(st *rollout.State, m *model) {
			m.limits.PolicyTables = 1 // both directions are open alike
			st.Slots[0].Staged = revision(8, open)
		}, "policy shop/Host/cart revision 8 does not fit: this node's policies need 2 tables until they have switched, there is room for 1"},
		{"too many tables beside those in force", func(st *rollout.State, m *model) {
			m.limits.PolicyTables = 1
			st.Slots[0].Live = revision(8, open)
		}, "policy shop/Host/cart revision 8 does not fit: this node's policies need 2 tables until they have switched, there is room for 1"},
		{"too many entries of guardrails", func(st *rollout.State, m *model) {
			m.limits.PolicyEntries = 2
			st.Inventory.Guardrails = []policy.Guardrail{{Name: "wide", Ports: wide.Egress[0].Ports}}
			st.Slots[0].Staged = revision(8, open)
		}, "policy shop/Host/cart revision 7 with its guardrails needs 3 entries for ingress, the table holds 2"},
		{"bad guardrail", func(st *rollout.State, _ *model) {
			st.Inventory.Guardrails = []policy.Guardrail{{Name: "all"}}
		}, "inventory is not valid: guardrails[0]: has neither peers nor ports"},
		{"changed after approval", func(st *rollout.State, _ *model) {
			st.Slots[0].Staged = revision(8, wide)
			st.Slots[0].Staged.Policy.IsolateEgress = false
		}, "revision 8 does not match its digest"},
		{"another workload's policy", func(st *rollout.State, _ *model) {
			p := open
			p.Workload.Name = "pay"
			st.Slots[0].Staged = revision(8, p)
		}, "revision 8 is a policy of shop/Host/pay"},
		{"not valid", func(st *rollout.State, _ *model) {
			p := open
			p.IsolateIngress, p.Ingress = true, []policy.Rule{{Ports: []policy.Port{{}}}}
			st.Slots[0].Staged = revision(8, p)
		}, "revision 8 is not valid: ingress[0].ports[0].protocol"},
		{"a DNS name without an address", func(st *rollout.State, _ *model) {
			p := policy.Policy{Workload: subject, IsolateEgress: true, Egress: []policy.Rule{{Peers: []policy.Peer{{FQDN: "nobody.example"}}}}}
			st.Slots[0].Staged = revision(8, p)
		}, "policy shop/Host/cart revision 8 allows nobody.example (egress rule 1), of which no address is known"},
		{"a name that stands for two numbers", func(st *rollout.State, _ *model) {
			w := &st.Inventory.Workloads[0]
			w.Endpoints = append(w.Endpoints, inventory.Endpoint{Name: "cart-2", Node: policytest.Node, ID: 99, Ports: []policy.NamedPort{{Name: "web", Protocol: flow.TCP, Port: 8080}}})
			p := policy.Policy{Workload: subject, IsolateIngress: true, Ingress: []policy.Rule{{Ports: []policy.Port{{Protocol: flow.TCP, Name: "web"}}}}}
			st.Slots[0].Staged = revision(8, p)
		}, `revision 8 allows TCP port "web" (ingress rule 1), which is not the same number at all endpoints on this node`},
		{"without a number", func(st *rollout.State, _ *model) { st.Slots[0].Staged = revision(0, open) }, "revision 0 has no number"},
		{"node unknown", func(st *rollout.State, _ *model) { st.Inventory.Nodes[0].Name = "x" }, `node "node-1" is not in the inventory`},
		{"no identity", func(st *rollout.State, _ *model) { st.Inventory.Workloads[1].Identity = 0 }, "workload shop/Host/front has identity 0"},
		{"identity of two", func(st *rollout.State, _ *model) { st.Inventory.Workloads[1].Identity = subjectIdentity() }, "shop/Host/front has identity 257"},
		{"identity of a prefix", func(st *rollout.State, _ *model) { st.Inventory.Workloads[1].Identity = flow.FirstCIDRIdentity }, "which is reserved"},
		{"no endpoint number", func(st *rollout.State, _ *model) { st.Inventory.Workloads[1].Endpoints[0].ID = 0 }, "endpoint front-1 of shop/Host/front has number 0"},
		{"address twice", func(st *rollout.State, _ *model) {
			st.Inventory.Workloads[1].Endpoints[0].Addresses[0] = st.Inventory.Nodes[0].Addresses[0]
		}, "address 10.0.0.1 is in the inventory twice"},
		{"too many addresses", func(_ *rollout.State, m *model) { m.limits.Addresses = 5 }, "inventory has 16 addresses, the table holds 5"},
		{"too many workloads", func(_ *rollout.State, m *model) { m.limits.Workloads = 2 }, "node node-1 has 3 workloads, the table holds 2"},
		{"too many endpoints", func(_ *rollout.State, m *model) { m.limits.Endpoints = 2 }, "node node-1 has 3 endpoints, the table holds 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newModel(systemClock{})
			e, err := New(Config{Node: policytest.Node, StateDir: t.TempDir()}, m, nil)
			if err != nil {
				t.Fatal(err)
			}
			st := rollout.State{Generation: 1, Inventory: policytest.Inventory(), Slots: []rollout.Slots{{Workload: subject, Live: revision(7, open)}}}
			if _, err := e.Apply(t.Context(), st); err != nil {
				t.Fatal(err)
			}
			before := fmt.Sprint(m.tables, m.addresses, m.cidrs)
			st.Generation, st.Inventory = 2, policytest.Inventory()
			c.change(&st, m)
			r, err := e.Apply(t.Context(), st)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(r.Error, c.want) {
				t.Errorf("error %v, report %q, want %q", err, r.Error, c.want)
			}
			if r.Generation != 1 {
				t.Errorf("generation %d is reported as applied", r.Generation)
			}
			if after := fmt.Sprint(m.tables, m.addresses, m.cidrs); after != before {
				t.Errorf("the kernel changed:\n%s\n%s", before, after)
			}
			if len(r.Workloads) != 3 || r.Workloads[1].LiveRevision != 7 || r.Workloads[1].StagedRevision != 0 {
				t.Errorf("reported %+v", r.Workloads)
			}
		})
	}
}

// What cannot be enforced for one workload must not keep another from its
// rollback.
func TestRefusalKeepsToItsWorkload(t *testing.T) {
	m := newModel(systemClock{})
	m.limits.PolicyEntries = 2
	e, err := New(Config{Node: policytest.Node, StateDir: t.TempDir()}, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	subject, pay := policytest.Subject, flow.Workload{Namespace: "shop", Kind: "Host", Name: "pay"}
	wide := policy.Policy{Workload: subject, IsolateEgress: true, Egress: []policy.Rule{{Ports: []policy.Port{{Protocol: flow.TCP, Port: 1, EndPort: 65535}}}}}
	st := rollout.State{Generation: 1, Inventory: policytest.Inventory(), Slots: []rollout.Slots{
		{Workload: subject, Staged: revision(1, wide)},
		{Workload: pay, Live: revision(4, policy.Policy{Workload: pay, IsolateEgress: true})},
	}}
	r, err := e.Apply(t.Context(), st)
	if err == nil || !strings.Contains(err.Error(), "shop/Host/cart revision 1 needs 3 entries") {
		t.Fatalf("error %v", err)
	}
	if r.Workloads[1].StagedRevision != 0 || r.Workloads[2].LiveRevision != 4 {
		t.Errorf("reported %+v", r.Workloads)
	}
	key := bpf.TableKey{Identity: 259, Slot: flow.SlotLive, Direction: flow.Egress}
	if got := m.judge(key, netip.MustParseAddr("192.0.2.1"), flow.TCP, 1); got.verdict != flow.VerdictDeny || got.revision != 4 {
		t.Errorf("the other workload: %+v", got)
	}
}
