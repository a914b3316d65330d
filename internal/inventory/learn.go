package inventory

import (
	"net/netip"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// Learn takes note of an inventory that counts from since on. They must come in
// the order of their times; one that is older than the last counts from then.
func (o *Ownership) Learn(x *Index, since time.Time) {
	o.learning.Lock()
	defer o.learning.Unlock()
	first := o.round == 0
	at := max(since.UnixNano(), o.last)
	o.round++
	o.last = at
	l := lesson{o: o, at: at, fresh: at, taken: make(map[[16]byte]bool)}
	if first {
		l.fresh = always
	}
	l.read(x)
	l.missing()
	o.take(&l)
	if first || len(l.changes) > 0 {
		o.save()
	}
	if first {
		close(o.ready)
	}
}

// take makes a lesson what is known.
func (o *Ownership) take(l *lesson) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range l.changes {
		o.change(c, l)
	}
	o.local = l.local
	o.forget(l.at)
}

// subject is what can be held.
type subject struct {
	address [16]byte
	number  uint32 // unless it is 0: then it is the address
}

// change says who holds something from now on.
type change struct {
	subject
	holder *Holder
}

// lesson is what a new inventory changes. It is made while others read.
type lesson struct {
	o       *Ownership
	at      int64
	fresh   int64             // since when what was never seen before is held
	taken   map[[16]byte]bool // addresses that came up anew in this inventory
	changes []change
	local   []Local
}

func (l *lesson) read(x *Index) {
	inv := x.Inventory()
	for i := range inv.Nodes {
		n := &inv.Nodes[i]
		id := flow.IdentityRemoteNode
		if n.Name == l.o.cfg.Node {
			id = flow.IdentityHost
		}
		want := Holder{Party: flow.Party{Reserved: id.ReservedName(), Identity: id}}
		l.hold(l.holder(0, n.Addresses, want), n.Addresses)
	}
	for i := range inv.Workloads {
		w := &inv.Workloads[i]
		labels := flow.JoinLabels(w.Labels)
		for j := range w.Endpoints {
			e := &w.Endpoints[j]
			h := l.holder(e.ID, e.Addresses, Holder{
				Party:    flow.Party{Workload: w.Ref(), Endpoint: e.Name, Identity: w.Identity, Labels: labels},
				Endpoint: e.ID, Host: e.Host,
			})
			if e.ID != 0 {
				l.note(subject{number: e.ID}, l.o.numbers[e.ID], h)
			}
			l.hold(h, e.Addresses)
			l.watched(w, e)
		}
	}
}

// holder returns the one that is known by the number or the addresses, if it is
// just as wanted, or a new one.
func (l *lesson) holder(number uint32, addresses []netip.Addr, want Holder) *Holder {
	if known := l.o.numbers[number]; known != nil && known.holder != nil && *known.holder == want {
		return known.holder
	}
	for _, a := range addresses {
		if known := l.o.addresses[a.As16()]; known != nil && known.holder != nil && *known.holder == want {
			return known.holder
		}
	}
	h := want // so that only this way allocates
	return &h
}

func (l *lesson) hold(h *Holder, addresses []netip.Addr) {
	for _, a := range addresses {
		key := a.As16()
		l.note(subject{address: key}, l.o.addresses[key], h)
	}
}

// note says that h holds s, which known is about. The first one to say so counts.
func (l *lesson) note(s subject, known *holdings, h *Holder) {
	switch {
	case known == nil && s.number == 0 && l.taken[s.address]:
		return
	case known == nil:
		l.taken[s.address] = true
	case known.round == l.o.round:
		return
	default:
		known.round = l.o.round
		if known.holder == h {
			return
		}
	}
	l.changes = append(l.changes, change{subject: s, holder: h})
}

// watched notes an endpoint that this node is to watch.
func (l *lesson) watched(w *Workload, e *Endpoint) {
	if e.Node != l.o.cfg.Node || e.Interface == "" || e.ID == 0 {
		return
	}
	since := time.Time{} // forever, as the agent knows
	if l.fresh != always {
		since = time.Unix(0, l.fresh)
	}
	for i := range l.o.local {
		if l.o.local[i].ID == e.ID {
			since = l.o.local[i].Since
		}
	}
	l.local = append(l.local, Local{ID: e.ID, Name: w.Ref().String() + "/" + e.Name, Since: since})
}

// missing notes what this inventory says nothing of any more.
func (l *lesson) missing() {
	for key, h := range l.o.addresses {
		if h.holder != nil && h.round != l.o.round {
			l.changes = append(l.changes, change{subject: subject{address: key}})
		}
	}
	for number, h := range l.o.numbers {
		if h.holder != nil && h.round != l.o.round {
			l.changes = append(l.changes, change{subject: subject{number: number}})
		}
	}
}

func (o *Ownership) change(c change, l *lesson) {
	h := o.holdings(c.subject)
	if h == nil {
		o.add(c.subject, &holdings{holder: c.holder, since: l.fresh, forgotten: o.forgotten, round: o.round})
		return
	}
	if h.holder != nil && h.since < l.at {
		h.before = append(h.before, holding{holder: h.holder, since: h.since, until: l.at})
		o.former.push(ended{subject: c.subject, at: l.at})
	}
	h.holder, h.since = c.holder, l.at
	if h.empty() {
		o.remove(c.subject)
	}
}

func (o *Ownership) add(s subject, h *holdings) {
	if s.number != 0 {
		o.numbers[s.number] = h
	} else {
		o.addresses[s.address] = h
	}
}

// empty says that there is nothing to remember.
func (h *holdings) empty() bool { return h.holder == nil && len(h.before) == 0 }

func (o *Ownership) remove(s subject) {
	if s.number != 0 {
		delete(o.numbers, s.number)
	} else {
		delete(o.addresses, s.address)
	}
}

func (o *Ownership) holdings(s subject) *holdings {
	if s.number != 0 {
		return o.numbers[s.number]
	}
	return o.addresses[s.address]
}

// forget drops what ended too long ago, and the oldest of what is too much.
func (o *Ownership) forget(now int64) {
	horizon := now - int64(o.cfg.History)
	for {
		e, ok := o.former.oldest()
		if !ok || e.at >= horizon && o.former.len() <= o.cfg.MaxFormer {
			return
		}
		if e.at >= horizon {
			o.cut.Add(1)
		}
		o.former.pop()
		h := o.holdings(e.subject)
		h.before, h.forgotten = h.before[1:], e.at
		if h.empty() {
			o.remove(e.subject)
			if e.number == 0 {
				o.forgotten = max(o.forgotten, e.at)
			}
		}
	}
}

// ended says that a holding of something ended.
type ended struct {
	subject
	at int64
}

// queue holds what ended, oldest first.
type queue struct {
	items []ended
	head  int
}

func (q *queue) len() int { return len(q.items) - q.head }

func (q *queue) push(e ended) {
	if q.head > len(q.items)/2 {
		q.items = append(q.items[:0], q.items[q.head:]...)
		q.head = 0
	}
	q.items = append(q.items, e)
}

func (q *queue) oldest() (ended, bool) {
	if q.len() == 0 {
		return ended{}, false
	}
	return q.items[q.head], true
}

func (q *queue) pop() { q.head++ }
