package export

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

var calicoLimits = []string{
	"The policy is in the tier default with order 1000: what an earlier policy decides, it is not asked about.",
	"It has no DNS names and no reserved peers.",
	"Selectors also pick network sets with the labels, which are no pods.",
	"A node reaches its own pods, whatever a policy says.",
}

var calico = dialect{name: Calico, title: "a Calico NetworkPolicy", pods: true, limits: calicoLimits,
	subject: func(x *exporter, s *subject) { x.calico(s, "NetworkPolicy", "") }}

var calicoStaged = dialect{name: CalicoStaged, title: "a Calico StagedNetworkPolicy", pods: true,
	limits:  append([]string{"It is staged: Calico judges by it, and drops nothing."}, calicoLimits...),
	subject: func(x *exporter, s *subject) { x.calico(s, "StagedNetworkPolicy", "Set") }}

// What the CRDs allow, see config/crd in github.com/projectcalico/calico.
const (
	calicoMostPorts   = 50
	calicoMostNets    = 256
	calicoMostRules   = 1024
	calicoLongestText = 1024 // bytes of a selector
	calicoLastType    = 254
	calicoOrder       = 1000
)

// calico writes one policy: what guardrails deny, then what rules allow.
func (x *exporter) calico(s *subject, kind, action string) {
	pods, ok := x.own(s)
	if !ok {
		return
	}
	p := &CalicoPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "projectcalico.org/v3", Kind: kind},
		ObjectMeta: s.meta(),
		Spec:       CalicoSpec{StagedAction: action, Order: calicoOrder, Selector: calicoSelector(pods)},
	}
	for _, d := range directions(&s.policy) {
		var rules []CalicoRule
		for _, r := range s.guardrailsAt(d) {
			rules = append(rules, x.calicoRules(s, d, NotDenied, &r)...)
		}
		for _, r := range s.rulesAt(d) {
			rules = append(rules, x.calicoRules(s, d, LeftOut, &r)...)
		}
		if len(rules) > calicoMostRules {
			x.lose(Refused, d.String(), "", "it takes %d rules, and a Calico policy holds %d", len(rules), calicoMostRules)
			return
		}
		if d == flow.Ingress {
			p.Spec.Types, p.Spec.Ingress = append(p.Spec.Types, "Ingress"), rules
		} else {
			p.Spec.Types, p.Spec.Egress = append(p.Spec.Types, "Egress"), rules
		}
	}
	x.add(p)
}

// calicoRules returns every combination of r's peers and protocols.
func (x *exporter) calicoRules(s *subject, d flow.Direction, e Effect, r *ruleAt) []CalicoRule {
	action := "Allow"
	if e == NotDenied {
		action = "Deny"
	}
	peers, anyone, ok := said(x, e, r.at+".peers", r.Peers, func(p policy.Peer) (CalicoEntity, string) {
		return calicoPeer(d, s.policy.Workload.Namespace, p)
	})
	if !ok {
		return nil
	}
	peers = mergeNets(peers)
	if anyone {
		peers = []CalicoEntity{{}}
	}
	ports := x.calicoPorts(e, r)
	var out []CalicoRule
	for _, peer := range peers {
		for _, port := range ports {
			rule := port
			rule.Action = action
			source, destination := peer, CalicoEntity{Ports: port.Destination.Ports}
			if d == flow.Egress {
				source, destination = CalicoEntity{}, peer
				destination.Ports = port.Destination.Ports
			}
			rule.Source, rule.Destination = entity(source), entity(destination)
			out = append(out, rule)
		}
	}
	return out
}

// entity returns nil for one that says nothing.
func entity(e CalicoEntity) *CalicoEntity {
	if e.NamespaceSelector == "" && e.Selector == "" && len(e.Nets)+len(e.NotNets)+len(e.Ports) == 0 {
		return nil
	}
	return &e
}

// mergeNets puts blocks without exceptions together, as many as fit.
func mergeNets(peers []CalicoEntity) []CalicoEntity {
	var nets []string
	out := slices.DeleteFunc(peers, func(p CalicoEntity) bool {
		plain := len(p.Nets) > 0 && len(p.NotNets) == 0
		if plain {
			nets = append(nets, p.Nets...)
		}
		return plain
	})
	for chunk := range slices.Chunk(nets, calicoMostNets) {
		out = append(out, CalicoEntity{Nets: chunk})
	}
	return out
}

