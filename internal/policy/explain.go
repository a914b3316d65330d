package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/ringfence/ringfence/internal/flow"
)

// Explanation is a judgement with what every rule of the flow's direction said.
type Explanation struct {
	Judgement
	Summary string    `json:"summary"`
	Rules   []Outcome `json:"rules"`
}

// Outcome is what one rule said of a flow.
type Outcome struct {
	Index    int    `json:"index"`
	ID       string `json:"id"`
	Sentence string `json:"sentence"`
	Matched  bool   `json:"matched"`
	// From names the objects that the rule was read from, where that is known.
	From []string `json:"from,omitempty"`
	// Why lists what did not match; it is empty when the rule did.
	Why []string `json:"why"`
}

// Explain judges one flow as Evaluate does and says why. It is the same walk.
func (ev Evaluator) Explain(p *Policy, f Facts) Explanation {
	e := Explanation{Rules: []Outcome{}}
	e.Judgement = ev.walk(p, &f, func(i int, r *Rule, matched bool) {
		o := Outcome{Index: i, ID: r.ID, Sentence: Sentence(*r, f.Direction), Matched: matched, Why: []string{}}
		if !matched {
			o.Why = whyNot(r, &f)
		}
		e.Rules = append(e.Rules, o)
	})
	e.Summary = summary(p, &f, e.Judgement)
	return e
}

func summary(p *Policy, f *Facts, j Judgement) string {
	switch j.Reason {
	case flow.ReasonNoPolicy:
		if p == nil {
			return "there is no policy in this slot, so nothing was judged"
		}
		return fmt.Sprintf("allowed: the policy does not isolate %s", f.Direction)
	case flow.ReasonFailsafe:
		return "allowed: failsafe traffic is never denied"
	case flow.ReasonRule:
		return fmt.Sprintf("allowed by %s rule %d (%s)", f.Direction, j.Index+1, j.Rule)
	case flow.ReasonDefault:
		return fmt.Sprintf("denied: %s is isolated and none of its %d rules matches", f.Direction, len(p.Rules(f.Direction)))
	case flow.ReasonGuardrail:
		return fmt.Sprintf("denied by guardrail %s, which no rule can allow", j.Guardrail)
	case flow.ReasonPending:
		if j.Allowed() {
			return "allowed for the time being: nobody knows yet who the peer is"
		}
		return "denied for the time being: nobody knows yet who the peer is"
	default:
		return "denied: the flow's direction is unknown"
	}
}

// whyNot says of a rule that did not match what stood against it.
func whyNot(r *Rule, f *Facts) []string {
	var why []string
	if !anyPeer(r.Peers, f) {
		for i := range r.Peers {
			why = append(why, whyNotPeer(&r.Peers[i], f))
		}
	}
	if !anyPort(r.Ports, f) {
		for i := range r.Ports {
			why = append(why, whyNotPort(&r.Ports[i], f))
		}
	}
	return why
}

func whyNotPort(p *Port, f *Facts) string {
	s := fmt.Sprintf("the flow is to %s, the rule allows %s", portName(f), p)
	if p.matches(f) != missPortName {
		return s
	}
	for _, n := range f.named {
		if n.Name == p.Name && n.Protocol == p.Protocol {
			return fmt.Sprintf("%s, which is %d there", s, n.Port)
		}
	}
	return s + ", a name that the destination does not have"
}

func whyNotPeer(p *Peer, f *Facts) string {
	m := p.matches(f)
	if m == missPrefix && !f.Peer.Addr.IsValid() {
		return fmt.Sprintf("no address of the peer %s is known, the rule allows %s", f.Peer, p)
	}
	switch m {
	case missWorkload:
		return fmt.Sprintf("the peer %s is no workload, the rule selects %s", f.Peer, p)
	case missNamespace:
		return whyNotNamespace(p.Selector, &f.Peer)
	case missLabels:
		labels := p.Selector.Labels()
		return whyNotLabels(&labels, labelSet{labels: f.Peer.Labels}, "the peer")
	case missPrefix:
		return fmt.Sprintf("the peer's address %s is not in %s", f.Peer.Addr, p.CIDR.Prefix)
	case missExcept:
		return fmt.Sprintf("the peer's address %s is carved out of %s", f.Peer.Addr, p.CIDR.Prefix)
	case missReserved:
		return fmt.Sprintf("the peer %s is not %s", f.Peer, p.Reserved)
	case missName:
		return fmt.Sprintf("%s is no address that %s was seen to have", f.Peer.Addr, p.FQDN)
	default:
		return "the rule's peer is empty and matches nothing"
	}
}

func whyNotNamespace(s *Selector, peer *PeerFacts) string {
	if s.Namespace != "" && s.Namespace != peer.Workload.Namespace {
		return fmt.Sprintf("the peer is in namespace %s, the rule selects %s", peer.Workload.Namespace, s.Namespace)
	}
	return whyNotLabels(s.Namespaces, labelSet{peer.NamespaceLabels, peer.Workload.Namespace}, "the peer's namespace "+peer.Workload.Namespace)
}

func whyNotLabels(s *LabelSelector, l labelSet, who string) string {
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		switch have, ok := l.get(k); {
		case !ok:
			return fmt.Sprintf("%s has no label %s, the rule wants %q", who, k, s.MatchLabels[k])
		case have != s.MatchLabels[k]:
			return fmt.Sprintf("%s's label %s is %q, the rule wants %q", who, k, have, s.MatchLabels[k])
		}
	}
	for i := range s.MatchExpressions {
		e := &s.MatchExpressions[i]
		if e.matches(l) {
			continue
		}
		if have, ok := l.get(e.Key); ok {
			return fmt.Sprintf("%s's label %s is %q, the rule wants %s", who, e.Key, have, e)
		}
		return fmt.Sprintf("%s has no label %s, the rule wants %s", who, e.Key, e)
	}
	return who + " is not selected: the rule's selector is empty"
}

// String names the peer: its workload, or its reserved name and address.
func (p PeerFacts) String() string {
	switch name := p.Reserved.ReservedName(); {
	case name != "" && p.Addr.IsValid():
		return fmt.Sprintf("%s (%s)", p.Addr, name)
	case name != "":
		return name
	case !p.Workload.IsZero():
		return p.Workload.String()
	case p.Addr.IsValid():
		return p.Addr.String()
	}
	return "unknown"
}

// portName says what a flow goes to: "TCP 443", "ICMP type 8 code 0".
func portName(f *Facts) string {
	switch {
	case f.Protocol == flow.ICMP || f.Protocol == flow.ICMPv6:
		return fmt.Sprintf("%s type %d code %d", f.Protocol, f.Port>>8, f.Port&0xff)
	case f.Protocol.HasPorts():
		return f.Protocol.String() + " " + strconv.Itoa(int(f.Port))
	}
	return "protocol " + f.Protocol.String()
}
