package policy

import (
	"net/netip"

	"github.com/ringfence/ringfence/internal/flow"
)

// Facts are what is known of one flow of the workload that a policy governs.
type Facts struct {
	// Direction is the flow's as that workload sees it. A flow of unknown
	// direction is judged by EvaluateMidstream.
	Direction flow.Direction
	// Peer is the other end.
	Peer     PeerFacts
	Protocol flow.Protocol
	// Port is the responder's. For ICMP and ICMPv6 it is type<<8|code, as in
	// flow.Key; for other protocols without ports it is 0.
	Port uint16

	named []NamedPort // of the responder's endpoint, set by the walk
}

// PeerFacts are what is known of a flow's other end. The zero value is an
// address that nobody owns yet: it matches no selector and no reserved name.
type PeerFacts struct {
	Addr netip.Addr
	// Workload and Labels are set when an endpoint of a workload owns Addr.
	// Selectors compare Workload.Namespace.
	Workload flow.Workload
	Labels   map[string]string
	// NamespaceLabels are those of the workload's namespace; NamespaceName may
	// be missing.
	NamespaceLabels map[string]string
	// Names are the DNS names that Addr was the answer for, in lower case and
	// without a last dot.
	Names []string
	// Named are the peer endpoint's named ports.
	Named []NamedPort
	// Reserved is set when no workload owns Addr: host, world, remote-node, …
	Reserved flow.Identity
	// Outside says that the flow came to the endpoint from outside its node,
	// whatever Addr claims. What reaches an endpoint that is the node itself,
	// through an interface of its own, always does.
	Outside bool
}

// Judgement is what a policy says of a flow.
type Judgement struct {
	Verdict flow.Verdict `json:"verdict"`
	Reason  flow.Reason  `json:"reason"`
	// Rule is the ID of the first rule that matched, and Index its place among
	// the rules of the flow's direction; "" and -1 when none did.
	Rule  string `json:"rule,omitempty"`
	Index int    `json:"index"`
	// Guardrail is the name of the one that denied, "" when none did.
	Guardrail string `json:"guardrail,omitempty"`
}

// Allowed reports whether the policy judged the flow and lets it through.
func (j Judgement) Allowed() bool { return j.Verdict == flow.VerdictAllow }

// Denied reports whether the policy judged the flow and refuses it. A slot
// without a policy neither allows nor denies.
func (j Judgement) Denied() bool { return j.Verdict == flow.VerdictDeny }

// Evaluator judges flows by policies and by what holds beside them. The zero
// value has no guardrails.
type Evaluator struct {
	// Guardrails are those of the governed workload, see Governing.
	Guardrails []Guardrail
	// Pending is the node's answer, VerdictAllow or VerdictDeny, where an
	// identity is not known yet. Without one a peer that is nobody is judged
	// like anybody whom no rule names, which is right for flows of the past.
	Pending flow.Verdict
	// Own are the named ports of the governed endpoint.
	Own []NamedPort

	resolved *resolution // see Resolve; nil without
}

// Evaluate judges one flow without guardrails, see Evaluator.Evaluate.
func Evaluate(p *Policy, f Facts) Judgement { return Evaluator{}.Evaluate(p, f) }

// Evaluate judges one flow. A nil policy is an empty slot, which judges nothing.
// A direction that is not isolated allows everything. Then failsafe decides,
// then the guardrails, then the rules.
func (e Evaluator) Evaluate(p *Policy, f Facts) Judgement { return e.walk(p, &f, nil) }

// Matching judges one flow as Evaluate does, and calls visit with the index of
// every rule that matches it, be it the rules that decide or not.
func (e Evaluator) Matching(p *Policy, f Facts, visit func(rule int)) Judgement {
	return e.walk(p, &f, func(i int, _ *Rule, matched bool) {
		if matched {
			visit(i)
		}
	})
}

// EvaluateService judges a connection to a service's address by what it may
// become: nobody knows which of ends gets it, so it is allowed if every one of
// them is. Among denials a guardrail's is the one that is told of. There must be at
// least one end.
func (e Evaluator) EvaluateService(p *Policy, ends []Facts) Judgement {
	j := e.Evaluate(p, ends[0])
	for i := 1; i < len(ends) && j.Reason != flow.ReasonGuardrail; i++ {
		if other := e.Evaluate(p, ends[i]); !j.Denied() || other.Reason == flow.ReasonGuardrail {
			j = other
		}
	}
	return j
}

// EvaluatePending judges a flow, of whatever direction, of an endpoint whose own
// identity is not known yet: there is no policy to ask.
func (e Evaluator) EvaluatePending(f Facts) Judgement {
	if e.Pending != flow.VerdictDeny {
		return Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonPending, Index: -1}
	}
	if f.Direction == flow.DirectionUnknown {
		f.Direction = flow.Ingress
	}
	if Failsafe(f) {
		return Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonFailsafe, Index: -1}
	}
	return Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonPending, Index: -1}
}

