package main

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

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/flowfile"
	"github.com/ringfence/ringfence/internal/policy"
)

var update = flag.Bool("update", false, "write golden files")

// testdata/hubble.jsonl.gz was made up by the fields of Cilium's flow.proto: 30
// hours of a small shop on two nodes, its probes, and one SSH connection.
const shop = "testdata/hubble.jsonl.gz"

// commandLine runs one.
func commandLine(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, problems bytes.Buffer
	if stdin != "" {
		in, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		old := os.Stdin
		os.Stdin = in
		defer func() { os.Stdin = old; _ = in.Close() }()
		go func() { _, _ = w.WriteString(stdin); _ = w.Close() }()
	}
	code = run(t.Context(), args, &out, &problems)
	return out.String(), problems.String(), code
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

func TestRecommendFromHubble(t *testing.T) {
	yaml, summary, code := commandLine(t, "", "recommend", "--from", "hubble", shop)
	if code != 0 {
		t.Fatalf("exit %d: %s", code, summary)
	}
	golden(t, "recommend.yaml", yaml)
	golden(t, "recommend.summary", summary)
	if strings.Contains(yaml, "port: 22") {
		t.Error("the flagged edge is in the policies")
	}
	flagged, _, _ := commandLine(t, "", "recommend", "--from", "hubble", shop, "--include-flagged")
	if !strings.Contains(flagged, "port: 22") {
		t.Error("--include-flagged leaves the flagged edge out")
	}
	again, _, _ := commandLine(t, "", "recommend", "--from", "hubble", shop)
	if again != yaml {
		t.Error("the same file gives other bytes")
	}
	one, _, _ := commandLine(t, "", "recommend", "--from", "hubble", shop, "-o", "name", "--workload", "shop/cart")
	if one != "shop/Deployment/cart\n" {
		t.Errorf("-o name: %q", one)
	}
	var doc recommended
	text, _, _ := commandLine(t, "", "recommend", "--from", "hubble", shop, "-n", "shop", "-o", "json")
	if err := json.Unmarshal([]byte(text), &doc); err != nil || len(doc.Policies) != 3 || len(doc.Recommendations) != 3 || doc.Summary.Bad != 0 {
		t.Errorf("-o json: %v, %+v", err, doc.Summary)
	}
}

// Element by element the text is that of the whole.
func TestRecommendedIsWrittenAsOne(t *testing.T) {
	r := recommended{Summary: flowfile.Summary{Lines: 3, Notes: []string{"a <note>"}}, Policies: []policy.Policy{}}
	for n := range 200 {
		var want, got bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetIndent("", "  ")
		if err := enc.Encode(r); err != nil {
			t.Fatal(err)
		}
		if err := r.write(&got); err != nil {
			t.Fatal(err)
		}
		if n > 0 && want.String() != got.String() { // nobody gets an answer about no workload
			t.Fatalf("%d elements: %s", n, cmp.Diff(want.String(), got.String()))
		}
		w := flow.Workload{Namespace: "shop", Kind: "Deployment", Name: fmt.Sprintf("w%d", n)}
		r.Recommendations = append(r.Recommendations, &analyzer.Recommendation{Workload: w, Rules: []analyzer.Rule{}})
		if n%2 == 0 {
			r.Policies = append(r.Policies, policy.Normalize(policy.Policy{Workload: w, Ingress: []policy.Rule{{}}}))
		}
	}
}

func TestOfflineRefusals(t *testing.T) {
	const unlabelled = `{"flow":{"time":"2026-03-02T08:00:00Z","verdict":"FORWARDED","IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"l4":{"TCP":{"source_port":40000,"destination_port":80,"flags":{"SYN":true}}},"source":{"namespace":"shop","pod_name":"bare"},"destination":{"namespace":"shop","labels":["k8s:app=cart"],"pod_name":"cart","workloads":[{"name":"cart","kind":"Deployment"}]},"traffic_direction":"EGRESS","is_reply":false}}` + "\n"
	for _, c := range []struct {
		name, stdin string
		args        []string
		code        int
		want        string
	}{
		{"no format", "", []string{"recommend", shop}, 1, "--from: say what the files hold"},
		{"unknown format", "", []string{"recommend", "--from", "pcap", shop}, 1, `format "pcap": want one of hubble, ringfence`},
		{"no file", "", []string{"recommend", "--from", "hubble"}, 1, "name the files of flows, or - for stdin"},
		{"missing file", "", []string{"recommend", "--from", "hubble", "nowhere"}, 1, "read nowhere: no such file or directory"},
		{"unknown dialect", "", []string{"recommend", "--from", "hubble", shop, "-o", "xml"}, 1, `-o "xml": want one of`},
		{"unknown workload", "", []string{"recommend", "--from", "hubble", shop, "--workload", "x/y"}, 1, "no workload of the files is asked for"},
		{"empty window", "", []string{"recommend", "--from", "hubble", shop, "--until", "2020-01-01T00:00:00Z"}, 1, "are outside of --since and --until"},
		{"nothing that is a flow", "x\ny\n", []string{"recommend", "--from", "hubble", "-"}, 1, "none of 2 lines is a flow; is --from right?"},
		{"a bad line", unlabelled + "x\n", []string{"recommend", "--from", "hubble", "-"}, 0, "-:2: invalid character"},
		{"a bad line, strictly", unlabelled + "x\n", []string{"recommend", "--from", "hubble", "--strict", "-"}, 1, "--strict: 1 of 2 lines are no flows"},
		{"no labels", unlabelled, []string{"recommend", "--from", "hubble", "-"}, 0, "error: workload shop/Pod/bare has no label that a selector can rely on"},
		{"no labels, strictly", unlabelled, []string{"recommend", "--from", "hubble", "--strict", "-"}, 1, "--strict: 1 workloads have no usable label"},
		{"replay without flows or a server", "", []string{"replay", "testdata/recommend.yaml", "--config", "testdata/none.json"}, 1, "no server has left testdata/none.json"},
		{"replay of nothing", "", []string{"replay"}, 1, "name a file of policies or a revision"},
		{"replay of files of what kind", "", []string{"replay", "testdata/recommend.yaml", shop}, 1, "--from: say what the files hold"},
		{"replay of what is no policy", "", []string{"replay", "recommend_test.go", "--from", "hubble", shop}, 1, "read recommend_test.go: document 1:"},
		{"diff of one", "", []string{"diff", "a"}, 1, "name two files of policies or revisions"},
		{"diff without flows or a server", "", []string{"diff", "testdata/recommend.yaml", "testdata/recommend.yaml", "--config", "testdata/none.json"}, 1, "no server has left testdata/none.json"},
		{"guardrails for a server", "", []string{"replay", "testdata/recommend.yaml", "--guardrails", "x"}, 1, "--guardrails: a server has its own"},
		{"no guardrails", "", []string{"recommend", "--from", "hubble", shop, "--guardrails", "/dev/null"}, 1, "--guardrails: inventory /dev/null: guardrails: there are none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, stderr, code := commandLine(t, c.stdin, c.args...)
			if code != c.code || !strings.Contains(stderr, c.want) {
				t.Errorf("exit %d, want %d with %q: %s", code, c.code, c.want, stderr)
			}
			for line := range strings.Lines(stderr) {
				if len(line) > 400 {
					t.Errorf("a line of %d bytes", len(line))
				}
			}
		})
	}
}

