package export

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

var cilium = dialect{
	name: Cilium, title: "a CiliumNetworkPolicy", pods: true, subject: (*exporter).cilium,
	limits: []string{
		"Policies add up: another one that selects the same pods can allow more, or deny more.",
		"Blocks of addresses do not match pods and nodes of the cluster, and neither do DNS names; here they match whoever has the address.",
		"The entity world is every address outside of the cluster; here it is every address that is in no inventory.",
		"Labels that Cilium is told to ignore (its option labels) select nobody.",
		"A node reaches its own pods unless Cilium is told otherwise (its option allow-localhost).",
	},
}

const (
	// ciliumMost is how many ports or ICMP types one list may hold, see
	// https://docs.cilium.io/en/stable/security/policy/language/.
	ciliumMost = 40
	// ciliumNamespace is the label of a pod with its namespace's name, and
	// ciliumNamespaceLabels the prefix of those with its namespace's labels.
	ciliumNamespace       = "k8s:io.kubernetes.pod.namespace"
	ciliumNamespaceLabels = "k8s:io.cilium.k8s.namespace.labels."
)

// ciliumProtocols are those without ports that Cilium can be made to know.
var ciliumProtocols = map[flow.Protocol]string{2: "IGMP", 4: "IPIP", 41: "IPV6", 47: "GRE", 50: "ESP", 51: "AH", 112: "VRRP"}

// cilium writes one CiliumNetworkPolicy.
func (x *exporter) cilium(s *subject) {
	pods, ok := x.own(s)
	if !ok {
		return
	}
	cnp := &CiliumNetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "cilium.io/v2", Kind: "CiliumNetworkPolicy"},
		ObjectMeta: s.meta(),
		Spec:       CiliumSpec{EndpointSelector: ciliumLabels(pods)},
	}
	for _, d := range directions(&s.policy) {
		var allow, deny []CiliumRule
		for _, r := range s.rulesAt(d) {
			allow = append(allow, x.ciliumRule(d, LeftOut, &r)...)
		}
		for _, r := range s.guardrailsAt(d) {
			deny = append(deny, x.ciliumRule(d, NotDenied, &r)...)
		}
		if len(allow) == 0 {
			allow = []CiliumRule{{}}
		}
		if d == flow.Ingress {
			cnp.Spec.EnableDefaultDeny.Ingress, cnp.Spec.Ingress, cnp.Spec.IngressDeny = true, allow, deny
			continue
		}
		x.readDNS(allow)
		cnp.Spec.EnableDefaultDeny.Egress, cnp.Spec.Egress, cnp.Spec.EgressDeny = true, allow, deny
	}
	x.add(cnp)
}

// ciliumRule returns a rule, or what a guardrail denies, as the rules that it
// takes: one for each kind of peer, once with ports and once with ICMP types. e is
// what becomes of a part that cannot be said.
func (x *exporter) ciliumRule(d flow.Direction, e Effect, r *ruleAt) []CiliumRule {
	peers := x.ciliumPeers(d, e, r)
	ports, icmp, whole := x.ciliumPorts(e, r)
	var out []CiliumRule
	for _, p := range peers {
		switch {
		case whole:
			out = append(out, p)
		default:
			if len(ports) > 0 {
				p.ToPorts, p.ICMPs = ports, nil
				out = append(out, p)
			}
			if len(icmp) > 0 {
				p.ToPorts, p.ICMPs = nil, icmp
				out = append(out, p)
			}
		}
	}
	return out
}

