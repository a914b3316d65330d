package bpf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/wire"
)

// counts are what the site's programs counted so far; both of an allowed
// packet's hooks count it.
func (s *site) counts(d *Datapath) (forwarded, dropped uint64) {
	s.t.Helper()
	c, err := d.Counters()
	if err != nil {
		s.t.Fatal(err)
	}
	return c["forwarded"], c["dropped"]
}

// knock sends one SYN. Unlike a datagram it can't be taken for an answer, so it
// is denied also while an upgrade is under way.
func knock(ns string, to netip.Addr) error {
	return netNS(ns).do(func() error {
		family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.As16(), Port: serverPort})
		if to.Is4() {
			family, address = unix.AF_INET, &unix.SockaddrInet4{Addr: to.As4(), Port: serverPort}
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		if err = unix.Connect(fd, address); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
		return errors.Join(err, unix.Close(fd))
	})
}

// exactly sends requests that are allowed and some that are not, and checks that
// each packet was judged and counted once.
func (s *site) exactly(d *Datapath, what string) {
	s.t.Helper()
	forwarded, dropped := s.counts(d)
	for _, family := range []int{4, 6} {
		if err := request(s.web.ns, "udp", s.db.in(family), wire.Arrives); err != nil {
			s.t.Errorf("%s: allowed: %v", what, err)
		}
		if err := knock(s.evil.ns, s.db.in(family)); err != nil {
			s.t.Errorf("%s: %v", what, err)
		}
	}
	// Request and answer pass two hooks each; what is denied passes evil's.
	f, n := s.counts(d)
	for end := time.Now().Add(wire.Arrives); f-forwarded+n-dropped < 12 && time.Now().Before(end); f, n = s.counts(d) {
		time.Sleep(time.Millisecond)
	}
	if f-forwarded != 2*4+2 || n-dropped != 2 {
		s.t.Errorf("%s: %d forwarded and %d dropped, want 10 and 2", what, f-forwarded, n-dropped)
	}
}

// warm has the neighbours known.
func (s *site) warm() {
	s.t.Helper()
	for _, family := range []int{4, 6} {
		s.reaches(true, s.web, "udp", s.db.in(family))
		s.reaches(true, s.evil, "udp", s.db.in(family))
	}
}

// TestHandOver goes from one way of attaching to the other and back, also to
// another layout at the same time, with traffic at every step.
func TestHandOver(t *testing.T) {
	s := newSite(t, attachBy(AttachTCX), func(c *Config) { c.FlowEntries = 8192 })
	s.warm()
	s.apply(onlyWeb())
	s.exactly(s.d, "before")
	for _, to := range []struct {
		mode AttachMode
		next bool
	}{{AttachClsact, false}, {AttachTCX, false}, {AttachClsact, true}, {AttachTCX, true}, {AttachClsact, true}, {AttachTCX, false}} {
		cfg := s.d.cfg
		if err := s.d.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.Attach, cfg.object = to.mode, nil
		if to.next {
			cfg.object = nextLayout
		}
		twice := 0
		cfg.step = func(d *Datapath, name string) {
			if d.attacher == nil {
				return // no programs of this process yet
			}
			if name == "attached twice" {
				twice++
			}
			s.exactly(d, fmt.Sprintf("to %s at %q", to.mode, name))
		}
		s.d = openAt(t, cfg)
		s.d.cfg.step = func(*Datapath, string) {}
		s.exactly(s.d, "in "+string(to.mode))
		if n := len(attachments(t, s.d)); n != 6 || inMode(t, s.d, to.mode) != 6 || twice != 6 || s.d.settings.value.Handover != 0 {
			t.Errorf("in %s: %d attachments, %d hooks handed over, stamp %x", to.mode, n, twice, s.d.settings.value.Handover)
		}
	}
}

