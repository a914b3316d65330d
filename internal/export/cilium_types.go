package export

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// The part of cilium.io/v2 that exports use, as its CRD names it. Cilium's own
// types would bring all of Cilium along.

// CiliumNetworkPolicy is the object of that kind.
type CiliumNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              CiliumSpec `json:"spec"`
}

// CiliumSpec says whom the policy governs and what it allows and denies. A
// direction with an empty rule, which selects nobody, denies by default.
type CiliumSpec struct {
	EndpointSelector  metav1.LabelSelector `json:"endpointSelector"`
	EnableDefaultDeny CiliumDefaultDeny    `json:"enableDefaultDeny"`
	Ingress           []CiliumRule         `json:"ingress,omitempty"`
	IngressDeny       []CiliumRule         `json:"ingressDeny,omitempty"`
	Egress            []CiliumRule         `json:"egress,omitempty"`
	EgressDeny        []CiliumRule         `json:"egressDeny,omitempty"`
}

// CiliumDefaultDeny says which directions are denied but for the rules.
type CiliumDefaultDeny struct {
	Ingress bool `json:"ingress"`
	Egress  bool `json:"egress"`
}

// CiliumRule has peers of one kind only, and either ports or ICMP types.
type CiliumRule struct {
	FromEndpoints []metav1.LabelSelector `json:"fromEndpoints,omitempty"`
	FromCIDRSet   []CiliumCIDR           `json:"fromCIDRSet,omitempty"`
	FromEntities  []string               `json:"fromEntities,omitempty"`
	ToEndpoints   []metav1.LabelSelector `json:"toEndpoints,omitempty"`
	ToCIDRSet     []CiliumCIDR           `json:"toCIDRSet,omitempty"`
	ToEntities    []string               `json:"toEntities,omitempty"`
	ToFQDNs       []CiliumFQDN           `json:"toFQDNs,omitempty"`
	ToPorts       []CiliumPorts          `json:"toPorts,omitempty"`
	ICMPs         []CiliumICMP           `json:"icmps,omitempty"`
}

// CiliumCIDR is a block without its exceptions.
type CiliumCIDR struct {
	CIDR   string   `json:"cidr"`
	Except []string `json:"except,omitempty"`
}

// CiliumFQDN is a name, or a pattern in which * stands for part of one label.
type CiliumFQDN struct {
	MatchName    string `json:"matchName,omitempty"`
	MatchPattern string `json:"matchPattern,omitempty"`
}

// CiliumPorts are at most 40 ports.
type CiliumPorts struct {
	Ports []CiliumPort `json:"ports"`
	Rules *CiliumL7    `json:"rules,omitempty"`
}

// CiliumPort is a number, "0" for every port of the protocol, or a name.
type CiliumPort struct {
	Port     string `json:"port"`
	EndPort  int32  `json:"endPort,omitempty"`
	Protocol string `json:"protocol"`
}

// CiliumL7 makes Cilium read the DNS answers that pass.
type CiliumL7 struct {
	DNS []CiliumFQDN `json:"dns"`
}

// CiliumICMP are at most 40 types.
type CiliumICMP struct {
	Fields []CiliumICMPType `json:"fields"`
}

// CiliumICMPType is an ICMP type of IPv4 or IPv6.
type CiliumICMPType struct {
	Family string `json:"family"`
	Type   int32  `json:"type"`
}
