package analyzer_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

func replay(t *testing.T, w *world, p policy.Policy) *analyzer.ReplayResult {
	t.Helper()
	r, err := w.analyzer(analyzer.Config{}).Replay(context.Background(), p, w.window())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReplayFindsTheAttacks(t *testing.T) {
	clean := load(t, "online-boutique.input").recommend("boutique/paymentservice").Policy
	clean.IsolateEgress = true
	got := replay(t, load(t, "scan.input"), *clean)
	if got.Judged != 7+2+2+2+1+1+1 || got.JudgedEdges != 7 || got.Denied != 9 || got.DeniedEdges != 6 {
		t.Errorf("judged %d connections on %d edges, denied %d on %d; want 16 on 7, 9 on 6", got.Judged, got.JudgedEdges, got.Denied, got.DeniedEdges)
	}
	want := []analyzer.Denial{
		{Direction: flow.Ingress, Source: party("boutique/adservice"), Destination: party("boutique/paymentservice"), Protocol: flow.TCP, Port: 22, Reason: flow.ReasonDefault, Connections: 2, Answered: 2, Packets: 14},
		{Direction: flow.Ingress, Source: party("boutique/adservice"), Destination: party("boutique/paymentservice"), Protocol: flow.TCP, Port: 50051, Reason: flow.ReasonDefault, Connections: 2, Answered: 2, Packets: 14},
		{Direction: flow.Ingress, Source: party("boutique/frontend"), Destination: party("boutique/paymentservice"), Protocol: flow.TCP, Port: 22, Reason: flow.ReasonDefault, Connections: 2, Answered: 2, Packets: 14},
		{Direction: flow.Egress, Source: party("boutique/paymentservice"), Destination: party("world/198.51.100.66"), Protocol: flow.TCP, Port: 443, Reason: flow.ReasonDefault, Connections: 1, Answered: 1, Packets: 7},
		{Direction: flow.Egress, Source: party("boutique/paymentservice"), Destination: party("world/198.51.100.66"), Protocol: flow.UDP, Port: 53, Reason: flow.ReasonDefault, Connections: 1, Answered: 1, Packets: 7},
		{Direction: flow.Egress, Source: party("boutique/paymentservice"), Destination: party("world/2001:db8:66::66"), Protocol: flow.TCP, Port: 443, Reason: flow.ReasonDefault, Connections: 1, Answered: 1, Packets: 7},
	}
	if diff := cmp.Diff(want, got.Denials, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.IgnoreFields(analyzer.Denial{}, "FirstSeen", "LastSeen")); diff != "" {
		t.Errorf("denials (-want +got):\n%s", diff)
	}
	if first := got.Denials[3].FirstSeen; !first.Equal(epoch.Add(26 * time.Minute)) {
		t.Errorf("first seen %s", first)
	}
}

func TestReplayJudgesByAddressToo(t *testing.T) {
	peer := func(prefixes ...string) []policy.Rule {
		r := policy.Rule{Ports: []policy.Port{{Protocol: flow.TCP, Port: 80}}}
		for _, p := range prefixes {
			r.Peers = append(r.Peers, policy.Peer{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix(p)}})
		}
		return []policy.Rule{r}
	}
	// shop/front is the second workload: 10.1.2.1 and fd00:1::2:0:1.
	tests := []struct {
		name           string
		rules          []policy.Rule
		denied, partly bool
	}{
		{"both families", peer("10.1.2.0/24", "fd00:1::/64"), false, false},
		{"one family", peer("10.1.2.0/24"), true, true},
		{"the other family", peer("fd00:1::/64"), true, true},
		{"neither", peer("192.0.2.0/24", "2001:db8::/32"), true, false},
		{"labels beside addresses", append(peer("192.0.2.0/24"), policy.Rule{
			Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"app": "front"}}}},
		}), false, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			w := &world{tb: t}
			for _, line := range []string{
				"window 30m", "covered node-1 30m", "workload shop/cart app=cart cart-1@node-1",
				"workload shop/front app=front front-1@node-1", "flow shop/front > shop/cart TCP 80",
			} {
				if err := w.line(line); err != nil {
					t.Fatal(err)
				}
			}
			got := replay(t, w, policy.Policy{Workload: ref("shop/cart"), IsolateIngress: true, Ingress: tc.rules})
			if (got.DeniedEdges == 1) != tc.denied || tc.denied && got.Denials[0].Partly != tc.partly {
				t.Errorf("%+v, want denied %v, partly %v", got, tc.denied, tc.partly)
			}
		})
	}
}