// TestKilledHandOver kills the agent at every step of a change of attaching. In
// between, and with the next one, whichever way it attaches, each packet is
// judged and counted once.
func TestKilledHandOver(t *testing.T) {
	s := newSite(t, attachBy(AttachTCX), func(c *Config) { c.FlowEntries = 8192 })
	s.warm()
	s.apply(onlyWeb())
	modes := []AttachMode{AttachTCX, AttachClsact}
	mode, steps, twice := 0, 0, 0
	for done := false; !done; steps++ {
		cfg := s.d.cfg
		if err := s.d.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.Attach = modes[1-mode]
		done = !killed(t, killOrder{Config: cfg, Step: steps + 1})
		orphan := s.orphan(cfg)
		if len(attachments(t, orphan)) > 6 {
			twice++
		}
		s.exactly(orphan, fmt.Sprintf("killed at step %d", steps+1))
		_ = orphan.gen.close()
		if steps%2 == 0 { // go on, or go back
			mode = 1 - mode
		}
		cfg.Attach = modes[mode]
		s.d = openAt(t, cfg)
		s.exactly(s.d, fmt.Sprintf("after step %d", steps+1))
		if n := len(attachments(t, s.d)); n != 6 || inMode(t, s.d, modes[mode]) != 6 {
			t.Fatalf("after step %d: %d attachments", steps+1, n)
		}
	}
	if twice < 6 {
		t.Errorf("killed with both attached %d times only", twice)
	}
	t.Logf("killed at %d steps, %d times with both attached", steps-1, twice)
}

// orphan looks at what an agent that is gone left behind.
func (s *site) orphan(cfg Config) *Datapath {
	s.t.Helper()
	d := &Datapath{cfg: cfg.WithDefaults(), netns: netNS(cfg.NetNS)}
	d.tcx, d.clsact = &tcx{dir: d.linkDir(), netns: d.netns}, &clsact{pinDir: cfg.PinDir, netns: d.netns}
	dirs, err := filepath.Glob(filepath.Join(cfg.PinDir, dirMaps+"*"))
	if err != nil || len(dirs) != 1 {
		s.t.Fatalf("generations %v, error %v", dirs, err)
	}
	d.gen = &generation{dir: dirs[0]}
	if err := d.gen.open(); err != nil {
		s.t.Fatal(err)
	}
	d.maps.Counters = d.gen.maps[kernelMapCounters]
	return d
}

// TestHandOverUnderLoad sends all the while that hooks go to and fro: no packet
// is lost, none counted twice.
func TestHandOverUnderLoad(t *testing.T) {
	s := newSite(t, attachBy(AttachTCX))
	s.warm()
	s.apply(onlyWeb())
	var sink net.PacketConn
	inNetNS(t, s.db.ns, func() (err error) {
		sink, err = net.ListenPacket("udp4", fmt.Sprintf("%s:%d", s.db.v4, serverPort+1))
		return err
	})
	defer func() { _ = sink.Close() }()
	var c net.Conn
	inNetNS(t, s.web.ns, func() (err error) {
		c, err = net.Dial("udp4", sink.LocalAddr().String())
		return err
	})
	defer func() { _ = c.Close() }()
	sinkOpen := onlyWeb()
	sinkOpen.Entries = append(sinkOpen.Entries, allow(webIdent, flow.UDP, serverPort+1))
	s.apply(sinkOpen)
	before, dropped := s.counts(s.d)
	ctx, stop := context.WithCancel(t.Context())
	var sender sync.WaitGroup
	sent := uint64(0)
	sender.Go(func() {
		for ; ctx.Err() == nil; sent++ {
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Errorf("packet %d: %v", sent, err)
				return
			}
			if sent%64 == 0 {
				time.Sleep(time.Millisecond) // the agent needs a CPU too
			}
		}
	})
	const times = 20
	for i := range times {
		cfg := s.d.cfg
		if err := s.d.Close(); err != nil {
			t.Error(err)
		}
		cfg.Attach = []AttachMode{AttachClsact, AttachTCX}[i%2]
		s.d = openAt(t, cfg)
	}
	stop()
	sender.Wait()
	f, n := s.counts(s.d)
	for end := time.Now().Add(wire.Arrives); f-before < 2*sent && time.Now().Before(end); f, n = s.counts(s.d) {
		time.Sleep(time.Millisecond)
	}
	if f-before != 2*sent || n != dropped {
		t.Errorf("%d packets sent: %d counted at two hooks, %d dropped", sent, f-before, n-dropped)
	}
	t.Logf("%d packets, %d changes", sent, times)
}
