// Package verdict tests the programs' verdict against policy.Evaluate, packet by
// packet: random policies, compiled by the real enforcer into the real datapath,
// and real frames through real interfaces in network namespaces of their own.
package verdict

import (
	"errors"
	"flag"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
)

// fixSeed makes a run repeatable unless -rapid.seed says otherwise, and prints
// what repeats it.
func fixSeed() error {
	flag.Parse()
	seed := flag.Lookup("rapid.seed")
	if seed == nil {
		return errors.New("flag rapid.seed: there is none")
	}
	// The seed repeats a failure; a file of it would only lie about.
	if err := flag.Set("rapid.nofailfile", "true"); err != nil {
		return err
	}
	if seed.Value.String() != "0" {
		fmt.Println("seed", seed.Value)
		return nil
	}
	fmt.Println("seed 1; -rapid.seed=N tries others")
	return flag.Set("rapid.seed", "1")
}

// tally counts what was compared.
type tally struct {
	policies, frames, comparisons int
	// by direction, family and whether it was delivered
	delivered map[string]int
	reasons   map[flow.Reason]int
}

func newTally() *tally { return &tally{delivered: map[string]int{}, reasons: map[flow.Reason]int{}} }

func (c *tally) count(f *frame, d flow.Direction, through bool, live, staged flow.Judgement) {
	c.comparisons++
	c.delivered[bucket(d, f.own.Is6(), through)]++
	c.reasons[live.Reason]++
	c.reasons[staged.Reason]++
}

func bucket(d flow.Direction, v6, through bool) string {
	family, what := "IPv4", "dropped"
	if v6 {
		family = "IPv6"
	}
	if through {
		what = "delivered"
	}
	return fmt.Sprintf("%s %s %s", d, family, what)
}

// report prints the counts, and fails where something was never tried.
func (c *tally) report(t *testing.T, directions ...flow.Direction) {
	t.Helper()
	fmt.Printf("%s: %d policies, %d frames, %d comparisons\n  %v\n  reasons %v\n", t.Name(), c.policies, c.frames, c.comparisons, c.delivered, c.reasons)
	for _, d := range directions {
		for _, v6 := range []bool{false, true} {
			for _, through := range []bool{false, true} {
				if b := bucket(d, v6, through); c.delivered[b] == 0 {
					t.Errorf("no frame was %s", b)
				}
			}
		}
	}
}

// judged is a frame with what was said of its flow, and must be said again.
type judged struct {
	*frame
	direction    flow.Direction
	live, staged flow.Judgement
	outcome      flow.Outcome
}

// round sends frames and compares what became of them with what the evaluator
// says. before has what they were judged as in the round before; in the first
// one it is nil, and each frame begins a flow.
func (n *node) round(t rapid.TB, c *tally, what string, frames []*frame, before map[*frame]judged, live, staged slot, fresh, panicked bool) map[*frame]judged {
	arrived := n.send(t, frames)
	records := map[seen]flow.Record{}
	for _, r := range n.records(t) {
		at := seen{r.Endpoint, r.Key}
		if was, ok := records[at]; ok {
			t.Fatalf("%s: two records of one frame: %+v and %+v", what, was, r)
		}
		records[at] = r
	}
	out := map[*frame]judged{}
	for _, f := range frames {
		c.frames++
		d := f.direction(live, fresh)
		if before != nil && !f.silent() {
			d = before[f].direction
		}
		j := judged{frame: f, direction: d, live: f.judge(live, d), staged: f.judge(staged, d)}
		j.outcome = outcomeOf(j.live, j.staged, panicked)
		if f.own == f.peer.Addr {
			j.outcome = flow.OutcomeForwarded
		}
		out[f] = j
		through := j.outcome != flow.OutcomeDropped
		c.count(f, d, through, j.live, j.staged)
		if arrived[f] != through {
			t.Fatalf("%s: %s: delivered %t, want %+v%s", what, f, arrived[f], j, explain(live, staged))
		}
		r, ok := records[f.seen()]
		delete(records, f.seen())
		was, known := before[f]
		wanted := !f.silent() && (!known || was.live != j.live || was.staged != j.staged || was.outcome != j.outcome)
		if ok != wanted {
			t.Fatalf("%s: %s: record %t, want %t: %+v%s", what, f, ok, wanted, r, explain(live, staged))
		}
		if !ok {
			continue
		}
		event := flow.EventNew
		if known {
			event = flow.EventVerdict
		}
		if r.Event != event || r.Direction != d || r.Live != j.live || r.Staged != j.staged || r.Outcome != j.outcome {
			t.Fatalf("%s: %s:\n got  %s %s live %+v staged %+v %s\n want %s %s live %+v staged %+v %s%s", what, f,
				r.Event, r.Direction, r.Live, r.Staged, r.Outcome, event, d, j.live, j.staged, j.outcome, explain(live, staged))
		}
	}
	for at, r := range records {
		t.Fatalf("%s: record of %+v that nobody sent: %+v", what, at, r)
	}
	return out
}

