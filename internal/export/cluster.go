package export

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

var clusterNetworkPolicy = dialect{
	name: ClusterNetworkPolicy, title: "a ClusterNetworkPolicy", pods: true, subject: (*exporter).clusterNetworkPolicy,
	limits: []string{
		"It holds the guardrails alone, in the tier Admin, which no NetworkPolicy overrides; the rules are in the networkpolicy export.",
		"Who comes from outside of the cluster cannot be denied by it: ingress peers are pods.",
		"It has no ICMP, no other protocols, and no reserved peers.",
	},
}

// What the CRD allows, see config/crd/standard in sigs.k8s.io/network-policy-api.
const (
	clusterMost     = 25 // rules of a direction, peers and protocols of a rule, networks of a peer
	clusterPriority = 100
	clusterName     = 100 // bytes of a rule's name
)

// ClusterPolicy is a ClusterNetworkPolicy without the status that its cluster
// writes.
type ClusterPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              cnpv1.ClusterNetworkPolicySpec `json:"spec"`
}

// clusterNetworkPolicy writes what guardrails deny a workload, in the directions
// that its policy isolates: elsewhere a guardrail denies nothing.
func (x *exporter) clusterNetworkPolicy(s *subject) {
	pods, ok := x.own(s)
	if !ok {
		return
	}
	meta := s.meta()
	meta.Namespace, meta.Name = "", s.clusterName()
	cnp := &ClusterPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: cnpv1.GroupVersion.String(), Kind: "ClusterNetworkPolicy"},
		ObjectMeta: meta,
		Spec: cnpv1.ClusterNetworkPolicySpec{
			Tier: cnpv1.AdminTier, Priority: clusterPriority,
			Subject: cnpv1.ClusterNetworkPolicySubject{Pods: &cnpv1.NamespacedPod{
				NamespaceSelector: kubernetesSelector(named(s.policy.Workload.Namespace)), PodSelector: kubernetesSelector(pods),
			}},
		},
	}
	for _, d := range directions(&s.policy) {
		for _, r := range s.guardrailsAt(d) {
			if d == flow.Ingress {
				cnp.Spec.Ingress = append(cnp.Spec.Ingress, x.clusterIngress(&r)...)
			} else {
				cnp.Spec.Egress = append(cnp.Spec.Egress, x.clusterEgress(&r)...)
			}
		}
	}
	if n := max(len(cnp.Spec.Ingress), len(cnp.Spec.Egress)); n > clusterMost {
		x.lose(NotDenied, "", "", "the guardrails take %d rules of one direction, and a ClusterNetworkPolicy holds %d: none is exported", n, clusterMost)
		return
	}
	if len(cnp.Spec.Ingress)+len(cnp.Spec.Egress) > 0 {
		x.add(cnp)
	}
}

// clusterName is unique in the cluster: names of policies are so in a namespace.
func (s *subject) clusterName() string {
	w := s.policy.Workload
	return objectName(flow.Workload{Namespace: w.Namespace, Kind: w.Kind, Name: w.Namespace + "-" + w.Name}, true)
}

func (x *exporter) clusterIngress(r *ruleAt) (out []cnpv1.ClusterNetworkPolicyIngressRule) {
	peers, anyone, ok := said(x, NotDenied, r.at+".peers", r.Peers, func(p policy.Peer) (cnpv1.ClusterNetworkPolicyIngressPeer, string) {
		pods, why := clusterPods(p)
		return cnpv1.ClusterNetworkPolicyIngressPeer{Pods: pods}, why
	})
	if anyone {
		x.lose(NotDenied, r.at, "anyone", "a ClusterNetworkPolicy denies ingress from pods only")
		peers = []cnpv1.ClusterNetworkPolicyIngressPeer{{Namespaces: &metav1.LabelSelector{}}}
	}
	for from, protocols := range clusterPieces(x, r, peers, ok) {
		out = append(out, cnpv1.ClusterNetworkPolicyIngressRule{
			Name: ruleName(r.at), Action: cnpv1.ClusterNetworkPolicyRuleActionDeny, From: from, Protocols: protocols,
		})
	}
	return out
}

