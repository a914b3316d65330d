package query

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/ringfence/ringfence/internal/flow"
)

// Filter says which flow records are wanted: those that meet every condition.
// The zero value wants all.
type Filter struct {
	// Since and Until bound a record's time; Since is within, Until is not. Zero
	// ones do not.
	Since, Until time.Time
	Terms        []Term
}

// Term is one condition: the field is, or is Not, any of the values.
type Term struct {
	Not    bool
	Field  string // one of Fields
	Values []Value
}

// Value is what a field is compared with. Its type is that of the field: Name,
// Workload, Label, Prefix, Range, or one of flow's Protocol, Outcome, Verdict,
// Reason, Direction and Event.
type Value fmt.Stringer

// Name is compared as it is.
type Name string

func (n Name) String() string { return string(n) }

// Workload is one, or those of every kind when Kind is empty.
type Workload flow.Workload

func (w Workload) String() string {
	if w.Kind == "" {
		return w.Namespace + "/" + w.Name
	}
	return flow.Workload(w).String()
}

// Label is a condition on one label.
type Label struct {
	Key, Value string
	Match      LabelMatch
}

// LabelMatch is how a label is compared.
type LabelMatch uint8

// Matches.
const (
	LabelExists LabelMatch = iota
	LabelIs
	LabelIsNot // also without the label, as in Kubernetes' selectors
)

func (l Label) String() string {
	switch l.Match {
	case LabelIs:
		return l.Key + "=" + l.Value
	case LabelIsNot:
		return l.Key + "!=" + l.Value
	default:
		return l.Key
	}
}

// Prefix is an address or all addresses of a prefix. It is masked, and an IPv4
// one is never mapped into IPv6.
type Prefix netip.Prefix

func (p Prefix) String() string {
	if prefix := netip.Prefix(p); !prefix.IsSingleIP() {
		return prefix.String()
	}
	return netip.Prefix(p).Addr().String()
}

// Range is the numbers from Low to High, both within.
type Range struct{ Low, High uint32 }

func (r Range) String() string {
	low := strconv.FormatUint(uint64(r.Low), 10)
	if r.Low == r.High {
		return low
	}
	return low + "-" + strconv.FormatUint(uint64(r.High), 10)
}

// String returns the textual form, which Parse reads back.
func (f Filter) String() string {
	var out []string
	for _, t := range f.Terms {
		out = append(out, t.String())
	}
	for _, bound := range []struct {
		name string
		at   time.Time
	}{{sinceField, f.Since}, {untilField, f.Until}} {
		if !bound.at.IsZero() {
			out = append(out, bound.name+"="+bound.at.UTC().Format(time.RFC3339Nano))
		}
	}
	return strings.Join(out, " ")
}

func (t Term) String() string {
	var b strings.Builder
	if t.Not {
		b.WriteByte('-')
	}
	b.WriteString(t.Field)
	for i, v := range t.Values {
		b.WriteByte("=,"[min(i, 1)])
		b.WriteString(quote(v.String()))
	}
	return b.String()
}

func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return ends(r) || r == '"' }) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// ends reports whether r ends a value that is not quoted.
func ends(r rune) bool { return r == ',' || unicode.IsSpace(r) }
