package collector

import (
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// Labeller says who was at both ends of a flow, by who held which address when:
// a record may come long after its packets.
type Labeller struct {
	node   string
	owners *inventory.Ownership
}

// NewLabeller returns one for a node's records. It does no I/O.
func NewLabeller(node string, owners *inventory.Ownership) *Labeller {
	return &Labeller{node: node, owners: owners}
}

// Label appends the records to rows, attributed, and returns how many of them
// came from an interface that no inventory named. It allocates only to grow rows.
func (l *Labeller) Label(rows []flow.Labelled, records []flow.Record) (out []flow.Labelled, unattributed int) {
	view := l.owners.View()
	defer view.Close()
	for i := range records {
		rows = append(rows, flow.Labelled{Record: records[i], Node: l.node})
		if !attribute(view, &rows[len(rows)-1]) {
			unattributed++
		}
	}
	return rows, unattributed
}

// attribute fills in the parties, and reports whether the observer is known.
func attribute(view inventory.View, row *flow.Labelled) bool {
	r := &row.Record
	observer := view.Endpoint(r.Endpoint, r.Time)
	source := view.Owner(r.Source, r.FirstSeen, r.Time)
	dest := view.Owner(r.Destination, r.FirstSeen, r.Time)
	row.Observer, row.Source, row.Dest = partyOf(observer), partyOf(source), partyOf(dest)
	switch {
	case observer != nil:
	// Nobody's interface: whoever owns its address elsewhere was not there.
	case r.Direction == flow.Egress:
		row.Source = flow.Nobody
	case r.Direction == flow.Ingress:
		row.Dest = flow.Nobody
	default:
		row.Source, row.Dest = flow.Nobody, flow.Nobody
	}
	if spoofed(view, r, observer, source) {
		// Whoever sent it, it was not the owner of that address.
		row.Source = flow.Nobody
	}
	return observer != nil
}

func partyOf(h *inventory.Holder) *flow.Party {
	if h == nil {
		return flow.Nobody
	}
	return &h.Party
}

// spoofed reports whether the record's source address is not the sender's: the
// datapath said so, or the endpoint that the packets came from never held it
// while they passed. A host's own interface may carry what the host forwards.
func spoofed(view inventory.View, r *flow.Record, observer, source *inventory.Holder) bool {
	if r.Live.Reason == flow.ReasonSpoofed || r.Staged.Reason == flow.ReasonSpoofed {
		return true
	}
	if r.Direction != flow.Egress || observer == nil || observer.Host {
		return false
	}
	held := func(h *inventory.Holder) bool { return h != nil && h.Endpoint == r.Endpoint }
	return !held(source) && !held(view.Owner(r.Source, r.Time, r.Time)) && !held(view.Owner(r.Source, r.FirstSeen, r.FirstSeen))
}
