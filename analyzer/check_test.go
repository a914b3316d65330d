package analyzer_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/test/truth"
)

// weeks is shop watched for two whole weeks, so that nothing is missing.
func weeks(t *testing.T, lines ...string) *world {
	t.Helper()
	return shop(t, append([]string{"window 336h", "workload shop/pay app=pay pay-1@node-1", "workload shop/web app=front,tier=web web-1@node-2"}, lines...)...)
}

// ruleOf reads PEER PORTS, such as "app=front TCP:80,TCP:8000-9000"; a peer may
// be a prefix, a name, a reserved name or anyone, and ports any.
func ruleOf(t *testing.T, text string) policy.Rule {
	t.Helper()
	peer, ports, _ := strings.Cut(text, " ")
	var r policy.Rule
	for name := range strings.SplitSeq(peer, ",") {
		key, value, labelled := strings.Cut(name, "=")
		prefix, err := netip.ParsePrefix(name)
		switch {
		case name == "anyone":
		case labelled:
			r.Peers = append(r.Peers, policy.Peer{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{key: value}}})
		case err == nil:
			r.Peers = append(r.Peers, policy.Peer{CIDR: &policy.CIDR{Prefix: prefix}})
		case strings.Contains(name, "."):
			r.Peers = append(r.Peers, policy.Peer{FQDN: name})
		default:
			r.Peers = append(r.Peers, policy.Peer{Reserved: name})
		}
	}
	for port := range strings.SplitSeq(ports, ",") {
		if port == "any" {
			break
		}
		protocol, number, _ := strings.Cut(port, ":")
		var p policy.Port
		var err error
		if p.Protocol, err = flow.ParseProtocol(protocol); err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Sscanf(number, "%d-%d", &p.Port, &p.EndPort)
		r.Ports = append(r.Ports, p)
	}
	return r
}

// policyOf makes a policy of cart that isolates both directions, of rules such as
// "ingress app=front TCP:80".
func policyOf(t *testing.T, rules ...string) policy.Policy {
	t.Helper()
	p := policy.Policy{Workload: ref("shop/cart"), IsolateIngress: true, IsolateEgress: true}
	for _, text := range rules {
		d, rest, _ := strings.Cut(text, " ")
		if d == "ingress" {
			p.Ingress = append(p.Ingress, ruleOf(t, rest))
		} else {
			p.Egress = append(p.Egress, ruleOf(t, rest))
		}
	}
	return policy.Normalize(p)
}

