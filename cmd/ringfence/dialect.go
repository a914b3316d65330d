package main

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/ringfence/ringfence/internal/netpol"
	"github.com/ringfence/ringfence/internal/policy"
)

// dialect turns a policy, of the workload that subject selects, into objects to
// be printed as YAML, and says in words what it cannot say.
type dialect func(p *policy.Policy, subject *policy.Selector) (objects []any, unsaid []string, err error)

// dialects are by the value of -o that asks for them.
var dialects = map[string]dialect{
	"yaml": func(p *policy.Policy, subject *policy.Selector) ([]any, []string, error) {
		np, unsaid := netpol.Export(p, subject)
		return []any{np}, unsaid, nil
	},
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// document is one object in a dialect.
type document struct {
	object any
	unsaid []string
}

// writeDocuments writes YAML documents, each under what it cannot say.
func writeDocuments(w io.Writer, list []document) error {
	for _, d := range list {
		b, err := yaml.Marshal(d.object)
		if err != nil {
			return err
		}
		fmt.Fprintln(w, "---")
		for _, u := range d.unsaid {
			fmt.Fprintln(w, "# not said: "+u)
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}
