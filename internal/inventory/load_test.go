package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

var compareAddr = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

const good = `
nodes:
  - name: node-1
    addresses: [10.0.0.1, "fd00::1"]
  - name: node-2
    denyLists:
      - {name: drop, file: /etc/ringfence/drop.txt, mode: enforce}
      - {name: tor, file: /etc/ringfence/tor.txt, allowEmpty: true}
workloads:
  - namespace: boutique
    name: frontend
    labels: {app: frontend, tier: "1.10"}
    endpoints:
      - {name: frontend-1, node: node-1, interface: rfh1, addresses: [10.1.0.1, "fd00:1::1"]}
      - {name: frontend-2, node: node-2, interface: rfh1, addresses: [10.1.0.2]}
  - kind: Group
    name: db
    labels: {app: db}
    endpoints:
      - {name: db-1, node: node-2, interface: eth0, host: true, addresses: [10.0.0.2]}
`

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inventory.yaml")
	if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	want := Inventory{
		Nodes: []Node{
			{Name: "node-1", Addresses: []netip.Addr{addr("10.0.0.1"), addr("fd00::1")}},
			{Name: "node-2", DenyLists: []DenyList{
				{Name: "drop", File: "/etc/ringfence/drop.txt", Mode: ModeEnforce},
				{Name: "tor", File: "/etc/ringfence/tor.txt", AllowEmpty: true},
			}},
		},
		Workloads: []Workload{
			{
				Namespace: "boutique", Kind: "Host", Name: "frontend",
				Labels: map[string]string{"app": "frontend", "tier": "1.10"},
				Endpoints: []Endpoint{
					{Name: "frontend-1", Node: "node-1", Interface: "rfh1", Addresses: []netip.Addr{addr("10.1.0.1"), addr("fd00:1::1")}},
					{Name: "frontend-2", Node: "node-2", Interface: "rfh1", Addresses: []netip.Addr{addr("10.1.0.2")}},
				},
			},
			{
				Namespace: "default", Kind: "Group", Name: "db", Labels: map[string]string{"app": "db"},
				Endpoints: []Endpoint{{Name: "db-1", Node: "node-2", Interface: "eth0", Host: true, Addresses: []netip.Addr{addr("10.0.0.2")}}},
			},
		},
	}
	if diff := cmp.Diff(want, got, compareAddr); diff != "" {
		t.Error(diff)
	}
}

func TestTunnels(t *testing.T) {
	inv, err := Parse([]byte(strings.Replace(good, "host: true", "host: true, tunnels: [vxlan, geneve, gre, ipip]", 1)))
	if err != nil {
		t.Fatal(err)
	}
	want := []Tunnel{TunnelVXLAN, TunnelGENEVE, TunnelGRE, TunnelIPIP}
	if got := inv.Workloads[1].Endpoints[0].Tunnels; !slices.Equal(got, want) {
		t.Errorf("tunnels %v, want %v", got, want)
	}
}

func TestLoadMissing(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("got %v", err)
	}
}

