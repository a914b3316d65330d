package interfaces

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/inventory"
)

// nlaTypeMask leaves the flags out of an attribute's type.
const nlaTypeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

var errShort = errors.New("message about interfaces: it is cut short")

// list asks for every interface and address of the thread's namespace.
func list() (table, error) {
	t := table{links: map[int]inventory.Interface{}, addresses: map[int]map[netip.Prefix]bool{}}
	for _, q := range []struct {
		what   string
		ask    int
		answer uint16
		about  nl.NetlinkRequestData
	}{
		{"interfaces", unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC)},
		{"addresses", unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC)},
	} {
		req := nl.NewNetlinkRequest(q.ask, unix.NLM_F_DUMP)
		req.AddData(q.about)
		messages, err := req.Execute(unix.NETLINK_ROUTE, q.answer)
		if err != nil {
			return table{}, fmt.Errorf("list %s: %w", q.what, err)
		}
		for _, m := range messages {
			if _, err := t.take(q.answer, m); err != nil {
				return table{}, err
			}
		}
	}
	return t, nil
}

// take takes one message in and reports whether it changed anything.
func (t *table) take(kind uint16, m []byte) (changed bool, err error) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return t.takeLink(kind == unix.RTM_DELLINK, m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return t.takeAddress(kind == unix.RTM_DELADDR, m)
	}
	return false, nil
}

func (t *table) takeLink(gone bool, m []byte) (bool, error) {
	if len(m) < unix.SizeofIfInfomsg {
		return false, errShort
	}
	msg := nl.DeserializeIfInfomsg(m)
	if msg.Family != unix.AF_UNSPEC {
		// Of a bridge's port: it left the bridge, and may well be there.
		return false, nil
	}
	l := inventory.Interface{Index: int(msg.Index), Ethernet: msg.Type == unix.ARPHRD_ETHER, Kind: "device"}
	if gone {
		_, known := t.links[l.Index]
		delete(t.links, l.Index)
		delete(t.addresses, l.Index)
		return known, nil
	}
	err := eachAttribute(m[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = text(value)
		case unix.IFLA_LINKINFO:
			return eachAttribute(value, func(kind uint16, value []byte) error {
				if kind == unix.IFLA_INFO_KIND {
					l.Kind = text(value)
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	before, known := t.links[l.Index]
	t.links[l.Index] = l
	return !known || !sameLink(before, l), nil
}

func sameLink(a, b inventory.Interface) bool {
	return a.Index == b.Index && a.Name == b.Name && a.Kind == b.Kind && a.Ethernet == b.Ethernet
}

func (t *table) takeAddress(gone bool, m []byte) (bool, error) {
	if len(m) < unix.SizeofIfAddrmsg {
		return false, errShort
	}
	msg := nl.DeserializeIfAddrmsg(m)
	var own, peer netip.Addr
	err := eachAttribute(m[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.IFA_LOCAL:
			own, _ = netip.AddrFromSlice(value)
		case unix.IFA_ADDRESS:
			peer, _ = netip.AddrFromSlice(value)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	if !own.IsValid() {
		own = peer // IPv6 says only this, unless there is a peer
	}
	if !own.IsValid() {
		return false, nil
	}
	index, p := int(msg.Index), netip.PrefixFrom(own, int(msg.Prefixlen))
	known := t.addresses[index][p]
	switch {
	case gone:
		delete(t.addresses[index], p)
	case t.addresses[index] == nil:
		t.addresses[index] = map[netip.Prefix]bool{p: true}
	default:
		t.addresses[index][p] = true
	}
	return known == gone, nil
}

func eachAttribute(b []byte, do func(kind uint16, value []byte) error) error {
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return fmt.Errorf("message about interfaces: %w", err)
	}
	for _, a := range attrs {
		if err := do(a.Attr.Type&nlaTypeMask, a.Value); err != nil {
			return err
		}
	}
	return nil
}

// text is a C string.
func text(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}

// in runs fn in a network namespace, on a thread that ends with it.
func in(name string, fn func() error) error {
	if name == "" {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is left in the other namespace
		done <- enter(name, fn)
	}()
	return <-done
}

func enter(name string, fn func() error) error {
	open := netns.GetFromName
	if strings.ContainsRune(name, '/') {
		open = netns.GetFromPath
	}
	target, err := open(name)
	if err != nil {
		return explain(name, err)
	}
	defer func() { _ = target.Close() }()
	if err := netns.Set(target); err != nil {
		return explain(name, err)
	}
	return fn()
}