// A crowd's edge has a prefix in place of the addresses: what a policy says of a
// part of it counts.
func TestReplayJudgesACrowd(t *testing.T) {
	cidr := func(prefix string, except ...string) []policy.Rule {
		c := &policy.CIDR{Prefix: netip.MustParsePrefix(prefix)}
		for _, e := range except {
			c.Except = append(c.Except, netip.MustParsePrefix(e))
		}
		return []policy.Rule{{Peers: []policy.Peer{{CIDR: c}}}}
	}
	for _, tc := range []struct {
		name           string
		crowd          string
		rules          []policy.Rule
		denied, partly bool
	}{
		{"all of it, IPv4", "198.51.100.0/24", cidr("198.51.100.0/24"), false, false},
		{"all of it, IPv6", "2001:db8:1::/48", cidr("2001:db8::/32"), false, false},
		{"the first half", "198.51.100.0/24", cidr("198.51.100.0/25"), true, true},
		{"the last half", "2001:db8:1::/48", cidr("2001:db8:1:8000::/49"), true, true},
		{"one address in the middle", "198.51.100.0/24", cidr("198.51.100.77/32"), true, true},
		{"two halves", "198.51.100.0/24", append(cidr("198.51.100.0/25"), cidr("198.51.100.128/25")...), false, false},
		{"all but one, IPv4", "198.51.100.0/24", cidr("0.0.0.0/0", "198.51.100.255/32"), true, true},
		{"all but one, IPv6", "2001:db8:1::/48", cidr("::/0", "2001:db8:1::9/128"), true, true},
		{"without what others may not", "198.51.100.0/24", cidr("0.0.0.0/0", "198.51.101.0/24"), false, false},
		{"another prefix, IPv4", "198.51.100.0/24", cidr("203.0.113.0/24"), true, false},
		{"another prefix, IPv6", "2001:db8:1::/48", cidr("2001:db8:2::/48"), true, false},
		{"everybody", "0.0.0.0/0", cidr("0.0.0.0/0"), false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := crowdedWorld(t, "world/198.51.100.1 > shop/cart", tc.crowd)
			got := replay(t, w, policy.Policy{Workload: ref("shop/cart"), IsolateIngress: true, Ingress: tc.rules})
			if (got.DeniedEdges == 1) != tc.denied || tc.denied && got.Denials[0].Partly != tc.partly {
				t.Errorf("%+v, want denied %v, partly %v", got, tc.denied, tc.partly)
			}
		})
	}
}

