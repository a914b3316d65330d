package inventory

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// estate returns n endpoints of n/5 workloads; the first address of each is its
// number's, plus shift.
func estate(n, shift int) *Index {
	inv := Inventory{Nodes: []Node{{Name: "node-1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}}
	for i := range n {
		if i%5 == 0 {
			inv.Workloads = append(inv.Workloads, Workload{
				Namespace: "shop", Kind: "Host", Name: fmt.Sprint("w", i/5), Identity: flow.Identity(300 + i/5), Labels: map[string]string{"app": "x", "tier": fmt.Sprint(i)},
			})
		}
		w := &inv.Workloads[len(inv.Workloads)-1]
		j := i + shift
		w.Endpoints = append(w.Endpoints, Endpoint{
			ID: uint32(i + 1), Name: fmt.Sprint("e", i), Node: "node-1", Interface: "rf0",
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(j >> 8), byte(j)}), netip.AddrFrom16([16]byte{0xfd, 14: byte(j >> 8), 15: byte(j)})},
		})
	}
	return NewIndex(inv)
}

func ownership(tb testing.TB, change ...func(*OwnershipConfig)) *Ownership {
	tb.Helper()
	cfg := OwnershipConfig{Node: "node-1"}
	for _, c := range change {
		c(&cfg)
	}
	o, err := NewOwnership(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return o
}

// owner returns the endpoint that held an address throughout, "world", or "".
func owner(o *Ownership, a string, first, last time.Time) string {
	v := o.View()
	defer v.Close()
	h := v.Owner(netip.MustParseAddr(a), first, last)
	switch {
	case h == nil:
		return ""
	case h.Party.Reserved != "":
		return h.Party.Reserved
	}
	return h.Party.Endpoint
}

// The same inventory again changes nothing, and makes nobody a new holder.
func TestLearningTheSameAgain(t *testing.T) {
	o := ownership(t)
	o.Learn(estate(100, 0), start)
	v := o.View()
	before := v.Owner(netip.MustParseAddr("10.1.0.7"), start, start)
	v.Close()
	for i := range 100 {
		o.Learn(estate(100, 0), start.Add(time.Duration(i)*time.Second))
	}
	v = o.View()
	defer v.Close()
	if v.Owner(netip.MustParseAddr("10.1.0.7"), start.Add(time.Minute), start.Add(time.Minute)) != before {
		t.Error("another holder")
	}
	if o.former.len() != 0 {
		t.Errorf("%d former holdings", o.former.len())
	}
}

func TestLabelsChange(t *testing.T) {
	o := ownership(t)
	o.Learn(estate(5, 0), start)
	later := estate(5, 0)
	later.inv.Workloads[0].Labels["tier"] = "new"
	o.Learn(later, start.Add(time.Minute))
	v := o.View()
	defer v.Close()
	a := netip.MustParseAddr("fd00::3")
	before, after := v.Owner(a, start, start), v.Owner(a, start.Add(time.Minute), start.Add(time.Minute))
	across := v.Owner(a, start, start.Add(time.Hour))
	if before.Party.Labels != "app=x,tier=0" || after.Party.Labels != "app=x,tier=new" || across != after {
		t.Errorf("%+v, %+v, %+v", before, after, across)
	}
	if h := v.Endpoint(4, start); h != before && h.Party.Labels != "app=x,tier=0" {
		t.Errorf("endpoint was %+v", h)
	}
}

// Memory is bounded by age and by number. What is forgotten is nobody's, and
// never the next holder's.
func TestForgetting(t *testing.T) {
	for _, c := range []struct {
		name      string
		change    func(*OwnershipConfig)
		cut       bool
		remembers time.Duration
	}{
		{"by age", func(c *OwnershipConfig) { c.History = 10 * time.Minute }, false, 10 * time.Minute},
		// 20 endpoints have two addresses and a number each; 20 addresses of each
		// family and no number change hands a minute.
		{"by number", func(c *OwnershipConfig) { c.MaxFormer = 10 * 40 }, true, 9 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := ownership(t, c.change)
			// Each minute everybody's addresses are those of the next one but ten.
			const minutes = 100
			for i := range minutes {
				o.Learn(estate(20, 10*(i%3)), start.Add(time.Duration(i)*time.Minute))
				if n := o.former.len(); n > 10*40+40 {
					t.Fatalf("%d former holdings", n)
				}
			}
			if (o.Cut() > 0) != c.cut {
				t.Errorf("%d were cut", o.Cut())
			}
			end := start.Add((minutes - 1) * time.Minute) // when the shift became 0
			for _, family := range []string{"10.1.0.5", "fd00::5"} {
				for back := range time.Duration(30) {
					at := end.Add(-back*time.Minute + time.Second)
					shift := 10 * ((minutes - 1 - int(back)) % 3)
					want := "world"
					if n := 5 - shift; n >= 0 {
						want = fmt.Sprint("e", n)
					}
					got := owner(o, family, at, at)
					if back*time.Minute < c.remembers && got != want || back*time.Minute > c.remembers+2*time.Minute && got != "" {
						t.Errorf("%s, %d minutes ago: %q; %q held it", family, back, got, want)
					}
				}
				if got := owner(o, family, end.Add(-50*time.Minute), end.Add(time.Second)); got != "" {
					t.Errorf("%s from a forgotten time on: %q", family, got)
				}
			}
			if got := owner(o, "192.0.2.1", end.Add(-50*time.Minute), end); got != "world" {
				t.Errorf("a long flow with a stranger: %q", got)
			}
		})
	}
}

