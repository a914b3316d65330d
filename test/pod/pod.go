package pod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ringfence/ringfence/test/wire"
)

// Interface is the node's side of the pod's veth. The pod is 10.1.0.1 and
// fd00:1::1, the node 10.1.0.254 and fd00:1::fe.
const Interface = "rfpod"

// Server are the addresses of the server, one of each family.
var Server = []string{"192.0.2.10", "2001:db8::10"}

// Pod is a network namespace with one interface, whose other end is in a node's
// namespace, where a server listens on addresses of its own.
type Pod struct {
	Node string // the node's network namespace
	Pins string // a directory on a bpffs that the datapath may make

	pod string
}

// New makes a pod, and a server that answers on ports of TCP and UDP. The name tells the
// namespaces of different packages apart.
func New(tb testing.TB, name string, ports ...uint16) *Pod {
	tb.Helper()
	p := &Pod{
		Pins: Pins(tb, name),
		Node: fmt.Sprintf("rf-%s-%d-node", name, os.Getpid()),
		pod:  fmt.Sprintf("rf-%s-%d-pod", name, os.Getpid()),
	}
	for _, ns := range []string{p.Node, p.pod} {
		wire.Namespace(tb, ns, func() error { return wire.Up("lo") })
	}
	if err := p.connect(); err != nil {
		tb.Fatal(err)
	}
	for _, a := range Server {
		for _, port := range ports {
			p.listen(tb, netip.AddrPortFrom(netip.MustParseAddr(a), port))
			p.listenUDP(tb, netip.AddrPortFrom(netip.MustParseAddr(a), port))
		}
	}
	return p
}

func (p *Pod) connect() error {
	err := wire.In(p.Node, func() error {
		return errors.Join(wire.Pair(Interface, "eth0", p.pod),
			wire.Address("lo", Server[0]+"/32"), wire.Address("lo", Server[1]+"/128"),
			wire.Address(Interface, "10.1.0.254/24"), wire.Address(Interface, "fd00:1::fe/64"))
	})
	if err != nil {
		return err
	}
	return wire.In(p.pod, func() error {
		err := errors.Join(wire.Address("eth0", "10.1.0.1/24"), wire.Address("eth0", "fd00:1::1/64"))
		for _, gateway := range []string{"10.1.0.254", "fd00:1::fe"} {
			err = errors.Join(err, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}))
		}
		return err
	})
}

// listen answers on a with one byte.
func (p *Pod) listen(tb testing.TB, a netip.AddrPort) {
	tb.Helper()
	var l net.Listener
	if err := wire.In(p.Node, func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
		return err
	}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{'!'})
			_ = c.Close()
		}
	}()
}

// listenUDP answers each datagram to a with one byte.
func (p *Pod) listenUDP(tb testing.TB, a netip.AddrPort) {
	tb.Helper()
	var l *net.UDPConn
	if err := wire.In(p.Node, func() (err error) {
		l, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
		return err
	}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for b := make([]byte, 1); ; {
			_, from, err := l.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = l.WriteToUDPAddrPort([]byte{'!'}, from)
		}
	}()
}

// Ask sends one datagram from the pod to an address of the server and reads its
// answer within limit.
func (p *Pod) Ask(ctx context.Context, addr string, port uint16, limit time.Duration) error {
	return wire.In(p.pod, func() error {
		c, err := wire.Dial(ctx, "udp", net.JoinHostPort(addr, fmt.Sprint(port)), limit)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
			return err
		}
		if _, err := c.Write([]byte{'?'}); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
		return err
	})
}

// Get makes one connection from the pod to an address of the server and reads
// its answer. limit holds for the connection, and again for the answer.
func (p *Pod) Get(ctx context.Context, addr string, port uint16, limit time.Duration) error {
	return wire.In(p.pod, func() error {
		c, err := wire.Dial(ctx, "tcp", net.JoinHostPort(addr, fmt.Sprint(port)), limit)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
		return err
	})
}
