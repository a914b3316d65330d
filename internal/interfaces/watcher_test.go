package interfaces

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/test/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var serial atomic.Int32

// house is a network namespace with a watcher.
type house struct {
	t  *testing.T
	ns string
	w  *Watcher
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, ns: fmt.Sprintf("rf-if-%d-%d", os.Getpid(), serial.Add(1))}
	wire.Namespace(t, h.ns, wire.Quiet)
	return h
}

// start makes the watcher and, unless it shall be deaf, runs it.
func (h *house) start(cfg Config, deaf bool) (run func()) {
	h.t.Helper()
	cfg.NetNS = h.ns
	var err error
	if h.w, err = New(cfg); err != nil {
		h.t.Fatal(err)
	}
	if err := h.w.Start(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	begun := false
	run = func() { begun = true; go func() { done <- h.w.Run(ctx) }() }
	h.t.Cleanup(func() {
		cancel()
		if begun {
			if err := <-done; err != nil {
				h.t.Error(err)
			}
		}
		if err := h.w.Close(); err != nil {
			h.t.Error(err)
		}
	})
	if !deaf {
		run()
	}
	return run
}

func (h *house) do(fn func() error) {
	h.t.Helper()
	if err := wire.In(h.ns, fn); err != nil {
		h.t.Fatal(err)
	}
}

// await waits by events until the watcher knows what want says.
func (h *house) await(what string, want func([]inventory.Interface) bool) {
	h.t.Helper()
	late := time.After(5 * time.Second)
	for !want(h.w.Interfaces()) {
		select {
		case <-h.w.Changed():
		case <-late:
			h.t.Fatalf("%s: not known after 5 s: %+v", what, h.w.Interfaces())
		}
	}
}

// exact compares the watcher with the kernel.
func (h *house) exact() {
	h.t.Helper()
	var want table
	h.do(func() (err error) { want, err = list(); return err })
	shown := func(list []inventory.Interface) string {
		var b strings.Builder
		for _, l := range list {
			fmt.Fprintf(&b, "%+v\n", l)
		}
		return b.String()
	}
	truth := shown((&Watcher{table: want}).Interfaces())
	h.await("what the kernel has:\n"+truth, func(list []inventory.Interface) bool { return shown(list) == truth })
}

func veth(name string) error {
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: fmt.Sprintf("peer%d", serial.Add(1))})
}

func remove(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}

func rename(from, to string) error {
	l, err := netlink.LinkByName(from)
	if err != nil {
		return err
	}
	return netlink.LinkSetName(l, to)
}

func named(list []inventory.Interface, name string) *inventory.Interface {
	i := slices.IndexFunc(list, func(l inventory.Interface) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	return &list[i]
}

func there(name string) func([]inventory.Interface) bool {
	return func(list []inventory.Interface) bool { return named(list, name) != nil }
}

func gone(name string) func([]inventory.Interface) bool {
	return func(list []inventory.Interface) bool { return named(list, name) == nil }
}

// TestWatch follows an interface from its beginning to its end.
func TestWatch(t *testing.T) {
	h := newHouse(t)
	h.do(func() error { return veth("old") })
	h.start(Config{}, false)
	list := h.w.Interfaces()
	if lo, old := named(list, "lo"), named(list, "old"); lo == nil || lo.Ethernet || lo.Kind != "device" ||
		old == nil || !old.Ethernet || old.Kind != "veth" || len(list) != 3 {
		t.Fatalf("at first %+v", list)
	}
	h.do(func() error { return veth("new") })
	h.await("a new one", there("new"))
	index := named(h.w.Interfaces(), "new").Index

	h.do(func() error { return rename("new", "other") })
	h.await("a new name", there("other"))
	if l := named(h.w.Interfaces(), "other"); l.Index != index || named(h.w.Interfaces(), "new") != nil {
		t.Errorf("renamed: %+v", h.w.Interfaces())
	}

	h.do(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv6/conf/other/disable_ipv6", []byte("0"), 0),
			wire.Address("other", "10.1.0.1/24"), wire.Address("other", "10.1.0.1/16"), wire.Address("other", "fd00:1::1/64"))
	})
	has := func(texts ...string) func([]inventory.Interface) bool {
		return func(list []inventory.Interface) bool {
			var got []string
			for _, a := range named(list, "other").Addresses {
				if !a.IsLinkLocalUnicast() {
					got = append(got, a.String())
				}
			}
			return slices.Equal(got, texts)
		}
	}
	h.await("addresses", has("10.1.0.1", "10.1.0.1", "fd00:1::1"))
	h.do(func() error {
		l, err := netlink.LinkByName("other")
		if err != nil {
			return err
		}
		var errs []error
		for _, s := range []string{"10.1.0.1/16", "fd00:1::1/64"} {
			a, _ := netlink.ParseAddr(s)
			errs = append(errs, netlink.AddrDel(l, a))
		}
		return errors.Join(errs...)
	})
	h.await("one address left", has("10.1.0.1"))

	// The kernel says of a port that leaves its bridge that a link goes.
	h.do(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		l, err := netlink.LinkByName("other")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkAdd(br), netlink.LinkSetMaster(l, br), netlink.LinkSetNoMaster(l), veth("after"))
	})
	h.await("what came after", there("after"))
	if l := named(h.w.Interfaces(), "br0"); l == nil || l.Kind != "bridge" {
		t.Errorf("the bridge is %+v", l)
	}
	h.exact()

	// Made anew under the same name, and moved away.
	h.do(func() error { return errors.Join(remove("other"), veth("other")) })
	h.await("another of the same name", func(list []inventory.Interface) bool {
		l := named(list, "other")
		return l != nil && l.Index != index && len(l.Addresses) == 0
	})
	away := h.ns + "-away"
	wire.Namespace(t, away, wire.Quiet)
	h.do(func() error { return wire.Pair("here", "there", away) })
	h.await("one end", there("here"))
	h.do(func() error { return remove("here") })
	h.await("its end", gone("here"))
	h.exact()
	if n := testutil.ToFloat64(h.w.metrics.resyncs); n != 0 {
		t.Errorf("everything was listed %v times again", n)
	}
}

