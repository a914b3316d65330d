package inventory

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

const withServices = `
nodes: [{name: node-1, addresses: [10.0.0.1]}]
workloads:
  - {namespace: shop, name: cart, labels: {app: cart}, endpoints: [
      {name: cart-1, node: node-1, addresses: [10.1.0.1], ports: [{name: web, port: 7070}]},
      {name: cart-2, node: node-1, addresses: [10.1.0.2], ports: [{name: web, port: 7071}]}]}
  - {namespace: shop, name: db, labels: {app: db}, endpoints: [{name: db-1, node: node-1, addresses: [10.1.0.3]}]}
services:
  - {namespace: shop, name: cart, addresses: [10.96.0.10, "fd00:96::10"], selector: {app: cart}, ports: [
      {port: 80, targetPort: 7070}, {port: 81, targetName: web}, {port: 82, targetName: none}, {protocol: UDP, port: 80}]}
  - {namespace: shop, name: headless, selector: {app: cart}, ports: [{port: 80}]}
  - {name: kubernetes, addresses: [10.96.0.1], reserved: kube-apiserver, ports: [{port: 443, targetPort: 6443}]}
  - {namespace: shop, name: old, addresses: [10.96.0.11], endpoints: [10.1.0.3, 192.0.2.7, 10.0.0.1], ports: [{port: 5432}]}
`

func TestBackends(t *testing.T) {
	inv, err := Parse([]byte(withServices))
	if err != nil {
		t.Fatal(err)
	}
	x := NewIndex(inv)
	cart := flow.Party{Workload: flow.Workload{Namespace: "shop", Kind: "Host", Name: "cart"}}
	db := flow.Party{Workload: flow.Workload{Namespace: "shop", Kind: "Host", Name: "db"}}
	for _, c := range []struct {
		name, addr string
		protocol   flow.Protocol
		port       uint16
		want       []Backend
	}{
		{"another port at the backend", "10.96.0.10", flow.TCP, 80, []Backend{{cart, 7070}}},
		{"IPv6", "fd00:96::10", flow.TCP, 80, []Backend{{cart, 7070}}},
		{"a named port that differs", "10.96.0.10", flow.TCP, 81, []Backend{{cart, 7070}, {cart, 7071}}},
		{"a name that no backend has", "10.96.0.10", flow.TCP, 82, nil},
		{"the same port, another protocol", "10.96.0.10", flow.UDP, 80, []Backend{{cart, 80}}},
		{"a port that the service lacks", "10.96.0.10", flow.TCP, 7070, nil},
		{"the API server", "10.96.0.1", flow.TCP, 443, []Backend{{flow.Party{Reserved: "kube-apiserver"}, 6443}}},
		{"without a selector", "10.96.0.11", flow.TCP, 5432, []Backend{
			{db, 5432},
			{flow.Party{Reserved: "world", Address: netip.MustParseAddr("192.0.2.7")}, 5432},
			{flow.Party{Reserved: "remote-node", Address: netip.MustParseAddr("10.0.0.1")}, 5432},
		}},
		{"no service's address", "10.1.0.1", flow.TCP, 80, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := x.Backends(netip.MustParseAddr(c.addr), c.protocol, c.port)
			if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || ok != (c.want != nil) {
				t.Errorf("ok %v (-want +got):\n%s", ok, diff)
			}
		})
	}
}

func TestBadServices(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"no backends", "reserved: kube-apiserver, ", "", "needs exactly one of selector, endpoints and reserved"},
		{"two kinds of backends", "reserved: kube-apiserver", "reserved: kube-apiserver, selector: {a: b}", "needs exactly one of"},
		{"an unknown reserved peer", "reserved: kube-apiserver", "reserved: moon", `reserved peer "moon"`},
		{"a workload's address", "10.96.0.11", "10.1.0.1", "an address has one owner"},
		{"a port twice", "{protocol: UDP, port: 80}", "{port: 80}", "TCP 80 is listed twice"},
		{"no port", "{protocol: UDP, port: 80}", "{protocol: UDP}", "missing: want a number"},
		{"two targets", "{port: 80, targetPort: 7070}", "{port: 80, targetPort: 7070, targetName: web}", "choose one"},
		{"a name without a selector", "{port: 5432}", "{port: 5432, targetName: db}", "a name needs a selector"},
		{"an unknown protocol", "protocol: UDP", "protocol: XTP", "protocol"},
		{"a protocol without ports", "protocol: UDP", "protocol: ICMP", "has no ports"},
		{"twice the same", "name: old", "name: cart", "is already services[0]"},
		{"no address", "10.96.0.11", "ten", "is not an IP address"},
		{"an unknown field", "name: old", "name: old, ip: 1", "ip"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(strings.Replace(withServices, c.from, c.to, 1)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
