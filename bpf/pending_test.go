package bpf

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
)

// forget takes the identity from p's addresses.
func (l *lab) forget(p party) {
	l.t.Helper()
	owners := everyone()
	for i := range owners {
		if owners[i].Addr == p.v4 || owners[i].Addr == p.v6 {
			owners[i].Identity = flow.IdentityUnknown
		}
	}
	if _, err := l.d.SetAddresses(owners); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) pending(answer flow.Verdict) {
	l.t.Helper()
	if err := l.d.SetPending(answer); err != nil {
		l.t.Fatal(err)
	}
}

// TestPendingPeer checks the two answers to a peer that nobody knows yet, and
// that they bite only where the direction is isolated.
func TestPendingPeer(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		l.forget(evil)
		out := tcp(web.in(family), evil.in(family), 40000, 80, "S")
		l.apply(live(flow.Egress, 3), staged(flow.Egress, 4, Entry{Peer: PeerAny}))
		l.want(pass, out, "by default")
		want := flow.Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonPending, Revision: 3}
		if r := l.record(); r.Live != want || r.Staged.Reason != flow.ReasonRule {
			t.Errorf("record: %+v", r)
		}
		l.want(drop, tcp(web.in(family), db.in(family), 40000, 80, "S"), "a peer that is known")
		l.records()

		l.pending(flow.VerdictDeny)
		l.want(drop, out.with("A"), "denied while it is open")
		want.Verdict = flow.VerdictDeny
		if r := l.record(); r.Live != want || r.Event != flow.EventVerdict {
			t.Errorf("record: %+v", r)
		}
		open := live(flow.Egress, 5)
		open.Open = true
		l.apply(open)
		l.want(pass, out.with("A"), "not isolated")
		l.apply(live(flow.Egress, 6), guardrail(flow.Egress, allow(PeerAny, flow.TCP, 80)))
		l.pending(flow.VerdictAllow)
		l.want(drop, out.with("A"), "guardrail for anybody")
		out.dport++
		l.want(pass, out, "beside the guardrail")
	})
}

// TestPendingEndpoint checks an endpoint that nobody knows yet: all passes, or
// nothing but failsafe, until its identity comes.
func TestPendingEndpoint(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80)), live(flow.Ingress, 1))
		l.attach(Endpoint{Interface: "web", ID: webID})
		server := netip.AddrPortFrom(other.in(family), 9000)
		if _, err := l.d.SetFailsafe([]Failsafe{{flow.TCP, server}}); err != nil {
			t.Fatal(err)
		}
		w := web.in(family)
		out, in := tcp(w, db.in(family), 40000, 81, "S"), tcp(db.in(family), w, 40000, 22, "S")
		cut := out.frame(t)
		cut = cut[:len(cut)-16]
		unread := func(want uint32) {
			t.Helper()
			if code := l.from(cut); code != want {
				t.Errorf("malformed: %s", verdictName(code))
			}
		}
		for _, p := range []packet{out, in, tcp(w, world.in(family), 1, 1, "A")} {
			l.want(pass, p, "by default")
			want := flow.Judgement{Verdict: flow.VerdictAllow, Reason: flow.ReasonPending}
			if r := l.record(); r.Live != want || r.Staged != want || r.Outcome != flow.OutcomeForwarded {
				t.Errorf("record: %+v", r)
			}
		}
		unread(pass)

		l.pending(flow.VerdictDeny)
		l.want(drop, out.with("A"), "out, denied while it is open")
		l.want(drop, in.with("A"), "in, denied while it is open")
		for _, r := range l.records() {
			if r.Live != (flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonPending}) {
				t.Errorf("record: %+v", r)
			}
		}
		l.want(drop, tcp(w, db.in(family), 40001, 80, "S"), "by somebody's rule")
		l.want(drop, udp(evil.in(family), w, 53, 40000), "an answer of an exchange from before")
		unread(drop)
		l.want(pass, tcp(w, server.Addr(), 40000, 9000, "S"), "failsafe destination")
		l.want(drop, tcp(server.Addr(), w, 40000, 9001, "S"), "from the failsafe destination")
		probe := tcp(node.in(family), w, 40000, 8080, "S")
		if code := l.fromNode(probe.frame(t)); code != pass {
			t.Errorf("probe: %s", verdictName(code))
		}
		l.want(pass, probe.reply("SA"), "answer to the probe")
		if code := l.from(udp(ip("0.0.0.0"), ip("255.255.255.255"), 68, 67).frame(t)); code != pass {
			t.Errorf("DHCP: %s", verdictName(code))
		}
		if !slices.ContainsFunc(l.records(), func(r flow.Record) bool { return r.Live.Reason == flow.ReasonFailsafe }) {
			t.Error("no record of the failsafe")
		}

		l.attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent})
		l.want(pass, tcp(w, db.in(family), 40000, 80, "S"), "known now")
		l.want(drop, out.with("A"), "known now")
	})
}

// TestPendingAnswer checks that other answers than the two are refused, and that
// the answer outlives the process.
func TestPendingAnswer(t *testing.T) {
	l := newLab(t)
	if err := l.d.SetPending(flow.VerdictUnknown); err == nil || !strings.Contains(err.Error(), `answer "unknown"`) {
		t.Errorf("error %v", err)
	}
	l.pending(flow.VerdictDeny)
	l.upgrade(func(*Config) {})
	if got := l.d.settings.value.Pending; got != uint32(flow.VerdictDeny) {
		t.Errorf("after a restart the settings hold %d", got)
	}
}
