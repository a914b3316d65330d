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
	asked, err := ParsePort(port)
	if err != nil {
		return nil, err
	}
	targets, err := to.behind(destination, asked)
	if err == nil && len(targets) == 0 {
		var ends []End
		ends, err = to.Find(destination)
		targets = asked.At(ends)
	}
	if err != nil {
		return nil, fmt.Errorf("destination %w", err)
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("port %q: want a number from 1 to 65535, or a %s port that %s has a name for", port, asked.Protocol, destination)
	}
	return Between(sources, targets)
}

// behind returns where connections to a service's address end; nothing when the
// destination is none. Services' ports have numbers here.
func (j *Judge) behind(destination string, asked Port) (out []Target, err error) {
	a, err := netip.ParseAddr(destination)
	if err != nil || !asked.exact || !asked.Protocol.HasPorts() {
		return nil, nil //nolint:nilerr // the name of something else
	}
	to := inventory.Destination{Protocol: asked.Protocol, Addr: netip.AddrPortFrom(a.Unmap(), asked.number)}
	for _, f := range j.Index.Ends(to, "") {
		ends := []End{{End: policy.End{PeerFacts: f.Peer}}}
		if f.Peer.Addr.IsValid() {
			if ends, err = j.at(f.Peer.Addr.Unmap()); err != nil {
				return nil, err
			}
		}
		for _, e := range ends {
			out = append(out, Target{e, asked.Protocol, f.Port})
		}
	}
	return out, nil
}

// Port is what a person asks about: a number or a name, or an ICMP message.
type Port struct {
	Text     string // without the protocol
	Protocol flow.Protocol
	number   uint16 // for ICMP type<<8|code
	exact    bool   // the number is what is meant; else Text is a name
}

// ParsePort reads PORT[/PROTOCOL], where PORT is a number or a name and the
// protocol one that has ports, TCP unless given; or icmp/TYPE[/CODE] and
// icmpv6/TYPE[/CODE], where no code is code 0.
func ParsePort(port string) (Port, error) {
	text, protocolText, given := strings.Cut(port, "/")
	for _, message := range []flow.Protocol{flow.ICMP, flow.ICMPv6} {
		if given && strings.EqualFold(text, message.String()) {
			return parseICMP(port, message, protocolText)
		}
	}
	out := Port{Text: text, Protocol: flow.TCP}
	var err error
	if given {
		out.Protocol, err = flow.ParseProtocol(protocolText)
	}
	if err == nil && !out.Protocol.HasPorts() {
		err = fmt.Errorf("%s has no ports; an ICMP message is icmp/TYPE or icmpv6/TYPE", out.Protocol)
	}
	if err != nil {
		return Port{}, fmt.Errorf("port %q: %w", port, err)
	}
	if n, err := strconv.ParseUint(text, 10, 16); err == nil {
		out.number, out.exact = uint16(n), true
	}
	return out, nil
}

func parseICMP(port string, protocol flow.Protocol, message string) (Port, error) {
	kind, code, coded := strings.Cut(message, "/")
	n, err := strconv.ParseUint(kind, 10, 8)
	c := uint64(0)
	if err == nil && coded {
		c, err = strconv.ParseUint(code, 10, 8)
	}
	if err != nil {
		return Port{}, fmt.Errorf("port %q: want a type from 0 to 255 after %s/, and after another slash a code", port, strings.ToLower(protocol.String()))
	}
	return Port{Text: message, Protocol: protocol, number: uint16(n<<8 | c), exact: true}, nil //nolint:gosec // two bytes
}

// At returns those of ends that have the port.
func (p Port) At(ends []End) (out []Target) {
	for _, e := range ends {
		n, found := p.number, p.exact && (p.number > 0 || !p.Protocol.HasPorts())
		if !p.exact {
			n = policy.NumberOf(e.Named, p.Text, p.Protocol)
			found = n > 0
		}
		if found {
			out = append(out, Target{e, p.Protocol, n})
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
			if of := d.Protocol; of == flow.ICMP && (s.Addr.Is6() || d.Addr.Is6()) || of == flow.ICMPv6 && (s.Addr.Is4() || d.Addr.Is4()) {
				continue // it is the other family's
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
		return nil, fmt.Errorf("source and destination are one endpoint, or have no addresses of one family, or of that ICMP's: what stays within an endpoint is not judged")
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
