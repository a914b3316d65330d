package lab

import (
	"net/netip"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// plan is a scenario worked out: what each namespace's process does, and what
// the numbers in its answers mean.
type plan struct {
	specs map[string]*hostSpec // by namespace
	calls []plannedCall        // the scenario's, then the probes
}

// plannedCall is what the counters of a call are reported as.
type plannedCall struct {
	client, server func(Family) string
	protocol       flow.Protocol
	port           uint16
	rare, probe    bool
}

// newPlan needs a validated scenario.
func newPlan(s *Scenario) (*plan, error) {
	p := &plan{specs: map[string]*hostSpec{}}
	for _, name := range s.Namespaces() {
		p.specs[name] = &hostSpec{Zone: s.zone()}
	}
	p.planListeners(s)
	for _, c := range s.Calls {
		if err := p.planCall(s, c); err != nil {
			return nil, err
		}
	}
	p.planProbes(s)
	for i := range s.Attacks {
		if err := p.planAttack(s, i); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *plan) planListeners(s *Scenario) {
	listen := func(namespace string, addrs []netip.Addr, ls []Listener) {
		spec := p.specs[namespace]
		for _, l := range ls {
			for _, a := range addrs {
				spec.Listeners = append(spec.Listeners, listenSpec{
					Protocol: l.Protocol, Address: netip.AddrPortFrom(a, l.Port), Speaks: l.Speaks,
				})
			}
		}
	}
	for i := range s.Workloads {
		w := &s.Workloads[i]
		for j, e := range w.Endpoints {
			namespace := namespacePrefix + endpointName(w, j)
			listen(namespace, e.Addresses, w.Serves)
			listen(namespace, e.Addresses, s.Everywhere)
		}
	}
	for _, x := range s.External.Peers {
		listen(externalNamespace, x.Addresses, x.Serves)
	}
}

func (p *plan) planCall(s *Scenario, c Call) error {
	from, err := s.party(c.From)
	if err != nil {
		return err
	}
	to, err := s.party(c.To)
	if err != nil {
		return err
	}
	l, _ := to.listener(c.Protocol, c.Port)
	number := len(p.calls)
	p.calls = append(p.calls, plannedCall{client: from.name, server: to.name, protocol: c.Protocol, port: c.Port, rare: c.Rare})
	for i, client := range from.seats {
		spec := callSpec{
			Call: number, Speaks: l.Speaks, Every: c.Every, First: c.First,
			Send: c.Send, Receive: c.Receive, Persistent: c.Persistent, Idle: c.Idle,
		}
		if spec.First == 0 {
			spec.First = phase(number*7+i, c.Every)
		}
		var all []target
		for _, server := range to.seats {
			for _, f := range families {
				all = append(all, target{
					Local:  address(client.addresses, f),
					Remote: netip.AddrPortFrom(address(server.addresses, f), c.Port),
				})
			}
		}
		if c.Rare {
			spec.Turns = [][]target{all}
		} else {
			for _, t := range all {
				spec.Turns = append(spec.Turns, []target{t})
			}
		}
		if l.Speaks == SpeaksDNS {
			spec.Questions = s.questions(c.From)
		}
		host := p.specs[client.namespace]
		host.Calls = append(host.Calls, spec)
	}
	return nil
}

// phase spreads the first requests of calls over their interval, the same way
// in every run: multiples of the golden ratio never bunch.
func phase(n int, every time.Duration) time.Duration {
	const golden = 0.6180339887498949
	x := float64(n) * golden
	return time.Duration((x - float64(int(x))) * float64(every))
}

func (p *plan) planProbes(s *Scenario) {
	for i := range s.Workloads {
		w := &s.Workloads[i]
		if w.Probe == nil {
			continue
		}
		for n := range s.Nodes {
			node := &s.Nodes[n]
			var all []target
			for _, e := range w.Endpoints {
				if e.Node != node.Name {
					continue // a node checks its own hosts only
				}
				for _, f := range families {
					all = append(all, target{
						Local:  address(node.Addresses, f),
						Remote: netip.AddrPortFrom(address(e.Addresses, f), w.Probe.Port),
					})
				}
			}
			if len(all) == 0 {
				continue
			}
			spec := callSpec{
				Call: len(p.calls), Speaks: SpeaksRequest, Probe: true, Every: w.Probe.Every,
				First: phase(len(p.calls), w.Probe.Every), Turns: [][]target{all},
			}
			host := p.specs[node.Namespace()]
			host.Calls = append(host.Calls, spec)
			p.calls = append(p.calls, plannedCall{
				client:   func(Family) string { return node.Name },
				server:   func(Family) string { return w.Ref().String() },
				protocol: flow.TCP, port: w.Probe.Port, probe: true,
			})
		}
	}
}

func (p *plan) planAttack(s *Scenario, number int) error {
	a := &s.Attacks[number]
	from, err := s.party(a.From)
	if err != nil {
		return err
	}
	for i, t := range a.Targets {
		to, err := s.party(t.To)
		if err != nil {
			return err
		}
		l, _ := to.listener(t.Protocol, t.Port)
		for _, attacker := range from.seats {
			spec := p.specs[attacker.namespace]
			for _, victim := range to.seats {
				for _, f := range families {
					spec.Attacks = append(spec.Attacks, attackSpec{
						Attack: number, Target: i, Speaks: l.Speaks, Send: a.Send,
						At: target{
							Local:  address(attacker.addresses, f),
							Remote: netip.AddrPortFrom(address(victim.addresses, f), t.Port),
						},
					})
				}
			}
		}
	}
	return nil
}

// dnsName is the name that a workload is looked up by.
func dnsName(w *Workload) string { return w.Name + "." + w.Namespace + ".svc.lab." }

func (s *Scenario) zone() map[string][]netip.Addr {
	zone := map[string][]netip.Addr{}
	for i := range s.Workloads {
		for _, e := range s.Workloads[i].Endpoints {
			name := dnsName(&s.Workloads[i])
			zone[name] = append(zone[name], e.Addresses...)
		}
	}
	return zone
}

// questions are what a client of a name server asks for: the workloads that it
// calls, or all if it calls none, and both kinds of address of each.
func (s *Scenario) questions(client string) []question {
	called := map[string]bool{}
	for _, c := range s.Calls {
		if c.From == client {
			called[c.To] = true
		}
	}
	var out, all []question
	for i := range s.Workloads {
		w := &s.Workloads[i]
		for _, f := range families {
			q := question{Name: dnsName(w), Want: address(w.Endpoints[0].Addresses, f)}
			all = append(all, q)
			if called[w.Namespace+"/"+w.Name] {
				out = append(out, q)
			}
		}
	}
	if len(out) == 0 {
		return all
	}
	return out
}
