package main

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/flowfile"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/query"
)

// storedFlows answers every question for records with the same one.
type storedFlows struct {
	unasked
	row query.Row
}

// unasked are the questions that nobody asks here.
type unasked interface{ api.Flows }

func (f storedFlows) Flows(_ context.Context, _ query.Filter, _ query.Cursor, _ int) (query.Page, error) {
	return query.Page{Rows: []query.Row{f.row, f.row}}, nil
}

func (storedFlows) Stats(context.Context, []api.StatsQuery) (map[flow.Workload]api.Stats, error) {
	return nil, nil
}

func (storedFlows) Learning(context.Context) (api.Learning, error) { return api.Learning{}, nil }

func (storedFlows) Ping(context.Context) error { return nil }

// flagsOf asks the learner of a window in which something was seen.
type flagsOf struct {
	*learner
	window analyzer.Window
}

func (f flagsOf) Flagged(ctx context.Context, w flow.Workload) ([]control.FlaggedRule, error) {
	return f.flagged(ctx, w, f.window)
}

// shopServer is a server whose store holds what the file of flows says, and the
// arguments that lead to it.
func shopServer(t *testing.T) (config []string, window []string) {
	t.Helper()
	set, err := flowfile.Read(t.Context(), flowfile.Config{Format: flowfile.Hubble}, []string{shop}, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	l := &learner{}
	span := analyzer.Window{Since: set.Summary.Since, Until: set.Summary.Until.Add(time.Second)}
	c, err := control.Open(t.Context(), control.Config{Path: filepath.Join(t.TempDir(), "control.db")}, control.Deps{Flags: flagsOf{l, span}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	inv := set.Inventory()
	inv.Guardrails = []policy.Guardrail{{Name: "no-tests", Directions: []flow.Direction{flow.Ingress},
		Peers: []policy.Peer{{CIDR: &policy.CIDR{Prefix: netip.MustParsePrefix("198.51.100.0/24")}}}}}
	if _, err := c.SetInventory(t.Context(), inv, control.System); err != nil {
		t.Fatal(err)
	}
	if l.analyzer, err = analyzer.New(analyzer.Config{}, analyzer.Deps{Edges: set, Coverage: set,
		Inventory: func() inventory.Inventory { return *c.Inventory().Inventory() }}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.EnsureAdmin(t.Context()); err != nil {
		t.Fatal(err)
	}
	token, err := c.IssueToken(t.Context(), "test", control.AdminUser, control.System)
	if err != nil {
		t.Fatal(err)
	}
	flows := storedFlows{row: query.Row{Labelled: flow.Labelled{
		Record:   flow.Record{Key: flow.Key{Source: netip.MustParseAddr("10.0.0.9"), Destination: netip.MustParseAddr("10.0.0.8"), SourcePort: 40000, DestinationPort: 6379}, FirstSeen: span.Since, Time: span.Since},
		Observer: flow.Nobody, Source: &flow.Party{Endpoint: "cart-1"}, Dest: flow.Nobody,
	}}}
	server, err := api.New(api.Config{}, api.Deps{Control: c, Sessions: c.Sessions(), Analyzer: l, Flows: flows})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(server.Handler())
	t.Cleanup(ts.Close)
	dir := t.TempDir()
	if err := (clientFile{Server: ts.URL, Token: token}).write(dir); err != nil {
		t.Fatal(err)
	}
	return []string{"--config", filepath.Join(dir, clientFileName)},
		[]string{"--since", span.Since.Format(time.RFC3339Nano), "--until", span.Until.Format(time.RFC3339Nano)}
}

// TestPoliciesOfAServer goes from the recommendation to an export by commands
// alone, and asks the past in between.
func TestPoliciesOfAServer(t *testing.T) {
	config, window := shopServer(t)
	says := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		stdout, stderr, code := commandLine(t, "", append(args, config...)...)
		if code != want {
			t.Fatalf("%q: exit %d: %s", args, code, stderr)
		}
		return stdout, stderr
	}
	at := func(args ...string) []string { return append(args, window...) }
	has := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
	}

	// Recommend.
	table, stderr := says(0, at("policy", "recommend", "shop/redis")...)
	has(table, "RULE", "review", "TCP 6379")
	has(stderr, "not ready: ")
	text, _ := says(0, at("policy", "recommend", "shop/redis", "-o", "json", "--include-flagged")...)
	var doc learned
	if err := json.Unmarshal([]byte(text), &doc); err != nil || len(doc.Policies) != 1 {
		t.Fatalf("%v in %s", err, text)
	}
	var flagged []string
	for _, r := range doc.Recommendations[0].Rules {
		if r.Proposed == api.Review {
			flagged = append(flagged, *r.Rule.ID+"="+flagCodes(&r))
		}
		for _, e := range r.Evidence {
			if _, err := query.Parse(e.Filter, time.Now()); err != nil || len(doc.Recommendations[0].Samples[e.Filter]) != 2 {
				t.Errorf("filter %q of %s: %v", e.Filter, r.Sentence, err)
			}
		}
	}
	if len(flagged) != 1 {
		t.Fatalf("flagged: %q", flagged)
	}
	file := filepath.Join(t.TempDir(), "redis.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	// Apply.
	_, stderr = says(1, "policy", "apply", file)
	rule, _, _ := strings.Cut(flagged[0], "=")
	has(stderr, "rule "+rule, "is flagged", "--accept-flagged RULE=FLAG,FLAG")
	_, stderr = says(1, "policy", "apply", file, "--accept-flagged", rule+"=late")
	has(stderr, "rule "+rule)
	_, stderr = says(1, "policy", "apply", file, "--accept-flagged", rule)
	has(stderr, "--accept-flagged", "name one rule with its flags")
	out, _ := says(0, "policy", "apply", file, "--accept-flagged", flagged[0], "--dry-run")
	has(out, "would save revision 1")
	out, _ = says(0, "policy", "apply", file, "--accept-flagged", flagged[0], "--comment", "as learned")
	has(out, "shop/StatefulSet/redis: saved revision 1", "policy stage shop/StatefulSet/redis --revision 1")
	out, _ = says(0, "policy", "apply", file)
	has(out, "unchanged, revision 1 says the same")
	out, _ = says(0, "policy", "show", "shop/StatefulSet/redis", "--revision", "1")
	has(out, "TCP 6379")
	less := filepath.Join(t.TempDir(), "less.json")
	if err := os.WriteFile(less, []byte(strings.ReplaceAll(text, `"port": 6379`, `"port": 6380`)), 0o600); err != nil {
		t.Fatal(err)
	}

	// Replay and compare, by the server's store and by files.
	_, stderr = says(0, at("replay", "shop/redis@1")...)
	has(stderr, "0 of ", "would have been denied")
	_, stderr = says(1, at("replay", less, "--strict")...)
	has(stderr, "--strict: the policy of shop/StatefulSet/redis would have denied")
	byServer, _ := says(0, at("replay", less)...)
	has(byServer, "shop/StatefulSet/redis", "TCP 6379", "10.0.0.9:40000 > 10.0.0.8:6379 at ")
	byFile, _, _ := commandLine(t, "", "replay", less, "--from", "hubble", shop)
	if first := func(table string) string { cut, _, _ := strings.Cut(table, " 10.0."); return cut }; first(byServer) != first(byFile) {
		t.Errorf("by the server\n%s\nby files\n%s", byServer, byFile)
	}
	table, stderr = says(0, at("diff", "shop/redis@1", less)...)
	has(table, "denies", "TCP 6379")
	has(stderr, "B denies 30 connections that A allows")
	fileDiff, summary, _ := commandLine(t, "", "diff", file, less, "--from", "hubble", shop)
	if fileDiff != table || !strings.Contains(summary, "B denies 30 connections that A allows") {
		t.Errorf("by files\n%s%s\nby the server\n%s", fileDiff, summary, table)
	}
	_, stderr = says(0, "diff", "shop/redis@1", less, "--from", "hubble", shop)
	has(stderr, "B denies 30 connections")
	_, stderr = says(1, "replay", "shop/redis@live")
	has(stderr, "shop/StatefulSet/redis has no live revision")
	_, stderr = says(1, "replay", "shop/nobody@1")
	has(stderr, "the server's inventory has no workload shop/nobody")
	_, stderr = says(1, "replay", "shop/redis@7")
	has(stderr, "has no revision 7")

	// Export.
	out, _ = says(0, "policy", "export", "shop/redis@1")
	has(out, "kind: NetworkPolicy", "6379")
	out, _ = says(0, "policy", "export", "shop/StatefulSet/redis@1", "-o", "cilium")
	has(out, "kind: CiliumNetworkPolicy")
	out, _ = says(0, "policy", "export", "shop/redis@1", "-o", "clusternetworkpolicy")
	has(out, "198.51.100.0/24")
	out, _ = says(0, "policy", "export", "shop/redis@1", "-o", "json")
	if f := (&policyFile{}); f.document([]byte(out)) != nil || len(f.ours) != 1 || policy.Digest(f.ours[0]) != policy.Digest(doc.Policies[0]) {
		t.Errorf("-o json is no file of the policy: %s", out)
	}
	for args, want := range map[string]string{
		"policy export":                   "name workloads, or several by -A",
		"policy export -A":                "none of 4 workloads has a live revision",
		"policy export -n shop":           "none of 3 workloads has a live revision",
		"policy export shop/redis":        "has no live revision",
		"policy export shop/redis@new":    "behind @ a revision's number",
		"policy export shop/redis -o xml": `-o "xml": want one of yaml, json, calico`,
	} {
		_, stderr = says(1, strings.Fields(args)...)
		has(stderr, want)
	}
}