// TestStorm changes many interfaces quickly.
func TestStorm(t *testing.T) {
	h := newHouse(t)
	h.start(Config{}, false)
	h.storm(100)
	h.exact()
}

// storm leaves of n veths a third as it came, a third made anew under the name
// of another, and a third gone.
func (h *house) storm(n int) {
	h.t.Helper()
	h.do(func() error {
		var errs []error
		for i := range n {
			name, next := fmt.Sprintf("v%d", i), fmt.Sprintf("r%d", i)
			errs = append(errs, veth(name))
			switch i % 3 {
			case 1:
				errs = append(errs, rename(name, next), veth(name), remove(next), rename(name, next))
			case 2:
				errs = append(errs, remove(name))
			}
		}
		return errors.Join(errs...)
	})
}

// TestLostMessages checks that messages which the kernel had to drop are made up
// for, and that older ones which it kept do no harm.
func TestLostMessages(t *testing.T) {
	h := newHouse(t)
	run := h.start(Config{ReceiveBuffer: 4096}, true)
	h.do(func() error { return veth("ghost") }) // its beginning is kept, its end is lost
	h.storm(60)
	h.do(func() error { return remove("ghost") })
	run()
	h.await("the last one", there("r58"))
	h.exact()
	if n := testutil.ToFloat64(h.w.metrics.resyncs); n == 0 {
		t.Error("no message was lost: the test shows nothing")
	}
	h.do(func() error { return veth("later") })
	h.await("one that came later", there("later"))
}

// TestQuiet checks that what changes nothing tells nothing.
func TestQuiet(t *testing.T) {
	h := newHouse(t)
	h.do(func() error { return veth("a") })
	h.start(Config{}, true)
	<-h.w.Changed()
	h.do(func() error { return wire.Up("a") })
	messages, _, err := h.w.events.Receive()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if changed, err := h.w.table.take(m.Header.Type, m.Data); changed || err != nil {
			t.Errorf("a link that was raised is another: %v, %v", changed, err)
		}
	}
	if err := h.w.subscribe(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-h.w.Changed():
		t.Error("a list of the same was told")
	default:
	}
}

// TestNoNamespace checks what cannot be watched.
func TestNoNamespace(t *testing.T) {
	w, err := New(Config{NetNS: "rf-if-none"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context()); err == nil || err.Error() != "network namespace rf-if-none: there is none" {
		t.Errorf("error %v", err)
	}
	if _, err := New(Config{ReceiveBuffer: -1, Retry: -1}); err == nil || !strings.Contains(err.Error(), "receive buffer of -1") {
		t.Errorf("error %v", err)
	}
}

// FuzzMessage checks that no message, whatever it holds, does more than be
// refused.
func FuzzMessage(f *testing.F) {
	f.Add(uint16(16), []byte{})
	f.Add(uint16(16), make([]byte, 16))
	f.Add(uint16(20), append(make([]byte, 8), 8, 0, 2, 0, 10, 0, 0, 1))
	f.Add(uint16(16), append(make([]byte, 16), 3, 0, 3, 0))
	f.Fuzz(func(_ *testing.T, kind uint16, m []byte) {
		h := table{links: map[int]inventory.Interface{}, addresses: map[int]map[netip.Prefix]bool{}}
		_, _ = h.take(kind, m)
	})
}
