package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// network is the lab's namespaces while they are being connected.
type network struct {
	scenario   *Scenario
	namespaces map[string]*os.File
	links      map[string]*netlink.Handle // by namespace
}

// gateway is a node's address on every host's link: as only that link has to
// know it, all links share it.
var gateway = netip.MustParseAddr("fe80::1")

// transit is the link-local address of node i on its links to other nodes.
func transit(i int) netip.Addr {
	a := netip.MustParseAddr("fe80::1:0").As16()
	a[15] = byte(i + 1) //nolint:gosec // at most MaxNodes
	return netip.AddrFrom16(a)
}

func (n *network) open() error {
	n.links = map[string]*netlink.Handle{}
	for name, ns := range n.namespaces {
		h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink in namespace %s: %w", name, err)
		}
		n.links[name] = h
	}
	return nil
}

func (n *network) close() {
	for _, h := range n.links {
		h.Close()
	}
}

// connect gives every namespace its links, addresses and routes.
func (n *network) connect() error {
	if err := n.open(); err != nil {
		n.close()
		return err
	}
	defer n.close()
	for i := range n.scenario.Nodes {
		if err := n.raiseNode(&n.scenario.Nodes[i]); err != nil {
			return err
		}
	}
	for i := range n.scenario.Nodes {
		for j := range i {
			if err := n.joinNodes(j, i); err != nil {
				return err
			}
		}
	}
	for _, h := range n.scenario.seats() {
		if err := n.joinHost(h); err != nil {
			return err
		}
	}
	return nil
}

// raiseNode puts a node's own addresses on its loopback, where every link's
// neighbours reach them.
func (n *network) raiseNode(node *Node) error {
	h := n.links[node.Namespace()]
	lo, err := raise(h, "lo")
	if err != nil {
		return fmt.Errorf("node %s: %w", node.Name, err)
	}
	if err := addAddresses(h, lo, node.Addresses); err != nil {
		return fmt.Errorf("node %s: %w", node.Name, err)
	}
	return nil
}

// joinNodes connects two nodes by a veth pair and routes each one's hosts over it.
func (n *network) joinNodes(a, b int) error {
	nodes := n.scenario.Nodes
	names := [2]string{fmt.Sprintf("rfx%d", b+1), fmt.Sprintf("rfx%d", a+1)}
	if err := n.addVeth(nodes[a].Namespace(), names[0], nodes[b].Namespace(), names[1]); err != nil {
		return fmt.Errorf("connect %s to %s: %w", nodes[a].Name, nodes[b].Name, err)
	}
	for side, pair := range [2][2]int{{a, b}, {b, a}} {
		own := pair[0]
		h := n.links[nodes[own].Namespace()]
		link, err := raise(h, names[side])
		if err != nil {
			return fmt.Errorf("connect %s: %w", nodes[own].Name, err)
		}
		if err := addLinkLocal(h, link, transit(own)); err != nil {
			return fmt.Errorf("connect %s: %w", nodes[own].Name, err)
		}
	}
	for side, pair := range [2][2]int{{a, b}, {b, a}} {
		if err := n.routeToNode(&nodes[pair[0]], names[side], &nodes[pair[1]], transit(pair[1])); err != nil {
			return fmt.Errorf("route from %s to %s: %w", nodes[pair[0]].Name, nodes[pair[1]].Name, err)
		}
	}
	return nil
}

// routeToNode sends what belongs to other or to its hosts over the link.
func (n *network) routeToNode(own *Node, link string, other *Node, via netip.Addr) error {
	h := n.links[own.Namespace()]
	l, err := h.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	next4 := address(other.Addresses, IPv4)
	if err := addRoute(h, l, next4, netip.Addr{}, address(own.Addresses, IPv4)); err != nil {
		return err
	}
	targets := append([]netip.Addr{}, address(other.Addresses, IPv6))
	for _, host := range n.scenario.seats() {
		if host.node == other.Name {
			targets = append(targets, host.addresses...)
		}
	}
	for _, t := range targets {
		next := next4
		if t.Is6() {
			next = via
		}
		if err := addRoute(h, l, t, next, address(own.Addresses, familyOf(t))); err != nil {
			return err
		}
	}
	return nil
}

