package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ringfence/ringfence/internal/flow"
)

// maxName bounds workload names, label keys and label values, in bytes.
const maxName = 317

// Problem is one thing that is wrong with a policy.
type Problem struct {
	Path string // ingress[2].ports[0].endPort
	Text string
}

func (p *Problem) Error() string { return p.Path + ": " + p.Text }

// Validate returns every problem of p, each with its path, joined; nil when
// there is none. Each of them is a *Problem.
func (p *Policy) Validate() error {
	v := &validation{}
	v.workload(p.Workload)
	v.rules("ingress", p.Ingress)
	v.rules("egress", p.Egress)
	return errors.Join(v.problems...)
}

type validation struct{ problems []error }

func (v *validation) add(path, format string, args ...any) {
	v.problems = append(v.problems, &Problem{Path: path, Text: fmt.Sprintf(format, args...)})
}

func (v *validation) workload(w flow.Workload) {
	for _, part := range []struct{ path, value string }{
		{"workload.namespace", w.Namespace}, {"workload.kind", w.Kind}, {"workload.name", w.Name},
	} {
		v.name(part.path, part.value)
		if strings.Contains(part.value, "/") {
			v.add(part.path, "%q contains a slash", part.value)
		}
	}
}

// name checks a text that has to be there and fit on a line.
func (v *validation) name(path, s string) {
	if s == "" {
		v.add(path, "is missing")
		return
	}
	v.text(path, s)
}

func (v *validation) text(path, s string) {
	switch {
	case len(s) > maxName:
		v.add(path, "is %d bytes long; at most %d are allowed", len(s), maxName)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		v.add(path, "%q holds characters that cannot be shown", s)
	}
}

func (v *validation) rules(path string, rules []Rule) {
	for i := range rules {
		at := fmt.Sprintf("%s[%d]", path, i)
		for j := range rules[i].Peers {
			v.peer(fmt.Sprintf("%s.peers[%d]", at, j), &rules[i].Peers[j])
		}
		for j := range rules[i].Ports {
			v.port(fmt.Sprintf("%s.ports[%d]", at, j), &rules[i].Ports[j])
		}
	}
}

func (v *validation) peer(path string, p *Peer) {
	given := 0
	if p.Selector != nil {
		given++
		v.selector(path+".selector", p.Selector)
	}
	if p.CIDR != nil {
		given++
		v.cidr(path+".cidr", p.CIDR)
	}
	if p.Reserved != "" {
		given++
		if _, err := flow.ReservedIdentity(p.Reserved); err != nil {
			v.add(path+".reserved", "%v", err)
		}
	}
	if given != 1 {
		v.add(path, "has %d of selector, cidr and reserved; want exactly one", given)
	}
}

func (v *validation) selector(path string, s *Selector) {
	v.name(path+".namespace", s.Namespace)
	if len(s.MatchLabels) == 0 {
		v.add(path+".matchLabels", "is empty, which would select the whole namespace; give at least one label")
	}
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		v.name(fmt.Sprintf("%s.matchLabels[%q]", path, k), k)
		v.text(fmt.Sprintf("%s.matchLabels[%q]", path, k), s.MatchLabels[k])
	}
}

func (v *validation) cidr(path string, c *CIDR) {
	if !v.prefix(path+".prefix", c.Prefix) {
		return
	}
	for i, e := range c.Except {
		at := fmt.Sprintf("%s.except[%d]", path, i)
		if !v.prefix(at, e) {
			continue
		}
		if e.Bits() <= c.Prefix.Bits() || !c.Prefix.Contains(e.Addr()) {
			v.add(at, "%s is not a part of %s", e, c.Prefix)
		}
	}
}

func (v *validation) prefix(path string, p netip.Prefix) bool {
	switch {
	case !p.IsValid():
		v.add(path, "is missing; want a prefix such as 192.0.2.0/24 or 2001:db8::/32")
	case p.Addr().Is4In6():
		v.add(path, "%s is an IPv4 address written as IPv6; write it as IPv4", p)
	case p != p.Masked():
		v.add(path, "%s has bits set behind the prefix; want %s", p, p.Masked())
	default:
		return true
	}
	return false
}

func (v *validation) port(path string, p *Port) {
	icmp := p.Protocol == flow.ICMP || p.Protocol == flow.ICMPv6
	switch {
	case p.Protocol == 0:
		v.add(path+".protocol", "is missing; want TCP, UDP, SCTP, ICMP, ICMPv6 or a number from 1 to 255")
	case !p.Protocol.HasPorts() && p.Port != 0:
		v.add(path+".port", "%s has no ports", p.Protocol)
	}
	switch {
	case p.EndPort == 0:
	case p.Port == 0:
		v.add(path+".endPort", "%d has no port to begin at; give port too", p.EndPort)
	case p.EndPort < p.Port:
		v.add(path+".endPort", "%d is below port %d", p.EndPort, p.Port)
	}
	switch {
	case p.ICMPType != nil && !icmp:
		v.add(path+".icmpType", "is only for ICMP and ICMPv6, not for %s", p.Protocol)
	case p.ICMPCode != nil && !icmp:
		v.add(path+".icmpCode", "is only for ICMP and ICMPv6, not for %s", p.Protocol)
	case p.ICMPCode != nil && p.ICMPType == nil:
		v.add(path+".icmpCode", "%d has no type to belong to; give icmpType too", *p.ICMPCode)
	}
}
