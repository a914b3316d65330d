package bpf

import "github.com/ringfence/ringfence/internal/flow"

const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// flow decides on a packet that belongs to a flow, or begins one.
func (m *model) flow(a *arrival) bool {
	a.key, a.side = keyOf(&a.p, a.at.id, a.from), remoteSide
	if a.from {
		a.side = localSide
	}
	f := m.flows[a.key]
	late := a.p.later || a.p.shakes() && a.p.flags&tcpRST != 0 // no flow begins so
	if f == nil || f.dying && late {
		return m.unknown(a, late)
	}
	event := flow.EventNone
	if f.dying {
		f.dying = false
		m.begin(a)
		event = flow.EventNew
	} else {
		if f.judged != m.epoch && m.again(a, f) {
			event = flow.EventVerdict
		}
		same, restarts := m.begins(a, f)
		if !same {
			if event != flow.EventNone {
				m.record(a.key, f, event, 0)
			}
			return m.alone(a)
		}
		if restarts {
			event = flow.EventNew
		}
	}
	if event == flow.EventNew {
		m.restart(a, f)
	}
	m.add(a, f)
	if a.p.shakes() && !a.p.later {
		step(a, f)
	}
	if event != flow.EventNone {
		m.record(a.key, f, event, 0)
	}
	return m.finish(f.live, f.staged)
}

func (m *model) add(a *arrival, f *modelFlow) {
	f.packets[a.side] += a.packets
	f.bytes[a.side] += a.bytes
	f.flags[a.side] |= a.p.flags
	f.seen = 0
}

// alone decides on a packet by itself.
func (m *model) alone(a *arrival) bool {
	m.count(kernelRfCounterRF_COUNT_STATELESS)
	return m.finish(a.answer[0], a.answer[1])
}

// begins says whether a packet may touch the flow of its tuple, and whether it
// begins a new one. What is dropped has no answers, so that its other side may.
func (m *model) begins(a *arrival, f *modelFlow) (same, restarts bool) {
	opens := a.p.opens() || !a.p.later && !a.p.shakes() && a.p.protocol != 1 && a.p.protocol != 58
	dropped := f.live.Verdict == flow.VerdictDeny && !m.panic
	if opens && dropped && a.side != f.initiator && f.direction != flow.DirectionUnknown && f.state != stateClosing {
		m.begin(a)
		return true, a.answer[0].Verdict != flow.VerdictDeny
	}
	if !a.p.opens() {
		return true, false
	}
	return m.syn(a, f)
}

// syn says whether a SYN may touch its flow, and whether it begins a new one
// under the same tuple.
func (m *model) syn(a *arrival, f *modelFlow) (same, restarts bool) {
	opens := a.side == f.initiator
	switch {
	case f.state == stateClosing, f.state == stateSYN && opens && f.isn != a.p.seq:
		m.begin(a)
		return true, true
	case f.direction == flow.DirectionUnknown:
		m.begin(a)
		allowed := a.answer[0].Verdict != flow.VerdictDeny
		return allowed, allowed
	case !opens && f.state != stateSYN:
		m.count(kernelRfCounterRF_COUNT_REVERSED_SYN)
		m.begin(a)
		return false, false
	}
	return true, false
}

// begin finds who began the flow whose first packet this is, and judges it.
func (m *model) begin(a *arrival) {
	known, sender := true, true
	switch {
	case a.p.later:
		known = false
	case a.p.shakes():
		known = a.p.flags&tcpSYN != 0
		sender = a.p.flags&(tcpSYN|tcpACK) != tcpSYN|tcpACK
	case a.p.answer:
		sender = false
	case a.p.protocol == 1 || a.p.protocol == 58:
	case a.at.young:
		dir := flow.Ingress
		if a.from {
			dir = flow.Egress
		}
		known = m.isolates(a.at.identity, flow.SlotLive, dir)
	}
	a.initiator, a.direction = a.side, flow.DirectionUnknown
	if !sender {
		a.initiator = 1 - a.side
	}
	if known && sender == a.from {
		a.direction = flow.Egress
	} else if known {
		a.direction = flow.Ingress
	}
	m.judge(a)
}

func (m *model) judge(a *arrival) {
	q := a.question()
	q.localOrigin = a.from || a.own
	q.spoofed = m.spoofed(a) && a.at.identity != flow.IdentityUnknown
	if q.spoofed {
		m.count(kernelRfCounterRF_COUNT_SPOOFED)
	}
	a.answer = m.ask(q, a.direction)
}

