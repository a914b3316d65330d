package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/export"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// Every dialect says the shop's policies, or says on stderr that it can't.
func TestRecommendDialects(t *testing.T) {
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			out, summary, code := commandLine(t, "", "recommend", "--from", "hubble", shop, "-o", name)
			if code != 0 || !strings.HasPrefix(out, "# Exported by ringfence as "+string(d)) {
				t.Fatalf("exit %d: %s%s", code, summary, out)
			}
			if d != export.NetworkPolicy {
				golden(t, "recommend-"+name+".golden", out)
			}
			strict := 0
			if d == export.NFTables {
				strict = 1 // the shop has no host
			}
			if refused := strings.Contains(summary, "notice: the nftables export lacks workloads"); refused != (strict == 1) {
				t.Errorf("refusal on stderr: %v: %s", refused, summary)
			}
			if empty := strings.Contains(summary, "export has no object"); empty != (d == export.NFTables || d == export.ClusterNetworkPolicy) {
				t.Errorf("notice of no object: %v: %s", empty, summary)
			}
			if _, stderr, code := commandLine(t, "", "recommend", "--from", "hubble", shop, "-o", name, "--strict"); code != strict {
				t.Errorf("--strict: exit %d, want %d: %s", code, strict, stderr)
			}
		})
	}
}

// Labels that change with a rollout pick nobody, guardrails and addresses come
// from the inventory, and what is wider is said and fails under --strict.
func TestDialectInput(t *testing.T) {
	cart := flow.Workload{Namespace: "shop", Kind: "Deployment", Name: "cart"}
	inv := inventory.Inventory{
		Nodes: []inventory.Node{{Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("10.9.0.1")}}},
		Workloads: []inventory.Workload{{Namespace: "shop", Kind: "Deployment", Name: "cart", Labels: map[string]string{"app": "cart", "version": "3"}, Endpoints: []inventory.Endpoint{{
			Name: "cart-1", Node: "n1", Addresses: []netip.Addr{netip.MustParseAddr("fd00::2"), netip.MustParseAddr("10.1.0.2")},
		}}}},
		Guardrails: []policy.Guardrail{{Name: "no-ssh", Directions: []flow.Direction{flow.Ingress}, Ports: []policy.Port{{Protocol: flow.TCP, Port: 22}}}},
		Names:      []inventory.Name{{Name: "api.example.com", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}},
	}
	p := policy.Policy{Workload: cart, IsolateIngress: true, Ingress: []policy.Rule{{Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: "shop", MatchLabels: map[string]string{"app": "front"}}}}}}}
	in := exportInput([]policy.Policy{p}, &inv)
	if s := in.Subjects[0].Selector; len(s) != 1 || s["app"] != "cart" {
		t.Errorf("selector %v, want app=cart alone", s)
	}
	var known []string
	for i := range in.Known {
		known = append(known, in.Known[i].Addr.String())
	}
	if got := strings.Join(known, " "); got != "10.1.0.2 10.9.0.1 192.0.2.7 fd00::2" {
		t.Errorf("known addresses: %s", got)
	}
	for name, wider := range map[string]bool{"yaml": true, "calico": false, "cilium": false} {
		r, err := export.Export(dialects[name], in)
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		exportNotices(&said, &r)
		if strings.Contains(said.String(), "allows what guardrails deny") != wider || (exportVerdict(&r) != nil) != wider {
			t.Errorf("%s: want wider %v: %v, %s", name, wider, exportVerdict(&r), &said)
		}
	}
}

// Files of flows have no guardrails of their own: another file brings them.
func TestGuardrailsBesideFlows(t *testing.T) {
	file := filepath.Join(t.TempDir(), "guardrails.yaml")
	if err := os.WriteFile(file, []byte(`guardrails:
  - name: no-redis
    directions: [egress]
    workloads: {namespace: shop, matchLabels: {app: cart}}
    ports: [{protocol: TCP, port: 6379}]
`), 0o600); err != nil {
		t.Fatal(err)
	}
	without, _, _ := commandLine(t, "", "recommend", "--from", "hubble", shop, "-o", "clusternetworkpolicy")
	out, stderr, code := commandLine(t, "", "recommend", "--from", "hubble", shop, "-o", "clusternetworkpolicy", "--guardrails", file)
	if code != 0 || !strings.Contains(out, "kind: ClusterNetworkPolicy") || !strings.Contains(out, "no-redis") || strings.Contains(without, "kind:") {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	table, _, _ := commandLine(t, "", "replay", "testdata/recommend.yaml", "--from", "hubble", shop, "--guardrails", file)
	if !strings.Contains(table, "shop/StatefulSet/redis  TCP 6379  guardrail") {
		t.Errorf("the guardrail denies nothing in\n%s", table)
	}
	for name, c := range map[string]struct{ text, want string }{
		"unknown field": {"guardrails:\n  - nam: x\n", "unknown field"},
		"no name":       {"guardrails:\n  - ports: [{protocol: TCP, port: 22}]\n", "guardrails[0].name"},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := commandLine(t, "", "recommend", "--from", "hubble", shop, "--guardrails", file)
		if code != 1 || !strings.Contains(stderr, "--guardrails: ") || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit %d: %s", name, code, stderr)
		}
	}
}
