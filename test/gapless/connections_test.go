package gapless

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
)

// TestConnectionsSurviveEnforcing opens connections before and after the
// programs come, and keeps half of them busy both ways and half idle while the
// policy goes from observe to audit to enforce.
func TestConnectionsSurviveEnforcing(t *testing.T) {
	const connections = 200
	n := newNetwork(t)
	n.server.serve(t)
	var streams []*stream
	add := func() {
		t.Helper()
		s, err := dial(n.client, n.server, 4+len(streams)/2%2*2, uint64(len(streams)))
		must(t, err)
		streams = append(streams, s)
		t.Cleanup(func() { _ = s.Close() })
		must(t, s.exchange(1000, answerLimit))
	}
	for len(streams) < connections/2 {
		add()
	}
	d := n.open(t, bpf.Config{})
	for len(streams) < connections {
		add()
	}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	busy := every(streams, 0)
	for i, s := range busy {
		running.Go(func() {
			for turn := 0; ctx.Err() == nil; turn++ {
				if err := s.exchange(1+(turn*997+i*31)%8000, answerLimit); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	dropped := func() uint64 {
		t.Helper()
		_, err := d.Sweep(t.Context())
		must(t, err)
		counters, err := d.Counters()
		must(t, err)
		return counters["dropped"]
	}
	phase := func(name string) {
		t.Helper()
		carried := bytesOf(busy)
		time.Sleep(time.Second) // of traffic
		t.Logf("%s: %d bytes a second each way, %d frames dropped", name, bytesOf(busy)-carried, dropped())
	}
	phase("observe")
	apply(t, d, flow.SlotStaged, revision(0))
	phase("audit")
	apply(t, d, flow.SlotLive, revision(0))
	phase("enforce")
	stop()
	running.Wait()
	for _, s := range every(streams, 1) {
		running.Go(func() {
			if err := s.exchange(5000, answerLimit); err != nil {
				t.Errorf("idle: %v", err)
			}
		})
	}
	running.Wait()
	if n := dropped(); n != 0 {
		t.Errorf("%d frames were dropped", n)
	}
	late, err := dial(n.client, n.server, 4, connections)
	must(t, err)
	must(t, late.finish())
	if _, err := dialIn(n.evil, n.server, 6, 300*time.Millisecond); err == nil {
		t.Error("enforcing lets a stranger in")
	}
	total := bytesOf(streams)
	n.finishAll(t, d, streams)
	t.Logf("%d connections, half busy, half idle, half older than the programs: %d bytes sent and received", len(streams), total)
}

// finishAll ends half of the streams in order, and shows on the other half that
// a policy which does not allow them would have been noticed.
func (n *network) finishAll(t *testing.T, d *bpf.Datapath, streams []*stream) {
	t.Helper()
	var rest []*stream
	var running sync.WaitGroup
	for _, s := range streams {
		if s.number/4%2 == 0 { // busy and idle, of either family
			rest = append(rest, s)
			continue
		}
		running.Go(func() {
			if err := s.finish(); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	none := revision(0)
	for i := range none {
		none[i].Revision, none[i].Entries = 2, nil
	}
	apply(t, d, flow.SlotLive, none)
	for _, s := range rest {
		running.Go(func() {
			if err := s.exchange(100, 500*time.Millisecond); err == nil {
				t.Errorf("connection %d goes on although nothing is allowed", s.number)
			}
		})
	}
	running.Wait()
}

// every returns every other stream, by family and age alike.
func every(streams []*stream, odd int) (list []*stream) {
	for i, s := range streams {
		if i%2 == odd {
			list = append(list, s)
		}
	}
	return list
}