func (a *arrival) question() question {
	q := question{at: a.at, remote: a.p.src, localPort: a.p.dport, remotePort: a.p.sport, protocol: a.p.protocol}
	if a.from {
		q.remote, q.localPort, q.remotePort = a.p.dst, a.p.sport, a.p.dport
	}
	return q
}

// unknown decides on a packet of no flow.
func (m *model) unknown(a *arrival, late bool) bool {
	m.begin(a)
	if late {
		return m.alone(a)
	}
	if m.insert(a) {
		return m.finish(a.answer[0], a.answer[1])
	}
	m.count(kernelRfCounterRF_COUNT_UNREPORTED_PACKETS)
	shows := a.p.protocol == 1 || a.p.protocol == 58 || a.p.shakes() && a.p.flags&tcpSYN != 0
	if a.direction != flow.DirectionUnknown && !shows {
		a.direction = flow.DirectionUnknown // for all we know it is an answer
		m.judge(a)
	}
	return m.alone(a)
}

func (m *model) insert(a *arrival) bool {
	if m.held[a.at.id] >= m.quota {
		m.count(kernelRfCounterRF_COUNT_QUOTA)
		return false
	}
	if m.used[a.key.family()] >= m.room {
		m.count(kernelRfCounterRF_COUNT_TABLE_FULL)
		return false
	}
	f := &modelFlow{}
	m.init(a, f)
	m.add(a, f)
	m.flows[a.key] = f
	m.used[a.key.family()]++
	m.held[a.at.id]++
	m.record(a.key, f, flow.EventNew, 0)
	return true
}

// init makes f the flow that a begins.
func (m *model) init(a *arrival, f *modelFlow) {
	m.count(kernelRfCounterRF_COUNT_FLOWS)
	f.connections++
	f.initiator, f.direction = a.initiator, a.direction
	f.finished, f.lastFIN = [2]bool{}, 0
	f.isn = a.p.seq
	f.answered = a.p.shakes() && a.p.flags&(tcpSYN|tcpACK) == tcpSYN|tcpACK
	f.localOrigin = a.from || a.own
	f.sentFirst = a.from
	f.reported, f.closed, f.ended, f.replied, f.untold = false, false, false, false, [2]bool{true, true}
	switch a.p.protocol {
	case 6, 132:
		f.state = stateMidstream
		if a.p.flags&tcpSYN != 0 {
			f.state = stateSYN
		}
	case 17:
		f.state = stateUDP
	case 1, 58:
		f.state = stateICMP
	default:
		f.state = stateOther
	}
	m.store(a, f)
}

func (m *model) store(a *arrival, f *modelFlow) {
	f.live, f.staged, f.judged = a.answer[0], a.answer[1], m.epoch
	f.outcome = m.outcome(f.live, f.staged)
}

func (m *model) restart(a *arrival, f *modelFlow) {
	if !f.ended {
		m.end(a.key, f, 0)
	} else if f.unreported() {
		m.record(a.key, f, flow.EventSweep, 0)
	}
	m.init(a, f)
}

// again judges a known flow anew; it returns whether anything came out otherwise.
// What was counted before is reported as it was judged.
func (m *model) again(a *arrival, f *modelFlow) bool {
	q := a.question()
	q.localOrigin = f.localOrigin
	q.spoofed = (f.direction != flow.Ingress || f.sentFirst) && !a.at.host && !m.owns(a.at, a.local())
	a.answer = m.ask(q, f.direction)
	m.count(kernelRfCounterRF_COUNT_REJUDGED)
	if f.live == a.answer[0] && f.staged == a.answer[1] && f.outcome == m.outcome(f.live, f.staged) {
		f.judged = m.epoch
		return false
	}
	if f.unreported() {
		m.record(a.key, f, flow.EventSweep, 0)
	}
	f.untold[0] = f.untold[0] || f.live != a.answer[0]
	f.untold[1] = f.untold[1] || f.staged != a.answer[1]
	m.store(a, f)
	return true
}

