package export

import (
	"bytes"
	"fmt"
	"io"

	"sigs.k8s.io/yaml"
)

// text is an object that writes itself.
type text interface{ Text() string }

// Write writes the objects, one document each, behind comments that say what the
// dialect cannot say and what was lost.
func (r *Result) Write(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Exported by ringfence as %s.\n", r.Dialect)
	for _, l := range r.Dialect.Limits() {
		fmt.Fprintln(&b, "#   "+l)
	}
	if len(r.Losses) > 0 {
		fmt.Fprintln(&b, "# Not said as the policies say it:")
	}
	for _, l := range r.Losses {
		fmt.Fprintln(&b, "#   "+l.String())
	}
	for _, o := range r.Objects {
		if t, ok := o.(text); ok {
			b.WriteString(t.Text())
			continue
		}
		doc, err := yaml.Marshal(o)
		if err != nil {
			return fmt.Errorf("write %s: %w", r.Dialect, err)
		}
		b.WriteString("---\n")
		b.Write(doc)
	}
	_, err := w.Write(b.Bytes())
	return err
}
