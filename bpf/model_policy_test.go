package bpf

import (
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
)

// question is a flow as its endpoint sees it.
type question struct {
	at          *modelPoint
	remote      refAddr
	localPort   uint16
	remotePort  uint16
	protocol    uint8
	spoofed     bool
	localOrigin bool // the remote side is this very node
}

func (m *model) isolates(identity flow.Identity, slot flow.Slot, dir flow.Direction) bool {
	if identity == flow.IdentityUnknown {
		return m.pending == flow.VerdictDeny
	}
	t, there := m.tables[TableKey{identity, slot, dir}]
	return there && !t.Open
}

// ask judges in both slots. Of a flow whose direction nobody knows, and of a
// forged source, both directions are asked.
func (m *model) ask(q question, dir flow.Direction) (answer [2]flow.Judgement) {
	for slot := range answer {
		s := flow.Slot(slot)
		switch {
		case q.at.identity == flow.IdentityUnknown:
			answer[slot] = m.nobody(q, dir)
		case dir == flow.DirectionUnknown || q.spoofed:
			answer[slot] = m.either(q, s)
		default:
			answer[slot] = m.oneWay(q, s, dir)
		}
	}
	return answer
}

// nobody is what both slots say while nobody knows whose policy to ask.
func (m *model) nobody(q question, dir flow.Direction) flow.Judgement {
	safe := dir != flow.Ingress && m.safe(q, flow.Egress) || dir != flow.Egress && m.safe(q, flow.Ingress)
	if m.pending == flow.VerdictDeny && safe {
		return flow.Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonFailsafe}
	}
	return flow.Judgement{Verdict: m.pending, Reason: flow.ReasonPending}
}

// either allows what one direction allows; a forged source needs both.
func (m *model) either(q question, slot flow.Slot) flow.Judgement {
	out, in := m.oneWay(q, slot, flow.Egress), m.oneWay(q, slot, flow.Ingress)
	judged := out
	if out.Verdict == flow.VerdictUnknown {
		judged = in
	}
	switch {
	case out.Verdict == flow.VerdictUnknown && in.Verdict == flow.VerdictUnknown:
		return out
	case q.spoofed && in.Verdict == flow.VerdictDeny:
		return in
	case q.spoofed:
		return judged
	case out.Reason == flow.ReasonFailsafe:
		return out
	case in.Reason == flow.ReasonFailsafe:
		return in
	}
	judged.Reason = flow.ReasonMidstream
	if out.Verdict != flow.VerdictDeny || in.Verdict != flow.VerdictDeny {
		judged.Verdict = flow.VerdictAllow
	}
	return judged
}

// oneWay judges a flow of a known direction in one slot.
func (m *model) oneWay(q question, slot flow.Slot, dir flow.Direction) flow.Judgement {
	t, there := m.tables[TableKey{q.at.identity, slot, dir}]
	j := flow.Judgement{Reason: flow.ReasonNoPolicy}
	if q.spoofed {
		j.Reason = flow.ReasonSpoofed
	}
	if !there {
		return j
	}
	j.Revision = t.Revision
	switch {
	case t.Open:
		j.Verdict = flow.VerdictAllow
	case q.spoofed:
		j.Verdict = flow.VerdictDeny
	case m.safe(q, dir):
		j.Verdict, j.Reason = flow.VerdictAllow, flow.ReasonFailsafe
	case m.matches(q, m.tables[TableKey{q.at.identity, SlotGuardrail, dir}], dir):
		j.Verdict, j.Reason = flow.VerdictDeny, flow.ReasonGuardrail
	case m.matches(q, t, dir):
		j.Verdict, j.Reason = flow.VerdictAllow, flow.ReasonRule
	case m.peer(q.remote) == flow.IdentityUnknown:
		j.Verdict, j.Reason = m.pending, flow.ReasonPending
	default:
		j.Verdict, j.Reason = flow.VerdictDeny, flow.ReasonDefault
	}
	return j
}

// safe is what the node sends to its endpoints, and its own way out.
func (m *model) safe(q question, dir flow.Direction) bool {
	if dir == flow.Ingress {
		return m.peer(q.remote) == flow.IdentityHost && q.localOrigin && !q.at.host
	}
	return m.failsafe[q.destination()]
}

func (q *question) destination() Failsafe {
	return Failsafe{flow.Protocol(q.protocol), netip.AddrPortFrom(netip.AddrFrom16(q.remote).Unmap(), q.remotePort)}
}

func (m *model) peer(a refAddr) flow.Identity {
	if o, known := m.owners[a]; known {
		return o.Identity
	}
	return flow.IdentityWorld
}

// prefix is the identity of the longest prefix that holds a, 0 for none.
func (m *model) prefix(a refAddr) flow.Identity {
	addr := netip.AddrFrom16(a).Unmap()
	longest, identity := -1, flow.Identity(0)
	for _, c := range m.cidrs {
		if c.Prefix.Contains(addr) && c.Prefix.Bits() > longest {
			longest, identity = c.Prefix.Bits(), c.Identity
		}
	}
	return identity
}

// matches holds if an entry of t names the flow. A peer that is not known yet is
// found by its address or as anybody.
func (m *model) matches(q question, t Table, dir flow.Direction) bool {
	peer, prefix, port := m.peer(q.remote), flow.Identity(0), q.localPort
	if service := m.services[q.destination()]; dir == flow.Egress && service != 0 && peer == flow.IdentityWorld {
		return slices.ContainsFunc(t.Entries, func(e Entry) bool {
			return e.Peer == PeerAny && e.Protocol == 0 || e.Peer == service && (e.Protocol == 0 || uint8(e.Protocol) == q.protocol && e.First <= q.remotePort && q.remotePort <= e.Last)
		})
	}
	if t.UsesCIDRs {
		prefix = m.prefix(q.remote)
	}
	if dir == flow.Egress {
		port = q.remotePort
	}
	for _, e := range t.Entries {
		known := peer != flow.IdentityUnknown && e.Peer == peer
		if !known && e.Peer != PeerAny && (prefix == 0 || e.Peer != prefix) {
			continue
		}
		if e.Protocol == 0 || uint8(e.Protocol) == q.protocol && e.First <= port && port <= e.Last {
			return true
		}
	}
	return false
}
