package bpf

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// shot is one frame at one hook.
type shot struct {
	point   int // of the twin's; -1: an interface that nobody watches
	from    bool
	own     bool // no interface brought it in
	gsoSize uint32
	gsoSegs uint32
	frame   []byte
	origin  string // what made it, for coverage
}

// talk is an exchange between two parties, and how far it got.
type talk struct {
	a, b         refAddr // a begins
	v6           bool
	protocol     uint8
	sport, dport uint16
	kind         uint8 // ICMP: request
	step         int
	seq          [2]uint32
}

// generator makes shots out of its seed alone.
type generator struct {
	r        *rand.Rand
	talks    []*talk
	queue    []shot // pieces still to be sent
	captures [][]byte
	replay   int // where in the captures
	sent     [][]byte
	fragment uint32
}

func newGenerator(seed uint64, captures [][]byte) *generator {
	g := &generator{r: rand.New(rand.NewPCG(seed, 0x72696e67)), captures: captures}
	if len(captures) > 0 {
		g.replay = g.r.IntN(len(captures))
	}
	for range 48 {
		g.talks = append(g.talks, g.newTalk())
	}
	return g
}

func (g *generator) chance(percent int) bool { return g.r.IntN(100) < percent }

func choose[T any](g *generator, list ...T) T { return list[g.r.IntN(len(list))] }

// The generator's parties. The first three have an interface each; which
// addresses are theirs the twin's inventory says, and it changes.
var (
	gateway = addrs("10.0.0.21", "fd00::21")
	worldly = addrs("198.51.100.67", "2001:db8:66::67")
	remote  = addrs("203.0.113.9", "2001:db8:9::9")
	parties = []party{web, db, gateway, evil, node, other, world, worldly, remote}
)

func asRef(a netip.Addr) refAddr { return a.As16() }

// someone is one of the watched more often than not.
func (g *generator) someone(v6 bool) refAddr {
	p := parties[g.r.IntN(3)]
	if g.chance(45) {
		p = choose(g, parties...)
	}
	if v6 {
		return asRef(p.v6)
	}
	return asRef(p.v4)
}

var servicePorts = []uint16{80, 443, 53, 5432, 8064, 8127, 8128, 0, 67, 547, 65535}

func (g *generator) newTalk() *talk {
	t := &talk{v6: g.chance(45)}
	t.protocol = choose[uint8](g, 6, 6, 6, 6, 6, 6, 6, 6, 17, 17, 17, 17, 17, 1, 1, 1, 132, 132, 47, 50, 0xff)
	t.a, t.b = g.someone(t.v6), g.someone(t.v6)
	if g.chance(98) {
		for t.a == t.b {
			t.b = g.someone(t.v6)
		}
	}
	t.sport, t.dport = uint16(40000+g.r.IntN(24)), choose(g, servicePorts...)
	if g.chance(5) {
		t.sport = t.dport
	}
	if t.protocol == 17 && g.chance(15) { // ports that are more than a port
		pair := choose(g, [2]uint16{68, 67}, [2]uint16{546, 547}, [2]uint16{40000, 4789}, [2]uint16{4789, 40000}, [2]uint16{40000, 6081})
		t.sport, t.dport = pair[0], pair[1]
	}
	t.seq = [2]uint32{g.r.Uint32N(3), g.r.Uint32N(3)}
	t.kind = choose[uint8](g, 8, 8, 8, 13, 15, 17)
	if t.protocol == 1 && t.v6 {
		t.protocol, t.kind = 58, 128
	}
	return t
}

// next returns the next shot.
func (g *generator) next() shot {
	if len(g.queue) > 0 {
		i := g.r.IntN(len(g.queue))
		if g.chance(70) {
			i = 0
		}
		s := g.queue[i]
		g.queue = append(g.queue[:i], g.queue[i+1:]...)
		return s
	}
	var s shot
	switch n := g.r.IntN(100); {
	case n < 60:
		s = g.place(g.talking(), "talk")
	case n < 66:
		s = g.place(g.tunnel(), "tunnel")
	case n < 69:
		s = g.place(g.reporting(), "report")
	case n < 72:
		s = g.place(g.service(), "service")
	case n < 74:
		s = g.strange()
		s.origin = "strange"
	default:
		s = g.captured()
	}
	g.remember(s.frame)
	if g.chance(40) {
		g.mutate(&s)
	}
	if g.chance(3) {
		s.gsoSize, s.gsoSegs = choose[uint32](g, 0, 1, 1400), g.r.Uint32N(5)
	}
	return s
}

// remember keeps a few frames to be quoted and sent again.
func (g *generator) remember(frame []byte) {
	if len(g.sent) < 64 {
		g.sent = append(g.sent, frame)
		return
	}
	g.sent[g.r.IntN(len(g.sent))] = frame
}

