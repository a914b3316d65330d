package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// fields are the names a policy document may use outside of matchLabels. The
// decoder alone would take them in any case.
var fields = []string{
	"workload", "namespace", "kind", "name", "isolateIngress", "isolateEgress", "ingress", "egress",
	"id", "peers", "ports", "selector", "matchLabels", "cidr", "prefix", "except", "reserved",
	"protocol", "port", "endPort", "icmpType", "icmpCode",
	"matchExpressions", "key", "operator", "values", "namespaceSelector", "all", "fqdn",
}

// maxDepth bounds nesting; a policy needs 12 levels.
const maxDepth = 16

// Decode reads one policy document and checks it. An unknown field, a field
// given twice, or anything behind the document is an error.
func Decode(b []byte) (Policy, error) {
	err := checkKeys(json.NewDecoder(bytes.NewReader(b)), "", 0)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Policy{}, errors.New("read policy: the document ends too early; give one policy")
	}
	if err != nil {
		return Policy{}, fmt.Errorf("read policy: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var p Policy
	if err := d.Decode(&p); err != nil {
		return Policy{}, fmt.Errorf("read policy: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Policy{}, errors.New("read policy: something follows the document; give one policy")
	}
	if err := p.Validate(); err != nil {
		return Policy{}, err
	}
	return p, nil
}

// checkKeys reads one JSON value, which is the value of key, and refuses object
// keys that are given twice or are no field.
func checkKeys(d *json.Decoder, key string, depth int) error {
	if depth > maxDepth {
		return errors.New("it is nested too deeply")
	}
	t, err := d.Token()
	if err != nil {
		return err
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		child := key
		if delim == '{' {
			t, err := d.Token()
			if err != nil {
				return err
			}
			child, _ = t.(string)
			switch {
			case seen[child]:
				return fmt.Errorf("field %q is given twice", child)
			case key != "matchLabels" && !slices.Contains(fields, child):
				return fmt.Errorf("unknown field %q", child)
			}
			seen[child] = true
		}
		if err := checkKeys(d, child, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}
