package manifests

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/netpol"
	"github.com/ringfence/ringfence/internal/policy"
)

// Connectivity is who may reach whom.
type Connectivity struct {
	Workloads int      `json:"workloads"`
	Policies  int      `json:"policies"`
	Cells     []Cell   `json:"cells"` // ordered by source and destination
	Notes     []string `json:"notes,omitempty"`
}

// Cell is what one source may reach of one destination. An end is a workload, as
// namespace/kind/name, a block of addresses that nobody here owns, or "world",
// which is all of those.
type Cell struct {
	Source      string    `json:"source"`
	Destination string    `json:"destination"`
	Allowed     []Allowed `json:"allowed"` // by protocol
}

// Allowed are the ports of one protocol.
type Allowed struct {
	Protocol flow.Protocol `json:"protocol"`
	Ports    []Range       `json:"ports"`
}

// Range is an inclusive range of ports, from 1 to 65535.
type Range struct {
	From uint16 `json:"from"`
	To   uint16 `json:"to"`
}

// lastPort is the highest port there is.
const lastPort = 65535

// Protocols is how many protocols cells tell apart: those that a NetworkPolicy can
// name.
const Protocols = 3

var protocols = [Protocols]flow.Protocol{flow.TCP, flow.UDP, flow.SCTP}

