package analyzer

import (
	"hash/maphash"
	"math/bits"
	"net/netip"

	"github.com/ringfence/ringfence/internal/flow"
)

// groups holds the edges of one workload that are one sighting: of one
// direction, peer, protocol and port. They are found by a table of places, for a
// map of keys with parties in them would be larger than the edges.
type groups struct {
	seed  maphash.Seed
	slots []slot // by hash, more than there can be groups
	links []link
	last  []int32 // link of each group, in the order of their first edges
}

type slot struct {
	hash  uint32
	group int32 // from 1; 0 is a free one
}

// link is an edge of a group; the first one's next is -1.
type link struct {
	edge      *flow.Edge
	direction flow.Direction // as the workload sees it
	next      int32
}

// newGroups returns room for so many edges, each in at most two groups.
func newGroups(edges int) *groups {
	return &groups{
		seed: maphash.MakeSeed(), slots: make([]slot, 1<<bits.Len(uint(2*edges))),
		links: make([]link, 0, edges), last: make([]int32, 0, edges),
	}
}

// add takes in an edge whose end in direction d is the workload.
func (g *groups) add(e *flow.Edge, d flow.Direction) {
	peer := otherEnd(e, d)
	hash := maphash.Comparable(g.seed, struct {
		name      string
		addr      netip.Addr
		port      uint16
		protocol  flow.Protocol
		direction flow.Direction
	}{peer.Workload.Name, peer.Address, e.Port, e.Protocol, d})
	at, mark := int(hash)&(len(g.slots)-1), uint32(hash>>32) //nolint:gosec // parts of it
	for ; g.slots[at].group != 0; at = (at + 1) & (len(g.slots) - 1) {
		if g.slots[at].hash != mark {
			continue
		}
		last := &g.last[g.slots[at].group-1]
		if l := &g.links[*last]; l.direction == d && l.edge.Protocol == e.Protocol && l.edge.Port == e.Port && *otherEnd(l.edge, d) == *peer {
			g.links = append(g.links, link{e, d, *last})
			*last = int32(len(g.links) - 1) //nolint:gosec // at most two for each of maxEdges
			return
		}
	}
	g.links = append(g.links, link{e, d, -1})
	g.last = append(g.last, int32(len(g.links)-1))            //nolint:gosec // as above
	g.slots[at] = slot{hash: mark, group: int32(len(g.last))} //nolint:gosec // as above
}

// sighting returns the edges of group i taken together.
func (g *groups) sighting(i int) sighting {
	s := sighting{direction: g.links[g.last[i]].direction}
	for at := g.last[i]; at >= 0; at = g.links[at].next {
		s.add(g.links[at].edge)
	}
	s.merge()
	return s
}
