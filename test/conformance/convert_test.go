package conformance

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Every pod is a workload of its own. What a NetworkPolicy selects is worked out
// here, pod by pod, and becomes selectors of single workloads: the label podLabel
// names one.
const podLabel = "conformance/pod"

func workloadOf(pod *probe.Pod) flow.Workload {
	return flow.Workload{Namespace: pod.Namespace, Kind: "Pod", Name: pod.Name}
}

func labelsOf(pod *probe.Pod) map[string]string {
	out := map[string]string{podLabel: pod.Name}
	for k, v := range pod.Labels {
		out[k] = v
	}
	return out
}

func selects(s *metav1.LabelSelector, of map[string]string) (bool, error) {
	sel, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && sel.Matches(labels.Set(of)), err
}

// policyOf returns what all NetworkPolicies that select the pod add up to, or nil
// when none does.
func (c *cluster) policyOf(pod *probe.Pod) (*policy.Policy, error) {
	out := policy.Policy{Workload: workloadOf(pod)}
	selected := false
	for _, np := range c.policies {
		here, err := selects(&np.Spec.PodSelector, pod.Labels)
		if err != nil {
			return nil, fmt.Errorf("policy %s/%s: %w", np.Namespace, np.Name, err)
		}
		if np.Namespace != pod.Namespace || !here {
			continue
		}
		selected = true
		if err := c.add(&out, np, pod); err != nil {
			return nil, fmt.Errorf("policy %s/%s: %w", np.Namespace, np.Name, err)
		}
	}
	if !selected {
		return nil, nil
	}
	out = policy.Normalize(out)
	return &out, out.Validate()
}

func (c *cluster) add(out *policy.Policy, np *netv1.NetworkPolicy, pod *probe.Pod) error {
	for _, kind := range np.Spec.PolicyTypes {
		switch kind {
		case netv1.PolicyTypeIngress:
			out.IsolateIngress = true
			for _, r := range np.Spec.Ingress {
				rules, err := c.rules(np.Namespace, r.From, r.Ports, pod)
				if err != nil {
					return err
				}
				out.Ingress = append(out.Ingress, rules...)
			}
		case netv1.PolicyTypeEgress:
			out.IsolateEgress = true
			for _, r := range np.Spec.Egress {
				rules, err := c.rules(np.Namespace, r.To, r.Ports, nil)
				if err != nil {
					return err
				}
				out.Egress = append(out.Egress, rules...)
			}
		}
	}
	return nil
}

// rules returns what one rule of a NetworkPolicy allows. Names of ports are
// those of server, or, when it is nil, of whichever pod is the peer.
//
// A list that is empty allows everybody or every port. One of which nothing is
// left must not turn into that.
func (c *cluster) rules(ns string, from []netv1.NetworkPolicyPeer, on []netv1.NetworkPolicyPort, server *probe.Pod) ([]policy.Rule, error) {
	peers, err := c.peers(ns, from)
	if err != nil || len(from) > 0 && len(peers) == 0 {
		return nil, err
	}
	if len(on) == 0 {
		return []policy.Rule{{Peers: peers}}, nil
	}
	var out []policy.Rule
	numbered, named := portsOf(on, server)
	if len(numbered) > 0 {
		out = append(out, policy.Rule{Peers: peers, Ports: numbered})
	}
	if !named || server != nil {
		return out, nil
	}
	for _, pod := range c.resources.Pods {
		here, err := c.admits(ns, from, pod)
		if err != nil {
			return nil, err
		}
		if ports, _ := portsOf(on, pod); here && len(ports) > 0 {
			out = append(out, policy.Rule{Peers: []policy.Peer{selector(pod)}, Ports: ports})
		}
	}
	return out, nil
}

func selector(pod *probe.Pod) policy.Peer {
	return policy.Peer{Selector: &policy.Selector{Namespace: pod.Namespace, MatchLabels: map[string]string{podLabel: pod.Name}}}
}

