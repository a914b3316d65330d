package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
)

// Sentence says in words what a rule of direction d allows: "workloads with
// app=frontend in boutique may connect on TCP 8080".
func Sentence(r Rule, d flow.Direction) string {
	n := normalizeRule(r)
	peers := "anyone"
	if len(n.Peers) > 0 {
		peers = join(texts(n.Peers))
	}
	if d == flow.Egress {
		return "may connect to " + peers + " on " + portsText(n.Ports)
	}
	return peers + " may connect on " + portsText(n.Ports)
}

func portsText(ports []Port) string {
	if len(ports) == 0 {
		return "any port of any protocol"
	}
	return join(texts(ports))
}

// String says whom p means: "workloads with app=frontend in boutique".
func (p Peer) String() string {
	switch {
	case p.Selector != nil:
		return p.Selector.String()
	case p.CIDR != nil:
		return p.CIDR.String()
	case p.FQDN != "":
		return p.FQDN
	}
	switch p.Reserved {
	case "host":
		return "the workload's own node"
	case "remote-node":
		return "the other nodes"
	case "kube-apiserver":
		return "the Kubernetes API server"
	case "world":
		return "any address that is in no inventory"
	}
	return "nobody"
}

// String returns "workloads with app=frontend in boutique".
func (s *Selector) String() string {
	labels := s.Labels()
	who, where := "every workload", s.Namespace
	if !s.All {
		who = "workloads with " + labels.String()
	}
	if s.Namespaces != nil {
		where = "any namespace"
		if !s.Namespaces.All {
			where = "namespaces with " + s.Namespaces.String()
		}
	}
	return who + " in " + where
}

// String returns "app=frontend, tier in (back, web), no canary".
func (s *LabelSelector) String() string {
	var says []string
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		says = append(says, k+"="+s.MatchLabels[k])
	}
	return strings.Join(append(says, texts(s.MatchExpressions)...), ", ")
}

// String returns "tier in (back, web)", "tier not in (back)", "tier", "no tier".
func (e Expression) String() string {
	switch e.Operator {
	case OpIn:
		return e.Key + " in (" + strings.Join(e.Values, ", ") + ")"
	case OpNotIn:
		return e.Key + " not in (" + strings.Join(e.Values, ", ") + ")"
	case OpExists:
		return e.Key
	case OpDoesNotExist:
		return "no " + e.Key
	}
	return e.Key + " " + string(e.Operator)
}

// String returns "192.0.2.0/24 except 192.0.2.7"; a single address goes without
// its prefix length.
func (c *CIDR) String() string {
	text := func(p fmt.Stringer, single bool, addr fmt.Stringer) string {
		if single {
			return addr.String()
		}
		return p.String()
	}
	s := text(c.Prefix, c.Prefix.IsSingleIP(), c.Prefix.Addr())
	if len(c.Except) == 0 {
		return s
	}
	out := make([]string, 0, len(c.Except))
	for _, e := range c.Except {
		out = append(out, text(e, e.IsSingleIP(), e.Addr()))
	}
	return s + " except " + join(out)
}

// String returns "TCP 443", "UDP 5000–5010", "any TCP port", "ICMP echo request".
func (p Port) String() string {
	switch {
	case p.Protocol == flow.ICMP || p.Protocol == flow.ICMPv6:
		return p.icmp()
	case !p.Protocol.HasPorts():
		return "protocol " + p.Protocol.String()
	case p.Name != "":
		return p.Protocol.String() + " port " + strconv.Quote(p.Name)
	case p.Port == 0:
		return "any " + p.Protocol.String() + " port"
	case p.EndPort > p.Port:
		return fmt.Sprintf("%s %d–%d", p.Protocol, p.Port, p.EndPort)
	}
	return p.Protocol.String() + " " + strconv.Itoa(int(p.Port))
}

func (p Port) icmp() string {
	if p.ICMPType == nil {
		return "any " + p.Protocol.String() + " message"
	}
	echo := *p.ICMPType == 8 && p.Protocol == flow.ICMP || *p.ICMPType == 128 && p.Protocol == flow.ICMPv6
	s := fmt.Sprintf("%s type %d", p.Protocol, *p.ICMPType)
	if echo {
		s = p.Protocol.String() + " echo request"
	}
	if p.ICMPCode != nil && (!echo || *p.ICMPCode != 0) {
		s += fmt.Sprintf(" code %d", *p.ICMPCode)
	}
	return s
}

func texts[T fmt.Stringer](items []T) []string {
	out := make([]string, len(items))
	for i := range items {
		out[i] = items[i].String()
	}
	return out
}

// join lists items with an "or" before the last one. A long list is cut, with
// the number of what is left out.
func join(items []string) string {
	const most = 12
	if n := len(items); n > most {
		return fmt.Sprintf("%s or %d more", strings.Join(items[:most], ", "), n-most)
	}
	if len(items) < 2 {
		return strings.Join(items, "")
	}
	return strings.Join(items[:len(items)-1], ", ") + " or " + items[len(items)-1]
}
