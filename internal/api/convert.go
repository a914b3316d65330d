package api

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// RefOf returns a workload's name in the contract's type.
func RefOf(w flow.Workload) WorkloadRef {
	return WorkloadRef{Namespace: w.Namespace, Kind: w.Kind, Name: w.Name}
}

// PartyOf returns one end of a flow in the contract's type.
func PartyOf(p flow.Party) Party {
	var out Party
	if p.IsWorkload() {
		ref := RefOf(p.Workload)
		out.Workload = &ref
	}
	out.Endpoint, out.Reserved = optional(p.Endpoint), optional(p.Reserved)
	out.Address = optional(p.Where())
	out.Identity = number64(uint32(p.Identity))
	if p.Labels != "" {
		labels := map[string]string{}
		for pair := range strings.SplitSeq(p.Labels, ",") {
			key, value, _ := strings.Cut(pair, "=")
			labels[key] = value
		}
		out.Labels = &labels
	}
	return out
}

// DirectionOf returns a direction in the contract's type.
func DirectionOf(d flow.Direction) Direction { return Direction(d.String()) }

// RuleOf returns a rule in the contract's type.
func RuleOf(r policy.Rule) Rule {
	out := Rule{ID: optional(r.ID), Peers: make([]Peer, 0, len(r.Peers)), Ports: make([]Port, 0, len(r.Ports))}
	for i := range r.Peers {
		out.Peers = append(out.Peers, peerOf(&r.Peers[i]))
	}
	for _, p := range r.Ports {
		port := Port{Protocol: p.Protocol.String(), Port: number(p.Port), EndPort: number(p.EndPort), Name: optional(p.Name)}
		if p.ICMPType != nil {
			t := int(*p.ICMPType)
			port.IcmpType = &t
		}
		if p.ICMPCode != nil {
			c := int(*p.ICMPCode)
			port.IcmpCode = &c
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}

func peerOf(p *policy.Peer) Peer {
	var out Peer
	switch {
	case p.Selector != nil:
		out.Selector = selectorOf(p.Selector)
	case p.CIDR != nil:
		out.Cidr = &struct {
			Except *[]string `json:"except,omitempty"`

			// Prefix 10.0.0.0/8 or 2001:db8::/32
			Prefix string `json:"prefix"`
		}{Prefix: p.CIDR.Prefix.String()}
		if len(p.CIDR.Except) > 0 {
			except := make([]string, len(p.CIDR.Except))
			for i, e := range p.CIDR.Except {
				except[i] = e.String()
			}
			out.Cidr.Except = &except
		}
	case p.FQDN != "":
		out.Fqdn = &p.FQDN
	default:
		reserved := PeerReserved(p.Reserved)
		out.Reserved = &reserved
	}
	return out
}

func selectorOf(s *policy.Selector) *Selector {
	out := &Selector{Namespace: optional(s.Namespace), MatchLabels: labelsOf(s.MatchLabels), MatchExpressions: expressionsOf(s.MatchExpressions), All: yes(s.All)}
	if n := s.Namespaces; n != nil {
		out.NamespaceSelector = &LabelSelector{MatchLabels: labelsOf(n.MatchLabels), MatchExpressions: expressionsOf(n.MatchExpressions), All: yes(n.All)}
	}
	return out
}

func labelsOf(labels map[string]string) *map[string]string {
	if len(labels) == 0 {
		return nil
	}
	return &labels
}

func expressionsOf(list []policy.Expression) *[]LabelExpression {
	if len(list) == 0 {
		return nil
	}
	out := make([]LabelExpression, len(list))
	for i, e := range list {
		out[i] = LabelExpression{Key: e.Key, Operator: LabelExpressionOperator(e.Operator)}
		if len(e.Values) > 0 {
			out[i].Values = &e.Values
		}
	}
	return &out
}

func readSelector(s *Selector) *policy.Selector {
	out := &policy.Selector{
		Namespace: deref(s.Namespace), MatchLabels: deref(s.MatchLabels), MatchExpressions: readExpressions(s.MatchExpressions), All: deref(s.All),
	}
	if n := s.NamespaceSelector; n != nil {
		out.Namespaces = &policy.LabelSelector{MatchLabels: deref(n.MatchLabels), MatchExpressions: readExpressions(n.MatchExpressions), All: deref(n.All)}
	}
	return out
}

func readExpressions(list *[]LabelExpression) []policy.Expression {
	var out []policy.Expression
	for _, e := range deref(list) {
		out = append(out, policy.Expression{Key: e.Key, Operator: policy.Operator(e.Operator), Values: deref(e.Values)})
	}
	return out
}

// PolicyOf returns a policy in the contract's type.
func PolicyOf(p policy.Policy) Policy {
	out := Policy{
		Workload: RefOf(p.Workload), IsolateIngress: p.IsolateIngress, IsolateEgress: p.IsolateEgress,
		Ingress: make([]Rule, 0, len(p.Ingress)), Egress: make([]Rule, 0, len(p.Egress)),
	}
	for _, r := range p.Ingress {
		out.Ingress = append(out.Ingress, RuleOf(r))
	}
	for _, r := range p.Egress {
		out.Egress = append(out.Egress, RuleOf(r))
	}
	return out
}

// PolicyFrom returns the policy that p spells, checked.
func PolicyFrom(p Policy) (policy.Policy, error) { return readPolicy(p, "") }

// readPolicy returns the policy that p spells, checked, or an error that names
// its first field that is wrong; prefix goes before that field.
func readPolicy(p Policy, prefix string) (policy.Policy, error) {
	out := policy.Policy{
		Workload: refFrom(p.Workload), IsolateIngress: p.IsolateIngress, IsolateEgress: p.IsolateEgress,
	}
	var err error
	if out.Ingress, err = readRules(p.Ingress, prefix+"ingress"); err != nil {
		return policy.Policy{}, err
	}
	if out.Egress, err = readRules(p.Egress, prefix+"egress"); err != nil {
		return policy.Policy{}, err
	}
	return out, control.CheckPolicy(&out, prefix)
}

func refFrom(w WorkloadRef) flow.Workload {
	return flow.Workload{Namespace: w.Namespace, Kind: w.Kind, Name: w.Name}
}

func readRules(rules []Rule, path string) ([]policy.Rule, error) {
	out := make([]policy.Rule, 0, len(rules))
	for i, r := range rules {
		var rule policy.Rule // its ID is computed, not taken
		for j := range r.Peers {
			peer, err := readPeer(&r.Peers[j], fmt.Sprintf("%s[%d].peers[%d]", path, i, j))
			if err != nil {
				return nil, err
			}
			rule.Peers = append(rule.Peers, peer)
		}
		for j := range r.Ports {
			port, err := readPort(&r.Ports[j], fmt.Sprintf("%s[%d].ports[%d]", path, i, j))
			if err != nil {
				return nil, err
			}
			rule.Ports = append(rule.Ports, port)
		}
		out = append(out, rule)
	}
	return out, nil
}

func readPeer(p *Peer, path string) (policy.Peer, error) {
	var out policy.Peer
	if p.Selector != nil {
		out.Selector = readSelector(p.Selector)
	}
	if p.Cidr != nil {
		out.CIDR = &policy.CIDR{}
		var err error
		if out.CIDR.Prefix, err = readPrefix(p.Cidr.Prefix, path+".cidr.prefix"); err != nil {
			return out, err
		}
		for i, e := range deref(p.Cidr.Except) {
			prefix, err := readPrefix(e, fmt.Sprintf("%s.cidr.except[%d]", path, i))
			if err != nil {
				return out, err
			}
			out.CIDR.Except = append(out.CIDR.Except, prefix)
		}
	}
	out.Reserved, out.FQDN = string(deref(p.Reserved)), deref(p.Fqdn)
	return out, nil
}

func readPrefix(s, path string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, invalid(path, fmt.Sprintf("%s: %q is no prefix such as 192.0.2.0/24 or 2001:db8::/32", path, oneLine(s)))
	}
	return p, nil
}

func readPort(p *Port, path string) (policy.Port, error) {
	protocol, err := flow.ParseProtocol(p.Protocol)
	if err != nil {
		return policy.Port{}, invalid(path+".protocol", path+".protocol: "+oneLine(err.Error()))
	}
	out := policy.Port{Protocol: protocol, Name: deref(p.Name)}
	for _, f := range []struct {
		name string
		in   *int
		most int
		set  func(int)
	}{
		{"port", p.Port, 65535, func(n int) { out.Port = uint16(n) }},                   //nolint:gosec // bounded below
		{"endPort", p.EndPort, 65535, func(n int) { out.EndPort = uint16(n) }},          //nolint:gosec // bounded below
		{"icmpType", p.IcmpType, 255, func(n int) { v := uint8(n); out.ICMPType = &v }}, //nolint:gosec // bounded below
		{"icmpCode", p.IcmpCode, 255, func(n int) { v := uint8(n); out.ICMPCode = &v }}, //nolint:gosec // bounded below
	} {
		if f.in == nil {
			continue
		}
		if *f.in < 0 || *f.in > f.most {
			return out, invalid(path+"."+f.name, fmt.Sprintf("%s.%s: %d is not between 0 and %d", path, f.name, *f.in, f.most))
		}
		f.set(*f.in)
	}
	return out, nil
}

func revisionOf(r control.Revision) Revision {
	out := Revision{
		Workload: RefOf(r.Workload), Number: int64(r.Number), Parent: number64(r.Parent), Digest: r.Digest,
		Origin: RevisionOrigin(r.Origin), Author: r.Author, Comment: optional(r.Comment), CreatedAt: r.Created,
		Policy: PolicyOf(r.Policy), Rules: []RuleSentence{},
	}
	for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
		for _, rule := range r.Policy.Rules(d) {
			out.Rules = append(out.Rules, RuleSentence{ID: rule.ID, Direction: DirectionOf(d), Sentence: policy.Sentence(rule, d)})
		}
	}
	return out
}

