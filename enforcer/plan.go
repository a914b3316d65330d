package enforcer

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/rollout"
)

// plan is everything that the kernel should hold, compiled.
type plan struct {
	scope
	slots     map[flow.Workload]slots
	endpoints map[flow.Workload][]bpf.Endpoint
	addresses []bpf.AddressOwner

	// numbers are those of the slots. tables are compiled over them and over
	// the ones in force before, so that they are right at every moment of the
	// change.
	numbers numbers
	both    numbers
	tables  map[bpf.TableKey]table

	// refused says which workloads kept their former slots, and why.
	refused []error
	// problems are names in policies in force that mean nothing here, or too much,
	// and services of which they admit only a part.
	problems []string
}

// planner makes plans for one node. What the plan in force says already is taken
// over from it, so that a change costs what changes.
type planner struct {
	node   string
	limits bpf.Limits
	// former is in force; nil when none is known. known are its numbers, or
	// those that the state file remembers.
	former *plan
	known  numbers
	// approving refuses revisions whose names mean nothing here. What was in force
	// already, and the way back to it, are not held up by that.
	approving bool
}

// plan compiles wanted. A workload whose policies cannot be enforced keeps its
// former ones; an error means that nothing can be changed.
func (pl planner) plan(inv inventory.Inventory, wanted map[flow.Workload]slots) (*plan, error) {
	p := &plan{slots: map[flow.Workload]slots{}, endpoints: endpoints(&inv, pl.node), addresses: addresses(&inv, pl.node)}
	if pl.former != nil && reflect.DeepEqual(*pl.former.index.Inventory(), inv) {
		p.scope = pl.former.scope
	} else {
		p.scope = newScope(inv, pl.node)
	}
	if err := p.checkInventory(pl.node, pl.limits); err != nil {
		return nil, err
	}
	for ref, s := range wanted {
		if p.endpoints[ref] == nil {
			continue
		}
		checked, err := pl.check(p.scope, ref, s)
		p.slots[ref] = checked
		if err != nil {
			if err := pl.refuse(p, ref, err); err != nil {
				return nil, err
			}
		}
	}
	// Every round refuses one workload more, so this ends.
	for {
		err := pl.compile(p)
		if err == nil {
			slices.SortFunc(p.refused, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
			p.problems = p.unresolved()
			return p, nil
		}
		refused, ok := errors.AsType[*refusedError](err)
		if !ok {
			return nil, err
		}
		if err := pl.refuse(p, refused.workload, err); err != nil {
			return nil, err
		}
	}
}

// formerSlots returns what is in force for a workload.
func (pl planner) formerSlots(ref flow.Workload) slots {
	if pl.former == nil {
		return slots{}
	}
	return pl.former.slots[ref]
}

// refuse puts a workload back to its former slots. It is an error when those are
// what cannot be enforced.
func (pl planner) refuse(p *plan, ref flow.Workload, why error) error {
	former := pl.formerSlots(ref)
	if sameSlots(p.slots[ref], former) {
		return why
	}
	p.slots[ref] = former
	p.refused = append(p.refused, why)
	return nil
}

// check returns s with the revisions that are in force already, which were
// checked when they came, and an error when a new one cannot be enforced.
func (pl planner) check(in scope, ref flow.Workload, s slots) (slots, error) {
	former := pl.formerSlots(ref)
	var errs []error
	known := func(r *rollout.Revision) *rollout.Revision {
		for _, f := range []*rollout.Revision{former.Live, former.Staged} {
			if r != nil && sameRevision(r, f) {
				return f
			}
		}
		if r != nil {
			errs = append(errs, checkRevision(ref, r))
			if why := in.unresolved(ref, r); pl.approving && len(why) > 0 {
				errs = append(errs, &refusedError{workload: ref, revision: r.Number, why: why[0]})
			}
		}
		return r
	}
	s = slots{Live: known(s.Live), Staged: known(s.Staged)}
	return s, errors.Join(errs...)
}

// unresolved says what of policies in force this node cannot make good on.
func (p *plan) unresolved() (out []string) {
	for _, ref := range slices.SortedFunc(maps.Keys(p.slots), flow.Workload.Compare) {
		p.slots[ref].each(func(slot flow.Slot, r *rollout.Revision) {
			list := p.scope.unresolved(ref, r)
			egress := bpf.TableKey{Identity: p.index.Workload(ref).Identity, Slot: slot, Direction: flow.Egress}
			if d := p.tables[egress].partly; d != nil {
				list = append(list, p.warn(*d))
			}
			for _, why := range list {
				out = append(out, (&refusedError{workload: ref, revision: r.Number, why: why}).Error())
			}
		})
	}
	return out
}

// pending returns the node's answer where an identity is not known yet.
func (p *plan) pending() flow.Verdict {
	return cmp.Or(p.index.Node(p.node).Pending, flow.VerdictAllow)
}

func (pl planner) compile(p *plan) error {
	p.numbers = numbers{
		prefixes: allocate(mentioned(p.scope, p.slots), pl.known.prefixes, flow.FirstCIDRIdentity, comparePrefixes),
		services: allocate(p.ends, pl.known.services, flow.FirstServiceIdentity, compareDestinations),
	}
	p.both = p.numbers.union(pl.known)
	if n := len(p.both.services); n > pl.limits.Services {
		return fmt.Errorf("inventory has %s ports of services' addresses, those of a moment ago included, the table holds %s: raise the agent's service limit",
			thousands(n), thousands(pl.limits.Services))
	}
	if len(p.both.prefixes) > pl.limits.CIDRs {
		return pl.overflow(p, func(ref flow.Workload) int {
			return len(mentioned(p.scope, map[flow.Workload]slots{ref: p.slots[ref]}))
		},
			"%s prefixes, the table holds %s: use fewer and shorter ones", len(p.both.prefixes), pl.limits.CIDRs)
	}
	tables, err := p.compileOver(p.both, pl.limits, pl.former)
	if err != nil {
		return err
	}
	p.tables = tables
	need := pl.room(tables)
	if need.tables > pl.limits.PolicyTables {
		return pl.overflow(p, func(ref flow.Workload) int { return p.slots[ref].count() },
			"%s tables until they have switched, there is room for %s: enforce fewer workloads on it", need.tables, pl.limits.PolicyTables)
	}
	if need.entries > pl.limits.PolicyEntries {
		return pl.overflow(p, p.entries,
			"%s entries until they have switched, there is room for %s: allow fewer peers or ports", need.entries, pl.limits.PolicyEntries)
	}
	return nil
}

// room is what tables of different content take up.
type room struct{ tables, entries int }

// room returns what the kernel has to hold during the switch to tables: what is
// in force goes when what comes is there. The way back needs no more.
func (pl planner) room(tables map[bpf.TableKey]table) (n room) {
	seen := map[digest]bool{}
	add := func(tables map[bpf.TableKey]table) {
		for _, t := range tables {
			if !seen[t.digest] {
				seen[t.digest] = true
				n.tables++
				n.entries += t.size
			}
		}
	}
	add(tables)
	if pl.former != nil {
		add(pl.former.tables)
	}
	return n
}

// entries counts those of one workload.
func (p *plan) entries(ref flow.Workload) (n int) {
	id := p.index.Workload(ref).Identity
	for key, t := range p.tables {
		if key.Identity == id {
			n += t.size
		}
	}
	return n
}

// compileOver compiles the slots over a set of numbers. What former compiled
// from the same is taken over.
func (p *plan) compileOver(over numbers, limits bpf.Limits, former *plan) (map[bpf.TableKey]table, error) {
	if former != nil && (former.index != p.index || !former.both.equal(over)) {
		former = nil
	}
	c := newCompiler(p.scope, over, limits)
	out := map[bpf.TableKey]table{}
	for _, ref := range slices.SortedFunc(maps.Keys(p.slots), flow.Workload.Compare) {
		var err error
		p.slots[ref].each(func(slot flow.Slot, r *rollout.Revision) {
			for _, d := range directions {
				key := bpf.TableKey{Identity: p.index.Workload(ref).Identity, Slot: slot, Direction: d}
				if former != nil && former.slots[ref].get(slot) == r {
					out[key] = former.tables[key]
				} else if err == nil {
					out[key], err = c.slot(key, r)
				}
			}
		})
		if err == nil {
			err = p.compileGuardrails(c, ref, out)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

var directions = []flow.Direction{flow.Ingress, flow.Egress}

// compileGuardrails adds what guards a workload, unless it has no policy: then
// nothing would be judged by it.
func (p *plan) compileGuardrails(c *compiler, ref flow.Workload, out map[bpf.TableKey]table) error {
	list := p.index.Guardrails(ref)
	if len(list) == 0 || p.slots[ref].newest() == 0 {
		return nil
	}
	for _, d := range directions {
		key := bpf.TableKey{Identity: p.index.Workload(ref).Identity, Slot: bpf.SlotGuardrail, Direction: d}
		t, ok, err := c.guardrails(key, list, ref, p.slots[ref].newest())
		if err != nil {
			return err
		}
		if ok {
			out[key] = t
		}
	}
	return nil
}

// overflow refuses, of the workloads that change, the one that counts most.
func (pl planner) overflow(p *plan, count func(flow.Workload) int, format string, need, have int) error {
	why := "this node's policies need " + fmt.Sprintf(format, thousands(need), thousands(have))
	var ref flow.Workload
	most := -1
	for _, r := range slices.SortedFunc(maps.Keys(p.slots), flow.Workload.Compare) {
		if n := count(r); n > most && !sameSlots(p.slots[r], pl.formerSlots(r)) {
			ref, most = r, n
		}
	}
	if most < 0 {
		return errors.New(why)
	}
	return &refusedError{workload: ref, revision: p.slots[ref].newest(), why: "does not fit: " + why}
}

// checkInventory refuses what the kernel's tables cannot tell apart or hold.
func (p *plan) checkInventory(node string, limits bpf.Limits) error {
	inv := p.index.Inventory()
	if p.index.Node(node) == nil {
		return fmt.Errorf("node %q is not in the inventory: add it or start the agent with the right name", node)
	}
	if len(p.addresses) > limits.Addresses {
		return fmt.Errorf("inventory has %s addresses, the table holds %s: raise the agent's address limit", thousands(len(p.addresses)), thousands(limits.Addresses))
	}
	if len(p.endpoints) > limits.Workloads {
		return fmt.Errorf("node %s has %s workloads, the table holds %s: raise the agent's workload limit", node, thousands(len(p.endpoints)), thousands(limits.Workloads))
	}
	local := 0
	for _, e := range p.endpoints {
		local += len(e)
	}
	if local > limits.Endpoints {
		return fmt.Errorf("node %s has %s endpoints, the table holds %s: raise the agent's endpoint limit", node, thousands(local), thousands(limits.Endpoints))
	}
	seen := map[netip.Addr]bool{}
	for _, a := range p.addresses {
		if seen[a.Addr.Unmap()] {
			return fmt.Errorf("address %s is in the inventory twice: an address has one owner", a.Addr)
		}
		seen[a.Addr.Unmap()] = true
	}
	if err := policy.ValidateGuardrails(inv.Guardrails); err != nil {
		return fmt.Errorf("inventory is not valid: %s", oneLine(err))
	}
	return checkNumbers(inv)
}

func checkNumbers(inv *inventory.Inventory) error {
	identities, ids := map[flow.Identity]bool{}, map[uint32]bool{}
	for i := range inv.Workloads {
		w := &inv.Workloads[i]
		if w.Identity < flow.FirstWorkloadIdentity || w.Identity >= flow.FirstCIDRIdentity || identities[w.Identity] {
			return fmt.Errorf("workload %s has identity %d, which is reserved or another's: the server must assign its own", w.Ref(), w.Identity)
		}
		identities[w.Identity] = true
		for _, e := range w.Endpoints {
			if e.ID == 0 || e.ID >= inventory.FirstPendingEndpoint || ids[e.ID] {
				return fmt.Errorf("endpoint %s of %s has number %d, which is none, a node's or another's: the server must assign its own", e.Name, w.Ref(), e.ID)
			}
			ids[e.ID] = true
		}
	}
	return nil
}

// checkRevision refuses a revision that is not what the server approved, or that
// the compiler could only enforce in part.
func checkRevision(ref flow.Workload, r *rollout.Revision) error {
	why := ""
	switch {
	case r.Number == 0:
		why = "has no number: revisions count from 1"
	case r.Policy.Workload != ref:
		why = fmt.Sprintf("is a policy of %s", r.Policy.Workload)
	case r.Digest != policy.Digest(r.Policy):
		why = "does not match its digest: it was changed after it was approved"
	default:
		problems := r.Policy.Validate()
		if problems == nil {
			return nil
		}
		why = "is not valid: " + oneLine(problems)
	}
	return &refusedError{workload: ref, revision: r.Number, why: why}
}

func (s slots) get(slot flow.Slot) *rollout.Revision {
	if slot == flow.SlotStaged {
		return s.Staged
	}
	return s.Live
}

func (s slots) count() (n int) {
	s.each(func(flow.Slot, *rollout.Revision) { n++ })
	return n
}

// newest returns the higher revision number of the two slots.
func (s slots) newest() (n uint32) {
	s.each(func(_ flow.Slot, r *rollout.Revision) { n = max(n, r.Number) })
	return n
}

func sameSlots(a, b slots) bool {
	return sameRevision(a.Live, b.Live) && sameRevision(a.Staged, b.Staged)
}

func sameRevision(a, b *rollout.Revision) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Number == b.Number && a.Digest == b.Digest
}

func isolates(r *rollout.Revision) bool {
	return r != nil && (r.Policy.IsolateIngress || r.Policy.IsolateEgress)
}
