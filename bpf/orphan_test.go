package bpf

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/wire"
)

// abandon kills the lab's agent: its programs and tables stay, and nobody
// sweeps or reads. The tables can still be looked at, and packets be sent.
func (l *lab) abandon() {
	l.t.Helper()
	ghost := &Datapath{cfg: l.d.cfg, netns: l.d.netns}
	keepMap := func(to **ebpf.Map, m *ebpf.Map) (err error) { *to, err = m.Clone(); return err }
	keepProgram := func(to **ebpf.Program, p *ebpf.Program) (err error) { *to, err = p.Clone(); return err }
	if err := errors.Join(
		keepMap(&ghost.maps.Flows4, l.d.maps.Flows4), keepMap(&ghost.maps.Flows6, l.d.maps.Flows6), keepMap(&ghost.maps.Counters, l.d.maps.Counters),
		keepProgram(&ghost.programs.RfFromEndpoint, l.d.programs.RfFromEndpoint),
		keepProgram(&ghost.programs.RfToEndpoint, l.d.programs.RfToEndpoint),
		l.r.Close(), l.d.Close(),
	); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = errors.Join(ghost.maps.Flows4.Close(), ghost.maps.Flows6.Close(), ghost.maps.Counters.Close(), ghost.programs.Close())
		if _, err := os.Stat(ghost.cfg.PinDir); err != nil {
			return // a later agent has cleared up
		}
		d, err := Open(ghost.cfg)
		if err == nil {
			err = d.Remove()
		}
		if err != nil {
			l.t.Error(err)
		}
	})
	l.d = ghost
}

// restart starts the next agent on what the last one left.
func (l *lab) restart() {
	l.t.Helper()
	l.d = openAt(l.t, l.d.cfg)
	l.openReader()
}

// await polls what the kernel does by itself.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(wire.Arrives); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %s", what, wire.Arrives)
		}
	}
}

// orphanable ends flows at once, and has the kernel sweep soon.
func orphanable(cfg *Config) {
	cfg.OrphanedAfter = 20 * time.Millisecond
	cfg.Idle = IdleLimits{SYN: 1, Established: 1, Closing: 1, UDP: 1, ICMP: 1, Other: 1}
}

// TestOrphanMakesRoom fills the table while no agent runs: flows that are
// reported and idle give way to new ones, and their records are there when the
// next agent comes.
func TestOrphanMakesRoom(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t, orphanable, func(c *Config) { c.FlowEntries, c.EndpointFlows = 64, 64 })
		l.abandon()
		p := udp(web.in(family), db.in(family), 1000, 53)
		l.fill(64, p)
		await(t, "the table to empty", func() bool { return l.flows() == 0 })
		p.sport = 5000
		l.want(pass, p, "new flow")
		if n := l.counter("table_full") + l.counter("quota"); n != 0 {
			t.Errorf("%d flows found no room", n)
		}
		await(t, "the new flow's end", func() bool { return l.flows() == 0 })
		l.restart()
		var sum total
		sum.add(l.records())
		if sum.connections != 65 || sum.packets() != 65 {
			t.Errorf("records add up to %+v, want 65 packets of 65 connections", sum)
		}
	})
}

// TestOrphanWithFullRing does so when the ring is full too: what is reported
// gives way, what is not stays until an agent makes room, and packets beyond
// are judged without state.
func TestOrphanWithFullRing(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t, orphanable, func(c *Config) { c.RingBytes, c.FlowEntries, c.EndpointFlows = 4096, 64, 100 })
		l.apply(live(flow.Egress, 1, allow(dbIdent, flow.UDP, 53)), live(flow.Ingress, 1))
		l.abandon()
		p := udp(web.in(family), db.in(family), 1000, 53)
		// The ring holds 34 records, or 51 of IPv4: each flow's first, and some
		// flows' last.
		const kept, beyond = 64, 10
		reported := map[int]int{4: 30, 6: 20}[family]
		l.fill(reported, p)
		await(t, "the reported flows to go", func() bool { return l.flows() == 0 && l.counter("ring_full") > 0 })
		p.sport = 2000
		l.fill(kept, p)
		before := l.counter("orphan_sweeps")
		await(t, "two sweeps", func() bool {
			for _, f := range l.table() {
				if f.Life != 0 {
					t.Fatal("a flow is dying that no record has counted")
				}
			}
			return l.counter("orphan_sweeps") > before+2
		})
		if n := l.flows(); n != kept {
			t.Errorf("%d flows are left of %d that no record has counted", n, kept)
		}
		for i := range uint16(beyond) {
			l.want(pass, udp(web.in(family), db.in(family), 3000+i, 53), "beyond the table")
			l.want(drop, udp(web.in(family), evil.in(family), 3000+i, 53), "beyond the table")
		}
		if n := l.counter("table_full"); n != 2*beyond {
			t.Errorf("%d packets found the table full, want %d", n, 2*beyond)
		}
		l.restart()
		var sum total
		await(t, "the table to empty", func() bool {
			sum.add(l.records())
			l.now = 0
			l.sweep(0)
			return l.flows() == 0
		})
		sum.add(l.records())
		if int(sum.connections) != reported+kept || int(sum.packets()) != reported+kept {
			t.Errorf("records add up to %+v, want %d packets, each its connection", sum, reported+kept)
		}
	})
}

