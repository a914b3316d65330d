package enforcer

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// model is the datapath's tables and its lookup, in Go. It keeps what the façade
// promises: a table is switched whole or not at all.
type model struct {
	mu        sync.Mutex
	clock     Clock
	limits    bpf.Limits
	tables    map[bpf.TableKey]bpf.Table
	addresses map[netip.Addr]bpf.AddressOwner
	cidrs     []bpf.CIDRIdentity
	services  map[inventory.Destination]flow.Identity
	attached  []bpf.Attached
	absent    map[string]bool // interfaces that do not exist
	panicked  bool
	pending   flow.Verdict

	fail     map[string]error // method → error
	calls    map[string]int
	attaches int
	step     func() // called with mu held after every change of a table
}

func newModel(clock Clock) *model {
	return &model{
		clock: clock,
		limits: bpf.Limits{
			Endpoints: 64, Workloads: 64, Addresses: 1024, CIDRs: 1024, Failsafe: 8, Services: 64, PolicyTables: 256, PolicyEntries: 65536,
		},
		tables: map[bpf.TableKey]bpf.Table{}, addresses: map[netip.Addr]bpf.AddressOwner{},
		absent: map[string]bool{}, fail: map[string]error{}, calls: map[string]int{},
	}
}

func (m *model) enter(method string) (func(), error) {
	m.mu.Lock()
	m.calls[method]++
	return m.mu.Unlock, m.fail[method]
}

func (m *model) changed() {
	if m.step != nil {
		m.step()
	}
}

func (m *model) Attach(e bpf.Endpoint) error {
	leave, err := m.enter("Attach")
	defer leave()
	if err != nil {
		return err
	}
	if m.absent[e.Interface] {
		return fmt.Errorf("attach to %s: there is no such interface", e.Interface)
	}
	m.attaches++
	for i := range m.attached {
		if m.attached[i].Interface == e.Interface {
			m.attached[i].Endpoint = e
			return nil
		}
	}
	m.attached = append(m.attached, bpf.Attached{Endpoint: e, Index: 100 + m.attaches, ObservedSince: m.clock.Now()})
	return nil
}

func (m *model) Detach(index int) error {
	leave, err := m.enter("Detach")
	defer leave()
	m.attached = slices.DeleteFunc(m.attached, func(a bpf.Attached) bool { return a.Index == index })
	return err
}

func (m *model) Prune() error {
	leave, err := m.enter("Prune")
	defer leave()
	return err
}

func (m *model) Attached() ([]bpf.Attached, error) {
	leave, err := m.enter("Attached")
	defer leave()
	return slices.Clone(m.attached), err
}

func (m *model) SetAddresses(owners []bpf.AddressOwner) (bpf.Changes, error) {
	leave, err := m.enter("SetAddresses")
	defer leave()
	if err != nil {
		return bpf.Changes{}, err
	}
	m.addresses = map[netip.Addr]bpf.AddressOwner{}
	for _, o := range owners {
		m.addresses[o.Addr] = o
	}
	m.changed()
	return bpf.Changes{}, nil
}

func (m *model) SetCIDRs(cidrs []bpf.CIDRIdentity) (bpf.Changes, error) {
	leave, err := m.enter("SetCIDRs")
	defer leave()
	if err != nil {
		return bpf.Changes{}, err
	}
	m.cidrs = slices.Clone(cidrs)
	m.changed()
	return bpf.Changes{}, nil
}

func (m *model) SetServices(list []bpf.ServiceIdentity) (bpf.Changes, error) {
	leave, err := m.enter("SetServices")
	defer leave()
	if err != nil {
		return bpf.Changes{}, err
	}
	m.services = map[inventory.Destination]flow.Identity{}
	for _, s := range list {
		m.services[inventory.Destination{Protocol: s.Protocol, Addr: s.Addr}] = s.Identity
	}
	m.changed()
	return bpf.Changes{}, nil
}

func (m *model) SetFailsafe([]bpf.Failsafe) (bpf.Changes, error) {
	leave, err := m.enter("SetFailsafe")
	defer leave()
	return bpf.Changes{}, err
}

func (m *model) SetPending(answer flow.Verdict) error {
	leave, err := m.enter("SetPending")
	defer leave()
	m.pending = answer
	return err
}

