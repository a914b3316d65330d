package conformance

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
)

// cluster is what a case's steps change. Its addresses and blocks are of one
// family.
type cluster struct {
	v6        bool
	resources *probe.Resources
	policies  []*netv1.NetworkPolicy
}

// places are the pods that any case has, each on its own interface and with its
// own addresses. The /28 around z/c holds z/a and z/b too, and its /24 also
// namespace y; x, and who comes later, are outside.
var places = []struct{ pod, addr string }{
	{"x/a", "10.1.1.10"},
	{"x/b", "10.1.1.11"},
	{"x/c", "10.1.1.12"},
	{"y/a", "10.1.2.10"},
	{"y/b", "10.1.2.11"},
	{"y/c", "10.1.2.12"},
	{"z/a", "10.1.2.130"},
	{"z/b", "10.1.2.131"},
	{"z/c", blockPod},
	{"x/d", "10.1.1.13"},
	{"w/a", "10.1.4.10"},
	{"y-2/a", "10.1.3.10"},
	{"y-2/b", "10.1.3.11"},
}

// blockPod is the address around which the suite puts its blocks.
const blockPod = "10.1.2.132"

// placeOf returns where a pod is, from 0, or -1.
func placeOf(pod string) int {
	for i, p := range places {
		if p.pod == pod {
			return i
		}
	}
	return -1
}

// sixth turns an IPv4 address into the one that stands for it in IPv6 cases.
func sixth(a netip.Addr) netip.Addr {
	b := a.As4()
	return netip.AddrFrom16([16]byte{0: 0xfd, 12: b[0], 13: b[1], 14: b[2], 15: b[3]})
}

func sixthBlock(block string) string {
	p := netip.MustParsePrefix(block)
	return netip.PrefixFrom(sixth(p.Addr()), p.Bits()+96).String()
}

// in returns an address, written as IPv4, in the cluster's family.
func (c *cluster) in(addr string) netip.Addr {
	a := netip.MustParseAddr(addr)
	if c.v6 {
		return sixth(a)
	}
	return a
}

// metadataName is the label that every namespace of a real cluster has.
const metadataName = "kubernetes.io/metadata.name"

// namespaced adds the label that a namespace has whatever its labels are set to.
func namespaced(ns string, labels map[string]string) map[string]string {
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	out[metadataName] = ns
	return out
}

// newCluster returns the suite's nine pods, with two ports for each protocol.
func newCluster(v6 bool) *cluster {
	c := &cluster{v6: v6, resources: &probe.Resources{Namespaces: map[string]map[string]string{}}}
	for _, ns := range []string{"x", "y", "z"} {
		c.resources.Namespaces[ns] = namespaced(ns, map[string]string{"ns": ns})
		for _, name := range []string{"a", "b", "c"} {
			pod := probe.NewDefaultPod(ns, name, []int{80, 81},
				[]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}, false, "")
			c.resources.Pods = append(c.resources.Pods, c.placed(pod))
		}
	}
	return c
}

// placed gives a pod its address; the suite's own are placeholders.
func (c *cluster) placed(pod *probe.Pod) *probe.Pod {
	if at := placeOf(pod.PodString().String()); at >= 0 {
		pod.IP = c.in(places[at].addr).String()
	}
	return pod
}

// do makes one of the suite's changes. The suite's own interpreter wants a real
// cluster.
func (c *cluster) do(a *generator.Action) (err error) {
	r := c.resources
	switch {
	case a.CreatePolicy != nil:
		return c.create(a.CreatePolicy.Policy)
	case a.UpdatePolicy != nil:
		p := a.UpdatePolicy.Policy
		return errors.Join(c.remove(p.Namespace, p.Name), c.create(p))
	case a.DeletePolicy != nil:
		return c.remove(a.DeletePolicy.Namespace, a.DeletePolicy.Name)
	case a.CreateNamespace != nil:
		ns := a.CreateNamespace.Namespace
		c.resources, err = r.CreateNamespace(ns, namespaced(ns, a.CreateNamespace.Labels))
	case a.SetNamespaceLabels != nil:
		ns := a.SetNamespaceLabels.Namespace
		c.resources, err = r.UpdateNamespaceLabels(ns, namespaced(ns, a.SetNamespaceLabels.Labels))
	case a.DeleteNamespace != nil:
		c.policies = slices.DeleteFunc(c.policies, func(p *netv1.NetworkPolicy) bool { return p.Namespace == a.DeleteNamespace.Namespace })
		c.resources, err = r.DeleteNamespace(a.DeleteNamespace.Namespace)
	case a.CreatePod != nil:
		if c.resources, err = r.CreatePod(a.CreatePod.Namespace, a.CreatePod.Pod, a.CreatePod.Labels); err == nil {
			c.placed(c.resources.Pods[len(c.resources.Pods)-1])
		}
	case a.SetPodLabels != nil:
		c.resources, err = r.SetPodLabels(a.SetPodLabels.Namespace, a.SetPodLabels.Pod, a.SetPodLabels.Labels)
	case a.DeletePod != nil:
		c.resources, err = r.DeletePod(a.DeletePod.Namespace, a.DeletePod.Pod)
	default:
		return fmt.Errorf("a change that is not known: %+v", a)
	}
	return err
}

func (c *cluster) create(p *netv1.NetworkPolicy) error {
	for _, have := range c.policies {
		if have.Namespace == p.Namespace && have.Name == p.Name {
			return fmt.Errorf("policy %s/%s is there already", p.Namespace, p.Name)
		}
	}
	c.policies = append(c.policies, c.translated(p))
	return nil
}

func (c *cluster) remove(ns, name string) error {
	for i, p := range c.policies {
		if p.Namespace == ns && p.Name == name {
			c.policies = slices.Delete(slices.Clone(c.policies), i, i+1)
			return nil
		}
	}
	return fmt.Errorf("there is no policy %s/%s", ns, name)
}

// defaulted returns copies of the policies with what the API server fills in,
// without which the suite's simulation panics.
func (c *cluster) defaulted() []*netv1.NetworkPolicy {
	var out []*netv1.NetworkPolicy
	for _, p := range c.policies {
		p = p.DeepCopy()
		if len(p.Spec.PolicyTypes) == 0 {
			p.Spec.PolicyTypes = []netv1.PolicyType{netv1.PolicyTypeIngress}
			if len(p.Spec.Egress) > 0 {
				p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, netv1.PolicyTypeEgress)
			}
		}
		out = append(out, p)
	}
	return out
}

// translated returns a copy of p with its blocks in the cluster's family.
func (c *cluster) translated(p *netv1.NetworkPolicy) *netv1.NetworkPolicy {
	p = p.DeepCopy()
	if !c.v6 {
		return p
	}
	for _, r := range p.Spec.Ingress {
		translate(r.From)
	}
	for _, r := range p.Spec.Egress {
		translate(r.To)
	}
	return p
}

func translate(peers []netv1.NetworkPolicyPeer) {
	for _, peer := range peers {
		if b := peer.IPBlock; b != nil && !strings.Contains(b.CIDR, ":") {
			b.CIDR = sixthBlock(b.CIDR)
			for i := range b.Except {
				b.Except[i] = sixthBlock(b.Except[i])
			}
		}
	}
}
