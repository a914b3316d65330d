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
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/test/wire"
)

// TestReplaceInPlace listens to the kernel while the agent restarts and upgrades:
// no filter is removed, not even for a moment.
func TestReplaceInPlace(t *testing.T) {
	l := newLab(t, attachBy(AttachClsact), func(c *Config) { c.NetNS = newNetNS(t); addVeth(t, c.NetNS, "web", "web-peer") })
	var events *nl.NetlinkSocket
	inNetNS(t, l.ns, func() (err error) {
		events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_TC)
		return err
	})
	defer events.Close()
	if err := events.SetReceiveTimeout(&unix.Timeval{Usec: 100_000}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.upgrade(func(*Config) {})
		l.upgrade(func(c *Config) { c.object = nextLayout })
		l.upgrade(func(c *Config) { c.object = nil })
	}
	replaced := 0
	for {
		messages, _, err := events.Receive()
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.RTM_NEWTFILTER:
				replaced++
			case unix.RTM_DELTFILTER, unix.RTM_DELQDISC:
				t.Errorf("message %d: something was removed", m.Header.Type)
			}
		}
	}
	if replaced != 18 {
		t.Errorf("%d filters replaced, want 2 in each of 9 starts", replaced)
	}
}

// qdiscs lists an interface's.
func qdiscs(t *testing.T, ns, name string) (list []string) {
	t.Helper()
	inNetNS(t, ns, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		all, err := netlink.QdiscList(l)
		for _, q := range all {
			if q.Type() == "clsact" || q.Type() == "ingress" {
				list = append(list, q.Type())
			}
		}
		return err
	})
	return list
}

// TestQdisc checks whose qdisc is removed, and what stands in the way of ours.
func TestQdisc(t *testing.T) {
	attrs := func(p place) netlink.QdiscAttrs {
		return netlink.QdiscAttrs{LinkIndex: int(p.index), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	}
	for _, c := range []struct {
		name   string
		before func(t *testing.T, p place) error
		later  func(t *testing.T, p place) error
		err    string
		left   []string
	}{
		{name: "made for us"},
		{name: "there before", before: func(_ *testing.T, p place) error { return netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: attrs(p)}) }, left: []string{"clsact"}},
		{name: "used by others later", later: func(t *testing.T, p place) error { return newStranger(t, -1).filter(p, 7) }, left: []string{"clsact"}},
		{name: "of another kind", before: func(_ *testing.T, p place) error { return netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: attrs(p)}) },
			err: "ingress qdisc stands in the place of a clsact one", left: []string{"ingress"}},
		{name: "first priority taken", before: func(_ *testing.T, p place) error {
			return errors.Join(netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: attrs(p)}), netlink.FilterAdd(&netlink.U32{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: int(p.index), Parent: p.hook.parent, Priority: 1, Protocol: unix.ETH_P_ALL},
				ClassId:     1,
			}))
		}, err: "a u32 filter has priority 1 and could let packets past: give it a higher number", left: []string{"clsact"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := labConfig()
			cfg.NetNS, cfg.Attach = newNetNS(t), AttachClsact
			addVeth(t, cfg.NetNS, "web", "web-peer")
			var p place
			inNetNS(t, cfg.NetNS, func() error {
				l, err := netlink.LinkByName("web")
				if err == nil {
					p = place{uint32(l.Attrs().Index), hooks[0]}
				}
				if err == nil && c.before != nil {
					err = c.before(t, p)
				}
				return err
			})
			d := openAt(t, cfg)
			err := d.Attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent})
			if (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if c.later != nil {
				inNetNS(t, cfg.NetNS, func() error { return c.later(t, p) })
			}
			if err := d.Remove(); err != nil {
				t.Fatal(err)
			}
			if got := qdiscs(t, cfg.NetNS, "web"); !slices.Equal(got, c.left) {
				t.Errorf("qdiscs %v are left, want %v", got, c.left)
			}
			if n := inMode(t, d, AttachClsact); n != 0 {
				t.Errorf("%d filters are left", n)
			}
		})
	}
}

// TestLeftovers checks what happens to filters whose pins went, and to pins and
// filters whose namespace did.
func TestLeftovers(t *testing.T) {
	gone := func(t *testing.T, l *lab) {
		t.Helper()
		if err := errors.Join(l.r.Close(), l.d.Close(), os.RemoveAll(l.d.cfg.PinDir)); err != nil {
			t.Fatal(err)
		}
		if n := inMode(t, l.d, AttachClsact); n != 2 {
			t.Fatalf("%d filters", n)
		}
	}
	t.Run("found by the next start", func(t *testing.T) {
		l := newLab(t, attachBy(AttachClsact))
		other := newLab(t, attachBy(AttachClsact))
		gone(t, l)
		l.d = openAt(t, l.d.cfg)
		if n := inMode(t, l.d, AttachClsact); n != 0 {
			t.Errorf("%d filters of before are left", n)
		}
		l.attach(Endpoint{Interface: "web", ID: webID, Identity: webIdent})
		if n := inMode(t, l.d, AttachClsact); n != 2 {
			t.Errorf("%d filters", n)
		}
		if n := inMode(t, other.d, AttachClsact); n != 2 {
			t.Errorf("%d filters of another node on the same interface, want 2", n)
		}
	})
	t.Run("removed without pins", func(t *testing.T) {
		l := newLab(t, attachBy(AttachClsact))
		gone(t, l)
		for range 2 {
			if err := RemoveFilters(l.d.cfg.PinDir, l.ns); err != nil {
				t.Fatal(err)
			}
		}
		if n := inMode(t, l.d, AttachClsact); n != 0 {
			t.Errorf("%d filters are left", n)
		}
	})
	t.Run("namespace is gone", func(t *testing.T) {
		modes(t, func(t *testing.T, mode AttachMode) {
			name := fmt.Sprintf("rf-bpf-%d-%d", os.Getpid(), serial.Add(1))
			if err := makeNetNS(name); err != nil {
				t.Fatal(err)
			}
			addVeth(t, name, "web", "web-peer")
			l := newLab(t, attachBy(mode), func(c *Config) { c.NetNS = name })
			if err := netns.DeleteNamed(name); err != nil {
				t.Fatal(err)
			}
			// Links end when the kernel gets to it.
			for end := time.Now().Add(wire.Arrives); l.d.alive(uint32(l.index)) && time.Now().Before(end); time.Sleep(time.Millisecond) {
			}
			if l.d.alive(uint32(l.index)) {
				t.Error("alive in a namespace that is gone")
			}
			if err := errors.Join(l.d.Detach(l.index), RemoveFilters(l.d.cfg.PinDir, name), l.r.Close(), l.d.Remove()); err != nil {
				t.Error(err)
			}
		})
	})
}