// TestOrphanOnly checks that the kernel leaves sweeping to an agent that does it.
func TestOrphanOnly(t *testing.T) {
	l := newLab(t, func(c *Config) { c.OrphanedAfter = 400 * time.Millisecond })
	before := l.counter("orphan_sweeps")
	await(t, "a second in which the test itself is not held up", func() bool {
		l.sweep(0)
		before = l.counter("orphan_sweeps")
		last, longest := time.Now(), time.Duration(0)
		for began := last; time.Since(began) < time.Second; time.Sleep(20 * time.Millisecond) {
			l.sweep(0)
			longest, last = max(longest, time.Since(last)), time.Now()
		}
		return longest < l.d.cfg.OrphanedAfter
	})
	n := l.counter("orphan_sweeps")
	if n != before {
		t.Errorf("%d sweeps of the kernel beside the agent's", n-before)
	}
	await(t, "the kernel's sweep after the agent's last", func() bool { return l.counter("orphan_sweeps") > n })
	l.sweep(0)
	l.abandon()
	n = l.counter("orphan_sweeps")
	await(t, "the kernel's sweep after the agent's end", func() bool { return l.counter("orphan_sweeps") > n+1 })
	// An agent that starts and never sweeps changes nothing.
	l.restart()
	l.abandon()
	n = l.counter("orphan_sweeps")
	await(t, "the kernel's sweep after another agent's end", func() bool { return l.counter("orphan_sweeps") > n })
}

// TestOrphanUnderContention has the kernel and the agent sweep by turns, as fast
// as they can, while flows of several threads end and come back.
func TestOrphanUnderContention(t *testing.T) {
	l := newLab(t, orphanable, func(c *Config) {
		c.OrphanedAfter, c.SweepInterval = time.Microsecond, time.Nanosecond
		c.RingBytes = 1 << 20
	})
	const senders, sweeps = 3, 200
	var wg sync.WaitGroup
	var sent atomic.Uint64
	done := make(chan struct{})
	for i := range senders {
		// Two of the senders share their flows; those of a while ago are idle.
		wg.Go(func() { l.hammer(done, &sent, func(n int) uint16 { return uint16(1000 + n/200%200 + 200*(i/2)) }) })
	}
	var sum total
	for range sweeps {
		time.Sleep(time.Millisecond) // the kernel's turn
		l.now = 0
		l.sweep(0)
		sum.add(l.records())
	}
	close(done)
	wg.Wait()
	await(t, "the table to empty", func() bool { sum.add(l.records()); return l.flows() == 0 })
	sum.add(l.records())
	if got := sum.packets() + l.counter("unreported_packets"); got != sent.Load() {
		t.Errorf("records add up to %d packets, and %d more are known to be in none; sent %d",
			sum.packets(), l.counter("unreported_packets"), sent.Load())
	}
	if n := l.counter("flows"); uint64(sum.connections) != n {
		t.Errorf("records add up to %d flows, %d began", sum.connections, n)
	}
	var quota kernelRfQuota
	if err := l.d.maps.Quotas.Lookup(uint32(webID), &quota); err != nil || quota.Flows != 0 {
		t.Errorf("quota counts %d flows in an empty table, error %v", quota.Flows, err)
	}
	t.Logf("%d packets, %d flows, %d sweeps of the kernel", sent.Load(), sum.connections, l.counter("orphan_sweeps"))
}

// hammer sends datagrams from the ports that port names, and counts them, until
// done. Each is a run of its own: the kernel may break off one of several
// packets, and then nobody knows how many it was.
func (l *lab) hammer(done <-chan struct{}, sent *atomic.Uint64, port func(n int) uint16) {
	frame := udp(web.v4, db.v4, 0, 53).frame(l.t)
	err := netNS(l.ns).do(func() error {
		for n := 0; ; n++ {
			select {
			case <-done:
				return nil
			default:
			}
			binary.BigEndian.PutUint16(frame[etherLen+20:], port(n))
			_, err := l.d.programs.RfFromEndpoint.Run(&ebpf.RunOptions{Data: frame, Context: skb{Ifindex: uint32(l.index)}})
			if err != nil {
				return err
			}
			sent.Add(1)
		}
	})
	if err != nil {
		l.t.Error(err)
	}
}

