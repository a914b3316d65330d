package bpf

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ringfence/ringfence/internal/flow"
)

// TestAttachRefuses checks interfaces that cannot be watched.
func TestAttachRefuses(t *testing.T) { modes(t, attachRefusesBy) }

func attachRefusesBy(t *testing.T, mode AttachMode) {
	t.Helper()
	l := newLab(t, attachBy(mode))
	for _, c := range []struct {
		e    Endpoint
		want string
	}{
		{Endpoint{Interface: "nosuch0", ID: 5, Identity: dbIdent}, `interface "nosuch0": there is none in network namespace`},
		{Endpoint{Interface: "lo", ID: 5, Identity: dbIdent}, "only Ethernet can be watched"},
		{Endpoint{Interface: "web", Identity: dbIdent}, "endpoint has no number"},
	} {
		if err := l.d.Attach(c.e); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one with %q", c.e, err, c.want)
		}
	}
	if list, err := l.d.Attached(); err != nil || len(list) != 1 {
		t.Errorf("attached %+v, error %v", list, err)
	}
}

// TestReattach checks an endpoint's changes: identity, owner, and an interface
// that was made anew, with the agent watching and without.
func TestReattach(t *testing.T) { modes(t, reattachBy) }

func reattachBy(t *testing.T, mode AttachMode) {
	t.Helper()
	own := func(c *Config) { c.NetNS = newNetNS(t); addVeth(t, c.NetNS, "web", "web-peer") }
	l := newLab(t, own, attachBy(mode))
	attached := func() Attached {
		t.Helper()
		list, err := l.d.Attached()
		if err != nil || len(list) != 1 {
			t.Fatalf("attached %+v, error %v", list, err)
		}
		return list[0]
	}
	e := Endpoint{Interface: "web", ID: webID, Identity: webIdent}
	first, links := attached(), attachments(t, l.d)

	e.Identity = dbIdent
	l.attach(e)
	if a := attached(); a.Identity != dbIdent || a.ObservedSince.Sub(first.ObservedSince).Abs() > 10*time.Millisecond {
		t.Errorf("after a change of identity: %+v, was %+v", a, first)
	}
	if ids := attachments(t, l.d); !slices.Equal(ids, links) {
		t.Errorf("links %v were %v: detached and attached again", ids, links)
	}

	time.Sleep(30 * time.Millisecond) // apart by more than two readings of the clock are
	e.ID = dbID
	l.attach(e)
	if ids := attachments(t, l.d); !slices.Equal(ids, links) {
		t.Errorf("links %v were %v: detached for a change of owner", ids, links)
	}
	if a := attached(); a.ID != dbID || !a.ObservedSince.After(first.ObservedSince.Add(20*time.Millisecond)) {
		t.Errorf("after a change of owner: %+v, was %+v", a, first)
	}

	recreate := func() {
		inNetNS(t, l.ns, func() error {
			old, err := netlink.LinkByName("web")
			if err != nil {
				return err
			}
			if err := netlink.LinkDel(old); err != nil {
				return err
			}
			return vethPair("web", "web-peer")
		})
	}
	recreate()
	if list, err := l.d.Attached(); err != nil || len(list) != 0 {
		t.Errorf("attached to an interface that is gone: %+v, error %v", list, err)
	}
	before := l.index
	l.attach(e)
	if a := attached(); a.Index == before || a.ID != dbID {
		t.Errorf("after the interface was made anew: %+v", a)
	}
	if pins := attachments(t, l.d); len(pins) != 2 {
		t.Errorf("%d links are pinned, want 2", len(pins))
	}

	cfg := l.d.cfg
	if err := errors.Join(l.r.Close(), l.d.Close()); err != nil {
		t.Fatal(err)
	}
	recreate()
	l.d = openAt(t, cfg)
	if list, err := l.d.Attached(); err != nil || len(list) != 0 {
		t.Errorf("adopted an interface that is gone: %+v, error %v", list, err)
	}
	if pins := attachments(t, l.d); len(pins) != 0 {
		t.Errorf("%d dead links are pinned", len(pins))
	}
	l.attach(e)
	attached()
}

