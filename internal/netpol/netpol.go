package netpol

import (
	"fmt"
	"slices"
	"strings"

	netv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Policy is one NetworkPolicy in the words of the model.
type Policy struct {
	Namespace, Name string
	// Subjects are the workloads that it governs.
	Subjects policy.Selector
	// Rules is what it says of each of them; its Workload is not set.
	Rules policy.Policy
}

// Ref returns namespace/name.
func (p *Policy) Ref() string { return p.Namespace + "/" + p.Name }

// Decode reads one NetworkPolicy from YAML or JSON. Unknown fields and fields
// given twice are errors.
func Decode(document []byte) (*netv1.NetworkPolicy, error) {
	np := &netv1.NetworkPolicy{}
	if err := Strict(document, np); err != nil {
		return nil, fmt.Errorf("read NetworkPolicy: %w", err)
	}
	if np.Kind != "NetworkPolicy" || np.APIVersion != netv1.SchemeGroupVersion.String() {
		return nil, fmt.Errorf("read NetworkPolicy: it is %q of %q; want NetworkPolicy of %s", np.Kind, np.APIVersion, netv1.SchemeGroupVersion)
	}
	return np, nil
}

// Strict reads one YAML or JSON document into a typed Kubernetes object. Unknown
// fields and fields given twice are errors, each with its path.
func Strict(document []byte, into any) error {
	j, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return oneLine(err)
	}
	problems, err := json.UnmarshalStrict(j, into)
	if err != nil {
		return oneLine(err)
	}
	if len(problems) == 0 {
		return nil
	}
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.Error()
	}
	return fmt.Errorf("%s", strings.Join(texts, "; "))
}

func oneLine(err error) error {
	return fmt.Errorf("%s", strings.Join(strings.Fields(err.Error()), " "))
}

// Sum returns what all policies that select a workload say of it together, and
// from which of them each rule is, by the rule's ID; nil when none selects it:
// nothing is isolated then. Of who, Workload, Labels and NamespaceLabels are
// looked at.
func Sum(list []Policy, who policy.PeerFacts) (sum *policy.Policy, from map[string][]string) {
	from = map[string][]string{}
	for i := range list {
		p := &list[i]
		if !p.Subjects.Selects(who) {
			continue
		}
		if sum == nil {
			sum = &policy.Policy{Workload: who.Workload}
		}
		sum.IsolateIngress = sum.IsolateIngress || p.Rules.IsolateIngress
		sum.IsolateEgress = sum.IsolateEgress || p.Rules.IsolateEgress
		sum.Ingress = append(sum.Ingress, p.Rules.Ingress...)
		sum.Egress = append(sum.Egress, p.Rules.Egress...)
		for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
			for _, r := range p.Rules.Rules(d) {
				if id := policy.RuleID(d, r); !slices.Contains(from[id], p.Ref()) {
					from[id] = append(from[id], p.Ref())
				}
			}
		}
	}
	if sum != nil {
		normal := policy.Normalize(*sum)
		sum = &normal
	}
	return sum, from
}

// Selecting returns the places in list of the policies that select a workload: of
// workloads with the same ones Sum is the same.
func Selecting(list []Policy, who policy.PeerFacts) (out []int) {
	for i := range list {
		if list[i].Subjects.Selects(who) {
			out = append(out, i)
		}
	}
	return out
}
