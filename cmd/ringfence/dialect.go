package main

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/export"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// dialects are what a policy can be exported to, by the value of -o that asks
// for it: yaml means NetworkPolicies.
var dialects = func() map[string]export.Dialect {
	out := map[string]export.Dialect{"yaml": export.NetworkPolicy}
	for _, d := range export.Dialects() {
		if d != export.NetworkPolicy {
			out[string(d)] = d
		}
	}
	return out
}()

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// exportInput is what is known of policies' workloads, and of everybody else. A
// workload without usable labels has no selector: the export refuses it where it
// needs one.
func exportInput(policies []policy.Policy, inv *inventory.Inventory) export.Input {
	x := inventory.NewIndex(*inv)
	in := export.Input{Guardrails: inv.Guardrails, Known: knownPeers(x)}
	for _, p := range policies {
		s := export.Subject{Policy: p}
		if w := x.Workload(p.Workload); w != nil {
			facts := x.Facts(w)
			s.Labels, s.NamespaceLabels, s.Named = facts.Labels, facts.NamespaceLabels, w.NamedPorts()
			if selector, err := analyzer.Subject(w); err == nil {
				s.Selector = selector.MatchLabels
			}
		}
		in.Subjects = append(in.Subjects, s)
	}
	return in
}

// knownPeers returns the facts of every address that the inventory gives to
// somebody. It is nobody's node that looks, so each node is another one.
func knownPeers(x *inventory.Index) []policy.PeerFacts {
	inv, addresses := x.Inventory(), map[netip.Addr]bool{}
	add := func(list []netip.Addr) {
		for _, a := range list {
			addresses[a.Unmap()] = true
		}
	}
	for i := range inv.Workloads {
		for j := range inv.Workloads[i].Endpoints {
			add(inv.Workloads[i].Endpoints[j].Addresses)
		}
	}
	for i := range inv.Nodes {
		add(inv.Nodes[i].Addresses)
	}
	for i := range inv.Names {
		add(inv.Names[i].Addresses)
	}
	out := make([]policy.PeerFacts, 0, len(addresses))
	for _, a := range slices.SortedFunc(maps.Keys(addresses), netip.Addr.Compare) {
		out = append(out, x.Peer(a, ""))
	}
	return out
}

// exportNotices says what of the policies is not in an export.
func exportNotices(w io.Writer, r *export.Result) {
	for _, l := range r.Losses {
		fmt.Fprintln(w, "not said: "+l.String())
	}
	if r.Wider() {
		fmt.Fprintf(w, "notice: the %s export allows what guardrails deny\n", r.Dialect)
	}
	if r.Refused() {
		fmt.Fprintf(w, "notice: the %s export lacks workloads that have a policy\n", r.Dialect)
	}
	if len(r.Objects) == 0 {
		fmt.Fprintf(w, "notice: the %s export has no object\n", r.Dialect)
	}
}

// exportVerdict is the error of a command that is strict about its export.
func exportVerdict(r *export.Result) error {
	switch {
	case r.Wider():
		return fmt.Errorf("--strict: the %s export allows what guardrails deny", r.Dialect)
	case r.Refused():
		return fmt.Errorf("--strict: the %s export lacks workloads that have a policy", r.Dialect)
	}
	return nil
}
