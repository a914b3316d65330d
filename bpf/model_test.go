package bpf

import (
	"net/netip"

	"github.com/ringfence/ringfence/internal/flow"
)

// The model is what docs/architecture.md says of the way of a packet, in plain
// Go: a map of flows, policies searched from one end to the other. Its time is
// counted in hours from now, so that the machine's own pace does not matter.

// modelPoint is an endpoint.
type modelPoint struct {
	id       uint32
	identity flow.Identity
	host     bool
	tunnels  Tunnels
	young    bool // just attached
	gone     bool // detached
}

// modelKey is a flow as its endpoint sees it.
type modelKey struct {
	local, remote         refAddr
	localPort, remotePort uint16
	protocol              uint8
	endpoint              uint32
}

// family is 0 for IPv4 and 1 for IPv6, which have a table each.
func (k modelKey) family() int {
	if netip.AddrFrom16(k.local).Is4In6() {
		return 0
	}
	return 1
}

// Sides of a flow.
const (
	localSide  = 0
	remoteSide = 1
)

type modelFlow struct {
	packets, bytes [2]uint64 // of either side, not yet in a record
	flags          [2]uint8  // likewise
	connections    uint32
	live, staged   flow.Judgement
	outcome        flow.Outcome
	judged         uint32 // epoch
	state          int
	direction      flow.Direction
	initiator      int // side
	isn            uint32
	finished       [2]bool // who sent a FIN
	lastFIN        int
	answered       bool // SYN-ACK seen
	replied        bool // a record held a packet of the responder
	untold         [2]bool
	localOrigin    bool
	sentFirst      bool
	reported       bool
	closed         bool // the sweep ends it
	ended          bool
	dying          bool
	seen, recorded int // hours: last packet, last record
}

func (f *modelFlow) unreported() bool {
	return f.packets != [2]uint64{} || f.connections > 0
}

type modelNote struct {
	src, dst refAddr
	id       uint32
	piece    uint8
	endpoint uint32
}

// modelFirst is what a first fragment tells the later ones.
type modelFirst struct {
	protocol     uint8
	sport, dport uint16
	reach        int
}

type model struct {
	owners   map[refAddr]AddressOwner
	cidrs    []CIDRIdentity
	failsafe map[Failsafe]bool
	services map[Failsafe]flow.Identity // by the same kind of key
	tables   map[TableKey]Table
	panic    bool
	epoch    uint32
	idle     [8]int // hours, by state
	interval int    // hours

	pending flow.Verdict // where an identity is not known yet

	room      int // of either family's flow table
	quota     int // of one endpoint
	noteRoom  int
	noteQuota int
	ringRoom  int // bytes

	flows    map[modelKey]*modelFlow
	used     [2]int         // flows by family
	held     map[uint32]int // flows by endpoint
	gone     map[uint32]bool
	notes    map[modelNote]modelFirst
	noted    map[uint32]int // by endpoint
	counters [kernelRfCounterRF_COUNTERS]uint64
	records  []rawRecord // in the ring
}

// ringUsed is how many bytes of the ring the records take.
func (m *model) ringUsed() (n int) {
	for i := range m.records {
		n += messageSize(&m.records[i])
	}
	return n
}

// messageSize is what a record takes in the ring, in the form that it has there
// unless counters were carried.
func messageSize(r *rawRecord) int {
	if netip.AddrFrom16(r.Src).Is4In6() {
		return record4Size + ringHeader
	}
	return recordSize + ringHeader
}

func (m *model) count(c kernelRfCounter) { m.counters[c]++ }

// arrival is one packet at one endpoint's hook.
type arrival struct {
	p       refPacket
	at      *modelPoint
	from    bool // out of the endpoint
	own     bool // no interface brought it in
	packets uint64
	bytes   uint64

	key       modelKey
	side      int
	direction flow.Direction
	initiator int
	answer    [2]flow.Judgement
}

func (a *arrival) local() refAddr {
	if a.from {
		return a.p.src
	}
	return a.p.dst
}

func (m *model) owns(at *modelPoint, a refAddr) bool {
	o, known := m.owners[a]
	return known && o.Endpoint == at.id
}

// spoofed holds for what a pod sends under another's address.
func (m *model) spoofed(a *arrival) bool {
	return a.from && !a.at.host && !m.owns(a.at, a.p.src)
}

// packet decides on one frame at a hook; at is nil on an interface
// that was never watched.
func (m *model) packet(at *modelPoint, s shot) (passed bool) {
	if at == nil || at.gone {
		m.count(kernelRfCounterRF_COUNT_NO_ENDPOINT)
		return true
	}
	p, parsed := refFrame(s.frame, s.gsoSize > 0, at.tunnels)
	a := &arrival{
		p: p, at: at, from: s.from, own: s.own, packets: uint64(max(s.gsoSegs, 1)), bytes: uint64(len(s.frame)),
	}
	switch parsed {
	case refNotIP:
		m.count(kernelRfCounterRF_COUNT_NON_IP)
		return true
	case refMalformed:
		return m.unjudged(a, kernelRfCounterRF_COUNT_MALFORMED)
	case refWhole:
	}
	if p.later {
		m.count(kernelRfCounterRF_COUNT_FRAGMENTS)
		first, noted := m.notes[a.note()]
		switch {
		case !noted:
			return m.unjudged(a, kernelRfCounterRF_COUNT_FRAGMENTS_UNMATCHED)
		case p.reach < first.reach: // would write over what was judged
			return m.unjudged(a, kernelRfCounterRF_COUNT_MALFORMED)
		}
		a.p.protocol, a.p.sport, a.p.dport = first.protocol, first.sport, first.dport
	}
	switch {
	case m.discovery(a) || m.dhcp(a):
		m.count(kernelRfCounterRF_COUNT_FAILSAFE)
		return true
	case p.src == p.dst && m.owns(at, p.src):
		m.count(kernelRfCounterRF_COUNT_SELF)
		return true
	}
	if p.first {
		m.note(a)
	}
	if p.report && m.related(a) {
		m.count(kernelRfCounterRF_COUNT_RELATED)
		return true
	}
	return m.flow(a)
}

