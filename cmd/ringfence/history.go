package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/flowfile"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// history is the past that policies are judged by.
type history interface {
	// inventory is who took part.
	inventory(ctx context.Context) (*inventory.Inventory, error)
	replay(ctx context.Context, policies []policy.Policy) ([]replayed, error)
	diff(ctx context.Context, before, after []policy.Policy) ([]*analyzer.Difference, error)
	// summary says what was read, where it was read from files.
	summary() *flowfile.Summary
}

// fileHistory is what files of flows say.
type fileHistory struct{ set *flowfile.Set }

func (h fileHistory) summary() *flowfile.Summary { return &h.set.Summary }

func (h fileHistory) inventory(context.Context) (*inventory.Inventory, error) {
	inv := h.set.Inventory()
	return &inv, nil
}

func (h fileHistory) replay(ctx context.Context, policies []policy.Policy) ([]replayed, error) {
	a, window, err := analyzerOf(h.set)
	if err != nil {
		return nil, err
	}
	results, err := a.ReplayAll(ctx, policies, window)
	if err != nil {
		return nil, err
	}
	out := make([]replayed, len(results))
	for i, r := range results {
		out[i] = replayed{ReplayResult: r, Samples: make([][]flowfile.Sample, len(r.Denials))}
		for j := range r.Denials {
			d := &r.Denials[j]
			out[i].Samples[j] = h.set.Samples(d.Source, d.Destination, d.Protocol, d.Port)
		}
	}
	return out, nil
}

func (h fileHistory) diff(ctx context.Context, before, after []policy.Policy) ([]*analyzer.Difference, error) {
	a, window, err := analyzerOf(h.set)
	if err != nil {
		return nil, err
	}
	return a.Diff(ctx, before, after, window)
}

// serverHistory is what a server's store holds of a window.
type serverHistory struct {
	*remote
	since, until *time.Time
	samples      int // denials that may still be shown with their flows
}

// A replay by the server shows the flows of so many denials, and so many of each.
const (
	sampledDenials = 50
	samplesOfOne   = 3
)

func (h *serverHistory) summary() *flowfile.Summary { return &flowfile.Summary{} }

func (h *serverHistory) replay(ctx context.Context, policies []policy.Policy) ([]replayed, error) {
	c, err := h.connect()
	if err != nil {
		return nil, err
	}
	bar := newProgress(os.Stderr, "policies", len(policies))
	defer bar.end()
	var out []replayed
	for i, p := range policies {
		w := p.Workload
		res, err := c.ReplayPolicyWithResponse(ctx, w.Namespace, w.Kind, w.Name, api.ReplayRequest{Policy: api.PolicyOf(p), Since: h.since, Until: h.until})
		if err := expect(res, err); err != nil {
			return nil, fmt.Errorf("replay the policy of %s: %w", w, err)
		}
		one, err := h.replayed(ctx, w, res)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
		bar.set(i + 1)
	}
	return out, nil
}

// replayed reads an answer, whose names are those of the analyzer's own results.
func (h *serverHistory) replayed(ctx context.Context, w flow.Workload, res *api.ReplayPolicyResponse) (replayed, error) {
	out := replayed{ReplayResult: &analyzer.ReplayResult{}}
	var window analyzer.Window
	for _, into := range []any{out.ReplayResult, &window} {
		if err := json.Unmarshal(res.Body, into); err != nil {
			return out, fmt.Errorf("read the server's answer: %w", err)
		}
	}
	out.Workload, out.Window = w, window
	out.Samples = make([][]flowfile.Sample, len(out.Denials))
	for i, d := range res.JSON200.Denials {
		out.Samples[i] = []flowfile.Sample{}
		if h.samples == 0 || d.Filter == nil {
			continue
		}
		h.samples--
		var err error
		if out.Samples[i], err = h.sample(ctx, *d.Filter); err != nil {
			return out, err
		}
	}
	return out, nil
}

// sample returns some flows that a filter wants. Both ends may have seen one.
func (r *remote) sample(ctx context.Context, filter string) ([]flowfile.Sample, error) {
	flows, err := r.records(ctx, filter, 2*samplesOfOne)
	if err != nil {
		return nil, err
	}
	out := []flowfile.Sample{}
	for i := range flows {
		s, err := sampleOf(&flows[i])
		if err != nil {
			return nil, err
		}
		same := func(o flowfile.Sample) bool { return o.Source == s.Source && o.Destination == s.Destination }
		if len(out) < samplesOfOne && !slices.ContainsFunc(out, same) {
			out = append(out, s)
		}
	}
	return out, nil
}

// records returns the newest records that a filter wants.
func (r *remote) records(ctx context.Context, filter string, limit int) ([]api.Flow, error) {
	c, err := r.connect()
	if err != nil {
		return nil, err
	}
	res, err := c.ListFlowsWithResponse(ctx, &api.ListFlowsParams{Filter: &filter, Limit: &limit})
	if err := expect(res, err); err != nil {
		return nil, err
	}
	return res.JSON200.Flows, nil
}

func sampleOf(f *api.Flow) (flowfile.Sample, error) {
	s := flowfile.Sample{Time: f.Time, SourceEndpoint: deref(f.Source.Endpoint), DestinationEndpoint: deref(f.Destination.Endpoint)}
	from, err := netip.ParseAddr(f.SourceAddress)
	if err != nil {
		return s, fmt.Errorf("read the server's answer: %w", err)
	}
	to, err := netip.ParseAddr(f.DestinationAddress)
	if err != nil {
		return s, fmt.Errorf("read the server's answer: %w", err)
	}
	s.Source, s.Destination = netip.AddrPortFrom(from, uint16(f.SourcePort)), netip.AddrPortFrom(to, uint16(f.Port)) //nolint:gosec // ports
	return s, nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (h *serverHistory) diff(ctx context.Context, before, after []policy.Policy) ([]*analyzer.Difference, error) {
	c, err := h.connect()
	if err != nil {
		return nil, err
	}
	bar := newProgress(os.Stderr, "policies", len(before))
	defer bar.end()
	out := []*analyzer.Difference{}
	for i := range before {
		w := before[i].Workload
		res, err := c.DiffPoliciesWithResponse(ctx, w.Namespace, w.Kind, w.Name, api.DiffRequest{
			Before: api.PolicyOf(before[i]), After: api.PolicyOf(after[i]), Since: h.since, Until: h.until,
		})
		if err := expect(res, err); err != nil {
			return nil, fmt.Errorf("compare the policies of %s: %w", w, err)
		}
		d := &analyzer.Difference{}
		for _, into := range []any{d, &d.Window} {
			if err := json.Unmarshal(res.Body, into); err != nil {
				return nil, fmt.Errorf("read the server's answer: %w", err)
			}
		}
		d.Workload, d.Changes = w, policy.Diff(before[i], after[i])
		out = append(out, d)
		bar.set(i + 1)
	}
	return out, nil
}
