package conformance

import (
	"fmt"
	"slices"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/matcher"

	"github.com/ringfence/ringfence/internal/flow"
)

// tally counts what was compared.
type tally struct {
	cases, steps, cells int
	self                int // a pod and itself: such frames never leave it
	compared            int // by the evaluator, the kernel and the compiled tables
	agreed              int // of these, with the suite's simulation too
	allowed             int
	differ              map[string]int // from the simulation, by reason
}

func (c *tally) String() string {
	return fmt.Sprintf("%d cases, %d steps, %d cells: %d of a pod and itself skipped, %d compared (%d allowed), %d agree with the simulation, differing by reason %v",
		c.cases, c.steps, c.cells, c.self, c.compared, c.allowed, c.agreed, c.differ)
}

// step puts a cluster's policies in force and compares every cell.
func (n *node) step(t *testing.T, c *cluster, count *tally, config *generator.ProbeConfig, strangers []string, explain func(*judged) string) []*judged {
	t.Helper()
	all, err := c.compile()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.enforce(c, all); err != nil {
		t.Fatal(err)
	}
	cells, err := c.cells(config, strangers)
	if err != nil {
		t.Fatal(err)
	}
	count.steps++
	count.cells += len(cells)
	between := others(cells)
	count.self += len(cells) - len(between)
	list, wrong, err := n.compare(between, all)
	if err != nil {
		t.Fatal(err)
	}
	report(t, wrong)
	count.compared += len(list)
	report(t, c.simulate(list, count, explain))
	return list
}

// others leaves out the cells of a pod and itself.
func others(cells []*cell) []*cell {
	return slices.DeleteFunc(slices.Clone(cells), func(c *cell) bool { return c.from == c.to })
}

// report fails the test for what is wrong, but says no more than a person reads.
func report(t *testing.T, wrong []string) {
	t.Helper()
	for i, w := range wrong {
		if i == 5 {
			t.Errorf("and %d more", len(wrong)-i)
			return
		}
		t.Error(w)
	}
}

// simulate compares what was agreed on with the suite's own answer: what its
// simulated runner asks of its matcher, without the tables it draws of each cell.
func (c *cluster) simulate(list []*judged, count *tally, explain func(*judged) string) (wrong []string) {
	simulation := matcher.BuildNetworkPolicies(true, c.defaulted())
	for _, j := range list {
		if j.allowed(flow.Egress) && j.allowed(flow.Ingress) {
			count.allowed++
		}
		said := simulation.IsTrafficAllowed(j.traffic())
		if said.Ingress.IsAllowed() == j.allowed(flow.Ingress) && said.Egress.IsAllowed() == j.allowed(flow.Egress) {
			count.agreed++
			continue
		}
		if why := explain(j); why != "" {
			count.differ[why]++
			continue
		}
		wrong = append(wrong, fmt.Sprintf("%s: ingress %t egress %t, the simulation says %t %t", j, j.allowed(flow.Ingress), j.allowed(flow.Egress), said.Ingress.IsAllowed(), said.Egress.IsAllowed()))
	}
	return wrong
}

func newTally() *tally { return &tally{differ: map[string]int{}} }

// What version 0.5.6 of the suite has.
const (
	suiteCases = 230
	suiteCells = 123669
)

// TestCyclonus runs the suite's cases. Its truth is its simulation.
func TestCyclonus(t *testing.T) {
	n := newNode(t)
	families(t, func(t *testing.T, v6 bool) {
		count := newTally()
		for i, tc := range generator.NewTestCaseGenerator(true, blockPod, []string{"x", "y", "z"}, nil, nil).GenerateAllTestCases() {
			t.Run(fmt.Sprintf("%d %s", i+1, tc.Description), func(t *testing.T) {
				c := newCluster(v6)
				count.cases++
				for _, s := range tc.Steps {
					for _, a := range s.Actions {
						if err := c.do(a); err != nil {
							t.Fatal(err)
						}
					}
					n.step(t, c, count, s.Probe, nil, func(*judged) string { return "" })
				}
			})
		}
		fmt.Printf("%s: %s\n", t.Name(), count)
		if count.cases != suiteCases || count.cells != suiteCells || count.compared+count.self != suiteCells {
			t.Errorf("the suite has %d cases and %d cells", suiteCases, suiteCells)
		}
	})
}

func families(t *testing.T, test func(t *testing.T, v6 bool)) {
	t.Helper()
	t.Run("IPv4", func(t *testing.T) { test(t, false) })
	t.Run("IPv6", func(t *testing.T) { test(t, true) })
}
