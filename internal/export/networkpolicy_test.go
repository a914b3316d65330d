package export_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/ringfence/ringfence/internal/export"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/netpol"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
)

// subject draws a policy of a pod's workload.
func subject(t *rapid.T) export.Subject {
	p := policytest.Policy(t)
	p.Workload.Kind = "Deployment"
	return export.Subject{
		Policy: p, Selector: map[string]string{"app": "cart"}, Labels: map[string]string{"app": "cart", "tier": "back"},
		NamespaceLabels: map[string]string{"env": "prod"}, Named: policytest.Own(),
	}
}

// A namespace is selected by the label that Kubernetes itself gives it, which no
// person can move to another; the workload's own needs none.
func TestNetworkPolicySelectsNamespacesByTheirName(t *testing.T) {
	peer := func(namespace string) policy.Rule {
		return policy.Rule{Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: namespace, MatchLabels: map[string]string{"app": "front"}}}}}
	}
	res, err := export.Export(export.NetworkPolicy, export.Input{Subjects: []export.Subject{{
		Policy: policy.Policy{
			Workload: flow.Workload{Namespace: "shop", Kind: "Deployment", Name: "cart"}, IsolateIngress: true, IsolateEgress: true,
			Ingress: []policy.Rule{peer("shop"), peer("web")}, Egress: []policy.Rule{peer("shop"), peer("web")},
		},
		Selector: map[string]string{"app": "cart"}, Labels: map[string]string{"app": "cart"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	np := res.Objects[0].(*netv1.NetworkPolicy)
	for direction, peers := range map[string][]netv1.NetworkPolicyPeer{
		"ingress": {np.Spec.Ingress[0].From[0], np.Spec.Ingress[1].From[0]}, "egress": {np.Spec.Egress[0].To[0], np.Spec.Egress[1].To[0]},
	} {
		if own := peers[0]; own.NamespaceSelector != nil || own.PodSelector == nil {
			t.Errorf("%s: the workload's own namespace is selected by %v", direction, own.NamespaceSelector)
		}
		want := &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "web"}}
		if diff := cmp.Diff(want, peers[1].NamespaceSelector); diff != "" {
			t.Errorf("%s: another namespace (-want +got):\n%s", direction, diff)
		}
	}
}

// Random policies go out as NetworkPolicies and come back through the importer
// that reads people's manifests; each random flow must be judged the same. Where
// something was left out, the way back may only deny more, and where a guardrail
// is in the way, only the listed kinds of losses may tell the two apart.
func TestNetworkPolicyJudgesAlike(t *testing.T) {
	exact, narrower := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		s := subject(t)
		guardrails := policytest.Guardrails(t)
		res, err := export.Export(export.NetworkPolicy, export.Input{Subjects: []export.Subject{s}, Guardrails: guardrails})
		if err != nil {
			t.Fatal(err)
		}
		back := imported(t, res.Objects)
		effects := map[export.Effect]bool{}
		for _, l := range res.Losses {
			effects[l.Effect] = true
		}
		who := policy.PeerFacts{Workload: s.Policy.Workload, Labels: s.Labels, NamespaceLabels: s.NamespaceLabels}
		ours := policy.Evaluator{Guardrails: policy.Governing(guardrails, who), Own: s.Named}
		for range 20 {
			f := policytest.Facts(t, &s.Policy)
			want := !ours.Evaluate(&s.Policy, f).Denied()
			got := !(policy.Evaluator{Own: s.Named}).Evaluate(back, f).Denied()
			switch {
			case got == want:
				exact++
			case !got && effects[export.LeftOut]:
				narrower++
			case got && (effects[export.NotDenied] || effects[export.Assumes]):
			default:
				t.Fatalf("allowed %v by the policy, %v by its export\n%+v\nlosses %v", want, got, f, res.Losses)
			}
		}
	})
	if exact == 0 || narrower == 0 {
		t.Errorf("%d alike, %d narrower: want some of both", exact, narrower)
	}
	t.Logf("%d flows judged alike, %d denied for what was left out", exact, narrower)
}

// Without guardrails and with nothing lost the two agree about every peer, port
// and protocol.
func TestNetworkPolicyWithoutLossIsTheSame(t *testing.T) {
	checked := 0
	rapid.Check(t, func(t *rapid.T) {
		s := subject(t)
		s.Policy = sayable(s.Policy)
		res, err := export.Export(export.NetworkPolicy, export.Input{Subjects: []export.Subject{s}})
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Losses) > 0 {
			t.Fatalf("lost %v", res.Losses)
		}
		back := imported(t, res.Objects)
		for _, peer := range policytest.Peers() {
			for _, port := range []uint16{1, 53, 80, 81, 443, 8080, 65535} {
				for _, protocol := range []flow.Protocol{flow.TCP, flow.UDP, flow.SCTP} {
					for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
						f := policy.Facts{Direction: d, Peer: peer, Protocol: protocol, Port: port}
						e := policy.Evaluator{Own: s.Named}
						if want, got := e.Evaluate(&s.Policy, f).Denied(), e.Evaluate(back, f).Denied(); want != got {
							t.Fatalf("denied %v by the policy, %v by its export: %+v", want, got, f)
						}
						checked++
					}
				}
			}
		}
	})
	t.Logf("%d cells alike", checked)
}

// sayable takes away what a NetworkPolicy cannot say.
func sayable(p policy.Policy) policy.Policy {
	rules := func(in []policy.Rule) (out []policy.Rule) {
		for _, r := range in {
			n := policy.Rule{}
			for _, peer := range r.Peers {
				if peer.Selector != nil || peer.CIDR != nil {
					n.Peers = append(n.Peers, peer)
				}
			}
			for _, port := range r.Ports {
				if port.Protocol.HasPorts() {
					n.Ports = append(n.Ports, port)
				}
			}
			out = append(out, n)
		}
		return out
	}
	p.Ingress, p.Egress = rules(p.Ingress), rules(p.Egress)
	return p
}

// imported reads NetworkPolicies from their YAML; nil when there is none.
func imported(t interface{ Fatal(...any) }, objects []any) *policy.Policy {
	var list []netpol.Policy
	for _, o := range objects {
		doc, err := yaml.Marshal(o.(*netv1.NetworkPolicy))
		if err != nil {
			t.Fatal(err)
		}
		np, err := netpol.Decode(doc)
		if err != nil {
			t.Fatal(err)
		}
		p, err := netpol.Import(np)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	sum, _ := netpol.Sum(list, policy.PeerFacts{
		Workload: flow.Workload{Namespace: "shop", Kind: "Deployment", Name: "cart"}, Labels: map[string]string{"app": "cart"},
	})
	return sum
}