func calicoPeer(d flow.Direction, namespace string, p policy.Peer) (out CalicoEntity, why string) {
	switch {
	case p.Selector != nil:
		if why := badSelector(p.Selector); why != "" {
			return out, why
		}
		out.Selector = calicoSelector(p.Selector.Labels())
		switch {
		case p.Selector.Namespaces != nil:
			out.NamespaceSelector = calicoSelector(*p.Selector.Namespaces)
		case p.Selector.Namespace != namespace:
			out.NamespaceSelector = calicoSelector(named(p.Selector.Namespace))
		}
		if n := max(len(out.Selector), len(out.NamespaceSelector)); n > calicoLongestText {
			return out, fmt.Sprintf("its selector is %d bytes long, and Calico's are %d at most", n, calicoLongestText)
		}
	case p.CIDR != nil:
		if len(p.CIDR.Except) > calicoMostNets {
			return out, fmt.Sprintf("it has %d exceptions, and Calico holds %d", len(p.CIDR.Except), calicoMostNets)
		}
		out.Nets, out.NotNets = []string{p.CIDR.Prefix.String()}, prefixTexts(p.CIDR)
	case p.Reserved == "host" && d == flow.Ingress:
		return out, implied // failsafe; a node's own way to its pods is always open
	case p.Reserved != "":
		return out, "Calico has no reserved peers; give the addresses as a cidr"
	default:
		return out, "Calico has no DNS names outside of its Enterprise edition; give the addresses as a cidr"
	}
	return out, ""
}

// calicoPorts returns rules that name protocols and destination ports only, one
// that names none for every port of every protocol.
func (x *exporter) calicoPorts(e Effect, r *ruleAt) []CalicoRule {
	var out []CalicoRule
	ports := map[flow.Protocol][]intstr.IntOrString{}
	protocol := func(p policy.Port) *intstr.IntOrString {
		v := intstr.FromString(p.Protocol.String())
		if !p.Protocol.HasPorts() && p.Protocol != flow.ICMP && p.Protocol != flow.ICMPv6 {
			v = intstr.FromInt32(int32(p.Protocol))
		}
		return &v
	}
	_, whole, _ := said(x, e, r.at+".ports", r.Ports, func(p policy.Port) (struct{}, string) {
		rule := CalicoRule{Protocol: protocol(p), Destination: &CalicoEntity{}}
		switch {
		case p.ICMPType != nil && *p.ICMPType > calicoLastType:
			return struct{}{}, "Calico knows ICMP types up to 254"
		case p.ICMPType != nil:
			rule.ICMP = &CalicoICMP{Type: int32(*p.ICMPType)}
			if p.ICMPCode != nil {
				code := int32(*p.ICMPCode)
				rule.ICMP.Code = &code
			}
			out = append(out, rule)
		case p.Name != "":
			ports[p.Protocol] = append(ports[p.Protocol], intstr.FromString(p.Name))
		case p.Port != 0 && p.EndPort > p.Port:
			ports[p.Protocol] = append(ports[p.Protocol], intstr.FromString(fmt.Sprintf("%d:%d", p.Port, p.EndPort)))
		case p.Port != 0:
			ports[p.Protocol] = append(ports[p.Protocol], intstr.FromInt32(int32(p.Port)))
		default:
			out = append(out, rule)
		}
		return struct{}{}, ""
	})
	if whole {
		return []CalicoRule{{Destination: &CalicoEntity{}}}
	}
	for _, number := range slices.Sorted(maps.Keys(ports)) {
		for chunk := range slices.Chunk(ports[number], calicoMostPorts) {
			out = append(out, CalicoRule{Protocol: protocol(policy.Port{Protocol: number}), Destination: &CalicoEntity{Ports: chunk}})
		}
	}
	return out
}

// calicoSelector returns s in Calico's words. Neither labels nor their values can
// hold a quote.
func calicoSelector(s policy.LabelSelector) string {
	var says []string
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		says = append(says, fmt.Sprintf("%s == '%s'", k, s.MatchLabels[k]))
	}
	for _, e := range s.MatchExpressions {
		values := "{'" + strings.Join(e.Values, "', '") + "'}"
		switch e.Operator {
		case policy.OpIn:
			says = append(says, e.Key+" in "+values)
		case policy.OpNotIn:
			says = append(says, e.Key+" not in "+values)
		case policy.OpExists:
			says = append(says, "has("+e.Key+")")
		case policy.OpDoesNotExist:
			says = append(says, "!has("+e.Key+")")
		}
	}
	if len(says) == 0 {
		return "all()"
	}
	return strings.Join(says, " && ")
}
