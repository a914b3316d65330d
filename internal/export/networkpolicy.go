package export

import (
	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

var networkPolicy = dialect{
	name: NetworkPolicy, title: "a NetworkPolicy", pods: true, subject: (*exporter).networkPolicy,
	limits: []string{
		"NetworkPolicies add up: another one that selects the same pods can only allow more.",
		"Traffic between a pod and its own node is allowed in both directions, whatever a NetworkPolicy says.",
		"Whether connections that are open already are cut is the network plug-in's choice.",
		"Whether a rule for every port also covers protocols other than TCP, UDP and SCTP is the network plug-in's choice.",
		"It has no deny: guardrails need the clusternetworkpolicy export beside it.",
		"It has no ICMP types, no other protocols, no DNS names and no reserved peers.",
	},
}

// networkPolicy writes one NetworkPolicy.
func (x *exporter) networkPolicy(s *subject) {
	pods, ok := x.own(s)
	if !ok {
		return
	}
	np := &netv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: netv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
		ObjectMeta: s.meta(),
		Spec:       netv1.NetworkPolicySpec{PodSelector: kubernetesSelector(pods)},
	}
	for _, d := range directions(&s.policy) {
		for _, r := range x.carved(s, d) {
			peers, ports, ok := x.kubernetesRule(s, d, &r)
			switch {
			case !ok:
			case d == flow.Ingress:
				np.Spec.Ingress = append(np.Spec.Ingress, netv1.NetworkPolicyIngressRule{From: peers, Ports: ports})
			default:
				np.Spec.Egress = append(np.Spec.Egress, netv1.NetworkPolicyEgressRule{To: peers, Ports: ports})
			}
		}
		kind := netv1.PolicyTypeIngress
		if d == flow.Egress {
			kind = netv1.PolicyTypeEgress
		}
		np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, kind)
	}
	x.add(np)
}

func (x *exporter) kubernetesRule(s *subject, d flow.Direction, r *ruleAt) ([]netv1.NetworkPolicyPeer, []netv1.NetworkPolicyPort, bool) {
	peers, _, ok := said(x, LeftOut, r.at+".peers", r.Peers, func(p policy.Peer) (netv1.NetworkPolicyPeer, string) {
		return kubernetesPeer(d, s.policy.Workload.Namespace, p)
	})
	if !ok {
		return nil, nil, false
	}
	ports, _, ok := said(x, LeftOut, r.at+".ports", r.Ports, kubernetesPort)
	return peers, ports, ok
}

func kubernetesPeer(d flow.Direction, namespace string, p policy.Peer) (out netv1.NetworkPolicyPeer, why string) {
	switch {
	case p.Selector != nil:
		if why := badSelector(p.Selector); why != "" {
			return out, why
		}
		pods := kubernetesSelector(p.Selector.Labels())
		out.PodSelector = &pods
		if p.Selector.Namespace != namespace {
			namespaces := kubernetesSelector(namespacesOf(p.Selector))
			out.NamespaceSelector = &namespaces
		}
	case p.CIDR != nil:
		out.IPBlock = &netv1.IPBlock{CIDR: p.CIDR.Prefix.String(), Except: prefixTexts(p.CIDR)}
	case p.Reserved == "host" && d == flow.Ingress:
		return out, implied // failsafe; the kubelet's way to its pods is always open
	case p.Reserved != "":
		return out, "a NetworkPolicy has no reserved peers; give the addresses as a cidr"
	default:
		return out, "a NetworkPolicy has no DNS names; give the addresses as a cidr"
	}
	return out, ""
}

// namespacesOf returns the part of s that picks namespaces.
func namespacesOf(s *policy.Selector) policy.LabelSelector {
	if s.Namespaces != nil {
		return *s.Namespaces
	}
	return named(s.Namespace)
}

func prefixTexts(c *policy.CIDR) []string {
	var out []string
	for _, e := range c.Except {
		out = append(out, e.String())
	}
	return out
}

func kubernetesPort(p policy.Port) (out netv1.NetworkPolicyPort, why string) {
	protocol := corev1.Protocol(p.Protocol.String())
	switch {
	case !p.Protocol.HasPorts():
		return out, "a NetworkPolicy knows TCP, UDP and SCTP only"
	case p.Name != "":
		name := intstr.FromString(p.Name)
		out.Port = &name
	case p.Port != 0:
		number := intstr.FromInt32(int32(p.Port))
		out.Port = &number
		if p.EndPort > p.Port {
			end := int32(p.EndPort)
			out.EndPort = &end
		}
	}
	out.Protocol = &protocol
	return out, ""
}
