package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

var (
	ofCart   = map[string]string{"app": "cart", "tier": "back"}
	metadata = policy.Guardrail{
		Name:       "no-metadata",
		Directions: []flow.Direction{flow.Egress},
		Peers: []policy.Peer{
			{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("169.254.169.254/32")}},
			{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("fd00:ec2::254/128")}},
		},
	}
	noSSH = policy.Guardrail{
		Name:      "no-ssh",
		Workloads: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"tier": "back"}},
		Ports:     []policy.Port{{Protocol: flow.TCP, Port: 22}},
	}
)

// to is a flow over TCP of a peer that no inventory knows.
func to(d flow.Direction, a string, port uint16) policy.Facts {
	peer := policy.PeerFacts{Addr: netip.MustParseAddr(a), Reserved: flow.IdentityWorld}
	return policy.Facts{Direction: d, Peer: peer, Protocol: flow.TCP, Port: port}
}

func TestGuardrails(t *testing.T) {
	all := policy.Normalize(policy.Policy{
		Workload: cart, IsolateIngress: true, IsolateEgress: true, Ingress: []policy.Rule{{}}, Egress: []policy.Rule{{}},
	})
	open := policy.Policy{Workload: cart}
	host := policy.Facts{Direction: flow.Ingress, Peer: policy.PeerFacts{Reserved: flow.IdentityHost}, Protocol: flow.TCP, Port: 22}
	for _, c := range []struct {
		name            string
		p               *policy.Policy
		allowed, denied policy.Facts
		by              string // of the denial
	}{
		{"a peer, v4", &all, to(flow.Egress, "169.254.169.253", 80), to(flow.Egress, "169.254.169.254", 80), "no-metadata"},
		{"a peer, v6", &all, to(flow.Egress, "fd00:ec2::253", 80), to(flow.Egress, "fd00:ec2::254", 80), "no-metadata"},
		{"a port, v4", &all, to(flow.Ingress, "192.0.2.1", 23), to(flow.Ingress, "192.0.2.1", 22), "no-ssh"},
		{"a port, v6", &all, to(flow.Egress, "2001:db8::1", 23), to(flow.Egress, "2001:db8::1", 22), "no-ssh"},
		{"one direction, v4", &all, to(flow.Ingress, "169.254.169.254", 80), to(flow.Egress, "169.254.169.254", 80), "no-metadata"},
		{"failsafe comes first", &all, host, to(flow.Ingress, "192.0.2.1", 22), "no-ssh"},
		{"the first that matches", &all, to(flow.Ingress, "169.254.169.254", 23), to(flow.Egress, "169.254.169.254", 22), "no-metadata"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := policy.Evaluator{Guardrails: policy.Governing([]policy.Guardrail{metadata, noSSH}, policy.PeerFacts{Workload: cart, Labels: ofCart})}
			if j := e.Evaluate(c.p, c.allowed); !j.Allowed() || j.Guardrail != "" {
				t.Errorf("allowed flow: %+v", j)
			}
			want := policy.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonGuardrail, Guardrail: c.by, Index: -1}
			if diff := cmp.Diff(want, e.Evaluate(c.p, c.denied)); diff != "" {
				t.Errorf("denied flow (-want +got):\n%s", diff)
			}
			x := e.Explain(c.p, c.denied)
			if !strings.Contains(x.Summary, "guardrail "+c.by) || x.Judgement != want || len(x.Rules) != 1 || !x.Rules[0].Matched {
				t.Errorf("explanation: %+v", x)
			}
			if j := e.Evaluate(&open, c.denied); j.Reason != flow.ReasonNoPolicy || !j.Allowed() {
				t.Errorf("where nothing is isolated: %+v", j)
			}
			if j := e.Evaluate(nil, c.denied); j.Reason != flow.ReasonNoPolicy || j.Verdict != flow.VerdictUnknown {
				t.Errorf("empty slot: %+v", j)
			}
		})
	}
	if got := policy.Governing([]policy.Guardrail{metadata, noSSH}, policy.PeerFacts{Workload: cart, Labels: map[string]string{"tier": "web"}}); len(got) != 1 || got[0].Name != "no-metadata" {
		t.Errorf("of another tier: %+v", got)
	}
}

