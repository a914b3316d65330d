package bpf

import (
	"slices"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// connect sends a handshake from client to server.
func (l *lab) connect(p packet) {
	l.t.Helper()
	for _, q := range []packet{p.with("S"), p.reply("SA"), p.with("A")} {
		l.want(pass, q, "handshake")
	}
}

// TestConnection follows one connection from SYN to the last ACK.
func TestConnection(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		for _, c := range []struct {
			name           string
			client, server party
			direction      flow.Direction
		}{
			{"egress", web, db, flow.Egress},
			{"ingress", db, web, flow.Ingress},
		} {
			t.Run(c.name, func(t *testing.T) {
				l := newLab(t)
				p := tcp(c.client.in(family), c.server.in(family), 40000, 5432, "")
				l.connect(p)
				request := p.with("A")
				request.payload = 100
				l.want(pass, request, "request")
				var sum total
				list := l.records()
				sum.add(list)
				if len(list) != 1 || list[0].Event != flow.EventNew || list[0].Direction != c.direction ||
					list[0].Source != c.client.in(family) || list[0].DestinationPort != 5432 || list[0].Endpoint != webID {
					t.Fatalf("first records: %+v", list)
				}
				for _, q := range []packet{p.with("FA"), p.reply("FA")} {
					l.want(pass, q, "close")
				}
				l.sweep(0)
				if list := l.records(); len(list) != 0 {
					t.Fatalf("records before the last ACK: %+v", list)
				}
				l.want(pass, p.with("A"), "last ACK")
				if list := l.records(); len(list) != 0 {
					t.Fatalf("records before the sweep: %+v", list)
				}
				l.sweep(0)
				end := l.record()
				sum.add([]flow.Record{end})
				if end.Event != flow.EventEnd || end.Reverse.Packets == 0 || end.ForwardFlags != 0x11 || end.ReverseFlags != 0x13 {
					t.Errorf("end record: %+v", end)
				}
				l.want(pass, p.with("A"), "late ACK")
				l.sweep(0)
				if list := l.records(); len(list) != 0 {
					t.Errorf("a second end record: %+v", list)
				}
				header := uint64(len(p.frame(t)))
				data := uint64(len(request.frame(t)))
				if sum.connections != 1 || sum.forward != (flow.Counters{Packets: 5, Bytes: 4*header + data}) ||
					sum.reverse != (flow.Counters{Packets: 2, Bytes: 2 * header}) {
					t.Errorf("sums of the records: %+v", sum)
				}
			})
		}
	})
}

// TestEndWaits checks that a flow that was closed has one end record: with the
// next sweep that finds room in the ring, or before its tuple is used again.
func TestEndWaits(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		p := tcp(web.in(family), db.in(family), 40000, 5432, "")
		again := p.with("S")
		again.seq = 77
		events := func(l *lab) (list []flow.Event) {
			for _, r := range l.records() {
				list = append(list, r.Event)
			}
			return list
		}
		t.Run("used again", func(t *testing.T) {
			l := newLab(t)
			l.connect(p)
			l.want(pass, p.with("R"), "reset")
			l.want(pass, again, "used again")
			l.sweep(time.Second)
			if got := events(l); !slices.Equal(got, []flow.Event{flow.EventNew, flow.EventEnd, flow.EventNew}) {
				t.Errorf("records %v", got)
			}
		})
		t.Run("no room", func(t *testing.T) {
			l := newLab(t, func(c *Config) { c.RingBytes = 4096 })
			l.connect(p)
			l.want(pass, p.with("R"), "reset")
			l.records()
			l.fill(100, udp(web.in(family), db.in(family), 1000, 53))
			if s := l.sweep(0); s.Ended != 0 || s.RingFull == 0 {
				t.Errorf("sweep of a full ring: %+v", s)
			}
			l.records()
			ends := 0
			for range 20 {
				l.sweep(0)
				for _, r := range l.records() {
					if r.Event == flow.EventEnd && r.Protocol == flow.TCP {
						ends++
					}
				}
			}
			if ends != 1 {
				t.Errorf("%d end records", ends)
			}
		})
	})
}

// TestReset checks that the next sweep ends a flow that was reset, and keeps its
// entry.
func TestReset(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		p := tcp(web.in(family), db.in(family), 40000, 5432, "S")
		l.want(pass, p, "SYN")
		l.want(pass, p.reply("RA"), "refusal")
		if s := l.sweep(0); s.Reported != 1 || s.Ended != 1 {
			t.Errorf("swept: %+v", s)
		}
		list := l.records()
		if len(list) != 2 || list[1].Event != flow.EventEnd || list[1].Reverse.Packets != 1 {
			t.Fatalf("records: %+v", list)
		}
		if n := l.flows(); n != 1 {
			t.Errorf("%d flows after the reset, want 1", n)
		}
	})
}

