package gapless

import (
	"testing"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
)

// TestFlood has one host begin ten times as many flows as the table holds, while
// the others' connections go on, new ones come, and every verdict stays right:
// with a quota for each endpoint, and with none, when the table is full for all.
func TestFlood(t *testing.T) {
	const entries = 8192
	for _, c := range []struct {
		name    string
		quota   uint32
		counter string
		// Without state a frame that does not show its direction may be an answer.
		answersOfNothing want
	}{
		{"quota", entries / 4, "quota", never},
		{"no quota", entries, "table_full", arrive},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t)
			n.server.serve(t)
			d := n.open(t, bpf.Config{FlowEntries: entries, EndpointFlows: c.quota, RingBytes: 1 << 16})
			_, err := d.Apply(revision(0))
			must(t, err)
			list := classes(append(n.kinds(),
				kind{"answers of nothing", n.server, n.client, c.answersOfNothing, flow.UDP, open, 10000, 64, byDestination, 16},
				kind{"the flood", n.evil, n.server, never, flow.UDP, 20000, shut, 0, bySource, 480},
			))
			n.flood(t, d, list, c.counter)
		})
	}
}

func (n *network) flood(t *testing.T, d *bpf.Datapath, list []*class, counter string) {
	t.Helper()
	var old []*stream
	for i := range uint64(20) {
		s, err := dial(n.client, n.server, 4+int(i%2)*2, i)
		must(t, err)
		old = append(old, s)
	}
	count := func(name string) uint64 {
		t.Helper()
		counters, err := d.Counters()
		must(t, err)
		return counters[name]
	}
	r := newReceiver(t, n)
	before := count("flows")
	evil := newSender(t, of(n.evil, list)...)
	evil.start(t, 60_000)
	for began := time.Now(); count(counter) == 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("10 s of flood, and counter %s is 0", counter)
		}
	}
	// All that follows begins when there is no more room.
	client, server := newSender(t, of(n.client, list)...), newSender(t, of(n.server, list)...)
	client.start(t, 10_000)
	server.start(t, 5_000) // answers come after what they answer
	exchanges, connections, attacks := 0, uint64(0), 0
	for began := time.Now(); time.Since(began) < 2500*time.Millisecond; connections++ {
		for _, s := range old {
			if err := s.exchange(500, answerLimit); err != nil {
				t.Errorf("open before the flood: %v", err)
			}
			exchanges++
		}
		family := 4 + int(connections%2)*2
		s, err := dial(n.client, n.server, family, 1000+connections)
		if err != nil {
			t.Errorf("new in the flood: %v", err)
			continue
		}
		if err := s.exchange(3000, answerLimit); err != nil {
			t.Errorf("new in the flood: %v", err)
		}
		if err := s.finish(); err != nil {
			t.Errorf("new in the flood: %v", err)
		}
		if connections%8 < 2 {
			if _, err := dialIn(n.evil, n.server, family, 100*time.Millisecond); err == nil {
				t.Errorf("an attack over IPv%d got through in the flood", family)
			}
			attacks++
		}
	}
	_, lost, slipped := n.compare(t, r, []*sender{evil, client, server}, list)
	if lost != 0 || slipped != 0 {
		t.Errorf("%d allowed frames were lost, %d forbidden ones delivered", lost, slipped)
	}
	flood := list[len(list)-1].begun() + list[len(list)-2].begun()
	if room := uint64(d.Capacity().Flows); flood < 10*room {
		t.Errorf("a flood of %d flows, want ten times the table's %d", flood, room)
	}
	for _, s := range old {
		if err := s.finish(); err != nil {
			t.Errorf("open before the flood: %v", err)
		}
	}
	t.Logf("%d flows of flood, %d found room with all others, %d times refused (%s); %d exchanges of %d connections that were open, "+
		"%d new connections, %d attacks", flood, count("flows")-before, count(counter), counter, exchanges, len(old), connections, attacks)
}
