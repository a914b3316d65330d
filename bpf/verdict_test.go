package bpf

import (
	"net/netip"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
)

// packetRule pairs a packet that a policy allows with one that it denies.
type packetRule struct {
	name     string
	tables   []Table
	cidrs    func(family int) []CIDRIdentity
	services func(family int) []ServiceIdentity
	pending  party // whose identity is not known yet, and who is denied for that
	allowed  func(family int) packet
	denied   func(family int) packet
	reason   flow.Reason // of the denial
}

func between(src, dst party, build func(src, dst netip.Addr) packet) func(int) packet {
	return func(family int) packet { return build(src.in(family), dst.in(family)) }
}

func syn(sport, dport uint16) func(src, dst netip.Addr) packet {
	return func(src, dst netip.Addr) packet { return tcp(src, dst, sport, dport, "S") }
}

func datagram(sport, dport uint16) func(src, dst netip.Addr) packet {
	return func(src, dst netip.Addr) packet { return udp(src, dst, sport, dport) }
}

func ping(src, dst netip.Addr) packet { return echo(src, dst, 7, false) }

// icmpEntries match an echo request's first codes, of either family.
func icmpEntries(peer flow.Identity, codes uint16) []Entry {
	return []Entry{
		{Peer: peer, Protocol: flow.ICMP, First: 8 << 8, Last: 8<<8 + codes - 1},
		{Peer: peer, Protocol: flow.ICMPv6, First: 128 << 8, Last: 128<<8 + codes - 1},
	}
}

const (
	cidrIdent    = flow.FirstCIDRIdentity + 5
	serviceIdent = flow.FirstServiceIdentity + 5
)

func worldPrefix(family int) []CIDRIdentity {
	p := netip.PrefixFrom(world.in(family), world.in(family).BitLen()-8).Masked()
	// The hole in the middle names no entry's identity.
	hole := netip.PrefixFrom(world.in(family).Next(), world.in(family).BitLen())
	return []CIDRIdentity{{p, cidrIdent}, {hole, cidrIdent + 1}}
}

// worldServices makes TCP ports of world's address a service's, the first of
// serviceIdent, the next of the one after.
func worldServices(ports ...uint16) func(family int) []ServiceIdentity {
	return func(family int) []ServiceIdentity { return servicesAt(world.in(family), ports...) }
}

func servicesAt(a netip.Addr, ports ...uint16) []ServiceIdentity {
	var list []ServiceIdentity
	for i, port := range ports {
		list = append(list, ServiceIdentity{flow.TCP, netip.AddrPortFrom(a, port), serviceIdent + flow.Identity(i)})
	}
	return list
}

func cidrTable(dir flow.Direction, e ...Entry) Table {
	t := live(dir, 1, e...)
	t.UsesCIDRs = true
	return t
}

