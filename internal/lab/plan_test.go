package lab

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestPlanTakesTurns(t *testing.T) {
	p, err := newPlan(Default())
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, namespace, to string
		want                []string // targets of one turn after the other
	}{
		{"one server, both families", "rf-cartservice-1", ":6379", []string{"10.89.1.21", "fd52:6e67:0:1::21"}},
		{"every replica", "rf-recommendationservice-1", ":3550", []string{"10.89.1.19", "fd52:6e67:0:1::19", "10.89.2.19", "fd52:6e67:0:2::19"}},
		{"rare ones at once", "rf-paymentservice-1", ":443", []string{"203.0.113.20 2001:db8:113::20"}},
		{"a node probes its own replica", "rf-node-2", ":8080", []string{"10.89.2.11 fd52:6e67:0:2::11"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, call := range p.specs[c.namespace].Calls {
				for _, turn := range call.Turns {
					if fmt.Sprintf(":%d", turn[0].Remote.Port()) != c.to {
						continue
					}
					line := ""
					for _, target := range turn {
						if target.Local.Is4() != target.Remote.Addr().Is4() {
							t.Errorf("from %s to %s", target.Local, target.Remote)
						}
						if line != "" {
							line += " "
						}
						line += target.Remote.Addr().String()
					}
					got = append(got, line)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestPhaseSpreadsRequests(t *testing.T) {
	const n = 32
	var at []time.Duration
	for i := range n {
		at = append(at, phase(i, time.Second))
	}
	slices.Sort(at)
	for i := 1; i < n; i++ {
		if gap := at[i] - at[i-1]; gap < time.Second/n/4 || gap > 3*time.Second/n {
			t.Errorf("%s after %s", at[i], at[i-1])
		}
	}
}

func TestQuestionsAreWhatTheClientCalls(t *testing.T) {
	s := Default()
	var names []string
	for _, q := range s.questions("boutique/recommendationservice") {
		names = append(names, q.Name)
	}
	want := []string{
		"productcatalogservice.boutique.svc.lab.", "productcatalogservice.boutique.svc.lab.",
		"dns.kube-system.svc.lab.", "dns.kube-system.svc.lab.",
	}
	if !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	if len(s.questions("boutique/adservice")) != 2*len(s.Workloads) {
		t.Error("a client that calls nobody must ask for all")
	}
}
