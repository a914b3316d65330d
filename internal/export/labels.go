package export

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/ringfence/ringfence/internal/policy"
)

// managedBy marks every exported object.
var managedBy = map[string]string{"app.kubernetes.io/managed-by": "ringfence"}

// meta returns the metadata of one of s's objects.
func (s *subject) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: s.policy.Workload.Namespace, Name: s.name, Labels: maps.Clone(managedBy),
		Annotations: map[string]string{"ringfence.dev/workload": s.policy.Workload.String(), "ringfence.dev/digest": policy.Digest(s.policy)},
	}
}

// own returns the selector of s's own pods, or refuses the workload.
func (x *exporter) own(s *subject) (policy.LabelSelector, bool) {
	out := policy.LabelSelector{MatchLabels: s.Selector}
	why := ""
	switch {
	case len(s.Selector) == 0:
		why = "it has no labels that a selector can rely on, and an empty selector would govern the whole namespace"
	case len(validation.IsDNS1123Label(s.policy.Workload.Namespace)) > 0:
		why = fmt.Sprintf("%q is no name of a Kubernetes namespace", s.policy.Workload.Namespace)
	default:
		why = badLabels(out)
	}
	if why != "" {
		x.lose(Refused, "", "", "%s", why)
	}
	return out, why == ""
}

// badLabels says what Kubernetes would refuse of a selector, or "".
func badLabels(s policy.LabelSelector) string {
	check := func(key string, values ...string) string {
		if bad := validation.IsQualifiedName(key); len(bad) > 0 {
			return fmt.Sprintf("%q is no label key in Kubernetes: %s", key, strings.Join(bad, "; "))
		}
		for _, v := range values {
			if bad := validation.IsValidLabelValue(v); len(bad) > 0 {
				return fmt.Sprintf("%q is no label value in Kubernetes: %s", v, strings.Join(bad, "; "))
			}
		}
		return ""
	}
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		if why := check(k, s.MatchLabels[k]); why != "" {
			return why
		}
	}
	for _, e := range s.MatchExpressions {
		if why := check(e.Key, e.Values...); why != "" {
			return why
		}
	}
	return ""
}

// badSelector says what Kubernetes would refuse of a peer's selector, or "".
func badSelector(s *policy.Selector) string {
	if why := badLabels(s.Labels()); why != "" {
		return why
	}
	if s.Namespaces != nil {
		return badLabels(*s.Namespaces)
	}
	if bad := validation.IsDNS1123Label(s.Namespace); len(bad) > 0 {
		return fmt.Sprintf("%q is no name of a Kubernetes namespace", s.Namespace)
	}
	return ""
}

// kubernetesSelector returns s as Kubernetes has it: an empty one picks all.
func kubernetesSelector(s policy.LabelSelector) metav1.LabelSelector {
	var out metav1.LabelSelector
	if len(s.MatchLabels) > 0 {
		out.MatchLabels = maps.Clone(s.MatchLabels)
	}
	for _, e := range s.MatchExpressions {
		out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: e.Key, Operator: metav1.LabelSelectorOperator(e.Operator), Values: e.Values,
		})
	}
	return out
}

// named returns the selector of the namespace of that name.
func named(namespace string) policy.LabelSelector {
	return policy.LabelSelector{MatchLabels: map[string]string{policy.NamespaceName: namespace}}
}