func check(t *testing.T, w *world, p policy.Policy, made time.Time) *analyzer.Check {
	t.Helper()
	c, err := w.analyzer(analyzer.Config{}).Check(context.Background(), p, made, w.window())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// standing is a rule in words, with what is proposed and its flags.
func standing(r *analyzer.Rule) string {
	s := fmt.Sprintf("%s %s: %s", r.Proposed, r.Direction, r.Sentence)
	for _, f := range r.Flags {
		s += " !" + f.Code
	}
	return s
}

func TestCheck(t *testing.T) {
	front := "flow shop/front > shop/cart TCP 80 hours=200 days=14 clients=2 servers=2"
	both := []string{front, "flow shop/web > shop/cart TCP 80 hours=200 days=14 servers=2"}
	fromFront := "may connect on TCP 80"
	for _, c := range []struct {
		name   string
		lines  []string
		policy []string
		made   string // after the window's start
		change func(*policy.Policy)
		want   []string
		next   int // rules, -1 when nothing is to change
	}{
		{"used and nothing more", both, []string{"ingress app=front TCP:80"}, "", nil, []string{"keep ingress: workloads with app=front in shop " + fromFront}, -1},
		{
			"unused", both, []string{"ingress app=front TCP:80", "ingress app=pay TCP:80"}, "", nil,
			[]string{"keep ingress: workloads with app=front in shop " + fromFront, "remove ingress: workloads with app=pay in shop " + fromFront + " !unused"}, 1,
		},
		{
			"unused while too little was watched", append([]string{"covered node-2 100h"}, both...), []string{"ingress app=front TCP:80", "ingress app=pay TCP:80"}, "", nil,
			[]string{"keep ingress: workloads with app=front in shop " + fromFront, "keep ingress: workloads with app=pay in shop " + fromFront + " !unused"}, -1,
		},
		{
			"unused in a silent direction", both, []string{"ingress app=front TCP:80", "egress app=pay TCP:80"}, "", nil,
			[]string{"keep ingress: workloads with app=front in shop " + fromFront, "keep egress: may connect to workloads with app=pay in shop on TCP 80 !unused"}, -1,
		},
		{
			"perhaps used by what was picked up in the middle", append([]string{"flow shop/pay > shop/cart TCP 40000 seen=unknown"}, both...), []string{"ingress app=front TCP:80", "ingress app=pay TCP:80"}, "", nil,
			[]string{"keep ingress: workloads with app=front in shop " + fromFront, "keep ingress: workloads with app=pay in shop " + fromFront + " !unused"}, -1,
		},
		{
			"picked up in the middle over another protocol", append([]string{"flow shop/pay > shop/cart UDP 40000 seen=unknown"}, both...), []string{"ingress app=front TCP:80", "ingress app=pay TCP:80"}, "", nil,
			[]string{"keep ingress: workloads with app=front in shop " + fromFront, "remove ingress: workloads with app=pay in shop " + fromFront + " !unused"}, 1,
		},
		{
			"shadowed by one", both, []string{"ingress app=front TCP:80", "ingress app=front,app=pay TCP:80"}, "", nil,
			[]string{
				"remove ingress: workloads with app=front in shop " + fromFront + " !shadowed",
				"keep ingress: workloads with app=front in shop or workloads with app=pay in shop " + fromFront + " !broad",
			}, 1,
		},
		{
			"DNS over TCP goes with UDP", []string{"workload shop/dns app=dns dns-1@node-1", "flow shop/cart > shop/dns UDP 53 hours=200 days=14 clients=2"},
			[]string{"egress app=dns UDP:53", "egress app=dns TCP:53"}, "", nil,
			[]string{"keep egress: may connect to workloads with app=dns in shop on TCP 53", "keep egress: may connect to workloads with app=dns in shop on UDP 53"}, -1,
		},
		{
			"new since, all of it seen", append([]string{"flow shop/pay > shop/cart TCP 80 hours=100 days=9 first=100h servers=2"}, both...), []string{"ingress app=front TCP:80"}, "50h", nil,
			[]string{"keep ingress: workloads with app=front in shop " + fromFront, "accept ingress: workloads with app=pay in shop " + fromFront}, 2,
		},
		{
			"seen before, and left out", append([]string{"flow shop/pay > shop/cart TCP 80 hours=100 days=9 first=40h servers=2"}, both...), []string{"ingress app=front TCP:80"}, "50h", nil,
			[]string{"keep ingress: workloads with app=front in shop " + fromFront, "review ingress: workloads with app=pay in shop " + fromFront + " !left-out"}, -1,
		},
		{
			"denied by the live policy, so never answered", append([]string{"flow shop/pay > shop/cart TCP 80 hours=100 days=9 first=100h answered=0 live=100 servers=2"}, both...), []string{"ingress app=front TCP:80"}, "50h", nil,
			[]string{"keep ingress: workloads with app=front in shop " + fromFront, "review ingress: workloads with app=pay in shop " + fromFront + " !denied !unanswered"}, -1,
		},
		{
			"audited", append([]string{"flow shop/pay > shop/cart TCP 80 hours=100 days=9 first=100h staged=100 servers=2"}, both...), []string{"ingress app=front TCP:80"}, "50h", nil,
			[]string{"keep ingress: workloads with app=front in shop " + fromFront, "review ingress: workloads with app=pay in shop " + fromFront + " !denied"}, -1,
		},
		{
			"of a direction that is open", append([]string{"flow shop/cart > shop/pay TCP 80 hours=100 days=9 first=100h clients=2"}, both...), []string{"ingress app=front TCP:80"}, "50h",
			func(p *policy.Policy) { p.IsolateEgress = false },
			[]string{"keep ingress: workloads with app=front in shop " + fromFront, "review egress: may connect to workloads with app=pay in shop on TCP 80 !open"}, -1,
		},
		{
			"a rule of a direction that is open", append([]string{"flow shop/cart > shop/pay TCP 80 hours=100 days=9 first=100h clients=2"}, both...), []string{"ingress app=front TCP:80", "egress app=pay TCP:80"}, "50h",
			func(p *policy.Policy) { p.IsolateEgress = false },
			[]string{"keep ingress: workloads with app=front in shop " + fromFront, "keep egress: may connect to workloads with app=pay in shop on TCP 80"}, -1,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The coverage of a line counts before that of the world.
			cover := []string{"covered node-1 336h", "covered node-2 336h"}
			w := weeks(t, append(cover, c.lines...)...)
			p := policyOf(t, c.policy...)
			if c.change != nil {
				c.change(&p)
			}
			made := epoch
			if c.made != "" {
				made = w.at(duration(t, c.made))
			}
			got := check(t, w, p, made)
			var says []string
			for i := range got.Rules {
				says = append(says, standing(&got.Rules[i]))
			}
			if diff := cmp.Diff(c.want, says); diff != "" {
				t.Error(diff)
			}
			switch {
			case c.next < 0 && got.Next != nil:
				t.Errorf("next: %+v, want none", got.Next)
			case c.next >= 0 && (got.Next == nil || len(got.Next.Ingress)+len(got.Next.Egress) != c.next):
				t.Errorf("next: %+v, want %d rules", got.Next, c.next)
			}
		})
	}
}

