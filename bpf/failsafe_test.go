package bpf

import (
	"net/netip"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
)

// isolated is a lab whose endpoint may do nothing.
func isolated(t *testing.T) *lab {
	l := newLab(t)
	l.apply(live(flow.Egress, 1), live(flow.Ingress, 1))
	return l
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// TestFailsafe checks what passes an endpoint that may do nothing, and beside
// each the nearest thing that does not.
func TestFailsafe(t *testing.T) {
	icmp6 := func(src, dst string, kind uint8, hops uint8) packet {
		return packet{src: ip(src), dst: ip(dst), proto: flow.ICMPv6, dport: uint16(kind) << 8, hopLimit: hops}
	}
	for _, c := range []struct {
		name    string
		allowed packet
		denied  packet
		in      bool // into the endpoint
	}{
		{
			name:    "neighbour solicitation out",
			allowed: icmp6("fe80::1", "ff02::1:ff00:2", 135, 255),
			denied:  icmp6("fe80::1", "ff02::1:ff00:2", 135, 64),
		},
		{
			name:    "duplicate address detection",
			allowed: icmp6("::", "ff02::1:ff00:1", 135, 255),
			denied:  icmp6("fd00::3", "ff02::1:ff00:1", 135, 255),
		},
		{
			name:    "neighbour solicitation beyond the link",
			allowed: icmp6("fd00::1", "fd00::fe", 135, 255),
			denied:  icmp6("fd00::1", "2001:db8:66::66", 135, 255),
		},
		{
			name:    "router advertisement in",
			allowed: icmp6("fe80::fe", "ff02::1", 134, 255),
			denied:  icmp6("fe80::fe", "ff02::1", 128, 255),
			in:      true,
		},
		{
			name:    "multicast listener report",
			allowed: icmp6("fe80::1", "ff02::16", 143, 1),
			denied:  icmp6("fe80::1", "ff05::16", 143, 1),
		},
		{
			name:    "DHCP request",
			allowed: udp(ip("0.0.0.0"), ip("255.255.255.255"), 68, 67),
			denied:  udp(ip("0.0.0.0"), ip("255.255.255.255"), 69, 67),
		},
		{
			name:    "DHCP renewal",
			allowed: udp(web.v4, node.v4, 68, 67),
			denied:  udp(web.v4, world.v4, 68, 67),
		},
		{
			name:    "DHCP answer",
			allowed: udp(other.v4, web.v4, 67, 68),
			denied:  udp(other.v4, web.v4, 66, 68),
			in:      true,
		},
		{
			name:    "DHCPv6 request",
			allowed: udp(ip("fe80::1"), ip("ff02::1:2"), 546, 547),
			denied:  udp(ip("fe80::1"), ip("2001:db8:66::66"), 546, 547),
		},
		{
			name:    "DHCPv6 answer",
			allowed: udp(ip("fe80::fe"), ip("fe80::1"), 547, 546),
			denied:  udp(ip("fe80::fe"), ip("fe80::1"), 548, 546),
			in:      true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := isolated(t)
			send := l.from
			if c.in {
				send = l.to
			}
			if code := send(c.allowed.frame(t)); code != pass {
				t.Errorf("%s: %s", c.allowed, verdictName(code))
			}
			if n := l.counter("failsafe"); n != 1 || l.flows() != 0 {
				t.Errorf("%d failsafe packets and %d flows, want 1 and none", n, l.flows())
			}
			if code := send(c.denied.frame(t)); code != drop {
				t.Errorf("%s: %s", c.denied, verdictName(code))
			}
		})
	}
}

// TestNonIP checks that ARP passes an endpoint that may do nothing, IP does not.
func TestNonIP(t *testing.T) {
	l := isolated(t)
	arp := append(append(append([]byte{}, macB...), macA...), 0x08, 0x06)
	arp = append(arp, make([]byte, 28)...)
	if code := l.from(arp); code != pass {
		t.Errorf("ARP: %s", verdictName(code))
	}
	l.want(drop, tcp(web.v4, db.v4, 1, 2, "S"), "IP")
	if n := l.counter("non_ip"); n != 1 {
		t.Errorf("%d frames that are not IP, want 1", n)
	}
}