// walk is the one pass over a policy that decides. visit, when it is set, hears
// of every rule; without it the walk ends at the first match.
func (e Evaluator) walk(p *Policy, f *Facts, visit func(index int, r *Rule, matched bool)) Judgement {
	if p == nil {
		return Judgement{Reason: flow.ReasonNoPolicy, Index: -1}
	}
	rules, isolated := p.direction(f.Direction)
	picked, list := e.picked(p, f), listIngress
	f.named = e.Own
	if f.Direction == flow.Egress {
		list, f.named = listEgress, f.Peer.Named
	}
	j, decided := Judgement{}, true
	switch {
	case f.Direction != flow.Ingress && f.Direction != flow.Egress:
		// Neither rule set applies: EvaluateMidstream is for these.
		return Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonMidstream, Index: -1}
	case !isolated:
		j = Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonNoPolicy, Index: -1}
	case Failsafe(*f):
		j = Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonFailsafe, Index: -1}
	default:
		j, decided = e.guard(picked, f)
	}
	for i := 0; i < len(rules); i++ {
		if visit == nil {
			if decided {
				break
			}
			if i = e.candidate(picked, list, i); i >= len(rules) {
				break
			}
		}
		r := &rules[i]
		matched := e.anyPeer(picked, list, i, r.Peers, f) && anyPort(r.Ports, f)
		if matched && !decided {
			j = Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonRule, Rule: r.ID, Index: i}
			decided = true
		}
		if visit != nil {
			visit(i, r, matched)
		}
	}
	if !decided && f.Peer.isPending() && e.Pending != flow.VerdictUnknown {
		j.Verdict, j.Reason = e.Pending, flow.ReasonPending
	}
	return j
}

// guard returns what the first guardrail that matches says, or else what holds
// should no rule match.
func (e *Evaluator) guard(picked *picks, f *Facts) (j Judgement, decided bool) {
	for i := range e.Guardrails {
		g := &e.Guardrails[i]
		if g.Guards(f.Direction) && e.anyPeer(picked, listGuardrails, i, g.Peers, f) && anyPort(g.Ports, f) {
			return Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonGuardrail, Guardrail: g.Name, Index: -1}, true
		}
	}
	return Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Index: -1}, false
}

// isPending reports whether nobody knows yet whose address the peer's is.
func (p *PeerFacts) isPending() bool {
	return p.Reserved == flow.IdentityUnknown && p.Workload.IsZero()
}

// EvaluateMidstream judges one without guardrails, see the Evaluator's.
func EvaluateMidstream(p *Policy, peer PeerFacts, protocol flow.Protocol, localPort, peerPort uint16) Judgement {
	return Evaluator{}.EvaluateMidstream(p, peer, protocol, localPort, peerPort)
}

// EvaluateMidstream judges a flow that was picked up in the middle: nobody knows
// who began it, so it is allowed if it would be allowed either way. localPort is
// the governed workload's, peerPort the other end's; for ICMP both are
// type<<8|code.
func (e Evaluator) EvaluateMidstream(p *Policy, peer PeerFacts, protocol flow.Protocol, localPort, peerPort uint16) Judgement {
	in := e.Evaluate(p, Facts{Direction: flow.Ingress, Peer: peer, Protocol: protocol, Port: localPort})
	out := e.Evaluate(p, Facts{Direction: flow.Egress, Peer: peer, Protocol: protocol, Port: peerPort})
	switch {
	case p == nil:
		return in
	case out.Reason == flow.ReasonFailsafe:
		return out
	case in.Reason == flow.ReasonFailsafe:
		return in
	}
	j := out
	if out.Denied() {
		j = in
	}
	j.Reason = flow.ReasonMidstream
	return j
}

// Failsafe reports whether f is a flow that no policy can deny: what the
// workload's own node sends to it, health probes above all. Somebody else with
// the node's address is not the node. DHCP and neighbour discovery are no flows:
// the datapath lets their packets pass before any policy. The agent's own way
// to the server is known to its node alone.
func Failsafe(f Facts) bool {
	return f.Direction == flow.Ingress && f.Peer.Reserved == flow.IdentityHost && !f.Peer.Outside
}

// direction returns the rules that govern d and whether d is isolated.
func (p *Policy) direction(d flow.Direction) (rules []Rule, isolated bool) {
	switch d {
	case flow.Ingress:
		return p.Ingress, p.IsolateIngress
	case flow.Egress:
		return p.Egress, p.IsolateEgress
	default:
		return nil, true
	}
}

// Rules returns the rules of direction d.
func (p *Policy) Rules(d flow.Direction) []Rule {
	rules, _ := p.direction(d)
	return rules
}

// Isolates reports whether direction d is denied but for its rules.
func (p *Policy) Isolates(d flow.Direction) bool {
	_, isolated := p.direction(d)
	return isolated && (d == flow.Ingress || d == flow.Egress)
}

func anyPeer(peers []Peer, f *Facts) bool {
	if len(peers) == 0 {
		return true
	}
	for i := range peers {
		if peers[i].matches(f) == hit {
			return true
		}
	}
	return false
}

func anyPort(ports []Port, f *Facts) bool {
	if len(ports) == 0 {
		return true
	}
	for i := range ports {
		if ports[i].matches(f) == hit {
			return true
		}
	}
	return false
}