func (c *cluster) peers(ns string, list []netv1.NetworkPolicyPeer) ([]policy.Peer, error) {
	var out []policy.Peer
	for i := range list {
		if b := list[i].IPBlock; b != nil {
			block, err := cidr(b)
			if err != nil {
				return nil, err
			}
			out = append(out, policy.Peer{CIDR: block})
			continue
		}
		for _, pod := range c.resources.Pods {
			here, err := c.picks(ns, &list[i], pod)
			if err != nil {
				return nil, err
			}
			if here {
				out = append(out, selector(pod))
			}
		}
	}
	return out, nil
}

// picks reports whether a peer's selectors pick the pod. Without one for
// namespaces it is the policy's own that counts.
func (c *cluster) picks(ns string, peer *netv1.NetworkPolicyPeer, pod *probe.Pod) (bool, error) {
	if peer.NamespaceSelector == nil && pod.Namespace != ns {
		return false, nil
	}
	if peer.NamespaceSelector != nil {
		if here, err := selects(peer.NamespaceSelector, c.resources.Namespaces[pod.Namespace]); !here {
			return false, err
		}
	}
	if peer.PodSelector == nil {
		return true, nil
	}
	return selects(peer.PodSelector, pod.Labels)
}

// admits reports whether any of the peers is the pod, also by its address.
func (c *cluster) admits(ns string, list []netv1.NetworkPolicyPeer, pod *probe.Pod) (bool, error) {
	if len(list) == 0 {
		return true, nil
	}
	peers, err := c.peers(ns, list)
	if err != nil {
		return false, err
	}
	p := policy.Policy{IsolateEgress: true, Egress: []policy.Rule{{Peers: peers}}}
	return len(peers) > 0 && policy.Evaluate(&p, policy.Facts{Direction: flow.Egress, Peer: peerFacts(pod)}).Allowed(), nil
}

func cidr(b *netv1.IPBlock) (*policy.CIDR, error) {
	prefix, err := netip.ParsePrefix(b.CIDR)
	out := &policy.CIDR{Prefix: prefix.Masked()}
	for _, e := range b.Except {
		if err == nil {
			prefix, err = netip.ParsePrefix(e)
			out.Except = append(out.Except, prefix.Masked())
		}
	}
	return out, err
}

// portsOf returns the ports of a rule, the named ones as server has them, and
// whether there are named ones. Without a server those are left out.
func portsOf(list []netv1.NetworkPolicyPort, server *probe.Pod) (out []policy.Port, named bool) {
	for _, p := range list {
		port := policy.Port{Protocol: flow.TCP}
		if p.Protocol != nil {
			port.Protocol = protocolOf(*p.Protocol)
		}
		switch {
		case p.Port == nil:
		case p.Port.Type == intstr.Int:
			port.Port = uint16(p.Port.IntVal)
			if p.EndPort != nil {
				port.EndPort = uint16(*p.EndPort)
			}
		default:
			named = true
			port.Port = numberOf(server, p.Port.StrVal, port.Protocol)
			if port.Port == 0 {
				continue
			}
		}
		out = append(out, port)
	}
	return out, named
}

// numberOf returns the port of that name and protocol, or 0.
func numberOf(pod *probe.Pod, name string, protocol flow.Protocol) uint16 {
	if pod == nil {
		return 0
	}
	for _, c := range pod.Containers {
		if c.PortName == name && protocolOf(c.Protocol) == protocol {
			return uint16(c.Port)
		}
	}
	return 0
}

func protocolOf(p corev1.Protocol) flow.Protocol {
	switch p {
	case corev1.ProtocolTCP:
		return flow.TCP
	case corev1.ProtocolUDP:
		return flow.UDP
	case corev1.ProtocolSCTP:
		return flow.SCTP
	}
	panic("protocol " + strings.ToUpper(string(p)))
}

// peerFacts is what is known of a pod at the other end.
func peerFacts(pod *probe.Pod) policy.PeerFacts {
	return policy.PeerFacts{Addr: netip.MustParseAddr(pod.IP), Workload: workloadOf(pod), Labels: labelsOf(pod)}
}