// TestNodeTraffic checks that the node reaches its endpoints, and gets answers,
// and that nobody else does by its address.
func TestNodeTraffic(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := isolated(t)
		probe := tcp(node.in(family), web.in(family), 40000, 8080, "S")
		if code := l.fromNode(probe.frame(t)); code != pass {
			t.Errorf("probe: %s", verdictName(code))
		}
		r := l.record()
		if r.Live.Verdict != flow.VerdictAllow || r.Live.Reason != flow.ReasonFailsafe {
			t.Errorf("record of the probe: %+v", r)
		}
		l.want(pass, probe.reply("SA"), "answer")
		if err := l.d.BumpEpoch(); err != nil {
			t.Fatal(err)
		}
		l.want(pass, probe.reply("A"), "answer judged again")

		forged := probe
		forged.sport++
		if code := l.to(forged.frame(t)); code != drop {
			t.Errorf("the node's address from elsewhere: %s", verdictName(code))
		}
		l.want(drop, tcp(web.in(family), node.in(family), 40000, 22, "S"), "endpoint to the node")
		if code := l.fromNode(tcp(other.in(family), web.in(family), 1, 8080, "S").frame(t)); code != drop {
			t.Errorf("another node: %s", verdictName(code))
		}
	})
}

// TestFailsafeDestination checks the agent's own way out.
func TestFailsafeDestination(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := isolated(t)
		server := netip.AddrPortFrom(db.in(family), 9000)
		if _, err := l.d.SetFailsafe([]Failsafe{{flow.TCP, server}}); err != nil {
			t.Fatal(err)
		}
		p := tcp(web.in(family), db.in(family), 40000, 9000, "S")
		l.want(pass, p, "to the server")
		if r := l.record(); r.Live.Reason != flow.ReasonFailsafe {
			t.Errorf("record: %+v", r)
		}
		l.want(pass, p.reply("SA"), "its answer")
		l.want(drop, tcp(db.in(family), web.in(family), 40000, 9000, "S"), "the other way")
		l.want(drop, udp(web.in(family), db.in(family), 40000, 9000), "another protocol")
		p.dport++
		l.want(drop, p, "another port")

		if _, err := l.d.SetFailsafe(nil); err != nil {
			t.Fatal(err)
		}
		p.dport--
		l.want(drop, p.with("A"), "after it was taken back")
	})
}

// TestRelated checks that ICMP errors pass with the flow that they quote.
func TestRelated(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.UDP, 53), allow(dbIdent, flow.TCP, 80)), live(flow.Ingress, 1))
		p := udp(web.in(family), db.in(family), 40000, 53)
		router := other.in(family)
		l.want(drop, icmpError(t, router, p), "error before the flow")
		l.want(pass, p, "flow")
		l.want(pass, icmpError(t, router, p), "error of the flow")
		q := tcp(web.in(family), db.in(family), 40001, 80, "S")
		l.want(pass, q, "TCP flow")
		l.want(pass, icmpError(t, router, q), "error of the TCP flow")
		if n := l.counter("related"); n != 2 {
			t.Errorf("%d related, want 2", n)
		}

		stranger := p
		stranger.sport++
		l.want(drop, icmpError(t, router, stranger), "error of no flow")
		elsewhere := icmpError(t, router, p)
		elsewhere.quoted = p.reply("").frame(t)[etherLen:][:len(elsewhere.quoted)]
		l.want(drop, elsewhere, "error that quotes what its receiver did not send")
		bystander := icmpError(t, router, p)
		bystander.dst = evil.in(family)
		if code := l.to(bystander.frame(t)); code != drop {
			t.Errorf("error to another, of this one's flow: %s", verdictName(code))
		}

		l.apply(live(flow.Egress, 2))
		l.want(drop, p, "flow, denied now")
		l.want(drop, icmpError(t, router, p), "error of a denied flow")
	})
}

