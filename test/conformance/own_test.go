package conformance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// ownCase is one that the suite lacks: policies of a cluster of newOwnCluster, and
// what they must allow and deny.
type ownCase struct {
	name     string
	policies string // YAML documents
	allowed  []string
	denied   []string
	// differs says why the suite's simulation answers otherwise on some cells;
	// those are in allowed or denied too.
	differs string
}

// strangers are addresses that nobody owns: one far off, and one between the
// pods of y and those of z.
var strangers = []string{"198.51.100.7", "10.1.2.200"}

// servedPorts lie at the edges of the ranges and at those of powers of two.
var servedPorts = []int{80, 81, 443, 1023, 1024, 8191, 8192, 65535}

// newOwnCluster is the suite's cluster with more ports, with labels that not
// every pod has, and with a port that has the same name and not the same number
// everywhere.
func newOwnCluster(v6 bool) *cluster {
	c := newCluster(v6)
	for _, pod := range c.resources.Pods {
		pod.Containers = nil
		for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
			for _, port := range servedPorts {
				pod.Containers = append(pod.Containers, &probe.Container{Name: "c", Port: port, Protocol: protocol})
			}
		}
		web, metrics := 80, 8191
		if pod.Namespace == "z" {
			web, metrics = 443, 8192
		}
		for _, s := range pod.Containers {
			switch {
			case s.Port == web && s.Protocol == corev1.ProtocolTCP:
				s.PortName = "web"
			case s.Port == metrics && s.Protocol == corev1.ProtocolUDP:
				s.PortName = "metrics"
			}
		}
		switch pod.Name {
		case "a":
			pod.Labels["tier"] = "front"
		case "b":
			pod.Labels["tier"] = "back"
		}
		if pod.Namespace == "y" {
			pod.Labels["mark"] = ""
		}
	}
	return c
}

// read returns the policies of YAML documents.
func read(text string) ([]*netv1.NetworkPolicy, error) {
	var out []*netv1.NetworkPolicy
	for i, doc := range strings.Split(text, "\n---\n") {
		p := &netv1.NetworkPolicy{}
		if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(doc, "\t", "  ")), p); err != nil {
			return nil, fmt.Errorf("policy %d: %w", i, err)
		}
		p.Name = fmt.Sprintf("policy-%d", i)
		out = append(out, p)
	}
	return out, nil
}

// name is how a case spells a cell: "x/b > x/a TCP 80".
func (c *cell) name() string {
	of := func(key string) string { return strings.TrimPrefix(key, "/") }
	return fmt.Sprintf("%s > %s %s %d", of(c.FromKey), of(c.ToKey), c.protocol, c.port)
}

var everything = &generator.ProbeConfig{AllAvailable: true, Mode: generator.ProbeModePodIP}

// TestOwnCases runs the cases that the suite lacks, every cell of each.
func TestOwnCases(t *testing.T) {
	n := newNode(t)
	families(t, func(t *testing.T, v6 bool) {
		count := newTally()
		for _, tc := range ownCases {
			t.Run(tc.name, func(t *testing.T) {
				c := newOwnCluster(v6)
				if err := c.createAll(tc.policies); err != nil {
					t.Fatal(err)
				}
				count.cases++
				before := count.differ[tc.differs]
				list := n.step(t, c, count, everything, strangers, func(*judged) string { return tc.differs })
				if tc.differs != "" && count.differ[tc.differs] == before {
					t.Errorf("the simulation does not differ: %s", tc.differs)
				}
				expect(t, list, tc)
			})
		}
		fmt.Printf("%s: %s\n", t.Name(), count)
		const each = 2808 // 9 pods and 2 strangers, 24 ports, less the strangers among themselves
		if count.cells != each*len(ownCases) || count.compared+count.self != count.cells {
			t.Errorf("%d cases of %d cells each were to be compared", len(ownCases), each)
		}
	})
}

func (c *cluster) createAll(text string) error {
	list, err := read(text)
	if err != nil {
		return err
	}
	for _, p := range list {
		if err := c.create(p); err != nil {
			return err
		}
	}
	return nil
}

