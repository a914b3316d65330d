package verdict

import (
	"fmt"
	"net/netip"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/test/wire"
)

// frame is one packet of the endpoint's, as it is on the wire.
type frame struct {
	host   bool // the endpoint is the node itself, not a pod
	from   bool // the endpoint sends it
	local  bool // the node itself made it
	forged bool // from, and the source is not the endpoint's

	own  netip.Addr
	peer policy.PeerFacts

	protocol     flow.Protocol
	sport, dport uint16 // TCP, UDP, SCTP
	flags        string // TCP: of S, A, F, R
	kind, code   uint8  // ICMP and ICMPv6
	id           uint16
	hops         uint8 // 64 unless given

	mark uint64
}

func (f *frame) source() netip.Addr {
	if f.from {
		return f.own
	}
	return f.peer.Addr
}

func (f *frame) destination() netip.Addr {
	if f.from {
		return f.peer.Addr
	}
	return f.own
}

func (f *frame) icmp() bool { return f.protocol == flow.ICMP || f.protocol == flow.ICMPv6 }

func (f *frame) String() string {
	where := "pod"
	if f.host {
		where = "host"
	}
	what := fmt.Sprintf("ports %d > %d %s", f.sport, f.dport, f.flags)
	if f.icmp() {
		what = fmt.Sprintf("type %d code %d id %d", f.kind, f.code, f.id)
	}
	return fmt.Sprintf("%s from=%t local=%t forged=%t %s %s > %s %s", where, f.from, f.local, f.forged, f.protocol,
		f.source(), f.destination(), what)
}

// bytes builds the frame.
func (f *frame) bytes() ([]byte, error) {
	p := wire.Packet{
		Source: f.source(), Destination: f.destination(), Protocol: f.protocol, SPort: f.sport, DPort: f.dport, Flags: f.flags,
		Kind: f.kind, Code: f.code, ID: f.id, Hops: f.hops, Mark: f.mark,
	}
	return p.Bytes()
}

// answers reports whether f shows by itself that its sender did not begin the
// flow, and opens whether it shows who did at all.
func (f *frame) answers() bool {
	switch f.protocol {
	case flow.TCP, flow.SCTP:
		return f.flags == "SA"
	case flow.ICMP:
		return f.kind == 0 || f.kind == 14 || f.kind == 16 || f.kind == 18
	case flow.ICMPv6:
		return f.kind == 129
	default:
		return false
	}
}

func (f *frame) opens() bool {
	return !f.shakesHands() || f.flags == "S" || f.flags == "SA"
}

// shakesHands reports whether f's protocol shows where a connection begins.
func (f *frame) shakesHands() bool { return f.protocol == flow.TCP || f.protocol == flow.SCTP }

// service is what an ICMP flow has for the responder's port: the request's type
// and code, also where f is the answer.
func (f *frame) service() uint16 {
	kind := f.kind
	if f.answers() {
		switch {
		case f.protocol == flow.ICMPv6:
			kind = 128
		case kind == 0:
			kind = 8
		default:
			kind--
		}
	}
	return uint16(kind)<<8 | uint16(f.code)
}

// identified reports whether f's ICMP type has an identifier.
func (f *frame) identified() bool {
	if f.protocol == flow.ICMPv6 {
		return f.kind == 128 || f.kind == 129
	}
	return f.kind == 0 || f.kind == 8 || f.kind >= 13 && f.kind <= 18
}

// key is the flow's, from its initiator's side; who sent f is taken for it
// unless f answers.
func (f *frame) key() flow.Key {
	k := flow.Key{
		Source: f.source(), Destination: f.destination(), Protocol: f.protocol,
		SourcePort: f.sport, DestinationPort: f.dport,
	}
	if f.icmp() {
		k.SourcePort, k.DestinationPort = 0, f.service()
		if f.identified() {
			k.SourcePort = f.id
		}
	}
	if f.answers() {
		k.Source, k.Destination = k.Destination, k.Source
		if !f.icmp() {
			k.SourcePort, k.DestinationPort = k.DestinationPort, k.SourcePort
		}
	}
	return k
}

// ports are those of the endpoint and of its peer.
func (f *frame) ports() (own, peer uint16) {
	switch {
	case f.icmp():
		return f.service(), f.service()
	case f.from:
		return f.sport, f.dport
	}
	return f.dport, f.sport
}

// silent reports whether f leaves no flow and no record: nobody can say whose
// it is, or it never leaves the endpoint.
func (f *frame) silent() bool {
	return f.shakesHands() && f.flags == "R" || f.own == f.peer.Addr
}

// slot is one slot's policy; p is nil when the slot is empty.
type slot struct {
	p        *policy.Policy
	revision uint32
	beside   policy.Evaluator // guardrails, and the answer to pending peers
}

// direction is the flow's as the endpoint must see it. A fresh endpoint may see
// an answer first, unless its live policy isolates the way that f goes.
func (f *frame) direction(live slot, fresh bool) flow.Direction {
	d, back := flow.Ingress, flow.Egress
	if f.from {
		d, back = back, d
	}
	switch {
	case !f.opens():
		return flow.DirectionUnknown
	case !f.shakesHands() && !f.icmp() && fresh && (live.p == nil || !live.p.Isolates(d)):
		return flow.DirectionUnknown
	case f.answers():
		return back
	}
	return d
}

// judge is what s must say of f's flow.
func (f *frame) judge(s slot, d flow.Direction) flow.Judgement {
	if f.forged {
		return forgedBy(s)
	}
	peer := f.peer
	peer.Outside = f.host || !f.from && !f.local
	own, far := f.ports()
	var j policy.Judgement
	switch d {
	case flow.Ingress:
		j = s.beside.Evaluate(s.p, policy.Facts{Direction: d, Peer: peer, Protocol: f.protocol, Port: own})
	case flow.Egress:
		j = s.beside.Evaluate(s.p, policy.Facts{Direction: d, Peer: peer, Protocol: f.protocol, Port: far})
	default:
		j = s.beside.EvaluateMidstream(s.p, peer, f.protocol, own, far)
	}
	return flow.Judgement{Verdict: j.Verdict, Reason: j.Reason, Revision: s.revision}
}

// forgedBy is what s says of a source that is not the endpoint's: it has no
// permission in a workload that is isolated at all.
func forgedBy(s slot) flow.Judgement {
	j := flow.Judgement{Reason: flow.ReasonSpoofed, Revision: s.revision}
	switch {
	case s.p == nil:
	case s.p.IsolateIngress || s.p.IsolateEgress:
		j.Verdict = flow.VerdictDeny
	default:
		j.Verdict = flow.VerdictAllow
	}
	return j
}

// outcomeOf is what both slots together do to a packet.
func outcomeOf(live, staged flow.Judgement, panicked bool) flow.Outcome {
	switch {
	case live.Verdict == flow.VerdictDeny && !panicked:
		return flow.OutcomeDropped
	case live.Verdict == flow.VerdictDeny || staged.Verdict == flow.VerdictDeny:
		return flow.OutcomeAudited
	}
	return flow.OutcomeForwarded
}