func (m *model) Apply(tables []bpf.Table) (time.Time, error) {
	leave, err := m.enter("Apply")
	defer leave()
	if err != nil {
		return time.Time{}, err
	}
	next := maps.Clone(m.tables)
	for _, t := range tables {
		switch {
		case t.Delete:
			delete(next, t.TableKey)
		case t.Open && len(t.Entries) > 0:
			return time.Time{}, errors.New("an open table with entries")
		default:
			next[t.TableKey] = t
		}
	}
	held, entries := map[digest]bool{}, 0
	for _, list := range []map[bpf.TableKey]bpf.Table{m.tables, next} {
		for _, t := range list {
			if d := digestOf(t); !held[d] {
				held[d] = true
				entries += t.Size()
			}
		}
	}
	if len(held) > m.limits.PolicyTables || entries > m.limits.PolicyEntries {
		return time.Time{}, fmt.Errorf("%d tables of %d entries: too many", len(held), entries)
	}
	m.tables = next
	m.changed()
	return m.clock.Now(), nil
}

func (m *model) Tables() ([]bpf.Table, error) {
	leave, err := m.enter("Tables")
	defer leave()
	var out []bpf.Table
	for _, key := range slices.SortedFunc(maps.Keys(m.tables), compareKeys) {
		t := m.tables[key]
		t.Entries = bpf.Normalize(t.Entries)
		out = append(out, t)
	}
	return out, err
}

func (m *model) Capacity() bpf.Limits { return m.limits }
func (m *model) Panicked() bool       { return m.panicked }

// judgement is what the programs say of one flow of one slot, failsafe aside.
type judgement struct {
	verdict  flow.Verdict
	reason   flow.Reason
	revision uint32
}

// judge looks a flow up as the programs do: the exact identity of the peer, then
// that of the longest prefix, then any peer.
// It must be called with mu held, or while nothing changes.
func (m *model) judge(key bpf.TableKey, peer netip.Addr, protocol flow.Protocol, port uint16) judgement {
	t, ok := m.tables[key]
	switch {
	case !ok:
		return judgement{reason: flow.ReasonNoPolicy}
	case t.Open:
		return judgement{flow.VerdictAllow, flow.ReasonNoPolicy, t.Revision}
	}
	exact := flow.IdentityWorld
	if o, ok := m.addresses[peer]; ok {
		exact = o.Identity
	}
	egress := key.Direction == flow.Egress
	key.Slot = bpf.SlotGuardrail
	if m.match(m.tables[key], m.names(exact, peer, protocol, port, egress), protocol, port) {
		return judgement{flow.VerdictDeny, flow.ReasonGuardrail, t.Revision}
	}
	if m.match(t, m.names(exact, peer, protocol, port, egress), protocol, port) {
		return judgement{flow.VerdictAllow, flow.ReasonRule, t.Revision}
	}
	return judgement{flow.VerdictDeny, flow.ReasonDefault, t.Revision}
}

// names returns by which identities a flow is looked up.
func (m *model) names(exact flow.Identity, peer netip.Addr, protocol flow.Protocol, port uint16, egress bool) []flow.Identity {
	service := m.services[inventory.Destination{Protocol: protocol, Addr: netip.AddrPortFrom(peer, port)}]
	if service != 0 && egress && exact == flow.IdentityWorld {
		return []flow.Identity{service}
	}
	peers := []flow.Identity{exact, bpf.PeerAny}
	if id, ok := m.longest(peer); ok {
		peers = append(peers, id)
	}
	return peers
}

// match reports whether an entry of the table is of one of peers, or of everything.
func (m *model) match(t bpf.Table, peers []flow.Identity, protocol flow.Protocol, port uint16) bool {
	return slices.ContainsFunc(t.Entries, func(e bpf.Entry) bool {
		cidr := e.Peer >= flow.FirstCIDRIdentity && e.Peer < flow.FirstServiceIdentity
		return slices.Contains(peers, e.Peer) && (!cidr || t.UsesCIDRs) &&
			(e.Protocol == 0 || e.Protocol == protocol && e.First <= port && port <= e.Last) ||
			e.Peer == bpf.PeerAny && e.Protocol == 0
	})
}

// longest is the prefix trie: 128 bits, IPv4 addresses mapped.
func (m *model) longest(a netip.Addr) (id flow.Identity, ok bool) {
	best := -1
	for _, c := range m.cidrs {
		bits := c.Prefix.Bits()
		if c.Prefix.Addr().Is4() {
			bits += 96
		}
		mapped := netip.PrefixFrom(netip.AddrFrom16(c.Prefix.Addr().As16()), bits)
		if mapped.Contains(netip.AddrFrom16(a.As16())) && bits > best {
			best, id, ok = bits, c.Identity, true
		}
	}
	return id, ok
}

// clock is a Clock that a test moves.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	timers []timer
}

type timer struct {
	at time.Time
	c  chan time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := timer{at: c.now.Add(d), c: make(chan time.Time, 1)}
	c.timers = append(c.timers, t)
	c.fire()
	return t.c
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.fire()
}

func (c *clock) fire() {
	c.timers = slices.DeleteFunc(c.timers, func(t timer) bool {
		due := !t.at.After(c.now)
		if due {
			t.c <- c.now
		}
		return due
	})
}