// Each case changes the good file in one place.
func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		want           []string // parts of the message
	}{
		{"not YAML", "nodes:", "nodes: [", []string{"line "}},
		{"list instead of map", good, "- a\n- b\n", []string{"line 1:"}},
		{"empty", good, "", []string{"nodes: there are none", "workloads: there are none"}},
		{"only a comment", good, "# nothing\n", []string{"nodes: there are none"}},
		{"unknown field", "name: db\n", "name: db\n    lables: {}\n", []string{"line 18:", `unknown field "lables"`}},
		{"unknown field of an endpoint", "host: true", "hots: true", []string{"line 20:", `unknown field "hots"`}},
		{"identity in the file", "name: db\n", "name: db\n    identity: 300\n", []string{`unknown field "identity"`}},
		{"duplicate key", "name: db\n", "name: db\n    name: db2\n", []string{"line 18:", `"name"`}},
		{"wrong type", "host: true", "host: maybe", []string{"line 20:"}},
		{"second document", "workloads:", "---\nworkloads:", []string{"second YAML document"}},
		{"alias", "[10.0.0.1, \"fd00::1\"]", "&a [10.0.0.1]", []string{"line 4:", "anchors and aliases"}},
		{"merge key", "labels: {app: db}", "labels: {<<: {app: db}}", []string{"line 18:", "anchors and aliases"}},
		{"malformed address", "10.1.0.2", "10.1.0.2/24", []string{"line 15:", "workloads[0].endpoints[1].addresses[0]", "not an IP address"}},
		{"address of two endpoints", "10.1.0.2", "10.1.0.1", []string{"line 15:", "10.1.0.1 belongs to endpoint frontend-1 of boutique/Host/frontend and to endpoint frontend-2 of boutique/Host/frontend"}},
		{"address of two workloads, v6", "[10.0.0.2]", "[\"fd00:1::1\"]", []string{"fd00:1::1 belongs to endpoint frontend-1 of boutique/Host/frontend and to endpoint db-1 of default/Group/db"}},
		{"address twice on one endpoint", "[10.1.0.2]", "[10.1.0.2, 10.1.0.2]", []string{"listed twice for endpoint frontend-2"}},
		{"node address on an endpoint", "[10.0.0.2]", "[10.0.0.1]", []string{"10.0.0.1 belongs to node node-1 and to endpoint db-1 of default/Group/db", "leave it out"}},
		{"node address on two nodes", "name: node-2\n", "name: node-2\n    addresses: [10.0.0.1]\n", []string{"belongs to node node-1 and to node node-2"}},
		{"unspecified address", "10.1.0.2", "0.0.0.0", []string{"unspecified"}},
		{"loopback address", "10.1.0.2", "127.0.0.5", []string{"loopback"}},
		{"loopback address, v6", "10.1.0.2", "\"::1\"", []string{"loopback"}},
		{"multicast address", "10.1.0.2", "\"ff02::1\"", []string{"multicast"}},
		{"broadcast address", "10.1.0.2", "255.255.255.255", []string{"broadcast"}},
		{"link-local address", "10.1.0.2", "\"fe80::1\"", []string{"link-local"}},
		{"zone", "10.1.0.2", "\"fe80::1%eth0\"", []string{"zone"}},
		{"v4-mapped address", "10.1.0.2", "\"::ffff:10.1.0.2\"", []string{"write it as 10.1.0.2"}},
		{"no labels", "labels: {app: db}", "labels: {}", []string{"line 18:", "workload default/Group/db has none: give at least one"}},
		{"labels left out", "    labels: {app: db}\n", "", []string{"workload default/Group/db has none"}},
		{"bad label key", "{app: db}", "{\"a b\": db}", []string{`label key "a b"`}},
		{"bad label value", "{app: db}", "{app: \"d b\"}", []string{`label app has value "d b"`}},
		{"unknown node", "node: node-1", "node: node-9", []string{"line 14:", `there is no node "node-9"`}},
		{"no node", "node: node-1, ", "", []string{"workloads[0].endpoints[0].node: missing"}},
		{"duplicate node", "name: node-2", "name: node-1", []string{`node "node-1" is already nodes[0]`}},
		{"duplicate workload", "  - kind: Group\n    name: db\n", "  - namespace: boutique\n    name: frontend\n", []string{"workload boutique/Host/frontend is already workloads[0]"}},
		{"duplicate endpoint", "name: frontend-2", "name: frontend-1", []string{`endpoint "frontend-1" is already workloads[0].endpoints[0]`}},
		{"interface used twice", "node: node-2, interface: rfh1", "node: node-1, interface: rfh1", []string{"rfh1 on node node-1 is used by endpoint frontend-1", "and by endpoint frontend-2"}},
		{"interface name too long", "interface: eth0", "interface: abcdefghijklmnop", []string{"16 characters: interface names have at most 15"}},
		{"interface name with a slash", "interface: eth0", "interface: a/b", []string{"is no interface name"}},
		{"unknown tunnel", "host: true", "host: true, tunnels: [vxlan, wireguard]", []string{"line 20:", `"wireguard" is no tunnel that can be looked into`}},
		{"tunnel twice", "host: true", "host: true, tunnels: [gre, vxlan, gre]", []string{"line 20:", "workloads[1].endpoints[0].tunnels[2]", "gre is listed twice"}},
		{"tunnels without an interface", "interface: eth0, host: true", "tunnels: [ipip]", []string{"line 20:", "there is no interface to look into tunnels on"}},
		{"no endpoints", "    endpoints:\n      - {name: db-1, node: node-2, interface: eth0, host: true, addresses: [10.0.0.2]}\n", "", []string{"workload default/Group/db has none: list at least one"}},
		{"no addresses", "addresses: [10.1.0.2]", "addresses: []", []string{"endpoint frontend-2 of boutique/Host/frontend has none"}},
		{"deny list of another mode", "mode: enforce", "mode: drop", []string{"line 7:", `nodes[1].denyLists[0].mode: "drop": want audit or enforce`}},
		{"another answer to who is not known", "    denyLists:", "    pending: unknown\n    denyLists:", []string{"line 6:", `nodes[1].pending: "unknown": want allow or deny`}},
		{"deny list with a relative file", "/etc/ringfence/drop.txt", "drop.txt", []string{`nodes[1].denyLists[0].file: "drop.txt": want an absolute path`}},
		{"deny list without a file", "file: /etc/ringfence/drop.txt, ", "", []string{`nodes[1].denyLists[0].file: "": want an absolute path`}},
		{"deny list without a name", "{name: drop, ", "{", []string{"nodes[1].denyLists[0].name: missing"}},
		{"two deny lists of one name", "name: tor", "name: drop", []string{`nodes[1].denyLists[1].name: list "drop" is already nodes[1].denyLists[0]`}},
		{"deny list with a long name", "name: tor", "name: " + strings.Repeat("x", 64), []string{"64 bytes: want at most 63"}},
		{"deny list with an unknown field", "allowEmpty: true", "allowempty: true", []string{`unknown field "allowempty"`}},
		{"deny lists without a host's interface", "interface: eth0, host: true, ", "", []string{"nodes[1].denyLists: no endpoint of node node-2 has host: true and an interface"}},
		{"too many deny lists", "      - {name: tor, file: /etc/ringfence/tor.txt, allowEmpty: true}\n", manyDenyLists(32), []string{"nodes[1].denyLists: there are 33: a node may have 32"}},
		{"name with a slash", "name: db\n", "name: d/b\n", []string{`"d/b" has a slash`}},
		{"name of a directory", "name: db\n", "name: ..\n", []string{`".." is a directory's name`}},
		{"name missing", "    name: db\n", "", []string{"workloads[1].name: missing"}},
		{"rule that picks nothing", "    addresses: [10.0.0.1, \"fd00::1\"]", "    interfaces: [{host: true}]", []string{"line 4:", "nodes[0].interfaces[0]: picks nothing"}},
		{"rule with a bad pattern", "    addresses: [10.0.0.1, \"fd00::1\"]", "    interfaces: [{name: \"veth[\"}]", []string{"line 4:", "nodes[0].interfaces[0].name", "is no pattern"}},
		{"rule with a name that nothing has", "    addresses: [10.0.0.1, \"fd00::1\"]", "    interfaces: [{name: abcdefghijklmnop}]", []string{"at most 15"}},
		{"rule with a path", "    addresses: [10.0.0.1, \"fd00::1\"]", "    interfaces: [{name: \"a/*\"}]", []string{"has what no interface name has"}},
		{"rule of an unknown kind", "    addresses: [10.0.0.1, \"fd00::1\"]", "    interfaces: [{kind: vethh}]", []string{"nodes[0].interfaces[0].kind", "\"vethh\"", "choose of bond, bridge, device,"}},
		{"rule with an address", "    addresses: [10.0.0.1, \"fd00::1\"]", "    interfaces: [{name: a}, {address: 10.0.0.1}]", []string{"nodes[0].interfaces[1].address", "is not a prefix"}},
		{"rule with bits too many", "    addresses: [10.0.0.1, \"fd00::1\"]", "    interfaces: [{address: 10.0.0.1/8}]", []string{"write it as 10.0.0.0/8"}},
		{"rule with a mapped prefix", "    addresses: [10.0.0.1, \"fd00::1\"]", "    interfaces: [{address: \"::ffff:10.0.0.0/104\"}]", []string{"IPv4-mapped"}},
		{"rule with an unknown field", "    addresses: [10.0.0.1, \"fd00::1\"]", "    interfaces: [{nam: veth}]", []string{`unknown field "nam"`}},
		{"name too long", "name: db\n", "name: " + strings.Repeat("x", 254) + "\n", []string{"254 characters"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := strings.Replace(good, c.old, c.new, 1)
			if src == good {
				t.Fatalf("%q is not in the good file", c.old)
			}
			inv, err := Parse([]byte(src))
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q\ndoes not say %q", err, want)
				}
			}
			if len(inv.Nodes)+len(inv.Workloads) > 0 {
				t.Error("a refused inventory is not empty")
			}
		})
	}
}

