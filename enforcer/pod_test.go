package enforcer

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/bpf"
)

// pod is a network namespace with one interface, whose other end is in a node's
// namespace, where a server listens on addresses of its own.
type pod struct {
	t         *testing.T
	node, pod string // namespaces
	pins      string
}

const podInterface = "rfpod"

// server are the addresses that the pod talks to, and ports the listening ones.
var (
	server = []string{"192.0.2.10", "2001:db8::10"}
	ports  = []int{80, 443}
)

func newPod(t *testing.T) *pod {
	t.Helper()
	p := &pod{
		t:    t,
		node: fmt.Sprintf("rf-enf-%d-node", os.Getpid()),
		pod:  fmt.Sprintf("rf-enf-%d-pod", os.Getpid()),
	}
	for _, ns := range []string{p.node, p.pod} {
		if err := makeNS(ns); err != nil {
			t.Fatalf("this test needs root and network namespaces: make %s: %v", ns, err)
		}
		t.Cleanup(func() {
			if err := netns.DeleteNamed(ns); err != nil {
				t.Errorf("remove %s: %v", ns, err)
			}
		})
	}
	dir, err := os.MkdirTemp("", "rf-enf-")
	if err != nil {
		t.Fatal(err)
	}
	fs := filepath.Join(dir, "bpf")
	if err := bpf.MountBPFFS(fs); err != nil {
		t.Fatalf("this test needs root and eBPF: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(bpf.UnmountBPFFS(fs), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	p.pins = filepath.Join(fs, "node-1")
	p.connect()
	for _, a := range server {
		for _, port := range ports {
			p.listen(netip.AddrPortFrom(netip.MustParseAddr(a), uint16(port)))
		}
	}
	return p
}

func (p *pod) connect() {
	p.t.Helper()
	must := func(err error) {
		p.t.Helper()
		if err != nil {
			p.t.Fatal(err)
		}
	}
	must(inNS(p.node, func() error {
		target, err := netns.GetFromName(p.pod)
		if err != nil {
			return err
		}
		defer func() { _ = target.Close() }()
		return errors.Join(
			netlink.LinkAdd(&netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: podInterface}, PeerName: "eth0", PeerNamespace: netlink.NsFd(target),
			}),
			address("lo", server[0]+"/32"), address("lo", server[1]+"/128"),
			address(podInterface, "10.1.0.254/24"), address(podInterface, "fd00:1::fe/64"))
	}))
	must(inNS(p.pod, func() error {
		err := errors.Join(address("eth0", "10.1.0.1/24"), address("eth0", "fd00:1::1/64"))
		for _, gateway := range []string{"10.1.0.254", "fd00:1::fe"} {
			err = errors.Join(err, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}))
		}
		return err
	}))
}

func address(link, prefix string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("%s: %w", link, err)
	}
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	return errors.Join(netlink.LinkSetUp(l), netlink.AddrAdd(l, a))
}

// listen answers on a with one byte.
func (p *pod) listen(a netip.AddrPort) {
	p.t.Helper()
	var l net.Listener
	if err := inNS(p.node, func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
		return err
	}); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = l.Close() })
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

// reaches reports whether the pod gets an answer.
func (p *pod) reaches(a string, port int) bool {
	p.t.Helper()
	err := inNS(p.pod, func() error {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(a, fmt.Sprint(port)), 250*time.Millisecond)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(250 * time.Millisecond)); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
		return err
	})
	return err == nil
}

func makeNS(name string) error {
	return onOwnThread(func() error {
		ns, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		defer func() { _ = ns.Close() }()
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
}

func inNS(name string, fn func() error) error {
	return onOwnThread(func() error {
		ns, err := netns.GetFromName(name)
		if err != nil {
			return err
		}
		defer func() { _ = ns.Close() }()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return fn()
	})
}

// onOwnThread runs fn on a thread that ends with it, in whatever namespace fn
// leaves it.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}