// The name of one address of a crowd is not that of the others.
func TestReplayJudgesACrowdByName(t *testing.T) {
	w := crowdedWorld(t, "shop/cart > world/198.51.100.1", "198.51.100.0/24")
	w.inv.Names = []inventory.Name{{Name: "first.example.com", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.0")}}}
	got := replay(t, w, policy.Policy{Workload: ref("shop/cart"), IsolateEgress: true, Egress: []policy.Rule{{Peers: []policy.Peer{{FQDN: "first.example.com"}}}}})
	if got.DeniedEdges != 1 || got.Denials[0].Partly {
		t.Errorf("%+v, want the edge denied", got)
	}
}

// crowdedWorld has one edge, with 200 addresses of a prefix at the end that is
// no workload.
func crowdedWorld(t *testing.T, edge, crowd string) *world {
	t.Helper()
	w := &world{tb: t}
	for _, line := range []string{
		"window 30m", "covered node-1 30m", "workload shop/cart app=cart cart-1@node-1", "flow " + edge + " TCP 80",
	} {
		if err := w.line(line); err != nil {
			t.Fatal(err)
		}
	}
	for i := range w.edges {
		e := &w.edges[i]
		peer := &e.Source
		e.SourceEndpoints = 200
		if e.Source.IsWorkload() {
			peer, e.SourceEndpoints, e.DestinationEndpoints = &e.Destination, 1, 200
		}
		*peer = flow.Party{Reserved: "world", Prefix: netip.MustParsePrefix(crowd)}
	}
	return w
}

// No person is asked to accept each client of the internet, nor is a prefix
// accepted for them.
func TestRecommendACrowd(t *testing.T) {
	r := crowdedWorld(t, "world/198.51.100.1 > shop/cart", "198.51.100.0/24").recommend("shop/cart")
	if len(r.Rules) != 1 || r.Policy != nil && r.Policy.IsolateIngress {
		t.Fatalf("%d rules, policy %+v: %+v", len(r.Rules), r.Policy, r.Rules)
	}
	rule := r.Rules[0]
	if got := rule.Rule.Peers[0].CIDR; got == nil || got.Prefix != netip.MustParsePrefix("198.51.100.0/24") || rule.Proposed != analyzer.Review {
		t.Errorf("%+v proposed as %s", rule.Rule.Peers, rule.Proposed)
	}
	if !slices.ContainsFunc(rule.Flags, func(f analyzer.Flag) bool {
		return f.Code == analyzer.FlagBroad && strings.HasPrefix(f.Reason, "200 of its addresses")
	}) {
		t.Errorf("flags %v", rule.Flags)
	}
	if want := "all 56 other addresses of 198.51.100.0/24 on TCP 80, which were not observed"; !slices.Contains(rule.AlsoAdmits, want) {
		t.Errorf("also admits %q, want %q", rule.AlsoAdmits, want)
	}
}

// A policy's rule for the prefix of a crowd admits what was seen, and the rest of
// the prefix.
func TestCheckACrowd(t *testing.T) {
	w := crowdedWorld(t, "world/198.51.100.1 > shop/cart", "198.51.100.0/24")
	p := policy.Policy{Workload: ref("shop/cart"), IsolateIngress: true, Ingress: []policy.Rule{{
		Peers: []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("198.51.100.0/24")}}}, Ports: []policy.Port{{Protocol: flow.TCP, Port: 80}},
	}}}
	c, err := w.analyzer(analyzer.Config{}).Check(context.Background(), p, epoch, w.window())
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Rules) != 1 || c.Unused != 0 || c.New != 0 || !slices.Equal(c.Rules[0].AlsoAdmits, []string{"56 more of the addresses of 198.51.100.0/24"}) {
		t.Errorf("%s %+v", c.Words, c.Rules)
	}
}

func TestReplayJudgesByName(t *testing.T) {
	named := func(name string) policy.Policy {
		return policy.Policy{Workload: ref("shop/cart"), IsolateEgress: true, Egress: []policy.Rule{{Peers: []policy.Peer{{FQDN: name}}}}}
	}
	// shop/front is the second workload: 10.1.2.1 and fd00:1::2:1.
	for _, tc := range []struct {
		name, to, rule string
		denied, partly bool
	}{
		{"an address, IPv4", "world/192.0.2.7", "api.example.com", false, false},
		{"an address, IPv6", "world/2001:db8::7", "api.example.com", false, false},
		{"a pattern", "world/192.0.2.7", "*.example.com", false, false},
		{"another name", "world/192.0.2.7", "www.example.com", true, false},
		{"an address without a name", "world/2001:db8::8", "api.example.com", true, false},
		{"a workload by all its addresses", "shop/front", "front.example.com", false, false},
		{"a workload by one of its addresses", "shop/front", "half.example.com", true, true},
		{"a workload by another name", "shop/front", "api.example.com", true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := &world{tb: t}
			for _, line := range []string{
				"window 30m", "covered node-1 30m", "workload shop/cart app=cart cart-1@node-1",
				"workload shop/front app=front front-1@node-1", "flow shop/cart > " + tc.to + " TCP 443",
			} {
				if err := w.line(line); err != nil {
					t.Fatal(err)
				}
			}
			addr := netip.MustParseAddr
			w.inv.Names = []inventory.Name{
				{Name: "api.example.com", Addresses: []netip.Addr{addr("192.0.2.7"), addr("2001:db8::7")}},
				{Name: "front.example.com", Addresses: []netip.Addr{addr("10.1.2.1"), addr("fd00:1::2:1")}},
				{Name: "half.example.com", Addresses: []netip.Addr{addr("fd00:1::2:1")}},
			}
			got := replay(t, w, named(tc.rule))
			if got.JudgedEdges != 1 || (got.DeniedEdges == 1) != tc.denied || tc.denied && got.Denials[0].Partly != tc.partly {
				t.Errorf("%+v, want denied %v, partly %v", got, tc.denied, tc.partly)
			}
		})
	}
}

