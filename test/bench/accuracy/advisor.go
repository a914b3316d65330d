package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/inspektor-gadget/inspektor-gadget/pkg/gadgets/advise/networkpolicy/advisor"
	"github.com/inspektor-gadget/inspektor-gadget/pkg/gadgets/trace/network/types"
	peer "github.com/inspektor-gadget/inspektor-gadget/pkg/types"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/netpol"
	"github.com/ringfence/ringfence/test/truth"
)

// advise gives the advisor the flows of the world's window as its gadget
// would report them, each once an end that saw it, and returns what its policies
// say of each workload after the scenario's later change. The advisor sees
// perfect events: initiators known, forged and unanswered ones left in, as it
// has no field for either.
func advise(w *truth.World, s truth.Scenario) (truth.Policies, error) {
	window := w.Window()
	edges, err := w.Edges(context.Background(), flow.EdgeFilter{Since: window.Since, Until: window.Until})
	if err != nil {
		return nil, err
	}
	a := advisor.NewAdvisor()
	x := inventory.NewIndex(w.Inventory)
	for i := range edges {
		a.Events = append(a.Events, events(x, &edges[i])...)
	}
	a.GeneratePolicies()
	var list []netpol.Policy
	for i := range a.Policies {
		p, err := netpol.Import(&a.Policies[i])
		if err != nil {
			return nil, fmt.Errorf("the advisor's policy %s: %w", a.Policies[i].Name, err)
		}
		list = append(list, p)
	}
	s.Change(w)
	out := truth.Policies{}
	for _, who := range inventory.NewIndex(w.Inventory).All() {
		if p, _ := netpol.Sum(list, who); p != nil {
			out[who.Workload] = p
		}
	}
	return out, nil
}

// events are those of one edge: one for each replica that saw it, and for each
// replica, address or node at the other end.
func events(x *inventory.Index, e *flow.Edge) []types.Event {
	local, remote, kind := e.Source, e.Destination, "OUTGOING"
	if e.Direction == flow.Ingress {
		local, remote, kind = e.Destination, e.Source, "HOST"
	}
	w := x.Workload(local.Workload)
	var out []types.Event
	for _, ep := range w.Endpoints {
		if ep.Interface == "" {
			continue
		}
		event := types.Event{PktType: kind, Proto: strings.ToUpper(e.Protocol.String()), Port: e.Port}
		event.Type = peer.NORMAL
		event.K8s.Namespace, event.K8s.PodName, event.PodLabels = w.Namespace, ep.Name, w.Labels
		event.PodOwner, event.PodIP = w.Name, ep.Addresses[0].String()
		event.PodHostIP = x.Node(ep.Node).Addresses[0].String()
		event.DstEndpoint = endpoint(x, remote, e)
		out = append(out, event)
	}
	return out
}

func endpoint(x *inventory.Index, p flow.Party, e *flow.Edge) peer.L3Endpoint {
	if w := x.Workload(p.Workload); w != nil {
		return peer.L3Endpoint{
			Kind: peer.EndpointKindPod, Addr: w.Endpoints[0].Addresses[0].String(), Namespace: w.Namespace, Name: w.Endpoints[0].Name, PodLabels: w.Labels,
		}
	}
	if backends, ok := x.Backends(p.Address, e.Protocol, e.Port); ok {
		w := x.Workload(backends[0].Party.Workload)
		return peer.L3Endpoint{
			Kind: peer.EndpointKindService, Addr: p.Address.String(), Namespace: w.Namespace, Name: w.Name, PodLabels: w.Labels,
		}
	}
	return peer.L3Endpoint{Kind: peer.EndpointKindRaw, Addr: p.Address.String()}
}
