package control

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

type flags func() ([]FlaggedRule, error)

func (f flags) Flagged(context.Context, flow.Workload) ([]FlaggedRule, error) { return f() }

// ruleOf returns allow(ports...)'s rule, normalized, with peers beside front.
func ruleOf(prefixes []string, ports ...uint16) policy.Rule {
	p := allow(ports...)
	for _, text := range prefixes {
		p.Ingress[0].Peers = append(p.Ingress[0].Peers, policy.Peer{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix(text)}})
	}
	return policy.Normalize(p).Ingress[0]
}

func TestFlaggedRulesAreAcceptedOneByOne(t *testing.T) {
	ssh, scan := ruleOf(nil, 22), ruleOf(nil, 4444)
	flagged := flags(func() ([]FlaggedRule, error) {
		return []FlaggedRule{
			{flow.Ingress, ssh, []Flag{{"admin-port", "22 is SSH"}, {"seen-once", "one connection"}}},
			{flow.Ingress, scan, []Flag{{"scan", "nine targets in a minute"}}},
		}, nil
	})
	with := func(rules ...policy.Rule) policy.Policy {
		return policy.Policy{Workload: cart, IsolateIngress: true, Ingress: rules}
	}
	egress := policy.Policy{Workload: cart, IsolateEgress: true, Egress: []policy.Rule{ssh}}
	both, first := AcceptedFlagged{ssh.ID, []string{"seen-once", "admin-port"}}, AcceptedFlagged{ssh.ID, []string{"admin-port"}}
	for name, tc := range map[string]struct {
		policy   policy.Policy
		parent   []policy.Rule
		accepted []AcceptedFlagged
		missing  []string // what each sentence holds
		events   int
	}{
		"no flagged one":            {policy: allow(80)},
		"two, none accepted":        {policy: with(ssh, scan, ruleOf(nil, 80)), missing: []string{ssh.ID + " (workloads with app=front", scan.ID}},
		"two, one accepted":         {policy: with(ssh, scan), accepted: []AcceptedFlagged{both}, missing: []string{"scan (nine targets in a minute)"}},
		"both accepted":             {policy: with(ssh, scan), accepted: []AcceptedFlagged{both, {scan.ID, []string{"scan"}}}, events: 2},
		"a flag that was not seen":  {policy: with(ssh), accepted: []AcceptedFlagged{first}, missing: []string{"seen-once (one connection)"}},
		"a flag that went":          {policy: with(scan), accepted: []AcceptedFlagged{{scan.ID, []string{"late", "scan"}}}, events: 1},
		"accepted and not in it":    {policy: allow(80), accepted: []AcceptedFlagged{both}},
		"another's acceptance":      {policy: with(ssh), accepted: []AcceptedFlagged{{scan.ID, []string{"admin-port", "seen-once"}}}, missing: []string{ssh.ID}},
		"merged with another's":     {policy: with(ruleOf([]string{"192.0.2.0/24", "2001:db8::/64"}, 22, 80)), missing: []string{ssh.ID}},
		"the parent has it":         {policy: with(ssh, ruleOf(nil, 80)), parent: []policy.Rule{ssh}},
		"the parent's, extended":    {policy: with(ruleOf([]string{"192.0.2.0/24"}, 22)), parent: []policy.Rule{ssh}},
		"the parent has another":    {policy: with(ssh, scan), parent: []policy.Rule{ssh}, missing: []string{scan.ID}},
		"a person's own, elsewhere": {policy: with(ruleOf(nil, 23))},
		"the other direction":       {policy: egress},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			var parent uint32
			if tc.parent != nil {
				parent = f.create(with(tc.parent...))
			}
			f.deps.Flags = flagged
			rev, err := f.CreateRevision(t.Context(), NewRevision{
				Workload: cart, Policy: tc.policy, Origin: OriginEdit, Actor: "ann", Parent: parent, Accepted: tc.accepted,
			})
			if tc.missing != nil {
				e := wantCode(t, err, CodeNotReady)
				if len(e.Missing) != len(tc.missing) || e.Field != "acceptedFlagged" || !strings.Contains(e.Message, e.Missing[0]) {
					t.Fatalf("%+v", e)
				}
				for i, want := range tc.missing {
					if !strings.Contains(e.Missing[i], want) {
						t.Errorf("%q lacks %q", e.Missing[i], want)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			events, err := f.Events(t.Context(), EventFilter{Workload: cart})
			if err != nil {
				t.Fatal(err)
			}
			events = slices.DeleteFunc(events, func(e Event) bool { return e.Action != ActionAccept })
			if len(events) != tc.events {
				t.Fatalf("%d events, want %d", len(events), tc.events)
			}
			for _, e := range events {
				ssh := strings.Contains(e.Text, "TCP 22: admin-port (22 is SSH), seen-once (one connection)")
				if e.Actor != "ann" || e.Revision != rev.Number || !ssh && !strings.Contains(e.Text, "TCP 4444: scan (nine targets in a minute)") {
					t.Errorf("%+v", e)
				}
			}
			if err := f.VerifyChain(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFlagsThatNobodyKnows: without the analyzer's word only what the parent has
// goes through.
func TestFlagsThatNobodyKnows(t *testing.T) {
	f := open(t)
	f.create(allow(80, 22))
	f.deps.Flags = flags(func() ([]FlaggedRule, error) { return nil, errors.New("connection refused") })
	n := NewRevision{Workload: cart, Policy: allow(443), Origin: OriginEdit, Actor: "ann", Parent: 1}
	_, err := f.CreateRevision(t.Context(), n)
	wantCode(t, err, CodeUnavailable)
	n.Policy = allow(80, 22)
	n.Policy.IsolateEgress = true
	if _, err := f.CreateRevision(t.Context(), n); err != nil {
		t.Error(err)
	}
	n.Parent = 7
	_, err = f.CreateRevision(t.Context(), n)
	wantCode(t, err, CodeConflict)
}
