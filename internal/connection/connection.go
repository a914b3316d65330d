package connection

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// Judge knows ends and what governs them.
type Judge struct {
	Index *inventory.Index
	// Govern returns an end with what governs w: Policy, Evaluator and From.
	Govern func(w *inventory.Workload) (policy.End, error)
}

// Target is an end and the port that is asked about there.
type Target struct {
	End
	Protocol flow.Protocol
	Port     uint16
}

// maxPairs bounds one answer: so many pairs of endpoints, each with the words of
// every rule.
const maxPairs = 1000

// Explain judges the connections that three words of a person mean, see Find and
// ParsePort. To a service's address they are those to all that is behind it. from knows what governs the source, to what governs the destination.
func Explain(from, to *Judge, source, destination, port string) ([]policy.Connection, error) {
	sources, err := from.Find(source)
	if err != nil {
		return nil, fmt.Errorf("source %w", err)
	}
	text, protocol, err := ParsePort(port)
	if err != nil {
		return nil, err
	}
	targets, err := to.behind(destination, text, protocol)
	if err == nil && len(targets) == 0 {
		var ends []End
		ends, err = to.Find(destination)
		targets = At(ends, text, protocol)
	}
	if err != nil {
		return nil, fmt.Errorf("destination %w", err)
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("port %q: want a number from 1 to 65535, or a %s port that %s has a name for", port, protocol, destination)
	}
	return Between(sources, targets)
}

// behind returns where connections to a service's address end; nothing when the
// destination is none.
func (j *Judge) behind(destination, port string, protocol flow.Protocol) (out []Target, err error) {
	a, err := netip.ParseAddr(destination)
	if err != nil {
		return nil, nil //nolint:nilerr // the name of something else
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, nil //nolint:nilerr // services' ports have numbers here
	}
	to := inventory.Destination{Protocol: protocol, Addr: netip.AddrPortFrom(a.Unmap(), uint16(number))}
	for _, f := range j.Index.Ends(to, "") {
		ends := []End{{End: policy.End{PeerFacts: f.Peer}}}
		if f.Peer.Addr.IsValid() {
			if ends, err = j.at(f.Peer.Addr.Unmap()); err != nil {
				return nil, err
			}
		}
		for _, e := range ends {
			out = append(out, Target{e, protocol, f.Port})
		}
	}
	return out, nil
}

// ParsePort splits PORT[/PROTOCOL], where PORT is a number or a name, and the
// protocol one that has ports, TCP unless given.
func ParsePort(port string) (text string, protocol flow.Protocol, err error) {
	text, protocolText, given := strings.Cut(port, "/")
	protocol = flow.TCP
	if given {
		protocol, err = flow.ParseProtocol(protocolText)
	}
	if err == nil && !protocol.HasPorts() {
		err = fmt.Errorf("%s has no ports", protocol)
	}
	if err != nil {
		return "", 0, fmt.Errorf("port %q: %w", port, err)
	}
	return text, protocol, nil
}

// At returns those of ends that have a port of that number or name.
func At(ends []End, port string, protocol flow.Protocol) (out []Target) {
	number, err := strconv.ParseUint(port, 10, 16)
	for _, e := range ends {
		n := uint16(number)
		if err != nil {
			n = policy.NumberOf(e.Named, port, protocol)
		}
		if n > 0 {
			out = append(out, Target{e, protocol, n})
		}
	}
	return out
}

// Between judges every connection of two lists of ends. Connections that get the
// same answer are given once.
func Between(from []End, to []Target) ([]policy.Connection, error) {
	from, to = distinct(from, to)
	if n := len(from) * len(to); n > maxPairs {
		return nil, fmt.Errorf("these are %d pairs of endpoints that policies tell apart by address, more than %d: name endpoints by their addresses", n, maxPairs)
	}
	out := []policy.Connection{}
	seen := map[string]bool{}
	for i := range from {
		for k := range to {
			s, d := &from[i], &to[k]
			if s.Addr.IsValid() && d.Addr.IsValid() && (s.Addr == d.Addr || s.Addr.Is4() != d.Addr.Is4()) {
				continue // it never leaves the endpoint, or there is no such connection
			}
			c := policy.ExplainConnection(s.seenFrom(&d.End), d.seenFrom(s), d.Protocol, d.Port)
			text, err := json.Marshal(c)
			if err != nil {
				return nil, fmt.Errorf("explain: %w", err)
			}
			if !seen[string(text)] {
				seen[string(text)] = true
				out = append(out, c)
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("source and destination are one endpoint, or have no addresses of one family: what stays within an endpoint is not judged")
	}
	return out, nil
}

// distinct leaves out ends between which no policy of the other side can tell. It
// keeps two of them: one end does not connect to itself.
func distinct(from []End, to []Target) (sources []End, targets []Target) {
	const kept = 2
	ofSources, ofTargets := side{}, side{}
	for i := range from {
		ofSources.add(&from[i])
	}
	for i := range to {
		ofTargets.add(&to[i].End)
	}
	seen := map[string]int{}
	for _, e := range from {
		if k := e.key(ofTargets); seen[k] < kept {
			seen[k]++
			sources = append(sources, e)
		}
	}
	clear(seen)
	for _, t := range to {
		if k := fmt.Sprint(t.key(ofSources), t.Port); seen[k] < kept {
			seen[k]++
			targets = append(targets, t)
		}
	}
	return sources, targets
}

// side is what the policies of one side's ends can tell of the other's.
type side struct{ addresses, nodes bool }

func (s *side) add(e *End) {
	s.nodes = s.nodes || e.isNode
	s.addresses = s.addresses || policy.TellAddresses(e.Evaluator.Guardrails, nil)
	if e.Policy != nil {
		s.addresses = s.addresses || policy.TellAddresses(nil, e.Policy.Ingress) || policy.TellAddresses(nil, e.Policy.Egress)
	}
}

func (e *End) key(other side) string {
	what := []any{e.Workload, e.Reserved, e.Named, e.isNode, e.host, e.Addr.IsValid(), e.Addr.Is4()}
	if other.addresses || e.Workload.IsZero() {
		what = append(what, e.Addr)
	}
	if other.nodes || e.isNode {
		what = append(what, e.node)
	}
	return fmt.Sprint(what...)
}