// joinHost connects a host to its node: the node knows the host's addresses by
// single routes, the host knows nothing but its node.
func (n *network) joinHost(s seat) error {
	var node *Node
	for i := range n.scenario.Nodes {
		if n.scenario.Nodes[i].Name == s.node {
			node = &n.scenario.Nodes[i]
		}
	}
	if err := n.addVeth(node.Namespace(), s.iface, s.namespace, hostInterface); err != nil {
		return fmt.Errorf("connect %s to %s: %w", s.namespace, s.node, err)
	}
	if err := n.raiseHost(s, node); err != nil {
		return fmt.Errorf("connect %s: %w", s.namespace, err)
	}
	h := n.links[node.Namespace()]
	link, err := raise(h, s.iface)
	if err != nil {
		return fmt.Errorf("connect %s: %w", s.node, err)
	}
	if err := addLinkLocal(h, link, gateway); err != nil {
		return fmt.Errorf("connect %s: %w", s.node, err)
	}
	for _, a := range s.addresses {
		if err := addRoute(h, link, a, netip.Addr{}, address(node.Addresses, familyOf(a))); err != nil {
			return fmt.Errorf("connect %s: %w", s.node, err)
		}
	}
	return n.defaultRoutes(s, node)
}

func (n *network) raiseHost(s seat, node *Node) error {
	h := n.links[s.namespace]
	if _, err := raise(h, "lo"); err != nil {
		return err
	}
	link, err := raise(h, hostInterface)
	if err != nil {
		return err
	}
	if err := addAddresses(h, link, s.addresses); err != nil {
		return err
	}
	return addRoute(h, link, address(node.Addresses, IPv4), netip.Addr{}, netip.Addr{})
}

// defaultRoutes come last: an IPv6 route needs both ends of the link up.
func (n *network) defaultRoutes(s seat, node *Node) error {
	h := n.links[s.namespace]
	link, err := h.LinkByName(hostInterface)
	if err != nil {
		return fmt.Errorf("connect %s: find %s: %w", s.namespace, hostInterface, err)
	}
	for _, next := range []netip.Addr{address(node.Addresses, IPv4), gateway} {
		if err := addRoute(h, link, netip.Addr{}, next, netip.Addr{}); err != nil {
			return fmt.Errorf("connect %s: %w", s.namespace, err)
		}
	}
	return nil
}

func (n *network) addVeth(ns, name, peerNS, peerName string) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: name, MTU: 1500, TxQLen: 1000},
		PeerName:      peerName,
		PeerNamespace: netlink.NsFd(n.namespaces[peerNS].Fd()),
	}
	if err := n.links[ns].LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s: %w", name, err)
	}
	return nil
}

func raise(h *netlink.Handle, name string) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", name, err)
	}
	return link, nil
}

func addAddresses(h *netlink.Handle, link netlink.Link, addrs []netip.Addr) error {
	for _, a := range addrs {
		err := h.AddrAdd(link, &netlink.Addr{IPNet: single(a), Flags: unix.IFA_F_NODAD})
		if err != nil {
			return fmt.Errorf("add %s to %s: %w", a, link.Attrs().Name, err)
		}
	}
	return nil
}

func addLinkLocal(h *netlink.Handle, link netlink.Link, a netip.Addr) error {
	addr := &netlink.Addr{
		IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(64, 128)},
		Flags: unix.IFA_F_NODAD, Scope: unix.RT_SCOPE_LINK,
	}
	if err := h.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add %s to %s: %w", a, link.Attrs().Name, err)
	}
	return nil
}

// addRoute routes one address, or everything of via's family if to is zero, over
// link: straight, or via the neighbour given. The source is that of the node's
// own packets.
func addRoute(h *netlink.Handle, link netlink.Link, to, via, source netip.Addr) error {
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK}
	if to.IsValid() {
		r.Dst = single(to)
	} else {
		r.Dst = &net.IPNet{IP: make(net.IP, via.BitLen()/8), Mask: net.CIDRMask(0, via.BitLen())}
	}
	if via.IsValid() {
		r.Gw = via.AsSlice()
		r.Scope = netlink.SCOPE_UNIVERSE
		r.SetFlag(netlink.FLAG_ONLINK)
	}
	if source.IsValid() {
		r.Src = source.AsSlice()
	}
	if err := h.RouteAdd(r); err != nil {
		return fmt.Errorf("add route to %s over %s: %w", r.Dst, link.Attrs().Name, err)
	}
	return nil
}

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}
