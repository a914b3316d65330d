package conformance

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/matcher"

	corev1 "k8s.io/api/core/v1"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/netpol"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/test/wire"
)

// cell is one connection that may or may not be: from a pod or a stranger, to a
// pod or a stranger, on a port.
type cell struct {
	*probe.Job
	cluster  *cluster
	from, to *probe.Pod // nil for a stranger
	protocol flow.Protocol
	port     uint16
}

func (c *cell) String() string {
	return fmt.Sprintf("%s (%s) to %s (%s) %s port %d", c.FromKey, c.FromIP, c.ToKey, c.ToIP, c.protocol, c.port)
}

// cells returns what a probe asks, also of strangers.
func (c *cluster) cells(config *generator.ProbeConfig, strangers []string) ([]*cell, error) {
	all := *c.resources
	for _, s := range strangers {
		pod := &probe.Pod{Name: s, IP: c.in(s).String()}
		for _, port := range all.Pods[0].Containers {
			unnamed := *port
			unnamed.PortName = ""
			pod.Containers = append(pod.Containers, &unnamed)
		}
		all.Pods = append(slices.Clone(all.Pods), pod)
	}
	jobs := (&probe.JobBuilder{}).GetJobsForProbeConfig(&all, config)
	if n := len(jobs.BadNamedPort) + len(jobs.BadPortProtocol); n > 0 {
		return nil, fmt.Errorf("%d cells ask for ports that nobody has", n)
	}
	pods := map[string]*probe.Pod{}
	for _, pod := range c.resources.Pods {
		pods[pod.PodString().String()] = pod
	}
	var out []*cell
	for _, j := range jobs.Valid {
		if j.FromNamespace == "" && j.ToNamespace == "" {
			continue
		}
		out = append(out, &cell{
			Job: j, cluster: c, from: pods[j.FromKey], to: pods[j.ToKey], protocol: protocolOf(j.Protocol), port: uint16(j.ResolvedPort),
		})
	}
	return out, nil
}

// traffic is the cell as the suite's matcher takes it.
func (c *cell) traffic() *matcher.Traffic {
	t := c.Traffic()
	if c.from == nil {
		t.Source.Internal = nil
	}
	if c.to == nil {
		t.Destination.Internal = nil
	}
	return t
}

func (c *cell) source() netip.Addr      { return netip.MustParseAddr(c.FromIP) }
func (c *cell) destination() netip.Addr { return netip.MustParseAddr(c.ToIP) }

// answer is what one judge says of one direction.
type answer struct {
	verdict flow.Verdict
	reason  flow.Reason
}

func (a answer) String() string { return fmt.Sprintf("%s (%s)", a.verdict, a.reason) }

// end is one side of a cell that is a pod, and so is judged.
type end struct {
	pod       *probe.Pod
	direction flow.Direction
	peer      policy.PeerFacts
}

func (e end) place() int { return placeOf(e.pod.PodString().String()) }

// ends returns the sides of a cell that are judged, the sender's first.
func (c *cell) ends() []end {
	facts := func(pod *probe.Pod, addr netip.Addr) policy.PeerFacts {
		if pod == nil {
			return policy.PeerFacts{Addr: addr, Reserved: flow.IdentityWorld}
		}
		return c.cluster.peerFacts(pod)
	}
	var out []end
	if c.from != nil {
		out = append(out, end{c.from, flow.Egress, facts(c.to, c.destination())})
	}
	if c.to != nil {
		out = append(out, end{c.to, flow.Ingress, facts(c.from, c.source())})
	}
	return out
}

// judged is what the evaluator said of a cell, which the others must say too.
type judged struct {
	*cell
	answers map[flow.Direction]answer
	whole   *shot // from one end to the other
	behind  *shot // to the receiver alone, where the sender may not send
}

func (j *judged) allowed(d flow.Direction) bool { return j.answers[d].verdict != flow.VerdictDeny }

// placeAt is where a pod is; strangers are far.
func placeAt(pod *probe.Pod) int {
	if pod == nil {
		return -1
	}
	return placeOf(pod.PodString().String())
}

