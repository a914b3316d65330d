package enforcer

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// services gives every port of a service's address its identity, where somebody
// is behind it.
//
// Endpoints send to the address, and only behind their interface does the packet
// get the address of a backend, nobody here knows which. So what a policy says of
// the backends is compiled into an entry for the service's identity, and the
// kernel asks there for nothing else, neither the address nor ports of anybody.
type services map[inventory.Destination]flow.Identity

// kernel returns the kernel's table of them.
func (s services) kernel() []bpf.ServiceIdentity {
	out := make([]bpf.ServiceIdentity, 0, len(s))
	for _, d := range slices.SortedFunc(maps.Keys(s), compareDestinations) {
		out = append(out, bpf.ServiceIdentity{Protocol: d.Protocol, Addr: d.Addr, Identity: s[d]})
	}
	return out
}

func compareDestinations(a, b inventory.Destination) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol))
}

// numbers are the identities that a node gives by itself.
type numbers struct {
	prefixes prefixes
	services services
}

// union returns the numbers of both, which agree where they overlap.
func (n numbers) union(o numbers) numbers {
	return numbers{union(n.prefixes, o.prefixes), union(n.services, o.services)}
}

func (n numbers) count() int { return len(n.prefixes) + len(n.services) }

func (n numbers) equal(o numbers) bool {
	return maps.Equal(n.prefixes, o.prefixes) && maps.Equal(n.services, o.services)
}

// door is a service's port as tables see it: its own identity, and by which ones
// the kernel would find those behind it.
type door struct {
	inventory.Destination
	identity flow.Identity
	ends     []end // each once, at least one
}

type end struct {
	exact, region flow.Identity
	port          uint16
}

// doors returns those of all numbered services, in order.
func (c *compiler) doors() []door {
	if c.opened != nil {
		return c.opened
	}
	c.opened = make([]door, 0, len(c.numbers.services))
	for _, d := range slices.SortedFunc(maps.Keys(c.numbers.services), compareDestinations) {
		out := door{Destination: d, identity: c.numbers.services[d]}
		facts := c.ends[d]
		if len(facts) == 0 {
			// Not, or no longer, a service's: the address is all there is.
			facts = []policy.Facts{{Peer: c.index.Peer(d.Addr.Addr(), c.node), Port: d.Addr.Port()}}
		}
		for i := range facts {
			one := end{exact: facts[i].Peer.Reserved, region: c.region(facts[i].Peer.Addr), port: facts[i].Port}
			if w := c.index.Workload(facts[i].Peer.Workload); w != nil {
				one.exact = w.Identity
			}
			if !slices.Contains(out.ends, one) {
				out.ends = append(out.ends, one)
			}
		}
		c.opened = append(c.opened, out)
	}
	return c.opened
}

// forward adds to a table, whose entries are normalized, what it says of services'
// ports. A rule admits one when a packet to whoever is behind it would be
// admitted; a guardrail denies it when one to any of them would be denied. It
// returns a port of which only some are admitted, if there is one.
func (c *compiler) forward(t *bpf.Table) (partly *inventory.Destination) {
	direct := byPeer(t.Entries)
	if t.Direction != flow.Egress || len(direct) == 0 || admits(direct[bpf.PeerAny], 0, 0) {
		return nil // an entry of everything needs no other
	}
	var more []bpf.Entry
	doors := c.doors()
	for i := range doors {
		d := &doors[i]
		n := 0
		for _, e := range d.ends {
			// As the kernel looks a packet to it up.
			if admits(direct[e.exact], d.Protocol, e.port) || admits(direct[e.region], d.Protocol, e.port) ||
				admits(direct[bpf.PeerAny], d.Protocol, e.port) {
				n++
			}
		}
		switch {
		case n == len(d.ends), n > 0 && t.Slot == bpf.SlotGuardrail:
			more = append(more, bpf.Entry{Peer: d.identity, Protocol: d.Protocol, First: d.Addr.Port(), Last: d.Addr.Port()})
		case n > 0 && partly == nil:
			partly = &d.Destination
		}
	}
	if len(more) > 0 {
		t.Entries = bpf.Normalize(append(slices.Clip(t.Entries), more...))
	}
	return partly
}

// byPeer splits entries, which are normalized.
func byPeer(entries []bpf.Entry) map[flow.Identity][]bpf.Entry {
	out := map[flow.Identity][]bpf.Entry{}
	for len(entries) > 0 {
		n := 1
		for n < len(entries) && entries[n].Peer == entries[0].Peer {
			n++
		}
		out[entries[0].Peer], entries = entries[:n], entries[n:]
	}
	return out
}

// admits reports whether one of a peer's entries matches.
func admits(entries []bpf.Entry, protocol flow.Protocol, port uint16) bool {
	return slices.ContainsFunc(entries, func(e bpf.Entry) bool {
		return e.Protocol == 0 || e.Protocol == protocol && e.First <= port && port <= e.Last
	})
}

// region returns the identity of the longest prefix that an address is in, 0 for
// none.
func (c *compiler) region(a netip.Addr) flow.Identity {
	if !a.IsValid() || len(c.numbers.prefixes) == 0 {
		return 0
	}
	a = a.Unmap()
	id, ok := c.longest[a]
	if !ok {
		for bits := a.BitLen(); bits >= 0 && !ok; bits-- {
			id, ok = c.numbers.prefixes[netip.PrefixFrom(a, bits).Masked()]
		}
		c.longest[a] = id
	}
	return id
}

// warn says that a revision allows only some of what is behind a service.
func (s scope) warn(d inventory.Destination) string {
	name := "which is no more"
	if svc := s.index.Service(d.Addr.Addr()); svc != nil {
		name = svc.Namespace + "/" + svc.Name
	}
	return fmt.Sprintf("allows some of what is behind %s %s, service %s, and not all of it: connections to the service, which may end at any, are denied",
		d.Protocol, d.Addr, name)
}
