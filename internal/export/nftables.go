package export

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

var nftables = dialect{
	name: NFTables, title: "an nftables ruleset", hosts: true, subject: (*exporter).nftables,
	limits: []string{
		"It knows addresses: workloads, DNS names and reserved peers are those that the inventory knew when it was exported. Export again when they change.",
		"Connections that are open already go on: conntrack lets them, whatever the rules say now.",
		"What goes over the loopback interface, neighbour discovery and DHCP pass.",
		"Forwarded traffic is not judged; addresses of the host itself are not told apart.",
		"It drops; there is no audit and no revision to go back to.",
	},
}

// Ruleset is what nft -f loads: one table, replaced as a whole.
type Ruleset struct {
	Workload flow.Workload `json:"workload"`
	Sets     []NFTSet      `json:"sets"`
	Chains   []NFTChain    `json:"chains"`
}

// NFTSet is a set of ranges of addresses of one family, in order.
type NFTSet struct {
	Name   string           `json:"name"`
	IPv6   bool             `json:"ipv6"`
	Ranges []netipx.IPRange `json:"ranges"`
}

// NFTChain judges one direction; what no rule accepts, it drops.
type NFTChain struct {
	Hook  string   `json:"hook"` // input or output
	Rules []string `json:"rules"`
}

// Text returns the file that nft -f reads.
func (r *Ruleset) Text() string {
	var b strings.Builder
	// Declared first, so that there is something to delete: the file is one
	// transaction.
	b.WriteString("table inet ringfence {}\ndelete table inet ringfence\ntable inet ringfence {\n")
	fmt.Fprintf(&b, "\tcomment %q\n", comment(r.Workload.String()))
	for _, s := range r.Sets {
		kind := "ipv4_addr"
		if s.IPv6 {
			kind = "ipv6_addr"
		}
		texts := make([]string, len(s.Ranges))
		for i, a := range s.Ranges {
			if texts[i] = a.String(); a.From() == a.To() {
				texts[i] = a.From().String()
			}
		}
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n\t\tflags interval\n", s.Name, kind)
		if len(texts) > 0 {
			fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(texts, ", "))
		}
		b.WriteString("\t}\n")
	}
	for _, c := range r.Chains {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype filter hook %s priority filter; policy drop;\n", c.Hook, c.Hook)
		for _, rule := range c.Rules {
			b.WriteString("\t\t" + rule + "\n")
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// comment makes s fit between quotes; nft holds 128 bytes.
func comment(s string) string {
	var out []byte
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			c = '?'
		}
		out = append(out, c)
	}
	return string(out[:min(len(out), 120)])
}

// failsafe is what no policy denies, before conntrack and after.
var failsafe = map[flow.Direction][]string{
	flow.Ingress: {
		"iif lo accept", "ct state established,related accept",
		"icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect } ip6 hoplimit 255 accept",
		"udp sport 67 udp dport 68 accept", "udp sport 547 udp dport 546 accept",
	},
	flow.Egress: {
		"oif lo accept", "ct state established,related accept",
		"icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect } ip6 hoplimit 255 accept",
		"udp sport 68 udp dport 67 accept", "udp sport 546 udp dport 547 accept",
	},
}

// nftables writes one ruleset. A host loads one, so one workload is all that an
// export can hold.
func (x *exporter) nftables(s *subject) {
	if len(x.result.Objects) > 0 {
		x.lose(Refused, "", "", "a host loads one ruleset; export each workload by itself")
		return
	}
	out := &Ruleset{Workload: s.policy.Workload}
	for _, d := range directions(&s.policy) {
		chain := NFTChain{Hook: "input", Rules: slices.Clone(failsafe[d])}
		if d == flow.Egress {
			chain.Hook = "output"
		}
		for _, r := range s.guardrailsAt(d) {
			chain.Rules = append(chain.Rules, x.nftRules(out, s, d, NotDenied, &r)...)
		}
		for _, r := range s.rulesAt(d) {
			chain.Rules = append(chain.Rules, x.nftRules(out, s, d, LeftOut, &r)...)
		}
		out.Chains = append(out.Chains, chain)
	}
	x.add(out)
}