// expect checks what a case says itself.
func expect(t *testing.T, list []*judged, tc ownCase) {
	t.Helper()
	if len(tc.allowed) == 0 || len(tc.denied) == 0 {
		t.Error("a case needs cells that are allowed and cells that are denied")
	}
	got := map[string]bool{}
	for _, j := range list {
		got[j.name()] = j.whole.arrived
	}
	for want, names := range map[bool][]string{true: tc.allowed, false: tc.denied} {
		for _, name := range names {
			if arrived, ok := got[name]; !ok || arrived != want {
				t.Errorf("%s: delivered %t (known %t), want %t", name, arrived, ok, want)
			}
		}
	}
}

// mutation spoils a policy that isolates both directions.
type mutation struct {
	name  string
	spoil func(p *policy.Policy)
}

func eachRule(visit func(r *policy.Rule)) func(p *policy.Policy) {
	return func(p *policy.Policy) {
		for _, rules := range [][]policy.Rule{p.Ingress, p.Egress} {
			for i := range rules {
				visit(&rules[i])
			}
		}
	}
}

var mutations = []mutation{
	{"exceptions forgotten", eachRule(func(r *policy.Rule) {
		for _, p := range r.Peers {
			if p.CIDR != nil {
				p.CIDR.Except = nil
			}
		}
	})},
	{"protocol ignored", eachRule(func(r *policy.Rule) {
		for _, p := range r.Ports {
			for _, other := range []flow.Protocol{flow.TCP, flow.UDP, flow.SCTP} {
				p.Protocol = other
				r.Ports = append(r.Ports, p)
			}
		}
	})},
	{"the end of a range forgotten", eachRule(func(r *policy.Rule) {
		for i := range r.Ports {
			r.Ports[i].EndPort = 0
		}
	})},
	{"ports forgotten", eachRule(func(r *policy.Rule) { r.Ports = nil })},
	{"the name of a port forgotten", eachRule(func(r *policy.Rule) {
		for i := range r.Ports {
			r.Ports[i].Name = ""
		}
	})},
	{"expressions forgotten", eachRule(func(r *policy.Rule) {
		for _, p := range r.Peers {
			if p.Selector != nil && p.Selector.MatchExpressions != nil {
				p.Selector.MatchExpressions, p.Selector.All = nil, true
			}
		}
	})},
	{"peers forgotten", eachRule(func(r *policy.Rule) { r.Peers = nil })},
	{"a rule lost", func(p *policy.Policy) { p.Ingress = p.Ingress[1:] }},
	{"ingress left open", func(p *policy.Policy) { p.IsolateIngress = false }},
	{"egress left open", func(p *policy.Policy) { p.IsolateEgress = false }},
	{"directions exchanged", func(p *policy.Policy) { p.Ingress, p.Egress = p.Egress, p.Ingress }},
}

// TestDisagreementsAreFound spoils a policy in ways that mistakes would: where the
// kernel alone has the spoilt one, it disagrees with the evaluator; where both
// have it, they disagree with the simulation.
func TestDisagreementsAreFound(t *testing.T) {
	n := newNode(t)
	families(t, func(t *testing.T, v6 bool) {
		c := newOwnCluster(v6)
		if err := c.createAll(richPolicy); err != nil {
			t.Fatal(err)
		}
		all, err := c.compile()
		if err != nil {
			t.Fatal(err)
		}
		cells, err := c.cells(everything, strangers)
		if err != nil {
			t.Fatal(err)
		}
		found := func(t *testing.T, inForce, asked policies) (evaluator, simulation int) {
			t.Helper()
			if err := n.enforce(c, inForce); err != nil {
				t.Fatal(err)
			}
			list, wrong, err := n.compare(others(cells), asked)
			if err != nil {
				t.Fatal(err)
			}
			return len(wrong), len(c.simulate(list, newTally(), func(*judged) string { return "" }))
		}
		if e, s := found(t, all, all); e != 0 || s != 0 {
			t.Fatalf("the sound policy has %d and %d disagreements", e, s)
		}
		for _, m := range mutations {
			t.Run(m.name, func(t *testing.T) {
				spoilt := policies{}
				for name, p := range all {
					if p != nil {
						clone := policy.Normalize(*p)
						m.spoil(&clone)
						clone = policy.Normalize(clone)
						spoilt[name] = &clone
					}
				}
				if e, _ := found(t, spoilt, all); e == 0 {
					t.Error("the kernel agrees with the evaluator")
				}
				if e, s := found(t, spoilt, spoilt); e != 0 || s == 0 {
					t.Errorf("%d disagreements of the kernel with the evaluator, and %d with the simulation", e, s)
				}
			})
		}
	})
}
