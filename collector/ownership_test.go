package collector

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// life is one line of the creation log: an endpoint held a pair of addresses
// from one time until just before another.
type life struct {
	endpoint    uint32
	workload    int
	slot        int // its addresses
	from, until time.Time
}

func (l life) name() string { return fmt.Sprint("endpoint-", l.endpoint) }

func pair(slot int) []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{10, 1, byte(slot >> 8), byte(slot)}),
		netip.AddrFrom16([16]byte{0xfd, 0, 14: byte(slot >> 8), 15: byte(slot)}),
	}
}

// churn is a cluster whose endpoints come and go, and its log.
type churn struct {
	r     *rand.Rand
	now   time.Time
	log   []life
	alive map[int]int // slot → index in log
	most  int         // lives
	slots int
	after []int // slots that were freed last: they are taken again first
}

const churnWorkloads = 40

// step creates and deletes some endpoints, a few of them within milliseconds of
// who had the address before.
func (c *churn) step() {
	c.now = c.now.Add(time.Duration(1+c.r.IntN(1500)) * time.Millisecond)
	for range 1 + c.r.IntN(12) {
		slot := c.r.IntN(c.slots)
		if n := len(c.after); n > 0 && c.r.IntN(2) == 0 {
			slot, c.after = c.after[n-1], c.after[:n-1]
		}
		if i, ok := c.alive[slot]; ok {
			if c.log[i].from.Equal(c.now) {
				continue // it shall live for a while
			}
			c.log[i].until = c.now
			delete(c.alive, slot)
			c.after = append(c.after, slot)
			if c.r.IntN(3) > 0 {
				continue
			}
		}
		if len(c.log) < c.most {
			c.alive[slot] = len(c.log)
			c.log = append(c.log, life{endpoint: uint32(len(c.log) + 1), workload: c.r.IntN(churnWorkloads), slot: slot, from: c.now})
		}
	}
}

func (c *churn) inventory() *inventory.Index {
	inv := inventory.Inventory{Nodes: []inventory.Node{{Name: "node-1", Addresses: []netip.Addr{addr("10.0.0.1")}}}}
	for w := range churnWorkloads {
		inv.Workloads = append(inv.Workloads, inventory.Workload{
			Namespace: "shop", Kind: "Host", Name: fmt.Sprint("workload-", w), Identity: flow.Identity(300 + w), Labels: map[string]string{"app": fmt.Sprint(w)},
		})
	}
	for _, i := range c.alive {
		l := c.log[i]
		w := &inv.Workloads[l.workload]
		w.Endpoints = append(w.Endpoints, inventory.Endpoint{ID: l.endpoint, Name: l.name(), Node: "node-1", Interface: "rf0", Addresses: pair(l.slot)})
	}
	return inventory.NewIndex(inv)
}

// want says who had the slot's addresses from first to last, by the log alone.
func (c *churn) want(bySlot map[int][]int, slot int, first, last time.Time) flow.Party {
	who := map[int]bool{}
	held := flow.Party{}
	for _, i := range bySlot[slot] {
		l := c.log[i]
		if l.from.After(last) || !l.until.IsZero() && !l.until.After(first) {
			continue
		}
		who[l.workload] = true
		if l.until.IsZero() || last.Before(l.until) {
			held = flow.Party{
				Workload: flow.Workload{Namespace: "shop", Kind: "Host", Name: fmt.Sprint("workload-", l.workload)},
				Endpoint: l.name(), Identity: flow.Identity(300 + l.workload), Labels: fmt.Sprint("app=", l.workload),
			}
		}
	}
	switch {
	case len(who) == 0:
		return reserved("world")
	case len(who) > 1:
		return flow.Party{}
	}
	return held
}

// Of 10,000 endpoints that share 600 addresses one after the other, each record
// is attributed as the log of their creation says, however late and in whatever
// order it comes; what spans a hand-over is nobody's.
func TestAttributionAsTheLogSays(t *testing.T) {
	attributeAsTheLogSays(t, 10_000, "", 1000)
}

// The same when every tenth inventory is the last that a process hears of.
func TestAttributionOverRestarts(t *testing.T) {
	attributeAsTheLogSays(t, 1500, filepath.Join(t.TempDir(), "owners.state"), 100)
}

