package analyzer_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// TestGuardrailsAreNotLearned checks that what a guardrail denies is left out of
// the recommendation, by its name, and that a replay denies it.
func TestGuardrailsAreNotLearned(t *testing.T) {
	ssh := policy.Guardrail{Name: "no-ssh", Ports: []policy.Port{{Protocol: flow.TCP, Port: 22}}}
	peers := func(prefix string) policy.Guardrail {
		return policy.Guardrail{
			Name: "no-front", Directions: []flow.Direction{flow.Ingress},
			Peers: []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix(prefix)}}},
		}
	}
	elsewhere := ssh
	elsewhere.Workloads = &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"app": "front"}}
	// shop/front is the second workload: 10.1.2.1 and fd00:1::2:0:1.
	for _, c := range []struct {
		name    string
		guard   policy.Guardrail
		learned string // ports, in order
	}{
		{"by port", ssh, "80"},
		{"by an IPv4 address of the peer", peers("10.1.2.0/24"), ""},
		{"by an IPv6 address of the peer", peers("fd00:1::/64"), ""},
		{"by another's address", peers("192.0.2.0/24"), "22 80"},
		{"of another workload", elsewhere, "22 80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{tb: t}
			for _, line := range []string{
				"window 30m", "covered node-1 30m", "workload shop/cart app=cart cart-1@node-1",
				"workload shop/front app=front front-1@node-1",
				"flow shop/front > shop/cart TCP 80", "flow shop/front > shop/cart TCP 22",
			} {
				if err := w.line(line); err != nil {
					t.Fatal(err)
				}
			}
			w.inv.Guardrails = []policy.Guardrail{c.guard}
			r := w.recommend("shop/cart")
			var learned []string
			for _, rule := range r.Rules {
				for _, e := range rule.Evidence {
					learned = append(learned, policy.Port{Protocol: e.Protocol, Port: e.Port}.String()[len("TCP "):])
				}
			}
			slices.Sort(learned)
			if got := strings.Join(learned, " "); got != c.learned {
				t.Errorf("learned %s, want %s", got, c.learned)
			}
			missing := 2 - len(strings.Fields(c.learned))
			excluded := 0
			for _, e := range r.Excluded {
				if e.Code == analyzer.ExcludedGuardrail && strings.Contains(e.Reason, "guardrail "+c.guard.Name) {
					excluded++
				}
			}
			if excluded != missing {
				t.Errorf("%d edges excluded, want %d: %+v", excluded, missing, r.Excluded)
			}
			got := replay(t, w, policy.Policy{Workload: ref("shop/cart"), IsolateIngress: true, Ingress: []policy.Rule{{}}})
			if got.DeniedEdges != missing || missing > 0 && got.Denials[0].Reason != flow.ReasonGuardrail {
				t.Errorf("replay: %+v", got)
			}
		})
	}
}