// TestReusedIndex checks that pins of an interface which is gone do not count
// for another one that got its index, with the agent watching and without.
func TestReusedIndex(t *testing.T) { modes(t, reusedIndexBy) }

func reusedIndexBy(t *testing.T, mode AttachMode) {
	t.Helper()
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarted %t", restarted), func(t *testing.T) {
			l := newLab(t, func(c *Config) { c.NetNS = newNetNS(t); addVeth(t, c.NetNS, "web", "web-peer") }, attachBy(mode))
			cfg, index := l.d.cfg, l.index
			if restarted {
				if err := errors.Join(l.r.Close(), l.d.Close()); err != nil {
					t.Fatal(err)
				}
			}
			inNetNS(t, l.ns, func() error {
				old, err := netlink.LinkByName("web")
				if err != nil {
					return err
				}
				if err := netlink.LinkDel(old); err != nil {
					return err
				}
				return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "db", Index: index}, PeerName: "db-peer"})
			})
			if restarted {
				l.d = openAt(t, cfg)
			}
			if list, err := l.d.Attached(); err != nil || len(list) != 0 {
				t.Errorf("attached %+v, error %v", list, err)
			}
			began := time.Now()
			l.attach(Endpoint{Interface: "db", ID: dbID, Identity: dbIdent})
			list, err := l.d.Attached()
			if err != nil || len(list) != 1 || list[0].Index != index || list[0].ID != dbID || list[0].Interface != "db" {
				t.Fatalf("attached %+v, error %v", list, err)
			}
			if list[0].ObservedSince.Before(began.Add(-10 * time.Millisecond)) {
				t.Errorf("observed since %s before it was attached", began.Sub(list[0].ObservedSince))
			}
			if pins := attachments(t, l.d); len(pins) != 2 {
				t.Errorf("%d links are pinned, want 2", len(pins))
			}
			if q := l.quota(webID); q.Gone == 0 && !restarted {
				t.Error("the former endpoint is still there")
			}
		})
	}
}

// TestDetachAttach checks that an interface which was let go can be watched
// again at once.
func TestDetachAttach(t *testing.T) { modes(t, detachAttachBy) }

func detachAttachBy(t *testing.T, mode AttachMode) {
	t.Helper()
	l := newLab(t, attachBy(mode))
	for range 20 {
		if err := l.d.Detach(l.index); err != nil {
			t.Fatal(err)
		}
		l.attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent})
	}
}

// TestEndpointsFull checks the refusal of one endpoint too many.
func TestEndpointsFull(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Endpoints = 1; c.NetNS = newNetNS(t); addVeth(t, c.NetNS, "web", "db") })
	err := l.d.Attach(Endpoint{Interface: "db", ID: dbID, Identity: dbIdent})
	if err == nil || !strings.Contains(err.Error(), "all 1 endpoints") {
		t.Errorf("error %v", err)
	}
	if pins := attachments(t, l.d); len(pins) != 2 {
		t.Errorf("%d links are pinned, want the first endpoint's 2", len(pins))
	}
}

