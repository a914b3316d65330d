package control

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// DenialSource knows what was denied.
type DenialSource interface {
	Denials(ctx context.Context, f flow.DenialFilter) ([]flow.Denial, error)
}

// Enforcement is a live revision to be watched.
type Enforcement struct {
	Live policy.Policy
	// Previous is what was live before; nil when nothing was.
	Previous *policy.Policy
	// Denied is what Live has denied since it is live.
	Denied []flow.Denial
	// Audited is what it would have denied while it was staged: those who
	// enforced it could see that, and meant it.
	Audited []flow.Denial
}

// Regression returns the first denial that should not be, and why: one that the
// live revision's own policy allows, so that the kernel disagrees with it, or one
// that the previous live policy allowed by a rule and the audit did not announce.
// Before a first enforcement everything was allowed, which says nothing.
func Regression(e Enforcement, x *inventory.Index) (flow.Denial, string, bool) {
	announced := map[edge]bool{}
	for _, d := range e.Audited {
		announced[edgeOf(&d)] = true
	}
	own := policy.Evaluator{}
	if w := x.Workload(e.Live.Workload); w != nil {
		own.Own = w.NamedPorts()
	}
	for _, d := range e.Denied {
		if d.Reason != flow.ReasonDefault {
			continue // no rule can allow what is spoofed or malformed
		}
		facts, ok := factsOf(&d, x)
		if !ok {
			continue
		}
		if j := own.EvaluateService(&e.Live, facts); j.Allowed() {
			return d, "it denied " + describe(&d) + ", which its policy allows", true
		}
		if e.Previous == nil || announced[edgeOf(&d)] || !e.Previous.Isolates(d.Direction) {
			continue
		}
		if j := own.EvaluateService(e.Previous, facts); j.Reason == flow.ReasonRule {
			return d, "it denied " + describe(&d) + ", which was allowed before and which the audit did not show", true
		}
	}
	return flow.Denial{}, "", false
}

// edge is what tells denials apart.
type edge struct {
	direction           flow.Direction
	source, destination flow.Party
	protocol            flow.Protocol
	port                uint16
}

func edgeOf(d *flow.Denial) edge {
	e := edge{d.Direction, d.Source, d.Destination, d.Protocol, d.Port}
	e.source.Endpoint, e.destination.Endpoint = "", ""
	return e
}

func describe(d *flow.Denial) string {
	return fmt.Sprintf("%s from %s to %s", policy.Port{Protocol: d.Protocol, Port: d.Port}, d.Source, d.Destination)
}

// factsOf returns what the policy is asked about: of what was sent to a service,
// all that may have come of it. It is false when that is not known.
func factsOf(d *flow.Denial, x *inventory.Index) ([]policy.Facts, bool) {
	if d.Direction == flow.Egress && !d.Destination.IsWorkload() {
		to := inventory.Destination{Protocol: d.Protocol, Addr: netip.AddrPortFrom(d.Destination.Address, d.Port)}
		if ends := x.Ends(to, ""); len(ends) > 0 {
			return ends, true
		}
	}
	f, ok := directFacts(d, x)
	return []policy.Facts{f}, ok
}

func directFacts(d *flow.Denial, x *inventory.Index) (policy.Facts, bool) {
	f := policy.Facts{Direction: d.Direction, Protocol: d.Protocol, Port: d.Port}
	var peer flow.Party
	switch d.Direction {
	case flow.Ingress:
		peer = d.Source
	case flow.Egress:
		peer = d.Destination
	default:
		return f, false
	}
	// What the endpoint's own node sends is never denied: a denied packet with
	// the node's address came from elsewhere.
	f.Peer = policy.PeerFacts{Addr: peer.Address, Outside: true}
	if peer.IsWorkload() {
		w := x.Workload(peer.Workload)
		if w == nil {
			return f, false // it left the inventory, and its labels with it
		}
		f.Peer = x.Facts(w)
		f.Peer.Addr, f.Peer.Outside, f.Peer.Named = peer.Address, true, w.NamedPorts()
		return f, true
	}
	f.Peer.Names = x.Peer(peer.Address, "").Names
	if peer.Reserved == "" {
		return f, peer.Address.IsValid()
	}
	id, err := flow.ReservedIdentity(peer.Reserved)
	f.Peer.Reserved = id
	return f, err == nil
}

// Watch looks at the denials of recently enforced revisions at every tick and
// rolls back what regressed, until ctx ends.
func (s *Store) Watch(ctx context.Context, src DenialSource, tick <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
			s.guard(ctx, src)
		}
	}
}

// guard looks once at every workload whose live revision is within its window.
func (s *Store) guard(ctx context.Context, src DenialSource) {
	workloads, err := s.Workloads(ctx)
	if err != nil {
		s.metrics.guardErrors.Inc()
		return
	}
	for i := range workloads {
		w := &workloads[i]
		if w.Requested.Live == 0 || s.deps.Now().Sub(w.Requested.LiveAt) > s.cfg.GuardWindow {
			continue
		}
		if err := s.guardWorkload(ctx, src, w); err != nil {
			s.metrics.guardErrors.Inc()
			s.deps.Logger.Warn("denials of a new live revision could not be checked", "workload", w.Workload.Ref().String(), "error", err)
		}
	}
}

func (s *Store) guardWorkload(ctx context.Context, src DenialSource, w *Workload) error {
	ref, live := w.Workload.Ref(), w.Requested.Live
	last, err := lastLive(ctx, s.reads, w.Workload.Identity, live)
	if err != nil || last.Action != ActionPromote {
		return err
	}
	rev, err := s.revision(ctx, s.reads, w.Workload.Identity, ref, live)
	if err != nil {
		return err
	}
	e := Enforcement{Live: rev.Policy}
	if last.Previous != 0 {
		previous, err := s.revision(ctx, s.reads, w.Workload.Identity, ref, last.Previous)
		if err != nil {
			return err
		}
		e.Previous = &previous.Policy
	}
	if e.Denied, err = src.Denials(ctx, flow.DenialFilter{Workload: &ref, Slot: flow.SlotLive, Revision: live, Since: last.At}); err != nil {
		return err
	}
	if len(e.Denied) == 0 {
		return nil
	}
	if e.Previous != nil {
		e.Audited, err = src.Denials(ctx, flow.DenialFilter{Workload: &ref, Slot: flow.SlotStaged, Revision: live, Since: last.AuditedAt})
		if err != nil {
			return err
		}
	}
	_, reason, regressed := Regression(e, s.index.Load())
	if !regressed {
		return nil
	}
	_, err = s.rollback(ctx, Change{Workload: ref, Revision: live, Actor: System, Reason: reason}, false)
	s.metrics.count(ActionRollback, err)
	if err != nil {
		return err
	}
	s.metrics.rollbacks.Inc()
	s.deps.Logger.Warn("live revision was rolled back because of its denials", "workload", ref.String(), "revision", live)
	return nil
}