// What a rule admits beyond what was seen: ports, workloads, addresses, names.
func TestCheckBroad(t *testing.T) {
	lines := []string{
		"covered node-1 336h", "covered node-2 336h", "name api.example.com 192.0.2.7", "name www.example.com 192.0.2.9",
		"flow shop/front > shop/cart TCP 80 hours=200 days=14 clients=2 servers=2", "flow shop/pay > shop/cart TCP 81 hours=200 days=14 servers=2",
		"flow shop/cart > world/192.0.2.7 TCP 443 hours=200 days=14 clients=2", "flow shop/cart > world/2001:db8::7 TCP 443 hours=200 days=14 clients=2",
		"flow shop/cart > remote-node/10.0.0.2 ICMP 2048 hours=200 days=14 clients=2",
	}
	for _, c := range []struct {
		rule string
		want []string
	}{
		{"ingress app=front,app=pay TCP:80,TCP:81", []string{
			"shop/Host/front on TCP 81", "shop/Host/pay on TCP 80", "shop/Host/web, whose labels match too",
		}},
		{"ingress app=front TCP:80,TCP:90", []string{"TCP 90, which was not observed", "shop/Host/web, whose labels match too"}},
		{"ingress app=pay TCP:80-89", []string{"9 more ports of TCP 80–89"}},
		{"ingress app=pay any", []string{"every other port of every protocol"}},
		{"ingress app=pay TCP", []string{"all but 1 port of any TCP port"}},
		{"ingress anyone TCP:80", []string{"anyone but the 1 peer that were seen"}},
		{"egress 192.0.2.0/24 TCP:443", []string{"255 more of the addresses of 192.0.2.0/24"}},
		{"egress 192.0.2.7/32,192.0.2.8/32 TCP:443", []string{"192.0.2.8, which was not observed"}},
		{"egress 2001:db8::/64 TCP:443", []string{"every other address of 2001:db8::/64"}},
		{"egress api.example.com,www.example.com TCP:443", []string{"www.example.com, which was not observed"}},
		{"egress world TCP:443", []string{"every other address that is in no inventory"}},
		{"egress remote-node,host ICMP", []string{"the workload's own node, which was not observed", "all but 1 port of any ICMP message"}},
		{"egress api.example.com TCP:443", []string{}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			got := check(t, weeks(t, lines...), policyOf(t, c.rule), epoch)
			r := got.Rules[0]
			slices.Sort(r.AlsoAdmits)
			slices.Sort(c.want)
			if diff := cmp.Diff(c.want, r.AlsoAdmits); diff != "" {
				t.Error(diff, standing(&r))
			}
			if broad := slices.ContainsFunc(r.Flags, func(f analyzer.Flag) bool { return f.Code == analyzer.FlagBroad }); broad != (len(c.want) > 0) || (got.Broad == 1) != broad {
				t.Errorf("%d broad, flags %v", got.Broad, r.Flags)
			}
		})
	}
}

