package netpol

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Import returns np in the words of the model. An error is an
// *InvalidError, with every field that Kubernetes would refuse.
func Import(np *netv1.NetworkPolicy) (Policy, error) {
	out := Policy{Namespace: np.Namespace, Name: np.Name}
	if out.Namespace == "" {
		out.Namespace = metav1.NamespaceDefault
	}
	im := importer{namespace: out.Namespace}
	if np.Name == "" {
		im.add(field.Required(field.NewPath("metadata", "name"), "give each policy a name"))
	}
	spec := field.NewPath("spec")
	out.Subjects = im.pods(spec.Child("podSelector"), &np.Spec.PodSelector)
	out.Rules.IsolateIngress, out.Rules.IsolateEgress = im.types(spec.Child("policyTypes"), np)
	for i, r := range np.Spec.Ingress {
		at := spec.Child("ingress").Index(i)
		rule := im.rule(at, at.Child("from"), r.From, r.Ports)
		if out.Rules.IsolateIngress {
			out.Rules.Ingress = append(out.Rules.Ingress, rule)
		}
	}
	for i, r := range np.Spec.Egress {
		at := spec.Child("egress").Index(i)
		rule := im.rule(at, at.Child("to"), r.To, r.Ports)
		if out.Rules.IsolateEgress {
			out.Rules.Egress = append(out.Rules.Egress, rule)
		}
	}
	if len(im.problems) > 0 {
		return Policy{}, &InvalidError{Ref: out.Ref(), Problems: im.problems}
	}
	return out, nil
}

// InvalidError says what is wrong with a NetworkPolicy.
type InvalidError struct {
	Ref      string // namespace/name
	Problems field.ErrorList
}

func (e *InvalidError) Error() string { return "NetworkPolicy " + e.Ref + ": " + e.Fields() }

// Fields names every field that is wrong, with what is allowed.
func (e *InvalidError) Fields() string {
	texts := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		texts[i] = p.Error()
	}
	return strings.Join(texts, "; ")
}

type importer struct {
	namespace string
	problems  field.ErrorList
}

func (im *importer) add(list ...*field.Error) { im.problems = append(im.problems, list...) }

// types returns which directions np isolates. Without policyTypes it is ingress,
// and egress if there are rules for it.
func (im *importer) types(at *field.Path, np *netv1.NetworkPolicy) (ingress, egress bool) {
	if len(np.Spec.PolicyTypes) == 0 {
		return true, len(np.Spec.Egress) > 0
	}
	for i, t := range np.Spec.PolicyTypes {
		switch t {
		case netv1.PolicyTypeIngress:
			ingress = true
		case netv1.PolicyTypeEgress:
			egress = true
		default:
			im.add(field.NotSupported(at.Index(i), t, []netv1.PolicyType{netv1.PolicyTypeIngress, netv1.PolicyTypeEgress}))
		}
	}
	return ingress, egress
}

func (im *importer) rule(at, peersAt *field.Path, peers []netv1.NetworkPolicyPeer, ports []netv1.NetworkPolicyPort) policy.Rule {
	var out policy.Rule
	for i := range peers {
		out.Peers = append(out.Peers, im.peer(peersAt.Index(i), &peers[i]))
	}
	for i := range ports {
		out.Ports = append(out.Ports, im.port(at.Child("ports").Index(i), &ports[i]))
	}
	return out
}

func (im *importer) peer(at *field.Path, p *netv1.NetworkPolicyPeer) policy.Peer {
	switch selects := p.PodSelector != nil || p.NamespaceSelector != nil; {
	case p.IPBlock != nil && selects:
		im.add(field.Forbidden(at, "ipBlock stands alone: it cannot be combined with podSelector or namespaceSelector"))
	case p.IPBlock != nil:
		return policy.Peer{CIDR: im.block(at.Child("ipBlock"), p.IPBlock)}
	case !selects:
		im.add(field.Required(at, "give podSelector, namespaceSelector or ipBlock"))
	}
	out := policy.Selector{Namespace: im.namespace, All: true}
	if p.PodSelector != nil {
		out = im.pods(at.Child("podSelector"), p.PodSelector)
	}
	if p.NamespaceSelector != nil {
		namespaces := im.labels(at.Child("namespaceSelector"), p.NamespaceSelector)
		out.Namespace, out.Namespaces = "", &namespaces
	}
	return policy.Peer{Selector: &out}
}

