package analyzer

import (
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
)

// resolve turns edges to a service's address into edges to what is behind it, on
// the port that it has there: that is whom a policy names. An edge to several
// workloads becomes one to each, for nobody knows which of them took it.
func (v *view) resolve(edges []flow.Edge) []flow.Edge {
	var out []flow.Edge
	for i := range edges {
		e := &edges[i]
		if e.Destination.IsWorkload() || !e.Destination.Address.IsValid() {
			continue
		}
		backends, ok := v.index.Backends(e.Destination.Address, e.Protocol, e.Port)
		if !ok {
			continue
		}
		for _, b := range backends[1:] {
			other := *e
			other.Destination, other.Port = b.Party, b.Port
			out = append(out, other)
		}
		e.Destination, e.Port = backends[0].Party, backends[0].Port
	}
	return append(edges, slices.Clip(out)...)
}
