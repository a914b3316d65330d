package gapless

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
)

// TestRecordsAddUp stops the reader until the ring overflows, then lets readers
// come that are killed again and again, and at last one that stays: what is
// stored is what was sent, to the packet, the byte and the connection.
func TestRecordsAddUp(t *testing.T) {
	const kills = 20
	n := newNetwork(t)
	r := newReceiver(t, n)
	o, shared := n.node(t, bpf.Config{
		FlowEntries: 1 << 17, EndpointFlows: 1 << 17, RingBytes: 1 << 16,
		Idle:          bpf.IdleLimits{SYN: time.Hour, UDP: time.Hour},
		SweepInterval: 50 * time.Millisecond, OrphanedAfter: 100 * time.Millisecond,
	})
	d, err := bpf.Open(o.Datapath)
	must(t, err)
	must(t, o.prepare(d))
	apply(t, d, flow.SlotLive, revision(0))
	count := func(d *bpf.Datapath, name string) uint64 {
		t.Helper()
		counters, err := d.Counters()
		must(t, err)
		return counters[name]
	}
	list := classes([]kind{
		{"allowed, long", n.client, n.server, arrive, flow.UDP, 20000, open, 64, bySource, 32},
		{"allowed, new flow each", n.client, n.server, arrive, flow.UDP, 30000, open, 0, bySource, 2},
		{"allowed, new connection each", n.client, n.server, arrive, flow.TCP, 30000, open, 0, bySource, 2},
		{"forbidden by egress, long", n.client, n.server, never, flow.UDP, 20000, shut, 64, bySource, 8},
		{"forbidden by ingress, new flow each", n.client, n.server, never, flow.UDP, 30000, shutThere, 0, bySource, 2},
		{"answers of the allowed", n.server, n.client, arrive, flow.UDP, open, 20000, 64, byDestination, 32},
	})
	client, server := newSender(t, of(n.client, list)...), newSender(t, of(n.server, list)...)
	client.start(t, 40_000)
	server.start(t, 20_000)

	// Nobody reads, though the table is swept; then nobody does anything.
	for began := time.Now(); time.Since(began) < time.Second; time.Sleep(20 * time.Millisecond) {
		_, err := d.Sweep(t.Context())
		must(t, err)
	}
	full := count(d, "ring_full")
	if full == 0 {
		t.Error("the ring was never full")
	}
	must(t, d.Close())
	time.Sleep(300 * time.Millisecond) // no agent at all

	o.Store = filepath.Join(t.TempDir(), "records")
	random := rand.New(rand.NewPCG(2, kills))
	for range kills {
		opened, records := shared.Opened.Load(), shared.Records.Load()
		agent := startAgent(t, o)
		agent.await(t, "its first records", func() bool {
			return shared.Opened.Load() > opened && shared.Records.Load() > records
		})
		time.Sleep(time.Duration(random.IntN(20_000)) * time.Microsecond)
		agent.kill(t)
	}
	_, lost, slipped := n.compare(t, r, []*sender{client, server}, list)
	if lost != 0 || slipped != 0 {
		t.Errorf("%d allowed frames were lost, %d forbidden ones delivered", lost, slipped)
	}
	o.Datapath.Idle = bpf.IdleLimits{SYN: 1, UDP: 1}
	agent := startAgent(t, o)
	select {
	case err := <-agent.ended:
		if err != nil {
			t.Fatalf("the last reader: %v: %s", err, agent.stderr.String())
		}
	case <-time.After(30 * time.Second):
		t.Fatal(errors.Join(errors.New("flows are left after 30 s"), agent.cmd.Process.Kill()))
	}
	got, batches, twice := readStore(t, o.Store)
	want := n.expected(list)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("stored:\n%+v\nsent:\n%+v", got, want)
	}
	d = o.adopt(t)
	if lost := count(d, "unreported_packets"); lost != 0 {
		t.Errorf("%d packets found no room", lost)
	}
	var sum tally
	for _, one := range got {
		sum.Connections, sum.Packets, sum.Bytes = sum.Connections+one.Connections, sum.Packets+one.Packets, sum.Bytes+one.Bytes
	}
	t.Logf("%d packets, %d bytes, %d connections stored of as many sent; %d records in %d batches, %d readers killed, %d batches stored twice; "+
		"the ring was full %d times, %d sweeps by the kernel", sum.Packets, sum.Bytes, sum.Connections, shared.Records.Load(), batches,
		kills, twice, count(d, "ring_full"), count(d, "orphan_sweeps"))
}

// expected is what the two endpoints must have seen of the classes.
func (n *network) expected(list []*class) (sum []tally) {
	for _, c := range list {
		sent := c.sent.Load()
		one := tally{
			Family: c.family, Outcome: flow.OutcomeForwarded, Packets: sent,
			Bytes: sent * uint64(len(c.frames[0])), Connections: c.begun(),
		}
		if c.from == n.server {
			one.Connections = 0 // the client's
		}
		there := one
		one.Endpoint, there.Endpoint = n.client.id, n.server.id
		switch c.dport {
		case shut:
			one.Outcome, there = flow.OutcomeDropped, tally{}
		case shutThere:
			there.Outcome = flow.OutcomeDropped
		}
		sum = add(sum, one, there)
	}
	return sum
}
