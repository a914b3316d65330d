package bpf

import (
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// TestSweep follows flows of every state to their deletion.
func TestSweep(t *testing.T) {
	w, d := web.v4, db.v4
	established := []packet{tcp(w, d, 1, 2, "S"), tcp(d, w, 2, 1, "SA"), tcp(w, d, 1, 2, "A")}
	init, ack := sctp(4, web, db)
	for _, c := range []struct {
		name    string
		packets []packet
		limit   time.Duration
	}{
		{"SYN", established[:1], 20 * time.Second},
		{"SYN-ACK", established[:2], 20 * time.Second},
		{"established", established, time.Hour},
		{"one FIN", append(established[:3:3], tcp(w, d, 1, 2, "FA")), time.Hour},
		{"reset", append(established[:3:3], tcp(d, w, 2, 1, "R")), 30 * time.Second},
		{"both FINs", append(established[:3:3], tcp(d, w, 2, 1, "FA"), tcp(w, d, 1, 2, "FA")), 30 * time.Second},
		{"middle, one side", []packet{tcp(w, d, 1, 2, "A")}, 20 * time.Second},
		{"middle, both sides", []packet{tcp(w, d, 1, 2, "A"), tcp(d, w, 2, 1, "A")}, time.Hour},
		{"UDP", []packet{udp(w, d, 1, 2)}, time.Minute},
		{"INIT", []packet{init.chunk(sctpInit, 1)}, 20 * time.Second},
		{"association", []packet{init.chunk(sctpInit, 1), ack.chunk(sctpInitAck, 2), init.chunk(sctpCookieEcho, 0)}, time.Hour},
		{"abort", []packet{init.chunk(sctpInit, 1), ack.chunk(sctpAbort, 0)}, 30 * time.Second},
		{"ICMP", []packet{echo(w, d, 1, false)}, 5 * time.Second},
		{"other", []packet{{src: w, dst: d, proto: 47}}, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, func(cfg *Config) { cfg.Idle = IdleLimits{} })
			for _, p := range c.packets {
				l.want(pass, p, "flow")
			}
			l.records()
			l.sweep(c.limit - time.Second)
			if n := l.flows(); n != 1 {
				t.Fatalf("%d flows a second before the limit", n)
			}
			if list := l.records(); len(list) > 1 {
				t.Errorf("records of the first sweep: %+v", list)
			}
			if s := l.sweep(2 * time.Second); s.Ended+s.Deleted > 1 || l.flows() != 1 {
				t.Fatalf("sweep after the limit: %+v, %d flows", s, l.flows())
			}
			for _, r := range l.records() {
				if r.Event != flow.EventEnd {
					t.Errorf("record at the end: %+v", r)
				}
			}
			if s := l.sweep(time.Second); s.Deleted != 1 || l.flows() != 0 {
				t.Errorf("second sweep: %+v, %d flows", s, l.flows())
			}
			if list := l.records(); len(list) != 0 {
				t.Errorf("records after the end: %+v", list)
			}
		})
	}
}

// TestSweepLongFlow checks that a long flow's counters are reported now and
// then, and not with every sweep.
func TestSweepLongFlow(t *testing.T) {
	l := newLab(t)
	p := tcp(web.v4, db.v4, 1, 2, "")
	l.connect(p)
	l.records()
	if l.sweep(time.Second); len(l.records()) != 0 {
		t.Error("reported before the interval was over")
	}
	l.sweep(5 * time.Second)
	r := l.record()
	if r.Event != flow.EventSweep || r.Forward.Packets != 1 || r.Reverse.Packets != 1 || r.Connections != 0 {
		t.Errorf("record: %+v", r)
	}
	if l.sweep(10 * time.Second); len(l.records()) != 0 {
		t.Error("reported although nothing came")
	}
}

// TestRevival checks that a packet of a flow that has ended, and is not deleted
// yet, makes it a new one.
func TestRevival(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		p := udp(web.in(family), db.in(family), 40000, 53)
		l.want(pass, p, "first")
		l.sweep(2 * time.Minute)
		l.records()
		l.apply(live(flow.Egress, 1))
		l.want(drop, p, "after its end")
		if r := l.record(); r.Event != flow.EventNew || r.Connections != 1 || r.Forward.Packets != 1 {
			t.Errorf("record: %+v", r)
		}
		if s := l.sweep(0); s.Deleted != 0 || l.flows() != 1 {
			t.Errorf("revived flow was deleted: %+v", s)
		}
	})
}

// TestGrace checks that a flow is not deleted while a program may still hold it.
func TestGrace(t *testing.T) {
	l := newLab(t)
	l.want(pass, udp(web.v4, db.v4, 40000, 53), "first")
	l.sweep(2 * time.Minute)
	if s := l.sweep(time.Millisecond); s.Deleted != 0 {
		t.Errorf("deleted at once: %+v", s)
	}
	if s := l.sweep(time.Second); s.Deleted != 1 {
		t.Errorf("not deleted: %+v", s)
	}
}

// TestCountedWhileDying checks that what a program counts after the end record,
// because it had found the flow alive, is reported and not deleted.
func TestCountedWhileDying(t *testing.T) {
	l := newLab(t)
	l.want(pass, udp(web.v4, db.v4, 40000, 53), "first")
	l.sweep(2 * time.Minute)
	l.records()
	for key, f := range l.table() {
		f.Counted[0] += 1 << 40
		if err := putFlow(&l.d.maps, key, f); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.sweep(time.Second); s.Deleted != 0 {
		t.Fatalf("deleted with a packet that no record counts: %+v", s)
	}
	l.sweep(time.Second)
	if r := l.record(); r.Forward.Packets+r.Reverse.Packets != 1 || r.Connections != 0 {
		t.Errorf("record: %+v", r)
	}
	if s := l.sweep(time.Second); s.Deleted != 1 {
		t.Errorf("not deleted: %+v", s)
	}
}

// TestLateRST checks that a reset of a flow that is gone begins none.
func TestLateRST(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		p := tcp(web.in(family), db.in(family), 40000, 80, "R")
		l.want(pass, p, "reset of nothing")
		if n := l.flows(); n != 0 || l.counter("stateless") != 1 || l.counter("unreported_packets") != 0 {
			t.Errorf("%d flows, %d packets without state, %d unreported; want 0, 1, 0",
				n, l.counter("stateless"), l.counter("unreported_packets"))
		}
		l.apply(live(flow.Egress, 1), live(flow.Ingress, 1))
		l.want(drop, p, "reset of nothing, isolated")
	})
}

// TestDetach checks that the flows of an endpoint that went end with it, and
// that its quota is forgotten only then.
func TestDetach(t *testing.T) {
	l := newLab(t)
	l.want(pass, tcp(web.v4, db.v4, 1, 2, "S"), "flow")
	if err := l.d.Detach(l.index); err != nil {
		t.Fatal(err)
	}
	if code := l.from(tcp(web.v4, db.v4, 1, 3, "S").frame(t)); code != pass {
		t.Errorf("after detaching: %s", verdictName(code))
	}
	if n := l.counter("no_endpoint"); n != 1 {
		t.Errorf("%d packets of no endpoint, want 1", n)
	}
	l.sweep(0)
	if s := l.sweep(time.Second); s.Deleted != 1 {
		t.Errorf("sweep: %+v", s)
	}
	l.sweep(time.Second)
	if n, err := countKeys[uint32, kernelRfQuota](l.d.maps.Quotas); err != nil || n != 0 {
		t.Errorf("%d quotas are left, error %v", n, err)
	}
}
