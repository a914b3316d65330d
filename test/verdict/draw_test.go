package verdict

import (
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, addr(s))
	}
	return out
}

// local returns an endpoint's own address.
func local(host, v6 bool) netip.Addr {
	switch {
	case host && v6:
		return addr("fd00:1::15")
	case host:
		return addr("10.1.0.21")
	case v6:
		return addr("fd00:1::1")
	}
	return addr("10.1.0.1")
}

// peers returns everybody that an endpoint can talk to, itself included by
// another address of its own.
func peers(host bool) []policy.PeerFacts {
	inv := world()
	var out []policy.PeerFacts
	for _, p := range policytest.Peers() {
		if p.Addr != local(host, p.Addr.Is6()) {
			out = append(out, p)
		}
	}
	for _, a := range addrs("10.1.0.31", "fd00:1::1f", "10.1.0.21", "fd00:1::15", "10.1.0.22", "fd00:1::16") {
		if a != local(host, a.Is6()) {
			out = append(out, inventory.NewIndex(inv).Peer(a, policytest.Node))
		}
	}
	return out
}

// byClass draws a peer such that those of whom there are few come up too.
func byClass(t *rapid.T, host bool) policy.PeerFacts {
	all := peers(host)
	class := rapid.SampledFrom([]flow.Identity{
		flow.IdentityUnknown, flow.IdentityUnknown, flow.IdentityHost, flow.IdentityRemoteNode, flow.IdentityWorld,
	}).Draw(t, "class")
	return rapid.SampledFrom(slices.DeleteFunc(all, func(p policy.PeerFacts) bool { return p.Reserved != class })).Draw(t, "peer")
}

var (
	ephemeral = []uint16{1, 22, 53, 80, 443, 1023, 1024, 8191, 40000, 65535}
	// Types beside those that policies name. Discovery is not among them: it has
	// cases of its own.
	otherTypes = []uint8{1, 2, 4, 5, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 40, 127, 129, 139, 200}
	// Identifiers that would be a type and code, were they taken for it.
	likeTypes   = []uint16{0, 0x0300, 0x0301, 0x0800, 0x0801, 0x8000, 0x8001}
	otherProtos = []flow.Protocol{2, 4, 41, 47, 50, 89, 103, 112, 253}
)

// draw makes a frame that is about half the time aimed at a rule of p.
func draw(t *rapid.T, p *policy.Policy) *frame {
	facts := policytest.Facts(t, p)
	f := &frame{
		host: rapid.IntRange(0, 2).Draw(t, "endpoint") == 0,
		from: rapid.Bool().Draw(t, "from the endpoint"),
		id:   rapid.OneOf(rapid.Uint16(), rapid.SampledFrom(likeTypes)).Draw(t, "id"),
	}
	f.peer = byClass(t, f.host)
	f.local = !f.from && !f.host && rapid.Bool().Draw(t, "the node's own")
	f.own = local(f.host, f.peer.Addr.Is6())
	f.protocol = facts.Protocol
	far := rapid.SampledFrom(ephemeral).Draw(t, "other port")
	if rapid.Bool().Draw(t, "random port") {
		far = rapid.Uint16Min(1).Draw(t, "other port")
	}
	begins := (facts.Direction == flow.Egress) == f.from
	switch {
	case f.icmp():
		drawICMP(t, f, facts.Port, begins)
	case f.protocol.HasPorts():
		drawPorts(t, f, facts.Port, far, begins)
	case rapid.Bool().Draw(t, "other protocol"):
		f.protocol = rapid.SampledFrom(otherProtos).Draw(t, "protocol")
	}
	switch rapid.IntRange(0, 24).Draw(t, "special") {
	case 0:
		f.peer.Addr = f.own // to itself
		f.peer = inventory.NewIndex(world()).Peer(f.own, policytest.Node)
	case 1, 2:
		f.forge()
	}
	return f
}

// forge gives a pod's frame an address that is somebody else's.
func (f *frame) forge() {
	if f.host || !f.from {
		return
	}
	f.forged, f.own = true, addr("203.0.113.9")
	if f.peer.Addr.Is6() {
		f.own = addr("2001:db8:9::9")
	}
}

func drawPorts(t *rapid.T, f *frame, service, far uint16, begins bool) {
	f.sport, f.dport = far, service
	if !begins {
		f.sport, f.dport = service, far
	}
	if !f.shakesHands() {
		return
	}
	f.flags = rapid.SampledFrom([]string{"S", "S", "S", "A", "FA", "R", ""}).Draw(t, "flags")
	if f.flags == "S" && !begins {
		f.flags = "SA"
	}
}

func drawICMP(t *rapid.T, f *frame, service uint16, begins bool) {
	f.kind, f.code = uint8(service>>8), uint8(service)
	if rapid.IntRange(0, 3).Draw(t, "other type") == 0 {
		f.kind = rapid.SampledFrom(otherTypes).Draw(t, "type")
	}
	if !begins {
		switch {
		case f.protocol == flow.ICMP && f.kind == 8:
			f.kind = 0
		case f.protocol == flow.ICMPv6 && f.kind == 128:
			f.kind = 129
		}
	}
}

// dhcp reports whether f is what passes before any policy.
func (f *frame) dhcp() bool {
	known := func(port uint16) bool { return port == 67 || port == 68 || port == 546 || port == 547 }
	return f.protocol == flow.UDP && known(f.sport) && known(f.dport)
}

// tuple is what frames of one flow have in common, whoever began it.
type tuple struct {
	endpoint   uint32
	a, b       netip.Addr
	portA      uint16
	portB      uint16
	ipProtocol flow.Protocol
}

func (f *frame) tuple() tuple {
	s := f.seen()
	k := s.key
	x := tuple{s.endpoint, k.Source, k.Destination, k.SourcePort, k.DestinationPort, k.Protocol}
	if x.b.Less(x.a) || x.a == x.b && x.portB < x.portA {
		x.a, x.b, x.portA, x.portB = x.b, x.a, x.portB, x.portA
	}
	return x
}

// drawBatch draws frames of flows that are not in used, each once.
func drawBatch(t *rapid.T, used map[tuple]bool, policies ...*policy.Policy) []*frame {
	aimed := rapid.Custom(func(t *rapid.T) *frame {
		return draw(t, rapid.SampledFrom(policies).Draw(t, "aimed at"))
	})
	var out []*frame
	for _, f := range rapid.SliceOfN(aimed, batch, batch).Draw(t, "frames") {
		if x := f.tuple(); !used[x] && !f.dhcp() {
			used[x] = true
			out = append(out, f)
		}
	}
	return out
}

// drawSlots draws which slots a step has, of policies a and b, and what guards
// them.
func drawSlots(t *rapid.T, n *node, a, b *policy.Policy) (live, staged slot) {
	n.world.Guardrails = policytest.Guardrails(t)
	switch rapid.SampledFrom([]string{"live", "staged", "both", "both", "none"}).Draw(t, "slots") {
	case "live":
		return n.slot(a), slot{}
	case "staged":
		return slot{}, n.slot(a)
	case "both":
		return n.slot(a), n.slot(b)
	}
	return slot{}, slot{}
}