// TestDirection checks how a flow's initiator is found from its first packet.
func TestDirection(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		w, d := web.in(family), db.in(family)
		for _, c := range []struct {
			name      string
			first     packet
			direction flow.Direction
			fromWeb   bool // web is the initiator
			young     bool // the endpoint has just been attached
		}{
			{name: "SYN out", first: tcp(w, d, 1, 2, "S"), direction: flow.Egress, fromWeb: true},
			{name: "SYN in", first: tcp(d, w, 1, 2, "S"), direction: flow.Ingress},
			{name: "SYN-ACK out", first: tcp(w, d, 2, 1, "SA"), direction: flow.Ingress},
			{name: "SYN-ACK in", first: tcp(d, w, 2, 1, "SA"), direction: flow.Egress, fromWeb: true},
			{name: "data out", first: tcp(w, d, 1, 2, "A"), fromWeb: true},
			{name: "data in", first: tcp(d, w, 1, 2, "A")},
			{name: "datagram out", first: udp(w, d, 1, 2), direction: flow.Egress, fromWeb: true},
			{name: "datagram in", first: udp(d, w, 1, 2), direction: flow.Ingress},
			{name: "datagram out, young", first: udp(w, d, 1, 2), fromWeb: true, young: true},
			{name: "datagram in, young", first: udp(d, w, 1, 2), young: true},
			{name: "echo request, young", first: echo(w, d, 1, false), direction: flow.Egress, fromWeb: true, young: true},
			{name: "echo answer", first: echo(w, d, 1, true), direction: flow.Ingress},
		} {
			t.Run(c.name, func(t *testing.T) {
				l := newLab(t, func(cfg *Config) {
					if c.young {
						cfg.Idle.UDP = time.Minute
					}
				})
				l.want(pass, c.first, "first")
				r := l.record()
				if r.Direction != c.direction || (r.Source == w) != c.fromWeb {
					t.Errorf("direction %s, initiator %s: %+v", r.Direction, r.Source, r)
				}
			})
		}
	})
}

// TestYoungEndpoint checks exchanges over UDP that are met right after attaching:
// one that began under observation survives enforcement whichever side showed
// first, and enforcement that is there already knows no such excuse.
func TestYoungEndpoint(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t, func(c *Config) { c.Idle.UDP = time.Minute })
		w, d := web.in(family), db.in(family)
		answer := udp(d, w, 53, 40000)
		l.want(pass, answer, "answer of before")
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.UDP, 53)), live(flow.Ingress, 1))
		l.want(pass, answer, "answer of before, enforced")
		l.want(pass, answer.reply(""), "next request, enforced")
		answer.dport++
		l.want(drop, answer, "the like, new")
		l.want(pass, udp(w, d, 40002, 53), "request, new")
		l.want(pass, udp(d, w, 53, 40002), "its answer")
	})
}

// TestReplies checks that answers go by their flow's verdict, and that the
// answered way alone is not enough to begin a flow.
func TestReplies(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		w, d := web.in(family), db.in(family)
		for _, c := range []struct {
			name    string
			request packet
			entry   []Entry
		}{
			{"TCP", tcp(w, d, 40000, 80, "S"), []Entry{allow(dbIdent, flow.TCP, 80)}},
			{"UDP", udp(w, d, 40000, 80), []Entry{allow(dbIdent, flow.UDP, 80)}},
			{"ICMP", echo(w, d, 5, false), icmpEntries(dbIdent, 1)},
		} {
			t.Run(c.name, func(t *testing.T) {
				l := newLab(t)
				l.apply(live(flow.Egress, 1, c.entry...), live(flow.Ingress, 1))
				answer := c.request.reply("SA")
				backward := c.request.reply("S")
				if c.name == "ICMP" {
					answer = echo(d, w, 5, true)
					backward = echo(d, w, 6, false)
				} else {
					backward.dport++
				}
				l.want(drop, backward, "flow the other way")
				l.want(pass, c.request, "request")
				l.want(pass, answer, "answer")
				if n := l.flows(); n != 2 {
					t.Errorf("%d flows, want the refused one and the answered one", n)
				}
			})
		}
	})
}

