package analyzer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// churning labels change with a rollout, a pod or a release: a selector that
// uses one breaks true edges at the next upgrade.
var churning = []string{
	"pod-template-hash",
	"pod-template-generation",
	"controller-revision-hash",
	"controller-uid",
	"batch.kubernetes.io/controller-uid",
	"statefulset.kubernetes.io/pod-name",
	"apps.kubernetes.io/pod-index",
	"job-name",
	"batch.kubernetes.io/job-name",
	"job-completion-index",
	"batch.kubernetes.io/job-completion-index",
	"rollouts-pod-template-hash",
	"version",
	"instance",
	"managed-by",
	"chart",
	"helm.sh/chart",
	"heritage",
	"release",
	"revision",
	"app.kubernetes.io/version",
	"app.kubernetes.io/instance",
	"app.kubernetes.io/managed-by",
}

// churns reports whether a label must not be selected on. Prefixed spellings of
// version, instance and managed-by count whoever's prefix it is.
func churns(key string) bool {
	if slices.Contains(churning, key) {
		return true
	}
	_, name, prefixed := strings.Cut(key, "/")
	return prefixed && slices.Contains([]string{"version", "instance", "managed-by", "chart", "revision"}, name)
}

// stableLabels returns the labels that a selector can rely on.
func stableLabels(labels map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range labels {
		if k != "" && !churns(k) {
			out[k] = v
		}
	}
	return out
}

// selection is how a workload is selected, and whom else that selects.
type selection struct {
	peer policy.Peer
	also []flow.Workload
	err  error
}

// selectorOf returns the selector of all of w's stable labels.
func (v *view) selectorOf(w flow.Workload) selection {
	s, _ := v.selectors.of(w, func() (selection, error) { return v.makeSelector(w), nil }) // which has its own error
	return s
}

func (v *view) makeSelector(w flow.Workload) selection {
	known, ok := v.workloads[w]
	if !ok {
		return selection{err: fmt.Errorf("workload %s %w", w, ErrUnknownWorkload)}
	}
	s, err := Subject(known)
	if err != nil {
		return selection{err: err}
	}
	var also []flow.Workload
	for _, other := range v.index.Select(s) {
		if ref := other.Ref(); ref != w {
			also = append(also, ref)
		}
	}
	slices.SortFunc(also, flow.Workload.Compare)
	return selection{peer: policy.Peer{Selector: s}, also: also}
}
