package analyzer

import (
	"context"
	"fmt"
	"slices"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Difference is what one policy does to the connections of a window that another
// does not.
type Difference struct {
	Workload flow.Workload `json:"workload"`
	Window   Window        `json:"window"`
	// Changes are the rules that come and go.
	Changes policy.Changes `json:"changes"`
	// Denied are edges that only the second denies, Allowed those that only the
	// first does; ordered by connections, most first.
	Denied  []Denial `json:"denied"`
	Allowed []Denial `json:"allowed"`
	// DeniedConnections and AllowedConnections add them up, Same counts the
	// connections that both judge alike.
	DeniedConnections  uint64 `json:"deniedConnections"`
	AllowedConnections uint64 `json:"allowedConnections"`
	Same               uint64 `json:"same"`
}

// Diff replays a window by pairs of policies, those before and those after a
// change: before[i] and after[i] are of one workload. An edge of which only some
// addresses are denied counts as denied.
func (a *Analyzer) Diff(ctx context.Context, before, after []policy.Policy, window Window) ([]*Difference, error) {
	if len(before) != len(after) {
		return nil, fmt.Errorf("%d policies before and %d after; want pairs", len(before), len(after))
	}
	results, err := a.ReplayAll(ctx, slices.Concat(before, after), window)
	if err != nil {
		return nil, err
	}
	out := make([]*Difference, len(before))
	for i := range before {
		was, is := results[i], results[len(before)+i]
		if was.Workload != is.Workload {
			return nil, fmt.Errorf("policies of %s and of %s are no pair", was.Workload, is.Workload)
		}
		d := &Difference{Workload: is.Workload, Window: window, Changes: policy.Diff(before[i], after[i])}
		d.Denied, d.DeniedConnections = onlyIn(is.Denials, was.Denials)
		d.Allowed, d.AllowedConnections = onlyIn(was.Denials, is.Denials)
		d.Same = is.Judged - d.DeniedConnections - d.AllowedConnections
		out[i] = d
	}
	return out, nil
}

// onlyIn returns the denials of list that other lacks, in their order.
func onlyIn(list, other []Denial) ([]Denial, uint64) {
	type key struct {
		direction flow.Direction
		from, to  flow.Party
		protocol  flow.Protocol
		port      uint16
	}
	of := func(d *Denial) key { return key{d.Direction, d.Source, d.Destination, d.Protocol, d.Port} }
	have := make(map[key]bool, len(other))
	for i := range other {
		have[of(&other[i])] = true
	}
	out, sum := []Denial{}, uint64(0)
	for i := range list {
		if !have[of(&list[i])] {
			out = append(out, list[i])
			sum += list[i].Connections
		}
	}
	return out, sum
}
