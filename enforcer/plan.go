package enforcer

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
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
	index     *inventory.Index
	slots     map[flow.Workload]slots
	former    map[flow.Workload]slots
	endpoints map[flow.Workload][]bpf.Endpoint
	addresses []bpf.AddressOwner

	// prefixes are those of the slots. tables are compiled over them and over
	// the ones in force before, so that they are right at every moment of the
	// change.
	prefixes prefixes
	both     prefixes
	tables   map[bpf.TableKey]bpf.Table

	// refused says which workloads kept their former slots, and why.
	refused []error
}

// newPlan compiles wanted for one node. A workload whose policies cannot be
// enforced keeps its former ones; an error means that nothing can be changed.
func newPlan(node string, inv inventory.Inventory, wanted, former map[flow.Workload]slots, known prefixes, limits bpf.Limits) (*plan, error) {
	p := &plan{
		index:     inventory.NewIndex(inv),
		slots:     maps.Clone(wanted),
		former:    former,
		endpoints: endpoints(&inv, node),
		addresses: addresses(&inv, node),
	}
	if err := p.checkInventory(node, limits); err != nil {
		return nil, err
	}
	for ref, s := range p.slots {
		if p.endpoints[ref] == nil {
			delete(p.slots, ref)
			continue
		}
		if err := checkSlots(ref, s); err != nil {
			if err := p.refuse(ref, err); err != nil {
				return nil, err
			}
		}
	}
	// Every round refuses one workload more, so this ends.
	for {
		err := p.compile(known, limits)
		if err == nil {
			slices.SortFunc(p.refused, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
			return p, nil
		}
		refused, ok := errors.AsType[*refusedError](err)
		if !ok {
			return nil, err
		}
		if err := p.refuse(refused.workload, err); err != nil {
			return nil, err
		}
	}
}

// refuse puts a workload back to its former slots. It is an error when those are
// what cannot be enforced.
func (p *plan) refuse(ref flow.Workload, why error) error {
	former := p.former[ref]
	if sameSlots(p.slots[ref], former) {
		return why
	}
	if err := checkSlots(ref, former); err != nil {
		return errors.Join(why, err)
	}
	p.slots[ref] = former
	p.refused = append(p.refused, why)
	return nil
}

func (p *plan) compile(known prefixes, limits bpf.Limits) error {
	p.prefixes = allocate(mentioned(p.slots), known)
	p.both = p.prefixes.union(known)
	if err := p.checkPrefixes(limits); err != nil {
		return err
	}
	tables, err := p.compileOver(p.both, limits)
	if err != nil {
		return err
	}
	if len(tables) > limits.PolicyTables {
		return p.overflow(slots.count, "%s tables, there is room for %s: enforce fewer workloads on it", len(tables), limits.PolicyTables)
	}
	p.tables = tables
	return nil
}

func (p *plan) compileOver(over prefixes, limits bpf.Limits) (map[bpf.TableKey]bpf.Table, error) {
	c := newCompiler(p.index, over, limits)
	out := map[bpf.TableKey]bpf.Table{}
	for _, ref := range slices.SortedFunc(maps.Keys(p.slots), flow.Workload.Compare) {
		tables, err := c.workload(ref, p.slots[ref])
		if err != nil {
			return nil, err
		}
		for _, t := range tables {
			out[t.TableKey] = t
		}
	}
	return out, nil
}

func (p *plan) checkPrefixes(limits bpf.Limits) error {
	if len(p.both) <= limits.CIDRs {
		return nil
	}
	return p.overflow(func(s slots) int { return len(mentioned(map[flow.Workload]slots{{}: s})) },
		"%s prefixes, the table holds %s: use fewer and shorter ones", len(p.both), limits.CIDRs)
}

// overflow refuses, of the workloads that change, the one that counts most.
func (p *plan) overflow(count func(slots) int, format string, need, have int) error {
	why := "this node's policies need " + fmt.Sprintf(format, thousands(need), thousands(have))
	var ref flow.Workload
	most := -1
	for _, r := range slices.SortedFunc(maps.Keys(p.slots), flow.Workload.Compare) {
		if n := count(p.slots[r]); n > most && !sameSlots(p.slots[r], p.former[r]) {
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
			if e.ID == 0 || ids[e.ID] {
				return fmt.Errorf("endpoint %s of %s has number %d, which is none or another's: the server must assign its own", e.Name, w.Ref(), e.ID)
			}
			ids[e.ID] = true
		}
	}
	return nil
}

// checkSlots refuses revisions that are not what the server approved, or that
// the compiler could only enforce in part.
func checkSlots(ref flow.Workload, s slots) error {
	var err error
	s.each(func(_ flow.Slot, r *rollout.Revision) {
		refused := func(format string, args ...any) {
			if err == nil {
				err = &refusedError{workload: ref, revision: r.Number, why: fmt.Sprintf(format, args...)}
			}
		}
		switch {
		case r.Number == 0:
			refused("has no number: revisions count from 1")
		case r.Policy.Workload != ref:
			refused("is a policy of %s", r.Policy.Workload)
		case r.Digest != policy.Digest(r.Policy):
			refused("does not match its digest: it was changed after it was approved")
		default:
			if problems := r.Policy.Validate(); problems != nil {
				refused("is not valid: %s", oneLine(problems))
			}
		}
	})
	return err
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