// TestJudgedAgain checks that a policy change acts on open connections, that a
// record tells what was counted under which verdict, and that nothing is lost.
func TestJudgedAgain(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		p := tcp(web.in(family), db.in(family), 40000, 5432, "")
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 5432)))
		l.connect(p)
		l.records()
		l.want(pass, p.with("A"), "under revision 1")

		l.apply(live(flow.Egress, 2))
		l.want(drop, p.with("A"), "under revision 2")
		list := l.records()
		if len(list) != 2 {
			t.Fatalf("records after the change: %+v", list)
		}
		old, changed := list[0], list[1]
		if old.Live.Revision != 1 || old.Outcome != flow.OutcomeForwarded || old.Forward.Packets != 2 {
			t.Errorf("what was counted under revision 1: %+v", old)
		}
		if changed.Event != flow.EventVerdict || changed.Live.Revision != 2 || changed.Outcome != flow.OutcomeDropped ||
			changed.Forward.Packets != 1 || changed.Connections != 0 {
			t.Errorf("what was counted under revision 2: %+v", changed)
		}
		l.want(drop, p.reply("A"), "answer under revision 2")

		l.apply(live(flow.Egress, 3, allow(dbIdent, flow.TCP, 5432)))
		l.want(pass, p.with("A"), "under revision 3")
		l.want(pass, p.reply("A"), "answer under revision 3")

		// A change elsewhere judges again and reports nothing.
		l.records()
		before := l.counter("rejudged")
		if err := l.d.BumpEpoch(); err != nil {
			t.Fatal(err)
		}
		l.want(pass, p.with("A"), "same revision")
		if list := l.records(); len(list) != 0 {
			t.Errorf("records without a change: %+v", list)
		}
		if n := l.counter("rejudged"); n != before+1 {
			t.Errorf("judged again %d times, want 1", n-before)
		}
	})
}

// TestAddressMoves checks that a flow loses the permission of an address that
// went to someone else.
func TestAddressMoves(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		p := tcp(web.in(family), db.in(family), 40000, 5432, "")
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 5432)))
		l.connect(p)
		owners := everyone()
		for i, o := range owners {
			if o.Addr == db.in(family) {
				owners[i].Identity, owners[i].Endpoint = evilIdent, evilID
			}
		}
		changes, err := l.d.SetAddresses(owners)
		if err != nil || changes != (Changes{Changed: 1}) {
			t.Fatalf("changes %+v, error %v", changes, err)
		}
		l.want(drop, p.with("A"), "after the address moved")
	})
}

// TestSYN checks which SYN begins a flow of its own.
func TestSYN(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		p := tcp(web.in(family), db.in(family), 40000, 5432, "S")
		again := p
		again.seq = 77
		count := func(t *testing.T, l *lab, want uint32) {
			t.Helper()
			l.sweep(time.Minute)
			var sum total
			sum.add(l.records())
			if sum.connections != want {
				t.Errorf("%d connections, want %d", sum.connections, want)
			}
		}
		t.Run("sent again", func(t *testing.T) {
			l := newLab(t)
			l.want(pass, p, "SYN")
			l.want(pass, p, "the same SYN")
			count(t, l, 1)
		})
		t.Run("with a new sequence number", func(t *testing.T) {
			l := newLab(t)
			l.want(pass, p, "SYN")
			l.want(pass, again, "another SYN")
			count(t, l, 2)
		})
		t.Run("after a reset", func(t *testing.T) {
			l := newLab(t)
			l.want(pass, p, "SYN")
			l.want(pass, p.reply("RA"), "reset")
			l.want(pass, again, "port used again")
			l.want(pass, again.reply("SA"), "answer")
			count(t, l, 2)
		})
		t.Run("after both FINs", func(t *testing.T) {
			l := newLab(t)
			l.connect(p)
			for _, q := range []packet{p.with("FA"), p.reply("FA"), p.with("A")} {
				l.want(pass, q, "close")
			}
			l.connect(again)
			count(t, l, 2)
		})
		t.Run("after one FIN", func(t *testing.T) {
			l := newLab(t)
			l.connect(p)
			l.want(pass, p.with("FA"), "half close")
			l.want(pass, again, "SYN on an open flow")
			count(t, l, 1)
		})
		t.Run("of the responder, on an open flow", func(t *testing.T) {
			l := newLab(t)
			l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 5432)), live(flow.Ingress, 1))
			l.connect(p)
			l.want(drop, p.reply("S"), "reversed SYN")
			l.want(pass, p.with("A"), "the open flow")
			l.want(pass, p.reply("A"), "the open flow's answer")
			if n := l.counter("reversed_syn"); n != 1 {
				t.Errorf("%d reversed SYNs, want 1", n)
			}
		})
		t.Run("on a flow met in the middle", func(t *testing.T) {
			l := newLab(t)
			l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 5432)), live(flow.Ingress, 1))
			l.want(pass, p.with("A"), "middle")
			l.want(drop, p.reply("S"), "forged SYN")
			l.want(pass, p.with("A"), "middle still")
			l.want(pass, p, "true SYN")
			list := l.records()
			if last := list[len(list)-1]; last.Direction != flow.Egress || last.Live.Reason != flow.ReasonRule {
				t.Errorf("record of the true SYN: %+v", last)
			}
		})
	})
}