func (a *arrival) note() modelNote {
	return modelNote{a.p.src, a.p.dst, a.p.fragment, a.p.piece, a.at.id}
}

func (m *model) note(a *arrival) {
	n := a.note()
	if _, again := m.notes[n]; !again {
		if m.noted[a.at.id] >= m.noteQuota || len(m.notes) >= m.noteRoom {
			m.count(kernelRfCounterRF_COUNT_FRAGMENTS_FULL)
			return
		}
		m.noted[a.at.id]++
	}
	m.notes[n] = modelFirst{a.p.protocol, a.p.sport, a.p.dport, a.p.reach}
}

// unjudged is the end of a packet that no rule can be asked about: it passes
// unless the way it goes is isolated.
func (m *model) unjudged(a *arrival, why kernelRfCounter) bool {
	m.count(why)
	dir := flow.Ingress
	if a.from {
		dir = flow.Egress
	}
	for slot := range a.answer {
		if m.isolates(a.at.identity, flow.Slot(slot), dir) {
			a.answer[slot] = flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonMalformed}
		}
	}
	return m.finish(a.answer[0], a.answer[1])
}

// discovery is neighbour and multicast listener discovery (RFC 4861, 3810), not
// forged and not to beyond the link.
func (m *model) discovery(a *arrival) bool {
	p := &a.p
	if !p.v6 || p.protocol != 58 || p.later {
		return false
	}
	switch {
	case p.icmp >= 133 && p.icmp <= 137:
		if p.hops != 255 {
			return false
		}
	case p.icmp >= 130 && p.icmp <= 132 || p.icmp == 143:
		if p.hops != 1 {
			return false
		}
	default:
		return false
	}
	if _, known := m.owners[p.dst]; !known && !p.dst.linkScope() {
		return false
	}
	return p.src.linkScope() || p.src == refAddr{} || !m.spoofed(a)
}

// dhcp is RFC 2131 and RFC 8415; a pod may only ask whoever is on its link.
func (m *model) dhcp(a *arrival) bool {
	p := &a.p
	client, server := uint16(68), uint16(67)
	if p.v6 {
		client, server = 546, 547
	}
	switch {
	case p.protocol != 17 || p.later:
		return false
	case !a.from:
		return p.sport == server && p.dport == client
	case p.sport != client || p.dport != server:
		return false
	case a.at.host:
		return true
	case p.v6:
		return p.dst.linkScope()
	}
	everybody := refAddr{10: 0xff, 11: 0xff, 12: 0xff, 13: 0xff, 14: 0xff, 15: 0xff}
	return p.dst == everybody || m.owners[p.dst].Identity == flow.IdentityHost
}

// related holds for an ICMP error about what its receiver sent on a flow that
// goes on.
func (m *model) related(a *arrival) bool {
	q, ok := a.p.quoted(a.at.tunnels)
	if !ok || m.spoofed(a) {
		return false
	}
	f := m.flows[keyOf(&q, a.at.id, !a.from)]
	return f != nil && m.outcome(f.live, f.staged) != flow.OutcomeDropped
}

func keyOf(p *refPacket, endpoint uint32, from bool) modelKey {
	if from {
		return modelKey{p.src, p.dst, p.sport, p.dport, p.protocol, endpoint}
	}
	return modelKey{p.dst, p.src, p.dport, p.sport, p.protocol, endpoint}
}

func (m *model) outcome(live, staged flow.Judgement) flow.Outcome {
	switch {
	case live.Verdict == flow.VerdictDeny && !m.panic:
		return flow.OutcomeDropped
	case live.Verdict == flow.VerdictDeny || staged.Verdict == flow.VerdictDeny:
		return flow.OutcomeAudited
	}
	return flow.OutcomeForwarded
}

// finish counts a judged packet and decides it.
func (m *model) finish(live, staged flow.Judgement) bool {
	outcome := m.outcome(live, staged)
	m.count(map[flow.Outcome]kernelRfCounter{
		flow.OutcomeForwarded: kernelRfCounterRF_COUNT_FORWARDED,
		flow.OutcomeAudited:   kernelRfCounterRF_COUNT_AUDITED,
		flow.OutcomeDropped:   kernelRfCounterRF_COUNT_DROPPED,
	}[outcome])
	if live.Verdict == flow.VerdictDeny {
		m.count(kernelRfCounterRF_COUNT_LIVE_DENY + kernelRfCounter(live.Reason))
	}
	if staged.Verdict == flow.VerdictDeny {
		m.count(kernelRfCounterRF_COUNT_STAGED_DENY + kernelRfCounter(staged.Reason))
	}
	return outcome != flow.OutcomeDropped
}
