package gapless

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
)

// plan is how much changes under the traffic.
type plan struct {
	swaps    uint64
	kills    int
	upgrades int
	gap      gap
}

// rates of frames a second, all senders together.
const (
	rateClient = 105_000
	rateServer = 30_000
	rateEvil   = 5_000
	rateTold   = 100_000 // what the test promises
)

// TestChangesUnderTraffic swaps policies, kills agents and upgrades them while
// frames pass, and wants every allowed one delivered and no forbidden one.
func TestChangesUnderTraffic(t *testing.T) {
	lost, slipped := change(t, plan{swaps: 10_000, kills: 100, upgrades: 100})
	if lost != 0 || slipped != 0 {
		t.Errorf("%d allowed frames were lost, %d forbidden ones delivered", lost, slipped)
	}
}

// TestControls makes the same test fail: it would see a gap if there were one.
func TestControls(t *testing.T) {
	for _, g := range []gap{reattach, empty} {
		t.Run(string(g), func(t *testing.T) {
			lost, slipped := change(t, plan{swaps: 1500, kills: 5, upgrades: 5, gap: g})
			if lost == 0 && slipped == 0 {
				t.Error("every allowed frame was delivered and no forbidden one: the test does not see gaps")
			}
		})
	}
}

// change returns how many allowed frames were lost, and how many forbidden ones
// delivered, while agents carry out the plan.
func change(t *testing.T, p plan) (lost, slipped uint64) {
	t.Helper()
	n := newNetwork(t)
	r := newReceiver(t, n)
	o, shared := n.node(t, bpf.Config{
		FlowEntries: 1 << 17, EndpointFlows: 1 << 17, RingBytes: 16 << 20, Addresses: 64, CIDRs: 64,
		Idle:          bpf.IdleLimits{SYN: 5 * time.Second, UDP: 5 * time.Second},
		OrphanedAfter: 2 * time.Second,
	})
	o.Gap = p.gap
	list := classes(append(n.kinds(),
		kind{"allowed by every other revision", n.client, n.server, flip, flow.UDP, 20000, flipping, 16, bySource, 16},
		kind{"answers of nothing", n.server, n.client, never, flow.UDP, open, 10000, 64, byDestination, 16},
	))
	agent := startAgent(t, o)
	agent.await(t, "its first policies", func() bool { return shared.Swaps.Load() > 1 })

	senders := n.send(t, list, rateClient, rateServer, rateEvil)
	began := time.Now()
	changes := o.carryOut(t, p, agent, shared)
	took := time.Since(began)
	sent, lost, slipped := n.compare(t, r, senders, list)
	for _, c := range list {
		// Starting an agent takes effect too; most swaps must do without.
		if seen := r.arrival(t, c.number).Gaps; c.want == flip && seen < p.swaps/20 {
			t.Errorf("%s: seen to go off %d times: swaps take no effect", c.name, seen)
		}
	}
	rate := 0.0
	for _, s := range senders {
		rate += float64(s.sent()) / s.elapsed.Seconds()
	}
	t.Logf("%d frames in %.1f s, %.0f a second; %s; %d flows reported; lost %d, slipped through %d",
		sent, took.Seconds(), rate, changes, shared.Records.Load(), lost, slipped)
	if rate < rateTold {
		t.Errorf("%.0f frames a second, want %d: the machine is too busy for this test", rate, rateTold)
	}
	o.check(t)
	return lost, slipped
}

// carryOut replaces agent by others until the plan is done.
func (o *orders) carryOut(t *testing.T, p plan, agent *process, shared *notes) string {
	t.Helper()
	random := rand.New(rand.NewPCG(1, uint64(p.kills)))
	life := p.swaps / uint64(p.kills+p.upgrades)
	unready, opened := 0, shared.Opened.Load()
	for i := range p.kills + p.upgrades {
		until := shared.Swaps.Load() + random.Uint64N(2*life)
		kill, early := i%2 == 0, i%8 == 2
		if early {
			// Before it is done with what it found.
			time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
			unready++
		} else {
			agent.await(t, "its swaps", func() bool { return shared.Opened.Load() >= opened && shared.Swaps.Load() >= until })
			time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond)
		}
		if kill {
			agent.kill(t)
		} else {
			agent.stop(t)
			o.Datapath.FlowEntries += 256
		}
		opened = shared.Opened.Load() + 1
		agent = startAgent(t, *o)
	}
	agent.await(t, "the last swaps", func() bool { return shared.Opened.Load() >= opened && shared.Swaps.Load() >= p.swaps })
	agent.stop(t)
	return fmt.Sprintf("%d swaps, %d kill -9 (%d at the start), %d upgrades, %d sweeps",
		shared.Swaps.Load(), p.kills, unready, p.upgrades, shared.Sweeps.Load())
}

