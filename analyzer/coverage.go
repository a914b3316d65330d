package analyzer

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// Coverage says how well a workload was watched in a window.
type Coverage struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Seconds is the window's length; CoveredSeconds is that of the node that
	// covered least.
	Seconds        float64 `json:"seconds"`
	CoveredSeconds float64 `json:"coveredSeconds"`
	LostRecords    uint64  `json:"lostRecords"`
	Gaps           uint64  `json:"gaps"`
	// Ready to enforce: nothing is Missing.
	Ready   bool     `json:"ready"`
	Missing []string `json:"missing"`
	Words   string   `json:"words"`
}

// watchedNodes returns the nodes that hold endpoints of w with an agent.
func (v *view) watchedNodes(w flow.Workload) []string {
	var nodes []string
	if known := v.workloads[w]; known != nil {
		for _, e := range known.Endpoints {
			if e.Interface != "" && !slices.Contains(nodes, e.Node) {
				nodes = append(nodes, e.Node)
			}
		}
	}
	slices.Sort(nodes)
	return nodes
}

// coverageOf judges how well w was watched: every endpoint, for long enough,
// with nothing lost, and up to the window's end.
func (v *view) coverageOf(w flow.Workload) Coverage {
	c := Coverage{
		Since: v.window.Since, Until: v.window.Until,
		Seconds: v.window.Until.Sub(v.window.Since).Seconds(), Missing: []string{},
	}
	missing := func(format string, args ...any) { c.Missing = append(c.Missing, fmt.Sprintf(format, args...)) }
	if known := v.workloads[w]; known != nil {
		for _, e := range known.Endpoints {
			if e.Interface == "" {
				missing("endpoint %s on %s has no agent: give it an interface in the inventory", e.Name, e.Node)
			}
			if gaps := attachGaps(v.coverage[e.Node], e.Name); gaps > 0 {
				missing("endpoint %s on %s was not watched %s; choose a window that starts after", e.Name, e.Node, number(gaps, "time"))
			}
		}
	}
	nodes := v.watchedNodes(w)
	covered := time.Duration(-1)
	for _, name := range nodes {
		n, ok := v.coverage[name]
		if !ok || n.Covered == 0 {
			missing("%s covered nothing of the window", name)
			covered, c.LostRecords = 0, c.LostRecords+n.Lost+n.Dropped
			continue
		}
		if covered < 0 || n.Covered < covered {
			covered = n.Covered
		}
		c.LostRecords += n.Lost + n.Dropped
		c.Gaps += n.GapCount
		v.missingOf(n, missing)
	}
	covered = max(covered, 0)
	c.CoveredSeconds = covered.Seconds()
	c.Ready = len(c.Missing) == 0 && len(nodes) > 0
	if len(nodes) == 0 {
		missing("no endpoint of the workload has an agent")
	}
	c.Words = v.coverageWords(&c, nodes, covered)
	return c
}

// attachGaps returns how often an endpoint had no program. Another workload's
// endpoint of the same name on the node counts too.
func attachGaps(n flow.NodeCoverage, endpoint string) uint64 {
	var gaps uint64
	for i := range n.AttachGaps {
		if n.AttachGaps[i].Endpoint == endpoint {
			gaps++
		}
	}
	return gaps
}

// missingOf says what one node's coverage lacks.
func (v *view) missingOf(n flow.NodeCoverage, missing func(format string, args ...any)) {
	if n.Covered < v.cfg.MinCovered {
		missing("%s watched for %s; want at least %s", n.Node, span(n.Covered), span(v.cfg.MinCovered))
	}
	if lost := n.Lost + n.Dropped; lost > 0 {
		missing("%s lost %s; choose a window that starts after", n.Node, number(lost, "record"))
	}
	if since := v.window.Until.Sub(n.First); since > 0 && float64(n.Covered) < v.cfg.MinShare*float64(since-v.cfg.MaxSilence) {
		missing("%s watched for %s of %s; want %.0f%%", n.Node, span(n.Covered), span(since), 100*v.cfg.MinShare)
	}
	if silent := v.window.Until.Sub(n.Last); silent > v.cfg.MaxSilence {
		missing("%s has said nothing for %s; is its agent running?", n.Node, span(silent))
	}
}

func (v *view) coverageWords(c *Coverage, nodes []string, covered time.Duration) string {
	if len(nodes) == 0 {
		return "Nothing watches this workload."
	}
	lost := "no record was lost"
	if c.LostRecords > 0 {
		lost = number(c.LostRecords, "record") + " lost"
	}
	gaps := "without a gap"
	if c.Gaps > 0 {
		gaps = "with " + number(c.Gaps, "gap")
	}
	// What lies before the first agent is no gap: nobody could have watched then.
	since := v.window.Until
	for _, name := range nodes {
		if n, ok := v.coverage[name]; ok && n.First.Before(since) {
			since = n.First
		}
	}
	if since.Before(v.window.Since) {
		since = v.window.Since
	}
	return fmt.Sprintf("Watched for %s of the last %s on %s, %s; %s.",
		span(covered), span(v.window.Until.Sub(since)), strings.Join(nodes, ", "), gaps, lost)
}
