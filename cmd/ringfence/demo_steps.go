package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/term"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/lab"
)

// What the demo does, it does through the HTTP API, as a person's clicks do.

func (d *demo) workloads(ctx context.Context) ([]api.WorkloadSummary, error) {
	res, err := d.client.ListWorkloadsWithResponse(ctx)
	if err := expect(res, err); err != nil {
		return nil, err
	}
	return *res.JSON200, nil
}

// learnFor waits for the learning time, shows progress, and returns what was learned.
func (d *demo) learnFor(ctx context.Context) ([]api.Recommendation, error) {
	interactive := false
	if f, ok := d.out.(*os.File); ok {
		interactive = term.IsTerminal(int(f.Fd()))
	}
	every := 10 * time.Second
	if interactive {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	end := time.Now().Add(d.learn)
	timer := time.NewTimer(d.learn)
	defer timer.Stop()
	for done := false; !done; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			done = true
		case <-tick.C:
		}
		switch {
		case done && interactive:
			fmt.Fprint(d.out, "\r\033[K")
		case done:
		case interactive:
			fmt.Fprintf(d.out, "\r\033[K%6.1fs  %s", time.Since(d.began).Seconds(), d.progress(ctx, time.Until(end)))
		default:
			d.say("%s", d.progress(ctx, time.Until(end)))
		}
	}
	return d.recommendations(ctx)
}

func (d *demo) progress(ctx context.Context, left time.Duration) string {
	res, err := d.client.GetStatusWithResponse(ctx)
	if err := expect(res, err); err != nil {
		return "learning: " + err.Error()
	}
	l := res.JSON200.Learning
	text := fmt.Sprintf("learning: %d edges, %d connections", l.Edges, l.Connections)
	if l.NewestEdgeAt != nil {
		text += fmt.Sprintf(", newest edge %s ago", time.Since(*l.NewestEdgeAt).Round(time.Second))
	}
	return fmt.Sprintf("%s, %d records lost, %s to go", text, l.LostRecords, max(left, 0).Round(time.Second))
}

func (d *demo) recommendations(ctx context.Context) ([]api.Recommendation, error) {
	list, err := d.workloads(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]api.Recommendation, 0, len(list))
	for i := range list {
		w := list[i].Workload
		res, err := d.client.GetRecommendationWithResponse(ctx, w.Namespace, w.Kind, w.Name, nil)
		if err := expect(res, err); err != nil {
			return nil, fmt.Errorf("recommendation for %s: %w", workloadText(w), err)
		}
		out = append(out, *res.JSON200)
	}
	return out, nil
}

