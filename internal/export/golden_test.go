package export_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/export"
	"github.com/ringfence/ringfence/internal/policy"
)

var update = flag.Bool("update", false, "write the golden files")

// fixture reads testdata/input.json: policies that say everything that there is
// to say, of a Deployment, a StatefulSet of the same name, and a host.
func fixture(t *testing.T) export.Input {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "input.json"))
	if err != nil {
		t.Fatal(err)
	}
	var in export.Input
	if err := json.Unmarshal(raw, &in); err != nil {
		t.Fatal(err)
	}
	return in
}

func written(t *testing.T, d export.Dialect, in export.Input) string {
	t.Helper()
	res, err := export.Export(d, in)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := res.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	for _, d := range export.Dialects() {
		t.Run(string(d), func(t *testing.T) {
			in := fixture(t)
			got := written(t, d, in)
			path := filepath.Join("testdata", string(d)+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("want - got +:\n%s", diff)
			}
			slices.Reverse(in.Subjects)
			for i := range in.Subjects {
				slices.Reverse(in.Subjects[i].Policy.Ingress)
				slices.Reverse(in.Subjects[i].Policy.Egress)
			}
			if again := written(t, d, in); again != got {
				t.Error("the order of the input shows in the output")
			}
		})
	}
}

// A rule whose only peer or only port cannot be said must vanish: written with
// an empty list it would admit everybody.
func TestNothingSayableIsNotEverything(t *testing.T) {
	for _, d := range export.Dialects() {
		for name, r := range map[string]policy.Rule{
			"peer": {Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: "not a namespace", MatchLabels: map[string]string{"a b": "c"}}}}},
			"port": {Ports: []policy.Port{{Protocol: 200}}},
		} {
			in := fixture(t)
			in.Guardrails = nil
			in.Subjects = in.Subjects[:1]
			p := &in.Subjects[0].Policy
			p.Ingress, p.Egress = []policy.Rule{r}, []policy.Rule{r}
			p.IsolateIngress, p.IsolateEgress = true, true
			res, err := export.Export(d, in)
			if err != nil {
				t.Fatal(err)
			}
			out := written(t, d, in)
			for _, bad := range []string{"from: []", "to: []", "- {}\n    ports", "ports: []"} {
				if strings.Contains(out, bad) {
					t.Errorf("%s, %s: %q in\n%s", d, name, bad, out)
				}
			}
			if len(res.Objects) > 0 && len(res.Losses) == 0 && !strings.Contains(out, "200") {
				t.Errorf("%s, %s: nothing is said of what was left out:\n%s", d, name, out)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	in := fixture(t)
	in.Subjects = in.Subjects[:1]
	in.Subjects[0].Selector = nil
	res, err := export.Export(export.NetworkPolicy, in)
	if err != nil || !res.Refused() || len(res.Objects) > 0 {
		t.Errorf("a workload without labels: %v, %v, %d objects; want it refused", err, res.Losses, len(res.Objects))
	}
	in.Subjects = append(in.Subjects, in.Subjects[0])
	if _, err := export.Export(export.NetworkPolicy, in); err == nil || !strings.Contains(err.Error(), "two policies") {
		t.Errorf("a workload twice: %v", err)
	}
	if _, err := export.ParseDialect("iptables"); err == nil || !strings.Contains(err.Error(), "networkpolicy") {
		t.Errorf("an unknown dialect: %v; want what there is", err)
	}
}
