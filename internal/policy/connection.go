package policy

import (
	"fmt"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
)

// End is one end of a connection, with what governs it.
type End struct {
	PeerFacts
	// Policy governs the end, and Evaluator judges by it; nil where nothing does,
	// or where that is not known.
	Policy    *Policy
	Evaluator Evaluator
	// From names the objects that rules come from, by the rule's ID; may be nil.
	From map[string][]string
}

// Connection explains one connection from both of its ends.
type Connection struct {
	Source      string        `json:"source"`
	Destination string        `json:"destination"`
	Protocol    flow.Protocol `json:"protocol"`
	// Port is the destination's; for ICMP and ICMPv6 type<<8|code.
	Port uint16 `json:"port"`
	// Allowed is false as soon as one end denies.
	Allowed bool   `json:"allowed"`
	Summary string `json:"summary"`
	// Egress is what governs the source says, Ingress what governs the
	// destination says; nil for an end that is no workload.
	Egress  *Explanation `json:"egress,omitempty"`
	Ingress *Explanation `json:"ingress,omitempty"`
}

// ExplainConnection judges a connection at both ends and says why. A connection
// within one endpoint never leaves it; ask about two.
func ExplainConnection(source, destination End, protocol flow.Protocol, port uint16) Connection {
	c := Connection{Source: source.String(), Destination: destination.String(), Protocol: protocol, Port: port, Allowed: true}
	f := Facts{Protocol: protocol, Port: port}
	c.Egress = source.explain(flow.Egress, &destination, f)
	c.Ingress = destination.explain(flow.Ingress, &source, f)
	var says []string
	for _, side := range []struct {
		name string
		e    *Explanation
	}{{"egress of " + c.Source, c.Egress}, {"ingress of " + c.Destination, c.Ingress}} {
		if side.e == nil {
			continue
		}
		c.Allowed = c.Allowed && !side.e.Denied()
		says = append(says, side.name+": "+side.e.Summary)
	}
	c.Summary = strings.Join(says, "; ")
	if len(says) == 0 {
		c.Summary = "neither end is a workload, so nothing is judged"
	}
	return c
}

// MayConnect reports whether neither end denies a connection; it is
// ExplainConnection's answer without the reasons, and allocates nothing.
func MayConnect(source, destination *End, protocol flow.Protocol, port uint16) bool {
	f := Facts{Protocol: protocol, Port: port}
	return source.allows(flow.Egress, destination, f) && destination.allows(flow.Ingress, source, f)
}

func (e *End) allows(d flow.Direction, peer *End, f Facts) bool {
	if e.Workload.IsZero() {
		return true
	}
	f.Direction, f.Peer = d, peer.PeerFacts
	return !e.evaluator().Evaluate(e.Policy, f).Denied()
}

// evaluator returns what judges by e's policy, with the names of e's ports.
func (e *End) evaluator() Evaluator {
	out := e.Evaluator
	out.Own = e.Named
	return out
}

// explain returns what e says of a connection with peer; nil when e is no
// workload.
func (e *End) explain(d flow.Direction, peer *End, f Facts) *Explanation {
	if e.Workload.IsZero() {
		return nil
	}
	f.Direction, f.Peer = d, peer.PeerFacts
	out := e.evaluator().Explain(e.Policy, f)
	if e.Policy == nil {
		out.Summary = fmt.Sprintf("allowed: no policy governs its %s", d)
	}
	for i := range out.Rules {
		out.Rules[i].From = e.From[out.Rules[i].ID]
	}
	return &out
}