func TestParseCollectsEveryProblem(t *testing.T) {
	src := strings.NewReplacer("10.1.0.2", "127.0.0.1", "{app: db}", "{}", "node: node-1", "node: node-9").Replace(good)
	_, err := Parse([]byte(src))
	e, ok := errors.AsType[*Error](err)
	if !ok || len(e.Problems) != 3 {
		t.Fatalf("got %v", err)
	}
	for _, p := range e.Problems {
		if p.Line == 0 {
			t.Errorf("%s has no place", p)
		}
	}
}

func TestErrorIsBounded(t *testing.T) {
	e := &Error{File: "f", Problems: make([]Problem, 1000)}
	if !strings.HasSuffix(e.Error(), "; and 990 more") || len(e.Error()) > 200 {
		t.Errorf("got %q", e)
	}
}

func TestParseRefusesLargeFile(t *testing.T) {
	_, err := Parse(bytes.Repeat([]byte("#"), MaxFileSize+1))
	if err == nil || !strings.Contains(err.Error(), "larger than 8 MiB") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("nodes: [{name: a}]\nworkloads: [{name: b, labels: {c: d}, endpoints: [{name: e, node: a, addresses: [\"::2\"]}]}]"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("---\n---\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		inv, err := Parse(src)
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok || strings.Contains(err.Error(), "\n") {
				t.Fatalf("error %q", err)
			}
			return
		}
		if err := inv.Validate(); err != nil {
			t.Fatalf("accepted, but %v", err)
		}
		x := NewIndex(inv)
		for _, w := range inv.Workloads {
			for _, e := range w.Endpoints {
				for _, a := range e.Addresses {
					if o, ok := x.Owner(a); !ok || o.Workload.Ref() != w.Ref() || o.Endpoint.Name != e.Name {
						t.Fatalf("%s: owner %+v", a, o)
					}
				}
			}
		}
	})
}

