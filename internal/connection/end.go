package connection

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// End is one that a name means: an endpoint with one of its addresses, a node, an
// address that nobody owns, or a reserved peer.
type End struct {
	policy.End
	node   string // that it is on, or is
	isNode bool
	host   bool // an endpoint that is its node
}

// noAddress stands for the addresses of an endpoint that is only a template.
var noAddress = []netip.Addr{{}}

// Find returns the ends that a name means: those of a workload as
// NAMESPACE/KIND/NAME, NAMESPACE/NAME or NAME, of an address, or of a reserved
// peer.
func (j *Judge) Find(name string) ([]End, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return j.at(a.Unmap())
	}
	if id, err := flow.ReservedIdentity(name); err == nil && id != flow.IdentityUnknown {
		return []End{{End: policy.End{PeerFacts: policy.PeerFacts{Reserved: id}}}}, nil
	}
	var found []*inventory.Workload
	var names []string
	inv := j.Index.Inventory()
	for i := range inv.Workloads {
		if w := &inv.Workloads[i]; means(name, w) {
			found, names = append(found, w), append(names, w.Ref().String())
		}
	}
	switch len(found) {
	case 1:
		return j.Of(found[0])
	case 0:
		return nil, fmt.Errorf("%q: no workload is called that: want NAMESPACE/KIND/NAME, an address, or host, remote-node, kube-apiserver or world", name)
	}
	const most = 10
	if n := len(names); n > most {
		names = append(names[:most], fmt.Sprintf("%d more", n-most))
	}
	return nil, fmt.Errorf("%q is each of %s: name one of them", name, strings.Join(names, ", "))
}

func means(name string, w *inventory.Workload) bool {
	switch parts := strings.Split(name, "/"); len(parts) {
	case 1:
		return w.Name == parts[0]
	case 2:
		return w.Namespace == parts[0] && w.Name == parts[1]
	case 3:
		return w.Namespace == parts[0] && strings.EqualFold(w.Kind, parts[1]) && w.Name == parts[2]
	}
	return false
}

// Of returns the ends of a workload, one for each address of each endpoint.
func (j *Judge) Of(w *inventory.Workload) ([]End, error) {
	governed, err := j.Govern(w)
	if err != nil {
		return nil, err
	}
	governed.PeerFacts = j.Index.Facts(w)
	var out []End
	for i := range w.Endpoints {
		e := &w.Endpoints[i]
		one := End{End: governed, node: e.Node, host: e.Host}
		one.Named = e.Ports
		addresses := e.Addresses
		if len(addresses) == 0 {
			addresses = noAddress
		}
		for _, a := range addresses {
			one.Addr = a.Unmap()
			if a.IsValid() {
				one.Names = j.Index.Peer(a, "").Names
			}
			out = append(out, one)
		}
	}
	if len(out) == 0 { // it has no endpoint now, and is governed all the same
		out = []End{{End: governed}}
	}
	return out, nil
}

// at returns the end that has an address.
func (j *Judge) at(a netip.Addr) ([]End, error) {
	o, _ := j.Index.Owner(a)
	if o.Workload == nil {
		one := End{End: policy.End{PeerFacts: j.Index.Peer(a, "")}}
		if o.Node != nil {
			one.node, one.isNode = o.Node.Name, true
		}
		return []End{one}, nil
	}
	list, err := j.Of(o.Workload)
	for _, e := range list {
		if e.Addr == a {
			return []End{e}, nil
		}
	}
	return nil, err
}

// seenFrom returns what e is to a peer: nodes are the own one or another, and what
// reaches an endpoint that is its node comes from outside.
func (e End) seenFrom(peer *End) policy.End {
	if e.isNode && peer.node != "" && !peer.isNode {
		e.Reserved = flow.IdentityRemoteNode
		if e.node == peer.node {
			e.Reserved = flow.IdentityHost
		}
	}
	e.Outside = peer.host
	return e.End
}
