package export

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// Dialect names what to write, as the -o flag spells it.
type Dialect string

// The dialects.
const (
	NetworkPolicy Dialect = "networkpolicy" // networking.k8s.io/v1
	Cilium        Dialect = "cilium"        // cilium.io/v2 CiliumNetworkPolicy
	// Calico and CalicoStaged are projectcalico.org/v3 NetworkPolicy and
	// StagedNetworkPolicy.
	Calico       Dialect = "calico"
	CalicoStaged Dialect = "calico-staged"
	// ClusterNetworkPolicy is that of policy.networking.k8s.io/v1alpha2.
	ClusterNetworkPolicy Dialect = "clusternetworkpolicy"
	// NFTables is a file for nft -f.
	NFTables Dialect = "nftables"
)

// dialect is one way to write.
type dialect struct {
	name Dialect
	// title is how people call it.
	title string
	// pods is set where only pods can be governed, hosts where only hosts can.
	pods, hosts bool
	limits      []string
	subject     func(x *exporter, s *subject)
}

var dialects = []dialect{networkPolicy, cilium, calico, calicoStaged, clusterNetworkPolicy, nftables}

// Dialects returns all of them, in the order that help texts list them.
func Dialects() []Dialect {
	out := make([]Dialect, len(dialects))
	for i := range dialects {
		out[i] = dialects[i].name
	}
	return out
}

// ParseDialect reads a name.
func ParseDialect(s string) (Dialect, error) {
	names := make([]string, len(dialects))
	for i := range dialects {
		if names[i] = string(dialects[i].name); names[i] == s {
			return dialects[i].name, nil
		}
	}
	return "", fmt.Errorf("dialect %q: want one of %s", s, strings.Join(names, ", "))
}

// Limits says in sentences what no export to d can say, or means differently.
func (d Dialect) Limits() []string { return slices.Clone(d.lookUp().limits) }

func (d Dialect) lookUp() *dialect {
	i := slices.IndexFunc(dialects, func(x dialect) bool { return x.name == d })
	if i < 0 {
		return &dialect{name: d, title: string(d)}
	}
	return &dialects[i]
}

// Input is what to export.
type Input struct {
	Subjects   []Subject
	Guardrails []policy.Guardrail
	// Known are the facts of every address that somebody owns, as the governed
	// workloads' node sees them. Only NFTables, which knows addresses alone, looks
	// at them.
	Known []policy.PeerFacts
}

// Subject is one policy with what is known of the workload that it governs.
type Subject struct {
	Policy policy.Policy
	// Selector are the labels that pick the workload's pods in its namespace;
	// labels that change with a rollout have no place here.
	Selector map[string]string
	// Labels and NamespaceLabels decide which guardrails guard the workload.
	Labels, NamespaceLabels map[string]string
	// Named are the ports that the workload serves under a name.
	Named []policy.NamedPort
}

// Effect is what a loss does to an export.
type Effect string

// The effects.
const (
	Refused   Effect = "refused"    // the workload is not in the export
	LeftOut   Effect = "left out"   // the export denies what the policy allows
	NotDenied Effect = "not denied" // the export allows what ringfence denies
	Assumes   Effect = "assumes"    // the export is right if this holds
)

// Loss is one thing that an export does not say as the policy does.
type Loss struct {
	Workload flow.Workload `json:"workload"`
	Effect   Effect        `json:"effect"`
	// Where is a path in the normalized policy, such as ingress[0].peers[1], or
	// guardrails[NAME]; "" for the whole of it.
	Where string `json:"where,omitempty"`
	// What says the part in words, Why what stands against it.
	What string `json:"what,omitempty"`
	Why  string `json:"why"`
}

func (l Loss) String() string {
	s := fmt.Sprintf("%s: %s: ", l.Workload, l.Effect)
	if l.Where != "" {
		s += l.Where + " "
	}
	if l.What != "" {
		s += "(" + l.What + ") "
	}
	return s + l.Why
}

// Result is an export.
type Result struct {
	Dialect Dialect `json:"dialect"`
	// Objects are typed Kubernetes objects, or a Ruleset, ordered by workload.
	Objects []any  `json:"objects"`
	Losses  []Loss `json:"losses"`
}

// Wider reports whether the export allows what ringfence denies.
func (r *Result) Wider() bool { return r.has(NotDenied) }

// Refused reports whether a workload is missing.
func (r *Result) Refused() bool { return r.has(Refused) }

