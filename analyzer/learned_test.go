package analyzer_test

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// edgeRef names an edge: who may connect to whom.
type edgeRef struct {
	Client   string // a workload, or an address
	Server   string
	Protocol flow.Protocol
	Port     uint16
}

// learnedEdges returns the edges that the recommended rules admit: the pairs
// that some rule names, less those that the rules of the other end, where it is
// isolated, do not admit. Workloads that a selector picks beside the observed
// one count, so that the list shows what is admitted too much. Implied rules do
// not, and flagged ones only on demand.
func learnedEdges(recs []*analyzer.Recommendation, withFlagged bool) []edgeRef {
	takes := func(r *analyzer.Rule) bool { return !r.Implied && (withFlagged || r.Proposed == analyzer.Accept) }
	admits := map[flow.Direction]map[edgeRef]bool{flow.Ingress: {}, flow.Egress: {}}
	isolated := map[flow.Direction]map[string]bool{flow.Ingress: {}, flow.Egress: {}}
	for _, rec := range recs {
		for i := range rec.Rules {
			r := &rec.Rules[i]
			if !takes(r) {
				continue
			}
			isolated[r.Direction][rec.Workload.String()] = true
			for _, ref := range admitted(rec.Workload, r) {
				admits[r.Direction][ref] = true
			}
		}
	}
	var out []edgeRef
	for ref := range admits[flow.Ingress] {
		if !isolated[flow.Egress][ref.Client] || admits[flow.Egress][ref] {
			out = append(out, ref)
		}
	}
	for ref := range admits[flow.Egress] {
		if !isolated[flow.Ingress][ref.Server] && !admits[flow.Ingress][ref] {
			out = append(out, ref)
		}
	}
	slices.SortFunc(out, compareEdgeRefs)
	return out
}

// compareEdgeRefs orders edges by client, server, protocol and port.
func compareEdgeRefs(a, b edgeRef) int {
	return cmp.Or(
		strings.Compare(a.Client, b.Client), strings.Compare(a.Server, b.Server),
		cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port),
	)
}

// admitted lists every combination of a rule's peers and ports.
func admitted(w flow.Workload, r *analyzer.Rule) []edgeRef {
	var out []edgeRef
	for _, peer := range peerNames(r) {
		for _, port := range r.Rule.Ports {
			ref := edgeRef{Client: peer, Server: w.String(), Protocol: port.Protocol, Port: port.Port}
			if r.Direction == flow.Egress {
				ref.Client, ref.Server = ref.Server, ref.Client
			}
			if port.ICMPType != nil {
				ref.Port = uint16(*port.ICMPType) << 8
			}
			if port.ICMPCode != nil {
				ref.Port |= uint16(*port.ICMPCode)
			}
			out = append(out, ref)
		}
	}
	return out
}

// peerNames names everybody a rule admits: the workloads its selectors pick, and
// its addresses.
func peerNames(r *analyzer.Rule) []string {
	var out []string
	add := func(name string) {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, p := range r.Rule.Peers {
		if p.Selector == nil {
			add(peerName(p))
		}
	}
	for _, e := range r.Evidence {
		if e.Peer.IsWorkload() {
			add(e.Peer.Workload.String())
		}
	}
	for _, w := range r.AlsoSelects {
		add(w.String())
	}
	return out
}

func peerName(p policy.Peer) string {
	switch {
	case p.CIDR == nil:
		return p.Reserved
	case p.CIDR.Prefix.IsSingleIP():
		return p.CIDR.Prefix.Addr().String()
	}
	return p.CIDR.Prefix.String()
}
