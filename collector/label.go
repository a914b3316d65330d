package collector

import (
	"net/netip"
	"reflect"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// maxSnapshots bounds the memory that inventories take when they change often.
const maxSnapshots = 64

// labeller says who was at both ends of a flow. It remembers who owned an
// address when, for a record may come long after its packets.
type labeller struct {
	node      string
	history   time.Duration
	snapshots []snapshot // oldest first
}

// snapshot is an inventory from a time on, until the next one's.
type snapshot struct {
	since time.Time
	index *inventory.Index
}

// learn takes note of the inventory in force, if it is a new one.
func (l *labeller) learn(index *inventory.Index, since time.Time, now time.Time) {
	if n := len(l.snapshots); index == nil || n > 0 && same(l.snapshots[n-1].index, index) {
		return
	}
	l.snapshots = append(l.snapshots, snapshot{since: since, index: index})
	// The oldest counts for all times before it, so it goes only once its
	// successor is old itself.
	for len(l.snapshots) > maxSnapshots || len(l.snapshots) > 1 && now.Sub(l.snapshots[1].since) > l.history {
		l.snapshots = l.snapshots[1:]
	}
}

// same reports whether two inventories say the same of who owns what.
func same(a, b *inventory.Index) bool {
	return a == b || reflect.DeepEqual(a.Inventory(), b.Inventory())
}

func (l *labeller) ready() bool { return len(l.snapshots) > 0 }

// at returns the inventory that was in force at t. The first one known counts
// for all times before it: nothing else is known of them.
func (l *labeller) at(t time.Time) *inventory.Index {
	for i := len(l.snapshots) - 1; i > 0; i-- {
		if !l.snapshots[i].since.After(t) {
			return l.snapshots[i].index
		}
	}
	return l.snapshots[0].index
}

// label attributes one record.
func (l *labeller) label(r flow.Record) flow.Labelled {
	out := flow.Labelled{Record: r, Node: l.node}
	observer, known := l.observer(&r)
	out.Observer = flow.Nobody
	if known {
		out.Observer = partyOf(observer)
	}
	out.Source, out.Dest = l.party(&r, r.Source), l.party(&r, r.Destination)
	if !known {
		// Nobody's interface: whoever owns its address elsewhere was not there.
		switch r.Direction {
		case flow.Egress:
			out.Source = flow.Nobody
		case flow.Ingress:
			out.Dest = flow.Nobody
		default:
			out.Source, out.Dest = flow.Nobody, flow.Nobody
		}
	}
	if l.spoofed(&r, observer) {
		// Whoever sent it, it was not the owner of that address.
		out.Source = flow.Nobody
	}
	return out
}

// observer returns the endpoint that the record was made at. One that has left
// the inventory is looked up where it still was.
func (l *labeller) observer(r *flow.Record) (inventory.Owner, bool) {
	if o, ok := l.at(r.Time).Endpoint(r.Endpoint); ok {
		return o, true
	}
	for i := len(l.snapshots) - 1; i >= 0; i-- {
		if o, ok := l.snapshots[i].index.Endpoint(r.Endpoint); ok {
			return o, true
		}
	}
	return inventory.Owner{}, false
}

// party says who owned addr when the record's newest packet passed. An address
// that went from one workload to another during the flow is nobody's: the
// packets are the one's or the other's, and neither may learn from them.
func (l *labeller) party(r *flow.Record, addr netip.Addr) *flow.Party {
	now, _ := l.at(r.Time).Owner(addr)
	before, _ := l.at(r.FirstSeen).Owner(addr)
	switch {
	case before.Workload != nil && now.Workload != nil && before.Workload.Ref() != now.Workload.Ref():
		return flow.Nobody
	case now.Workload != nil:
		return partyOf(now)
	case now.Node != nil && now.Node.Name == l.node:
		return reservedParty(flow.IdentityHost)
	case now.Node != nil:
		return reservedParty(flow.IdentityRemoteNode)
	}
	return reservedParty(flow.IdentityWorld)
}

// partyOf returns an owner that is an endpoint.
func partyOf(o inventory.Owner) *flow.Party {
	return &flow.Party{
		Workload: o.Workload.Ref(), Endpoint: o.Endpoint.Name,
		Identity: o.Workload.Identity, Labels: flow.JoinLabels(o.Workload.Labels),
	}
}

func reservedParty(id flow.Identity) *flow.Party {
	return &flow.Party{Reserved: id.ReservedName(), Identity: id}
}

// spoofed reports whether the record's source address is not the sender's: the
// datapath said so, or the endpoint that the packets came from does not own it.
// A host's own interface may carry what the host forwards.
func (l *labeller) spoofed(r *flow.Record, observer inventory.Owner) bool {
	if r.Live.Reason == flow.ReasonSpoofed || r.Staged.Reason == flow.ReasonSpoofed {
		return true
	}
	if r.Direction != flow.Egress || observer.Endpoint == nil || observer.Endpoint.Host {
		return false
	}
	for _, t := range []time.Time{r.Time, r.FirstSeen} {
		if o, ok := l.at(t).Owner(r.Source); ok && o.Endpoint != nil && o.Endpoint.ID == r.Endpoint {
			return false
		}
	}
	return true
}
