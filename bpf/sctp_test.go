package bpf

import (
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
)

// Chunks of SCTP.
const (
	sctpData             = 0
	sctpInit             = 1
	sctpInitAck          = 2
	sctpAbort            = 6
	sctpCookieEcho       = 10
	sctpShutdownComplete = 14
)

// chunk is p with an SCTP chunk of that type; INIT's carry tag.
func (p packet) chunk(kind, tag byte) packet {
	p.sctp = []byte{kind, 0, 0, 20, 0, 0, 0, tag, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0}
	return p
}

func sctp(family int, client, server party) (p, answer packet) {
	p = packet{src: client.in(family), dst: server.in(family), proto: flow.SCTP, sport: 40000, dport: 3868}
	return p, p.reply("")
}

// TestSCTP follows associations: who began them, and how they end.
func TestSCTP(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		for _, c := range []struct {
			name           string
			client, server party
			first          byte // chunk
			answered       bool // the first packet is the server's
			want           flow.Direction
		}{
			{"INIT out", web, db, sctpInit, false, flow.Egress},
			{"INIT in", db, web, sctpInit, false, flow.Ingress},
			{"INIT ACK in", web, db, sctpInitAck, true, flow.Egress},
			{"INIT ACK out", db, web, sctpInitAck, true, flow.Ingress},
			{"data out", web, db, sctpData, false, flow.DirectionUnknown},
			{"data in", db, web, sctpData, false, flow.DirectionUnknown},
		} {
			t.Run(c.name, func(t *testing.T) {
				l := newLab(t)
				p, answer := sctp(family, c.client, c.server)
				first := p
				if c.answered {
					first = answer
				}
				l.want(pass, first.chunk(c.first, 1), "first")
				if r := l.record(); r.Direction != c.want || r.Source != p.src || r.DestinationPort != 3868 {
					t.Errorf("record: %+v", r)
				}
			})
		}
		t.Run("judged by who began it", func(t *testing.T) {
			l := newLab(t)
			l.apply(live(flow.Egress, 1, allow(dbIdent, flow.SCTP, 3868)), live(flow.Ingress, 1))
			p, answer := sctp(family, web, db)
			l.want(pass, p.chunk(sctpInit, 1), "INIT")
			l.want(pass, answer.chunk(sctpInitAck, 2), "INIT ACK")
			l.want(pass, p.chunk(sctpCookieEcho, 0), "cookie")
			l.want(drop, answer.chunk(sctpInit, 3), "INIT of the responder")
			in, _ := sctp(family, db, web)
			l.want(drop, in.chunk(sctpInit, 4), "association the other way")
		})
		for name, end := range map[string]byte{"abort": sctpAbort, "shutdown": sctpShutdownComplete} {
			t.Run("used again after "+name, func(t *testing.T) {
				l := newLab(t)
				p, answer := sctp(family, web, db)
				l.want(pass, p.chunk(sctpInit, 1), "INIT")
				l.want(pass, answer.chunk(sctpInitAck, 2), "INIT ACK")
				l.want(pass, p.chunk(sctpData, 0), "data")
				l.want(pass, answer.chunk(end, 0), "end")
				l.sweep(0)
				list := l.records()
				if len(list) != 2 || list[1].Event != flow.EventEnd || list[1].Forward.Packets != 1 {
					t.Fatalf("records: %+v", list)
				}
				l.want(pass, p.chunk(sctpInit, 9), "INIT again")
				if r := l.record(); r.Event != flow.EventNew || r.Connections != 1 {
					t.Errorf("record of the next: %+v", r)
				}
			})
		}
	})
}
