package bpf

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/wire"
)

// TestRingOverflow checks that a ring nobody reads delays records and loses
// none: what comes out in the end adds up to what was sent.
func TestRingOverflow(t *testing.T) {
	families(t, func(t *testing.T, family int) {
		l := newLab(t, func(c *Config) { c.RingBytes = 4096 })
		p := tcp(web.in(family), db.in(family), 1000, 80, "")
		const flows, rounds = 100, 5
		var packets, bytes uint64
		for range rounds {
			for i := range uint16(flows) {
				p.sport = 1000 + i
				q := p.with("S")
				q.payload = int(i)
				l.want(pass, q, "sent")
				packets, bytes = packets+1, bytes+uint64(len(q.frame(t)))
			}
		}
		if l.counter("ring_full") == 0 {
			t.Fatal("the ring was never full")
		}
		var sum total
		for range 20 {
			s := l.sweep(10 * time.Second)
			list := l.records()
			sum.add(list)
			if s.Flows == 0 {
				break
			}
		}
		if sum.connections != flows || sum.forward.Packets != packets || sum.forward.Bytes != bytes {
			t.Errorf("records add up to %+v; sent %d flows, %d packets, %d bytes", sum, flows, packets, bytes)
		}
		if n := l.flows(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
	})
}

// TestCountsUnderContention sends from several threads while flows end, are
// deleted and come back all the time.
func TestCountsUnderContention(t *testing.T) {
	l := newLab(t, func(c *Config) {
		c.RingBytes = 1 << 16
		c.SweepInterval = time.Nanosecond
		c.Idle = IdleLimits{SYN: 1, Established: 1, Closing: 1, UDP: 1, ICMP: 1, Other: 1}
	})
	const senders, sweeps = 3, 150
	var wg sync.WaitGroup
	var sent atomic.Uint64
	done := make(chan struct{})
	for i := range senders {
		// Two of the senders share their flows.
		wg.Go(func() { l.hammer(done, &sent, func(n int) uint16 { return uint16(1000 + n/20%50 + 100*(i/2)) }) })
	}
	var sum total
	var deleted uint64
	for range sweeps {
		// The sweep's clock runs ahead, so that each one ends or deletes; the
		// pause is the grace that a program in flight needs.
		time.Sleep(3 * time.Millisecond)
		deleted += l.sweep(time.Second).Deleted
		sum.add(l.records())
	}
	close(done)
	wg.Wait()
	for l.flows() > 0 {
		l.sweep(time.Second)
		sum.add(l.records())
	}
	if got := sum.packets() + l.counter("unreported_packets"); got != sent.Load() {
		t.Errorf("records add up to %d packets, and %d more are known to be in none; sent %d",
			sum.packets(), l.counter("unreported_packets"), sent.Load())
	}
	if n := l.counter("flows"); uint64(sum.connections) != n {
		t.Errorf("records add up to %d flows, %d began", sum.connections, n)
	}
	t.Logf("%d packets, %d flows began, %d entries deleted", sent.Load(), sum.connections, deleted)
}

// TestReader checks that batches follow each other without a gap, and that what
// is not committed is read again.
func TestReader(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	l.fill(3, tcp(web.v4, db.v4, 1000, 80, "S"))
	first, err := l.r.Next(ctx)
	if err != nil || len(first.Records) != 3 {
		t.Fatalf("first batch: %+v, error %v", first, err)
	}
	l.fill(2, tcp(web.v4, db.v4, 2000, 80, "S"))
	second, err := l.r.Next(ctx)
	if err != nil || len(second.Records) != 2 || second.Start != first.End {
		t.Fatalf("second batch: %+v, error %v", second, err)
	}
	if err := l.r.Commit(first.End); err != nil {
		t.Fatal(err)
	}
	if err := l.r.Close(); err != nil {
		t.Fatal(err)
	}
	l.openReader()
	again, err := l.r.Next(ctx)
	if err != nil || again.Start != second.Start || again.End != second.End || len(again.Records) != 2 ||
		again.Records[0].SourcePort != 2000 {
		t.Errorf("after reopening: %+v, error %v", again, err)
	}
	for name, err := range map[string]error{
		"commit of what was not handed out": l.r.Commit(again.End + 8),
		"commit of what is committed":       l.r.Commit(first.Start),
		"intent of what was not handed out": l.r.Intend(again.Start, again.End+8),
		"intent beyond the first":           l.r.Intend(again.Start+8, again.End),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := l.d.NewReader(); err == nil {
		t.Error("a second reader was given out")
	}
}

// TestReaderWaits checks that a waiting reader wakes for a record, whether or
// not it holds others back, and for its context.
func TestReaderWaits(t *testing.T) {
	for _, holding := range []bool{false, true} {
		l := newLab(t)
		p := tcp(web.v4, db.v4, 1000, 80, "S")
		if holding {
			l.want(pass, p, "held back")
			if _, err := l.r.Next(context.Background()); err != nil {
				t.Fatal(err)
			}
			p.sport++
		}
		result := make(chan error, 1)
		limited, end := context.WithTimeout(t.Context(), wire.Arrives)
		defer end()
		go func() {
			b, err := l.r.Next(limited)
			if err == nil && len(b.Records) != 1 {
				err = errors.New("no record")
			}
			result <- err
		}()
		l.want(pass, p, "awaited")
		if err := <-result; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			b, err := l.r.Next(ctx)
			if b.Start != b.End {
				err = errors.New("a batch")
			}
			result <- err
		}()
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		// One of many is not held up by other work.
		fastest := waitLimit
		for range 20 {
			began := time.Now()
			if err := l.r.wait(ctx); err != nil {
				t.Fatal(err)
			}
			fastest = min(fastest, time.Since(began))
		}
		if fastest > waitLimit/2 {
			t.Errorf("holding %t: a cancelled wait takes %s", holding, fastest)
		}
	}
}

// TestRingWakes checks that a reader is woken when a quarter of the ring has been
// written, whether or not it holds records back, and not before.
func TestRingWakes(t *testing.T) {
	l := newLab(t, func(c *Config) { c.RingBytes = 16384 })
	record := record4Size + ringHeader
	quarter := int(l.d.cfg.RingBytes) / 4
	count, port := 0, uint16(1000)
	write := func(n int) {
		t.Helper()
		l.fill(n, tcp(web.v4, db.v4, port, 80, "S"))
		count, port = count+n, port+uint16(n)
	}
	woken := func(ms int) bool {
		t.Helper()
		for {
			var events [2]unix.EpollEvent
			n, err := unix.EpollWait(l.r.epoll, events[:], ms)
			if err == nil {
				return n > 0
			}
			if !errors.Is(err, unix.EINTR) {
				t.Fatal(err)
			}
		}
	}
	for _, holding := range []bool{false, true, true} {
		write((quarter - 1 - count*record%quarter) / record)
		if woken(20) {
			t.Errorf("holding %t: woken after %d bytes, a quarter of the ring has %d", holding, count*record, quarter)
		}
		write(1)
		if !woken(int(wire.Arrives.Milliseconds())) {
			t.Errorf("holding %t: not woken after %d bytes, a quarter of the ring has %d", holding, count*record, quarter)
		}
		if b, err := l.r.Next(context.Background()); err != nil || len(b.Records) == 0 {
			t.Fatalf("%+v, error %v", b, err)
		}
	}
}

// TestReplay checks that a batch which was intended and not committed comes
// again with the very same range and records, over a restart.
func TestReplay(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	reopen := func() {
		t.Helper()
		cfg := l.d.cfg
		if err := errors.Join(l.r.Close(), l.d.Close()); err != nil {
			t.Fatal(err)
		}
		l.d = openAt(t, cfg)
		l.openReader()
	}
	l.fill(5, tcp(web.v4, db.v4, 1000, 80, "S"))
	before, err := l.r.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	id, records := l.r.RingID(), append([]flow.Record(nil), before.Records...)
	if err := l.r.Intend(before.Start, before.End); err != nil {
		t.Fatal(err)
	}
	l.fill(2, tcp(web.v4, db.v4, 2000, 80, "S"))
	reopen()
	if l.r.RingID() != id {
		t.Error("the ring has another number")
	}
	if _, err := l.r.Next(ctx); err == nil {
		t.Error("Next before the replay: no error")
	}
	again, owed, err := l.r.Replay()
	if err != nil || !owed || again.Start != before.Start || again.End != before.End {
		t.Fatalf("replayed %+v, %t, error %v; want %d to %d", again, owed, err, before.Start, before.End)
	}
	for i, r := range again.Records {
		// Wall time is worked out anew.
		r.Time, r.FirstSeen = records[i].Time, records[i].FirstSeen
		if !reflect.DeepEqual(r, records[i]) {
			t.Errorf("record %d: %+v, was %+v", i, r, records[i])
		}
	}
	if _, owed, _ := l.r.Replay(); owed {
		t.Error("replayed twice")
	}
	if err := l.r.Commit(again.End); err != nil {
		t.Fatal(err)
	}
	rest, err := l.r.Next(ctx)
	if err != nil || len(rest.Records) != 2 || rest.Start != again.End {
		t.Errorf("after the replay: %+v, error %v", rest, err)
	}
	if err := l.r.Commit(rest.End); err != nil {
		t.Fatal(err)
	}
	reopen()
	if b, owed, err := l.r.Replay(); owed || err != nil {
		t.Errorf("replay after the commit: %+v, error %v", b, err)
	}
}

// TestForeignRecords checks that messages of a wrong length or content are
// counted and skipped, and discarded ones skipped.
func TestForeignRecords(t *testing.T) {
	l := newLab(t)
	write := func(size int32, discard bool) {
		t.Helper()
		finish := asm.FnRingbufSubmit
		if discard {
			finish = asm.FnRingbufDiscard
		}
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
			asm.LoadMapPtr(asm.R1, l.d.maps.Events.FD()),
			asm.Mov.Imm(asm.R2, size),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnRingbufReserve.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.R0),
			asm.Mov.Imm(asm.R2, 0),
			finish.Call(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
			asm.Return(),
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = prog.Close() }()
		if _, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil {
			t.Fatal(err)
		}
	}
	write(8, false)
	l.want(pass, tcp(web.v4, db.v4, 1000, 80, "S"), "between")
	write(int32(recordSize)+8, false)
	write(int32(recordSize), true)
	l.want(pass, tcp(web.v4, db.v4, 1001, 80, "S"), "after")
	b, err := l.r.Next(context.Background())
	if err != nil || b.Truncated != 2 || len(b.Records) != 2 || b.End != l.r.ring.produced() {
		t.Errorf("batch: %+v, error %v", b, err)
	}
}

// The sum of a range's hashes is the same however it is read, and another when a
// record differs.
func TestSumOfRecords(t *testing.T) {
	l := newLab(t)
	send := func(sports ...uint16) {
		for _, sport := range sports {
			l.want(pass, tcp(web.in(4), db.in(4), sport, 80, "S"), "sent")
		}
	}
	read := func(n int) (sum uint64, records int) {
		t.Helper()
		r := l.r
		r.pos = r.ring.consumed()
		for {
			b, err := r.take(r.ring.produced(), n)
			if err != nil {
				t.Fatal(err)
			}
			if b.End == b.Start {
				return sum, records
			}
			sum += b.Sum
			records += len(b.Records)
		}
	}
	send(1000, 1001, 1002, 1003, 1004)
	whole, n := read(100)
	if parts, _ := read(2); n != 5 || whole == 0 || parts != whole {
		t.Errorf("%d records have the sum %x in one batch and %x in several", n, whole, parts)
	}
	send(1005)
	if more, n := read(100); n != 6 || more == whole {
		t.Errorf("%d records have the sum %x, too", n, more)
	}
}
