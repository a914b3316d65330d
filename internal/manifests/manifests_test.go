package manifests

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

var update = flag.Bool("update", false, "write the golden files")

func shop(t *testing.T) *World {
	t.Helper()
	w, err := Read(t.Context(), "testdata/shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func text(c Connectivity) []byte {
	var out bytes.Buffer
	for _, cell := range c.Cells {
		fmt.Fprintf(&out, "%s > %s:", cell.Source, cell.Destination)
		for _, a := range cell.Allowed {
			fmt.Fprintf(&out, " %s %s", a.Protocol, a.PortsText())
		}
		out.WriteByte('\n')
	}
	for _, n := range c.Notes {
		fmt.Fprintf(&out, "note: %s\n", n)
	}
	return out.Bytes()
}

func TestConnectivity(t *testing.T) {
	c, err := shop(t).Connectivity(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "shop.golden", text(c))
	again, err := shop(t).Connectivity(t.Context(), nil)
	if err != nil || !bytes.Equal(text(c), text(again)) {
		t.Errorf("not deterministic: %v", err)
	}
}

// Rollouts and runs whose ReplicaSet or Job is gone, or was not written down, are
// no workloads of their own.
func TestOwnersThatAreGone(t *testing.T) {
	pod := func(name, kind, owner, labels string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {%s}, ownerReferences: [{apiVersion: x/v1, kind: %s, name: %s, uid: u, controller: true}]}\n"+
			"spec: {containers: []}\n---\n", name, labels, kind, owner)
	}
	for name, c := range map[string]struct{ pods, want string }{
		"two rollouts": {
			pod("web-5d4f-a", "ReplicaSet", "web-5d4f", "app: web, pod-template-hash: 5d4f") + pod("web-77b9-b", "ReplicaSet", "web-77b9", "app: web, pod-template-hash: 77b9"),
			"Deployment/web 2",
		},
		"two runs": {
			pod("sync-29000001-a", "Job", "sync-29000001", "app: sync, job-name: sync-29000001") + pod("sync-29000061-b", "Job", "sync-29000061", "app: sync, job-name: sync-29000061"),
			"CronJob/sync 2",
		},
		"a ReplicaSet of nobody": {pod("web-a", "ReplicaSet", "web", "app: web"), "ReplicaSet/web 1"},
		"another hash":           {pod("web-5d4f-a", "ReplicaSet", "web-5d4f", "app: web, pod-template-hash: 77b9"), "ReplicaSet/web-5d4f 1"},
		"a Job of nobody":        {pod("import-2026-a", "Job", "import-2026", "app: import"), "Job/import-2026 1"},
		"its Deployment is here": {
			pod("web-5d4f-a", "ReplicaSet", "web-5d4f", "app: web, pod-template-hash: 5d4f") +
				"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: []}}}\n",
			"Deployment/web 1",
		},
	} {
		w, err := Parse("x", []byte(c.pods))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, facts := range w.Index.All() {
			one := w.Index.Workload(facts.Workload)
			got = append(got, fmt.Sprintf("%s/%s %d", one.Kind, one.Name, len(one.Endpoints)))
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
}

// Of pods with addresses, those in a block that a policy names are told from the
// others of their workload: what any of them may do counts, in either family.
func TestConnectivityByAddress(t *testing.T) {
	pod := func(name, app, four, six string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {app: %s}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: %s, uid: u, controller: true}]}\n"+
			"spec: {containers: []}\nstatus: {podIPs: [{ip: %q}, {ip: %q}]}\n---\n", name, app, app, four, six)
	}
	pods := pod("a-1", "a", "10.1.0.1", "fd00::1:1") + pod("a-2", "a", "10.1.0.2", "fd00::1:2") + pod("a-3", "a", "10.2.0.1", "fd00::2:1") + pod("b-1", "b", "10.3.0.1", "fd00::3:1")
	for block, allowed := range map[string]bool{
		"10.2.0.0/24": true, "10.1.0.2/32": true, "10.4.0.0/24": false, "fd00::2:0/112": true, "fd00::4:0/112": false,
	} {
		w, err := Parse("x", []byte(pods+"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n"+
			"spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{ipBlock: {cidr: '"+block+"'}}]}]}\n"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := w.Connectivity(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(text(c)), "default/ReplicaSet/a > default/ReplicaSet/b:"); got != allowed {
			t.Errorf("%s: allowed %t, want %t\n%s", block, got, allowed, text(c))
		}
	}
}

// Every cell, asked port by port: what runs of ports leave out would show.
func TestConnectivityIsExplained(t *testing.T) {
	w := shop(t)
	c, err := w.Connectivity(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	for _, cell := range c.Cells {
		for _, a := range cell.Allowed {
			for _, r := range a.Ports {
				for p := int(r.From); p <= int(r.To); p++ {
					allowed[fmt.Sprintf("%s %s %s %d", cell.Source, cell.Destination, a.Protocol, p)] = true
				}
			}
		}
	}
	asked := 0
	for _, source := range w.Index.All() {
		for _, destination := range w.Index.All() {
			if source.Workload == destination.Workload {
				continue
			}
			for _, protocol := range []flow.Protocol{flow.TCP, flow.UDP, flow.SCTP} {
				for _, port := range []int{1, 442, 443, 5431, 5432, 5433, 7999, 8000, 8010, 8011, 8079, 8080, 8081, 9186, 9187, 9188, 65535} {
					list, err := w.Explain(source.Workload.String(), destination.Workload.String(), fmt.Sprintf("%d/%s", port, protocol))
					if err != nil {
						t.Fatal(err)
					}
					allows := false
					for _, e := range list {
						allows = allows || e.Allowed
					}
					asked++
					if want := allowed[fmt.Sprintf("%s %s %s %d", source.Workload, destination.Workload, protocol, port)]; allows != want {
						t.Errorf("%s > %s %s %d: explained as %t, listed as %t", source.Workload, destination.Workload, protocol, port, allows, want)
					}
				}
			}
		}
	}
	if asked < 1000 {
		t.Errorf("asked %d times", asked)
	}
}

func TestExplain(t *testing.T) {
	w := shop(t)
	for _, c := range []struct {
		name, source, destination, port string
		allowed                         bool
		says                            []string
	}{
		{"by a rule at either end", "shop/front", "shop/StatefulSet/db", "5432", true, []string{`[shop/front-egress]`, `[shop/db]`, "yes"}},
		{"a port by its name", "front", "db", "sql", true, []string{"5432"}},
		{"a Service, by its port", "front", "shop/Service/db", "15432", true, []string{"TCP 5432"}},
		{"no rule at the destination", "shop/front", "shop/report", "5432/TCP", false, []string{"none of its 2 rules matches"}},
		{"the name is another number", "ops/scraper", "shop/db", "9188", false, []string{`TCP port "metrics", which is 9187 there`}},
		{"a namespace by expression", "ops/scraper", "shop/db", "metrics", true, []string{`team not in (sales)`}},
		{"labels that are not there", "ops/debug", "shop/db", "9187", false, []string{"the peer has no label app, the rule wants \"scraper\""}},
		{"the protocol", "shop/front", "shop/db", "5432/UDP", false, []string{"UDP 5432"}},
		{"a block, IPv4", "shop/front", "198.51.100.7", "443", true, []string{"not judged, it is no workload"}},
		{"what is carved out of it", "shop/front", "198.51.100.200", "443", false, []string{"is carved out of 198.51.100.0/24"}},
		{"a block, IPv6", "shop/front", "2001:db8::7", "8010/udp", true, nil},
		{"beside it, IPv6", "shop/front", "2001:db9::7", "443", false, []string{"is not in 2001:db8::/32"}},
		{"from the world", "world", "shop/front", "web", true, []string{"(world)"}},
		{"from the world to a closed workload", "world", "shop/db", "5432", false, nil},
		{"nothing governs it", "ops/scraper", "ops/debug", "1", true, []string{"no policy governs"}},
		{"a pod by its address, IPv4", "10.1.0.7", "shop/db", "metrics", true, nil},
		{"a pod by its address, IPv6", "fd00:1::7", "shop/db", "metrics", true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, err := w.Explain(c.source, c.destination, c.port)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				t.Fatal("no answer")
			}
			for _, e := range list {
				if e.Allowed != c.allowed {
					t.Errorf("allowed %t: %s", e.Allowed, e.Summary)
				}
				said := words(e)
				for _, want := range c.says {
					if !strings.Contains(said, want) {
						t.Errorf("%q is not in\n%s", want, said)
					}
				}
			}
		})
	}
}