// check wants flows to have had room, without which verdicts are others, and
// each upgrade to have made the table larger.
func (o *orders) check(t *testing.T) {
	t.Helper()
	d := o.adopt(t)
	if got := d.Capacity().Flows; got != int(o.Datapath.FlowEntries) {
		t.Errorf("the flow table has room for %d flows after the upgrades, want %d", got, o.Datapath.FlowEntries)
	}
	counters, err := d.Counters()
	must(t, err)
	for _, name := range []string{"table_full", "quota", "malformed", "spoofed"} {
		if counters[name] != 0 {
			t.Errorf("counter %s is %d", name, counters[name])
		}
	}
}

// send starts a sender for each host. Answers come after what they answer.
func (n *network) send(t *testing.T, list []*class, rates ...int) (senders []*sender) {
	t.Helper()
	for i, h := range n.hosts() {
		s := newSender(t, of(h, list)...)
		s.start(t, rates[i])
		senders = append(senders, s)
	}
	return senders
}

// compare ends the senders, and compares what they sent with what arrived.
func (n *network) compare(t *testing.T, r *receiver, senders []*sender, list []*class) (sent, lost, slipped uint64) {
	t.Helper()
	for _, s := range senders {
		s.halt(t)
	}
	r.settle(t)
	for _, c := range list {
		l, s := c.verdict(t, r)
		sent, lost, slipped = sent+c.sent.Load(), lost+l, slipped+s
		t.Logf("%-42s sent %9d, arrived %9d%s", c.name, c.sent.Load(), r.arrival(t, c.number).Packets, c.remark(t, r))
	}
	return sent, lost, slipped
}

// remark tells of a flipping class how often it was seen to flip.
func (c *class) remark(t testing.TB, r *receiver) string {
	t.Helper()
	if c.want != flip {
		return ""
	}
	return fmt.Sprintf(", off %d times", r.arrival(t, c.number).Gaps)
}

// kind is a class of both families.
type kind struct {
	name         string
	from, to     *host
	want         want
	protocol     flow.Protocol
	sport, dport uint16
	flows        int
	spread       spread
	share        int
}

// classes numbers kinds of frames, for each family one.
func classes(kinds []kind) (list []*class) {
	for _, k := range kinds {
		for _, family := range []int{4, 6} {
			list = append(list, &class{
				name: fmt.Sprintf("IPv%d %s", family, k.name), number: uint32(len(list)),
				from: k.from, to: k.to, want: k.want, family: family, protocol: k.protocol,
				sport: k.sport, dport: k.dport, flows: k.flows, spread: k.spread, share: k.share,
			})
		}
	}
	return list
}

// of returns the classes that h sends.
func of(h *host, list []*class) (out []*class) {
	for _, c := range list {
		if c.from == h {
			out = append(out, c)
		}
	}
	return out
}

// kinds are what the client, the server and the evil host send, and what must
// happen to it under every revision.
func (n *network) kinds() []kind {
	client, server, evil := n.client, n.server, n.evil
	return []kind{
		{"allowed, long", client, server, arrive, flow.UDP, 20000, open, 64, bySource, 64},
		{"allowed, new flow each", client, server, arrive, flow.UDP, 40000, open, 0, bySource, 1},
		{"allowed, new connection each", client, server, arrive, flow.TCP, 40000, open, 0, bySource, 1},
		{"forbidden by egress, long", client, server, never, flow.UDP, 20000, shut, 64, bySource, 16},
		{"forbidden by egress, new flow each", client, server, never, flow.UDP, 40000, shut, 0, bySource, 1},
		{"forbidden by ingress, long", client, server, never, flow.UDP, 20000, shutThere, 64, bySource, 16},
		{"forbidden by ingress, new flow each", client, server, never, flow.UDP, 40000, shutThere, 0, bySource, 1},
		{"answers of the allowed", server, client, arrive, flow.UDP, open, 20000, 64, byDestination, 32},
		{"forbidden, no answer to anything", server, client, never, flow.UDP, decoy, 10000, 64, byDestination, 16},
		{"forbidden source, long", evil, server, never, flow.UDP, 20000, open, 64, bySource, 16},
		{"forbidden destination, long", evil, client, never, flow.UDP, 20000, open, 64, bySource, 16},
	}
}
