package export

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The part of projectcalico.org/v3 that exports use, as its CRDs name it.

// CalicoPolicy is a NetworkPolicy or a StagedNetworkPolicy.
type CalicoPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              CalicoSpec `json:"spec"`
}

// CalicoSpec has rules of which the first that matches decides.
type CalicoSpec struct {
	// StagedAction is "Set" in a StagedNetworkPolicy, and empty elsewhere.
	StagedAction string       `json:"stagedAction,omitempty"`
	Order        float64      `json:"order"`
	Selector     string       `json:"selector"`
	Types        []string     `json:"types"`
	Ingress      []CalicoRule `json:"ingress,omitempty"`
	Egress       []CalicoRule `json:"egress,omitempty"`
}

// CalicoRule is one protocol, or any, of one end.
type CalicoRule struct {
	Action      string              `json:"action"`
	Protocol    *intstr.IntOrString `json:"protocol,omitempty"`
	ICMP        *CalicoICMP         `json:"icmp,omitempty"`
	Source      *CalicoEntity       `json:"source,omitempty"`
	Destination *CalicoEntity       `json:"destination,omitempty"`
}

// CalicoICMP is a type, from 0 to 254, with or without a code.
type CalicoICMP struct {
	Type int32  `json:"type"`
	Code *int32 `json:"code,omitempty"`
}

// CalicoEntity is who, and on which ports.
type CalicoEntity struct {
	NamespaceSelector string               `json:"namespaceSelector,omitempty"`
	Selector          string               `json:"selector,omitempty"`
	Nets              []string             `json:"nets,omitempty"`
	NotNets           []string             `json:"notNets,omitempty"`
	Ports             []intstr.IntOrString `json:"ports,omitempty"`
}
