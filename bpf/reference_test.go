package bpf

import "encoding/binary"

// The reference reads frames byte by byte, as the RFCs lay them out, and knows
// nothing of how the programs do it. It is simple where they are fast.

// refAddr is an address of either family, IPv4 as ::ffff:a.b.c.d.
type refAddr [16]byte

func (a refAddr) mapped() bool {
	return refAddr(append(make([]byte, 10), 0xff, 0xff, a[12], a[13], a[14], a[15])) == a
}

// linkScope holds for what routers don't forward: fe80::/10 and multicast of
// interface or link scope.
func (a refAddr) linkScope() bool {
	return a[0] == 0xfe && a[1]>>6 == 2 || a[0] == 0xff && a[1]&0xf <= 2
}

// refPacket is what a frame says of itself.
type refPacket struct {
	v6           bool
	src, dst     refAddr
	sport, dport uint16
	protocol     uint8
	hops         uint8
	flags        uint8 // TCP's, or what SCTP says in their words
	seq          uint32
	icmp         uint8 // type
	fragment     uint32
	piece        uint8 // protocol that all fragments name
	reach        int   // of a first fragment: bytes of the datagram in it; of a later one: where it begins
	first, later bool  // fragments
	request      bool  // ICMP that wants an answer
	answer       bool  // ICMP that answers; its ports are its request's, turned round
	report       bool  // ICMP error
	quote        []byte
	body         []byte // layer 4
}

type refParsed uint8

const (
	refWhole refParsed = iota
	refNotIP
	refMalformed
)

// shakes holds for protocols whose packets say where a connection begins.
func (p *refPacket) shakes() bool { return p.protocol == 6 || p.protocol == 132 }

// opens holds for a packet that asks for a new connection.
func (p *refPacket) opens() bool {
	return p.shakes() && !p.later && p.flags&(tcpSYN|tcpACK) == tcpSYN
}

// refFrame reads an Ethernet frame, and into tunnels of the kinds given. With
// gso set it is a chain of segments, whose lengths the headers need not give.
func refFrame(b []byte, gso bool, tunnels Tunnels) (p refPacket, result refParsed) {
	kind, rest, ok := refEthernet(b)
	switch {
	case !ok:
		return p, refMalformed
	case kind != 0x0800 && kind != 0x86dd:
		return p, refNotIP
	case !p.ip(kind == 0x86dd, rest, gso, false):
		return p, refMalformed
	}
	return p.inside(gso, false, tunnels)
}

