package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
)

// Written down apart from the scenario: the calls of GoogleCloudPlatform/
// microservices-demo (Apache-2.0) as its manifests and code have them, and what
// the built-in scenario adds.
const boutiqueEdges = `
frontend adservice TCP 9555
frontend cartservice TCP 7070
frontend checkoutservice TCP 5050
frontend currencyservice TCP 7000
frontend productcatalogservice TCP 3550
frontend recommendationservice TCP 8080
frontend shippingservice TCP 50051
checkoutservice cartservice TCP 7070
checkoutservice currencyservice TCP 7000
checkoutservice emailservice TCP 8080
checkoutservice paymentservice TCP 50051
checkoutservice productcatalogservice TCP 3550
checkoutservice shippingservice TCP 50051
recommendationservice productcatalogservice TCP 3550
cartservice redis-cart TCP 6379
loadgenerator frontend TCP 8080
203.0.113.10 frontend TCP 8080
2001:db8:113::10 frontend TCP 8080
frontend dns UDP 53
checkoutservice dns UDP 53
recommendationservice dns UDP 53
cartservice dns UDP 53
loadgenerator dns UDP 53
paymentservice 203.0.113.20 TCP 443
paymentservice 2001:db8:113::20 TCP 443
`

func TestDefaultScenarioHasTheTrueEdges(t *testing.T) {
	name := func(s string) string {
		if _, err := netip.ParseAddr(s); err == nil {
			return s
		}
		if s == "dns" {
			return "kube-system/Host/dns"
		}
		return "boutique/Host/" + s
	}
	var want []TrueEdge
	for line := range strings.Lines(strings.TrimSpace(boutiqueEdges)) {
		var from, to, proto string
		var port uint16
		if _, err := fmt.Sscan(line, &from, &to, &proto, &port); err != nil {
			t.Fatal(err)
		}
		p, err := flow.ParseProtocol(proto)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, TrueEdge{Client: name(from), Server: name(to), Protocol: p, Port: port, Rare: port == 443})
	}
	if diff := cmp.Diff(want, Default().Edges()); diff != "" {
		t.Errorf("edges (-want +got):\n%s", diff)
	}
}

func TestDefaultScenarioInventory(t *testing.T) {
	s := Default()
	inv := s.Inventory()
	if err := inv.Validate(); err != nil {
		t.Error(err)
	}
	if len(inv.Nodes) != 2 || len(inv.Workloads) != 13 {
		t.Errorf("%d nodes and %d workloads, want 2 and 13", len(inv.Nodes), len(inv.Workloads))
	}
	var replicated []string
	interfaces := map[string]bool{}
	owned := map[netip.Addr]bool{}
	for _, w := range inv.Workloads {
		nodes := map[string]bool{}
		for _, e := range w.Endpoints {
			nodes[e.Node] = true
			if interfaces[e.Interface] || len(e.Interface) > 15 {
				t.Errorf("interface %q is used twice or too long", e.Interface)
			}
			interfaces[e.Interface] = true
			for _, a := range e.Addresses {
				owned[a] = true
			}
		}
		if len(w.Endpoints) > 1 {
			replicated = append(replicated, w.Name)
		}
		if len(nodes) != len(w.Endpoints) {
			t.Errorf("%s: replicas are not spread over nodes", w.Name)
		}
	}
	if diff := cmp.Diff([]string{"frontend", "productcatalogservice"}, replicated); diff != "" {
		t.Errorf("replicated workloads (-want +got):\n%s", diff)
	}
	for _, a := range []string{"203.0.113.10", "203.0.113.20", "198.51.100.66", "2001:db8:113::10", "2001:db8:113::20", "2001:db8:66::66"} {
		if owned[netip.MustParseAddr(a)] {
			t.Errorf("the inventory knows %s, which is outside", a)
		}
	}
}

func TestDefaultScenarioNamespaces(t *testing.T) {
	got := Default().Namespaces()
	if len(got) != 18 {
		t.Errorf("%d namespaces, want 18", len(got))
	}
	for _, name := range []string{"rf-node-1", "rf-node-2", "rf-frontend-1", "rf-frontend-2", "rf-redis-cart-1", "rf-dns-1", "rf-external-1"} {
		if !slices.Contains(got, name) {
			t.Errorf("there is no namespace %s in %v", name, got)
		}
	}
}