// talking moves one exchange on, mostly by the book.
func (g *generator) talking() blueprint {
	i := g.r.IntN(len(g.talks))
	t := g.talks[i]
	if t.step > 12 && g.chance(30) || g.chance(1) {
		if g.chance(50) {
			*t = *g.newTalk() // else the same tuple again
		}
		t.step = 0
		t.seq[0]++
	}
	back := t.step%2 == 1
	if g.chance(10) {
		back = !back
	}
	b := g.print(t, back)
	if t.protocol == 6 {
		b.body = g.segment(t, &back)
		b = g.turned(b, t, back)
	} else {
		b.body = g.datagram(t, back)
	}
	t.step++
	return b
}

// print is the frame of a talk without its body.
func (g *generator) print(t *talk, back bool) blueprint {
	b := blueprint{v6: t.v6, protocol: t.protocol, hops: 64}
	b = g.turned(b, t, back)
	if g.chance(8) {
		b.tags = choose(g, []uint16{0x8100}, []uint16{0x88a8}, []uint16{0x88a8, 0x8100}, []uint16{0x8100, 0x8100, 0x8100})
	}
	if g.chance(8) {
		b.options = 1 + g.r.IntN(10)
	}
	if g.chance(12) && t.v6 {
		for range 1 + g.r.IntN(choose(g, 3, 3, 3, 9)) {
			b.headers = append(b.headers, choose[uint8](g, 0, 43, 44, 51, 60, 60))
		}
	}
	if g.chance(10) {
		b.trailer = g.r.IntN(40)
	}
	return b
}

func (g *generator) turned(b blueprint, t *talk, back bool) blueprint {
	b.src, b.dst = t.a, t.b
	if back {
		b.src, b.dst = t.b, t.a
	}
	return b
}

// segment is the next one of a TCP connection: handshake, data, close.
func (g *generator) segment(t *talk, back *bool) []byte {
	flags := uint8(tcpACK)
	payload := 0
	switch {
	case t.step == 0:
		flags, *back = tcpSYN, false
	case t.step == 1:
		flags, *back = tcpSYN|tcpACK, true
	case t.step == 2:
		*back = false
	case t.step < 8:
		payload = g.r.IntN(200)
	case t.step == 8, t.step == 9:
		flags |= tcpFIN
	}
	if g.chance(8) {
		flags = choose[uint8](g, tcpSYN, tcpSYN, tcpSYN|tcpACK, tcpACK, tcpRST, tcpRST|tcpACK, tcpFIN|tcpACK, tcpFIN, 0, 0xff, tcpSYN|tcpFIN, tcpSYN|tcpRST)
		*back = g.chance(50)
	}
	from, to, side := t.sport, t.dport, 0
	if *back {
		from, to, side = to, from, 1
	}
	options := 0
	if g.chance(30) {
		options = g.r.IntN(11)
	}
	return tcpBody(from, to, t.seq[side], flags, options, payload)
}

// datagram is the next packet of anything but TCP.
func (g *generator) datagram(t *talk, back bool) []byte {
	from, to := t.sport, t.dport
	if back {
		from, to = to, from
	}
	payload := g.r.IntN(100)
	switch t.protocol {
	case 17:
		return udpBody(from, to, payload)
	case 132:
		return g.sctp(t, back, from, to)
	case 1:
		kind := t.kind
		if back {
			kind = choose(g, answerOf(t.kind), answerOf(t.kind), 5)
		}
		return icmpBody(kind, choose[uint8](g, 0, 0, 0, 1), t.sport, make([]byte, payload))
	case 58:
		kind := choose[uint8](g, 128, 128, 128, 139)
		if back {
			kind = 129
		}
		return icmpBody(kind, choose[uint8](g, 0, 0, 0, 1), t.sport, make([]byte, payload))
	}
	return make([]byte, payload)
}

// answerOf is the ICMP type that answers kind.
func answerOf(kind uint8) uint8 {
	if kind == 8 {
		return 0
	}
	return kind + 1
}

// sctp is a packet with one chunk (RFC 9260).
func (g *generator) sctp(t *talk, back bool, from, to uint16) []byte {
	chunk := choose[uint8](g, 0, 0, 3, 4, 5, 6, 7, 8, 10, 11, 14)
	tag := uint32(77)
	switch {
	case t.step == 0 && !back:
		chunk, tag = 1, 0
	case t.step == 1 && back:
		chunk = 2
	}
	b := binary.BigEndian.AppendUint32(ports(from, to), tag)
	b = append(b, 0, 0, 0, 0, chunk, 0, 0, 20)
	return append(b, make([]byte, 16)...)
}