// refEthernet returns what a frame carries, behind two tags at most.
func refEthernet(b []byte) (kind uint16, rest []byte, ok bool) {
	if len(b) < 14 {
		return 0, nil, false
	}
	kind, rest = binary.BigEndian.Uint16(b[12:]), b[14:]
	for tags := 0; kind == 0x8100 || kind == 0x88a8; tags++ {
		if len(rest) < 4 || tags == 2 {
			return 0, nil, false
		}
		kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	return kind, rest, true
}

// inside looks into a tunnel. What is in fragments, or is neither IP nor ARP,
// stays the tunnel's.
func (p *refPacket) inside(gso, quoted bool, tunnels Tunnels) (refPacket, refParsed) {
	if p.first || p.later {
		return *p, refWhole
	}
	kind, b, parsed := p.tunnelled(tunnels)
	if parsed != refWhole || b == nil {
		return *p, parsed
	}
	if kind == 0x6558 { // an Ethernet frame
		var ok bool
		if kind, b, ok = refEthernet(b); !ok {
			return *p, refMalformed
		}
	}
	switch kind {
	case 0x0806:
		return *p, refNotIP
	case 0x0800, 0x86dd:
	default:
		return *p, refWhole
	}
	var inner refPacket
	if !inner.ip(kind == 0x86dd, b, gso, quoted) {
		return *p, refMalformed
	}
	return inner, refWhole
}

// tunnelled returns what a tunnel's packet carries; nil if it is not one, or
// one of those that are not looked into.
func (p *refPacket) tunnelled(tunnels Tunnels) (kind uint16, b []byte, parsed refParsed) {
	b = p.body
	switch {
	case p.protocol == 17 && (p.dport == 4789 || p.dport == 8472) && tunnels&TunnelVXLAN != 0: // RFC 7348
		if len(b) < 16 || b[8]&8 == 0 {
			return 0, nil, refMalformed
		}
		return 0x6558, b[16:], refWhole
	case p.protocol == 17 && p.dport == 6081 && tunnels&TunnelGENEVE != 0: // RFC 8926
		if len(b) < 16 || b[8]>>6 != 0 || len(b) < 16+int(b[8]&0x3f)*4 {
			return 0, nil, refMalformed
		}
		return binary.BigEndian.Uint16(b[10:]), b[16+int(b[8]&0x3f)*4:], refWhole
	case p.protocol == 47 && tunnels&TunnelGRE != 0: // RFC 2784, 2890
		if len(b) < 4 {
			return 0, nil, refMalformed
		}
		if b[0]&0x40 != 0 || b[1]&7 != 0 {
			return 0, nil, refWhole // routed, or another version
		}
		header := 4
		for _, field := range []byte{0x80, 0x20, 0x10} { // checksum, key, sequence
			if b[0]&field != 0 {
				header += 4
			}
		}
		if len(b) < header {
			return 0, nil, refMalformed
		}
		return binary.BigEndian.Uint16(b[2:]), b[header:], refWhole
	case p.protocol == 4 && tunnels&TunnelIPIP != 0:
		return 0x0800, b, refWhole
	case p.protocol == 41 && tunnels&TunnelIPIP != 0:
		return 0x86dd, b, refWhole
	}
	return 0, nil, refWhole
}

// ip reads an IP packet; quoted is one inside an ICMP error, which is cut off
// somewhere behind its first 8 bytes of layer 4. It returns false for a packet
// that cannot be read.
func (p *refPacket) ip(v6 bool, b []byte, gso, quoted bool) bool {
	p.v6 = v6
	if v6 {
		return p.ipv6(b, gso || quoted, quoted)
	}
	return p.ipv4(b, gso || quoted, quoted)
}

// ipv4 follows RFC 791.
func (p *refPacket) ipv4(b []byte, anyLength, quoted bool) bool {
	if len(b) < 20 || b[0]>>4 != 4 {
		return false
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if anyLength {
		total = len(b)
	}
	if header < 20 || total < header || total > len(b) {
		return false
	}
	p.src, p.dst = refIPv4(b[12:]), refIPv4(b[16:])
	p.hops, p.protocol = b[8], b[9]
	p.fragment = uint32(binary.BigEndian.Uint16(b[4:]))
	where := binary.BigEndian.Uint16(b[6:])
	p.piece = p.protocol
	return p.layer4(b[header:total], int(where&0x1fff)*8, where&0x2000 != 0, anyLength, quoted)
}

func refIPv4(b []byte) (a refAddr) {
	a[10], a[11] = 0xff, 0xff
	copy(a[12:], b[:4])
	return a
}

// maxHeaders bounds the extension headers that are walked.
const maxHeaders = 8

// ipv6 follows RFC 8200.
func (p *refPacket) ipv6(b []byte, anyLength, quoted bool) bool {
	if len(b) < 40 || b[0]>>4 != 6 {
		return false
	}
	payload := int(binary.BigEndian.Uint16(b[4:]))
	if anyLength {
		payload = len(b) - 40
	}
	if payload > len(b)-40 {
		return false
	}
	copy(p.src[:], b[8:])
	copy(p.dst[:], b[24:])
	if p.src.mapped() || p.dst.mapped() {
		return false // never on a wire, and IPv4 in disguise
	}
	p.hops, p.protocol = b[7], b[6]
	b = b[40 : 40+payload]
	fragment := false
	for range maxHeaders + 1 {
		length := 0
		switch p.protocol {
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if len(b) >= 8 {
				length = 8 + int(b[1])*8
			}
		case 51: // authentication, RFC 4302
			if len(b) >= 8 {
				length = 8 + int(b[1])*4
			}
		case 44: // fragment
			if len(b) >= 8 {
				length = 8
			}
		default:
			return p.layer4(b, 0, p.first, anyLength, quoted)
		}
		if length == 0 || length > len(b) || p.protocol == 43 && b[3] > 0 {
			return false // cut off, or not on its last leg
		}
		if p.protocol == 44 {
			if fragment {
				return false // of a fragment
			}
			fragment = true
			where := binary.BigEndian.Uint16(b[2:])
			p.piece, p.reach = b[0], len(b)-8
			p.fragment = binary.NativeEndian.Uint32(b[4:])
			p.first = where&1 != 0
			if where>>3 > 0 {
				p.protocol = b[0]
				return p.layer4(b[8:], int(where&^7), false, anyLength, quoted)
			}
		}
		p.protocol, b = b[0], b[length:]
	}
	return false
}

// layer4 reads that of a whole packet or of a fragment of one.
func (p *refPacket) layer4(b []byte, offset int, more, anyLength, quoted bool) bool {
	p.body = b
	if offset > 0 {
		p.first, p.later, p.reach = false, true, offset
		// One that reaches into the header of the first could rewrite it
		// (RFC 3128); one that is quoted says nothing of its flow.
		return !quoted && (p.protocol != 6 || offset >= 20) && (p.protocol != 132 || offset >= 16)
	}
	p.first = more
	if !p.v6 {
		p.reach = len(b)
	}
	switch p.protocol {
	case 1, 58:
		return p.message(b)
	case 6, 17, 132:
	default:
		return true
	}
	if len(b) < 8 {
		return false
	}
	p.sport, p.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	switch {
	case quoted:
		return true
	case p.protocol == 6:
		return p.segment(b)
	case p.protocol == 132:
		return p.chunk(b)
	}
	length := int(binary.BigEndian.Uint16(b[4:])) // of UDP, RFC 768
	return anyLength || length >= 8 && (length <= len(b) || more)
}

// segment follows RFC 9293.
func (p *refPacket) segment(b []byte) bool {
	if len(b) < 20 {
		return false
	}
	header := int(b[12]>>4) * 4
	p.seq, p.flags = binary.BigEndian.Uint32(b[4:]), b[13]
	return header >= 20 && header <= len(b)
}

// chunk follows RFC 9260: of SCTP's packets only the first chunk counts here.
func (p *refPacket) chunk(b []byte) bool {
	if len(b) < 16 {
		return false
	}
	p.flags = tcpACK
	switch b[12] {
	case 1: // INIT
		p.flags = tcpSYN
	case 2: // INIT ACK
		p.flags = tcpSYN | tcpACK
	case 6, 14: // ABORT, SHUTDOWN COMPLETE
		p.flags = tcpRST
	default:
		return true
	}
	if b[12] > 2 {
		return true
	}
	if len(b) < 32 {
		return false
	}
	p.seq = binary.BigEndian.Uint32(b[16:])
	return true
}

// message follows RFC 792 and RFC 4443. Requests and their answers get the ports
// (identifier, type and code of the request).
func (p *refPacket) message(b []byte) bool {
	if len(b) < 8 {
		return false
	}
	kind, code, id := b[0], b[1], binary.BigEndian.Uint16(b[4:])
	p.icmp = kind
	request := -1
	if p.protocol == 58 {
		switch {
		case kind == 128 || kind == 129:
			request, p.answer = 128, kind == 129
		case kind >= 1 && kind <= 4:
			p.report = true
		}
	} else {
		switch kind {
		case 8, 0:
			request, p.answer = 8, kind == 0
		case 13, 14, 15, 16, 17, 18: // timestamp, information, address mask
			request, p.answer = int((kind-1)&^1)+1, kind%2 == 0
		case 3, 4, 11, 12:
			p.report = true
		}
	}
	p.sport, p.dport = 0, uint16(kind)<<8|uint16(code)
	if request >= 0 {
		p.request = !p.answer
		p.sport, p.dport = id, uint16(request)<<8|uint16(code)
		if p.answer {
			p.sport, p.dport = p.dport, p.sport
		}
	}
	if p.report {
		p.quote = b[8:]
	}
	return true
}

// quoted reads the packet that an ICMP error quotes, which its receiver must
// have sent; of a tunnel it is what was inside.
func (p *refPacket) quoted(tunnels Tunnels) (q refPacket, ok bool) {
	if !q.ip(p.v6, p.quote, false, true) || q.src != p.dst {
		return q, false
	}
	q, parsed := q.inside(false, true, tunnels)
	return q, parsed == refWhole
}
