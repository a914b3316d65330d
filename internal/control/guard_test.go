package control

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

func denied(change func(*flow.Denial)) flow.Denial {
	d := flow.Denial{
		Direction: flow.Ingress, Source: flow.Party{Workload: front}, Destination: flow.Party{Workload: cart},
		Protocol: flow.TCP, Port: 443, Reason: flow.ReasonDefault, Connections: 1,
	}
	if change != nil {
		change(&d)
	}
	return d
}

func TestRegression(t *testing.T) {
	inv := testInventory()
	inv.Services = []inventory.Service{{
		Namespace: front.Namespace, Name: "front", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::10")},
		Endpoints: []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")},
		Ports:     []inventory.ServicePort{{Protocol: flow.TCP, Port: 443, TargetPort: 8443}},
	}}
	x := inventory.NewIndex(inv)
	cidrs := func(prefixes ...string) policy.Policy {
		p := policy.Policy{Workload: cart, IsolateEgress: true}
		for _, s := range prefixes {
			p.Egress = append(p.Egress, policy.Rule{Peers: []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix(s)}}}})
		}
		return p
	}
	out := func(addr string) flow.Denial {
		return denied(func(d *flow.Denial) {
			d.Direction, d.Source = flow.Egress, flow.Party{Workload: cart}
			d.Destination = flow.Party{Reserved: "world", Address: netip.MustParseAddr(addr)}
		})
	}
	p80, p443 := allow(80), allow(80, 443)
	open80 := policy.Policy{Workload: cart}
	v4, v6 := cidrs("203.0.113.0/24"), cidrs("2001:db8::/32")
	for name, tc := range map[string]struct {
		e    Enforcement
		want string // "" for none
	}{
		"first enforcement denies an attack":     {Enforcement{Live: p80, Denied: []flow.Denial{denied(nil)}}, ""},
		"the kernel disagrees with the policy":   {Enforcement{Live: p443, Denied: []flow.Denial{denied(nil)}}, "its policy allows"},
		"as before the first, then back":         {Enforcement{Live: p80, Previous: &open80, Denied: []flow.Denial{denied(nil)}}, ""},
		"allowed before, unannounced":            {Enforcement{Live: p80, Previous: &p443, Denied: []flow.Denial{denied(nil)}}, "allowed before"},
		"allowed before, announced by the audit": {Enforcement{Live: p80, Previous: &p443, Denied: []flow.Denial{denied(nil)}, Audited: []flow.Denial{denied(nil)}}, ""},
		"denied before too":                      {Enforcement{Live: p80, Previous: &p80, Denied: []flow.Denial{denied(nil)}}, ""},
		"announced on another port":              {Enforcement{Live: p80, Previous: &p443, Denied: []flow.Denial{denied(nil)}, Audited: []flow.Denial{denied(func(d *flow.Denial) { d.Port = 22 })}}, "allowed before"},
		"UDP where TCP is allowed":               {Enforcement{Live: p443, Denied: []flow.Denial{denied(func(d *flow.Denial) { d.Protocol = flow.UDP })}}, ""},
		"another with the node's address, v4": {Enforcement{Live: p80, Denied: []flow.Denial{denied(func(d *flow.Denial) {
			d.Source = flow.Party{Reserved: "host", Address: netip.MustParseAddr("10.0.0.1")}
		})}}, ""},
		"another with the node's address, v6": {Enforcement{Live: p80, Denied: []flow.Denial{denied(func(d *flow.Denial) {
			d.Source = flow.Party{Reserved: "host", Address: netip.MustParseAddr("fd00::1")}
		})}}, ""},
		"spoofed":                                      {Enforcement{Live: p443, Denied: []flow.Denial{denied(func(d *flow.Denial) { d.Reason = flow.ReasonSpoofed })}}, ""},
		"a workload that left":                         {Enforcement{Live: p443, Denied: []flow.Denial{denied(func(d *flow.Denial) { d.Source.Workload.Name = "gone" })}}, ""},
		"of unknown direction":                         {Enforcement{Live: p443, Denied: []flow.Denial{denied(func(d *flow.Denial) { d.Direction = flow.DirectionUnknown })}}, ""},
		"v4 address its policy allows":                 {Enforcement{Live: v4, Denied: []flow.Denial{out("203.0.113.9")}}, "its policy allows"},
		"v4 address its policy does not allow":         {Enforcement{Live: v4, Denied: []flow.Denial{out("198.51.100.9")}}, ""},
		"v6 address its policy allows":                 {Enforcement{Live: v6, Denied: []flow.Denial{out("2001:db8::9")}}, "its policy allows"},
		"v6 address its policy does not allow":         {Enforcement{Live: v6, Denied: []flow.Denial{out("2001:dead::9")}}, ""},
		"v6 address allowed before, then no more":      {Enforcement{Live: v4, Previous: &v6, Denied: []flow.Denial{out("2001:db8::9")}}, "allowed before"},
		"v4 service whose backend its policy allows":   {Enforcement{Live: v4, Denied: []flow.Denial{out("10.96.0.10")}}, "its policy allows"},
		"v6 service whose backend its policy allows":   {Enforcement{Live: v6, Denied: []flow.Denial{out("fd00:96::10")}}, "its policy allows"},
		"v4 service whose backend it does not allow":   {Enforcement{Live: v6, Denied: []flow.Denial{out("10.96.0.10")}}, ""},
		"v6 service whose backend it does not allow":   {Enforcement{Live: v4, Denied: []flow.Denial{out("fd00:96::10")}}, ""},
		"service whose address alone its policy names": {Enforcement{Live: cidrs("10.96.0.0/16", "fd00:96::/64"), Denied: []flow.Denial{out("10.96.0.10"), out("fd00:96::10")}}, ""},
		"service that was allowed before":              {Enforcement{Live: v6, Previous: &v4, Denied: []flow.Denial{out("10.96.0.10")}}, "allowed before"},
		"the second of two":                            {Enforcement{Live: p443, Denied: []flow.Denial{denied(func(d *flow.Denial) { d.Port = 22 }), denied(nil)}}, "TCP 443"},
		"another direction was isolated before":        {Enforcement{Live: p80, Previous: &v4, Denied: []flow.Denial{denied(nil)}}, ""},
		"nothing denied":                               {Enforcement{Live: p443}, ""},
		"a reserved peer that the policy lets in": {Enforcement{Live: policy.Policy{Workload: cart, IsolateIngress: true, Ingress: []policy.Rule{{Peers: []policy.Peer{{Reserved: "remote-node"}}}}}, Denied: []flow.Denial{denied(func(d *flow.Denial) {
			d.Source = flow.Party{Reserved: "remote-node", Address: netip.MustParseAddr("10.0.0.2")}
		})}}, "its policy allows"},
		"a reserved peer that it does not know of": {Enforcement{Live: p443, Denied: []flow.Denial{denied(func(d *flow.Denial) { d.Source = flow.Party{Reserved: "martian"} })}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, reason, ok := Regression(tc.e, x)
			if ok != (tc.want != "") || !strings.Contains(reason, tc.want) {
				t.Errorf("%v, %q, want %q", ok, reason, tc.want)
			}
		})
	}
}

