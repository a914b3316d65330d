package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
)

// Guardrail denies what no rule shall allow. It is asked after failsafe and
// before the rules, wherever a policy isolates the direction; where none does it
// denies nothing.
type Guardrail struct {
	Name string `json:"name"`
	// Directions are those that it guards; none means both.
	Directions []flow.Direction `json:"directions,omitempty"`
	// Workloads are those that it guards; nil means all.
	Workloads *Selector `json:"workloads,omitempty"`
	// Peers and Ports say what is denied, every combination of them. One of the
	// two may be missing, which means any.
	Peers []Peer `json:"peers,omitempty"`
	Ports []Port `json:"ports,omitempty"`
}

// Guards reports whether g guards direction d of its workloads.
func (g *Guardrail) Guards(d flow.Direction) bool {
	return len(g.Directions) == 0 || slices.Contains(g.Directions, d)
}

// Governing returns the guardrails of list that guard a workload.
func Governing(list []Guardrail, who PeerFacts) []Guardrail {
	return slices.DeleteFunc(slices.Clone(list), func(g Guardrail) bool {
		return g.Workloads != nil && !g.Workloads.Selects(who)
	})
}

// Clone returns a copy that shares nothing with g.
func (g Guardrail) Clone() Guardrail {
	g.Directions = slices.Clone(g.Directions)
	if g.Workloads != nil {
		g.Workloads = g.Workloads.clone()
	}
	g.Peers, g.Ports = slices.Clone(g.Peers), slices.Clone(g.Ports)
	for i := range g.Peers {
		g.Peers[i] = g.Peers[i].clone()
	}
	for i := range g.Ports {
		g.Ports[i] = g.Ports[i].clone()
	}
	return g
}

// String says what g denies: "none of the workloads with app=cart in shop may
// connect to anyone on TCP 22".
func (g Guardrail) String() string {
	who, peers := "no workload", "anyone"
	if g.Workloads != nil {
		who = "none of the " + g.Workloads.String()
	}
	if len(g.Peers) > 0 {
		peers = join(texts(g.Peers))
	}
	var says []string
	if g.Guards(flow.Egress) {
		says = append(says, "may connect to "+peers)
	}
	if g.Guards(flow.Ingress) {
		says = append(says, "may be reached by "+peers)
	}
	return who + " " + strings.Join(says, " or ") + " on " + portsText(g.Ports)
}

// ValidateGuardrails returns every problem of list, each a *Problem with its
// path, joined; nil when there is none.
func ValidateGuardrails(list []Guardrail) error {
	v := &checks{}
	first := map[string]int{}
	for i := range list {
		g, path := &list[i], fmt.Sprintf("guardrails[%d]", i)
		v.name(path+".name", g.Name)
		if j, twice := first[g.Name]; twice {
			v.add(path+".name", "%q is guardrails[%d] already; give each its own name", g.Name, j)
		} else {
			first[g.Name] = i
		}
		for j, d := range g.Directions {
			if d != flow.Ingress && d != flow.Egress {
				v.add(fmt.Sprintf("%s.directions[%d]", path, j), "%q is no direction to guard; want ingress or egress", d)
			}
		}
		if g.Workloads != nil {
			v.selector(path+".workloads", g.Workloads)
		}
		if len(g.Peers) == 0 && len(g.Ports) == 0 {
			v.add(path, "has neither peers nor ports, which would deny everything; give at least one")
		}
		for j := range g.Peers {
			at := fmt.Sprintf("%s.peers[%d]", path, j)
			v.peer(at, &g.Peers[j])
			if g.Peers[j].FQDN != "" {
				v.add(at+".fqdn", "a guardrail cannot rest on a name, whose next address nobody knows; give a cidr")
			}
		}
		for j := range g.Ports {
			at := fmt.Sprintf("%s.ports[%d]", path, j)
			v.port(at, &g.Ports[j])
			if g.Ports[j].Name != "" {
				v.add(at+".name", "a guardrail cannot rest on the name of a port, which every endpoint chooses; give its number")
			}
		}
	}
	return errors.Join(v.problems...)
}
