package enforcer

import (
	"fmt"
	"maps"
	"slices"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// endpoints returns what node must watch, by workload.
func endpoints(inv *inventory.Inventory, node string) map[flow.Workload][]bpf.Endpoint {
	out := map[flow.Workload][]bpf.Endpoint{}
	for i := range inv.Workloads {
		w := &inv.Workloads[i]
		for _, e := range w.Endpoints {
			if e.Node == node && e.Interface != "" {
				out[w.Ref()] = append(out[w.Ref()], bpf.Endpoint{
					Interface: e.Interface, ID: e.ID, Identity: w.Identity, Host: e.Host, Tunnels: tunnels(e.Tunnels),
				})
			}
		}
	}
	return out
}

// tunnels leaves out names that the inventory would have refused.
func tunnels(names []inventory.Tunnel) bpf.Tunnels {
	var set bpf.Tunnels
	for _, name := range names {
		switch name {
		case inventory.TunnelVXLAN:
			set |= bpf.TunnelVXLAN
		case inventory.TunnelGENEVE:
			set |= bpf.TunnelGENEVE
		case inventory.TunnelGRE:
			set |= bpf.TunnelGRE
		case inventory.TunnelIPIP:
			set |= bpf.TunnelIPIP
		}
	}
	return set
}

// wanted is what each interface of the node should be watched as, by name. An
// interface that no endpoint names and a rule picks is watched as somebody whom
// nobody knows yet.
func (e *Enforcer) wanted(p *plan) (map[string]bpf.Endpoint, []string) {
	out := map[string]bpf.Endpoint{}
	for _, list := range p.endpoints {
		for _, ep := range list {
			out[ep.Interface] = ep
		}
	}
	room, crowded := e.dp.Capacity().Endpoints-len(out), 0
	rules := p.index.Node(e.cfg.Node).Interfaces
	for _, l := range e.interfaces() {
		i := slices.IndexFunc(rules, func(r inventory.InterfaceRule) bool { return r.Matches(&l) })
		if _, named := out[l.Name]; named || i < 0 || !l.Ethernet {
			continue
		}
		if room--; room < 0 {
			crowded++
			continue
		}
		out[l.Name] = bpf.Endpoint{
			Interface: l.Name, ID: inventory.FirstPendingEndpoint + uint32(l.Index), Host: rules[i].Host, //nolint:gosec // the kernel's are positive
		}
	}
	if crowded > 0 {
		return out, []string{fmt.Sprintf("%s interfaces that rules pick are not watched: the table holds %s endpoints: raise the agent's endpoint limit",
			thousands(crowded), thousands(e.dp.Capacity().Endpoints))}
	}
	return out, nil
}

func (e *Enforcer) interfaces() []inventory.Interface {
	if e.cfg.Interfaces == nil {
		return nil
	}
	return e.cfg.Interfaces.Interfaces()
}

// attach makes the kernel watch what p wants it to, and nothing else. After
// forget everything is attached anew. One interface that cannot be watched does
// not keep the others from it.
func (e *Enforcer) attach(p *plan) {
	wanted, problems := e.wanted(p)
	add := func(what string, err error) {
		if err != nil {
			problems = append(problems, what+": "+oneLine(err))
		}
	}
	add("forget interfaces that are gone", e.dp.Prune())
	before, err := e.dp.Attached()
	add("list endpoints", err)
	for _, a := range before {
		if _, ok := wanted[a.Interface]; !ok {
			add("detach", e.dp.Detach(a.Index))
		}
	}
	known := map[bpf.Endpoint]bool{}
	for _, a := range e.kernel.attached {
		known[a.Endpoint] = slices.ContainsFunc(before, func(b bpf.Attached) bool { return sameEndpoint(a, b) })
	}
	exists := e.existing()
	for _, ref := range slices.SortedFunc(maps.Keys(p.endpoints), flow.Workload.Compare) {
		for _, ep := range p.endpoints[ref] {
			switch {
			case known[ep]:
			case !exists(ep.Interface):
				problems = append(problems, fmt.Sprintf("endpoint of %s: waits for interface %q, which does not exist", ref, ep.Interface))
			default:
				add("endpoint of "+ref.String(), e.dp.Attach(ep))
			}
			delete(wanted, ep.Interface)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if !known[wanted[name]] {
			add("interface that a rule picks", e.dp.Attach(wanted[name]))
		}
	}
	attached, err := e.dp.Attached()
	add("list endpoints", err)
	// After the list: what went since the first time is either in it, and its
	// event finds it there, or forgotten now.
	add("forget interfaces that are gone", e.dp.Prune())
	e.kernel.attached, e.kernel.unwatched = attached, problems
	e.countEndpoints(p)
}

func sameEndpoint(a, b bpf.Attached) bool { return a.Index == b.Index && a.Endpoint == b.Endpoint }

// existing tells which interfaces there may be. One that there is not is attached
// to as soon as it comes.
func (e *Enforcer) existing() func(name string) bool {
	if e.cfg.Interfaces == nil {
		return func(string) bool { return true }
	}
	names := map[string]bool{}
	for _, l := range e.interfaces() {
		names[l.Name] = true
	}
	return func(name string) bool { return names[name] }
}

func (e *Enforcer) countEndpoints(p *plan) {
	waiting, unknown := 0, 0
	for _, list := range p.endpoints {
		waiting += len(list)
	}
	for _, a := range e.kernel.attached {
		if a.Identity == flow.IdentityUnknown {
			unknown++
		} else {
			waiting--
		}
	}
	e.metrics.waiting.Set(float64(waiting))
	e.metrics.unknown.Set(float64(unknown))
}

// follow attaches to interfaces that came and forgets those that went.
func (e *Enforcer) follow() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.plan == nil || !e.moved() {
		return
	}
	before := e.kernel
	e.attach(e.plan)
	if !slices.Equal(before.unwatched, e.kernel.unwatched) || !slices.EqualFunc(before.attached, e.kernel.attached, sameEndpoint) {
		notify(e.changed)
	}
}

// moved reports whether something should be watched and is not, or the other way
// round, as far as the interfaces tell.
func (e *Enforcer) moved() bool {
	wanted, _ := e.wanted(e.plan)
	here := map[int]string{}
	for _, l := range e.interfaces() {
		here[l.Index] = l.Name
	}
	for _, a := range e.kernel.attached {
		if here[a.Index] != a.Interface || wanted[a.Interface] != a.Endpoint {
			return true
		}
		delete(wanted, a.Interface)
	}
	return slices.ContainsFunc(slices.Collect(maps.Keys(wanted)), e.existing())
}