// reporting is an ICMP error about something that was sent.
func (g *generator) reporting() blueprint {
	var quote []byte
	b := blueprint{hops: 64, protocol: 1}
	for range 10 {
		if len(g.sent) == 0 {
			break
		}
		q := choose(g, g.sent...)
		p, parsed := refFrame(q, false, 0)
		if parsed != refWhole {
			continue
		}
		b.v6, b.dst, quote = p.v6, p.src, q[14:]
		if binary.BigEndian.Uint16(q[12:]) != 0x0800 && binary.BigEndian.Uint16(q[12:]) != 0x86dd {
			continue // tagged
		}
		break
	}
	if len(quote) > 28 && g.chance(60) {
		quote = quote[:min(len(quote), choose(g, 28, 48, 28, 48, 56, 88))]
	}
	quote = quote[:min(len(quote), 600)]
	b.src = g.someone(b.v6)
	kind := choose[uint8](g, 3, 3, 3, 4, 11, 12, 5)
	if b.v6 {
		b.protocol, kind = 58, choose[uint8](g, 1, 1, 2, 3, 4, 137)
	}
	if b.dst == (refAddr{}) {
		b.dst = g.someone(b.v6)
	}
	b.body = icmpBody(kind, uint8(g.r.IntN(5)), 0, quote)
	return b
}

// tunnel carries a packet of some exchange.
func (g *generator) tunnel() blueprint {
	inner := g.talking()
	frame := inner.bytes()
	kind := uint16(0x0800)
	if inner.v6 {
		kind = 0x86dd
	}
	b := blueprint{v6: g.chance(30), hops: 64}
	b.src, b.dst = g.someone(b.v6), g.someone(b.v6)
	naked := frame[etherLen+4*len(inner.tags):]
	switch g.r.IntN(4) {
	case 0:
		flags := choose[byte](g, 8, 8, 8, 8, 0, 12)
		b.protocol = 17
		b.body = slices.Concat(udpBody(40000, choose[uint16](g, 4789, 4789, 8472), 8+len(frame))[:8], []byte{flags, 0, 0, 0, 0, 0, 7, 0}, frame)
	case 1:
		options := choose(g, 0, 0, 1, 4)
		head := make([]byte, 8+4*options)
		head[0] = byte(options) | choose[byte](g, 0, 0, 0, 0, 0x40)
		binary.BigEndian.PutUint16(head[2:], choose(g, 0x6558, 0x6558, kind, 0x0806))
		carried := frame
		if binary.BigEndian.Uint16(head[2:]) != 0x6558 {
			carried = naked
		}
		b.protocol = 17
		b.body = slices.Concat(udpBody(40000, 6081, len(head)+len(carried))[:8], head, carried)
	case 2:
		b.protocol = 47
		b.body = g.gre(kind, naked, frame)
	default:
		b.protocol, b.body = 4, naked
		if inner.v6 {
			b.protocol = 41
		}
	}
	if g.chance(5) {
		b.body = b.body[:g.r.IntN(len(b.body)+1)]
		b.trailer = g.r.IntN(60)
	}
	return b
}

func (g *generator) gre(kind uint16, naked, frame []byte) []byte {
	flags, carried := choose[byte](g, 0, 0, 0x80, 0x20, 0xb0, 0x40), naked
	if g.chance(30) {
		kind, carried = 0x6558, frame
	}
	head := binary.BigEndian.AppendUint16([]byte{flags, choose[byte](g, 0, 0, 0, 1)}, kind)
	for _, field := range []byte{0x80, 0x20, 0x10} {
		if flags&field != 0 {
			head = append(head, 0, 0, 0, 0)
		}
	}
	return append(head, carried...)
}

// service is discovery, DHCP, or nearly so.
func (g *generator) service() blueprint {
	linkLocal, allNodes := refAddr{0: 0xfe, 1: 0x80, 15: 1}, refAddr{0: 0xff, 1: 2, 15: 1}
	everybody := refAddr{10: 0xff, 11: 0xff, 12: 0xff, 13: 0xff, 14: 0xff, 15: 0xff}
	v6 := g.chance(70)
	b := blueprint{v6: v6, hops: choose[uint8](g, 255, 255, 1, 64), protocol: 58}
	b.src = choose(g, linkLocal, refAddr{}, g.someone(true), g.someone(true))
	b.dst = choose(g, linkLocal, allNodes, g.someone(true), refAddr{0: 0xff, 1: 5, 15: 2})
	b.body = icmpBody(choose[uint8](g, 130, 131, 132, 133, 134, 135, 136, 137, 143, 138), 0, 0, make([]byte, 16))
	if g.chance(50) {
		client, server := uint16(546), uint16(547)
		if !v6 {
			client, server = 68, 67
		}
		if g.chance(30) {
			client, server = server, client
		}
		b.protocol, b.body = 17, udpBody(client, server, 30)
	}
	if !v6 {
		b.protocol = 17
		b.src = choose(g, refAddr{10: 0xff, 11: 0xff}, g.someone(false))
		b.dst = choose(g, everybody, g.someone(false), asRef(node.v4))
		if b.body[0] != 0 {
			b.body = udpBody(68, 67, 10)
		}
	}
	return b
}