// An address that everybody gave up is forgotten whole, in time.
func TestNothingStays(t *testing.T) {
	o := ownership(t, func(c *OwnershipConfig) { c.History = time.Minute })
	for i := range 1000 {
		o.Learn(estate(10, 50*i), start.Add(time.Duration(i)*time.Second))
	}
	o.Learn(estate(0, 0), start.Add(time.Hour))
	o.Learn(estate(0, 0), start.Add(2*time.Hour))
	if len(o.addresses) != 1 || len(o.numbers) != 0 || o.former.len() != 0 {
		t.Errorf("%d addresses, %d numbers, %d former", len(o.addresses), len(o.numbers), o.former.len())
	}
	if got := owner(o, "10.1.0.5", start, start); got != "" {
		t.Errorf("long ago it was %q", got)
	}
}

func TestNumbers(t *testing.T) {
	o := ownership(t)
	o.Learn(estate(0, 0), start)
	o.Learn(estate(3, 0), start.Add(time.Minute))
	o.Learn(estate(3, 0), start.Add(time.Minute)) // within the same instant
	o.Learn(estate(0, 0), start.Add(2*time.Minute))
	v := o.View()
	defer v.Close()
	for _, at := range []time.Duration{0, time.Minute, 2 * time.Minute, time.Hour} {
		if h := v.Endpoint(3, start.Add(at)); h == nil || h.Party.Endpoint != "e2" {
			t.Errorf("at %s: %+v", at, h)
		}
	}
	if h := v.Endpoint(4, start); h != nil {
		t.Errorf("an endpoint nobody knows: %+v", h)
	}
}

// Held and given up within one instant leaves nothing.
func TestInstant(t *testing.T) {
	o := ownership(t)
	o.Learn(estate(0, 0), start)
	o.Learn(estate(3, 0), start.Add(time.Minute))
	o.Learn(estate(0, 0), start.Add(time.Second)) // the clock stepped back
	v := o.View()
	defer v.Close()
	if h := v.Endpoint(3, start.Add(time.Minute)); h != nil || len(o.addresses) != 1 {
		t.Errorf("%+v, %d addresses", h, len(o.addresses))
	}
}

func TestLocal(t *testing.T) {
	o := ownership(t)
	select {
	case <-o.Ready():
		t.Error("ready before anything is known")
	default:
	}
	o.Learn(estate(1, 0), start)
	<-o.Ready()
	o.Learn(estate(2, 0), start.Add(time.Minute))
	o.Learn(estate(2, 5), start.Add(time.Hour))
	got := o.Local()
	if len(got) != 2 || !got[0].Since.IsZero() || !got[1].Since.Equal(start.Add(time.Minute)) || got[1].Name != "shop/Host/w0/e1" || got[1].ID != 2 {
		t.Errorf("local: %+v", got)
	}
}

func TestReadWhileLearning(t *testing.T) {
	o := ownership(t)
	o.Learn(estate(200, 0), start)
	var reading sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		reading.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if got := owner(o, "10.1.0.150", start, start); got != "e150" {
					t.Errorf("at first it was %q", got)
					return
				}
			}
		})
	}
	for i := range 100 {
		o.Learn(estate(200, i%7), start.Add(time.Duration(i+1)*time.Second))
	}
	close(done)
	reading.Wait()
}

func TestOwnershipConfig(t *testing.T) {
	if _, err := NewOwnership(OwnershipConfig{History: -1, MaxFormer: -1}); err == nil {
		t.Error("accepted")
	}
}

// BenchmarkLearn is what an inventory of 10,000 endpoints costs in which one
// address changed.
func BenchmarkLearn(b *testing.B) {
	one := estate(10_000, 0)
	other := estate(10_000, 0)
	other.inv.Workloads[7].Endpoints[0].Addresses[0] = netip.MustParseAddr("10.9.9.9")
	for _, c := range []struct{ name, path string }{{"in memory", ""}, {"with a file", filepath.Join(b.TempDir(), "owners.state")}} {
		b.Run(c.name, func(b *testing.B) {
			o := ownership(b, func(cfg *OwnershipConfig) { cfg.Path = c.path })
			o.Learn(one, start)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				x := one
				if i%2 == 0 {
					x = other
				}
				o.Learn(x, start.Add(time.Duration(i)*time.Second))
			}
		})
	}
}
