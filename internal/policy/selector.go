package policy

import (
	"maps"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
)

// Selector picks workloads by their labels, in the namespaces that it names or
// picks. What would pick more than anybody wrote down is refused: whoever means
// every workload says so with All.
type Selector struct {
	// Namespace is the name of the one namespace; Namespaces picks by labels
	// instead. One of the two is needed.
	Namespace        string            `json:"namespace,omitempty"`
	MatchLabels      map[string]string `json:"matchLabels,omitempty"`
	MatchExpressions []Expression      `json:"matchExpressions,omitempty"`
	// All picks every workload; it stands in place of labels.
	All        bool           `json:"all,omitempty"`
	Namespaces *LabelSelector `json:"namespaceSelector,omitempty"`
}

// LabelSelector picks by labels: all of MatchLabels and all of MatchExpressions
// have to hold. All picks everything, in place of the two.
type LabelSelector struct {
	MatchLabels      map[string]string `json:"matchLabels,omitempty"`
	MatchExpressions []Expression      `json:"matchExpressions,omitempty"`
	All              bool              `json:"all,omitempty"`
}

// Expression is one condition on a label.
type Expression struct {
	Key      string   `json:"key"`
	Operator Operator `json:"operator"`
	// Values are for OpIn and OpNotIn.
	Values []string `json:"values,omitempty"`
}

// Operator is spelled, and means, what it does in a Kubernetes label selector.
type Operator string

// The operators. OpNotIn holds for what lacks the label, too.
const (
	OpIn           Operator = "In"
	OpNotIn        Operator = "NotIn"
	OpExists       Operator = "Exists"
	OpDoesNotExist Operator = "DoesNotExist"
)

// NamespaceName is the label that every namespace has, with its name.
const NamespaceName = "kubernetes.io/metadata.name"

// labelSet is what a selector is asked about.
type labelSet struct {
	labels map[string]string
	// namespace is set for the labels of a namespace, which has NamespaceName
	// whatever else it has.
	namespace string
}

func (l labelSet) get(key string) (string, bool) {
	if l.namespace != "" && key == NamespaceName {
		return l.namespace, true
	}
	v, ok := l.labels[key]
	return v, ok
}

// matches reports whether e holds.
func (e *Expression) matches(l labelSet) bool {
	have, ok := l.get(e.Key)
	switch e.Operator {
	case OpIn:
		return ok && slices.Contains(e.Values, have)
	case OpNotIn:
		return !ok || !slices.Contains(e.Values, have)
	case OpExists:
		return ok
	case OpDoesNotExist:
		return !ok
	}
	return false
}

func (s *LabelSelector) empty() bool {
	return !s.All && len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0
}

func (s *LabelSelector) matches(l labelSet) bool {
	for k, v := range s.MatchLabels {
		if have, ok := l.get(k); !ok || have != v {
			return false
		}
	}
	for i := range s.MatchExpressions {
		if !s.MatchExpressions[i].matches(l) {
			return false
		}
	}
	return !s.empty()
}

// Labels returns the part of s that picks workloads in their namespaces.
func (s *Selector) Labels() LabelSelector {
	return LabelSelector{MatchLabels: s.MatchLabels, MatchExpressions: s.MatchExpressions, All: s.All}
}

func (s *Selector) matches(peer *PeerFacts) match {
	labels := s.Labels()
	switch {
	case peer.Reserved != flow.IdentityUnknown || peer.Workload.IsZero():
		return missWorkload
	case labels.empty() || s.Namespace == "" && s.Namespaces == nil:
		return missEmpty
	case s.Namespace != "" && s.Namespace != peer.Workload.Namespace,
		s.Namespaces != nil && !s.Namespaces.matches(labelSet{peer.NamespaceLabels, peer.Workload.Namespace}):
		return missNamespace
	case !labels.matches(labelSet{labels: peer.Labels}):
		return missLabels
	}
	return hit
}

// Selects reports whether s picks a workload, of which Workload, Labels and
// NamespaceLabels are looked at.
func (s *Selector) Selects(who PeerFacts) bool { return s.matches(&who) == hit }

func (s *Selector) clone() *Selector {
	out := *s
	labels := s.Labels()
	labels = labels.clone()
	out.MatchLabels, out.MatchExpressions = labels.MatchLabels, labels.MatchExpressions
	if s.Namespaces != nil {
		namespaces := s.Namespaces.clone()
		out.Namespaces = &namespaces
	}
	return &out
}

func (s *LabelSelector) clone() LabelSelector {
	out := LabelSelector{MatchLabels: maps.Clone(s.MatchLabels), All: s.All}
	if out.MatchLabels == nil {
		out.MatchLabels = map[string]string{}
	}
	for _, e := range s.MatchExpressions {
		e.Values = slices.Compact(slices.Sorted(slices.Values(e.Values)))
		out.MatchExpressions = append(out.MatchExpressions, e)
	}
	slices.SortFunc(out.MatchExpressions, compareExpressions)
	out.MatchExpressions = slices.CompactFunc(out.MatchExpressions, func(a, b Expression) bool { return compareExpressions(a, b) == 0 })
	return out
}