// nftRules returns r's rules, and adds the sets that they name.
func (x *exporter) nftRules(out *Ruleset, s *subject, d flow.Direction, e Effect, r *ruleAt) []string {
	action, id := "accept", r.ID
	if e == NotDenied {
		action, id = "drop", r.at
	}
	end := fmt.Sprintf("counter %s comment %q", action, comment(id))
	var rules []string
	numbers, names := x.nftPorts(e, r)
	if len(numbers) > 0 {
		for _, peer := range x.nftPeers(out, d, e, r) {
			for _, port := range numbers {
				rules = append(rules, join(peer, port, end))
			}
		}
	}
	for _, name := range names {
		rules = append(rules, x.nftNamed(s, d, e, r, &name, end, out)...)
	}
	return rules
}

func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}

// nftPeers returns the matches of r's peers: by a set of each family, "" for
// anyone, none for nobody.
func (x *exporter) nftPeers(out *Ruleset, d flow.Direction, e Effect, r *ruleAt) []string {
	if len(r.Peers) == 0 {
		return []string{""}
	}
	return out.match(d, x.addresses(e, r.Peers, r.at, nil))
}

// match adds the sets of addresses that there are, and returns their matches.
func (r *Ruleset) match(d flow.Direction, set *netipx.IPSet) (matches []string) {
	end := "saddr"
	if d == flow.Egress {
		end = "daddr"
	}
	for _, family := range []string{"ip", "ip6"} {
		var ranges []netipx.IPRange
		for _, a := range set.Ranges() {
			if a.From().Is6() == (family == "ip6") {
				ranges = append(ranges, a)
			}
		}
		if len(ranges) == 0 {
			continue
		}
		i := slices.IndexFunc(r.Sets, func(s NFTSet) bool { return slices.Equal(s.Ranges, ranges) })
		if i < 0 {
			i = len(r.Sets)
			r.Sets = append(r.Sets, NFTSet{fmt.Sprintf("peers%d", i), family == "ip6", ranges})
		}
		matches = append(matches, fmt.Sprintf("%s %s @%s", family, end, r.Sets[i].Name))
	}
	return matches
}

// addresses returns those of peers. only, if set, picks whose count.
func (x *exporter) addresses(e Effect, peers []policy.Peer, at string, only func(*policy.PeerFacts) bool) *netipx.IPSet {
	var all netipx.IPSetBuilder
	for i, p := range peers {
		if p.CIDR == nil && len(x.in.Known) == 0 {
			x.lose(e, fmt.Sprintf("%s.peers[%d]", at, i), p.String(), "nftables knows addresses only, and no inventory says who has which")
			continue
		}
		set := x.addressesOf(p, only)
		if len(set.Ranges()) == 0 && p.Reserved != "host" && only == nil {
			x.lose(Assumes, fmt.Sprintf("%s.peers[%d]", at, i), p.String(), "nobody is that now: no address of it is known")
		}
		all.AddSet(set)
	}
	return built(&all)
}

func (x *exporter) addressesOf(p policy.Peer, only func(*policy.PeerFacts) bool) *netipx.IPSet {
	var b netipx.IPSetBuilder
	switch {
	case p.CIDR != nil && only == nil:
		for _, prefix := range without(p.CIDR) {
			b.AddPrefix(prefix)
		}
		return built(&b)
	case p.Reserved == flow.IdentityWorld.ReservedName() && only == nil:
		// Everybody but those whom somebody knows as something else.
		b.AddPrefix(netip.MustParsePrefix("0.0.0.0/0"))
		b.AddPrefix(netip.MustParsePrefix("::/0"))
		for i := range x.in.Known {
			if k := &x.in.Known[i]; k.Reserved != flow.IdentityWorld {
				b.Remove(k.Addr)
			}
		}
		return built(&b)
	}
	for i := range x.in.Known {
		k := &x.in.Known[i]
		f := policy.Facts{Direction: flow.Egress, Peer: *k}
		if (only == nil || only(k)) && is(p, f) {
			b.Add(k.Addr)
		}
	}
	return built(&b)
}

