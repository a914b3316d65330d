package analyzer

import (
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// resolve turns edges to a service's address into edges to what is behind it, on
// the port that it has there: that is whom a policy names. An edge to several
// workloads becomes one to each, for nobody knows which of them took it. Endpoints
// are left out: policies do not tell them apart.
func (v *view) resolve(edges []flow.Edge) []*flow.Edge {
	out := make([]*flow.Edge, len(edges))
	for i := range edges {
		e := &edges[i]
		if e.Source.Endpoint != "" || e.Destination.Endpoint != "" {
			one := *e
			one.Source.Endpoint, one.Destination.Endpoint = "", ""
			e = &one
		}
		out[i] = e
		if e.Destination.IsWorkload() || !e.Destination.Address.IsValid() {
			continue
		}
		backends, ok := v.index.Backends(e.Destination.Address, e.Protocol, e.Port)
		if !ok {
			continue
		}
		to := func(b inventory.Backend) *flow.Edge {
			one := *e
			one.Destination, one.Port = b.Party, b.Port
			return &one
		}
		out[i] = to(backends[0])
		for _, b := range backends[1:] {
			out = append(out, to(b))
		}
	}
	return out
}
