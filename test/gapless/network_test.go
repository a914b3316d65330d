package gapless

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/wire"
)

// mounted is this test binary's own bpffs.
var mounted string

func TestMain(m *testing.M) {
	if isAgent() {
		os.Exit(runAgent())
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "rf-gapless-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	mounted = filepath.Join(dir, "bpf")
	if err := bpf.MountBPFFS(mounted); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root and eBPF:", err)
		return 1
	}
	defer func() {
		if err := bpf.UnmountBPFFS(mounted); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return m.Run()
}

// host is a network namespace behind the node, and an endpoint of its.
type host struct {
	ns       string
	veth     string // the node's side; the other one is eth0
	v4, v6   netip.Addr
	id       uint32
	identity flow.Identity
	mac, via net.HardwareAddr // of eth0, and of the node's side
}

func (h *host) in(family int) netip.Addr {
	if family == 4 {
		return h.v4
	}
	return h.v6
}

func (h *host) endpoint() bpf.Endpoint {
	return bpf.Endpoint{Interface: h.veth, ID: h.id, Identity: h.identity}
}

// network is a node that routes between its hosts.
type network struct {
	ns                   string
	client, server, evil *host
}

func (n *network) hosts() []*host { return []*host{n.client, n.server, n.evil} }

func (n *network) owners() []bpf.AddressOwner {
	list := []bpf.AddressOwner{{Addr: nodeV4, Identity: flow.IdentityHost}, {Addr: nodeV6, Identity: flow.IdentityHost}}
	for _, h := range n.hosts() {
		for _, a := range []netip.Addr{h.v4, h.v6} {
			list = append(list, bpf.AddressOwner{Addr: a, Identity: h.identity, Endpoint: h.id})
		}
	}
	return list
}

var (
	nodeV4 = netip.MustParseAddr("10.9.0.254")
	nodeV6 = netip.MustParseAddr("fd09::fe")

	serial atomic.Int32
)

func newNetwork(t *testing.T) *network {
	t.Helper()
	prefix := fmt.Sprintf("rf-gapless-%d-%d-", os.Getpid(), serial.Add(1))
	n := &network{ns: prefix + "node"}
	makeNS(t, n.ns)
	must(t, wire.In(n.ns, func() error {
		return errors.Join(sysctl("ipv4/ip_forward", "1"), sysctl("ipv6/conf/all/forwarding", "1"))
	}))
	for i, h := range []**host{&n.client, &n.server, &n.evil} {
		name := []string{"client", "server", "evil"}[i]
		number := byte(i + 1)
		*h = &host{
			ns: prefix + name, veth: name,
			v4: netip.AddrFrom4([4]byte{10, 9, 0, number}), v6: netip.AddrFrom16([16]byte{0: 0xfd, 1: 9, 15: number}),
			id: uint32(number), identity: flow.Identity(300 + uint32(number)),
			mac: net.HardwareAddr{2, 9, 0, 0, 0, number}, via: net.HardwareAddr{2, 9, 0, 0, 1, number},
		}
		makeNS(t, (*h).ns)
		must(t, n.connect(*h))
	}
	return n
}

// connect joins a host to the node. Neighbours are permanent: nothing waits for
// an answer, and nothing is lost meanwhile.
func (n *network) connect(h *host) error {
	target, err := netns.GetFromName(h.ns)
	if err != nil {
		return err
	}
	defer func() { _ = target.Close() }()
	err = wire.In(n.ns, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: h.veth, HardwareAddr: h.via},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(target), PeerHardwareAddr: h.mac,
		})
	})
	if err != nil {
		return fmt.Errorf("connect %s: %w", h.veth, err)
	}
	return errors.Join(
		wire.In(h.ns, func() error {
			return errors.Join(
				address("eth0", h.v4), address("eth0", h.v6), up("eth0"), up("lo"),
				neighbour("eth0", nodeV4, h.via), neighbour("eth0", nodeV6, h.via),
				route("eth0", nodeV4, nil), route("eth0", nodeV6, nil),
				route("eth0", nodeV4, &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}),
				route("eth0", nodeV6, &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}),
			)
		}),
		wire.In(n.ns, func() error {
			return errors.Join(
				address(h.veth, nodeV4), address(h.veth, nodeV6), up(h.veth),
				neighbour(h.veth, h.v4, h.mac), neighbour(h.veth, h.v6, h.mac),
				route(h.veth, h.v4, nil), route(h.veth, h.v6, nil),
			)
		}),
	)
}

func address(name string, a netip.Addr) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	const nodad = 2
	addr := &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice())}
	if a.Is6() {
		addr.Flags = nodad
	}
	if err := netlink.AddrAdd(l, addr); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, a, err)
	}
	return nil
}

// route sends to a alone, or all of to by way of it.
func route(name string, a netip.Addr, to *net.IPNet) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: netlink.NewIPNet(a.AsSlice()), Scope: netlink.SCOPE_LINK}
	if to != nil {
		r.Dst, r.Gw, r.Scope = to, a.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	if err := netlink.RouteAdd(r); err != nil {
		return fmt.Errorf("route %s by %s: %w", r.Dst, name, err)
	}
	return nil
}

func neighbour(name string, a netip.Addr, mac net.HardwareAddr) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	err = netlink.NeighSet(&netlink.Neigh{
		LinkIndex: l.Attrs().Index, IP: a.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT,
	})
	if err != nil {
		return fmt.Errorf("neighbour %s of %s: %w", a, name, err)
	}
	return nil
}

func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func sysctl(path, value string) error {
	return os.WriteFile("/proc/sys/net/"+path, []byte(value), 0)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func makeNS(t testing.TB, name string) {
	t.Helper()
	wire.Namespace(t, name, func() error {
		return errors.Join(sysctl("ipv6/conf/all/accept_dad", "0"), sysctl("ipv6/conf/default/accept_dad", "0"))
	})
}