func TestReplayLeavesUnknownDirectionsUnjudged(t *testing.T) {
	w := load(t, "not-learned.input")
	got := replay(t, w, policy.Policy{Workload: ref("shop/cart"), IsolateIngress: true, IsolateEgress: true})
	if got.Unjudged != 2 {
		t.Errorf("%d connections unjudged, want the 2 of unknown direction", got.Unjudged)
	}
	for _, d := range got.Denials {
		if d.Source == party("world/192.0.2.66") {
			t.Errorf("a forged flow that never arrived was judged: %+v", d)
		}
		if d.Source.Reserved == "host" {
			t.Errorf("failsafe traffic counted as denied: %+v", d)
		}
	}
	if open := replay(t, w, policy.Policy{Workload: ref("shop/cart")}); open.Denied != 0 || open.Judged != got.Judged {
		t.Errorf("a policy that isolates nothing denied %d of %d", open.Denied, open.Judged)
	}
}

func TestReplayErrors(t *testing.T) {
	w := load(t, "not-learned.input")
	a := w.analyzer(analyzer.Config{})
	if _, err := a.Replay(context.Background(), policy.Policy{Workload: ref("shop/gone")}, w.window()); !errors.Is(err, analyzer.ErrUnknownWorkload) {
		t.Errorf("unknown workload: %v", err)
	}
	bad := policy.Policy{Workload: ref("shop/cart"), Ingress: []policy.Rule{{Peers: []policy.Peer{{}}}}}
	if _, err := a.Replay(context.Background(), bad, w.window()); err == nil || !strings.Contains(err.Error(), "ingress[0].peers[0]") {
		t.Errorf("invalid policy: %v", err)
	}
}

// A pod's node may always reach it; what reaches a host through its own
// interface with the host's address is somebody else.
func TestReplayTrustsTheNodeOfPodsOnly(t *testing.T) {
	for name, tc := range map[string]struct {
		from   string
		host   bool
		denied uint64
	}{
		"a pod's node, v4":      {"host/10.0.0.1", false, 0},
		"a pod's node, v6":      {"host/fd00::1", false, 0},
		"a host's address, v4":  {"host/10.0.0.1", true, 1},
		"a host's address, v6":  {"host/fd00::1", true, 1},
		"a stranger to a pod":   {"world/192.0.2.1", false, 1},
		"a stranger to a host ": {"world/192.0.2.1", true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{tb: t}
			for _, line := range []string{
				"window 30m", "covered node-1 30m", "workload shop/cart app=cart cart-1@node-1", "flow " + tc.from + " > shop/cart TCP 80",
			} {
				if err := w.line(line); err != nil {
					t.Fatal(err)
				}
			}
			w.inv.Workloads[0].Endpoints[0].Host = tc.host
			got := replay(t, w, policy.Policy{Workload: ref("shop/cart"), IsolateIngress: true})
			if got.JudgedEdges != 1 || uint64(got.DeniedEdges) != tc.denied {
				t.Errorf("judged %d edges and denied %d; want 1 and %d", got.JudgedEdges, got.DeniedEdges, tc.denied)
			}
		})
	}
}
