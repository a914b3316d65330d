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

	"k8s.io/apimachinery/pkg/util/validation"

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
	v := &checks{}
	v.workload(p.Workload)
	v.rules("ingress", p.Ingress)
	v.rules("egress", p.Egress)
	v.names(p.Ingress)
	return errors.Join(v.problems...)
}

type checks struct{ problems []error }

func (v *checks) add(path, format string, args ...any) {
	v.problems = append(v.problems, &Problem{Path: path, Text: fmt.Sprintf(format, args...)})
}

func (v *checks) workload(w flow.Workload) {
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
func (v *checks) name(path, s string) {
	if s == "" {
		v.add(path, "is missing")
		return
	}
	v.text(path, s)
}

func (v *checks) text(path, s string) {
	switch {
	case len(s) > maxName:
		v.add(path, "is %d bytes long; at most %d are allowed", len(s), maxName)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		v.add(path, "%q holds characters that cannot be shown", s)
	}
}

func (v *checks) rules(path string, rules []Rule) {
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

func (v *checks) peer(path string, p *Peer) {
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
	if p.FQDN != "" {
		given++
		v.fqdn(path+".fqdn", p.FQDN)
	}
	if given != 1 {
		v.add(path, "has %d of selector, cidr, reserved and fqdn; want exactly one", given)
	}
}

// names refuses DNS names where they say nothing: nobody looks a client up.
func (v *checks) names(ingress []Rule) {
	for i := range ingress {
		for j := range ingress[i].Peers {
			if ingress[i].Peers[j].FQDN != "" {
				v.add(fmt.Sprintf("ingress[%d].peers[%d].fqdn", i, j), "a client has no name that was looked up; give a cidr or a selector")
			}
		}
	}
}

func (v *checks) fqdn(path, name string) {
	check := validation.IsDNS1123Subdomain
	if strings.HasPrefix(name, "*") {
		check = validation.IsWildcardDNS1123Subdomain
	}
	for _, why := range check(name) {
		v.add(path, "%q: %s", name, why)
	}
}

func (v *checks) selector(path string, s *Selector) {
	switch {
	case s.Namespaces != nil && s.Namespace != "":
		v.add(path, "has both namespace and namespaceSelector; want one of the two")
	case s.Namespaces != nil:
		v.labels(path+".namespaceSelector", *s.Namespaces, "every namespace")
	default:
		v.name(path+".namespace", s.Namespace)
	}
	v.labels(path, s.Labels(), "the whole namespace")
}

func (v *checks) labels(path string, s LabelSelector, what string) {
	switch {
	case s.empty():
		v.add(path+".matchLabels", "is empty, which would select %s; give at least one label, or all: true if that is meant", what)
	case s.All && len(s.MatchLabels)+len(s.MatchExpressions) > 0:
		v.add(path+".all", "stands beside labels; want one or the other")
	}
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		v.name(fmt.Sprintf("%s.matchLabels[%q]", path, k), k)
		v.text(fmt.Sprintf("%s.matchLabels[%q]", path, k), s.MatchLabels[k])
	}
	for i := range s.MatchExpressions {
		v.expression(fmt.Sprintf("%s.matchExpressions[%d]", path, i), &s.MatchExpressions[i])
	}
}

func (v *checks) expression(path string, e *Expression) {
	v.name(path+".key", e.Key)
	switch e.Operator {
	case OpIn, OpNotIn:
		if len(e.Values) == 0 {
			v.add(path+".values", "is empty; %s needs at least one", e.Operator)
		}
	case OpExists, OpDoesNotExist:
		if len(e.Values) > 0 {
			v.add(path+".values", "%s takes no values", e.Operator)
		}
	default:
		v.add(path+".operator", "%q is not known; want In, NotIn, Exists or DoesNotExist", string(e.Operator))
	}
	for i, value := range e.Values {
		v.text(fmt.Sprintf("%s.values[%d]", path, i), value)
	}
}

func (v *checks) cidr(path string, c *CIDR) {
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

func (v *checks) prefix(path string, p netip.Prefix) bool {
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

func (v *checks) port(path string, p *Port) {
	icmp := p.Protocol == flow.ICMP || p.Protocol == flow.ICMPv6
	switch {
	case p.Protocol == 0:
		v.add(path+".protocol", "is missing; want TCP, UDP, SCTP, ICMP, ICMPv6 or a number from 1 to 255")
	case !p.Protocol.HasPorts() && p.Port != 0:
		v.add(path+".port", "%s has no ports", p.Protocol)
	}
	v.portName(path, p)
	switch {
	case p.EndPort == 0 || p.Name != "":
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

func (v *checks) portName(path string, p *Port) {
	switch {
	case p.Name == "":
	case !p.Protocol.HasPorts():
		v.add(path+".name", "%s has no ports", p.Protocol)
	case p.Port != 0 || p.EndPort != 0:
		v.add(path+".name", "stands beside a number; want one or the other")
	default:
		for _, why := range validation.IsValidPortName(p.Name) {
			v.add(path+".name", "%q: %s", p.Name, why)
		}
	}
}
