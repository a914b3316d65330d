package policytest

import (
	"net/netip"

	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// Policy draws a valid policy of Subject. Its rules have no IDs yet; Normalize
// gives them.
func Policy(t *rapid.T) policy.Policy {
	return policy.Policy{
		Workload:       Subject,
		IsolateIngress: rapid.Bool().Draw(t, "isolateIngress"),
		IsolateEgress:  rapid.Bool().Draw(t, "isolateEgress"),
		Ingress:        rapid.SliceOfN(rapid.Custom(ingressRule), 0, 4).Draw(t, "ingress"),
		Egress:         rapid.SliceOfN(rapid.Custom(egressRule), 0, 4).Draw(t, "egress"),
	}
}

// ingressRule draws a rule that may have named ports.
func ingressRule(t *rapid.T) policy.Rule {
	r := Rule(t)
	if rapid.IntRange(0, 3).Draw(t, "named") == 0 {
		r.Ports = append(r.Ports, policy.Port{
			Protocol: rapid.SampledFrom([]flow.Protocol{flow.TCP, flow.UDP}).Draw(t, "protocol of the name"),
			Name:     rapid.SampledFrom([]string{"web", "dns", "nothing"}).Draw(t, "port's name"),
		})
	}
	return r
}

// egressRule draws a rule that may have named ports and DNS names.
func egressRule(t *rapid.T) policy.Rule {
	r := ingressRule(t)
	if rapid.IntRange(0, 3).Draw(t, "fqdn") == 0 {
		r.Peers = append(r.Peers, policy.Peer{FQDN: rapid.SampledFrom([]string{"api.example.com", "*.example.com"}).Draw(t, "name")})
	}
	return r
}

// Rule draws one valid rule that is good for any direction, and for a guardrail.
func Rule(t *rapid.T) policy.Rule {
	return policy.Rule{
		Peers: rapid.SliceOfN(rapid.Custom(Peer), 0, 3).Draw(t, "peers"),
		Ports: rapid.SliceOfN(rapid.Custom(Port), 0, 3).Draw(t, "ports"),
	}
}

// Guardrails draws up to two valid guardrails, of any workload.
func Guardrails(t *rapid.T) []policy.Guardrail {
	var out []policy.Guardrail
	for i := range rapid.IntRange(0, 2).Draw(t, "guardrails") {
		r := Rule(t)
		g := policy.Guardrail{Name: "guardrail-" + string('a'+rune(i)), Peers: r.Peers, Ports: r.Ports}
		if len(g.Peers)+len(g.Ports) == 0 {
			g.Ports = []policy.Port{Port(t)}
		}
		if rapid.Bool().Draw(t, "one direction") {
			g.Directions = []flow.Direction{rapid.SampledFrom([]flow.Direction{flow.Ingress, flow.Egress}).Draw(t, "direction")}
		}
		if rapid.Bool().Draw(t, "some workloads") {
			g.Workloads = &policy.Selector{
				Namespace:   "shop",
				MatchLabels: map[string]string{"tier": rapid.SampledFrom([]string{"back", "web"}).Draw(t, "tier")},
			}
		}
		out = append(out, g)
	}
	return out
}

// Services draws up to three services with addresses of Strangers, of both
// families: in front of workloads, of addresses, and of a reserved peer.
func Services(t *rapid.T) []inventory.Service {
	free := rapid.Permutation(Strangers()).Draw(t, "service addresses")
	var out []inventory.Service
	for i := range rapid.IntRange(0, 3).Draw(t, "services") {
		s := inventory.Service{Namespace: "shop", Name: "service-" + string('a'+rune(i)), Addresses: free[2*i : 2*i+rapid.IntRange(0, 2).Draw(t, "addresses")]}
		switch rapid.SampledFrom([]string{"selector", "selector", "endpoints", "reserved"}).Draw(t, "backends") {
		case "selector":
			s.Selector = map[string]string{"tier": rapid.SampledFrom([]string{"back", "web", "none"}).Draw(t, "tier")}
		case "endpoints":
			for _, p := range rapid.SliceOfN(rapid.SampledFrom(Peers()), 1, 3).Draw(t, "endpoints") {
				s.Endpoints = append(s.Endpoints, p.Addr)
			}
		default:
			s.Reserved = "kube-apiserver"
		}
		for _, number := range rapid.SliceOfNDistinct(rapid.SampledFrom(ports), 1, 3, rapid.ID).Draw(t, "service ports") {
			p := inventory.ServicePort{Protocol: rapid.SampledFrom([]flow.Protocol{flow.TCP, flow.UDP}).Draw(t, "service protocol"), Port: number}
			if rapid.Bool().Draw(t, "by name") && s.Selector != nil {
				p.TargetName = rapid.SampledFrom([]string{"web", "dns"}).Draw(t, "target name")
			} else {
				p.TargetPort = rapid.SampledFrom(ports).Draw(t, "target port")
			}
			s.Ports = append(s.Ports, p)
		}
		out = append(out, s)
	}
	return out
}

// Peer draws one valid peer: a selector of the world's labels, a prefix around
// its addresses, or a reserved name.
func Peer(t *rapid.T) policy.Peer {
	switch rapid.SampledFrom([]string{"selector", "cidr", "reserved"}).Draw(t, "peer") {
	case "selector":
		return policy.Peer{Selector: selector(t)}
	case "cidr":
		return policy.Peer{CIDR: cidr(t)}
	}
	return policy.Peer{Reserved: rapid.SampledFrom([]string{"host", "world", "remote-node", "kube-apiserver"}).Draw(t, "reserved")}
}

// selector draws one of the world's labels, in a namespace by its name or by its
// labels.
func selector(t *rapid.T) *policy.Selector {
	s := &policy.Selector{MatchLabels: map[string]string{}}
	if rapid.IntRange(0, 2).Draw(t, "by namespace label") == 0 {
		s.Namespaces = &policy.LabelSelector{All: rapid.Bool().Draw(t, "every namespace")}
		if !s.Namespaces.All {
			s.Namespaces.MatchExpressions = []policy.Expression{expression(t, []string{"env", policy.NamespaceName}, []string{"prod", "shop"})}
		}
	} else {
		s.Namespace = rapid.SampledFrom([]string{"shop", "ops"}).Draw(t, "namespace")
	}
	if rapid.IntRange(0, 5).Draw(t, "all") == 0 {
		s.All = true
		return s
	}
	if rapid.Bool().Draw(t, "byApp") {
		s.MatchLabels["app"] = rapid.SampledFrom([]string{"cart", "front", "pay", "dns", "nobody"}).Draw(t, "app")
	}
	switch byExpression := rapid.Bool().Draw(t, "byExpression"); {
	case byExpression:
		s.MatchExpressions = []policy.Expression{expression(t, []string{"tier", "app"}, []string{"web", "cart", "dns"})}
	case len(s.MatchLabels) == 0 || rapid.Bool().Draw(t, "byTier"):
		s.MatchLabels["tier"] = rapid.SampledFrom([]string{"back", "web"}).Draw(t, "tier")
	}
	return s
}

func expression(t *rapid.T, keys, values []string) policy.Expression {
	e := policy.Expression{
		Key:      rapid.SampledFrom(keys).Draw(t, "key"),
		Operator: rapid.SampledFrom([]policy.Operator{policy.OpIn, policy.OpNotIn, policy.OpExists, policy.OpDoesNotExist}).Draw(t, "operator"),
	}
	if e.Operator == policy.OpIn || e.Operator == policy.OpNotIn {
		e.Values = rapid.SliceOfNDistinct(rapid.SampledFrom(values), 1, 2, rapid.ID).Draw(t, "values")
	}
	return e
}

// cidr draws a prefix that holds one of the world's addresses, with parts around
// others carved out of it.
func cidr(t *rapid.T) *policy.CIDR {
	c := &policy.CIDR{Prefix: prefix(t, netip.Prefix{})}
	for range rapid.IntRange(0, 2).Draw(t, "excepts") {
		if c.Prefix.IsSingleIP() {
			break
		}
		c.Except = append(c.Except, prefix(t, c.Prefix))
	}
	return c
}

// prefix draws a prefix around a known address, inside of within and longer than
// it when that is valid.
func prefix(t *rapid.T, within netip.Prefix) netip.Prefix {
	var known []netip.Addr
	for _, p := range Peers() {
		if !within.IsValid() || within.Contains(p.Addr) {
			known = append(known, p.Addr)
		}
	}
	shortest := 0
	if within.IsValid() {
		shortest = within.Bits() + 1
		known = append(known, within.Addr())
	}
	a := rapid.SampledFrom(known).Draw(t, "address")
	lengths := []int{shortest}
	for _, bits := range []int{8, 16, 24, 31, 32, 48, 64, 120, 127, 128} {
		if bits >= shortest && bits <= a.BitLen() {
			lengths = append(lengths, bits)
		}
	}
	return netip.PrefixFrom(a, rapid.SampledFrom(lengths).Draw(t, "bits")).Masked()
}

var protocols = []flow.Protocol{flow.TCP, flow.UDP, flow.SCTP, flow.ICMP, flow.ICMPv6, 47}

// ports lie around powers of two, where ranges are cut into prefixes.
var ports = []uint16{1, 22, 53, 80, 81, 443, 1023, 1024, 8080, 8191, 32768, 65534, 65535}

// Port draws one valid port: a single one, a range, all of a protocol, or an
// ICMP type with or without a code.
func Port(t *rapid.T) policy.Port {
	p := policy.Port{Protocol: rapid.SampledFrom(protocols).Draw(t, "protocol")}
	switch {
	case p.Protocol == flow.ICMP || p.Protocol == flow.ICMPv6:
		if rapid.Bool().Draw(t, "typed") {
			icmp := rapid.SampledFrom([]uint8{0, 3, 8, 128}).Draw(t, "type")
			p.ICMPType = &icmp
			if rapid.Bool().Draw(t, "coded") {
				code := rapid.SampledFrom([]uint8{0, 1, 255}).Draw(t, "code")
				p.ICMPCode = &code
			}
		}
	case p.Protocol.HasPorts() && rapid.IntRange(0, 4).Draw(t, "ported") > 0:
		p.Port = rapid.SampledFrom(ports).Draw(t, "port")
		if rapid.Bool().Draw(t, "range") {
			p.EndPort = rapid.Uint16Range(p.Port, 65535).Draw(t, "endPort")
		}
	}
	return p
}

// Facts draws a flow of Subject, of which about half are aimed at a rule of p so
// that matches are common. The direction is known.
func Facts(t *rapid.T, p *policy.Policy) policy.Facts {
	f := policy.Facts{
		Direction: rapid.SampledFrom([]flow.Direction{flow.Ingress, flow.Egress}).Draw(t, "direction"),
		Peer:      rapid.SampledFrom(Peers()).Draw(t, "peer"),
		Protocol:  rapid.SampledFrom(protocols).Draw(t, "protocol"),
	}
	switch {
	case f.Protocol == flow.ICMP || f.Protocol == flow.ICMPv6:
		f.Port = rapid.SampledFrom([]uint16{0, 0x0300, 0x0301, 0x0800, 0x8000}).Draw(t, "icmp")
	case f.Protocol.HasPorts():
		f.Port = rapid.SampledFrom(ports).Draw(t, "port")
	}
	rules := p.Rules(f.Direction)
	if len(rules) > 0 && rapid.Bool().Draw(t, "aimed") {
		aim(t, &f, rapid.SampledFrom(rules).Draw(t, "rule"))
	}
	return f
}

// aim turns f towards one port of r, and at times towards the port after it.
func aim(t *rapid.T, f *policy.Facts, r policy.Rule) {
	if len(r.Ports) == 0 {
		return
	}
	p := rapid.SampledFrom(r.Ports).Draw(t, "aimed port")
	f.Protocol, f.Port = p.Protocol, p.Port
	switch {
	case p.Protocol == flow.ICMP || p.Protocol == flow.ICMPv6:
		if p.ICMPType != nil {
			f.Port = uint16(*p.ICMPType) << 8
		}
		if p.ICMPCode != nil {
			f.Port |= uint16(*p.ICMPCode)
		}
	case !p.Protocol.HasPorts():
		f.Port = 0
	case p.Name != "":
		f.Port = rapid.SampledFrom([]uint16{80, 81, 53, 443}).Draw(t, "named port")
	case p.Port == 0:
		f.Port = rapid.SampledFrom(ports).Draw(t, "any port")
	default:
		f.Port = rapid.Uint16Range(p.Port, max(p.Port, p.EndPort)).Draw(t, "port in range")
		if rapid.IntRange(0, 3).Draw(t, "beside") == 0 && f.Port < 65535 {
			f.Port++
		}
	}
}
