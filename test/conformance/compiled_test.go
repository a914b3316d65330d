package conformance

import (
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
)

// compiled is a datapath that remembers what the enforcer compiled for it, and
// answers from that by a lookup as plain as can be.
type compiled struct {
	*bpf.Datapath
	tables    map[bpf.TableKey]entries
	cidrs     []bpf.CIDRIdentity
	addresses map[netip.Addr]flow.Identity
}

type entries struct {
	open bool
	list []bpf.Entry
}

func (t entries) match(who flow.Identity, protocol flow.Protocol, port uint16) bool {
	return slices.ContainsFunc(t.list, func(e bpf.Entry) bool {
		return e.Peer == who && (e.Protocol == 0 || e.Protocol == protocol && e.First <= port && port <= e.Last)
	})
}

func (c *compiled) Apply(tables []bpf.Table) (time.Time, error) {
	at, err := c.Datapath.Apply(tables)
	if err != nil {
		return at, err
	}
	for _, t := range tables {
		if t.Delete {
			delete(c.tables, t.TableKey)
			continue
		}
		c.tables[t.TableKey] = entries{t.Open, t.Entries}
	}
	return at, nil
}

func (c *compiled) SetCIDRs(list []bpf.CIDRIdentity) (bpf.Changes, error) {
	c.cidrs = list
	return c.Datapath.SetCIDRs(list)
}

func (c *compiled) SetAddresses(list []bpf.AddressOwner) (bpf.Changes, error) {
	c.addresses = map[netip.Addr]flow.Identity{}
	for _, o := range list {
		c.addresses[o.Addr] = o.Identity
	}
	return c.Datapath.SetAddresses(list)
}

// judge looks a flow up in the live slot: by the identity of the peer's address,
// by that of its longest prefix, and by that of everybody.
func (c *compiled) judge(id flow.Identity, d flow.Direction, peer netip.Addr, protocol flow.Protocol, port uint16) answer {
	t, ok := c.tables[bpf.TableKey{Identity: id, Slot: flow.SlotLive, Direction: d}]
	switch {
	case !ok:
		return answer{reason: flow.ReasonNoPolicy}
	case t.open:
		return answer{flow.VerdictAllow, flow.ReasonNoPolicy}
	}
	exact, known := c.addresses[peer]
	if !known {
		exact = flow.IdentityWorld
	}
	longest := bpf.CIDRIdentity{Prefix: netip.PrefixFrom(peer, -1)}
	for _, p := range c.cidrs {
		if p.Prefix.Contains(peer) && p.Prefix.Bits() > longest.Prefix.Bits() {
			longest = p
		}
	}
	for _, who := range []flow.Identity{exact, longest.Identity, bpf.PeerAny} {
		if t.match(who, protocol, port) {
			return answer{flow.VerdictAllow, flow.ReasonRule}
		}
	}
	return answer{flow.VerdictDeny, flow.ReasonDefault}
}
