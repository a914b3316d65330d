package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/netpol"
	"github.com/ringfence/ringfence/internal/policy"
)

// policyFile is what a file of policies holds: ours, NetworkPolicies, or both.
type policyFile struct {
	name  string
	ours  []policy.Policy
	kubes []netpol.Policy
}

// readPolicyFile reads YAML or JSON: documents of our policies or of
// NetworkPolicies, lists of them, or what `ringfence recommend -o json` prints.
func readPolicyFile(name string) (*policyFile, error) {
	in, err := os.Open(name)
	if err != nil {
		if pathErr, ok := errors.AsType[*os.PathError](err); ok {
			err = pathErr.Err
		}
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer in.Close() //nolint:errcheck // only read from
	f := &policyFile{name: name}
	d := k8syaml.NewYAMLReader(bufio.NewReader(in))
	for number := 1; ; number++ {
		doc, err := d.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = f.document(doc)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: document %d: %w", name, number, err)
		}
	}
	if len(f.ours)+len(f.kubes) == 0 {
		return nil, fmt.Errorf("read %s: it holds no policy: want NetworkPolicies, or policies of `ringfence recommend -o json`", name)
	}
	return f, nil
}

func (f *policyFile) document(doc []byte) error {
	text, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return errors.New(oneLine(err))
	}
	text = bytes.TrimSpace(text)
	if len(text) == 0 || bytes.Equal(text, []byte("null")) {
		return nil
	}
	var list []json.RawMessage
	if text[0] == '[' {
		if err := json.Unmarshal(text, &list); err != nil {
			return err
		}
	} else {
		var head struct {
			Kind     string            `json:"kind"`
			Items    []json.RawMessage `json:"items"`
			Policies []json.RawMessage `json:"policies"`
		}
		if err := json.Unmarshal(text, &head); err != nil {
			return err
		}
		switch {
		case head.Kind == "NetworkPolicy":
			return f.kube(doc)
		case head.Items != nil:
			list = head.Items
		case head.Policies != nil:
			list = head.Policies
		default:
			return f.one(text)
		}
	}
	for _, l := range list {
		if err := f.document(l); err != nil {
			return err
		}
	}
	return nil
}

func (f *policyFile) one(text []byte) error {
	p, err := policy.Decode(text)
	if err != nil {
		return err
	}
	f.ours = append(f.ours, policy.Normalize(p))
	return nil
}

func (f *policyFile) kube(doc []byte) error {
	np, err := netpol.Decode(doc)
	if err != nil {
		return err
	}
	p, err := netpol.Import(np)
	if err != nil {
		return err
	}
	f.kubes = append(f.kubes, p)
	return nil
}

// of returns the policy of each workload that the file governs, in order, and
// writes down what of the file governs nobody.
func (f *policyFile) of(inv *inventory.Inventory, stderr io.Writer) (list []policy.Policy) {
	x := inventory.NewIndex(*inv)
	note := func(format string, args ...any) {
		fmt.Fprintf(stderr, "note: %s: %s\n", f.name, fmt.Sprintf(format, args...))
	}
	for _, p := range f.ours {
		if x.Workload(p.Workload) == nil {
			note("the flows know no workload %s", p.Workload)
			continue
		}
		list = append(list, p)
	}
	for i := range f.kubes {
		if len(x.Select(&f.kubes[i].Subjects)) == 0 {
			note("NetworkPolicy %s selects no workload of the flows", f.kubes[i].Ref())
		}
	}
	for _, who := range x.All() {
		if p, _ := netpol.Sum(f.kubes, who); p != nil {
			list = append(list, *p)
		}
	}
	slices.SortStableFunc(list, func(a, b policy.Policy) int { return a.Workload.Compare(b.Workload) })
	for i := 1; i < len(list); i++ {
		if list[i].Workload == list[i-1].Workload {
			note("%s has more than one policy; the first counts", list[i].Workload)
		}
	}
	return slices.CompactFunc(list, func(a, b policy.Policy) bool { return a.Workload == b.Workload })
}

// governedBy returns policies by whom they govern.
func governedBy(list []policy.Policy) map[flow.Workload]*policy.Policy {
	out := make(map[flow.Workload]*policy.Policy, len(list))
	for i := range list {
		out[list[i].Workload] = &list[i]
	}
	return out
}
