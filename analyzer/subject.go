package analyzer

import (
	"fmt"

	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// Subject returns the selector of the workload itself, of the labels that a rule
// would name it by. Without usable ones it is an ErrNoLabels.
func Subject(w *inventory.Workload) (*policy.Selector, error) {
	labels := stableLabels(w.Labels)
	if len(labels) == 0 {
		return nil, fmt.Errorf("workload %s %w", w.Ref(), ErrNoLabels)
	}
	return &policy.Selector{Namespace: w.Namespace, MatchLabels: labels}, nil
}

// All returns the IDs of every rule learned, flagged ones among them.
func (r *Recommendation) All() []string {
	ids := make([]string, len(r.Rules))
	for i := range r.Rules {
		ids[i] = r.Rules[i].Rule.ID
	}
	return ids
}

// Flagged returns the rules that wait for a person, which Policy lacks.
func (r *Recommendation) Flagged() (out []*Rule) {
	for i := range r.Rules {
		if r.Rules[i].Proposed == Review {
			out = append(out, &r.Rules[i])
		}
	}
	return out
}