// TestReuseReversed checks that a tuple used the other way round is judged anew.
func TestReuseReversed(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		p := tcp(web.in(family), db.in(family), 40000, 5432, "S")
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 5432)), live(flow.Ingress, 1))
		l.want(pass, p, "SYN")
		l.want(pass, p.reply("RA"), "reset")
		l.want(drop, p.reply("S"), "the other way")
		list := l.records()
		last := list[len(list)-1]
		if last.Event != flow.EventNew || last.Direction != flow.Ingress || last.Source != db.in(family) {
			t.Errorf("record: %+v", last)
		}
	})
}

// TestSide checks that a packet which claims the other side's address does not
// pass as part of the flow.
func TestSide(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		p := tcp(db.in(family), web.in(family), 40000, 80, "")
		l.apply(live(flow.Ingress, 1, allow(dbIdent, flow.TCP, 80)), live(flow.Egress, 1))
		l.connect(p)
		if code := l.from(p.with("A").frame(t)); code != drop {
			t.Errorf("the peer's packet, out of the endpoint: %s", verdictName(code))
		}
		l.want(pass, p.with("A"), "the peer's packet")
		if n := l.counter("spoofed"); n != 1 {
			t.Errorf("%d spoofed, want 1", n)
		}
	})
}

// TestPanic checks that panic lifts every drop, still judges, and can be taken
// back.
func TestPanic(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		p := tcp(web.in(family), evil.in(family), 40000, 22, "S")
		l.apply(live(flow.Egress, 1))
		l.want(drop, p, "before panic")
		l.records()
		if err := l.d.Panic(true); err != nil {
			t.Fatal(err)
		}
		if !l.d.Panicked() {
			t.Error("not panicked")
		}
		l.want(pass, p, "under panic, known flow")
		p.sport++
		l.want(pass, p, "under panic, new flow")
		for _, r := range l.records() {
			if r.Outcome != flow.OutcomeAudited || r.Live.Verdict != flow.VerdictDeny {
				t.Errorf("record under panic: %+v", r)
			}
		}
		frame := p.frame(t)
		frame[etherLen] = 0 // no version of IP
		if code := l.from(frame); code != pass {
			t.Errorf("malformed packet under panic: %s", verdictName(code))
		}
		if err := l.d.Panic(false); err != nil {
			t.Fatal(err)
		}
		l.want(drop, p, "after panic")
	})
}

// TestOtherSideOfDropped checks that nobody keeps an endpoint from what it is
// allowed by sending first under the same tuple.
func TestOtherSideOfDropped(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		here, there := web.in(family), db.in(family)
		for _, c := range []struct {
			name                    string
			theirs, ours, ourAnswer packet
		}{
			{"UDP", udp(there, here, 53, 40000), udp(here, there, 40000, 53), udp(there, here, 53, 40000)},
			{"TCP", tcp(there, here, 53, 40000, "S"), tcp(here, there, 40000, 53, "S"), tcp(there, here, 53, 40000, "SA")},
		} {
			t.Run(c.name+", allowed out", func(t *testing.T) {
				l := newLab(t)
				l.apply(live(flow.Ingress, 1), live(flow.Egress, 1, allow(dbIdent, flow.UDP, 53), allow(dbIdent, flow.TCP, 53)))
				l.want(drop, c.theirs, "unasked for")
				l.want(pass, c.ours, "the endpoint's own")
				l.want(pass, c.ourAnswer, "its answer")
			})
			t.Run(c.name+", allowed in", func(t *testing.T) {
				l := newLab(t)
				l.apply(live(flow.Egress, 1), live(flow.Ingress, 1, allow(dbIdent, flow.UDP, 40000), allow(dbIdent, flow.TCP, 40000)))
				l.want(drop, c.ours, "the endpoint may not begin")
				l.want(pass, c.theirs, "the peer may")
				answer := c.ours
				if c.name == "TCP" {
					answer = tcp(here, there, 40000, 53, "SA")
				}
				l.want(pass, answer, "the endpoint's answer")
			})
			t.Run(c.name+", allowed neither way", func(t *testing.T) {
				l := newLab(t)
				l.apply(live(flow.Egress, 1), live(flow.Ingress, 1))
				l.want(drop, c.theirs, "unasked for")
				l.want(drop, c.ours, "the endpoint's own")
				if got := l.flows(); got != 1 {
					t.Errorf("%d flows, want the one", got)
				}
			})
		}
	})
}