// words is everything that an explanation says.
func words(c policy.Connection) string {
	out := fmt.Sprintf("%s > %s %s %d: %s\n", c.Source, c.Destination, c.Protocol, c.Port, c.Summary)
	for _, e := range []*policy.Explanation{c.Egress, c.Ingress} {
		if e == nil {
			out += "not judged, it is no workload\n"
			continue
		}
		for _, r := range e.Rules {
			yes := ""
			if r.Matched {
				yes = "yes"
			}
			out += fmt.Sprintln(yes, r.From, r.Sentence, strings.Join(r.Why, "; "))
		}
	}
	return out
}

func TestExplainRefuses(t *testing.T) {
	w := shop(t)
	for _, c := range []struct{ source, destination, port, want string }{
		{"nobody", "shop/db", "1", `source "nobody": no workload is called that`},
		{"shop/front", "shop/Deployment/db", "1", `destination "shop/Deployment/db": no workload`},
		{"shop/front", "shop/db", "0", `port "0": want a number from 1 to 65535, or a TCP port that shop/db has a name for`},
		{"shop/front", "shop/db", "http", `port "http"`},
		{"shop/front", "shop/db", "sql/UDP", `a UDP port that shop/db has a name for`},
		{"shop/front", "shop/db", "70000", `port "70000"`},
		{"shop/front", "shop/db", "8/ICMP", `ICMP has no ports`},
		{"shop/front", "shop/db", "icmp/256", `port "icmp/256": want a type from 0 to 255 after icmp/`},
		{"shop/front", "shop/db", "icmpv6/128/x", `port "icmpv6/128/x": want a type`},
		{"shop/front", "shop/db", "icmp/", `want a type`},
		{"shop/front", "shop/svc/db", "icmp/8", `Service shop/db has no port 8/ICMP`},
		{"shop/front", "shop/db", "8/x", `protocol "x": want TCP`},
		{"shop/front", "shop/Service/db", "5432", `Service shop/db has no port 5432/TCP; it has sql 15432/TCP`},
		{"shop/front", "shop/svc/none", "5432", `there is no Service shop/none`},
	} {
		if _, err := w.Explain(c.source, c.destination, c.port); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s %s: %v, want %q", c.source, c.destination, c.port, err, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n"
	for _, c := range []struct{ name, src, want string }{
		{"unknown field", pod + "---\n# nothing\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: shop}\nspec: {templat: {}}\n",
			`x.yaml: document 3: Deployment shop/d: unknown field "spec.templat"`},
		{"field twice", "apiVersion: v1\nkind: Pod\nmetadata: {name: p, name: q}\n", `x.yaml: document 1: `},
		{"object twice", pod + "---\n" + pod, "x.yaml: document 2: Pod p: it is already in x.yaml: document 1"},
		{"no YAML", "a: [", "x.yaml: document 1: "},
		{"no object", "a: 1", "it has no kind or no apiVersion"},
		{"no name", "apiVersion: v1\nkind: Pod\n", "Pod: metadata.name is missing"},
		{"in a list", "apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: p}}, {metadata: {name: q}, spec: {x: 1}}]", `items[1]: Pod q: unknown field "spec.x"`},
		{"impossible range", pod + "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: narrow}\nspec: {podSelector: {}, ingress: [{ports: [{port: 90, endPort: 80}]}]}\n",
			`document 2: NetworkPolicy narrow: spec.ingress[0].ports[0].endPort: Invalid value: 80: must be port 90 or above`},
		{"no workload", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n", "x.yaml holds no workload"},
		{"empty", "", "x.yaml holds no workload"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Parse("x.yaml", []byte(c.src)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	if _, err := Read(t.Context(), filepath.Join(t.TempDir(), "none"), nil); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a directory that is not there: %v", err)
	}
	if _, err := Read(t.Context(), t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "holds no .yaml, .yml or .json file") {
		t.Errorf("an empty directory: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"apps.yaml", "ops.json", "policies.yml"} {
		b, err := os.ReadFile(filepath.Join("testdata/shop", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		w, err := Parse("x", src)
		if err != nil {
			return
		}
		c, err := w.Connectivity(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := json.Marshal(c); err != nil {
			t.Fatal(err)
		}
	})
}
