package verdict

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/ringfence/ringfence/test/wire"
)

// Interfaces of the node: the node's side of the pod's veth, an interface of the
// node that is an endpoint itself, and one that leads to everybody else.
const (
	podInterface  = "rfw1"
	hostInterface = "rfh1"
	uplink        = "up0"
)

func TestMain(m *testing.M) {
	if err := fixSeed(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// site is a node's network: a bridge joins the pod's veth and the uplink, so
// that frames reach the programs as they were built, whatever they say.
//
//	pod eth0 ── rfw1 ─ bridge ─ up0 ── up0p  far
//	                   node    rfh1 ── rfh1p far
type site struct {
	ns string // the node's network namespace
	// Where frames go in, and where those come out that the programs let by.
	fromPod, toPod, toPodFromNode, fromHost, toHost wire.Path
}

func (s *site) paths() []wire.Path {
	return []wire.Path{s.fromPod, s.toPod, s.toPodFromNode, s.fromHost, s.toHost}
}

// pathOf returns the way that f goes.
func (s *site) pathOf(f *frame) wire.Path {
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
		wire.Namespace(t, ns, wire.Quiet)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(wire.In(node, func() error {
		return errors.Join(
			wire.Pair(podInterface, "eth0", pod), wire.Pair(uplink, "up0p", far), wire.Pair(hostInterface, "rfh1p", far),
			wire.Bridge("br0", podInterface, uplink), wire.Up(hostInterface),
		)
	}))
	must(wire.In(pod, func() error { return wire.Up("eth0") }))
	must(wire.In(far, func() error { return errors.Join(wire.Up("up0p"), wire.Up("rfh1p")) }))

	open := func(ns, name string) *wire.Wire { return wire.Open(t, ns, name) }
	podEnd, nodeEnd, farEnd := open(pod, "eth0"), open(node, podInterface), open(far, "up0p")
	hostEnd, hostPeer := open(node, hostInterface), open(far, "rfh1p")
	s := &site{
		ns:            node,
		fromPod:       wire.Path{In: podEnd, Out: farEnd},
		toPod:         wire.Path{In: farEnd, Out: podEnd},
		toPodFromNode: wire.Path{In: nodeEnd, Out: podEnd},
		fromHost:      wire.Path{In: hostEnd, Out: hostPeer},
		toHost:        wire.Path{In: hostPeer, Out: hostEnd},
	}
	for _, p := range s.paths() {
		must(p.Settle())
	}
	return s
}