// What was learned denies nothing that was learned from but what was flagged;
// a policy that lost a rule denies what that allowed.
func TestReplayAndDiff(t *testing.T) {
	dir := t.TempDir()
	policies, _, _ := commandLine(t, "", "recommend", "--from", "hubble", shop)
	ours, _, _ := commandLine(t, "", "recommend", "--from", "hubble", shop, "-o", "json")
	files := map[string]string{"a.yaml": policies, "a.json": ours, "b.yaml": strings.ReplaceAll(policies, "port: 6379", "port: 6380")}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a.yaml", "a.json"} {
		table, summary, code := commandLine(t, "", "replay", filepath.Join(dir, name), "--from", "hubble", shop)
		if code != 0 || !strings.Contains(summary, "\n2 of ") || strings.Count(table, "TCP 22") != 2 {
			t.Errorf("%s: exit %d: %s%s", name, code, summary, table)
		}
	}
	if _, stderr, code := commandLine(t, "", "replay", filepath.Join(dir, "a.yaml"), "--from", "hubble", shop, "--strict"); code != 1 || !strings.Contains(stderr, "would have denied 1 connections") {
		t.Errorf("strict: exit %d: %s", code, stderr)
	}
	table, summary, code := commandLine(t, "", "diff", filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml"), "--from", "hubble", shop)
	if code != 0 || strings.Count(table, "TCP 6379") != 2 || !strings.Contains(summary, "B denies 60 connections that A allows, allows 0 that A denies") {
		t.Errorf("diff: exit %d: %s%s", code, summary, table)
	}
	back, _, _ := commandLine(t, "", "diff", filepath.Join(dir, "b.yaml"), filepath.Join(dir, "a.yaml"), "--from", "hubble", shop, "-o", "name")
	if back != "shop/Deployment/cart\nshop/StatefulSet/redis\n" {
		t.Errorf("diff the other way: %q", back)
	}
}
