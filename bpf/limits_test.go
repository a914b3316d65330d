package bpf

import (
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// fill sends n flows of packets that rule allows.
func (l *lab) fill(n int, p packet) {
	l.t.Helper()
	for range n {
		l.want(pass, p, "filling")
		p.sport++
	}
}

// TestTableFull checks that a full flow table judges packets by themselves, and
// answers either way round, instead of dropping or passing all.
func TestTableFull(t *testing.T) {
	withoutState(t, "table_full", func(c *Config) { c.FlowEntries, c.EndpointFlows = 8, 1000 })
}

// TestQuota checks the same for one endpoint that holds too many flows.
func TestQuota(t *testing.T) {
	withoutState(t, "quota", func(c *Config) { c.EndpointFlows = 8 })
}

func withoutState(t *testing.T, counter string, change func(*Config)) {
	families(t, func(t *testing.T, family int) {
		w, d, e := web.in(family), db.in(family), evil.in(family)
		l := newLab(t, change)
		l.apply(
			live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80), allow(dbIdent, flow.UDP, 53)),
			live(flow.Ingress, 1, allow(dbIdent, flow.TCP, 8080), allow(dbIdent, flow.UDP, 5353)),
		)
		l.fill(8, tcp(w, d, 1000, 80, "S"))
		if n := l.flows(); n != 8 {
			t.Fatalf("%d flows, want 8", n)
		}
		for _, c := range []struct {
			name    string
			allowed packet
			denied  packet
		}{
			{"SYN out", tcp(w, d, 2000, 80, "S"), tcp(w, e, 2000, 80, "S")},
			{"SYN in", tcp(d, w, 2000, 8080, "S"), tcp(e, w, 2000, 8080, "S")},
			{"data out", tcp(w, d, 2000, 80, "A"), tcp(w, d, 2000, 81, "A")},
			{"answer in", tcp(d, w, 80, 2000, "SA"), tcp(e, w, 80, 2000, "SA")},
			{"answer out", tcp(w, d, 8080, 2000, "A"), tcp(w, e, 8080, 2000, "A")},
			{"SYN is no answer", tcp(w, d, 2000, 80, "S"), tcp(w, d, 8080, 2000, "S")},
			{"datagram out", udp(w, d, 2000, 53), udp(w, d, 2000, 54)},
			{"answering datagram in", udp(d, w, 53, 2000), udp(e, w, 53, 2000)},
			{"answering datagram out", udp(w, d, 5353, 2000), udp(w, d, 5354, 2000)},
		} {
			before := l.counter(counter)
			l.want(pass, c.allowed, c.name)
			l.want(drop, c.denied, c.name)
			if n := l.counter("unreported_packets"); n != l.counter("stateless") {
				t.Errorf("%s: %d packets counted as unreported, want all %d without state", c.name, n, l.counter("stateless"))
			}
			if n := l.counter(counter); n != before+2 {
				t.Errorf("%s: counted %d times in %s, want 2", c.name, n-before, counter)
			}
		}
		if n := l.flows(); n != 8 {
			t.Errorf("%d flows, want 8 still", n)
		}
		l.want(pass, tcp(w, d, 1000, 80, "A"), "a flow in the table")

		// Room comes back.
		l.sweep(time.Minute)
		l.sweep(time.Second)
		l.want(pass, tcp(w, d, 3000, 80, "S"), "after a sweep")
		if n := l.flows(); n != 1 {
			t.Errorf("%d flows after the sweep, want 1", n)
		}
	})
}

// TestQuotaOfOthers checks that one endpoint's quota leaves the others theirs.
func TestQuotaOfOthers(t *testing.T) {
	l := newLab(t, func(c *Config) { c.EndpointFlows = 4; c.NetNS = newNetNS(t); addVeth(t, c.NetNS, "web", "db") })
	l.fill(6, tcp(web.v4, db.v4, 1000, 80, "S"))
	if n := l.counter("quota"); n != 2 {
		t.Errorf("%d flows over the quota, want 2", n)
	}
	l.attach(Endpoint{Interface: "db", ID: dbID, Identity: dbIdent})
	if code := l.to(tcp(web.v4, db.v4, 1000, 80, "S").frame(t)); code != pass {
		t.Errorf("flow of the other endpoint: %s", verdictName(code))
	}
	if n := l.flows(); n != 5 {
		t.Errorf("%d flows, want 5", n)
	}
}
