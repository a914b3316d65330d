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
	endpoints []policy.End // a region has one
	regions   []region     // for regions with the same answer
	cuts      [2][]cut     // what its policy distinguishes, by direction
	single    bool         // a pod alone, whose traffic with itself no policy sees
}

// Connectivity judges every pair of workloads, and every workload with the world,
// by the evaluator: each protocol and each run of ports that no policy tells
// apart. Two workloads may connect where any of the endpoints may. progress, if
// set, hears of every source.
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
				out.add(source.name, ends[j].name, reach(source, &ends[j]))
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
			allowed := reach(w, &world[i])
			if d == flow.Ingress {
				allowed = reach(&world[i], w)
			}
			if len(allowed) > 0 {
				key := fmt.Sprint(allowed)
				groups[key], answers[key] = append(groups[key], world[i].regions...), allowed
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
	governed := map[string]policy.End{} // by the policies that select
	for i := range inv.Workloads {
		found := &inv.Workloads[i]
		key := fmt.Sprint(netpol.Selecting(w.Policies, all[i]))
		by, ok := governed[key]
		if !ok {
			by.Policy, _ = netpol.Sum(w.Policies, all[i])
			by.Evaluator = by.Evaluator.Resolve(by.Policy, all)
			governed[key] = by
		}
		e := end{name: found.Ref().String(), single: found.Kind == "Pod", endpoints: w.endpoints(found, by)}
		if by.Policy != nil {
			for _, one := range e.endpoints {
				e.cuts[0] = append(e.cuts[0], cutsOf(by.Policy, flow.Ingress, one.Named)...)
			}
			e.cuts[1] = cutsOf(by.Policy, flow.Egress, nil)
		}
		workloads = append(workloads, e)
	}
	for _, r := range regions(w.Policies) {
		facts := policy.PeerFacts{Addr: r.sample, Reserved: flow.IdentityWorld}
		world = append(world, end{name: r.String(), regions: []region{r}, endpoints: []policy.End{{PeerFacts: facts}}})
	}
	return workloads, world
}

// reach returns what any endpoint of source may reach of any of destination.
func reach(source, destination *end) []Allowed {
	var out []Allowed
	for _, protocol := range protocols {
		a := Allowed{Protocol: protocol}
		starts := starts(protocol, source, destination)
		for i, from := range starts {
			to := uint16(lastPort)
			if i+1 < len(starts) {
				to = starts[i+1] - 1
			}
			if !mayConnect(source, destination, protocol, from) {
				continue
			}
			if n := len(a.Ports); n > 0 && a.Ports[n-1].To+1 == from {
				a.Ports[n-1].To = to
			} else {
				a.Ports = append(a.Ports, Range{from, to})
			}
		}
		if len(a.Ports) > 0 {
			out = append(out, a)
		}
	}
	return out
}

func mayConnect(source, destination *end, protocol flow.Protocol, port uint16) bool {
	for i := range source.endpoints {
		for j := range destination.endpoints {
			if policy.MayConnect(&source.endpoints[i], &destination.endpoints[j], protocol, port) {
				return true
			}
		}
	}
	return false
}

// cut is a port at which a policy's answer may change.
type cut struct {
	protocol flow.Protocol
	at       uint32
	name     string // of the destination's port, in place of a number
}

// cutsOf returns where a policy's answer may change, for the named ports of its
// own endpoint, which are ingress's. Egress's are the destination's: they stay
// names.
func cutsOf(p *policy.Policy, d flow.Direction, own []policy.NamedPort) (out []cut) {
	if !p.Isolates(d) {
		return nil
	}
	for _, r := range p.Rules(d) {
		for _, q := range r.Ports {
			switch {
			case q.Name == "":
				out = append(out, cut{q.Protocol, uint32(q.Port), ""}, cut{q.Protocol, uint32(max(q.Port, q.EndPort)) + 1, ""})
			case d == flow.Egress:
				out = append(out, cut{protocol: q.Protocol, name: q.Name})
			default:
				out = append(out, numbered(cut{protocol: q.Protocol, name: q.Name}, own)...)
			}
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

// starts returns the first ports of the runs that neither end tells apart, in
// order.
func starts(protocol flow.Protocol, source, destination *end) []uint16 {
	out := []uint16{1}
	add := func(list []cut) {
		for _, c := range list {
			if c.protocol == protocol && c.at > 1 && c.at <= lastPort {
				out = append(out, uint16(c.at))
			}
		}
	}
	add(destination.cuts[0])
	for _, c := range source.cuts[1] {
		if c.name == "" {
			add([]cut{c})
			continue
		}
		for _, e := range destination.endpoints {
			add(numbered(c, e.Named))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// endpoints returns a workload's endpoints with what governs them; endpoints
// between which no policy can tell are one.
func (w *World) endpoints(found *workload, by policy.End) (out []policy.End) {
	by.PeerFacts = w.Index.Facts(found)
	seen := map[string]bool{}
	for _, e := range found.Endpoints {
		by.Named = e.Ports
		addresses := e.Addresses
		if len(addresses) == 0 {
			addresses = noAddress
		}
		for _, a := range addresses {
			by.Addr = a
			if key := fmt.Sprint(a, e.Ports); !seen[key] {
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
