package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// A check through a real store: flows as agents send them, added up by the
// store's own views, against a policy of which one rule is used.
func TestCheckThroughTheStore(t *testing.T) {
	at := newSite(t)
	const hours = 9 * 24
	until := time.Now().UTC().Truncate(time.Hour)
	since := until.Add(-hours * time.Hour)
	workload := func(n byte, name string) inventory.Workload {
		return inventory.Workload{Namespace: "shop", Kind: "Host", Name: name, Labels: map[string]string{"app": name}, Endpoints: []inventory.Endpoint{{
			Name: name + "-1", Node: "node-1", Interface: "if" + name, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, n})},
		}}}
	}
	inv := inventory.Inventory{
		Nodes:     []inventory.Node{{Name: "node-1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
		Workloads: []inventory.Workload{workload(1, "cart"), workload(2, "front"), workload(3, "old"), workload(4, "fresh"), workload(5, "barred")},
	}
	cart := &flow.Party{Workload: inv.Workloads[0].Ref(), Endpoint: "cart-1"}
	var rows []flow.Labelled
	var coverage []flow.Coverage
	for h := range hours {
		hour := since.Add(time.Duration(h) * time.Hour)
		coverage = append(coverage, flow.Coverage{Node: "node-1", Start: hour, End: hour.Add(time.Hour), Started: h == 0})
		for i, from := range []struct {
			name   string
			begins int
			denied bool
		}{{"front", 0, false}, {"fresh", 5 * 24, false}, {"barred", 5 * 24, true}} {
			if h < from.begins {
				continue
			}
			r := flow.Record{
				Key: flow.Key{
					Source: netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 2)}), Destination: netip.MustParseAddr("10.1.0.1"),
					SourcePort: uint16(20000 + h), DestinationPort: 80, Protocol: flow.TCP,
				},
				Event: flow.EventEnd, Time: hour.Add(time.Minute), FirstSeen: hour.Add(time.Minute), Connections: 1, Answered: !from.denied,
				Forward: flow.Counters{Packets: 5, Bytes: 500}, Reverse: flow.Counters{Packets: 4, Bytes: 400}, Outcome: flow.OutcomeForwarded,
			}
			source := &flow.Party{Workload: flow.Workload{Namespace: "shop", Kind: "Host", Name: from.name}, Endpoint: from.name + "-1"}
			if from.denied {
				r.Reverse, r.Outcome, r.LiveNew = flow.Counters{}, flow.OutcomeDropped, true
				r.Live = flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Revision: 3}
			}
			out := r
			out.Direction, r.Direction = flow.Egress, flow.Ingress
			out.Live, out.LiveNew = flow.Judgement{}, false
			rows = append(rows, flow.Labelled{Record: r, Node: "node-1", Observer: cart, Source: source, Dest: cart},
				flow.Labelled{Record: out, Node: "node-1", Observer: source, Source: source, Dest: cart})
		}
	}
	must(t, at.store.InsertFlows(t.Context(), "flows", rows))
	must(t, at.store.InsertCoverage(t.Context(), coverage))
	door := newStoreDoor(at.store)
	// The heartbeats end with the hour, and the hours of the week are 168.
	a, err := analyzer.New(analyzer.Config{MaxSilence: 2 * time.Hour}, analyzer.Deps{Edges: door, Coverage: door, Inventory: func() inventory.Inventory { return inv }})
	must(t, err)
	l := &learner{analyzer: a}

	rule := func(names ...string) policy.Rule {
		r := policy.Rule{Ports: []policy.Port{{Protocol: flow.TCP, Port: 80}}}
		for _, name := range names {
			r.Peers = append(r.Peers, policy.Peer{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"app": name}}})
		}
		return r
	}
	p := policy.Policy{Workload: cart.Workload, IsolateIngress: true, Ingress: []policy.Rule{rule("front"), rule("old")}}
	got, err := l.Check(t.Context(), p, since.Add(3*24*time.Hour), since, until)
	must(t, err)
	want := []string{
		"keep workloads with app=front in shop may connect on TCP 80 []",
		"remove workloads with app=old in shop may connect on TCP 80 [unused]",
		"accept workloads with app=fresh in shop may connect on TCP 80 []",
		"review workloads with app=barred in shop may connect on TCP 80 [denied unanswered]",
	}
	var have []string
	for i := range got.Rules {
		r := &got.Rules[i]
		flags := []string{}
		for _, f := range r.Flags {
			flags = append(flags, f.Code)
		}
		have = append(have, fmt.Sprint(r.Proposed, " ", r.Sentence, " ", flags))
	}
	if !slices.Equal(have, want) {
		t.Errorf("rules %q\nwant %q\n%s %v", have, want, got.Words, got.Coverage.Missing)
	}
	if len(got.Rules) > 0 && (len(got.Rules[0].Evidence) != 1 || got.Rules[0].Evidence[0].Connections != hours) {
		t.Errorf("evidence %+v, want %d connections", got.Rules[0].Evidence, hours)
	}
	if got.Next == nil || len(got.Next.Ingress) != 2 || !got.Next.IsolateIngress || got.Next.IsolateEgress || got.Unused != 1 || got.New != 2 || got.ToReview != 1 {
		t.Errorf("next %+v, %s", got.Next, got.Words)
	}
	var refused *control.Error
	if _, err := l.Check(t.Context(), policy.Policy{Workload: flow.Workload{Namespace: "shop", Kind: "Host", Name: "nobody"}}, since, since, until); !errors.As(err, &refused) || refused.Code != control.CodeNotFound {
		t.Errorf("of nobody: %v, want an error with code %s", err, api.ErrorCodeNotFound)
	}
}
