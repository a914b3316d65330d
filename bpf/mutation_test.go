package bpf

import "encoding/binary"

// homes says whose interface stands before an address; the inventory may say
// otherwise at times.
var homes = func() map[refAddr]int {
	m := make(map[refAddr]int)
	for i, p := range parties[:3] {
		m[asRef(p.v4)], m[asRef(p.v6)] = i, i
	}
	return m
}()

// place sends a blueprint through a hook, in pieces if it is large enough and
// chance will have it. What goes from one of the watched to another is seen twice.
func (g *generator) place(b blueprint, origin string) shot {
	var frames [][]byte
	if g.chance(6) && len(b.body) >= 16 {
		frames = g.pieces(b)
	} else {
		frames = [][]byte{b.bytes()}
	}
	for _, f := range frames {
		g.queue = append(g.queue, g.hooks(b.src, b.dst, f, origin)...)
	}
	s := g.queue[0]
	g.queue = g.queue[1:]
	return s
}

// hooks returns where a frame is seen.
func (g *generator) hooks(src, dst refAddr, frame []byte, origin string) []shot {
	var list []shot
	if home, ok := homes[src]; ok {
		list = append(list, shot{point: home, from: true, frame: frame})
	}
	if home, ok := homes[dst]; ok {
		list = append(list, shot{point: home, own: g.chance(30), frame: frame})
	}
	if len(list) == 0 || g.chance(4) { // a forged source, or a packet gone astray
		list = []shot{{point: g.r.IntN(3), from: g.chance(50), own: g.chance(50), frame: frame}}
	}
	if g.chance(1) {
		list[0].point = -1
	}
	for i := range list {
		list[i].origin = origin
	}
	return list
}

// pieces cuts a blueprint into fragments.
func (g *generator) pieces(b blueprint) (frames [][]byte) {
	g.fragment++
	whole := b.body
	b.id = g.fragment
	if g.chance(10) {
		b.id = g.r.Uint32N(4) // meets another's notes
	}
	for at := 0; at < len(whole); {
		size := min(8*(1+g.r.IntN(8)), len(whole)-at)
		if g.chance(60) {
			size = min(max(size, 24), len(whole)-at)
		}
		b.offset, b.more, b.body = at, at+size < len(whole), whole[at:at+size]
		frames = append(frames, b.bytes())
		at += size
		if len(frames) > 4 {
			break // the rest is lost
		}
	}
	return frames
}

// strange is what is not IP, or hardly.
func (g *generator) strange() shot {
	kind := choose[uint16](g, 0x0806, 0x0026, 0x88cc, 0x86dd, 0x0800, 0x8847, 0x8100)
	frame := make([]byte, choose(g, 14, 18, 22, 60, 80))
	for i := range frame {
		if g.chance(20) {
			frame[i] = byte(g.r.Uint32())
		}
	}
	binary.BigEndian.PutUint16(frame[12:], kind)
	if kind == 0x8100 && len(frame) >= 18 {
		binary.BigEndian.PutUint16(frame[16:], choose[uint16](g, 0x0800, 0x86dd, 0x8100))
	}
	return shot{point: g.r.IntN(3), from: g.chance(50), frame: frame, origin: "strange"}
}

// captured goes on in the recordings of real traffic, from one place or another.
func (g *generator) captured() shot {
	if len(g.captures) == 0 {
		return g.strange()
	}
	if g.chance(2) {
		g.replay = g.r.IntN(len(g.captures))
	}
	frame := append([]byte(nil), g.captures[g.replay]...)
	g.replay = (g.replay + 1) % len(g.captures)
	p, _ := refFrame(frame, false, 0)
	list := g.hooks(p.src, p.dst, frame, "capture")
	g.queue = append(g.queue, list[1:]...)
	return list[0]
}

// mutate changes a frame in a few places. Half of the ways keep it a whole one.
func (g *generator) mutate(s *shot) {
	s.frame = append([]byte(nil), s.frame...)
	for range 1 + g.r.IntN(2) {
		g.mutateOnce(s)
	}
}

