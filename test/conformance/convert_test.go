package conformance

import (
	"fmt"
	"net/netip"

	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/netpol"
	"github.com/ringfence/ringfence/internal/policy"
)

// Every pod is a workload of its own.
func workloadOf(pod *probe.Pod) flow.Workload {
	return flow.Workload{Namespace: pod.Namespace, Kind: "Pod", Name: pod.Name}
}

// policies are what governs pods, by the pod's name; nil where nothing does.
type policies map[string]*policy.Policy

// compile imports the cluster's policies and adds up those of each pod.
func (c *cluster) compile() (policies, error) {
	var list []netpol.Policy
	for _, np := range c.policies {
		p, err := netpol.Import(np)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	out := policies{}
	for _, pod := range c.resources.Pods {
		p, _ := netpol.Sum(list, c.peerFacts(pod))
		if p != nil {
			if err := p.Validate(); err != nil {
				return nil, fmt.Errorf("pod %s: %w", pod.PodString(), err)
			}
		}
		out[pod.PodString().String()] = p
	}
	return out, nil
}

// peerFacts is what is known of a pod at the other end.
func (c *cluster) peerFacts(pod *probe.Pod) policy.PeerFacts {
	return policy.PeerFacts{
		Addr: netip.MustParseAddr(pod.IP), Workload: workloadOf(pod),
		Labels: pod.Labels, NamespaceLabels: c.resources.Namespaces[pod.Namespace], Named: named(pod),
	}
}

// named returns the ports that a pod has names for; none of a stranger.
func named(pod *probe.Pod) (out []policy.NamedPort) {
	if pod == nil {
		return nil
	}
	for _, s := range pod.Containers {
		if s.PortName != "" {
			out = append(out, policy.NamedPort{Name: s.PortName, Protocol: protocolOf(s.Protocol), Port: uint16(s.Port)})
		}
	}
	return out
}
