package netpol

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Export returns p as a NetworkPolicy of the pods that subject selects, and in
// words what a NetworkPolicy cannot say of it. What cannot be said is left out,
// so that the result never admits more than p does.
func Export(p *policy.Policy, subject *policy.Selector) (*netv1.NetworkPolicy, []string) {
	e := exporter{namespace: p.Workload.Namespace}
	np := &netv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: netv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Workload.Namespace, Name: objectName(p.Workload)},
		Spec:       netv1.NetworkPolicySpec{PodSelector: labelSelector(subject.MatchLabels, subject.MatchExpressions)},
	}
	if p.IsolateIngress {
		np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, netv1.PolicyTypeIngress)
		for _, r := range p.Ingress {
			if peers, ports, ok := e.rule(r, flow.Ingress); ok {
				np.Spec.Ingress = append(np.Spec.Ingress, netv1.NetworkPolicyIngressRule{From: peers, Ports: ports})
			}
		}
	}
	if p.IsolateEgress {
		np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, netv1.PolicyTypeEgress)
		for _, r := range p.Egress {
			if peers, ports, ok := e.rule(r, flow.Egress); ok {
				np.Spec.Egress = append(np.Spec.Egress, netv1.NetworkPolicyEgressRule{To: peers, Ports: ports})
			}
		}
	}
	return np, e.unsaid
}

type exporter struct {
	namespace string
	unsaid    []string
}

// rule is left out when nothing is left of its peers or ports: an empty list
// would mean all of them.
func (e *exporter) rule(r policy.Rule, d flow.Direction) (peers []netv1.NetworkPolicyPeer, ports []netv1.NetworkPolicyPort, ok bool) {
	leave := func(what, why string) {
		e.unsaid = append(e.unsaid, fmt.Sprintf("%s: %q loses %s: %s", d, policy.Sentence(r, d), what, why))
	}
	for _, p := range r.Peers {
		switch {
		case p.CIDR != nil:
			block := &netv1.IPBlock{CIDR: p.CIDR.Prefix.String()}
			for _, x := range p.CIDR.Except {
				block.Except = append(block.Except, x.String())
			}
			peers = append(peers, netv1.NetworkPolicyPeer{IPBlock: block})
		case p.Selector != nil:
			peers = append(peers, e.selected(p.Selector))
		case p.FQDN != "":
			leave(p.FQDN, "a NetworkPolicy knows no DNS names")
		default:
			leave("the peer "+p.Reserved, "a NetworkPolicy has no word for it; give its addresses")
		}
	}
	for _, p := range r.Ports {
		if !p.Protocol.HasPorts() {
			leave(p.String(), "a NetworkPolicy knows TCP, UDP and SCTP alone")
			continue
		}
		protocol := corev1.Protocol(p.Protocol.String())
		out := netv1.NetworkPolicyPort{Protocol: &protocol}
		switch {
		case p.Name != "":
			out.Port = new(intstr.FromString(p.Name))
		case p.Port != 0:
			out.Port = new(intstr.FromInt32(int32(p.Port)))
		}
		if p.EndPort != 0 {
			out.EndPort = new(int32(p.EndPort))
		}
		ports = append(ports, out)
	}
	return peers, ports, (len(peers) > 0 || len(r.Peers) == 0) && (len(ports) > 0 || len(r.Ports) == 0)
}

func (e *exporter) selected(s *policy.Selector) netv1.NetworkPolicyPeer {
	pods := labelSelector(s.MatchLabels, s.MatchExpressions)
	out := netv1.NetworkPolicyPeer{PodSelector: &pods}
	switch {
	case s.Namespaces != nil:
		spaces := labelSelector(s.Namespaces.MatchLabels, s.Namespaces.MatchExpressions)
		out.NamespaceSelector = &spaces
	case s.Namespace != e.namespace:
		spaces := labelSelector(map[string]string{policy.NamespaceName: s.Namespace}, nil)
		out.NamespaceSelector = &spaces
	}
	return out
}

func labelSelector(labels map[string]string, expressions []policy.Expression) metav1.LabelSelector {
	out := metav1.LabelSelector{MatchLabels: maps.Clone(labels)}
	for _, x := range expressions {
		out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: x.Key, Operator: metav1.LabelSelectorOperator(x.Operator), Values: slices.Clone(x.Values),
		})
	}
	return out
}

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// maxObjectName bounds the name of an object, as Kubernetes does.
const maxObjectName = 253

// objectName is the workload's kind and name as Kubernetes lets an object be
// called; what does not fit is told apart by a digest.
func objectName(w flow.Workload) string {
	exact := strings.ToLower(w.Kind) + "-" + w.Name
	name := strings.Trim(notInName.ReplaceAllString(strings.ToLower(exact), "-"), "-")
	if name == exact && len(name) <= maxObjectName {
		return name
	}
	sum := sha256.Sum256([]byte(w.String()))
	return strings.TrimLeft(name[:min(len(name), maxObjectName-9)]+"-"+hex.EncodeToString(sum[:4]), "-")
}