// is asks the evaluator whether p means the flow's peer.
func is(p policy.Peer, f policy.Facts) bool {
	f.Protocol = flow.TCP
	return policy.Evaluate(&policy.Policy{IsolateEgress: true, Egress: []policy.Rule{{Peers: []policy.Peer{p}}}}, f).Allowed()
}

func built(b *netipx.IPSetBuilder) *netipx.IPSet {
	set, err := b.IPSet()
	if err != nil {
		// Only addresses that are not valid are refused, and nobody has one.
		panic("export: " + err.Error())
	}
	return set
}

// nftPorts returns the matches of r's numbers, "" for every port of every
// protocol, and its named ports.
func (x *exporter) nftPorts(e Effect, r *ruleAt) (matches []string, names []policy.Port) {
	ranges := map[flow.Protocol][]string{}
	_, whole, _ := said(x, e, r.at+".ports", r.Ports, func(p policy.Port) (struct{}, string) {
		switch {
		case p.Protocol == flow.ICMP || p.Protocol == flow.ICMPv6:
			matches = append(matches, nftICMP(&p))
		case p.Name != "":
			names = append(names, p)
		case !p.Protocol.HasPorts() || p.Port == 0:
			matches = append(matches, fmt.Sprintf("meta l4proto %d", p.Protocol))
		case p.EndPort > p.Port:
			ranges[p.Protocol] = append(ranges[p.Protocol], fmt.Sprintf("%d-%d", p.Port, p.EndPort))
		default:
			ranges[p.Protocol] = append(ranges[p.Protocol], fmt.Sprint(p.Port))
		}
		return struct{}{}, ""
	})
	if whole {
		return []string{""}, nil
	}
	for _, protocol := range slices.Sorted(maps.Keys(ranges)) {
		for _, ports := range ranges[protocol] {
			matches = append(matches, nftPort(protocol, ports))
		}
	}
	return matches, names
}

func nftPort(p flow.Protocol, ports string) string {
	return fmt.Sprintf("%s dport %s", strings.ToLower(p.String()), ports)
}

// nftICMP matches by the header's bytes, so that the family does not matter.
func nftICMP(p *policy.Port) string {
	s := fmt.Sprintf("meta l4proto %d", p.Protocol)
	if p.ICMPType != nil {
		s += fmt.Sprintf(" @th,0,8 %d", *p.ICMPType)
	}
	if p.ICMPCode != nil {
		s += fmt.Sprintf(" @th,8,8 %d", *p.ICMPCode)
	}
	return s
}

// nftNamed returns the rules of a named port: of the host's own number for
// ingress, of each number that a peer has under the name for egress.
func (x *exporter) nftNamed(s *subject, d flow.Direction, e Effect, r *ruleAt, p *policy.Port, end string, out *Ruleset) (rules []string) {
	number := func(list []policy.NamedPort) []uint16 {
		var found []uint16
		for _, n := range list {
			if n.Name == p.Name && n.Protocol == p.Protocol {
				found = append(found, n.Port)
			}
		}
		return found
	}
	if d == flow.Ingress {
		own := number(s.Named)
		if len(own) == 0 {
			x.lose(e, r.at, p.String(), "the host has no port of that name")
		}
		for _, n := range own {
			for _, peer := range x.nftPeers(out, d, e, r) {
				rules = append(rules, join(peer, nftPort(p.Protocol, fmt.Sprint(n)), end))
			}
		}
		return rules
	}
	all := map[uint16]bool{}
	for i := range x.in.Known {
		for _, n := range number(x.in.Known[i].Named) {
			all[n] = true
		}
	}
	peers := r.Peers
	if len(peers) == 0 {
		peers = []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("0.0.0.0/0")}}, {CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("::/0")}}}
	}
	for _, n := range slices.Sorted(maps.Keys(all)) {
		set := x.addresses(e, peers, r.at, func(k *policy.PeerFacts) bool { return slices.Contains(number(k.Named), n) })
		for _, peer := range out.match(d, set) {
			rules = append(rules, join(peer, nftPort(p.Protocol, fmt.Sprint(n)), end))
		}
	}
	return rules
}