// attributeAsTheLogSays wants that many records of each kind at least. With a
// path, processes follow each other.
func attributeAsTheLogSays(t *testing.T, endpoints int, path string, least int) {
	t.Helper()
	c := &churn{r: rand.New(rand.NewPCG(7, 11)), now: t0, alive: map[int]int{}, slots: 600, most: endpoints}
	o := resumed(t, path, c.now)
	o.Learn(c.inventory(), t0.Add(-time.Hour))
	type waiting struct {
		record flow.Record
		slot   int
		due    time.Time
	}
	var late []waiting
	kinds := map[string]int{}
	bySlot, seen, steps := map[int][]int{}, 0, 0
	check := func(w waiting) {
		t.Helper()
		want := c.want(bySlot, w.slot, w.record.FirstSeen, w.record.Time)
		got := label(o, w.record)
		if *got.Dest != want {
			t.Fatalf("slot %d from %s to %s, looked at %s: %+v, the log says %+v", w.slot, w.record.FirstSeen, w.record.Time, c.now, *got.Dest, want)
		}
		switch {
		case want.IsWorkload():
			kinds["workload"]++
		case want.Reserved != "":
			kinds["world"]++
		default:
			kinds["nobody"]++
		}
	}
	for len(c.log) < c.most || len(c.alive) > 0 {
		c.step()
		for ; seen < len(c.log); seen++ {
			bySlot[c.log[seen].slot] = append(bySlot[c.log[seen].slot], seen)
		}
		o.Learn(c.inventory(), c.now)
		if steps++; path != "" && steps%10 == 0 {
			// The next one begins with the inventory that the last one had.
			o = resumed(t, path, c.now)
			o.Learn(c.inventory(), c.now)
		}
		if len(c.log) == c.most && len(c.alive) < 20 {
			break
		}
		for range 40 {
			slot := c.r.IntN(c.slots)
			r := record(1, flow.Egress, "10.0.0.1", pair(slot)[c.r.IntN(2)].String())
			r.Time = c.now.Add(-time.Duration(c.r.Int64N(int64(10 * time.Second))))
			r.FirstSeen = r.Time.Add(-time.Duration(c.r.Int64N(int64(30 * time.Second))))
			if c.r.IntN(2) == 0 {
				r.FirstSeen = r.Time
			}
			w := waiting{record: r, slot: slot}
			if c.r.IntN(3) > 0 {
				w.due = c.now.Add(time.Duration(c.r.Int64N(int64(10 * time.Minute))))
				late = append(late, w)
				continue
			}
			check(w)
		}
		late = slices.DeleteFunc(late, func(w waiting) bool {
			if w.due.After(c.now) {
				return false
			}
			check(w)
			return true
		})
	}
	c.r.Shuffle(len(late), func(i, j int) { late[i], late[j] = late[j], late[i] })
	for _, w := range late {
		check(w)
	}
	if o.Cut() != 0 || o.StateErrors() != 0 {
		t.Errorf("%d were cut, %d errors", o.Cut(), o.StateErrors())
	}
	t.Logf("%d endpoints; records of %v", len(c.log), kinds)
	for _, kind := range []string{"workload", "world", "nobody"} {
		if kinds[kind] < least {
			t.Errorf("only %d records of %s", kinds[kind], kind)
		}
	}
}

// resumed is what an agent begins with.
func resumed(t *testing.T, path string, now time.Time) *inventory.Ownership {
	t.Helper()
	o, err := inventory.NewOwnership(inventory.OwnershipConfig{Node: "node-1", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	o.Resume(now)
	return o
}

// Parties are made once an endpoint and not once a record.
func TestLabelAllocatesNothing(t *testing.T) {
	o := owners(t, snapshot{t0, world()}, snapshot{t0.Add(time.Second), world()})
	records := slices.Repeat([]flow.Record{record(1, flow.Egress, "10.1.0.1", "fd00:1::2"), record(2, flow.Ingress, "192.0.2.1", "10.1.0.2"), record(9, flow.Egress, "10.0.0.2", "10.1.0.9")}, 100)
	l, rows := NewLabeller("node-1", o), make([]flow.Labelled, 0, len(records))
	if n := testing.AllocsPerRun(100, func() { l.Label(rows, records) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	first, _ := l.Label(nil, records[:1])
	again := label(o, records[0])
	if first[0].Source != again.Source || first[0].Observer != first[0].Source {
		t.Error("a party of its own for each record")
	}
}
