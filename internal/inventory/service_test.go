package inventory

import (
	"fmt"
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
			if diff := cmp.Diff(c.want, got, compareAddr); diff != "" || ok != (c.want != nil) {
				t.Errorf("ok %v (-want +got):\n%s", ok, diff)
			}
		})
	}
}

// Ends are addresses of the service's family, with what is known of each.
func TestEnds(t *testing.T) {
	inv, err := Parse([]byte(strings.NewReplacer(
		"addresses: [10.1.0.1]", `addresses: [10.1.0.1, "fd00:1::1"]`, "192.0.2.7,", `192.0.2.7, "2001:db8::7",`,
		"addresses: [10.96.0.11]", `addresses: [10.96.0.11, "fd00:96::11"]`,
	).Replace(withServices)))
	if err != nil {
		t.Fatal(err)
	}
	x := NewIndex(inv)
	for _, c := range []struct {
		name, addr, node string
		protocol         flow.Protocol
		want             []string
	}{
		{"IPv4 has both endpoints", "10.96.0.10:80", "node-1", flow.TCP, []string{"shop/Host/cart 10.1.0.1 7070", "shop/Host/cart 10.1.0.2 7070"}},
		{"IPv6 has the one with such an address", "[fd00:96::10]:80", "node-1", flow.TCP, []string{"shop/Host/cart fd00:1::1 7070"}},
		{"a mapped address is IPv4", "[::ffff:10.96.0.10]:80", "node-1", flow.UDP, []string{"shop/Host/cart 10.1.0.1 80", "shop/Host/cart 10.1.0.2 80"}},
		{"a name of a port, each by its own", "10.96.0.10:81", "node-1", flow.TCP, []string{"shop/Host/cart 10.1.0.1 7070", "shop/Host/cart 10.1.0.2 7071"}},
		{"a name that nobody has", "10.96.0.10:82", "node-1", flow.TCP, nil},
		{"a port that it lacks", "10.96.0.10:7070", "node-1", flow.TCP, nil},
		{"the API server", "10.96.0.1:443", "node-1", flow.TCP, []string{"kube-apiserver  6443"}},
		{"addresses, and its own node", "10.96.0.11:5432", "node-1", flow.TCP, []string{"shop/Host/db 10.1.0.3 5432", "world 192.0.2.7 5432", "host 10.0.0.1 5432"}},
		{"addresses, and another node", "10.96.0.11:5432", "node-2", flow.TCP, []string{"shop/Host/db 10.1.0.3 5432", "world 192.0.2.7 5432", "remote-node 10.0.0.1 5432"}},
		{"addresses, IPv6", "[fd00:96::11]:5432", "node-1", flow.TCP, []string{"world 2001:db8::7 5432"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Destination{c.protocol, netip.MustParseAddrPort(c.addr)}
			var got []string
			for _, f := range x.Ends(d, c.node) {
				who, addr := f.Peer.Reserved.ReservedName(), ""
				if !f.Peer.Workload.IsZero() {
					who = f.Peer.Workload.String()
				}
				if f.Peer.Addr.IsValid() {
					addr = f.Peer.Addr.String()
				}
				if f.Direction != flow.Egress || f.Protocol != c.protocol {
					t.Errorf("%+v", f)
				}
				got = append(got, fmt.Sprint(who, " ", addr, " ", f.Port))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			d.Addr = netip.AddrPortFrom(d.Addr.Addr().Unmap(), d.Addr.Port())
			if all := x.AllEnds(c.node)[d]; len(all) != len(c.want) {
				t.Errorf("among all there are %d ends, want %d", len(all), len(c.want))
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
