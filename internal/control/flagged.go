package control

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// FlaggedRule is a recommended rule that a person has to look at.
type FlaggedRule struct {
	Direction flow.Direction
	Rule      policy.Rule // normalized
	Flags     []Flag
}

// Flag is a reason to look at a rule.
type Flag struct{ Code, Reason string }

// Flags says which rules that are recommended now are flagged.
type Flags interface {
	Flagged(ctx context.Context, w flow.Workload) ([]FlaggedRule, error)
}

// AcceptedFlagged is one flagged rule that the author of a revision looked at:
// its ID, and the codes of all flags that he saw. Flags that came since are none
// that he accepted.
type AcceptedFlagged struct {
	Rule  string
	Flags []string
}

// acceptedFlagged returns the flagged rules that n takes up and that its author accepted
// one by one. Any other that it takes up is refused. Rules that the parent has
// were decided with it; rules that nobody recommended are a person's own.
func (s *Store) acceptedFlagged(ctx context.Context, n *NewRevision) ([]FlaggedRule, error) {
	if s.deps.Flags == nil {
		return nil, nil
	}
	fresh, parent, err := s.fresh(ctx, n)
	if err != nil || len(fresh) == 0 {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ReadinessTimeout)
	defer cancel()
	flagged, err := s.deps.Flags.Flagged(ctx, n.Workload)
	if err != nil {
		return nil, &Error{Code: CodeUnavailable, Err: err, Message: fmt.Sprintf(
			"which rules of %s are flagged cannot be told: %v; try again once ClickHouse answers", n.Workload, err)}
	}
	var accepted []FlaggedRule
	var missing []string
	for _, f := range flagged {
		if parent[f.Rule.ID] || !slices.ContainsFunc(fresh, func(r directed) bool { return r.takesUp(&f) }) {
			continue
		}
		if n.accepts(&f) {
			accepted = append(accepted, f)
		} else {
			missing = append(missing, fmt.Sprintf("rule %s (%s) is flagged %s", f.Rule.ID, policy.Sentence(f.Rule, f.Direction), f.reasons()))
		}
	}
	if len(missing) == 0 {
		return accepted, nil
	}
	message := "flagged rules are accepted one by one, each with its flags: " + missing[0]
	if more := len(missing) - 1; more > 0 {
		message += fmt.Sprintf(" (and %d more)", more)
	}
	return nil, &Error{Code: CodeNotReady, Field: "acceptedFlagged", Message: oneLine(message), Missing: missing}
}

// directed is a rule with its direction, and what of it can be compared.
type directed struct {
	direction    flow.Direction
	peers, ports map[string]bool
}

// fresh returns the rules of n that its parent does not have, and the IDs of
// those of the parent.
func (s *Store) fresh(ctx context.Context, n *NewRevision) (list []directed, parent map[string]bool, err error) {
	parent = map[string]bool{}
	if n.Parent != 0 {
		rev, err := s.Revision(ctx, n.Workload, n.Parent)
		if CodeOf(err) == CodeNotFound {
			return nil, nil, nil // a conflict, as the transaction will find
		}
		if err != nil {
			return nil, nil, err
		}
		for _, r := range slices.Concat(rev.Policy.Ingress, rev.Policy.Egress) {
			parent[r.ID] = true
		}
	}
	p := policy.Normalize(n.Policy)
	for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
		for _, r := range p.Rules(d) {
			if !parent[r.ID] {
				list = append(list, directed{d, spelled(r.Peers), spelled(r.Ports)})
			}
		}
	}
	return list, parent, nil
}

// takesUp reports whether the rule has a peer and a port of a flagged one: to
// merge, split or extend a rule does not make it another.
func (r *directed) takesUp(f *FlaggedRule) bool {
	shares := func(mine, theirs map[string]bool) bool {
		for text := range theirs {
			if mine[text] {
				return true
			}
		}
		return false
	}
	return r.direction == f.Direction && shares(r.peers, spelled(f.Rule.Peers)) && shares(r.ports, spelled(f.Rule.Ports))
}

// spelled returns the canonical text of each part of a normalized rule.
func spelled[T any](parts []T) map[string]bool {
	out := make(map[string]bool, len(parts))
	for _, p := range parts {
		text, err := json.Marshal(p)
		if err != nil {
			panic("control: marshal part of a rule: " + err.Error()) // as policy.Canonical has it
		}
		out[string(text)] = true
	}
	return out
}

func (n *NewRevision) accepts(f *FlaggedRule) bool {
	return slices.ContainsFunc(n.Accepted, func(a AcceptedFlagged) bool {
		return a.Rule == f.Rule.ID && !slices.ContainsFunc(f.Flags, func(flag Flag) bool { return !slices.Contains(a.Flags, flag.Code) })
	})
}

func (f *FlaggedRule) reasons() string {
	var out []string
	for _, flag := range f.Flags {
		out = append(out, fmt.Sprintf("%s (%s)", flag.Code, flag.Reason))
	}
	return strings.Join(out, ", ")
}

// accepted is the event of one flagged rule in a new revision.
func (f *FlaggedRule) accepted(r *Revision) Event {
	return Event{Actor: r.Author, Action: ActionAccept, Workload: r.Workload, Revision: r.Number, Text: oneLine(fmt.Sprintf(
		"%s accepted a flagged rule in revision %d of %s: %s: %s", r.Author, r.Number, r.Workload, policy.Sentence(f.Rule, f.Direction), f.reasons()))}
}