// step moves a TCP flow on.
func step(a *arrival, f *modelFlow) {
	flags, both := a.p.flags, f.finished == [2]bool{true, true}
	switch {
	case flags&tcpRST != 0:
		f.state, f.closed = stateClosing, true
	case flags&tcpFIN != 0:
		f.finished[a.side], f.lastFIN = true, a.side
		if f.finished == [2]bool{true, true} {
			f.state = stateClosing
		}
	case f.state == stateClosing:
		f.closed = f.closed || both && f.lastFIN != a.side
	case f.state == stateSYN && a.side != f.initiator:
		f.answered = f.answered || flags&(tcpSYN|tcpACK) == tcpSYN|tcpACK
	case f.state == stateSYN && flags&tcpSYN == 0 && f.answered:
		f.state = stateEstablished
	case f.state == stateMidstream && a.side != f.initiator:
		f.state = stateEstablished
	}
}

// end writes a flow's end record, once.
func (m *model) end(k modelKey, f *modelFlow, hour int) {
	if !f.ended {
		f.ended = m.record(k, f, flow.EventEnd, hour)
	}
}

// record takes what is unreported out of f, if the ring has room.
func (m *model) record(k modelKey, f *modelFlow, event flow.Event, hour int) bool {
	r := compose(k, f, event)
	if m.ringUsed()+messageSize(&r) > m.ringRoom {
		m.count(kernelRfCounterRF_COUNT_RING_FULL)
		return false
	}
	m.records = append(m.records, r)
	m.count(kernelRfCounterRF_COUNT_RECORDS)
	f.replied, f.untold = f.replied || f.packets[1-f.initiator] > 0, [2]bool{}
	f.packets, f.bytes, f.flags, f.connections = [2]uint64{}, [2]uint64{}, [2]uint8{}, 0
	f.reported, f.recorded = true, hour
	return true
}

// compose returns the record of f as it is.
func compose(k modelKey, f *modelFlow, event flow.Event) rawRecord {
	if !f.reported && event == flow.EventSweep {
		event = flow.EventNew
	}
	i, r := f.initiator, 1-f.initiator
	rec := rawRecord{
		ForwardPackets: f.packets[i], ForwardBytes: f.bytes[i], ReversePackets: f.packets[r], ReverseBytes: f.bytes[r],
		Src: k.local, Dst: k.remote, Sport: networkOrder(k.localPort), Dport: networkOrder(k.remotePort),
		Endpoint: k.endpoint, Connections: f.connections, Protocol: k.protocol, Event: uint8(event),
		LiveRevision: f.live.Revision, StagedRevision: f.staged.Revision,
		Direction: uint8(f.direction), Outcome: uint8(f.outcome),
		LiveVerdict: uint8(f.live.Verdict), LiveReason: uint8(f.live.Reason),
		StagedVerdict: uint8(f.staged.Verdict), StagedReason: uint8(f.staged.Reason),
		ForwardFlags: f.flags[i], ReverseFlags: f.flags[r],
	}
	if !f.replied && f.packets[r] > 0 {
		rec.Answered = 1
	}
	for slot, untold := range f.untold {
		if untold {
			rec.Told |= 1 << slot
		}
	}
	if i == remoteSide {
		rec.Src, rec.Dst, rec.Sport, rec.Dport = rec.Dst, rec.Src, rec.Dport, rec.Sport
	}
	return rec
}

// sweep does the agent's second, hour hours from now. emit writes a record, or
// returns false: when the ring has no room for all, whose it is nobody can say.
func (m *model) sweep(hour int, emit func(modelKey, *modelFlow, flow.Event) bool) {
	for k, f := range m.flows {
		switch {
		case f.dying:
			if hour-f.recorded < 0 {
				continue // within its grace
			}
			if f.unreported() {
				f.dying = false
				continue
			}
			delete(m.flows, k)
			m.used[k.family()]--
			m.held[k.endpoint]--
		case hour-f.seen >= m.idle[f.state] || m.gone[k.endpoint]:
			event := flow.EventEnd
			if f.ended {
				event = flow.EventSweep
			}
			if (!f.ended || f.unreported()) && !emit(k, f, event) {
				continue
			}
			f.ended, f.dying, f.recorded = true, true, hour
		case f.closed && !f.ended:
			f.ended = emit(k, f, flow.EventEnd)
		case f.unreported() && (!f.reported || hour-f.recorded >= m.interval):
			emit(k, f, flow.EventSweep)
		}
	}
	if hour > 0 {
		clear(m.notes)
		clear(m.noted)
	}
}
