package connection_test

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/internal/connection"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
)

// One node reaches its own pods whatever their policy says, and the others' not.
func TestEnds(t *testing.T) {
	isolated := &policy.Policy{Workload: policytest.Subject, IsolateIngress: true, Ingress: []policy.Rule{
		{Peers: []policy.Peer{{FQDN: "cdn.example.com"}, {Reserved: "kube-apiserver"}}, Ports: []policy.Port{{Protocol: flow.TCP, Name: "web"}}},
	}}
	inv := policytest.Inventory()
	for _, c := range []struct {
		name, source, port string
		host               bool
		allowed            bool
		says               string
	}{
		{"its own node, IPv4", "10.0.0.1", "81", false, true, "failsafe"},
		{"its own node, IPv6", "fd00::1", "81", false, true, "failsafe"},
		{"its own node by name", "host", "81", false, true, "failsafe"},
		{"another node, IPv4", "10.0.0.2", "81", false, false, "remote-node"},
		{"another node, IPv6", "fd00::2", "81", false, false, "remote-node"},
		{"to a host, its own address", "10.0.0.1", "81", true, false, "none of its 1 rules matches"},
		{"a named address of a workload", "10.1.0.4", "web", false, true, "rule 1"},
		{"the workload's other address", "fd00:1::4", "web", false, false, "no address that cdn.example.com was seen to have"},
		{"a named address", "192.0.2.7", "80", false, true, "rule 1"},
		{"a reserved peer", "kube-apiserver", "web", false, true, "rule 1"},
		{"a reserved peer, another port", "kube-apiserver", "web2", false, false, `port "web2": want a number`},
	} {
		t.Run(c.name, func(t *testing.T) {
			inv.Workloads[0].Endpoints[0].Host = c.host
			list, err := connection.Explain(judge(inv, nil), judge(inv, isolated), c.source, "shop/cart", c.port)
			if err != nil {
				if !strings.Contains(err.Error(), c.says) {
					t.Fatal(err)
				}
				return
			}
			said := list[0].Summary
			for _, r := range list[0].Ingress.Rules {
				said += strings.Join(r.Why, " ")
			}
			if len(list) != 1 || list[0].Allowed != c.allowed || !strings.Contains(said, c.says) {
				t.Errorf("allowed %t, want %t and %q: %s", list[0].Allowed, c.allowed, c.says, said)
			}
		})
	}
}

// What is sent to a service's address is judged at what is behind it.
func TestService(t *testing.T) {
	inv := policytest.Inventory()
	inv.Services = []inventory.Service{{
		Namespace: "shop", Name: "front", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::10")},
		Selector: map[string]string{"app": "front"}, Ports: []inventory.ServicePort{{Protocol: flow.TCP, Port: 80, TargetPort: 8080}},
	}}
	toFront := &policy.Policy{Workload: policytest.Subject, IsolateEgress: true, Egress: []policy.Rule{{
		Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"app": "front"}}}},
		Ports: []policy.Port{{Protocol: flow.TCP, Port: 8080}},
	}}}
	for _, c := range []struct {
		destination, port string
		port8080, allowed bool
	}{
		{"10.96.0.10", "80", true, true},
		{"fd00:96::10", "80", true, true},
		{"10.96.0.10", "8080", true, false}, // no port of the service
		{"fd00:96::10", "80/UDP", false, false},
	} {
		list, err := connection.Explain(judge(inv, toFront), judge(inv, toFront), "shop/cart", c.destination, c.port)
		if err != nil || len(list) != 1 || list[0].Allowed != c.allowed || list[0].Port == 8080 != c.port8080 {
			t.Errorf("%s %s: %v %+v", c.destination, c.port, err, list)
		}
	}
}

func judge(inv inventory.Inventory, p *policy.Policy) *connection.Judge {
	x := inventory.NewIndex(inv)
	return &connection.Judge{Index: x, Govern: func(w *inventory.Workload) (policy.End, error) {
		if p == nil || p.Workload != w.Ref() {
			return policy.End{}, nil
		}
		return policy.End{Policy: p, Evaluator: policy.Evaluator{Guardrails: x.Guardrails(w.Ref())}}, nil
	}}
}

// However many replicas there are, those that no policy tells apart are judged
// once; those that one does are refused when they are too many.
func TestManyReplicas(t *testing.T) {
	inv := policytest.Inventory()
	for i := range 200 {
		for _, w := range []int{0, 1} {
			e := inv.Workloads[w].Endpoints[0]
			e.ID, e.Addresses = 0, []netip.Addr{netip.AddrFrom4([4]byte{10, 2 + byte(w), 0, byte(i)})}
			inv.Workloads[w].Endpoints = append(inv.Workloads[w].Endpoints, e)
		}
	}
	p := &policy.Policy{Workload: policytest.Subject, IsolateIngress: true, Ingress: []policy.Rule{{Peers: []policy.Peer{
		{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"app": "front"}}},
	}}}}
	ask := func(source string) ([]policy.Connection, error) {
		return connection.Explain(judge(inv, p), judge(inv, p), source, "shop/cart", "80")
	}
	if list, err := ask("shop/front"); err != nil || len(list) != 1 || !list[0].Allowed {
		t.Errorf("%v %+v", err, list)
	}
	if list, err := ask("shop/cart"); err != nil || len(list) != 1 || list[0].Allowed {
		t.Errorf("between replicas: %v %+v", err, list)
	}
	p.Ingress[0].Peers = append(p.Ingress[0].Peers, policy.Peer{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("10.3.0.0/25")}})
	p.Egress, p.IsolateEgress = p.Ingress, true
	if _, err := ask("shop/cart"); err == nil || !strings.Contains(err.Error(), "name endpoints by their addresses") {
		t.Errorf("too many: %v", err)
	}
	if list, err := ask("10.3.0.7"); err != nil || !list[0].Allowed {
		t.Errorf("one of them: %v %+v", err, list)
	}
}