func (r Range) String() string {
	if r.From == r.To {
		return strconv.Itoa(int(r.From))
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}

// PortsText returns "80,443,8000-8010", or "any".
func (a Allowed) PortsText() string {
	if len(a.Ports) == 1 && a.Ports[0] == (Range{1, lastPort}) {
		return "any"
	}
	texts := make([]string, len(a.Ports))
	for i, r := range a.Ports {
		texts[i] = r.String()
	}
	return strings.Join(texts, ",")
}

// end is one end of cells: all endpoints of a workload, or a region of addresses.
type end struct {
	name      string
	endpoints []endpoint // a region has one
	regions   []region
	single    bool // a pod alone, whose traffic with itself no policy sees
}

// Connectivity judges every pair of workloads, and every workload with the world,
// by the evaluator: each protocol and each run of ports that no policy tells
// apart. Two workloads may connect where any of the endpoints may. progress, if
// set, hears of every source.
//
// What a policy says of a peer is asked once for all peers that the same rules
// mean, so a pair costs no more than finding out which those are.
func (w *World) Connectivity(ctx context.Context, progress func(done, total int)) (Connectivity, error) {
	ends, world := w.ends()
	out := Connectivity{Workloads: len(ends), Policies: len(w.Policies), Cells: []Cell{}, Notes: w.Notes}
	for i := range ends {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		source := &ends[i]
		for j := range ends {
			if i != j || !source.single {
				out.add(source.name, ends[j].name, reach(source, &ends[j]).allowed())
			}
		}
		out.outside(source, world)
		if progress != nil {
			progress(i+1, len(ends))
		}
	}
	slices.SortStableFunc(out.Cells, func(a, b Cell) int {
		return cmp.Or(strings.Compare(a.Source, b.Source), strings.Compare(a.Destination, b.Destination))
	})
	return out, nil
}

func (c *Connectivity) add(source, destination string, allowed []Allowed) {
	if len(allowed) > 0 {
		c.Cells = append(c.Cells, Cell{source, destination, allowed})
	}
}

// outside adds what a workload and the regions of the world may do; regions with
// the same answer share a cell.
func (c *Connectivity) outside(w *end, world []end) {
	var all []region
	for i := range world {
		all = append(all, world[i].regions...)
	}
	for _, d := range []flow.Direction{flow.Egress, flow.Ingress} {
		groups := map[string][]region{}
		answers := map[string][]Allowed{}
		for i := range world {
			found := reach(w, &world[i])
			if d == flow.Ingress {
				found = reach(&world[i], w)
			}
			if key := found.key(); key != "" {
				groups[key], answers[key] = append(groups[key], world[i].regions...), found.allowed()
			}
		}
		for key, regions := range groups {
			for _, name := range names(regions, all) {
				if d == flow.Egress {
					c.add(w.name, name, answers[key])
				} else {
					c.add(name, w.name, answers[key])
				}
			}
		}
	}
}

// ends returns the workloads, and the regions that policies tell apart.
func (w *World) ends() (workloads, world []end) {
	inv := w.Index.Inventory()
	all := w.Index.All()
	apart := regions(w.Policies)
	governed := map[string]endpoint{} // by the policies that select
	for i := range inv.Workloads {
		found := &inv.Workloads[i]
		key := fmt.Sprint(netpol.Selecting(w.Policies, all[i]))
		by, ok := governed[key]
		if !ok {
			by.Policy, _ = netpol.Sum(w.Policies, all[i])
			by.Evaluator = by.Evaluator.Resolve(by.Policy, all)
			by.says = [...]*side{newSide(by.Policy, flow.Ingress), newSide(by.Policy, flow.Egress)}
			governed[key] = by
		}
		workloads = append(workloads, end{name: found.Ref().String(), single: found.Kind == "Pod", endpoints: w.endpoints(found, by, apart)})
	}
	for _, r := range apart {
		facts := policy.PeerFacts{Addr: r.sample, Reserved: flow.IdentityWorld}
		world = append(world, end{name: r.String(), regions: []region{r}, endpoints: []endpoint{{End: policy.End{PeerFacts: facts}}}})
	}
	return workloads, world
}

// cut is a port at which a policy's answer may change.
type cut struct {
	protocol flow.Protocol
	at       uint32
	name     string // of the destination's port, in place of a number
}

// cutsOf returns where a policy's answer may change.
func cutsOf(p *policy.Policy, d flow.Direction) (out []cut) {
	for _, r := range p.Rules(d) {
		for _, q := range r.Ports {
			if q.Name != "" {
				out = append(out, cut{protocol: q.Protocol, name: q.Name})
				continue
			}
			out = append(out, cut{q.Protocol, uint32(q.Port), ""}, cut{q.Protocol, uint32(max(q.Port, q.EndPort)) + 1, ""})
		}
	}
	return out
}

func numbered(c cut, list []policy.NamedPort) (out []cut) {
	for _, n := range list {
		if n.Name == c.name && n.Protocol == c.protocol {
			out = append(out, cut{c.protocol, uint32(n.Port), ""}, cut{c.protocol, uint32(n.Port) + 1, ""})
		}
	}
	return out
}

// starts returns the first ports of the runs of a protocol that cuts leave, in
// order, for the named ports of the destination.
func starts(protocol flow.Protocol, cuts []cut, named []policy.NamedPort) []uint16 {
	out := []uint16{1}
	add := func(list ...cut) {
		for _, c := range list {
			if c.protocol == protocol && c.at > 1 && c.at <= lastPort {
				out = append(out, uint16(c.at))
			}
		}
	}
	for _, c := range cuts {
		if c.name == "" {
			add(c)
		} else {
			add(numbered(c, named)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// endpoints returns a workload's endpoints with what governs them; endpoints
// between which no policy can tell are one.
func (w *World) endpoints(found *workload, by endpoint, apart []region) (out []endpoint) {
	by.PeerFacts = w.Index.Facts(found)
	seen := map[string]bool{}
	for _, e := range found.Endpoints {
		by.Named, by.named = e.Ports, fmt.Sprint(e.Ports)
		addresses := e.Addresses
		if len(addresses) == 0 {
			addresses = noAddress
		}
		for _, a := range addresses {
			by.Addr = a
			at := slices.IndexFunc(apart, func(r region) bool { return r.holds(a) })
			if key := fmt.Sprint(at, by.named); !seen[key] {
				seen[key] = true
				out = append(out, by)
			}
		}
	}
	return out
}

// govern returns what governs a workload.
func (w *World) govern(found *workload) (policy.End, error) {
	p, from := netpol.Sum(w.Policies, w.Index.Facts(found))
	return policy.End{Policy: p, From: from}, nil
}