type denials map[flow.Slot][]flow.Denial

func (d denials) Denials(_ context.Context, q flow.DenialFilter) ([]flow.Denial, error) {
	if *q.Workload != cart || q.Since.IsZero() {
		return nil, errors.New("unexpected query")
	}
	return d[q.Slot], nil
}

func TestGuardRollsBack(t *testing.T) {
	prepare := func(t *testing.T) *fixture {
		f := open(t)
		f.create(allow(80, 443))
		f.stage(1)
		f.promote(1)
		f.create(allow(80))
		f.stage(2)
		f.promote(2)
		return f
	}
	bad := denials{flow.SlotLive: {denied(nil)}}
	t.Run("within the window", func(t *testing.T) {
		f := prepare(t)
		f.guard(t.Context(), bad)
		if got := f.slots(); got.Live != 3 || got.Staged != 2 {
			t.Fatalf("%+v", got)
		}
		e := newest(t, f.Store)
		if e.Actor != System || e.Action != ActionRollback || !strings.Contains(e.Text, "TCP 443") {
			t.Errorf("%+v", e)
		}
		// What came back by a rollback is not watched: there is no way on from it.
		f.guard(t.Context(), bad)
		if got := f.slots(); got.Live != 3 {
			t.Fatalf("%+v", got)
		}
	})
	t.Run("after the window", func(t *testing.T) {
		f := prepare(t)
		f.clock.advance(10*time.Minute + time.Second)
		f.guard(t.Context(), bad)
		if got := f.slots(); got.Live != 2 {
			t.Fatalf("%+v", got)
		}
	})
	t.Run("announced", func(t *testing.T) {
		f := prepare(t)
		f.guard(t.Context(), denials{flow.SlotLive: {denied(nil)}, flow.SlotStaged: {denied(nil)}})
		if got := f.slots(); got.Live != 2 {
			t.Fatalf("%+v", got)
		}
	})
	t.Run("by ticks until told to end", func(t *testing.T) {
		f := prepare(t)
		ctx, cancel := context.WithCancel(t.Context())
		tick, done := make(chan time.Time), make(chan struct{})
		go func() { f.Watch(ctx, bad, tick); close(done) }()
		tick <- f.clock.now()
		tick <- f.clock.now() // taken once the first look is over
		if got := f.slots(); got.Live != 3 {
			t.Errorf("%+v", got)
		}
		cancel()
		<-done
	})
}