// pods returns the selector of workloads in the policy's own namespace.
func (im *importer) pods(at *field.Path, s *metav1.LabelSelector) policy.Selector {
	l := im.labels(at, s)
	return policy.Selector{Namespace: im.namespace, MatchLabels: l.MatchLabels, MatchExpressions: l.MatchExpressions, All: l.All}
}

// labels returns s in the model's words. In Kubernetes an empty selector picks
// everything; in the model that is said.
func (im *importer) labels(at *field.Path, s *metav1.LabelSelector) policy.LabelSelector {
	im.add(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, at)...)
	out := policy.LabelSelector{All: len(s.MatchLabels)+len(s.MatchExpressions) == 0, MatchLabels: s.MatchLabels}
	for _, e := range s.MatchExpressions {
		out.MatchExpressions = append(out.MatchExpressions, policy.Expression{
			Key: e.Key, Operator: policy.Operator(e.Operator), Values: e.Values,
		})
	}
	return out
}

func (im *importer) block(at *field.Path, b *netv1.IPBlock) *policy.CIDR {
	prefix := im.prefix(at.Child("cidr"), b.CIDR)
	out := &policy.CIDR{Prefix: prefix}
	for i, text := range b.Except {
		e := im.prefix(at.Child("except").Index(i), text)
		if e.IsValid() && prefix.IsValid() && (e.Bits() <= prefix.Bits() || !prefix.Contains(e.Addr())) {
			im.add(field.Invalid(at.Child("except").Index(i), text, "must be a part of "+b.CIDR+", and not the whole of it"))
		}
		out.Except = append(out.Except, e)
	}
	return out
}

// prefix reads a block. Bits behind its length count for nothing in Kubernetes.
func (im *importer) prefix(at *field.Path, text string) netip.Prefix {
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		im.add(field.Invalid(at, text, "must be a block such as 192.0.2.0/24 or 2001:db8::/32"))
		return netip.Prefix{}
	}
	return p.Masked()
}

// maxPort is the highest port number.
const maxPort = 65535

func (im *importer) port(at *field.Path, p *netv1.NetworkPolicyPort) policy.Port {
	out := policy.Port{Protocol: flow.TCP}
	if p.Protocol != nil {
		out.Protocol = im.protocol(at.Child("protocol"), *p.Protocol)
	}
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			im.add(field.Forbidden(at.Child("endPort"), "has no port to begin at: give port too"))
		}
	case p.Port.Type == intstr.String:
		for _, why := range validation.IsValidPortName(p.Port.StrVal) {
			im.add(field.Invalid(at.Child("port"), p.Port.StrVal, why))
		}
		if p.EndPort != nil {
			im.add(field.Forbidden(at.Child("endPort"), "a range begins at a number, not at a name"))
		}
		out.Name = p.Port.StrVal
	default:
		out.Port = im.number(at.Child("port"), p.Port.IntVal)
		if p.EndPort != nil {
			out.EndPort = im.number(at.Child("endPort"), *p.EndPort)
			if *p.EndPort < p.Port.IntVal {
				im.add(field.Invalid(at.Child("endPort"), *p.EndPort, fmt.Sprintf("must be port %d or above", p.Port.IntVal)))
			}
		}
	}
	return out
}

func (im *importer) number(at *field.Path, n int32) uint16 {
	if n < 1 || n > maxPort {
		im.add(field.Invalid(at, n, "must be between 1 and 65535"))
		return 1
	}
	return uint16(n)
}

// Protocol returns the protocol of a Kubernetes object; none is TCP.
func Protocol(p corev1.Protocol) (flow.Protocol, error) {
	switch p {
	case corev1.ProtocolTCP, "":
		return flow.TCP, nil
	case corev1.ProtocolUDP:
		return flow.UDP, nil
	case corev1.ProtocolSCTP:
		return flow.SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q: want TCP, UDP or SCTP", string(p))
}

func (im *importer) protocol(at *field.Path, p corev1.Protocol) flow.Protocol {
	out, err := Protocol(p)
	if err != nil || p == "" {
		im.add(field.NotSupported(at, p, []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}))
		return flow.TCP
	}
	return out
}