// ask has the evaluator judge every cell, and prepares the frames that ask the
// kernel.
func (n *node) ask(cells []*cell, all policies) ([]*judged, []*shot) {
	var out []*judged
	var shots []*shot
	for _, c := range cells {
		j := &judged{cell: c, answers: map[flow.Direction]answer{}}
		for _, e := range c.ends() {
			said := policy.Evaluator{Own: named(e.pod)}.Evaluate(all[e.pod.PodString().String()], policy.Facts{
				Direction: e.direction, Peer: e.peer, Protocol: c.protocol, Port: c.port,
			})
			j.answers[e.direction] = answer{said.Verdict, said.Reason}
		}
		frame := wire.Packet{
			Source: c.source(), Destination: c.destination(), Protocol: c.protocol, SPort: n.client, DPort: c.port, Flags: "S",
		}
		j.whole = &shot{packet: frame, in: placeAt(c.from), out: placeAt(c.to)}
		shots = append(shots, j.whole)
		if !j.allowed(flow.Egress) && c.to != nil {
			j.behind = &shot{packet: frame, in: -1, out: placeAt(c.to)}
			shots = append(shots, j.behind)
		}
		out = append(out, j)
	}
	return out, shots
}

// Ports that the senders use, none of them a server's. Each comparison has one
// of its own, so that its flows are new.
const firstClient, lastClient = 20000, 60000

// compare asks the evaluator with policies, the compiled tables, and the kernel
// about every cell, and returns what they disagree on.
func (n *node) compare(cells []*cell, all policies) ([]*judged, []string, error) {
	if err := n.renew(2 * len(cells)); err != nil {
		return nil, nil, err
	}
	list, shots := n.ask(cells, all)
	if err := n.send(shots); err != nil {
		return nil, nil, err
	}
	records, err := n.records()
	if err != nil {
		return nil, nil, err
	}
	var wrong []string
	for _, j := range list {
		wrong = append(wrong, n.disagreements(j, records)...)
	}
	for at := range maps.Keys(records) {
		wrong = append(wrong, fmt.Sprintf("record of a flow that nobody sent: %+v", at))
	}
	return list, wrong, nil
}

// disagreements compares one cell, and takes its records out.
func (n *node) disagreements(j *judged, records map[seen]flow.Record) []string {
	var out []string
	complain := func(format string, args ...any) { out = append(out, j.String()+": "+fmt.Sprintf(format, args...)) }
	key := flow.Key{Source: j.source(), Destination: j.destination(), SourcePort: n.client, DestinationPort: j.port, Protocol: j.protocol}
	for _, e := range j.ends() {
		want := j.answers[e.direction]
		place := e.place()
		if got := n.dp.judge(identityOf(place), e.direction, e.peer.Addr, j.protocol, j.port); got != want {
			complain("%s: the compiled table says %s, the evaluator %s", e.direction, got, want)
		}
		at := seen{uint32(place + 1), key}
		r, ok := records[at]
		delete(records, at)
		if !ok || r.Direction != e.direction {
			complain("%s: the kernel recorded %t %+v", e.direction, ok, r)
			continue
		}
		if got := (answer{r.Live.Verdict, r.Live.Reason}); got != want {
			complain("%s: the kernel says %s, the evaluator %s", e.direction, got, want)
		}
	}
	if through := j.allowed(flow.Egress) && j.allowed(flow.Ingress); j.whole.arrived != through {
		complain("delivered %t, the evaluator says %t", j.whole.arrived, through)
	}
	if j.behind != nil && j.behind.arrived != j.allowed(flow.Ingress) {
		complain("delivered to the receiver alone %t, the evaluator says %t", j.behind.arrived, j.allowed(flow.Ingress))
	}
	return out
}

func protocolOf(p corev1.Protocol) flow.Protocol {
	out, err := netpol.Protocol(p)
	if err != nil {
		panic(err)
	}
	return out
}