// ciliumPeers returns a rule for each kind of peer.
func (x *exporter) ciliumPeers(d flow.Direction, e Effect, r *ruleAt) []CiliumRule {
	var pods []metav1.LabelSelector
	var blocks []CiliumCIDR
	var entities []string
	var names []CiliumFQDN
	_, whole, _ := said(x, e, r.at+".peers", r.Peers, func(p policy.Peer) (struct{}, string) {
		switch {
		case p.Selector != nil:
			if why := badSelector(p.Selector); why != "" {
				return struct{}{}, why
			}
			pods = append(pods, ciliumSelector(p.Selector))
		case p.CIDR != nil:
			blocks = append(blocks, CiliumCIDR{p.CIDR.Prefix.String(), prefixTexts(p.CIDR)})
		case p.Reserved != "":
			entities = append(entities, p.Reserved)
		case strings.HasPrefix(p.FQDN, "*."):
			names = append(names, CiliumFQDN{MatchPattern: p.FQDN})
		default:
			names = append(names, CiliumFQDN{MatchName: p.FQDN})
		}
		return struct{}{}, ""
	})
	switch {
	case whole && e == NotDenied && d == flow.Ingress:
		// Everybody but the pods' own node, whose probes no guardrail denies.
		pods = []metav1.LabelSelector{ciliumLabels(policy.LabelSelector{All: true}, anyNamespace)}
		entities = []string{"world", "remote-node", "ingress", "unmanaged", "init", "health"}
	case whole:
		entities = []string{"all"}
	}
	ingress := d == flow.Ingress
	var out []CiliumRule
	add := func(some bool, from, to CiliumRule) {
		switch {
		case !some:
		case ingress:
			out = append(out, from)
		default:
			out = append(out, to)
		}
	}
	add(len(pods) > 0, CiliumRule{FromEndpoints: pods}, CiliumRule{ToEndpoints: pods})
	add(len(blocks) > 0, CiliumRule{FromCIDRSet: blocks}, CiliumRule{ToCIDRSet: blocks})
	add(len(entities) > 0, CiliumRule{FromEntities: entities}, CiliumRule{ToEntities: entities})
	add(len(names) > 0 && !ingress, CiliumRule{}, CiliumRule{ToFQDNs: names})
	return out
}

// anyNamespace picks whatever is a pod: Cilium gives selectors that say nothing
// of namespaces the policy's own.
var anyNamespace = metav1.LabelSelectorRequirement{Key: ciliumNamespace, Operator: metav1.LabelSelectorOpExists}

func ciliumSelector(s *policy.Selector) metav1.LabelSelector {
	if s.Namespaces == nil {
		out := ciliumLabels(s.Labels())
		if out.MatchLabels == nil {
			out.MatchLabels = map[string]string{}
		}
		out.MatchLabels[ciliumNamespace] = s.Namespace
		return out
	}
	out := ciliumLabels(s.Labels(), anyNamespace)
	namespaces := kubernetesSelector(*s.Namespaces)
	for k, v := range namespaces.MatchLabels {
		if out.MatchLabels == nil {
			out.MatchLabels = map[string]string{}
		}
		out.MatchLabels[ciliumNamespaceLabels+k] = v
	}
	for _, e := range namespaces.MatchExpressions {
		e.Key = ciliumNamespaceLabels + e.Key
		out.MatchExpressions = append(out.MatchExpressions, e)
	}
	return out
}

// ciliumLabels returns s with the source of its labels, so that no label of
// another source is meant, and with further requirements.
func ciliumLabels(s policy.LabelSelector, more ...metav1.LabelSelectorRequirement) metav1.LabelSelector {
	in := kubernetesSelector(s)
	var out metav1.LabelSelector
	for k, v := range in.MatchLabels {
		if out.MatchLabels == nil {
			out.MatchLabels = map[string]string{}
		}
		out.MatchLabels["k8s:"+k] = v
	}
	for _, e := range in.MatchExpressions {
		e.Key = "k8s:" + e.Key
		out.MatchExpressions = append(out.MatchExpressions, e)
	}
	out.MatchExpressions = append(out.MatchExpressions, more...)
	return out
}