func explain(live, staged slot) string {
	text := ""
	for i, s := range []slot{live, staged} {
		if s.p != nil {
			text += fmt.Sprintf("\n %s: %s\n  beside %+v", flow.Slot(i), s.p.Canonical(), s.beside)
		}
	}
	return text
}

// batch is how many frames a policy is asked about.
const batch = 40

// drawPolicy isolates both directions more often than policytest does: one that
// is open decides every flow of unknown direction.
var drawPolicy = rapid.Custom(func(t *rapid.T) policy.Policy {
	p := policytest.Policy(t)
	if rapid.IntRange(0, 2).Draw(t, "isolate both") > 0 {
		p.IsolateIngress, p.IsolateEgress = true, true
	}
	return p
})

// TestVerdict compares new flows, the same flows under the next policies, and
// under panic.
func TestVerdict(t *testing.T) {
	n := newNode(t, instant)
	c := newTally()
	rapid.Check(t, func(t *rapid.T) {
		n.begin(t)
		a, b := drawPolicy.Draw(t, "a"), drawPolicy.Draw(t, "b")
		frames := drawBatch(t, map[tuple]bool{}, &a, &b)
		c.policies += 2

		live, staged := drawSlots(t, n, &a, &b)
		n.apply(t, live, staged)
		state := n.round(t, c, "new", frames, nil, live, staged, false, false)

		live, staged = drawSlots(t, n, &b, &a)
		n.apply(t, live, staged)
		state = n.round(t, c, "judged again", frames, state, live, staged, false, false)

		n.panic(t, true)
		n.round(t, c, "panic", frames, state, live, staged, false, true)
	})
	c.report(t, flow.Ingress, flow.Egress, flow.DirectionUnknown)
}

// TestVerdictOfFreshEndpoint compares flows whose direction a fresh endpoint
// cannot know.
func TestVerdictOfFreshEndpoint(t *testing.T) {
	n := newNode(t, fresh)
	c := newTally()
	used := map[tuple]bool{} // over all policies: these flows stay
	rapid.Check(t, func(t *rapid.T) {
		n.records(t)
		a, b := drawPolicy.Draw(t, "a"), drawPolicy.Draw(t, "b")
		frames := drawBatch(t, used, &a, &b)
		c.policies += 2
		live, staged := drawSlots(t, n, &a, &b)
		n.apply(t, live, staged)
		n.round(t, c, "new", frames, nil, live, staged, true, false)
	})
	c.report(t, flow.Ingress, flow.Egress, flow.DirectionUnknown)
}

// TestVerdictWithoutState compares what is decided when there is no room for a
// flow: what does not begin one by itself may as well be an answer.
func TestVerdictWithoutState(t *testing.T) {
	n := newNode(t, stateless)
	n.fill(t)
	c := newTally()
	rapid.Check(t, func(t *rapid.T) {
		n.records(t)
		a, b := drawPolicy.Draw(t, "a"), drawPolicy.Draw(t, "b")
		frames := drawBatch(t, map[tuple]bool{}, &a)
		c.policies++
		live, staged := drawSlots(t, n, &a, &b)
		n.apply(t, live, staged)
		arrived := n.send(t, frames)
		for _, f := range frames {
			c.frames++
			d := f.direction(live, false)
			if !f.shakesHands() && !f.icmp() {
				d = flow.DirectionUnknown
			}
			said := f.judge(live, d)
			through := said.Verdict != flow.VerdictDeny || f.own == f.peer.Addr
			c.count(f, d, through, said, flow.Judgement{})
			if arrived[f] != through {
				t.Fatalf("%s: delivered %t, want %s %+v%s", f, arrived[f], d, said, explain(live, staged))
			}
		}
		if r := n.records(t); len(r) > 0 {
			t.Fatalf("records of flows without room: %+v", r)
		}
	})
	c.report(t, flow.Ingress, flow.Egress, flow.DirectionUnknown)
}