var packetRules = []packetRule{
	{
		name:    "exact peer and port, egress",
		tables:  []Table{live(flow.Egress, 1, allow(dbIdent, flow.TCP, 5432))},
		allowed: between(web, db, syn(40000, 5432)),
		denied:  between(web, evil, syn(40000, 5432)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "exact peer, other port, egress",
		tables:  []Table{live(flow.Egress, 1, allow(dbIdent, flow.TCP, 5432))},
		allowed: between(web, db, syn(40000, 5432)),
		denied:  between(web, db, syn(40000, 5433)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "exact peer and port, ingress",
		tables:  []Table{live(flow.Ingress, 1, allow(dbIdent, flow.TCP, 80))},
		allowed: between(db, web, syn(40000, 80)),
		denied:  between(evil, web, syn(40000, 80)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "the initiator's port does not count",
		tables:  []Table{live(flow.Ingress, 1, allow(dbIdent, flow.TCP, 80))},
		allowed: between(db, web, syn(80, 80)),
		denied:  between(db, web, syn(80, 81)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "TCP is not UDP",
		tables:  []Table{live(flow.Egress, 1, allow(dbIdent, flow.UDP, 53))},
		allowed: between(web, db, datagram(40000, 53)),
		denied:  between(web, db, syn(40000, 53)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "every port of one protocol",
		tables:  []Table{live(flow.Egress, 1, Entry{Peer: dbIdent, Protocol: flow.TCP, Last: 65535})},
		allowed: between(web, db, syn(40000, 1)),
		denied:  between(web, db, datagram(40000, 1)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "every protocol",
		tables:  []Table{live(flow.Egress, 1, Entry{Peer: dbIdent})},
		allowed: between(web, db, ping),
		denied:  between(web, evil, ping),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "start of a range",
		tables:  []Table{live(flow.Egress, 1, Entry{Peer: dbIdent, Protocol: flow.TCP, First: 8064, Last: 8127})},
		allowed: between(web, db, syn(40000, 8064)),
		denied:  between(web, db, syn(40000, 8063)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "end of a range",
		tables:  []Table{live(flow.Egress, 1, Entry{Peer: dbIdent, Protocol: flow.TCP, First: 8064, Last: 8127})},
		allowed: between(web, db, syn(40000, 8127)),
		denied:  between(web, db, syn(40000, 8128)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "ICMP type and code",
		tables:  []Table{live(flow.Egress, 1, icmpEntries(dbIdent, 1)...)},
		allowed: between(web, db, ping),
		denied: func(family int) packet {
			p := ping(web.in(family), db.in(family))
			p.dport = 10<<8 | 1
			if family == 6 {
				p.dport = 139<<8 | 1
			}
			return p
		},
		reason: flow.ReasonDefault,
	},
	{
		name:    "ICMP type with any code",
		tables:  []Table{live(flow.Egress, 1, icmpEntries(dbIdent, 256)...)},
		allowed: between(web, db, ping),
		denied:  between(web, evil, ping),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "ICMP type with any code, not another type",
		tables:  []Table{live(flow.Egress, 1, icmpEntries(dbIdent, 256)...)},
		allowed: func(family int) packet { p := ping(web.in(family), db.in(family)); p.dport |= 1; return p },
		denied: func(family int) packet {
			p := ping(web.in(family), db.in(family))
			p.dport = 10 << 8
			if family == 6 {
				p.dport = 139 << 8
			}
			return p
		},
		reason: flow.ReasonDefault,
	},
	{
		name:    "another node, by its reserved identity",
		tables:  []Table{live(flow.Ingress, 1, allow(flow.IdentityRemoteNode, flow.TCP, 80))},
		allowed: between(other, web, syn(40000, 80)),
		denied:  between(node, web, syn(40000, 80)),
		reason:  flow.ReasonDefault,
	},
	{
		name:   "one address of the world",
		tables: []Table{cidrTable(flow.Egress, allow(cidrIdent, flow.TCP, 443))},
		cidrs: func(family int) []CIDRIdentity {
			return []CIDRIdentity{{netip.PrefixFrom(world.in(family), world.in(family).BitLen()), cidrIdent}}
		},
		allowed: between(web, world, syn(40000, 443)),
		denied: func(family int) packet {
			return tcp(web.in(family), world.in(family).Next(), 40000, 443, "S")
		},
		reason: flow.ReasonDefault,
	},
	{
		name:    "any peer",
		tables:  []Table{live(flow.Egress, 1, allow(PeerAny, flow.TCP, 443))},
		allowed: between(web, world, syn(40000, 443)),
		denied:  between(web, world, syn(40000, 444)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "world is who is not in the inventory",
		tables:  []Table{live(flow.Egress, 1, allow(flow.IdentityWorld, flow.TCP, 443))},
		allowed: between(web, world, syn(40000, 443)),
		denied:  between(web, evil, syn(40000, 443)),
		reason:  flow.ReasonDefault,
	},
	{
		name:     "a service's port is not its address's",
		tables:   []Table{live(flow.Egress, 1, allow(flow.IdentityWorld, flow.TCP, 443))},
		services: worldServices(80),
		allowed:  between(web, world, syn(40000, 443)),
		denied:   between(web, world, syn(40000, 80)),
		reason:   flow.ReasonDefault,
	},
	{
		name: "a service's port is what stands behind it, not anybody",
		tables: []Table{live(flow.Egress, 1, allow(serviceIdent, flow.TCP, 80),
			allow(PeerAny, flow.TCP, 443), Entry{Peer: flow.IdentityWorld})},
		services: worldServices(80, 443),
		allowed:  between(web, world, syn(40000, 80)),
		denied:   between(web, world, syn(40000, 443)),
		reason:   flow.ReasonDefault,
	},
	{
		name:     "a service's port, not the prefix that its address is in",
		tables:   []Table{cidrTable(flow.Egress, allow(cidrIdent, flow.TCP, 443), allow(cidrIdent, flow.TCP, 80))},
		cidrs:    worldPrefix,
		services: worldServices(80),
		allowed:  between(web, world, syn(40000, 443)),
		denied:   between(web, world, syn(40000, 80)),
		reason:   flow.ReasonDefault,
	},
	{
		name:     "everything is what stands behind a service too",
		tables:   []Table{live(flow.Egress, 1, Entry{Peer: PeerAny}), guardrail(flow.Egress, allow(serviceIdent+1, flow.TCP, 443))},
		services: worldServices(80, 443),
		allowed:  between(web, world, syn(40000, 80)),
		denied:   between(web, world, syn(40000, 443)),
		reason:   flow.ReasonGuardrail,
	},
	{
		name:     "a service's port of one protocol",
		tables:   []Table{live(flow.Egress, 1, Entry{Peer: flow.IdentityWorld})},
		services: worldServices(53),
		allowed:  between(web, world, datagram(40000, 53)),
		denied:   between(web, world, syn(40000, 53)),
		reason:   flow.ReasonDefault,
	},
	{
		name:   "a service's UDP port",
		tables: []Table{live(flow.Egress, 1, allow(serviceIdent, flow.UDP, 53), allow(flow.IdentityWorld, flow.UDP, 443))},
		services: func(family int) []ServiceIdentity {
			list := servicesAt(world.in(family), 53, 443)
			list[0].Protocol, list[1].Protocol = flow.UDP, flow.UDP
			return list
		},
		allowed: between(web, world, datagram(40000, 53)),
		denied:  between(web, world, datagram(40000, 443)),
		reason:  flow.ReasonDefault,
	},
	{
		name:     "who sends from a service's port is not the service",
		tables:   []Table{live(flow.Ingress, 1, allow(flow.IdentityWorld, flow.TCP, 80))},
		services: worldServices(40000),
		allowed:  between(world, web, syn(40000, 80)),
		denied:   between(world, web, syn(40000, 81)),
		reason:   flow.ReasonDefault,
	},
	{
		name: "a guardrail of what stands behind a service",
		tables: []Table{live(flow.Egress, 1, allow(serviceIdent, flow.TCP, 80), allow(serviceIdent+1, flow.TCP, 443)),
			guardrail(flow.Egress, Entry{Peer: serviceIdent + 1})},
		services: worldServices(80, 443),
		allowed:  between(web, world, syn(40000, 80)),
		denied:   between(web, world, syn(40000, 443)),
		reason:   flow.ReasonGuardrail,
	},
	{
		name:     "an address with an owner is no service's",
		tables:   []Table{live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80))},
		services: func(family int) []ServiceIdentity { return servicesAt(db.in(family), 80) },
		allowed:  between(web, db, syn(40000, 80)),
		denied:   between(web, evil, syn(40000, 80)),
		reason:   flow.ReasonDefault,
	},
	{
		name:    "another node is not this one",
		tables:  []Table{live(flow.Ingress, 1, allow(dbIdent, flow.TCP, 80))},
		allowed: between(db, web, syn(40000, 80)),
		denied:  between(other, web, syn(40000, 80)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "the node's address, brought in by an interface",
		tables:  []Table{live(flow.Ingress, 1, allow(dbIdent, flow.TCP, 80))},
		allowed: between(db, web, syn(40000, 80)),
		denied:  between(node, web, syn(40000, 80)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "prefix",
		tables:  []Table{cidrTable(flow.Egress, allow(cidrIdent, flow.TCP, 443))},
		cidrs:   worldPrefix,
		allowed: between(web, world, syn(40000, 443)),
		denied:  between(web, evil, syn(40000, 443)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "longer prefix",
		tables:  []Table{cidrTable(flow.Egress, allow(cidrIdent, flow.TCP, 443))},
		cidrs:   worldPrefix,
		allowed: between(web, world, syn(40000, 443)),
		denied: func(family int) packet {
			return tcp(web.in(family), world.in(family).Next(), 40000, 443, "S")
		},
		reason: flow.ReasonDefault,
	},
	{
		name:   "prefix of an address that is a workload's",
		tables: []Table{cidrTable(flow.Egress, allow(cidrIdent, flow.TCP, 443))},
		cidrs: func(family int) []CIDRIdentity {
			return []CIDRIdentity{{netip.PrefixFrom(db.in(family), db.in(family).BitLen()), cidrIdent}}
		},
		allowed: between(web, db, syn(40000, 443)),
		denied:  between(web, evil, syn(40000, 443)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "own source address",
		tables:  []Table{live(flow.Egress, 1, Entry{Peer: dbIdent})},
		allowed: between(web, db, syn(40000, 80)),
		denied:  between(evil, db, syn(40000, 80)),
		reason:  flow.ReasonSpoofed,
	},
	{
		name:    "own source address, only ingress isolated",
		tables:  []Table{live(flow.Ingress, 1, Entry{Peer: dbIdent})},
		allowed: between(web, db, syn(40000, 80)),
		denied:  between(evil, db, syn(40000, 80)),
		reason:  flow.ReasonSpoofed,
	},
	{
		name:   "no SYN, allowed as an answer",
		tables: []Table{live(flow.Egress, 1), live(flow.Ingress, 1, allow(dbIdent, flow.TCP, 80))},
		allowed: func(family int) packet {
			return tcp(web.in(family), db.in(family), 80, 40000, "A")
		},
		denied: func(family int) packet {
			return tcp(web.in(family), db.in(family), 81, 40000, "A")
		},
		reason: flow.ReasonMidstream,
	},
	{
		name:   "no SYN, allowed as a request",
		tables: []Table{live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80)), live(flow.Ingress, 1)},
		allowed: func(family int) packet {
			return tcp(web.in(family), db.in(family), 40000, 80, "A")
		},
		denied: func(family int) packet {
			return tcp(web.in(family), db.in(family), 40000, 81, "A")
		},
		reason: flow.ReasonMidstream,
	},
	{
		name:    "echo answer without its request is judged as the request's",
		tables:  []Table{live(flow.Egress, 1), live(flow.Ingress, 1, icmpEntries(dbIdent, 1)...)},
		allowed: func(family int) packet { return echo(web.in(family), db.in(family), 9, true) },
		denied:  func(family int) packet { return echo(web.in(family), evil.in(family), 9, true) },
		reason:  flow.ReasonDefault,
	},
	{
		name:    "other protocols by number",
		tables:  []Table{live(flow.Egress, 1, Entry{Peer: dbIdent, Protocol: 47, Last: 65535})},
		allowed: func(family int) packet { return packet{src: web.in(family), dst: db.in(family), proto: 47} },
		denied:  func(family int) packet { return packet{src: web.in(family), dst: db.in(family), proto: 50} },
		reason:  flow.ReasonDefault,
	},
	{
		name:   "SCTP has ports",
		tables: []Table{live(flow.Egress, 1, allow(dbIdent, flow.SCTP, 3868))},
		allowed: func(family int) packet {
			p, _ := sctp(family, web, db)
			return p.chunk(sctpInit, 1)
		},
		denied: func(family int) packet {
			p, _ := sctp(family, web, db)
			p.dport++
			return p.chunk(sctpInit, 1)
		},
		reason: flow.ReasonDefault,
	},
	{
		name:    "tagged frames",
		tables:  []Table{live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80))},
		allowed: func(family int) packet { p := tcp(web.in(family), db.in(family), 1, 80, "S"); p.vlans = 1; return p },
		denied:  func(family int) packet { p := tcp(web.in(family), db.in(family), 1, 81, "S"); p.vlans = 2; return p },
		reason:  flow.ReasonDefault,
	},
	{
		name:    "guardrail before the rule, egress",
		tables:  []Table{live(flow.Egress, 1, Entry{Peer: dbIdent, Protocol: flow.TCP, Last: 65535}), guardrail(flow.Egress, allow(dbIdent, flow.TCP, 22))},
		allowed: between(web, db, syn(40000, 80)),
		denied:  between(web, db, syn(40000, 22)),
		reason:  flow.ReasonGuardrail,
	},
	{
		name:    "guardrail before the rule, ingress",
		tables:  []Table{live(flow.Ingress, 1, Entry{Peer: PeerAny}), guardrail(flow.Ingress, Entry{Peer: evilIdent})},
		allowed: between(db, web, ping),
		denied:  between(evil, web, ping),
		reason:  flow.ReasonGuardrail,
	},
	{
		name: "guardrail for anybody and a range",
		tables: []Table{
			live(flow.Egress, 1, Entry{Peer: PeerAny}),
			guardrail(flow.Egress, Entry{Peer: PeerAny, Protocol: flow.TCP, First: 8064, Last: 8127}),
		},
		allowed: between(web, world, syn(40000, 8128)),
		denied:  between(web, world, syn(40000, 8127)),
		reason:  flow.ReasonGuardrail,
	},
	{
		name: "guardrail of a prefix",
		tables: []Table{
			live(flow.Egress, 1, Entry{Peer: PeerAny}),
			func() Table { t := guardrail(flow.Egress, Entry{Peer: cidrIdent}); t.UsesCIDRs = true; return t }(),
		},
		cidrs:   worldPrefix,
		allowed: func(family int) packet { return udp(web.in(family), world.in(family).Next(), 1, 53) },
		denied:  between(web, world, datagram(1, 53)),
		reason:  flow.ReasonGuardrail,
	},
	{
		name:    "guardrail of the other direction",
		tables:  []Table{live(flow.Ingress, 1, Entry{Peer: dbIdent}), guardrail(flow.Egress, Entry{Peer: PeerAny})},
		allowed: between(db, web, syn(40000, 80)),
		denied:  between(evil, web, syn(40000, 80)),
		reason:  flow.ReasonDefault,
	},
	{
		name:    "pending peer is matched as anybody, not as who it was",
		tables:  []Table{live(flow.Egress, 1, Entry{Peer: evilIdent}, Entry{Peer: flow.IdentityWorld}, allow(PeerAny, flow.UDP, 53))},
		pending: evil,
		allowed: between(web, evil, datagram(40000, 53)),
		denied:  between(web, evil, datagram(40000, 54)),
		reason:  flow.ReasonPending,
	},
	{
		name:   "pending peer is matched by its address",
		tables: []Table{cidrTable(flow.Ingress, allow(cidrIdent, flow.TCP, 443))},
		cidrs: func(family int) []CIDRIdentity {
			return []CIDRIdentity{{netip.PrefixFrom(evil.in(family), evil.in(family).BitLen()), cidrIdent}}
		},
		pending: evil,
		allowed: between(evil, web, syn(40000, 443)),
		denied:  between(evil, web, syn(40000, 444)),
		reason:  flow.ReasonPending,
	},
	{
		name:    "who is known is not pending",
		tables:  []Table{live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80))},
		pending: evil,
		allowed: between(web, db, syn(40000, 80)),
		denied:  between(web, db, syn(40000, 81)),
		reason:  flow.ReasonDefault,
	},
}

// sent runs p out of web unless it is addressed to it: a forged source must not
// pick the hook.
func (l *lab) sent(p packet) uint32 {
	l.t.Helper()
	if p.dst == web.v4 || p.dst == web.v6 {
		return l.to(p.frame(l.t))
	}
	return l.from(p.frame(l.t))
}

// lab makes the rule's, without its tables.
func (r packetRule) lab(t *testing.T, family int) *lab {
	t.Helper()
	l := newLab(t)
	if r.cidrs != nil {
		if _, err := l.d.SetCIDRs(r.cidrs(family)); err != nil {
			t.Fatal(err)
		}
	}
	if r.services != nil {
		if _, err := l.d.SetServices(r.services(family)); err != nil {
			t.Fatal(err)
		}
	}
	if r.pending.v4.IsValid() {
		l.forget(r.pending)
		if err := l.d.SetPending(flow.VerdictDeny); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// TestLiveVerdict checks what the live slot lets through and what not, and what
// the records say of either.
func TestLiveVerdict(t *testing.T) {
	for _, rule := range packetRules {
		t.Run(rule.name, func(t *testing.T) {
			families(t, func(t *testing.T, family int) {
				l := rule.lab(t, family)
				l.apply(rule.tables...)
				p := rule.allowed(family)
				if code := l.sent(p); code != pass {
					t.Errorf("allowed packet %s: %s", p, verdictName(code))
				}
				if r := l.record(); r.Outcome != flow.OutcomeForwarded || r.Live.Verdict == flow.VerdictDeny ||
					r.Event != flow.EventNew || r.Connections != 1 {
					t.Errorf("record of the allowed packet: %+v", r)
				}
				p = rule.denied(family)
				if code := l.sent(p); code != drop {
					t.Errorf("denied packet %s: %s", p, verdictName(code))
				}
				if r := l.record(); r.Outcome != flow.OutcomeDropped || r.Live.Verdict != flow.VerdictDeny ||
					r.Live.Reason != rule.reason || r.Live.Revision != 1 {
					t.Errorf("record of the denied packet: %+v", r)
				}
				if n := l.counter(LiveDeny(rule.reason)); n != 1 {
					t.Errorf("%d packets counted as denied, want 1", n)
				}
			})
		})
	}
}

// TestStagedVerdict checks that the same policies, staged, judge the same and
// drop nothing.
func TestStagedVerdict(t *testing.T) {
	for _, rule := range packetRules {
		t.Run(rule.name, func(t *testing.T) {
			families(t, func(t *testing.T, family int) {
				l := rule.lab(t, family)
				for _, table := range rule.tables {
					if table.Slot == flow.SlotLive {
						table.Slot = flow.SlotStaged
					}
					l.apply(table)
				}
				if code := l.sent(rule.allowed(family)); code != pass {
					t.Errorf("allowed packet: %s", verdictName(code))
				}
				if r := l.record(); r.Outcome != flow.OutcomeForwarded || r.Staged.Verdict == flow.VerdictDeny {
					t.Errorf("record of the allowed packet: %+v", r)
				}
				if code := l.sent(rule.denied(family)); code != pass {
					t.Errorf("packet that would be denied: %s", verdictName(code))
				}
				r := l.record()
				if r.Outcome != flow.OutcomeAudited || r.Staged.Verdict != flow.VerdictDeny ||
					r.Staged.Reason != rule.reason || r.Staged.Revision != 1 || r.Live.Verdict != flow.VerdictUnknown {
					t.Errorf("record of the packet that would be denied: %+v", r)
				}
				if n := l.counter(StagedDeny(rule.reason)); n != 1 {
					t.Errorf("%d packets counted as staged denials, want 1", n)
				}
			})
		})
	}
}

// TestObserve checks that without tables everything passes and nothing counts
// as judged.
func TestObserve(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		l.want(pass, tcp(web.in(family), world.in(family), 40000, 443, "S"), "observed")
		r := l.record()
		if r.Live != (flow.Judgement{Reason: flow.ReasonNoPolicy}) || r.Staged != r.Live || r.Outcome != flow.OutcomeForwarded {
			t.Errorf("record: %+v", r)
		}
		if code := l.from(tcp(evil.in(family), world.in(family), 1, 2, "S").frame(t)); code != pass {
			t.Errorf("forged source: %s", verdictName(code))
		}
		if r := l.record(); r.Live.Reason != flow.ReasonSpoofed || r.Live.Verdict != flow.VerdictUnknown {
			t.Errorf("record of the forged source: %+v", r)
		}
	})
}

// TestOpenTable checks a revision that isolates nothing.
func TestOpenTable(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		open := live(flow.Egress, 9)
		open.Open = true
		l.apply(open)
		l.want(pass, tcp(web.in(family), world.in(family), 40000, 443, "S"), "open")
		want := flow.Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonNoPolicy, Revision: 9}
		if r := l.record(); r.Live != want {
			t.Errorf("record: %+v", r)
		}
		l.apply(live(flow.Egress, 10))
		l.want(drop, tcp(web.in(family), world.in(family), 40001, 443, "S"), "isolated")
	})
}