// Words say how much of the window was watched, and what stands for a shadowed
// rule.
func TestCheckWords(t *testing.T) {
	flows := []string{"flow shop/front > shop/cart TCP 80 hours=200 days=14 clients=2 servers=2", "flow shop/web > shop/cart TCP 80 hours=200 days=14 servers=2"}
	p := policyOf(t, "ingress app=front TCP:80", "ingress app=pay TCP:80", "ingress app=front TCP:80,TCP:81")
	w := weeks(t, append([]string{"covered node-1 250h", "covered node-2 250h lost=3"}, flows...)...)
	got := check(t, w, p, epoch)
	reasons := map[string]string{}
	for i := range got.Rules {
		for _, f := range got.Rules[i].Flags {
			reasons[f.Code] = f.Reason
		}
	}
	for code, want := range map[string]string{
		analyzer.FlagUnused:   "nothing used it in the 10 of 14 days that were watched; too little to take it away: node-2 lost 3 records; choose a window that starts after",
		analyzer.FlagShadowed: "all that it admits is admitted without it: workloads with app=front in shop may connect on TCP 80 or TCP 81",
	} {
		if !strings.HasPrefix(reasons[code], want) {
			t.Errorf("%s: %q, want %q", code, reasons[code], want)
		}
	}
	if want := "Of 3 rules 1 unused, 1 shadowed, 1 broader than what was seen; 0 new rules for what it does not admit, 0 of them to review."; !strings.HasPrefix(got.Words, want) {
		t.Errorf("%q, want %q", got.Words, want)
	}
	if len(got.Rules[0].ShadowedBy) != 1 || got.Rules[0].ShadowedBy[0] != got.Rules[1].Rule.ID {
		t.Errorf("shadowed by %v, want the rule after it", got.Rules[0].ShadowedBy)
	}
	if _, err := w.analyzer(analyzer.Config{}).Check(context.Background(), policy.Policy{Workload: ref("shop/nobody")}, epoch, w.window()); !errors.Is(err, analyzer.ErrUnknownWorkload) {
		t.Errorf("of a workload that is not there: %v", err)
	}
}

// What was learned has nothing against it in the window that it was learned from,
// asks for what waited for review and for nothing else; and no next revision,
// whatever it was made of, denies what the one before it admitted and was used.
func TestCheckOfWhatWasLearned(t *testing.T) {
	for _, name := range truth.Apps() {
		app, err := truth.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range truth.Scenarios() {
			t.Run(name+"/"+s.Name, func(t *testing.T) {
				ctx, w := context.Background(), s.Make(app, 700)
				a, err := w.Analyzer()
				if err != nil {
					t.Fatal(err)
				}
				recs, err := a.RecommendAll(ctx, w.Window())
				if err != nil {
					t.Fatal(err)
				}
				for _, rec := range recs {
					if rec.Policy == nil {
						continue
					}
					c, err := a.Check(ctx, *rec.Policy, time.Time{}, w.Window())
					if err != nil {
						t.Fatal(err)
					}
					if c.Unused+c.Shadowed+c.Broad > 0 || c.ToReview != len(rec.Flagged()) || c.New != c.ToReview || c.Next != nil {
						t.Errorf("%s: %s; want nothing but the %d rules to review", rec.Workload, c.Words, len(rec.Flagged()))
					}
					later, err := a.Check(ctx, *rec.Policy, w.Window().Until, w.Later())
					if err != nil {
						t.Fatal(err)
					}
					if later.Next == nil {
						continue
					}
					d, err := a.Diff(ctx, []policy.Policy{*rec.Policy}, []policy.Policy{*later.Next}, w.Later())
					if err != nil {
						t.Fatal(err)
					}
					if len(d[0].Denied) > 0 {
						t.Errorf("%s: the next revision denies %+v", rec.Workload, d[0].Denied)
					}
				}
			})
		}
	}
}