// TestVerdictOfPending compares flows with peers that nobody knows yet, under
// either answer.
func TestVerdictOfPending(t *testing.T) {
	n := newNode(t, instant)
	c := newTally()
	rapid.Check(t, func(t *rapid.T) {
		n.begin(t)
		a, b := drawPolicy.Draw(t, "a"), drawPolicy.Draw(t, "b")
		frames := drawBatch(t, map[tuple]bool{}, &a, &b)
		for _, f := range frames {
			if f.peer.Reserved == flow.IdentityWorld {
				f.peer.Reserved = flow.IdentityUnknown
			}
		}
		c.policies += 2
		n.pend(t, rapid.SampledFrom([]flow.Verdict{flow.VerdictAllow, flow.VerdictDeny}).Draw(t, "pending"))
		live, staged := drawSlots(t, n, &a, &b)
		n.apply(t, live, staged)
		state := n.round(t, c, "new", frames, nil, live, staged, false, false)

		n.pend(t, flow.VerdictAllow+flow.VerdictDeny-n.pending)
		live.beside.Pending, staged.beside.Pending = n.pending, n.pending
		n.round(t, c, "the other answer", frames, state, live, staged, false, false)
	})
	c.report(t, flow.Ingress, flow.Egress, flow.DirectionUnknown)
	if c.reasons[flow.ReasonPending] == 0 || c.reasons[flow.ReasonGuardrail] == 0 {
		t.Error("nothing was pending, or nothing guarded")
	}
}

// pend makes nobody know the strangers, and answer what is done to them.
func (n *node) pend(t rapid.TB, answer flow.Verdict) {
	n.pending = answer
	var owners []bpf.AddressOwner
	for _, a := range policytest.Strangers() {
		owners = append(owners, bpf.AddressOwner{Addr: a})
	}
	for i := range n.world.Nodes {
		node, id := &n.world.Nodes[i], flow.IdentityRemoteNode
		if node.Name == policytest.Node {
			id, node.Pending = flow.IdentityHost, answer // when policies are applied next
		}
		for _, a := range node.Addresses {
			owners = append(owners, bpf.AddressOwner{Addr: a, Identity: id})
		}
	}
	for _, w := range n.world.Workloads {
		for _, e := range w.Endpoints {
			for _, a := range e.Addresses {
				owners = append(owners, bpf.AddressOwner{Addr: a, Identity: w.Identity, Endpoint: e.ID})
			}
		}
	}
	if _, err := n.dp.SetAddresses(owners); err != nil {
		t.Fatal(err)
	}
	if err := n.dp.SetPending(answer); err != nil {
		t.Fatal(err)
	}
}

// begin takes back what the last run, also one that failed, left.
func (n *node) begin(t rapid.TB) {
	n.panic(t, false)
	n.forget(t)
}

func (n *node) panic(t rapid.TB, on bool) {
	if n.dp.Panicked() == on {
		return
	}
	if err := n.dp.Panic(on); err != nil {
		t.Fatal(err)
	}
}

// fill takes the room that stateless leaves.
func (n *node) fill(t *testing.T) {
	t.Helper()
	for _, host := range []bool{false, true} {
		f := &frame{host: host, own: local(host, false), peer: peers(host)[0], protocol: flow.UDP, sport: 9, dport: 9}
		if !n.send(t, []*frame{f})[f] {
			t.Fatal("the flow that fills the table did not pass")
		}
	}
	if r := n.records(t); len(r) != 2 {
		t.Fatalf("%d records of two flows that fill the table", len(r))
	}
}
