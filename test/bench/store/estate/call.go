package estate

import (
	"math/rand/v2"

	"github.com/ringfence/ringfence/internal/flow"
)

// manner is what the connections of a call are like.
type manner uint8

const (
	request manner = iota // opened, used, closed
	pooled                // open for hours, reported by sweeps
	lookup                // a DNS name over UDP
	probe                 // of the endpoint's own node
	coming                // from outside
	leaving               // to outside
	noise                 // nobody allows it, and nobody answers
	manners
)

// shares is how much of all exchanges each manner makes.
var shares = [manners]float64{request: 0.50, pooled: 0.22, lookup: 0.15, probe: 0.05, coming: 0.06, leaving: 0.015, noise: 0.005}

// call is one line of the graph: who talks to whom on what port.
type call struct {
	from, to []*end
	protocol flow.Protocol
	port     uint16
	manner   manner
	weight   float64
	out, in  float64 // mean bytes each way
	long     float64 // mean seconds
}

func (e *Estate) addCalls(r *rand.Rand) {
	by := map[role][]*workload{}
	for _, w := range e.workloads {
		by[w.role] = append(by[w.role], w)
	}
	near := map[string]map[role][]*workload{}
	for _, w := range e.workloads {
		if near[w.name.Namespace] == nil {
			near[w.name.Namespace] = map[role][]*workload{}
		}
		near[w.name.Namespace][w.role] = append(near[w.name.Namespace][w.role], w)
	}
	for _, w := range e.workloads {
		e.addPlatform(r, w, by)
		if w.role != service && w.role != frontend && w.role != batch {
			continue
		}
		for range 1 + int(pareto(r, 1.2, 25)) {
			to := by[service][skewed(r, len(by[service]))]
			if list := near[w.name.Namespace][service]; len(list) > 1 && r.IntN(5) > 0 {
				to = list[r.IntN(len(list))]
			}
			e.connect(r, w, to, request)
		}
		for range r.IntN(3) {
			to := by[database][r.IntN(len(by[database]))]
			if list := near[w.name.Namespace][database]; len(list) > 0 {
				to = list[r.IntN(len(list))]
			}
			e.connect(r, w, to, pooled)
		}
		if r.IntN(6) == 0 {
			i := r.IntN(len(e.services))
			e.add(call{from: w.ends, to: e.services[i : i+1], protocol: flow.TCP, port: 443, manner: leaving,
				weight: pareto(r, 1.1, 500), out: 2000, in: 9000, long: 1})
		}
	}
	for i := range max(e.cfg.Workloads/10, 5) {
		from, to := e.workloads[r.IntN(len(e.workloads))], e.workloads[r.IntN(len(e.workloads))]
		e.add(call{from: from.ends, to: to.ends, protocol: flow.TCP, port: [...]uint16{22, 3389, 6379}[i%3], manner: noise, weight: 1, out: 74})
	}
	e.weigh()
}

// addPlatform connects a workload with what every workload has to do with.
func (e *Estate) addPlatform(r *rand.Rand, w *workload, by map[role][]*workload) {
	replicas := float64(len(w.ends))
	e.add(call{from: w.ends, to: by[resolver][0].ends, protocol: flow.UDP, port: 53, manner: lookup,
		weight: replicas * pareto(r, 1.1, 200), out: 90, in: 180, long: 0.002})
	e.add(call{from: w.ends, to: w.ends, protocol: flow.TCP, port: w.port, manner: probe,
		weight: replicas, out: 560, in: 700, long: 0.003})
	e.add(call{from: by[scraper][0].ends, to: w.ends, protocol: flow.TCP, port: 9102, manner: request,
		weight: 3 * replicas, out: 900, in: 24_000, long: 0.05})
	switch w.role { //nolint:exhaustive // the others are called by nobody in particular
	case frontend:
		e.connect(r, by[ingress][r.IntN(len(by[ingress]))], w, request)
	case ingress:
		mine := e.clients[:0:0]
		for i := len(by[ingress]) - 1 - int(w.identity)%len(by[ingress]); i < len(e.clients); i += len(by[ingress]) {
			mine = append(mine, e.clients[i])
		}
		e.add(call{from: mine, to: w.ends, protocol: flow.TCP, port: 443, manner: coming, weight: 20 * pareto(r, 1.1, 20), out: 4000, in: 40_000, long: 8})
		e.add(call{from: mine, to: w.ends, protocol: flow.TCP, port: 80, manner: coming, weight: 2, out: 500, in: 600, long: 0.2})
	}
}

func (e *Estate) connect(r *rand.Rand, from, to *workload, m manner) {
	size := pareto(r, 1.2, 300)
	e.add(call{from: from.ends, to: to.ends, protocol: flow.TCP, port: to.port, manner: m, weight: pareto(r, 1.1, 2000),
		out: 500 + 200*size*r.Float64(), in: 800 + 1000*size*r.Float64(), long: 0.01 * pareto(r, 1, 500)})
}

// add leaves out calls of a workload to itself.
func (e *Estate) add(c call) {
	if c.manner == probe || c.from[0] != c.to[0] {
		e.calls = append(e.calls, c)
	}
}

// weigh gives each manner its share.
func (e *Estate) weigh() {
	var total [manners]float64
	for i := range e.calls {
		total[e.calls[i].manner] += e.calls[i].weight
	}
	weights := make([]float64, len(e.calls))
	for i := range e.calls {
		c := &e.calls[i]
		c.weight *= shares[c.manner] / total[c.manner]
		weights[i] = c.weight
	}
	e.pick = newAlias(weights)
}