// ciliumPorts returns r's ports and ICMP types, in lists of at most ciliumMost.
// whole is set when r is for every port of every protocol.
func (x *exporter) ciliumPorts(e Effect, r *ruleAt) (ports []CiliumPorts, icmp []CiliumICMP, whole bool) {
	var list []CiliumPort
	var types []CiliumICMPType
	_, whole, _ = said(x, e, r.at+".ports", r.Ports, func(p policy.Port) (struct{}, string) {
		port := CiliumPort{Port: strconv.Itoa(int(p.Port)), Protocol: p.Protocol.String()}
		switch {
		case p.Protocol == flow.ICMP || p.Protocol == flow.ICMPv6:
			if p.ICMPCode != nil {
				return struct{}{}, "Cilium knows ICMP types, and no codes"
			}
			types = append(types, ciliumTypes(&p)...)
			return struct{}{}, ""
		case !p.Protocol.HasPorts():
			name, ok := ciliumProtocols[p.Protocol]
			if !ok {
				return struct{}{}, "Cilium does not know this protocol"
			}
			x.lose(Assumes, r.at, p.String(), "Cilium runs with enable-extended-ip-protocols")
			port.Protocol = name
		case p.Name != "":
			port.Port = p.Name
		case p.EndPort > p.Port:
			port.EndPort = int32(p.EndPort)
		}
		list = append(list, port)
		return struct{}{}, ""
	})
	for chunk := range slices.Chunk(list, ciliumMost) {
		ports = append(ports, CiliumPorts{Ports: chunk})
	}
	for chunk := range slices.Chunk(types, ciliumMost) {
		icmp = append(icmp, CiliumICMP{Fields: chunk})
	}
	return ports, icmp, whole
}

// ciliumTypes returns p's ICMP type; all types one by one when it names none.
func ciliumTypes(p *policy.Port) []CiliumICMPType {
	family := "IPv4"
	if p.Protocol == flow.ICMPv6 {
		family = "IPv6"
	}
	if p.ICMPType != nil {
		return []CiliumICMPType{{family, int32(*p.ICMPType)}}
	}
	var out []CiliumICMPType
	for t := range int32(256) {
		out = append(out, CiliumICMPType{family, t})
	}
	return out
}

// readDNS lets Cilium see the answers of the lookups that rules allow: without, a
// DNS name has no addresses.
func (x *exporter) readDNS(rules []CiliumRule) {
	if !slices.ContainsFunc(rules, func(r CiliumRule) bool { return len(r.ToFQDNs) > 0 }) {
		return
	}
	seen := false
	for i := range rules {
		var out []CiliumPorts
		for _, list := range rules[i].ToPorts {
			dns := slices.DeleteFunc(slices.Clone(list.Ports), func(p CiliumPort) bool { return !isDNS(p) })
			rest := slices.DeleteFunc(slices.Clone(list.Ports), isDNS)
			if len(rest) > 0 {
				out = append(out, CiliumPorts{Ports: rest})
			}
			if len(dns) > 0 {
				seen = true
				out = append(out, CiliumPorts{Ports: dns, Rules: &CiliumL7{DNS: []CiliumFQDN{{MatchPattern: "*"}}}})
			}
		}
		rules[i].ToPorts = out
	}
	if seen {
		x.lose(Assumes, "egress", "port 53", "what goes there is DNS: Cilium's proxy reads it, and lets nothing else through")
		return
	}
	x.lose(LeftOut, "egress", "DNS names", "no rule allows port 53, so Cilium sees no lookup and a name has no address")
}

func isDNS(p CiliumPort) bool {
	return p.Port == "53" && p.EndPort == 0 && (p.Protocol == "UDP" || p.Protocol == "TCP")
}

// guardrailsAt returns what s's guardrails deny in direction d.
func (s *subject) guardrailsAt(d flow.Direction) []ruleAt {
	var out []ruleAt
	for _, g := range s.guardrails {
		if g.Guards(d) {
			g = g.Clone()
			out = append(out, ruleAt{fmt.Sprintf("guardrails[%s]", g.Name), policy.Rule{Peers: g.Peers, Ports: g.Ports}})
		}
	}
	return out
}
