package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/test/wire"
)

// namespace is a named network namespace that goes with its test.
type namespace struct {
	name string
	ns   netns.NsHandle
}

func newNamespace(t *testing.T, name string) *namespace {
	t.Helper()
	n := &namespace{name: name}
	err := onThread(func() (err error) {
		n.ns, err = netns.NewNamed(name)
		return err
	})
	if err != nil {
		t.Fatalf("make network namespace %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := errors.Join(n.ns.Close(), netns.DeleteNamed(name)); err != nil {
			t.Errorf("remove network namespace %s: %v", name, err)
		}
	})
	n.must(t, func() error {
		for _, set := range []string{"all", "default"} { // addresses are to be usable at once
			for key, value := range map[string]string{"disable_ipv6": "0", "accept_dad": "0", "dad_transmits": "0", "forwarding": "1"} {
				if err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", set, key), []byte(value), 0); err != nil {
					return err
				}
			}
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return n
}

// do runs fn on a thread inside the namespace.
func (n *namespace) do(fn func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.ns); err != nil {
			return err
		}
		return fn()
	})
}

// onThread runs fn on a thread that it may move to another namespace. The thread
// is brought back, and lives on: a process that it started dies with it.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer own.Close() //nolint:errcheck // only looked at
		err = fn()
		if back := netns.Set(own); back != nil {
			done <- errors.Join(err, back)
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

func (n *namespace) must(t *testing.T, fn func() error) {
	t.Helper()
	if err := n.do(fn); err != nil {
		t.Fatalf("in %s: %v", n.name, err)
	}
}

// cable connects two namespaces: a's side is the gateway of b's.
func cable(t *testing.T, a *namespace, aName string, b *namespace, bName string, subnet int) {
	t.Helper()
	a.must(t, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: aName}, PeerName: bName, PeerNamespace: netlink.NsFd(b.ns),
		})
	})
	raise(t, a, aName, subnet, 1)
	raise(t, b, bName, subnet, 2)
	b.must(t, func() error {
		link, err := netlink.LinkByName(bName)
		if err != nil {
			return err
		}
		for _, gw := range pair(subnet, 1) {
			bits := gw.BitLen()
			err := netlink.RouteAdd(&netlink.Route{
				LinkIndex: link.Attrs().Index, Gw: gw.AsSlice(),
				Dst: &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)},
			})
			if err != nil {
				return fmt.Errorf("default route via %s: %w", gw, err)
			}
		}
		return nil
	})
}

func raise(t *testing.T, n *namespace, name string, subnet, host int) {
	t.Helper()
	n.must(t, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range pair(subnet, host) {
			mask := net.CIDRMask(24, 32)
			if a.Is6() {
				mask = net.CIDRMask(64, 128)
			}
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: mask}, Flags: unix.IFA_F_NODAD}
			if err := netlink.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("add %s: %w", a, err)
			}
		}
		return netlink.LinkSetUp(link)
	})
}

// pair is a host's address of each family.
func pair(subnet, host int) [2]netip.Addr {
	return [2]netip.Addr{
		netip.MustParseAddr(fmt.Sprintf("10.77.%d.%d", subnet, host)),
		netip.MustParseAddr(fmt.Sprintf("fd77:0:0:%d::%d", subnet, host)),
	}
}

// echo serves TCP on a port of the namespace, v4 and v6, until the test ends.
func (n *namespace) echo(t *testing.T, port int) {
	t.Helper()
	n.serve(t, port, func(c net.Conn) { _, _ = io.Copy(c, c) })
}

func (n *namespace) serve(t *testing.T, port int, handle func(net.Conn)) {
	t.Helper()
	var l net.Listener
	n.must(t, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close() //nolint:errcheck // the client judges
				stop := context.AfterFunc(t.Context(), func() { _ = c.Close() })
				defer stop()
				handle(c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
}

// silence is how long what must not be answered is asked: long enough for one
// lost SYN to be sent again.
const silence = 1500 * time.Millisecond

// awaits returns how long to wait for an answer that must, or must not, come.
func awaits(want bool) time.Duration {
	if want {
		return patience
	}
	return silence
}

func (n *namespace) dial(ctx context.Context, to string, limit time.Duration) (c net.Conn, err error) {
	err = n.do(func() (err error) {
		c, err = (&net.Dialer{Timeout: limit}).DialContext(ctx, "tcp", to)
		return err
	})
	if err != nil {
		return nil, err
	}
	again, err := wire.SentAgain(c)
	if err == nil && again > 1 {
		err = fmt.Errorf("connected only after the SYN was sent %d more times", again)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// ask opens a connection and has one message echoed.
func (n *namespace) ask(to netip.Addr, port uint16, limit time.Duration) error {
	c, err := n.dial(context.Background(), netip.AddrPortFrom(to, port).String(), limit)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // its echo is what counts
	return say(c, limit)
}

// say has one message echoed over an open connection.
func say(c net.Conn, limit time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}
