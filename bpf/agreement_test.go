package bpf

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// sessionFrames is how many frames follow each other on one flow table.
const sessionFrames = 20_000

// twinSizes: one in which all that the generator thinks of fits, and one that
// is soon full everywhere.
var twinSizes = []twinSize{{8192, 1 << 20, 4096}, {128, 4096, 64}}

// number reads a number from the environment.
func number(t *testing.T, name string, def uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.ParseUint(strings.ReplaceAll(s, "_", ""), 10, 64)
	if err != nil {
		t.Fatalf("%s=%s: want a number", name, s)
	}
	return n
}

// TestAgreement sends generated frames, and mutated ones of real traffic, through
// the programs and the model, which must agree on each. N is how many, SEED where
// to begin: a session that fails prints its own seed, with which it is the first.
func TestAgreement(t *testing.T) {
	t.Parallel()
	n, seed := number(t, "N", 2_000_000), number(t, "SEED", 1)
	sessions := max(n/sessionFrames, 1)
	frames := int(min(n, sessionFrames))
	captures := readCaptures(t)
	t.Logf("SEED=%d N=%d: %d sessions", seed, n, sessions)
	var next atomic.Uint64
	var mu sync.Mutex
	total := make(map[string]int)
	started := time.Now()
	// A group, so that coverage is looked at when all are done.
	t.Run("sessions", func(t *testing.T) {
		for i := range 2 {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				var twins [2]*twin
				for i, size := range twinSizes {
					twins[i] = newTwin(t, size)
				}
				for !t.Failed() {
					session := next.Add(1) - 1
					if session >= sessions {
						break
					}
					w := twins[(seed+session)%2]
					w.session(t, seed+session, frames, captures)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, w := range twins {
					for what, n := range w.coverage {
						total[what] += n
					}
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	t.Logf("%d frames agree, in %s", total["frames"], time.Since(started).Round(time.Millisecond))
	checkCoverage(t, total, sessions >= 50)
}

// session plays one seed on a clean table.
func (w *twin) session(t *testing.T, seed uint64, frames int, captures [][]byte) {
	defer func() {
		if t.Failed() {
			t.Logf("again with: SEED=%d N=%d", seed, sessionFrames)
		}
	}()
	w.t = t
	r := rand.New(rand.NewPCG(seed, 0x66656e63))
	g := newGenerator(seed, captures)
	w.reset(r)
	for end := w.coverage["frames"] + frames; w.coverage["frames"] < end; {
		w.event(r)
		w.shoot(g.next())
		if w.m.ringUsed() > w.m.ringRoom*2/3 && r.IntN(20) > 0 {
			w.drain()
		}
	}
	w.sweep(100)
	w.sweep(100)
}

// clean takes every flow and every policy away.
func (w *twin) clean() {
	for range 2 {
		w.sweep(100)
	}
	var list []Table
	for k := range w.m.tables {
		list = append(list, Table{TableKey: k, Delete: true})
	}
	w.apply(list)
	w.setPanic(false)
	w.setPending(flow.VerdictAllow)
	w.m.quota, w.d.settings.value.EndpointFlows = w.m.room, uint32(w.m.room)
	for i := range w.points {
		w.know(i, true)
		w.age(i, false, 0)
	}
}

// reset picks a session's policy, on a clean table.
func (w *twin) reset(r *rand.Rand) {
	w.clean()
	if r.IntN(2) == 0 {
		w.m.quota = w.m.room/4 + r.IntN(w.m.room/2)
		w.d.settings.value.EndpointFlows = uint32(w.m.quota)
	}
	for i := range w.points {
		w.age(i, r.IntN(3) == 0, drawTunnels(r))
	}
	w.setAddresses(r, 0)
	w.setPrefixes(r)
	w.setFailsafe(r)
	w.setServices(r)
	w.setTables(r, true)
}

// event changes something now and then.
func (w *twin) event(r *rand.Rand) {
	switch n := r.IntN(60_000); {
	case n < 40:
		w.setTables(r, false)
	case n < 140:
		w.setPanic(r.IntN(3) == 0)
	case n < 200:
		w.setAddresses(r, 20)
	case n < 260:
		w.setPrefixes(r)
	case n < 280:
		w.setFailsafe(r)
	case n < 300:
		w.setServices(r)
	case n < 340:
		if point := r.IntN(len(w.points)); !w.points[point].gone {
			w.age(point, r.IntN(3) == 0, drawTunnels(r))
		}
	case n < 600:
		w.sweep([]int{-1, -1, -1, -1, 1, 2, 3, 4, 6, 7}[r.IntN(10)])
	case n < 700:
		w.ageFlows(r)
	case n < 900:
		w.drain()
		w.compareFlows()
	case n < 901:
		w.flood(r)
	case n < 920:
		w.know(r.IntN(len(w.points)), r.IntN(2) == 0)
	case n < 925:
		if point := r.IntN(len(w.points)); !w.points[point].gone {
			w.detach(point)
		}
	case n < 945:
		w.setPending([]flow.Verdict{flow.VerdictAllow, flow.VerdictDeny}[r.IntN(2)])
	}
	w.m.epoch = w.d.settings.value.Epoch
}

// flood sends more of the same than a table holds: flows, or fragmented datagrams.
func (w *twin) flood(r *rand.Rand) {
	w.m.epoch = w.d.settings.value.Epoch
	b := blueprint{v6: r.IntN(2) == 0, protocol: 17, hops: 64, body: udpBody(1, 53, 0)}
	b.src, b.dst = asRef(web.v4), asRef(db.v4)
	if b.v6 {
		b.src, b.dst = asRef(web.v6), asRef(db.v6)
	}
	b.more = r.IntN(2) == 0
	for i := range min(max(w.m.room, w.m.noteRoom), 5000) {
		b.id = 1000 + uint32(i)
		if !b.more {
			binary.BigEndian.PutUint16(b.body, uint16(i))
		}
		w.shoot(shot{point: 0, from: true, frame: b.bytes(), origin: "flood"})
		if w.m.ringUsed() > w.m.ringRoom/2 {
			w.drain()
		}
	}
}

// age says how long a point has been watched, and into which tunnels. Long ago is just as long as makes
// its idle limit end with the machine's start.
func (w *twin) age(point int, young bool, tunnels Tunnels) {
	var e kernelRfEndpoint
	if err := w.d.maps.Endpoints.Lookup(w.index[point], &e); err != nil {
		w.t.Fatal(err)
	}
	e.ObservedSince = -uint64(modelIdle[stateUDP]) * uint64(hour)
	if young {
		now, err := coarse()
		if err != nil {
			w.t.Fatal(err)
		}
		e.ObservedSince = now
	}
	e.Flags = e.Flags&endpointHost | uint32(tunnels)<<1
	if err := w.d.maps.Endpoints.Put(w.index[point], e); err != nil {
		w.t.Fatal(err)
	}
	w.points[point].young, w.points[point].tunnels = young, tunnels
	// Its flows may be made older than it.
	q := w.d.quotaOf(w.points[point].id)
	q.Since = 0
	if err := w.d.maps.Quotas.Put(w.points[point].id, q); err != nil {
		w.t.Fatal(err)
	}
}

// know gives a point its identity, or takes it away. One that is gone comes back.
func (w *twin) know(point int, known bool) {
	p := &w.points[point]
	p.identity = flow.IdentityUnknown
	if known {
		p.identity = identities[point]
	}
	e := Endpoint{Interface: pointNames[point], ID: p.id, Identity: p.identity, Host: p.host}
	if err := w.d.Attach(e); err != nil {
		w.t.Fatal(err)
	}
	p.gone, w.m.gone[p.id] = false, false
	w.age(point, p.young, p.tunnels)
}

// detach takes a point away; the next sweep ends its flows.
func (w *twin) detach(point int) {
	if err := w.d.Detach(int(w.index[point])); err != nil {
		w.t.Fatal(err)
	}
	p := &w.points[point]
	p.gone, w.m.gone[p.id] = true, true
	w.coverage["flows of the gone"] += w.m.held[p.id]
}

// setPending picks the answer where an identity is not known yet.
func (w *twin) setPending(v flow.Verdict) {
	w.m.pending, w.d.settings.value.Pending = v, uint32(v)
	if err := w.d.BumpEpoch(); err != nil {
		w.t.Fatal(err)
	}
}

// ageFlows lets some flows not have been seen for hours.
func (w *twin) ageFlows(r *rand.Rand) {
	table := w.table()
	for _, k := range slices.SortedFunc(maps.Keys(w.m.flows), compareKeys) {
		if r.IntN(4) > 0 {
			continue
		}
		hours, key := r.IntN(7), kernelKeyOf(k)
		f, ok := table[key]
		if !ok {
			w.fail("flow %+v is not in the kernel's table", k)
		}
		now, err := coarse()
		if err != nil {
			w.t.Fatal(err)
		}
		f.LastSeen = now - uint64(hours)*uint64(hour)
		if err := putFlow(&w.d.maps, key, f); err != nil {
			w.fail("age flow %+v: %v", k, err)
		}
		w.m.flows[k].seen = -hours
	}
}

func (w *twin) must(_ Changes, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *twin) setPanic(on bool) {
	if err := w.d.Panic(on); err != nil {
		w.t.Fatal(err)
	}
	w.m.panic = on
}

// setAddresses makes the inventory, with percent of it missing or wrong.
func (w *twin) setAddresses(r *rand.Rand, percent int) {
	list := everyone()
	list = append(list, AddressOwner{gateway.v4, 400, 21}, AddressOwner{gateway.v6, 400, 21}, AddressOwner{worldly.v4, 77, 99})
	list = slices.DeleteFunc(list, func(AddressOwner) bool { return r.IntN(100) < percent })
	for i := range list {
		switch n := r.IntN(100); {
		case n < percent:
			list[i].Identity, list[i].Endpoint = dbIdent, dbID
		case n < 2*percent:
			list[i].Identity = flow.IdentityUnknown
		}
	}
	w.must(w.d.SetAddresses(list))
	clear(w.m.owners)
	for _, o := range list {
		w.m.owners[asRef(o.Addr)] = o
	}
}

func (w *twin) setPrefixes(r *rand.Rand) {
	var list []CIDRIdentity
	seen := make(map[netip.Prefix]bool)
	for range r.IntN(12) {
		a := parties[r.IntN(len(parties))]
		addr, bits := a.v4, r.IntN(33)
		if r.IntN(2) == 0 {
			addr, bits = a.v6, r.IntN(129)
		}
		p := netip.PrefixFrom(addr, bits).Masked()
		if !seen[p] {
			list = append(list, CIDRIdentity{p, cidrIdent + flow.Identity(r.IntN(3))})
		}
		seen[p] = true
	}
	w.must(w.d.SetCIDRs(list))
	w.m.cidrs = list
}

func (w *twin) setFailsafe(r *rand.Rand) {
	var list []Failsafe
	for range r.IntN(4) {
		p := parties[r.IntN(len(parties))].in(4 + 2*r.IntN(2))
		list = append(list, Failsafe{flow.Protocol([]uint8{6, 17}[r.IntN(2)]), netip.AddrPortFrom(p, servicePorts[r.IntN(len(servicePorts))])})
	}
	w.must(w.d.SetFailsafe(list))
	clear(w.m.failsafe)
	for _, f := range list {
		w.m.failsafe[f] = true
	}
}

// setServices makes some parties' ports services', also of parties that have an
// owner: nothing comes of those.
func (w *twin) setServices(r *rand.Rand) {
	clear(w.m.services)
	var list []ServiceIdentity
	for range r.IntN(20) {
		p := parties[r.IntN(len(parties))].in(4 + 2*r.IntN(2))
		k := Failsafe{flow.Protocol([]uint8{6, 6, 17, 132}[r.IntN(4)]), netip.AddrPortFrom(p, servicePorts[r.IntN(len(servicePorts))])}
		if _, twice := w.m.services[k]; !twice && k.Addr.Port() != 0 {
			w.m.services[k] = serviceIdent + flow.Identity(r.IntN(3))
			list = append(list, ServiceIdentity{k.Protocol, k.Addr, w.m.services[k]})
		}
	}
	w.must(w.d.SetServices(list))
}

// setTables draws policies, of some slots or of all.
func (w *twin) setTables(r *rand.Rand, all bool) {
	var list []Table
	for _, identity := range identities {
		for _, slot := range []flow.Slot{flow.SlotLive, flow.SlotStaged, SlotGuardrail} {
			if !all && r.IntN(3) > 0 {
				continue
			}
			revision := r.Uint32N(1000)
			for _, dir := range []flow.Direction{flow.Ingress, flow.Egress} {
				list = append(list, drawTable(r, TableKey{identity, slot, dir}, revision))
			}
		}
	}
	w.apply(list)
}

func (w *twin) apply(list []Table) {
	if _, err := w.d.Apply(list); err != nil {
		w.t.Fatal(err)
	}
	for _, t := range list {
		if t.Delete {
			delete(w.m.tables, t.TableKey)
		} else {
			w.m.tables[t.TableKey] = t
		}
	}
}

func drawTable(r *rand.Rand, k TableKey, revision uint32) Table {
	t := Table{TableKey: k, Revision: revision}
	switch n := r.IntN(10); {
	case n < 2:
		t.Delete = true
		return t
	case n < 3 && k.Slot != SlotGuardrail, n < 6 && k.Slot == SlotGuardrail:
		t.Open, t.Delete = k.Slot != SlotGuardrail, k.Slot == SlotGuardrail
		return t
	}
	t.UsesCIDRs = r.IntN(2) == 0
	peers := []flow.Identity{webIdent, dbIdent, evilIdent, 400, 77, flow.IdentityHost, flow.IdentityRemoteNode, flow.IdentityWorld, PeerAny, serviceIdent, serviceIdent + 1}
	if t.UsesCIDRs {
		peers = append(peers, cidrIdent, cidrIdent+1, cidrIdent+2)
	}
	entries := 14
	if k.Slot == SlotGuardrail {
		entries = 3
	}
	for range r.IntN(entries) {
		t.Entries = append(t.Entries, drawEntry(r, peers[r.IntN(len(peers))]))
	}
	return t
}

func drawTunnels(r *rand.Rand) Tunnels {
	if r.IntN(2) == 0 {
		return 0
	}
	return Tunnels(r.IntN(int(allTunnels) + 1))
}

func drawEntry(r *rand.Rand, peer flow.Identity) Entry {
	e := Entry{Peer: peer, Protocol: []flow.Protocol{0, 6, 6, 6, 6, 17, 17, 1, 58, 132, 47}[r.IntN(11)]}
	if e.Protocol == 0 {
		return e
	}
	port := servicePorts[r.IntN(len(servicePorts))]
	switch e.Protocol {
	case flow.ICMP:
		port = []uint16{8 << 8, 8<<8 | 1, 13 << 8, 5 << 8, 3<<8 | 1}[r.IntN(5)]
	case flow.ICMPv6:
		port = []uint16{128 << 8, 128<<8 | 1, 139 << 8, 1 << 8, 135 << 8}[r.IntN(5)]
	default:
	}
	// One port, an aligned range around it, all, or from and to anywhere.
	switch wide := []uint16{0, 0, 0, 0, 63, 255, 32767, 65535, 1}[r.IntN(9)]; wide {
	case 1:
		e.First, e.Last = port-uint16(r.IntN(int(port)+1)), port+uint16(r.IntN(65536-int(port)))
	default:
		e.First, e.Last = port&^wide, port|wide
	}
	return e
}

// FuzzFrame looks for frames on which the programs and the model don't agree, by
// what the model's parser has not been through yet.
func FuzzFrame(f *testing.F) {
	for i, frame := range readCaptures(f) {
		f.Add(frame, uint8(i))
	}
	w := newTwin(f, twinSizes[1])
	ns := w.d.cfg.NetNS
	r := rand.New(rand.NewPCG(1, 1))
	w.reset(r)
	f.Fuzz(func(t *testing.T, frame []byte, where uint8) {
		enter(t, ns)
		w.t = t
		point := int(where % 4)
		if point == 3 {
			point = -1
		}
		w.m.epoch = w.d.settings.value.Epoch
		if point >= 0 {
			w.age(point, where&4 != 0, Tunnels(where>>4))
		}
		s := shot{point: point, from: where&8 != 0, own: where&4 != 0, frame: frame, origin: "fuzz"}
		if len(frame) > 0 && len(frame) <= 2048 {
			w.shoot(s)
		}
		// Each starts on a clean table, or it would not be repeatable.
		w.sweep(100)
		w.sweep(100)
	})
}