// Each case changes the built-in scenario in one place.
func TestScenarioRefusesBadInput(t *testing.T) {
	cases := []struct{ name, old, new, want string }{
		{"unknown field", "name: online-boutique", "title: online-boutique", `line 11:1: unknown field "title"`},
		{"unknown field within a call", "persistent: 1s}", "lasting: 1s}", `unknown field "lasting"`},
		{"not YAML", "nodes:\n", "nodes: [\n", "line"},
		{"an address that is none", "10.89.2.22", "10.89.2.222.1", `line 95:36: ParseAddr("10.89.2.222.1")`},
		{"a duration that is none", "every: 1m", "every: often", `invalid duration "often"`},
		{"a protocol that is none", "protocol: UDP, port: 53}", "protocol: UDQ, port: 53}", "UDQ"},
		{"unknown server", "to: boutique/adservice", "to: boutique/adsrv", `calls[0].to: there is no workload "boutique/adsrv"`},
		{"unknown client", "from: shoppers", "from: shopper", `calls[16].from: there is no external peer "shopper"`},
		{"no labels", "labels: {app: adservice}", "labels: {}", "workloads[1].labels: workload boutique/Host/adservice has none"},
		{"port nobody serves", "port: 9555, send", "port: 9556, send", "calls[0].port: boutique/adservice does not serve TCP port 9556"},
		{"wrong protocol", "to: kube-system/dns, protocol: UDP", "to: kube-system/dns, protocol: TCP", "calls[17].port: kube-system/dns does not serve TCP port 53"},
		{"port clash", "serves: [{port: 9555}]", "serves: [{port: 9555}, {port: 9555}]", "workloads[1].serves[1]: TCP port 9555 is served already"},
		{"port clash with every host's", "serves: [{port: 7070}]", "serves: [{port: 7070}, {port: 22}]", "workloads[2].serves[1]: TCP port 22 is served already"},
		{"port 0", "serves: [{port: 9555}]", "serves: [{port: 9555}, {port: 0}]", "workloads[1].serves[1].port: missing"},
		{"TCP that speaks dns", "serves: [{port: 9555}]", "serves: [{port: 9555, speaks: dns}]", "TCP does not speak"},
		{"address of two workloads", "10.89.1.12", "10.89.1.11", "10.89.1.11 belongs to endpoint frontend-1 of boutique/Host/frontend and to endpoint adservice-1"},
		{"address of a workload and outside", "203.0.113.20, ", "10.89.1.11, ", "external.peers[1].addresses[0]: 10.89.1.11 belongs to endpoint frontend-1"},
		{"one address outside twice", "203.0.113.20, ", "203.0.113.10, ", "external.peers[1].addresses[0]: 203.0.113.10 belongs to endpoint shoppers and to endpoint bank"},
		{"no IPv6", `10.89.1.12, "fd52:6e67:0:1::12"`, "10.89.1.12", "workloads[1].endpoints[0].addresses: want one IPv4 and one IPv6"},
		{"two IPv4", `10.89.1.12, "fd52:6e67:0:1::12"`, "10.89.1.12, 10.89.1.99", "workloads[1].endpoints[0].addresses: want one IPv4 and one IPv6"},
		{"unknown node", "{node: node-1, addresses: [10.89.1.12", "{node: node-7, addresses: [10.89.1.12", `workloads[1].endpoints[0].node: there is no node "node-7"`},
		{"unknown node of the outside", "  node: node-1\n", "  node: node-7\n", `external.node: there is no node "node-7"`},
		{"strange node name", "name: node-2,", "name: ../etc,", "nodes[1].name"},
		{"strange workload name", "name: adservice\n", "name: ../adservice\n", "workloads[1].name"},
		{"two namespaces of one name", "    name: adservice\n", "    name: node\n", "which is that of nodes[0].name"},
		{"endless calls to itself", "to: boutique/adservice,", "to: boutique/frontend,", "calls itself"},
		{"the same call twice", "from: boutique/checkoutservice, to: boutique/cartservice", "from: boutique/frontend, to: boutique/cartservice", "calls[7]: the same call as calls[1]"},
		{"too often", "every: 1m", "every: 1ms", "calls[22].every: 1ms is too often"},
		{"too many requests", "every: 1m, first: 15s", "every: 50ms}\n  - {from: boutique/frontend, to: boutique/emailservice, port: 8080, every: 50ms}\n  - {from: boutique/frontend, to: boutique/paymentservice, port: 50051, rare: true, every: 50ms, persistent: 50ms}\n  - {from: boutique/frontend, to: boutique/redis-cart, port: 6379, rare: true, every: 50ms, persistent: 50ms", "requests a second: a lab makes at most 400"},
		{"too large", "send: 3000", "send: 3000000", "calls[9].send: 3000000 bytes"},
		{"idle UDP", "from: boutique/loadgenerator, to: kube-system/dns, protocol: UDP", "from: boutique/loadgenerator, to: kube-system/dns, idle: true, protocol: UDP", "calls[21]: persistent and idle need a connection"},
		{"calling the SSH port", "to: boutique/adservice, port: 9555", "to: boutique/adservice, port: 22", "TCP port 22 of boutique/adservice speaks ssh"},
		{"probe of a port not served", "probe: {port: 8080", "probe: {port: 8081", "workloads[0].probe: boutique/frontend does not serve TCP port 8081"},
		{"unknown attacker", "from: boutique/emailservice\n", "from: boutique/mail\n", `attacks[1].from: there is no workload "boutique/mail"`},
		{"unknown attack target", "to: stranger, port", "to: nobody, port", `attacks[3].targets[0].to: there is no external peer "nobody"`},
		{"attack on a closed port", "to: boutique/paymentservice, port: 22", "to: boutique/paymentservice, port: 23", "attacks[2].targets[0].port: boutique/paymentservice does not serve TCP port 23"},
		{"attack that is a call", "from: boutique/emailservice\n", "from: boutique/cartservice\n", "attacks[1].targets[0]: boutique/cartservice calls boutique/redis-cart on TCP port 6379, so that is no attack"},
		{"attack without targets", "    targets:\n      - {to: stranger, port: 443}", "    targets: []", "attacks[3].targets: there are none"},
		{"two attacks of one name", "name: exfiltration-dns", "name: exfiltration", "attacks[4].name"},
		{"too many nodes", "nodes:\n", "nodes:\n" + manyNodes(), "nodes: 9 nodes: a lab has at most 8"},
		{"empty", string(onlineBoutique), "", "nodes: there are none"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(string(onlineBoutique), c.old, c.new, 1)
			if text == string(onlineBoutique) {
				t.Fatalf("the scenario has no %q", c.old)
			}
			s, err := parse([]byte(text), "x.yaml")
			if err == nil {
				t.Fatalf("accepted: %+v", s)
			}
			if !strings.HasPrefix(err.Error(), "scenario x.yaml: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %s\nwant %s", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

func manyNodes() string {
	var b strings.Builder
	for i := range 7 {
		fmt.Fprintf(&b, "  - {name: node-1%d, addresses: [10.88.0.%d, \"fd52:6e68::%d\"]}\n", i, i+1, i+1)
	}
	return b.String()
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.yaml")
	if err := os.WriteFile(path, onlineBoutique, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), s, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("differs from the built-in one:\n%s", diff)
	}
	if _, err := Load(path + "x"); err == nil || !strings.Contains(err.Error(), "open scenario") {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, make([]byte, maxScenarioFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than 1 MiB") {
		t.Errorf("large file: %v", err)
	}
}

func TestDefaults(t *testing.T) {
	s := Default()
	if c := s.Calls[0]; c.Protocol != flow.TCP || c.Every != 500*time.Millisecond {
		t.Errorf("call: %+v", c)
	}
	if l := s.Everywhere[0]; l.Protocol != flow.TCP || l.Port != 22 || l.Speaks != SpeaksSSH {
		t.Errorf("every host's listener: %+v", l)
	}
	if p := s.Workloads[0].Probe; p == nil || p.Every != time.Second {
		t.Errorf("probe: %+v", p)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(onlineBoutique)
	f.Add([]byte("nodes: [{name: node-1, addresses: [10.0.0.1]}]"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, src []byte) {
		s, err := parse(src, "f.yaml")
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
			return
		}
		if _, err := newPlan(s); err != nil {
			t.Errorf("accepted, and then: %v", err)
		}
	})
}