func (r *Result) has(e Effect) bool {
	return slices.ContainsFunc(r.Losses, func(l Loss) bool { return l.Effect == e })
}

// Export writes the input in a dialect. An error says that the input is not
// valid, or two policies govern one workload; what the dialect cannot say is in
// the result's losses.
func Export(d Dialect, in Input) (Result, error) {
	if _, err := ParseDialect(string(d)); err != nil {
		return Result{}, err
	}
	if err := policy.ValidateGuardrails(in.Guardrails); err != nil {
		return Result{}, fmt.Errorf("export to %s: %w", d, err)
	}
	x := &exporter{dialect: d.lookUp(), in: &in, result: Result{Dialect: d, Objects: []any{}, Losses: []Loss{}}}
	subjects, err := x.subjects()
	if err != nil {
		return Result{}, fmt.Errorf("export to %s: %w", d, err)
	}
	for i := range subjects {
		if s := &subjects[i]; x.accepts(s) {
			x.dialect.subject(x, s)
		}
	}
	return x.result, nil
}

// exporter collects a result.
type exporter struct {
	dialect *dialect
	in      *Input
	result  Result
	current flow.Workload
}

// subject is a Subject made ready.
type subject struct {
	*Subject
	policy     policy.Policy // normalized
	name       string        // of its objects
	guardrails []policy.Guardrail
}

// subjects returns the input's in the order of their workloads.
func (x *exporter) subjects() ([]subject, error) {
	out := make([]subject, len(x.in.Subjects))
	seen := map[flow.Workload]bool{}
	for i := range x.in.Subjects {
		s := &x.in.Subjects[i]
		w := s.Policy.Workload
		if err := s.Policy.Validate(); err != nil {
			return nil, fmt.Errorf("policy of %s: %w", w, err)
		}
		if seen[w] {
			return nil, fmt.Errorf("two policies govern %s; give one", w)
		}
		seen[w] = true
		who := policy.PeerFacts{Workload: w, Labels: s.Labels, NamespaceLabels: s.NamespaceLabels}
		out[i] = subject{Subject: s, policy: policy.Normalize(s.Policy), guardrails: policy.Governing(x.in.Guardrails, who)}
	}
	slices.SortFunc(out, func(a, b subject) int { return a.policy.Workload.Compare(b.policy.Workload) })
	nameAll(out)
	return out, nil
}

// accepts reports whether there is something to write for s that the dialect can
// govern.
func (x *exporter) accepts(s *subject) bool {
	x.current = s.policy.Workload
	host := s.policy.Workload.Kind == inventory.DefaultKind
	switch {
	case x.dialect.pods && host:
		x.lose(Refused, "", "", "%s governs pods, and this is a host; export it to nftables", x.dialect.title)
	case x.dialect.hosts && !host:
		x.lose(Refused, "", "", "%s governs hosts, and this is a %s", x.dialect.title, s.policy.Workload.Kind)
	case !s.policy.IsolateIngress && !s.policy.IsolateEgress:
		return false // it restricts nothing, as does no object
	default:
		return true
	}
	return false
}

func (x *exporter) add(o any) { x.result.Objects = append(x.result.Objects, o) }

func (x *exporter) lose(e Effect, where, what, why string, args ...any) {
	l := Loss{Workload: x.current, Effect: e, Where: where, What: what, Why: fmt.Sprintf(why, args...)}
	if !slices.Contains(x.result.Losses, l) {
		x.result.Losses = append(x.result.Losses, l)
	}
}

// directions returns those that p isolates.
func directions(p *policy.Policy) []flow.Direction {
	return slices.DeleteFunc([]flow.Direction{flow.Ingress, flow.Egress}, func(d flow.Direction) bool { return !p.Isolates(d) })
}

// said converts the parts of a list. A part for which convert gives a reason is
// lost, with the given effect. whole is set when the list was empty, and so means
// everything; ok is not set when nothing is left of a list.
func said[P fmt.Stringer, T any](x *exporter, e Effect, where string, parts []P, convert func(P) (T, string)) (out []T, whole, ok bool) {
	for i, part := range parts {
		t, why := convert(part)
		switch why {
		case "":
			out = append(out, t)
		case implied:
		default:
			x.lose(e, fmt.Sprintf("%s[%d]", where, i), part.String(), "%s", why)
		}
	}
	return out, len(parts) == 0, len(parts) == 0 || len(out) > 0
}

// implied is convert's reason for a part that holds without being said.
const implied = "\x00"