// stageAll accepts every rule of recs, as a reviewer who looked at each and found
// nothing wrong would, and audits the revisions. It returns how many there are.
func (d *demo) stageAll(ctx context.Context, recs []api.Recommendation) (int, error) {
	n := 0
	for i := range recs {
		p := acceptedPolicy(&recs[i], true)
		if !p.IsolateIngress && !p.IsolateEgress {
			continue
		}
		w := recs[i].Workload
		comment := "accepted by the demo"
		rev, err := d.client.CreateRevisionWithResponse(ctx, w.Namespace, w.Kind, w.Name, api.NewRevision{
			Policy: p, Origin: api.NewRevisionOriginRecommendation, Comment: &comment, AcceptedFlagged: flaggedOf(&recs[i]),
		})
		if err := expect(rev, err); err != nil {
			return n, fmt.Errorf("revision of %s: %w", workloadText(w), err)
		}
		if _, err := d.change(ctx, slotStage, w, rev.JSON201.Number); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// acceptedPolicy is the policy of the recommended rules, with the flagged ones or
// without. A direction without a rule is left open.
func acceptedPolicy(r *api.Recommendation, flagged bool) api.Policy {
	p := api.Policy{Workload: r.Workload, Ingress: []api.Rule{}, Egress: []api.Rule{}}
	for _, rule := range r.Rules {
		if rule.Proposed == api.Review && !flagged {
			continue
		}
		switch rule.Direction {
		case api.Ingress:
			p.IsolateIngress = true
			p.Ingress = append(p.Ingress, rule.Rule)
		case api.Egress:
			p.IsolateEgress = true
			p.Egress = append(p.Egress, rule.Rule)
		case api.Unknown:
		}
	}
	return p
}

// flaggedOf are the rules of a recommendation that wait for a person.
func flaggedOf(r *api.Recommendation) *[]api.AcceptedFlagged {
	out := []api.AcceptedFlagged{}
	for _, rule := range r.Rules {
		if rule.Proposed != api.Review {
			continue
		}
		a := api.AcceptedFlagged{Rule: *rule.Rule.ID, Flags: []string{}}
		for _, f := range rule.Flags {
			a.Flags = append(a.Flags, f.Code)
		}
		out = append(out, a)
	}
	return &out
}

// change makes one click on one workload and returns the time from the click to
// the last node's kernel.
func (d *demo) change(ctx context.Context, action slotAction, w api.WorkloadRef, revision int64) (time.Duration, error) {
	detail, err := d.client.GetWorkloadWithResponse(ctx, w.Namespace, w.Kind, w.Name)
	if err := expect(detail, err); err != nil {
		return 0, err
	}
	click := time.Now()
	res, err := action.call(ctx, d.client, refOf(w), api.Promotion{Revision: revision, Version: detail.JSON200.Summary.Version})
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", action.verb, workloadText(w), err)
	}
	if !res.applied {
		return 0, fmt.Errorf("%s %s: not every node has applied it in time", action.verb, workloadText(w))
	}
	if res.SwitchedAt == nil {
		return 0, nil // staging switches nothing
	}
	return res.SwitchedAt.Sub(click), nil
}

// promoteAll enforces every staged revision, one click after the other.
func (d *demo) promoteAll(ctx context.Context) ([]time.Duration, error) {
	return d.changeAll(ctx, slotPromote, func(w *api.WorkloadSummary) *int64 { return w.Requested.Staged })
}

// rollBackAll takes every live revision back.
func (d *demo) rollBackAll(ctx context.Context) ([]time.Duration, error) {
	return d.changeAll(ctx, slotRollback, func(w *api.WorkloadSummary) *int64 { return w.Requested.Live })
}

func (d *demo) changeAll(ctx context.Context, action slotAction, pick func(*api.WorkloadSummary) *int64) ([]time.Duration, error) {
	list, err := d.workloads(ctx)
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	for i := range list {
		revision := pick(&list[i])
		if revision == nil {
			continue
		}
		t, err := d.change(ctx, action, list[i].Workload, *revision)
		if err != nil {
			return took, err
		}
		took = append(took, t)
	}
	return took, nil
}

// auditReport is what the staged revisions would have denied.
type auditReport struct {
	attacks   int      // that some workload's staged revision would have denied
	unflagged []string // attacks that none would have
	legit     int64    // connections besides
	others    []string // whose edges these are
}

// flagged asks what is reported as would-deny until every attack is, or the
// store has had its time.
func (d *demo) flagged(ctx context.Context, attacks []lab.AttackResult) (r auditReport, err error) {
	err = poll(ctx, storeDeadline, func() (bool, error) {
		var err error
		r, err = d.flaggedNow(ctx, attacks)
		return r.attacks == len(attacks), err
	})
	return r, err
}

func (d *demo) flaggedNow(ctx context.Context, attacks []lab.AttackResult) (auditReport, error) {
	r := auditReport{unflagged: []string{}, others: []string{}}
	list, err := d.workloads(ctx)
	if err != nil {
		return r, err
	}
	denied := map[string]int64{}
	for i := range list {
		if list[i].Requested.Staged == nil {
			continue
		}
		w := list[i].Workload
		res, err := d.client.ListDenialsWithResponse(ctx, w.Namespace, w.Kind, w.Name, &api.ListDenialsParams{Slot: api.Staged})
		if err := expect(res, err); err != nil {
			return r, err
		}
		for _, n := range res.JSON200.Denials {
			denied[edgeText(partyText(n.Source), partyText(n.Destination), n.Protocol, n.Port)] += n.Connections
		}
	}
	attacked := map[string]bool{}
	for i := range attacks {
		a := &attacks[i]
		name := edgeText(a.From, a.To, a.Protocol.String(), int(a.Port))
		attacked[name] = true
		if denied[name] > 0 {
			r.attacks++
		} else {
			r.unflagged = append(r.unflagged, name)
		}
	}
	for name, n := range denied {
		if !attacked[name] {
			r.legit += n
			r.others = append(r.others, name)
		}
	}
	slices.Sort(r.others)
	return r, nil
}

func edgeText(client, server, protocol string, port int) string {
	return fmt.Sprintf("%s -> %s %s/%d", client, server, protocol, port)
}

func partyText(p api.Party) string {
	switch {
	case p.Workload != nil:
		return workloadText(*p.Workload)
	case p.Address != nil:
		return *p.Address
	case p.Reserved != nil:
		return *p.Reserved
	}
	return "?"
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// poll asks until it is done or the time is up; what is then missing, the
// numbers say.
func poll(ctx context.Context, limit time.Duration, done func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		ok, err := done()
		if err == nil && ok {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		if err := sleep(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
}
