package bpf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
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
