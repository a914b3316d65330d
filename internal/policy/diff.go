package policy

import "github.com/ringfence/ringfence/internal/flow"

// Changes is what tells one policy from another.
type Changes struct {
	// IsolatesIngress and IsolatesEgress are set when isolation changes, to what
	// it becomes.
	IsolatesIngress *bool       `json:"isolatesIngress,omitempty"`
	IsolatesEgress  *bool       `json:"isolatesEgress,omitempty"`
	Ingress         RuleChanges `json:"ingress"`
	Egress          RuleChanges `json:"egress"`
}

// RuleChanges are the rules of one direction that come and go.
type RuleChanges struct {
	Added   []Rule `json:"added"`
	Removed []Rule `json:"removed"`
}

// Empty reports whether nothing changes.
func (c Changes) Empty() bool {
	return c.IsolatesIngress == nil && c.IsolatesEgress == nil &&
		len(c.Ingress.Added)+len(c.Ingress.Removed)+len(c.Egress.Added)+len(c.Egress.Removed) == 0
}

// Diff returns what has to change in a to make it b. Rules are told apart by
// what they say, not by their order or their given IDs.
func Diff(a, b Policy) Changes {
	a, b = Normalize(a), Normalize(b)
	c := Changes{
		Ingress: RuleChanges{Added: without(b.Ingress, a.Ingress), Removed: without(a.Ingress, b.Ingress)},
		Egress:  RuleChanges{Added: without(b.Egress, a.Egress), Removed: without(a.Egress, b.Egress)},
	}
	if was, is := a.Isolates(flow.Ingress), b.Isolates(flow.Ingress); was != is {
		c.IsolatesIngress = &is
	}
	if was, is := a.Isolates(flow.Egress), b.Isolates(flow.Egress); was != is {
		c.IsolatesEgress = &is
	}
	return c
}

// without returns the rules of a that b lacks.
func without(a, b []Rule) []Rule {
	have := make(map[string]bool, len(b))
	for i := range b {
		have[b[i].ID] = true
	}
	out := []Rule{}
	for i := range a {
		if !have[a[i].ID] {
			out = append(out, a[i])
		}
	}
	return out
}
