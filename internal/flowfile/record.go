package flowfile

import (
	"net/netip"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// record is one line, whoever wrote it.
type record struct {
	time time.Time
	node string // that saw it

	// from and to are the initiator and the responder; when initiator is false
	// nobody knows which is which, and they are the packet's source and
	// destination.
	from, to  end
	initiator bool
	reply     bool // the packets come from the responder
	protocol  flow.Protocol

	// at is the end that observed it, seen from there: Egress is from.
	at flow.Direction
	// both: the line is as good as a record of either end.
	both     bool
	observer flow.Workload // whose endpoint saw it, unless both

	began           bool // a connection begins
	completed       bool // the answer counts without more
	reset, syn, ack bool
	denied, staged  bool // by a policy that decides, or is only judged
	dropped         bool
	counted         bool // packets and bytes are given; else it is one packet
	forward, back   flow.Counters
	connections     uint64
}

// end is one end of a record.
type end struct {
	who  *party
	addr netip.Addr
	port uint16
}

// party is who an end is, made once for all lines that say the same.
type party struct {
	workload   flow.Workload
	reserved   string
	endpoint   string
	labels     map[string]string
	namespaced map[string]string // labels of the namespace
	service    bool              // an address that stands for others
}

// flow returns who p is in an edge.
func (e *end) flow() flow.Party {
	if !e.who.workload.IsZero() {
		return flow.Party{Workload: e.who.workload}
	}
	return flow.Party{Reserved: e.who.reserved, Address: e.addr}
}
