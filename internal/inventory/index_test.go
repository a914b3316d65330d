package inventory

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

func parsed(t *testing.T) Inventory {
	t.Helper()
	inv, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	id := uint32(1)
	for i := range inv.Workloads {
		inv.Workloads[i].Identity = flow.FirstWorkloadIdentity + flow.Identity(i)
		for j := range inv.Workloads[i].Endpoints {
			inv.Workloads[i].Endpoints[j].ID = id
			id++
		}
	}
	return inv
}

func TestIndexOwner(t *testing.T) {
	x := NewIndex(parsed(t))
	for _, c := range []struct{ addr, node, endpoint string }{
		{"10.0.0.1", "node-1", ""},
		{"fd00::1", "node-1", ""},
		{"10.1.0.1", "", "frontend-1"},
		{"::ffff:10.1.0.1", "", "frontend-1"},
		{"fd00:1::1", "", "frontend-1"},
		{"10.0.0.2", "", "db-1"},
		{"10.9.9.9", "", ""},
		{"fd00::9", "", ""},
	} {
		o, ok := x.Owner(netip.MustParseAddr(c.addr))
		if ok != (c.node+c.endpoint != "") {
			t.Errorf("%s: known %v", c.addr, ok)
			continue
		}
		if (o.Node != nil) != (c.node != "") || o.Node != nil && o.Node.Name != c.node {
			t.Errorf("%s: node %+v, want %q", c.addr, o.Node, c.node)
		}
		if (o.Endpoint != nil) != (c.endpoint != "") || o.Endpoint != nil && o.Endpoint.Name != c.endpoint {
			t.Errorf("%s: endpoint %+v, want %q", c.addr, o.Endpoint, c.endpoint)
		}
	}
}

func TestIndexNames(t *testing.T) {
	x := NewIndex(parsed(t))
	frontend := flow.Workload{Namespace: "boutique", Kind: "Host", Name: "frontend"}
	if w := x.Workload(frontend); w == nil || w.Identity != 256 {
		t.Errorf("workload %+v", w)
	}
	if w := x.Workload(flow.Workload{Namespace: "boutique", Kind: "Host", Name: "x"}); w != nil {
		t.Errorf("unknown workload is %+v", w)
	}
	if o, ok := x.Endpoint(3); !ok || o.Endpoint.Name != "db-1" || o.Workload.Name != "db" {
		t.Errorf("endpoint 3 is %+v", o)
	}
	if _, ok := x.Endpoint(0); ok {
		t.Error("endpoint 0 exists")
	}
	if w := x.Identity(257); w == nil || w.Name != "db" {
		t.Errorf("identity 257 is %+v", w)
	}
	if w := x.Identity(0); w != nil {
		t.Errorf("identity 0 is %+v", w)
	}
	if n := x.Node("node-2"); n == nil || x.Node("node-9") != nil {
		t.Errorf("node-2 is %+v", n)
	}
}

func TestIndexSelect(t *testing.T) {
	x := NewIndex(parsed(t))
	for _, c := range []struct {
		name, namespace string
		labels          map[string]string
		want            []string
	}{
		{"one label", "boutique", map[string]string{"app": "frontend"}, []string{"frontend"}},
		{"all labels", "boutique", map[string]string{"app": "frontend", "tier": "1.10"}, []string{"frontend"}},
		{"one label wrong", "boutique", map[string]string{"app": "frontend", "tier": "1.1"}, nil},
		{"other namespace", "default", map[string]string{"app": "frontend"}, nil},
		{"label that no workload has", "boutique", map[string]string{"x": ""}, nil},
		{"no labels", "boutique", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, w := range x.Select(&policy.Selector{Namespace: c.namespace, MatchLabels: c.labels}) {
				got = append(got, w.Name)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestIndexIsImmutable(t *testing.T) {
	inv := parsed(t)
	x := NewIndex(inv)
	before := x.Inventory().Canonical()
	inv.Workloads[0].Labels["app"] = "changed"
	inv.Workloads[0].Endpoints[0].Addresses[0] = netip.MustParseAddr("192.0.2.1")
	inv.Nodes[0].Addresses[0] = netip.MustParseAddr("192.0.2.2")
	if !bytes.Equal(before, x.Inventory().Canonical()) {
		t.Error("the index changed with the inventory it was made from")
	}
}

func TestCanonical(t *testing.T) {
	a, b := parsed(t), parsed(t)
	slices.Reverse(b.Nodes)
	slices.Reverse(b.Workloads)
	slices.Reverse(b.Workloads[1].Endpoints)
	slices.Reverse(b.Workloads[1].Endpoints[1].Addresses)
	if !bytes.Equal(a.Canonical(), b.Canonical()) {
		t.Errorf("order matters:\n%s\n%s", a.Canonical(), b.Canonical())
	}
	a.Workloads[1].Endpoints[0].Tunnels = []Tunnel{TunnelVXLAN, TunnelGRE}
	c := a.Clone()
	slices.Reverse(c.Workloads[1].Endpoints[0].Tunnels)
	if !bytes.Equal(a.Canonical(), c.Canonical()) || bytes.Equal(b.Canonical(), c.Canonical()) {
		t.Errorf("tunnels: %s\n%s", a.Canonical(), c.Canonical())
	}
	b.Workloads[0].Labels["app"] = "x"
	if bytes.Equal(a.Canonical(), b.Canonical()) {
		t.Error("a changed label does not matter")
	}
}
