package bpf

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// disagreement is what the programs and the model once did not agree on, and
// which of them was right.
type disagreement struct {
	name    string
	tables  []Table
	cidrs   []CIDRIdentity
	shots   []shot // the last one is it
	passed  bool
	counter kernelRfCounter // that it must raise
	tunnels Tunnels         // that web's interface is looked into
}

// TestDisagreements keeps every case that the generated frames brought up.
func TestDisagreements(t *testing.T) {
	w := newTwin(t, twinSizes[0])
	for _, c := range disagreements {
		w.clean()
		for _, a := range everyone() {
			w.m.owners[asRef(a.Addr)] = a
		}
		w.must(w.d.SetAddresses(everyone()))
		w.must(w.d.SetCIDRs(c.cidrs))
		w.m.cidrs = c.cidrs
		w.apply(c.tables)
		w.age(0, false, c.tunnels)
		w.m.epoch = w.d.settings.value.Epoch
		var code uint32
		var before [kernelRfCounterRF_COUNTERS]uint64
		for _, s := range c.shots {
			before = w.before
			code = w.shoot(s)
		}
		if (code == pass) != c.passed {
			t.Errorf("%s: %s", c.name, verdictName(code))
		}
		if w.before[c.counter] == before[c.counter] {
			t.Errorf("%s: not counted as %s", c.name, counterName(c.counter))
		}
	}
}

var disagreements = []disagreement{
	{
		name:    "a chain of eight extension headers is not too long",
		tables:  []Table{live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80))},
		shots:   []shot{eightHeaders(80)},
		passed:  true,
		counter: kernelRfCounterRF_COUNT_FORWARDED,
	},
	{
		name:    "and is judged by what is behind it",
		tables:  []Table{live(flow.Egress, 1, allow(dbIdent, flow.TCP, 80))},
		shots:   []shot{eightHeaders(81)},
		counter: kernelRfCounterRF_COUNT_LIVE_DENY + kernelRfCounter(flow.ReasonDefault),
	},
	{
		name:   "an IPv4 error quotes within its own packet, not in the padding behind it",
		tables: []Table{live(flow.Egress, 1, allow(dbIdent, flow.TCP, 8011)), live(flow.Ingress, 1)},
		shots: []shot{
			{from: true, frame: (&blueprint{
				src: asRef(web.v4), dst: asRef(db.v4), protocol: 6, hops: 64, body: tcpBody(40000, 8011, 1, tcpSYN, 0, 0),
			}).bytes()},
			{frame: cutError(false)},
		},
		counter: kernelRfCounterRF_COUNT_LIVE_DENY + kernelRfCounter(flow.ReasonDefault),
	},
	{
		name:   "nor does an IPv6 error",
		tables: []Table{live(flow.Egress, 1, allow(dbIdent, flow.TCP, 8011)), live(flow.Ingress, 1)},
		shots: []shot{
			{from: true, frame: (&blueprint{
				v6: true, src: asRef(web.v6), dst: asRef(db.v6), protocol: 6, hops: 64, body: tcpBody(40000, 8011, 1, tcpSYN, 0, 0),
			}).bytes()},
			{frame: cutError(true)},
		},
		counter: kernelRfCounterRF_COUNT_LIVE_DENY + kernelRfCounter(flow.ReasonDefault),
	},
	{
		name:   "a GRE header ends with its packet, not in the padding behind it",
		tables: []Table{live(flow.Egress, 1, Entry{Peer: PeerAny})},
		shots: []shot{{from: true, frame: unhex("02000000000002000000000008004500001700000000402f00000a000001" +
			"c6336442800108000000000000000000000000000000000000000000")}},
		counter: kernelRfCounterRF_COUNT_MALFORMED,
		tunnels: TunnelGRE,
	},
	{
		name:    "::/0 does not hold IPv4 addresses",
		tables:  []Table{cidrTable(flow.Egress, allow(cidrIdent, flow.TCP, 443))},
		cidrs:   []CIDRIdentity{{netip.MustParsePrefix("::/0"), cidrIdent}},
		shots:   []shot{{from: true, frame: outTo(world, false)}},
		counter: kernelRfCounterRF_COUNT_LIVE_DENY + kernelRfCounter(flow.ReasonDefault),
	},
	{
		name:    "::/0 holds IPv6 addresses",
		tables:  []Table{cidrTable(flow.Egress, allow(cidrIdent, flow.TCP, 443))},
		cidrs:   []CIDRIdentity{{netip.MustParsePrefix("::/0"), cidrIdent}},
		shots:   []shot{{from: true, frame: outTo(world, true)}},
		passed:  true,
		counter: kernelRfCounterRF_COUNT_FORWARDED,
	},
}

func eightHeaders(port uint16) shot {
	return shot{from: true, frame: (&blueprint{
		v6: true, src: asRef(web.v6), dst: asRef(db.v6), protocol: 6, hops: 64,
		headers: []uint8{0, 60, 43, 51, 60, 60, 60, 60}, body: tcpBody(40000, port, 1, tcpSYN, 0, 0),
	}).bytes()}
}

// cutError is an error about a flow of web's whose packet ends before the quoted
// ports; they follow as padding.
func cutError(v6 bool) []byte {
	quoted := blueprint{
		v6: v6, src: asRef(web.in(4)), dst: asRef(db.in(4)), protocol: 6, hops: 63, body: tcpBody(40000, 8011, 1, tcpSYN, 0, 0),
	}
	report := blueprint{v6: v6, src: asRef(evil.in(4)), dst: asRef(web.in(4)), protocol: 1, hops: 64}
	kind := uint8(3)
	if v6 {
		quoted.src, quoted.dst = asRef(web.v6), asRef(db.v6)
		report.src, report.dst, report.protocol, kind = asRef(evil.v6), asRef(web.v6), 58, 1
	}
	q := quoted.bytes()[etherLen:]
	report.body = icmpBody(kind, 1, 0, q)
	f := report.bytes()
	missing := len(q) - 4
	if v6 {
		missing -= 40
		grow(f[etherLen+4:], -missing)
	} else {
		missing -= 20
		grow(f[etherLen+2:], -missing)
	}
	return f
}

func outTo(to party, v6 bool) []byte {
	b := blueprint{v6: v6, src: asRef(web.v4), dst: asRef(to.v4), protocol: 6, hops: 64, body: tcpBody(40000, 443, 1, tcpSYN, 0, 0)}
	if v6 {
		b.src, b.dst = asRef(web.v6), asRef(to.v6)
	}
	return b.bytes()
}
