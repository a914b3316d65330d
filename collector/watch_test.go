package collector

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// gap is an attach gap in seconds since the test began.
type gap struct {
	endpoint   string
	start, end float64
}

func (a *agent) gaps(began time.Time) (out []gap) {
	a.sink.mu.Lock()
	defer a.sink.mu.Unlock()
	for _, c := range a.sink.coverage {
		if c.Kind == flow.CoverageAttach {
			out = append(out, gap{c.Endpoint, c.Start.Sub(began).Seconds(), c.End.Sub(began).Seconds()})
		}
	}
	return out
}

func (d *datapath) attach(id uint32, since time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attached = append(d.attached, bpf.Attached{Endpoint: bpf.Endpoint{ID: id}, ObservedSince: since})
}

func (d *datapath) detach(id uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attached = slices.DeleteFunc(d.attached, func(a bpf.Attached) bool { return a.ID == id })
}

// The times in which an endpoint of this node had no program are told of: those
// that end exactly, those that go on by the minute.
func TestAttachGaps(t *testing.T) {
	more := func(inv *inventory.Inventory) {
		e := inv.Workloads[1].Endpoints[0]
		e.ID, e.Name, e.Addresses = 9, "cart-9", nil
		inv.Workloads[1].Endpoints = append(inv.Workloads[1].Endpoints, e)
	}
	alone(t, func(t *testing.T, a *agent) {
		began := time.Now()
		a.owners = owners(t, snapshot{began.Add(-time.Hour), world()})
		a.path.detach(2) // waits for its interface from before the agent
		stop := a.start()
		time.Sleep(12 * time.Second)
		a.owners.Learn(world(more), time.Now())
		a.path.attach(9, time.Now().Add(50*time.Millisecond)) // as good as at once
		time.Sleep(10 * time.Second)
		a.path.attach(2, began.Add(21500*time.Millisecond))
		time.Sleep(4 * time.Second)
		want := []gap{{"shop/Host/cart/cart-1", 0, 21.5}}
		if got := a.gaps(began); !slices.Equal(got, want) {
			t.Errorf("gaps %v, want %v", got, want)
		}
		// The interface goes at 26 s, after a look at 25 s.
		a.path.detach(4)
		time.Sleep(100 * time.Second)
		want = append(want, gap{"shop/Host/gateway/gateway-1", 25, 85})
		if got := a.gaps(began); !slices.Equal(got, want) {
			t.Errorf("gaps %v, want %v", got, want)
		}
		// The endpoint leaves the inventory, and later the agent ends.
		a.owners.Learn(world(more, func(inv *inventory.Inventory) { inv.Workloads = inv.Workloads[:3] }), time.Now())
		time.Sleep(5 * time.Second)
		a.path.detach(9)
		time.Sleep(5 * time.Second)
		stopped(t, stop)
		want = append(want, gap{"shop/Host/gateway/gateway-1", 85, 130}, gap{"shop/Host/cart/cart-9", 130, 136})
		if got := a.gaps(began); !slices.Equal(got, want) {
			t.Errorf("gaps %v, want %v", got, want)
		}
	})
}

// While the store is away gaps wait, and do not become many.
func TestOwedGaps(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		began := time.Now()
		a.path.detach(2)
		a.store(errors.New("refused"))
		stop := a.start()
		time.Sleep(3 * time.Hour)
		a.store(nil)
		time.Sleep(2 * time.Minute)
		stopped(t, stop)
		got := a.gaps(began)
		end := 0.0
		for _, g := range got {
			if g.start != end {
				t.Errorf("gap %v after one that ended at %v", g, end)
			}
			end = g.end
		}
		if end < 3*3600 || len(got) > 6 {
			t.Errorf("gaps %v", got)
		}
	})
}

func TestClockSkew(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		a.sink.behind = 3 * time.Second
		stop := a.start()
		time.Sleep(6 * time.Second)
		a.sink.set(func() { a.sink.behind = -time.Second })
		time.Sleep(2 * time.Minute)
		a.store(errors.New("refused"))
		time.Sleep(2 * time.Minute)
		a.store(nil)
		time.Sleep(6 * time.Second)
		stopped(t, stop)
		got := a.sink.coverage
		if got[0].Skew != 3*time.Second || got[len(got)-1].Skew != -time.Second {
			t.Errorf("skew %s, then %s", got[0].Skew, got[len(got)-1].Skew)
		}
		if v := testutil.ToFloat64(a.c.metrics.skew); v != -1 {
			t.Errorf("metric %v", v)
		}
	})
}
