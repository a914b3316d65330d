package wire

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Pair makes a veth whose other end is called peer in another namespace.
func Pair(name, peer, peerNS string) error {
	target, err := netns.GetFromName(peerNS)
	if err != nil {
		return err
	}
	defer func() { _ = target.Close() }()
	return netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer, PeerNamespace: netlink.NsFd(target),
	})
}

// Bridge joins interfaces, so that frames go on as they came, whatever they say.
func Bridge(name string, ports ...string) error {
	off := false
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}, MulticastSnooping: &off}
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	errs := []error{Up(name)}
	for _, port := range ports {
		l, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		errs = append(errs, netlink.LinkSetMaster(l, br), Up(port))
	}
	return errors.Join(errs...)
}

// Station says behind which port of its bridge a hardware address is.
func Station(port string, mac net.HardwareAddr) error {
	l, err := netlink.LinkByName(port)
	if err != nil {
		return fmt.Errorf("%s: %w", port, err)
	}
	return netlink.NeighSet(&netlink.Neigh{
		LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac,
	})
}

// Up raises a link.
func Up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return netlink.LinkSetUp(l)
}

// Address raises a link and gives it an address, usable at once.
func Address(link, prefix string) error {
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("%s: %w", link, err)
	}
	a.Flags = unix.IFA_F_NODAD
	return errors.Join(netlink.LinkSetUp(l), netlink.AddrAdd(l, a))
}
