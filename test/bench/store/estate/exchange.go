package estate

import (
	"math"
	"net/netip"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// exchange is one connection, and at which of its ends it is seen.
type exchange struct {
	call               *call
	from, to           *end
	source, dest       netip.Addr
	sport              uint16
	began              time.Time
	atSource, atTarget bool
}

// part is one record of an exchange, without what depends on who saw it.
type part struct {
	event         flow.Event
	at            time.Time
	began         uint32 // connections
	forward, back flow.Counters
	flags, flagsB uint8
	answered      bool      // for the first time
	fresh         bool      // judgement
	judged        time.Time // when
	before        time.Time // when the record before was judged; zero if at the same time
}

// TCP flags that were seen since the record before.
const (
	synOnly = 0x02
	running = 0x18 // PSH, ACK
	synAck  = 0x1a
	fin     = 0x01
	rst     = 0x04
)

// Bytes of packets.
const (
	header    = 66 // Ethernet, IP and TCP with time stamps
	datagram  = 62 // Ethernet, IP, UDP and DNS without names
	handshake = 74
	segment   = 1448
)

// exchange makes the rows of one draw.
func (s *Stream) exchange() {
	x := s.draw()
	switch c := x.call; c.manner {
	case pooled:
		s.pooled(&x)
	case lookup:
		s.rowsOf(&x, first(&x, flow.Counters{Packets: 1, Bytes: s.size(c.out, datagram)}, 0))
		s.rowsOf(&x, part{
			event: flow.EventSweep, at: x.began.Add(s.lasting(c)), judged: x.began, answered: true,
			back: flow.Counters{Packets: 1, Bytes: s.size(c.in, datagram)},
		})
	case noise:
		s.rowsOf(&x, opened(&x))
	default:
		s.rowsOf(&x, opened(&x))
		end, answered := x.began.Add(s.lasting(c)), false
		for at := x.began.Add(sweep); at.Before(end); at = at.Add(2 * sweep) {
			s.rowsOf(&x, s.traffic(&x, flow.EventSweep, at, !answered))
			answered = true
		}
		s.rowsOf(&x, s.traffic(&x, flow.EventEnd, end, !answered))
	}
}

// first is the record of a flow's first packet.
func first(x *exchange, packet flow.Counters, flags uint8) part {
	return part{event: flow.EventNew, at: x.began, judged: x.began, fresh: true, began: 1, forward: packet, flags: flags}
}

// opened is that of a TCP connection.
func opened(x *exchange) part {
	return first(x, flow.Counters{Packets: 1, Bytes: handshake}, synOnly)
}

// draw chooses a call and its two ends.
func (s *Stream) draw() exchange {
	var c *call
	var x exchange
	if s.sites == nil {
		c = &s.e.calls[s.pick.draw(s.r)]
		x = exchange{call: c, from: s.end(c.from), to: s.end(c.to), atSource: true, atTarget: true}
	} else {
		at := s.sites[s.pick.draw(s.r)]
		c = at.call
		x = exchange{call: c, atSource: at.dir == flow.Egress, atTarget: at.dir == flow.Ingress}
		if x.atSource {
			x.from, x.to = at.at, s.end(c.to)
		} else {
			x.from, x.to = s.end(c.from), at.at
		}
	}
	if c.manner == probe {
		x.from = s.e.nodes[x.to.node].end
	}
	x.atSource = x.atSource && x.from.node >= 0
	x.atTarget = x.atTarget && x.to.node >= 0
	x.began = s.now
	x.sport = uint16(32768 + s.r.IntN(28232)) // Linux's range
	x.source, x.dest = x.from.v4, x.to.v4
	if w := x.to.workload; w != nil && w.dual && s.r.IntN(2) == 0 {
		x.source, x.dest = x.from.v6, x.to.v6
	}
	return x
}

// end draws one; of clients some are frequent, and others from week to week.
func (s *Stream) end(list []*end) *end {
	if len(list) == 1 {
		return list[0]
	}
	if list[0].node >= 0 {
		return list[s.r.IntN(len(list))]
	}
	week := int(s.now.Unix() / (7 * 24 * 3600))
	return list[(skewed(s.r, len(list))+week*len(list)/50)%len(list)]
}

// pooled reports one of the connections that a caller keeps open, or replaces it.
func (s *Stream) pooled(x *exchange) {
	at := x.from
	if !x.atSource {
		at = x.to
	}
	key := poolKey{call: x.call, slot: at.id*pool + uint32(s.r.IntN(pool))}
	p := s.pools[key]
	if p == nil {
		s.pools[key] = &pooling{exchange: *x, judged: x.began}
		s.rowsOf(x, opened(x))
		return
	}
	event := flow.EventSweep
	if s.r.IntN(300) == 0 {
		delete(s.pools, key)
		event = flow.EventEnd
	}
	t := s.traffic(&p.exchange, event, s.now, !p.answered)
	t.judged, t.before = s.now, p.judged
	s.rowsOf(&p.exchange, t)
	p.answered, p.judged = true, s.now
}

// traffic is a part with requests and answers in it.
func (s *Stream) traffic(x *exchange, event flow.Event, at time.Time, answered bool) part {
	out, in := s.size(x.call.out, header), s.size(x.call.in, header)
	p := part{event: event, at: at, judged: x.began, answered: answered, flags: running, flagsB: running}
	p.forward = flow.Counters{Packets: 3 + out/segment + in/(2*segment), Bytes: out}
	p.back = flow.Counters{Packets: 2 + in/segment + out/(2*segment), Bytes: in}
	p.forward.Bytes += header * p.forward.Packets
	p.back.Bytes += header * p.back.Packets
	if answered {
		p.flagsB = synAck
	}
	if event == flow.EventEnd {
		p.flags |= fin
		if p.flagsB |= fin; s.r.IntN(40) == 0 {
			p.flagsB ^= fin ^ rst
		}
	}
	return p
}

// size draws bytes around a mean, by a log-normal law.
func (s *Stream) size(mean, least float64) uint64 {
	return uint64(least + mean*spread[s.r.Uint64()%uint64(len(spread))]*(0.98+0.04*s.r.Float64()))
}

func (s *Stream) lasting(c *call) time.Duration {
	seconds := c.long * spread[s.r.Uint64()%uint64(len(spread))]
	return time.Duration(min(seconds, 300) * float64(time.Second))
}

// spread holds the quantiles of a log-normal law of mean 1.
var spread = func() (out [4096]float64) {
	const sigma = 0.9
	for i := range out {
		q := (float64(i) + 0.5) / float64(len(out))
		out[i] = math.Exp(sigma*math.Sqrt2*math.Erfinv(2*q-1) - sigma*sigma/2)
	}
	return out
}()

// rowsOf makes a part's row at each end that sees it.
func (s *Stream) rowsOf(x *exchange, p part) {
	if x.atSource {
		s.row(x, &p, x.from, flow.Egress)
	}
	if x.atTarget {
		s.row(x, &p, x.to, flow.Ingress)
	}
}

func (s *Stream) row(x *exchange, p *part, at *end, dir flow.Direction) {
	c, row := x.call, s.slot()
	n := &s.e.nodes[at.node]
	row.Record = flow.Record{
		Key: flow.Key{
			Source: x.source, Destination: x.dest, SourcePort: x.sport, DestinationPort: c.port, Protocol: c.protocol,
		},
		Event: p.event, Direction: dir,
		Time: s.stamp(n, p.at), FirstSeen: s.stamp(n, x.began),
		Endpoint: at.id, Connections: p.began, Forward: p.forward, Reverse: p.back,
		ForwardFlags: p.flags, ReverseFlags: p.flagsB,
		Answered: p.answered, LiveNew: p.fresh, StagedNew: p.fresh,
	}
	if w := at.workload; p.event == flow.EventSweep && w.revised(p.before, p.judged) {
		row.Event, row.LiveNew, row.StagedNew = flow.EventVerdict, w.stage == enforced, w.stage == audited
	}
	judge(&row.Record, c, at.workload, p.judged)
	row.Node = n.name
	row.Observer, row.Source, row.Dest = at.party, x.from.party, x.to.party
}

// stamp reads the node's coarse clock at a time.
func (s *Stream) stamp(n *node, t time.Time) time.Time {
	return t.Add(-n.phase).Truncate(tick).Add(n.phase + s.skew)
}

// judge says what the observer's policy makes of a record. It allows all but
// noise.
func judge(r *flow.Record, c *call, w *workload, at time.Time) {
	r.Outcome = flow.OutcomeForwarded
	r.Live = flow.Judgement{Reason: flow.ReasonNoPolicy}
	r.Staged = r.Live
	if c.manner == probe {
		r.Live.Reason = flow.ReasonFailsafe
		return
	}
	j := flow.Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonRule, Revision: w.revision(at)}
	if c.manner == noise {
		j.Verdict, j.Reason = flow.VerdictDeny, flow.ReasonDefault
	}
	switch w.stage {
	case audited:
		r.Staged = j
	case enforced:
		r.Live = j
	default:
		return
	}
	if c.manner == noise {
		r.Outcome = flow.OutcomeAudited
		if w.stage == enforced {
			r.Outcome = flow.OutcomeDropped
		}
	}
}

// revision of the workload's policy at a time: there is a new one now and then.
func (w *workload) revision(at time.Time) uint32 {
	return 1 + uint32(at.Unix()%int64(days(365).Seconds())/int64(w.lifetime.Seconds()))
}

// revised reports whether w, if it has a policy, had another revision at a time
// before; the zero time is none.
func (w *workload) revised(before, now time.Time) bool {
	return !before.IsZero() && w.stage != observed && w.revision(before) != w.revision(now)
}