func denialOf(d *flow.Denial) Denial {
	return Denial{
		Direction: DirectionOf(d.Direction), Source: PartyOf(d.Source), Destination: PartyOf(d.Destination),
		Protocol: d.Protocol.String(), Port: int(d.Port), Reason: d.Reason.String(),
		Connections: count(d.Connections), Packets: count(d.Packets), FirstSeen: d.FirstSeen, LastSeen: d.LastSeen,
	}
}

func activityOf(e control.Event) Activity {
	out := Activity{ID: e.ID, Time: e.Time, Actor: e.Actor, Action: e.Action, Text: e.Text, Revision: number64(e.Revision)}
	if !e.Workload.IsZero() {
		ref := RefOf(e.Workload)
		out.Workload = &ref
	}
	return out
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func yes(b bool) *bool {
	if !b {
		return nil
	}
	return &b
}

func list[T any](of []T) *[]T {
	if len(of) == 0 {
		return nil
	}
	return &of
}

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func number(n uint16) *int {
	if n == 0 {
		return nil
	}
	v := int(n)
	return &v
}

func number64(n uint32) *int64 {
	if n == 0 {
		return nil
	}
	v := int64(n)
	return &v
}

// count keeps a counter within what the contract can say.
func count(n uint64) int64 {
	const most = 1<<63 - 1
	if n > most {
		return most
	}
	return int64(n)
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
