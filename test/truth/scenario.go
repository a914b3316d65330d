package truth

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// Scenario is one way in which learning is made hard.
type Scenario struct {
	Name string
	// hours of the window; 0 means two weeks.
	hours int
	// before changes the application before the world is built, prepare the world
	// before there is traffic, spoil the traffic, and later what was learned about.
	before  func(*World)
	prepare func(*World)
	spoil   func(*World)
	later   func(*World)
}

// Scenarios are all there are.
func Scenarios() []Scenario {
	return []Scenario{
		{Name: "complete"},
		Thinned(),
		{Name: "one side observed", prepare: func(w *World) { w.sides = true }},
		{Name: "service addresses", prepare: serviceAddresses},
		{Name: "version labels change", before: func(w *World) { version(w, "1") }, later: func(w *World) { version(w, "2") }},
		{Name: "scan", spoil: scan},
		{Name: "host network", before: hostNetwork},
		{Name: "TCP and UDP on one port", before: twoProtocols},
		{Name: "half the replicas", prepare: halfWatched},
		{Name: "weekend job", hours: 5 * 24, later: weekendJob},
	}
}

// Thinned is the scenario in which some edges are too rare to be seen.
func Thinned() Scenario { return Scenario{Name: "thinned", prepare: thin} }

// Make builds the world of a scenario. The same seed makes the same world.
func (s Scenario) Make(app App, seed uint64) *World {
	w := &World{
		App: App{Name: app.Name, Workloads: slices.Clone(app.Workloads), Edges: slices.Clone(app.Edges)}, Hours: 14 * 24,
		rng:   rand.New(rand.NewPCG(seed, 1)), //nolint:gosec // the same seed, the same world
		rates: map[Edge]traffic{}, untrue: map[Edge]bool{}, services: map[string]netip.Addr{},
	}
	if s.hours > 0 {
		w.Hours = s.hours
	}
	for i := range w.App.Workloads {
		labels := map[string]string{}
		for k, v := range w.App.Workloads[i].Labels {
			labels[k] = v
		}
		w.App.Workloads[i].Labels = labels
	}
	for _, step := range []func(*World){s.before, (*World).build, s.prepare, (*World).generate, s.spoil} {
		if step != nil {
			step(w)
		}
	}
	return w
}

// Change is what happens after learning, before judging.
func (s Scenario) Change(w *World) {
	if s.later != nil {
		s.later(w)
	}
}

// thin gives edges very different rates, down to once in months, and lets half
// of them come in episodes of some hours.
func thin(w *World) {
	for _, e := range w.App.Edges {
		active := math.Pow(10, -3.5+3.4*w.rng.Float64()) // share of hours
		lasts := 1.0
		if w.rng.IntN(2) == 0 {
			lasts = 3
		}
		w.rates[e] = traffic{Begins: active / lasts, Lasts: lasts, Connections: math.Exp(0.5 + 1.2*w.rng.NormFloat64())}
	}
}

func serviceAddresses(w *World) {
	for i := range w.Inventory.Workloads {
		wl := &w.Inventory.Workloads[i]
		a := netip.AddrFrom4([4]byte{10, 96, 0, byte(i + 10)})
		s := inventory.Service{Namespace: wl.Namespace, Name: wl.Name, Addresses: []netip.Addr{a}, Selector: wl.Labels}
		for _, e := range w.App.Edges {
			p := inventory.ServicePort{Protocol: e.Protocol, Port: servicePort(e), TargetPort: e.Port.Port}
			if e.Server == wl.Name && !slices.Contains(s.Ports, p) {
				s.Ports = append(s.Ports, p)
			}
		}
		if len(s.Ports) > 0 {
			w.services[wl.Name] = a
			w.Inventory.Services = append(w.Inventory.Services, s)
		}
	}
}

// version sets every label that names one. Workloads without get one.
func version(w *World, to string) {
	set := func(labels map[string]string) {
		found := false
		for k := range labels {
			if k == "version" || strings.HasSuffix(k, "/version") {
				labels[k], found = to, true
			}
		}
		if !found {
			labels["version"] = to
		}
	}
	for i := range w.App.Workloads {
		set(w.App.Workloads[i].Labels)
	}
	for i := range w.Inventory.Workloads {
		set(w.Inventory.Workloads[i].Labels)
	}
}

// scan lets a workload that is nobody's client probe every port of every other
// one in an hour of the second week. Some answer.
func scan(w *World) {
	from := map[string]string{"online-boutique": "adservice", "kube-prometheus": "kube-state-metrics"}[w.App.Name]
	for _, a := range w.App.Workloads {
		if a.Name == from || a.HostNetwork {
			continue
		}
		for _, p := range append(slices.Clone(a.Ports), Port{flow.TCP, 22}) {
			e := Edge{from, a.Name, p}
			if slices.Contains(w.App.Edges, e) {
				continue
			}
			n := uint64(1 + w.rng.IntN(2)) //nolint:gosec // positive
			s := sight{edge: e, hour: 200, connections: n, clients: 1, servers: 1, atClient: true, atServer: true}
			if p.Port != 22 {
				s.answered = n
				w.untrue[e] = true
			}
			w.sights = append(w.sights, s)
		}
	}
}

// hostNetwork moves a workload into its nodes' network.
func hostNetwork(w *World) {
	moved := map[string]string{"online-boutique": "loadgenerator", "kube-prometheus": "grafana"}[w.App.Name]
	for i := range w.App.Workloads {
		if w.App.Workloads[i].Name == moved {
			w.App.Workloads[i].HostNetwork = true
		}
	}
	var edges []Edge
	for _, e := range w.App.Edges {
		if e.Client == moved {
			e.Client = Node
		}
		if e.Server == moved {
			e.Server = Node
		}
		edges = append(edges, e)
	}
	w.App.Edges = edges
}

func twoProtocols(w *World) {
	for _, e := range w.App.Edges {
		if other := (Edge{e.Client, e.Server, Port{flow.UDP, e.Port.Port}}); e.Protocol == flow.TCP && e.Client[0] != '@' && e.Server[0] != '@' &&
			e.Server != dns && !slices.Contains(w.App.Edges, other) {
			w.App.Edges = append(w.App.Edges, other)
		}
	}
}

// halfWatched leaves the agent of the second node out.
func halfWatched(w *World) {
	for i := range w.Inventory.Workloads {
		w.Inventory.Workloads[i].Endpoints[1].Interface = ""
	}
}

// weekendJob adds an edge that no working day shows.
func weekendJob(w *World) {
	job := map[string]Edge{
		"online-boutique": {"checkoutservice", "redis-cart", Port{flow.TCP, 6379}},
		"kube-prometheus": {"grafana", "alertmanager-main", Port{flow.TCP, 9093}},
	}[w.App.Name]
	w.App.Edges = append(w.App.Edges, job)
	w.sights = append(w.sights, sight{edge: job, hour: 5*24 + 3, connections: 10, answered: 10, clients: 3, servers: 3, atClient: true, atServer: true})
}

// String names an edge.
func (e Edge) String() string {
	return fmt.Sprintf("%s > %s %s %d", e.Client, e.Server, e.Protocol, e.Port.Port)
}
