package verdict

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/bpf"
)

// Interfaces of the node: the node's side of the pod's veth, an interface of the
// node that is an endpoint itself, and one that leads to everybody else.
const (
	podInterface  = "rfw1"
	hostInterface = "rfh1"
	uplink        = "up0"
)

// mounted is this test binary's own bpffs.
var mounted string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if err := fixSeed(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "rf-verdict-")
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

// site is a node's network: a bridge joins the pod's veth and the uplink, so
// that frames reach the programs as they were built, whatever they say.
//
//	pod eth0 ── rfw1 ─ bridge ─ up0 ── up0p  far
//	                   node    rfh1 ── rfh1p far
type site struct {
	ns string // the node's network namespace
	// Where frames go in, and where those come out that the programs let by.
	fromPod, toPod, toPodFromNode, fromHost, toHost path
}

// path is one way through one program.
type path struct {
	in  *wire
	out *wire
}

func (s *site) paths() []path {
	return []path{s.fromPod, s.toPod, s.toPodFromNode, s.fromHost, s.toHost}
}

// pathOf returns the way that f goes.
func (s *site) pathOf(f *frame) path {
	switch {
	case f.host && f.from:
		return s.fromHost
	case f.host:
		return s.toHost
	case f.from:
		return s.fromPod
	case f.local:
		return s.toPodFromNode
	}
	return s.toPod
}

var serial atomic.Int32

func newSite(t *testing.T) *site {
	t.Helper()
	prefix := fmt.Sprintf("rf-verdict-%d-%d-", os.Getpid(), serial.Add(1))
	node, pod, far := prefix+"node", prefix+"pod", prefix+"far"
	for _, ns := range []string{node, pod, far} {
		if err := makeNS(ns); err != nil {
			t.Fatalf("this test needs root and network namespaces: make %s: %v", ns, err)
		}
		t.Cleanup(func() {
			if err := netns.DeleteNamed(ns); err != nil {
				t.Errorf("remove %s: %v", ns, err)
			}
		})
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(inNS(node, func() error {
		return errors.Join(
			pair(podInterface, "eth0", pod), pair(uplink, "up0p", far), pair(hostInterface, "rfh1p", far),
			bridge("br0", podInterface, uplink), up(hostInterface),
		)
	}))
	must(inNS(pod, func() error { return up("eth0") }))
	must(inNS(far, func() error { return errors.Join(up("up0p"), up("rfh1p")) }))

	open := func(ns, name string) *wire {
		t.Helper()
		w, err := openWire(ns, name)
		if err != nil {
			t.Fatalf("packet sockets on %s of %s: %v", name, ns, err)
		}
		t.Cleanup(func() { _ = w.close() })
		return w
	}
	podEnd, nodeEnd, farEnd := open(pod, "eth0"), open(node, podInterface), open(far, "up0p")
	hostEnd, hostPeer := open(node, hostInterface), open(far, "rfh1p")
	s := &site{
		ns:            node,
		fromPod:       path{in: podEnd, out: farEnd},
		toPod:         path{in: farEnd, out: podEnd},
		toPodFromNode: path{in: nodeEnd, out: podEnd},
		fromHost:      path{in: hostEnd, out: hostPeer},
		toHost:        path{in: hostPeer, out: hostEnd},
	}
	for _, p := range s.paths() {
		must(p.settle())
	}
	return s
}

func pair(name, peer, peerNS string) error {
	target, err := netns.GetFromName(peerNS)
	if err != nil {
		return err
	}
	defer func() { _ = target.Close() }()
	return netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer, PeerNamespace: netlink.NsFd(target),
	})
}

func bridge(name string, ports ...string) error {
	off := false
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}, MulticastSnooping: &off}
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	errs := []error{up(name)}
	for _, port := range ports {
		l, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		errs = append(errs, netlink.LinkSetMaster(l, br), up(port))
	}
	return errors.Join(errs...)
}

func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return netlink.LinkSetUp(l)
}

// makeNS makes a namespace whose kernel says nothing by itself.
func makeNS(name string) error {
	return onOwnThread(func() error {
		ns, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		defer func() { _ = ns.Close() }()
		for _, which := range []string{"all", "default"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
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

// onOwnThread runs fn on a thread that ends with it, in whatever namespace and
// on whatever CPU fn leaves it.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}

// onOneCPU runs fn where the frames it sends keep their order.
func onOneCPU(fn func() error) error {
	return onOwnThread(func() error {
		var allowed, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &allowed); err != nil {
			return fmt.Errorf("read allowed CPUs: %w", err)
		}
		for cpu := range 1024 {
			if allowed.IsSet(cpu) {
				one.Set(cpu)
				break
			}
		}
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return fmt.Errorf("stay on one CPU: %w", err)
		}
		return fn()
	})
}