func (x *exporter) clusterEgress(r *ruleAt) (out []cnpv1.ClusterNetworkPolicyEgressRule) {
	peers, anyone, ok := said(x, NotDenied, r.at+".peers", r.Peers, clusterEgressPeer)
	if anyone {
		peers = []cnpv1.ClusterNetworkPolicyEgressPeer{{Networks: []cnpv1.CIDR{"0.0.0.0/0", "::/0"}}}
	}
	for to, protocols := range clusterPieces(x, r, peers, ok) {
		out = append(out, cnpv1.ClusterNetworkPolicyEgressRule{
			Name: ruleName(r.at), Action: cnpv1.ClusterNetworkPolicyRuleActionDeny, To: to, Protocols: protocols,
		})
	}
	return out
}

// clusterPieces returns r's peers and protocols in as many pieces as it takes;
// none when peers or protocols are lost.
func clusterPieces[P any](x *exporter, r *ruleAt, peers []P, ok bool) iter.Seq2[[]P, []cnpv1.ClusterNetworkPolicyProtocol] {
	lists, portsOK := x.clusterProtocols(r)
	return func(yield func([]P, []cnpv1.ClusterNetworkPolicyProtocol) bool) {
		if !ok || !portsOK {
			return
		}
		for some := range slices.Chunk(peers, clusterMost) {
			for _, protocols := range lists {
				if !yield(some, protocols) {
					return
				}
			}
		}
	}
}

func ruleName(at string) string {
	name := []rune(at)
	for len(string(name)) > clusterName {
		name = name[:len(name)-1]
	}
	return string(name)
}

func clusterPods(p policy.Peer) (*cnpv1.NamespacedPod, string) {
	switch {
	case p.CIDR != nil:
		return nil, "a ClusterNetworkPolicy has no blocks in ingress"
	case p.Selector == nil:
		return nil, "a ClusterNetworkPolicy has no reserved peers"
	}
	return &cnpv1.NamespacedPod{
		NamespaceSelector: kubernetesSelector(namespacesOf(p.Selector)), PodSelector: kubernetesSelector(p.Selector.Labels()),
	}, badSelector(p.Selector)
}

func clusterEgressPeer(p policy.Peer) (out cnpv1.ClusterNetworkPolicyEgressPeer, why string) {
	if p.CIDR == nil {
		out.Pods, why = clusterPods(p)
		return out, why
	}
	blocks := without(p.CIDR)
	if len(blocks) > clusterMost {
		return out, fmt.Sprintf("without its exceptions it is %d blocks, and a ClusterNetworkPolicy holds %d", len(blocks), clusterMost)
	}
	for _, b := range blocks {
		out.Networks = append(out.Networks, cnpv1.CIDR(b.String()))
	}
	if len(blocks) == 0 {
		return out, implied
	}
	return out, ""
}

// without returns the blocks that are left of c without its exceptions.
func without(c *policy.CIDR) []netip.Prefix {
	var b netipx.IPSetBuilder
	b.AddPrefix(c.Prefix)
	for _, e := range c.Except {
		b.RemovePrefix(e)
	}
	set, err := b.IPSet()
	if err != nil {
		// Only prefixes that are not valid are refused, and policies have none.
		panic("export: " + err.Error())
	}
	return set.Prefixes()
}

// clusterProtocols returns the lists of protocols that r's ports take, one empty
// list for all.
func (x *exporter) clusterProtocols(r *ruleAt) (lists [][]cnpv1.ClusterNetworkPolicyProtocol, ok bool) {
	list, whole, ok := said(x, NotDenied, r.at+".ports", r.Ports, func(p policy.Port) (out cnpv1.ClusterNetworkPolicyProtocol, why string) {
		port := &cnpv1.Port{Number: int32(p.Port)}
		switch {
		case p.Port == 0:
			port = &cnpv1.Port{Range: &cnpv1.PortRange{Start: 1, End: 65535}}
		case p.EndPort > p.Port:
			port = &cnpv1.Port{Range: &cnpv1.PortRange{Start: int32(p.Port), End: int32(p.EndPort)}}
		}
		switch p.Protocol {
		case flow.TCP:
			out.TCP = &cnpv1.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}
		case flow.UDP:
			out.UDP = &cnpv1.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}
		case flow.SCTP:
			out.SCTP = &cnpv1.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}
		default:
			why = "a ClusterNetworkPolicy knows TCP, UDP and SCTP only"
		}
		return out, why
	})
	if whole {
		return [][]cnpv1.ClusterNetworkPolicyProtocol{nil}, true
	}
	return slices.Collect(slices.Chunk(list, clusterMost)), ok
}
