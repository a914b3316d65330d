// Package export checks exported objects against the schemas that Cilium, Calico
// and sig-network publish. It is a module of its own for the sake of what those
// bring along.
package export

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	calicov3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"
	kjson "sigs.k8s.io/json"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"github.com/ringfence/ringfence/internal/export"
	"github.com/ringfence/ringfence/internal/policy/policytest"
)

// crd reads a published CustomResourceDefinition out of a module, which the go
// command fetches and checks against its public log of sums.
func crd(t *testing.T, module, path, version string) (*schema.Structural, validation.SchemaValidator) {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("download %s: %v\n%s", module, err, out)
	}
	var got struct{ Dir string }
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	raw, err := fs.ReadFile(os.DirFS(got.Dir), path)
	if err != nil {
		t.Fatal(err)
	}
	var v1 apiextv1.CustomResourceDefinition
	if err := yaml.Unmarshal(raw, &v1); err != nil {
		t.Fatal(err)
	}
	var def apiextensions.CustomResourceDefinition
	if err := apiextv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&v1, &def, nil); err != nil {
		t.Fatal(err)
	}
	props := def.Spec.Validation
	for _, v := range def.Spec.Versions {
		if v.Name == version && v.Schema != nil {
			props = v.Schema
		}
	}
	structural, err := schema.NewStructural(props.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	validator, _, err := validation.NewSchemaValidator(props.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	return structural, validator
}

// typed are published Go types that the objects must decode into, whole.
var typed = map[export.Dialect]func() any{
	export.Calico:               func() any { return &calicov3.NetworkPolicy{} },
	export.CalicoStaged:         func() any { return &calicov3.StagedNetworkPolicy{} },
	export.ClusterNetworkPolicy: func() any { return &cnpv1.ClusterNetworkPolicy{} },
}

func TestObjectsFitPublishedSchemas(t *testing.T) {
	const calicoCRD = "libcalico-go/config/crd/crd.projectcalico.org_networkpolicies.yaml"
	for _, c := range []struct {
		dialect               export.Dialect
		module, path, version string
	}{
		{export.Cilium, "github.com/cilium/cilium@v1.20.2", "pkg/k8s/apis/cilium.io/client/crds/v2/ciliumnetworkpolicies.yaml", "v2"},
		{export.Calico, "github.com/projectcalico/calico@v1.11.0-cni-plugin.0.20250813170300-a0db560f0520", calicoCRD, "v1"},
		{export.CalicoStaged, "", "", ""}, // the module has no CRD of it, the published type is
		{export.ClusterNetworkPolicy, "sigs.k8s.io/network-policy-api@v0.2.0", "config/crd/standard/policy.networking.k8s.io_clusternetworkpolicies.yaml", "v1alpha2"},
	} {
		t.Run(string(c.dialect), func(t *testing.T) {
			check := func(fatal func(string, ...any), o any) {
				doc, err := json.Marshal(o)
				if err != nil {
					fatal("%v", err)
				}
				if fresh, ok := typed[c.dialect]; ok {
					problems, err := kjson.UnmarshalStrict(doc, fresh())
					if err != nil || len(problems) > 0 {
						fatal("decode into the published type: %v %v\n%s", err, problems, doc)
					}
				}
			}
			if c.module != "" {
				structural, validator := crd(t, c.module, c.path, c.version)
				decode := check
				check = func(fatal func(string, ...any), o any) {
					decode(fatal, o)
					content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
					if err != nil {
						fatal("%v", err)
					}
					if bad := validation.ValidateCustomResource(nil, content, validator); len(bad) > 0 {
						fatal("%v", bad)
					}
					unknown := pruning.PruneWithOptions(content, structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
					if len(unknown) > 0 {
						fatal("unknown fields %v", unknown)
					}
				}
			}
			written := 0
			rapid.Check(t, func(t *rapid.T) {
				for _, o := range exported(t, c.dialect) {
					check(t.Fatalf, o)
					written++
				}
			})
			for _, o := range golden(t, c.dialect) {
				check(t.Fatalf, o)
				written++
			}
			if written < 20 {
				t.Errorf("%d objects were written; want more", written)
			}
			t.Logf("%d objects fit", written)
		})
	}
}

func exported(t *rapid.T, d export.Dialect) []any {
	p := policytest.Policy(t)
	p.Workload.Kind = "Deployment"
	labels := map[string]string{"app": "cart", "tier": "back"}
	res, err := export.Export(d, export.Input{
		Subjects: []export.Subject{{Policy: p, Selector: labels, Labels: labels, NamespaceLabels: map[string]string{"env": "prod"}}}, Guardrails: policytest.Guardrails(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return res.Objects
}

// golden exports the fixture of the package's own tests.
func golden(t *testing.T, d export.Dialect) []any {
	raw, err := os.ReadFile(filepath.Join("..", "..", "internal", "export", "testdata", "input.json"))
	if err != nil {
		t.Fatal(err)
	}
	var in export.Input
	if err := json.Unmarshal(raw, &in); err != nil {
		t.Fatal(err)
	}
	res, err := export.Export(d, in)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Objects) == 0 || !slices.Contains(export.Dialects(), d) {
		t.Fatalf("%s: nothing was exported", d)
	}
	return res.Objects
}