// TestPending checks the answers to identities that are not known yet.
func TestPending(t *testing.T) {
	closed := policy.Normalize(policy.Policy{Workload: cart, IsolateEgress: true, Egress: []policy.Rule{
		{Peers: []policy.Peer{{Reserved: "world"}}},
		{Peers: []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("192.0.2.0/24")}}}, Ports: []policy.Port{{Protocol: flow.TCP, Port: 80}}},
		{Peers: []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("2001:db8::/32")}}}, Ports: []policy.Port{{Protocol: flow.TCP, Port: 80}}},
	}})
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		by, beside := to(flow.Egress, a, 80), to(flow.Egress, a, 81)
		by.Peer.Reserved, beside.Peer.Reserved = flow.IdentityUnknown, flow.IdentityUnknown
		for answer, reason := range map[flow.Verdict]flow.Reason{
			flow.VerdictAllow: flow.ReasonPending, flow.VerdictDeny: flow.ReasonPending, flow.VerdictUnknown: flow.ReasonDefault,
		} {
			e := policy.Evaluator{Pending: answer}
			if j := e.Evaluate(&closed, by); j.Reason != flow.ReasonRule {
				t.Errorf("%s, %s: by its address: %+v", a, answer, j)
			}
			j := e.Evaluate(&closed, beside)
			if j.Reason != reason || j.Allowed() != (answer == flow.VerdictAllow) {
				t.Errorf("%s, %s: %+v", a, answer, j)
			}
			if s := e.Explain(&closed, beside).Summary; reason == flow.ReasonPending && !strings.Contains(s, "nobody knows yet") {
				t.Errorf("%s, %s: %s", a, answer, s)
			}
			if j := e.Evaluate(&policy.Policy{}, beside); j.Reason != flow.ReasonNoPolicy {
				t.Errorf("%s, %s: not isolated: %+v", a, answer, j)
			}
		}
		for answer, want := range map[flow.Verdict]bool{flow.VerdictAllow: true, flow.VerdictDeny: false} {
			j := policy.Evaluator{Pending: answer}.EvaluatePending(by)
			if j.Reason != flow.ReasonPending || j.Allowed() != want || j.Index != -1 {
				t.Errorf("%s, %s: endpoint: %+v", a, answer, j)
			}
		}
	}
	probe := policy.Facts{Direction: flow.Ingress, Peer: policy.PeerFacts{Reserved: flow.IdentityHost}, Protocol: flow.TCP, Port: 80}
	deny := policy.Evaluator{Pending: flow.VerdictDeny}
	if j := deny.EvaluatePending(probe); j.Reason != flow.ReasonFailsafe || !j.Allowed() {
		t.Errorf("probe: %+v", j)
	}
	probe.Direction = flow.Egress
	if j := deny.EvaluatePending(probe); !j.Denied() {
		t.Errorf("to the node: %+v", j)
	}
}

func TestValidateGuardrails(t *testing.T) {
	if err := policy.ValidateGuardrails([]policy.Guardrail{metadata, noSSH}); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(g *policy.Guardrail){
		`guardrails[1].name: "no-metadata" is guardrails[0] already`: func(g *policy.Guardrail) { g.Name = "no-metadata" },
		"guardrails[1].name: is missing":                             func(g *policy.Guardrail) { g.Name = "" },
		"guardrails[1]: has neither peers nor ports":                 func(g *policy.Guardrail) { g.Ports = nil },
		`guardrails[1].directions[0]: "unknown" is no direction`:     func(g *policy.Guardrail) { g.Directions = []flow.Direction{0} },
		"guardrails[1].workloads.matchLabels: is empty":              func(g *policy.Guardrail) { g.Workloads = &policy.Selector{Namespace: "shop"} },
		"guardrails[1].peers[0]: has 0 of selector":                  func(g *policy.Guardrail) { g.Peers = []policy.Peer{{}} },
		"guardrails[1].ports[0].protocol: is missing":                func(g *policy.Guardrail) { g.Ports = []policy.Port{{Port: 1}} },
	} {
		g := noSSH.Clone()
		change(&g)
		if err := policy.ValidateGuardrails([]policy.Guardrail{metadata, g}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

func TestGuardrailString(t *testing.T) {
	for want, g := range map[string]policy.Guardrail{
		"no workload may connect to 169.254.169.254 or fd00:ec2::254 on any port of any protocol":                  metadata,
		"none of the workloads with tier=back in shop may connect to anyone or may be reached by anyone on TCP 22": noSSH,
	} {
		if got := g.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
