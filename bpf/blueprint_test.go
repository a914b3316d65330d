package bpf

import "encoding/binary"

// blueprint is a frame before its bytes.
type blueprint struct {
	v6       bool
	src, dst refAddr
	protocol uint8
	hops     uint8
	tags     []uint16 // VLAN ethertypes
	options  int      // IPv4: words
	headers  []uint8  // IPv6 extension headers
	offset   int      // of a fragment
	more     bool
	id       uint32
	body     []byte // layer 4
	trailer  int    // Ethernet padding
}

func (b *blueprint) bytes() []byte {
	out := make([]byte, 12, 128+len(b.body))
	out[0], out[6] = 2, 2
	kind := uint16(0x0800)
	if b.v6 {
		kind = 0x86dd
	}
	for i, t := range b.tags {
		out = binary.BigEndian.AppendUint16(out, t)
		out = binary.BigEndian.AppendUint16(out, uint16(10+i))
	}
	out = binary.BigEndian.AppendUint16(out, kind)
	if b.v6 {
		out = b.appendIPv6(out)
	} else {
		out = b.appendIPv4(out)
	}
	return append(out, make([]byte, b.trailer)...)
}

func (b *blueprint) appendIPv4(out []byte) []byte {
	where := uint16(b.offset / 8)
	if b.more {
		where |= 0x2000
	}
	h := make([]byte, 20+4*b.options)
	h[0] = 0x45 + uint8(b.options)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(b.body)))
	binary.BigEndian.PutUint16(h[4:], uint16(b.id))
	binary.BigEndian.PutUint16(h[6:], where)
	h[8], h[9] = b.hops, b.protocol
	copy(h[12:], b.src[12:])
	copy(h[16:], b.dst[12:])
	for i := 20; i < len(h); i++ {
		h[i] = 1 // no operation
	}
	return append(append(out, h...), b.body...)
}

func (b *blueprint) appendIPv6(out []byte) []byte {
	var chain []byte
	next := b.protocol
	headers := b.headers
	if b.offset > 0 || b.more {
		headers = append(headers[:len(headers):len(headers)], 44)
	}
	for i := len(headers) - 1; i >= 0; i-- {
		chain = append(extension(headers[i], next, b), chain...)
		next = headers[i]
	}
	h := make([]byte, 40)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(len(chain)+len(b.body)))
	h[6], h[7] = next, b.hops
	copy(h[8:], b.src[:])
	copy(h[24:], b.dst[:])
	return append(append(append(out, h...), chain...), b.body...)
}

func extension(kind, next uint8, b *blueprint) []byte {
	switch kind {
	case 44:
		where := uint16(b.offset)
		if b.more {
			where |= 1
		}
		h := []byte{next, 0, byte(where >> 8), byte(where), 0, 0, 0, 0}
		binary.NativeEndian.PutUint32(h[4:], b.id)
		return h
	case 51:
		return append([]byte{next, 4}, make([]byte, 22)...)
	case 60: // longer than it must be
		return append([]byte{next, 1, 1, 12}, make([]byte, 12)...)
	case 43: // on its last leg
		return []byte{next, 0, 0, 0, 0, 0, 0, 0}
	default:
		return []byte{next, 0, 1, 4, 0, 0, 0, 0}
	}
}

func ports(sport, dport uint16, rest ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	return append(b, rest...)
}

func tcpBody(sport, dport uint16, seq uint32, flags uint8, options, payload int) []byte {
	b := ports(sport, dport)
	b = binary.BigEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0, uint8(5+options)<<4, flags, 4, 0, 0, 0, 0, 0)
	return append(b, make([]byte, 4*options+payload)...)
}

func udpBody(sport, dport uint16, payload int) []byte {
	b := ports(sport, dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+payload))
	return append(b, make([]byte, 2+payload)...)
}

func icmpBody(kind, code uint8, id uint16, rest []byte) []byte {
	return append([]byte{kind, code, 0, 0, byte(id >> 8), byte(id), 0, 1}, rest...)
}