// TestMadeAnew checks that the flows of an interface end when the endpoint gets
// another one, however soon, and that those of the new one go on.
func TestMadeAnew(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(l *lab)
		ended  uint64
	}{
		{"attached again", func(*lab) {}, 0},
		{"made anew", func(l *lab) {
			inNetNS(t, l.ns, func() error {
				old, err := netlink.LinkByName("web")
				if err != nil {
					return err
				}
				return errors.Join(netlink.LinkDel(old), vethPair("web", "web-peer"))
			})
		}, 2},
		{"let go and taken again", func(l *lab) {
			if err := l.d.Detach(l.index); err != nil {
				t.Fatal(err)
			}
		}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, func(c *Config) { c.NetNS = newNetNS(t); addVeth(t, c.NetNS, "web", "web-peer") })
			for _, family := range []int{4, 6} {
				l.want(pass, tcp(web.in(family), db.in(family), 40000, 80, "S"), "before")
			}
			time.Sleep(10 * time.Millisecond) // the flows' clock stands still for 4 ms
			c.change(l)
			l.attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent})
			list, err := l.d.Attached()
			if err != nil || len(list) != 1 {
				t.Fatalf("attached %+v, error %v", list, err)
			}
			l.index = list[0].Index
			for _, family := range []int{4, 6} {
				l.want(pass, tcp(web.in(family), db.in(family), 40001, 80, "S"), "after")
			}
			if s := l.sweep(0); s.Ended != c.ended {
				t.Errorf("%d flows ended, want %d", s.Ended, c.ended)
			}
			if s := l.sweep(time.Second); s.Deleted != c.ended || l.flows() != 4-int(c.ended) {
				t.Errorf("%d flows deleted, %d left; want %d and %d", s.Deleted, l.flows(), c.ended, 4-c.ended)
			}
		})
	}
}

// TestPrune checks that endpoints whose interface is gone are forgotten, and no
// other.
func TestPrune(t *testing.T) {
	l := newLab(t, func(c *Config) {
		c.NetNS = newNetNS(t)
		addVeth(t, c.NetNS, "web", "web-peer")
		addVeth(t, c.NetNS, "db", "db-peer")
	})
	l.attach(Endpoint{Interface: "db", ID: dbID, Identity: dbIdent})
	inNetNS(t, l.ns, func() error {
		old, err := netlink.LinkByName("web")
		if err != nil {
			return err
		}
		return netlink.LinkDel(old)
	})
	if err := l.d.Prune(); err != nil {
		t.Fatal(err)
	}
	if n, err := countKeys[uint32, kernelRfEndpoint](l.d.maps.Endpoints); n != 1 || err != nil {
		t.Errorf("%d endpoints are known, want 1, error %v", n, err)
	}
	if pins, _ := os.ReadDir(l.d.linkDir()); len(pins) != 2 {
		t.Errorf("%d links are pinned, want 2", len(pins))
	}
	if q := l.quota(webID); q.Gone == 0 {
		t.Error("the flows of web do not end")
	}
	if q := l.quota(dbID); q.Gone != 0 {
		t.Error("the flows of db end")
	}
}

// TestTakenOver checks an interface that somebody takes over whom nobody knew:
// the flows from before end as that one's, and go on as the new one's.
func TestTakenOver(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t)
		l.apply(live(flow.Egress, 3, allow(dbIdent, flow.TCP, 80)), live(flow.Ingress, 3))
		unknown := 1<<31 | uint32(l.index)
		l.attach(Endpoint{Interface: "web", ID: unknown})
		links := attachments(t, l.d)
		good, bad := tcp(web.in(family), db.in(family), 40000, 80, "S"), tcp(web.in(family), db.in(family), 40000, 81, "S")
		for _, p := range []packet{good, bad} {
			l.want(pass, p, "by whom nobody knows")
		}
		if n := l.counter("spoofed"); n != 0 {
			t.Errorf("%d spoofed packets of an endpoint whose addresses nobody knows", n)
		}
		l.records()
		l.attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent})
		if ids := attachments(t, l.d); !slices.Equal(ids, links) {
			t.Errorf("links %v were %v: detached", ids, links)
		}
		l.want(pass, good.with("A"), "goes on")
		l.want(drop, bad.with("A"), "goes on")
		for _, r := range l.records() {
			if r.Endpoint != webID || r.Event != flow.EventNew || r.Direction != flow.DirectionUnknown {
				t.Errorf("record %+v", r)
			}
		}
		if s := l.sweep(0); s.Ended != 2 {
			t.Errorf("%d flows ended, want 2", s.Ended)
		}
		for _, r := range l.records() {
			if r.Endpoint != unknown || r.Event != flow.EventEnd {
				t.Errorf("record %+v", r)
			}
		}
	})
}
