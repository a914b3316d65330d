package flowfile

import (
	"hash/maphash"
	"net/netip"

	"github.com/ringfence/ringfence/internal/flow"
)

// maxConnections bounds each of the two generations of connections that are
// remembered. A connection that says nothing while so many others begin is
// forgotten; what it says later counts as one that began unseen.
const maxConnections = 1 << 18

// idle is after how long of silence a datagram is a new exchange, in seconds.
const idle = 60

// tuple names a connection from its initiator's side.
type tuple struct {
	from, to         netip.Addr
	fromPort, toPort uint16
	protocol         flow.Protocol
	at               flow.Direction // of our own records, which tell of either end
}

// connection is what has to be known of one to count it once.
type connection struct {
	edge   *edge
	hour   int64
	last   int64 // Unix seconds
	fwd    uint8 // packets seen, up to 2
	back   uint8
	began  bool
	half   bool // answered, and nothing more yet
	whole  bool // answered and used: counted
	reset  bool
	denied bool
	staged bool
}

// connections remembers the latest ones in two generations: when the newer is
// full, the older is given up.
type connections struct {
	seed       maphash.Seed
	max        int
	young, old map[uint64]*connection
}

func newConnections(limit int) *connections {
	return &connections{seed: maphash.MakeSeed(), max: limit, young: map[uint64]*connection{}, old: map[uint64]*connection{}}
}

// of returns the connection of that name; it is new when it has no edge.
func (t *connections) of(name tuple) *connection {
	key := maphash.Comparable(t.seed, name)
	if c, ok := t.young[key]; ok {
		return c
	}
	c, ok := t.old[key]
	if ok {
		delete(t.old, key)
	} else {
		c = &connection{}
	}
	if len(t.young) >= t.max {
		settle(t.old)
		t.old, t.young = t.young, t.old
		clear(t.young)
	}
	t.young[key] = c
	return c
}

// settle counts those that were answered and not refused as far as they were
// seen: the lines of an aggregating monitor, or of a file's end, lack the rest.
func settle(list map[uint64]*connection) {
	for _, c := range list {
		if c.half && !c.whole && !c.reset {
			c.complete()
		}
	}
}

// complete counts c as answered. It had two packets each way at least, whatever
// an aggregating monitor reported of them.
func (c *connection) complete() {
	if c.whole {
		return
	}
	c.whole = true
	b := c.edge.bucket(c.hour)
	b.answered++
	b.forward.Packets += uint64(2 - min(c.fwd, 2))
	b.back.Packets += uint64(2 - min(c.back, 2))
	c.fwd, c.back = 2, 2
}