// What is explained is what Evaluate says, and the words fit it.
func TestExplanationsAgree(t *testing.T) {
	inv := policytest.Inventory()
	x := inventory.NewIndex(inv)
	var addrs []netip.Addr
	for _, p := range policytest.Peers() {
		if p.Addr.IsValid() {
			addrs = append(addrs, p.Addr)
		}
	}
	own := x.Workload(policytest.Subject)
	rapid.Check(t, func(t *rapid.T) {
		p := policytest.Policy(t)
		p.Workload = policytest.Subject
		peer := rapid.SampledFrom(addrs).Draw(t, "peer")
		me := own.Endpoints[0].Addresses[0]
		if peer.Is6() {
			me = own.Endpoints[0].Addresses[1]
		}
		if o, _ := x.Owner(peer); o.Workload == own {
			return
		}
		protocol := rapid.SampledFrom([]flow.Protocol{flow.TCP, flow.UDP, flow.SCTP}).Draw(t, "protocol")
		port := rapid.SampledFrom([]string{"53", "80", "81", "443", "5432", "65535"}).Draw(t, "port")
		j := judge(inv, &p)
		for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
			source, destination := peer.String(), me.String()
			if d == flow.Egress {
				source, destination = destination, source
			}
			list, err := connection.Explain(j, j, source, destination, port+"/"+protocol.String())
			if err != nil || len(list) != 1 {
				t.Fatal(list, err)
			}
			c := list[0]
			e := c.Ingress
			if d == flow.Egress {
				e = c.Egress
			}
			f := policy.Facts{Direction: d, Peer: x.Peer(peer, own.Endpoints[0].Node), Protocol: protocol, Port: c.Port}
			f.Peer.Outside = own.Endpoints[0].Host
			want := policy.Evaluator{Guardrails: x.Guardrails(policytest.Subject), Own: own.Endpoints[0].Ports}.Evaluate(&p, f)
			if e.Judgement != want || c.Allowed != want.Allowed() {
				t.Fatalf("explained as %+v, evaluated as %+v", e.Judgement, want)
			}
			for _, r := range e.Rules {
				if r.Matched != (len(r.Why) == 0) {
					t.Fatalf("rule %d matched %t, and says %q", r.Index, r.Matched, r.Why)
				}
				if want.Reason == flow.ReasonRule && r.Index < want.Index && r.Matched || r.Index == want.Index && !r.Matched {
					t.Fatalf("rule %d matched %t, and rule %d decides", r.Index, r.Matched, want.Index)
				}
			}
		}
	})
}

// An ICMP message is asked about as icmp/TYPE[/CODE], and is of one family.
func TestICMP(t *testing.T) {
	echo4, echo6 := policy.PortOf(flow.ICMP, 8<<8), policy.PortOf(flow.ICMPv6, 128<<8)
	p := &policy.Policy{Workload: policytest.Subject, IsolateIngress: true, Ingress: []policy.Rule{{Ports: []policy.Port{echo4, echo6}}}}
	inv := policytest.Inventory()
	for _, c := range []struct {
		source, port string
		number       uint16
		allowed      bool
	}{
		{"10.1.0.2", "icmp/8", 8 << 8, true},
		{"10.1.0.2", "ICMP/8/0", 8 << 8, true},
		{"10.1.0.2", "icmp/8/1", 8<<8 | 1, false},
		{"10.1.0.2", "icmp/0", 0, false},
		{"10.1.0.2", "icmp/13", 13 << 8, false},
		{"fd00:1::2", "icmpv6/128", 128 << 8, true},
		{"fd00:1::2", "icmpv6/144", 144 << 8, false},
		{"shop/front", "icmpv6/128", 128 << 8, true},
	} {
		t.Run(c.source+" "+c.port, func(t *testing.T) {
			list, err := connection.Explain(judge(inv, p), judge(inv, p), c.source, "shop/cart", c.port)
			if err != nil || len(list) != 1 {
				t.Fatal(list, err)
			}
			if list[0].Allowed != c.allowed || list[0].Port != c.number {
				t.Errorf("allowed %t, number %d: %s", list[0].Allowed, list[0].Port, list[0].Summary)
			}
		})
	}
	for _, wrong := range []struct{ source, port string }{{"10.1.0.2", "icmpv6/128"}, {"fd00:1::2", "icmp/8"}} {
		if list, err := connection.Explain(judge(inv, p), judge(inv, p), wrong.source, "shop/cart", wrong.port); err == nil {
			t.Errorf("%s with %s: %+v", wrong.source, wrong.port, list)
		}
	}
}