// TestGuardrails checks that guardrails are read, checked and kept in one order.
func TestGuardrails(t *testing.T) {
	const guarded = good + `
guardrails:
  - name: no-ssh
    directions: [ingress]
    workloads: {namespace: boutique, matchLabels: {app: frontend}}
    ports: [{protocol: TCP, port: 22, endPort: 23}]
  - name: no-metadata
    peers: [{cidr: {prefix: 169.254.0.0/16, except: [169.254.1.0/24]}}, {reserved: world}]
`
	inv, err := Parse([]byte(guarded))
	if err != nil {
		t.Fatal(err)
	}
	want := []policy.Guardrail{
		{
			Name: "no-metadata",
			Peers: []policy.Peer{
				{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("169.254.0.0/16"), Except: []netip.Prefix{netip.MustParsePrefix("169.254.1.0/24")}}},
				{Reserved: "world"},
			},
		},
		{
			Name: "no-ssh", Directions: []flow.Direction{flow.Ingress},
			Workloads: &policy.Selector{Namespace: "boutique", MatchLabels: map[string]string{"app": "frontend"}},
			Ports:     []policy.Port{{Protocol: flow.TCP, Port: 22, EndPort: 23}},
		},
	}
	compare := cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})
	if diff := cmp.Diff(want, inv.Sorted().Guardrails, compare); diff != "" {
		t.Errorf("guardrails (-want +got):\n%s", diff)
	}
	before, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(before.Canonical(), inv.Canonical()) {
		t.Error("an inventory with guardrails says the same as one without")
	}
	x := NewIndex(inv)
	if list := x.Guardrails(inv.Workloads[0].Ref()); len(list) != 2 {
		t.Errorf("frontend: %v", list)
	}
	if list := x.Guardrails(inv.Workloads[1].Ref()); len(list) != 1 || list[0].Name != "no-metadata" {
		t.Errorf("db: %v", list)
	}
	for _, c := range []struct{ from, to, want string }{
		{"port: 22", "port: x", "line 26:35: "},
		{"name: no-metadata", "name: no-ssh", `line 27:11: guardrails[1].name: "no-ssh" is guardrails[0] already`},
		{"169.254.0.0/16", "169.254.0.1/16", "guardrails[1].peers[0].cidr.prefix: 169.254.0.1/16 has bits set"},
		{"matchLabels", "labels", `unknown field "labels"`},
		{"[ingress]", "[in]", `direction "in"`},
	} {
		_, err := Parse([]byte(strings.Replace(guarded, c.from, c.to, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want %s", c.to, err, c.want)
		}
	}
}

func TestPendingOfNode(t *testing.T) {
	for text, want := range map[string]flow.Verdict{"": flow.VerdictUnknown, "    pending: allow\n": flow.VerdictAllow, "    pending: deny\n": flow.VerdictDeny} {
		inv, err := Parse([]byte(strings.Replace(good, "    denyLists:\n", text+"    denyLists:\n", 1)))
		if err != nil {
			t.Fatal(err)
		}
		if inv.Nodes[1].Pending != want || inv.Nodes[0].Pending != flow.VerdictUnknown {
			t.Errorf("%q: %s and %s", text, inv.Nodes[1].Pending, inv.Nodes[0].Pending)
		}
	}
}

func manyDenyLists(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "      - {name: list-%d, file: /etc/ringfence/list}\n", i)
	}
	return b.String()
}

// TestWrittenIsRead writes an inventory as YAML, as the demo does, and reads it back.
func TestWrittenIsRead(t *testing.T) {
	inv, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	for _, pending := range []flow.Verdict{flow.VerdictUnknown, flow.VerdictAllow, flow.VerdictDeny} {
		inv.Nodes[0].Pending = pending
		src, err := yaml.Marshal(inv)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(src)
		if err != nil {
			t.Fatalf("pending %s: %v\n%s", pending, err, src)
		}
		if diff := cmp.Diff(inv, got, compareAddr, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("pending %s (-written +read):\n%s", pending, diff)
		}
	}
}