// TestOneSweep has the kernel's sweep fall due in the middle of the agent's, in
// a table whose flows all end: each has one end record, and leaves the quota once.
func TestOneSweep(t *testing.T) {
	const n, rounds = 10_000, 5
	l := newLab(t, func(c *Config) {
		c.OrphanedAfter, c.SweepInterval = time.Hour, time.Hour
		c.FlowEntries, c.EndpointFlows, c.RingBytes = n, n, 8<<20
	})
	settings := l.d.settings.value
	ends := 0
	for range rounds {
		atomic.StoreUint64(&settings.Idle[stateUDP], uint64(time.Hour))
		l.pour(n, udp(web.v4, db.v4, 1000, 53))
		l.records()
		atomic.StoreUint64(&settings.Idle[stateUDP], 1)
		atomic.StoreUint64(&settings.OrphanedAfter, uint64(300*time.Microsecond))
		if err := l.d.keep(); err != nil {
			t.Fatal(err)
		}
		await(t, "the table to empty", func() bool {
			l.now = 0
			l.sweep(0)
			for _, r := range l.records() {
				if r.Event == flow.EventEnd {
					ends++
				}
			}
			return l.flows() == 0
		})
		var quota kernelRfQuota
		if err := l.d.maps.Quotas.Lookup(uint32(webID), &quota); err != nil || quota.Flows != 0 {
			t.Errorf("quota counts %d flows in an empty table, error %v", quota.Flows, err)
		}
	}
	if ends != n*rounds {
		t.Errorf("%d end records of %d flows", ends, n*rounds)
	}
}

// pour sends n flows, and is faster than fill.
func (l *lab) pour(n int, p packet) {
	l.t.Helper()
	frame := p.frame(l.t)
	inNetNS(l.t, l.ns, func() error {
		for i := range n {
			binary.BigEndian.PutUint16(frame[etherLen+20:], p.sport+uint16(i)) // the checksum is nobody's concern
			_, err := l.d.programs.RfFromEndpoint.Run(&ebpf.RunOptions{Data: frame, Context: skb{Ifindex: uint32(l.index)}})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// TestOrphanGoes checks that the timer runs the last agent's program and lets go
// of the one before, and of everything when the datapath is removed.
func TestOrphanGoes(t *testing.T) {
	l := newLab(t, orphanable)
	first := l.keeperID()
	if err := errors.Join(l.r.Close(), l.d.Close()); err != nil {
		t.Fatal(err)
	}
	p, err := ebpf.NewProgramFromID(first)
	if err != nil {
		t.Fatalf("the timer's program went with its agent: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	l.d = openAt(t, l.d.cfg)
	awaitGone(t, "the first agent's program", first)
	second := l.keeperID()
	if err := l.d.Remove(); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, "the second agent's program", second)
}

// keeperID numbers the program that armed the timer.
func (l *lab) keeperID() ebpf.ProgramID {
	l.t.Helper()
	info, err := l.d.programs.RfKeep.Info()
	if err != nil {
		l.t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

func awaitGone(t testing.TB, what string, id ebpf.ProgramID) {
	t.Helper()
	await(t, what+" to go", func() bool {
		p, err := ebpf.NewProgramFromID(id)
		if err == nil {
			_ = p.Close()
		}
		return errors.Is(err, os.ErrNotExist)
	})
}

// TestOrphanOfGenerations checks that there is one timer a flow table: with the
// table the next generation takes its timer over, and beside another one it has
// its own, while the former still sweeps what links may still run on.
func TestOrphanOfGenerations(t *testing.T) {
	l := newLab(t, orphanable)
	ids := func() (list [2]ebpf.MapID) {
		t.Helper()
		for i, m := range []*ebpf.Map{l.d.maps.Flows4, l.d.maps.Keeper} {
			info, err := m.Info()
			if err != nil {
				t.Fatal(err)
			}
			list[i], _ = info.ID()
		}
		return list
	}
	first := ids()
	reopen := func(change func(*Config)) [2]ebpf.MapID {
		t.Helper()
		cfg := l.d.cfg
		change(&cfg)
		if err := errors.Join(l.r.Close(), l.d.Close()); err != nil {
			t.Fatal(err)
		}
		l.d = openAt(t, cfg)
		l.openReader()
		return ids()
	}
	if got := reopen(func(c *Config) { c.Addresses *= 2 }); got != first {
		t.Errorf("flow table and timer are maps %v, were %v", got, first)
	}
	got := reopen(func(c *Config) { c.FlowEntries *= 2 })
	if got[0] == first[0] || got[1] == first[1] {
		t.Errorf("flow table and timer are maps %v, were %v: want both anew", got, first)
	}
	l.abandon()
	n := l.counter("orphan_sweeps")
	await(t, "the new generation's sweep", func() bool { return l.counter("orphan_sweeps") > n })
}