// TestRelatedQuotes checks errors of every kind, and quotes whose headers are not
// the plain ones.
func TestRelatedQuotes(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		l.apply(live(flow.Egress, 1, Entry{Peer: PeerAny}), live(flow.Ingress, 1))
		w, d := web.in(family), db.in(family)
		p := udp(w, d, 40000, 53)
		assoc, _ := sctp(family, web, db)
		ping := echo(w, d, 7, false)
		for _, q := range []packet{p, assoc.chunk(sctpInit, 1), ping} {
			l.want(pass, q, "flow")
		}
		errorTypes, others := []uint16{1, 2, 3, 4}, []uint16{5, 100, 127, 200}
		if family == 4 {
			errorTypes, others = []uint16{3, 4, 11, 12}, []uint16{5, 9, 30, 40}
		}
		for _, kind := range errorTypes {
			e := icmpError(t, other.in(family), p)
			e.dport = kind << 8
			l.want(pass, e, "error")
		}
		for _, kind := range others {
			e := icmpError(t, other.in(family), p)
			e.dport = kind << 8
			l.want(drop, e, "no error")
		}
		l.want(pass, icmpError(t, other.in(family), assoc.chunk(sctpInit, 1)), "error of an association")
		l.want(pass, icmpError(t, other.in(family), ping), "error of an echo request")

		// Options go between the headers; the transport's follows in 8 bytes.
		plain := p.frame(t)[etherLen:]
		var header, options []byte
		if family == 4 {
			header, options = append([]byte(nil), plain[:20]...), []byte{1, 1, 1, 0}
			header[0] = 0x46
		} else {
			header, options = append([]byte(nil), plain[:40]...), []byte{17, 0, 1, 4, 0, 0, 0, 0}
			header[6] = 60
		}
		quote := func(port byte, cut int) packet {
			transport := append([]byte(nil), plain[len(header):][:8]...)
			transport[3] = port
			e := icmpError(t, other.in(family), p)
			e.quoted = append(append(append([]byte(nil), header...), options...), transport...)
			e.quoted = e.quoted[:len(e.quoted)-cut]
			return e
		}
		l.want(pass, quote(53, 0), "error that quotes options")
		l.want(drop, quote(54, 0), "error that quotes options, of another flow")
		l.want(drop, quote(53, 1), "error that quotes too little")

		_, later := fragments(t, p, 1)
		e := icmpError(t, other.in(family), p)
		e.quoted = later[etherLen:]
		l.want(drop, e, "error that quotes a later fragment")
	})
}

// TestHostEndpoint checks an endpoint that is the node itself: its interface
// receives what goes to it, and it may forward.
func TestHostEndpoint(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		l.attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent, Host: true})
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80)), live(flow.Ingress, 1, allow(evilIdent, flow.TCP, 22)))
		l.want(pass, tcp(web.in(family), db.in(family), 1, 80, "S"), "out")
		l.want(drop, tcp(web.in(family), evil.in(family), 1, 80, "S"), "out")
		l.want(pass, tcp(evil.in(family), web.in(family), 1, 22, "S"), "in")
		l.want(drop, tcp(db.in(family), web.in(family), 1, 22, "S"), "in")
		if code := l.fromNode(tcp(node.in(family), web.in(family), 1, 22, "S").frame(t)); code != drop {
			t.Errorf("identity host is no failsafe for the host's own interface: %s", verdictName(code))
		}
		if code := l.from(tcp(evil.in(family), db.in(family), 2, 80, "S").frame(t)); code != pass {
			t.Errorf("forwarded packet: %s", verdictName(code))
		}
	})
}

// TestSelf checks that an endpoint always reaches itself.
func TestSelf(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := isolated(t)
		p := tcp(web.in(family), web.in(family), 1, 2, "S")
		if code := l.from(p.frame(t)); code != pass {
			t.Errorf("to itself: %s", verdictName(code))
		}
		p = tcp(evil.in(family), evil.in(family), 1, 2, "S")
		if code := l.from(p.frame(t)); code != drop {
			t.Errorf("to and from another's address: %s", verdictName(code))
		}
	})
}