func (g *generator) mutateOnce(s *shot) {
	f := s.frame
	ip, kind := ipAt(f)
	if ip < 0 || len(f) < ip+20 {
		f[g.r.IntN(len(f))] ^= 1 << g.r.IntN(8)
		return
	}
	switch g.r.IntN(11) {
	case 0: // a bit anywhere
		f[g.r.IntN(len(f))] ^= 1 << g.r.IntN(8)
	case 1: // a bit in the headers
		f[ip+g.r.IntN(min(len(f)-ip, 64))] ^= 1 << g.r.IntN(8)
	case 2: // cut off
		s.frame = f[:ip+g.r.IntN(len(f)-ip)]
	case 3: // a length that is wrong
		g.mislength(f, ip, kind)
	case 4: // a field of the IP header
		f[ip+g.r.IntN(20)] = choose[byte](g, 0, 1, 6, 17, 58, 132, 255, 0x45, 0x20, byte(g.r.Uint32()))
	case 5, 6: // another party
		g.readdress(f, ip, kind)
	case 7: // sender and receiver change places
		g.swap(f, ip, kind)
	case 8: // tagged
		tag := choose(g, []byte{0x81, 0, 0, 7}, []byte{0x88, 0xa8, 0, 9})
		s.frame = append(append(append([]byte(nil), f[:12]...), tag...), f[12:]...)
	case 9: // a header more
		s.frame = g.insertHeader(f, ip, kind)
	case 10: // a port or a flag of layer 4
		if l4 := layer4At(f, ip, kind); l4+14 <= len(f) {
			f[l4+choose(g, 0, 1, 2, 3, 4, 13)] ^= 1 << g.r.IntN(8)
		}
	}
}

// ipAt finds the IP header behind any number of tags, -1 if there is none.
func ipAt(f []byte) (at int, kind uint16) {
	at = 12
	for at+2 <= len(f) {
		kind = binary.BigEndian.Uint16(f[at:])
		switch kind {
		case 0x8100, 0x88a8:
			at += 4
		case 0x0800, 0x86dd:
			return at + 2, kind
		default:
			return -1, kind
		}
	}
	return -1, 0
}

// layer4At is where layer 4 would be without extension headers.
func layer4At(f []byte, ip int, kind uint16) int {
	if kind == 0x86dd {
		return ip + 40
	}
	return ip + int(f[ip]&0xf)*4
}

func (g *generator) mislength(f []byte, ip int, kind uint16) {
	at := ip + 2
	if kind == 0x86dd {
		at = ip + 4
	}
	if g.chance(20) && kind == 0x0800 {
		f[ip] = 0x40 | byte(g.r.IntN(16))
		return
	}
	if l4 := layer4At(f, ip, kind); g.chance(20) && l4+13 <= len(f) {
		f[l4+12] = byte(g.r.IntN(16)) << 4 // of TCP
		return
	}
	length := int(binary.BigEndian.Uint16(f[at:])) + choose(g, -60, -20, -8, -2, -1, 1, 2, 8, 100)
	binary.BigEndian.PutUint16(f[at:], uint16(max(length, 0)))
}

func (g *generator) readdress(f []byte, ip int, kind uint16) {
	if kind == 0x86dd && len(f) >= ip+40 {
		a := g.someone(true)
		if g.chance(3) {
			a = asRef(web.v4) // IPv4 in disguise
		}
		copy(f[ip+choose(g, 8, 24):], a[:])
	} else if kind == 0x0800 {
		a := g.someone(false)
		copy(f[ip+choose(g, 12, 16):], a[12:])
	}
}

func (g *generator) swap(f []byte, ip int, kind uint16) {
	flip := func(a, b, n int) {
		if b+n > len(f) {
			return
		}
		for i := range n {
			f[a+i], f[b+i] = f[b+i], f[a+i]
		}
	}
	if kind == 0x86dd {
		flip(ip+8, ip+24, 16)
	} else {
		flip(ip+12, ip+16, 4)
	}
	if l4 := layer4At(f, ip, kind); g.chance(80) {
		flip(l4, l4+2, 2)
	}
}

// insertHeader adds IPv4 options or an IPv6 extension header, and repairs the
// lengths.
func (g *generator) insertHeader(f []byte, ip int, kind uint16) []byte {
	if kind == 0x0800 {
		if f[ip]&0xf != 5 {
			return f
		}
		words := 1 + g.r.IntN(10)
		out := append([]byte(nil), f[:ip+20]...)
		out = append(append(out, make([]byte, 4*words)...), f[ip+20:]...)
		out[ip] += byte(words)
		grow(out[ip+2:], 4*words)
		return out
	}
	if len(f) < ip+40 {
		return f
	}
	b := blueprint{id: g.r.Uint32N(4)}
	if g.chance(30) {
		b.offset, b.more = 8*g.r.IntN(4), g.chance(50)
	}
	h := choose[uint8](g, 0, 43, 44, 51, 60)
	ext := extension(h, f[ip+6], &b)
	if h == 43 && g.chance(20) {
		ext[3] = 1 // on its way
	} else if h == 43 {
		ext[3] = 0
	}
	out := append([]byte(nil), f[:ip+40]...)
	out = append(append(out, ext...), f[ip+40:]...)
	out[ip+6] = h
	grow(out[ip+4:], len(ext))
	return out
}

func grow(b []byte, n int) {
	binary.BigEndian.PutUint16(b, binary.BigEndian.Uint16(b)+uint16(n))
}
