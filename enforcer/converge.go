package enforcer

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
)

// kernel is what the enforcer knows the datapath to hold.
type kernel struct {
	tables    map[bpf.TableKey]digest
	attached  []bpf.Attached
	addresses []bpf.AddressOwner
	cidrs     []bpf.CIDRIdentity
	services  []bpf.ServiceIdentity
	failsafe  bool // set by this process
	// problems are what could not be done after a switch, and unwatched which
	// endpoints could not be attached; converging again tries them again.
	problems  []string
	unwatched []string
}

// switchTo makes the kernel decide by p. When it returns an error, the kernel
// decides as it did before.
func (e *Enforcer) switchTo(p *plan, former *plan) (time.Time, error) {
	if !e.kernel.failsafe {
		if _, err := e.dp.SetFailsafe(e.cfg.Failsafe); err != nil {
			return time.Time{}, fmt.Errorf("set failsafe: %w", err)
		}
		e.kernel.failsafe = true
	}
	if err := e.widen(p, former); err != nil {
		return time.Time{}, err
	}
	// What a workload that is still here has too much goes in the step in which
	// the rest comes. One that left is detached first.
	here := map[flow.Identity]bool{}
	for ref := range p.endpoints {
		here[p.index.Workload(ref).Identity] = true
	}
	at, err := e.apply(p.tables, func(k bpf.TableKey) bool { return here[k.Identity] })
	if err != nil {
		return time.Time{}, fmt.Errorf("switch policies: %w", err)
	}
	// Known already, unless nothing was in force before: then the tables first.
	if err := e.setServices(p.both.services.kernel()); err != nil {
		return time.Time{}, fmt.Errorf("add services: %w", err)
	}
	return at, nil
}

// widen teaches the kernel the prefixes and services that p adds. Where one of
// them lies within a prefix of a policy in force, or it says something of a new
// service's address, that policy learns of it first.
func (e *Enforcer) widen(p, former *plan) error {
	if former != nil && p.both.count() > former.numbers.count() {
		tables, err := former.compileOver(p.both, e.dp.Capacity(), nil)
		if err != nil {
			return err
		}
		if _, err := e.apply(tables, nil); err != nil {
			return fmt.Errorf("add prefixes and services to policies: %w", err)
		}
		if err := e.setServices(p.both.services.kernel()); err != nil {
			return fmt.Errorf("add services: %w", err)
		}
	}
	if err := e.setCIDRs(p.both.prefixes.kernel()); err != nil {
		return fmt.Errorf("add prefixes: %w", err)
	}
	return nil
}

func (e *Enforcer) setCIDRs(list []bpf.CIDRIdentity) error {
	return replace(&e.kernel.cidrs, list, e.dp.SetCIDRs)
}

func (e *Enforcer) setServices(list []bpf.ServiceIdentity) error {
	return replace(&e.kernel.services, list, e.dp.SetServices)
}

func (e *Enforcer) setAddresses(list []bpf.AddressOwner) error {
	return replace(&e.kernel.addresses, list, e.dp.SetAddresses)
}

// replace makes list a table of the kernel that holds known, nil for what nobody
// knows.
func replace[T comparable](known *[]T, list []T, set func([]T) (bpf.Changes, error)) error {
	if *known != nil && slices.Equal(*known, list) {
		return nil
	}
	*known = nil
	if _, err := set(list); err != nil {
		return err
	}
	*known = list
	return nil
}

// settle does what follows a switch. What it cannot do is kept as a problem.
func (e *Enforcer) settle(p *plan) {
	e.kernel.problems = nil
	problem := func(what string, err error) {
		if err != nil {
			e.kernel.problems = append(e.kernel.problems, what+": "+oneLine(err))
		}
	}
	// First: of what follows, records may tell before this function returns.
	if k := e.known.Load(); k == nil || !reflect.DeepEqual(k.index.Inventory(), p.index.Inventory()) {
		now := known{index: p.index, since: e.cfg.Clock.Now()}
		e.known.Store(&now)
		if e.cfg.Known != nil {
			e.cfg.Known(now.index, now.since)
		}
	}
	problem("set the answer to who is not known yet", e.dp.SetPending(p.pending()))
	problem("set addresses", e.setAddresses(p.addresses))
	// What leaves a workload does so before the workload's tables go.
	e.attach(p)

	if p.both.count() > p.numbers.count() {
		problem("remove prefixes", e.setCIDRs(p.numbers.prefixes.kernel()))
		problem("remove services", e.setServices(p.numbers.services.kernel()))
		// Fewer of either need fewer entries, so these fit too.
		if tables, err := p.compileOver(p.numbers, e.dp.Capacity(), nil); err == nil {
			p.tables, p.both = tables, p.numbers
		}
	}
	_, err := e.apply(p.tables, func(bpf.TableKey) bool { return true })
	problem("remove tables", err)
}

// apply brings the tables that differ into the kernel and deletes those that are
// surplus and for which remove returns true.
func (e *Enforcer) apply(tables map[bpf.TableKey]table, remove func(bpf.TableKey) bool) (time.Time, error) {
	var changes []bpf.Table
	digests := maps.Clone(e.kernel.tables)
	for _, key := range slices.SortedFunc(maps.Keys(tables), compareKeys) {
		t := tables[key]
		if have, ok := e.kernel.tables[key]; !ok || have != t.digest {
			changes = append(changes, t.Table)
			digests[key] = t.digest
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(e.kernel.tables), compareKeys) {
		if _, ok := tables[key]; !ok && remove != nil && remove(key) {
			changes = append(changes, bpf.Table{TableKey: key, Delete: true})
			delete(digests, key)
		}
	}
	if len(changes) == 0 {
		return e.cfg.Clock.Now(), nil
	}
	at, err := e.dp.Apply(changes)
	if err != nil {
		return time.Time{}, err
	}
	e.kernel.tables = digests
	e.metrics.tables.Add(float64(len(changes)))
	return at, nil
}

// repair makes the kernel hold what is held, after drifted differences were
// found in its policies.
func (e *Enforcer) repair(drifted int) {
	e.metrics.drift.Add(float64(drifted))
	if _, err := e.switchTo(e.plan, nil); err != nil {
		e.kernel.problems = []string{"repair: " + oneLine(err)}
		return
	}
	e.settle(e.plan)
}

// forget makes the next converging write every table but the policies, and
// attach every endpoint, whatever this process did before: interfaces come and
// go, and the datapath finds out what really differs.
func (e *Enforcer) forget() {
	e.kernel.addresses, e.kernel.cidrs, e.kernel.services, e.kernel.attached, e.kernel.failsafe = nil, nil, nil, nil, false
}

// readKernel takes the tables as the kernel has them, and returns how many are
// not what the enforcer believed.
func (e *Enforcer) readKernel() (drifted int, err error) {
	tables, err := e.dp.Tables()
	if err != nil {
		return 0, fmt.Errorf("read policies back: %w", err)
	}
	found := map[bpf.TableKey]digest{}
	for _, t := range tables {
		d := digestOf(t)
		found[t.TableKey] = d
		if have, ok := e.kernel.tables[t.TableKey]; !ok || have != d {
			drifted++
		}
	}
	for key := range e.kernel.tables {
		if _, ok := found[key]; !ok {
			drifted++
		}
	}
	e.kernel.tables = found
	return drifted, nil
}

func compareKeys(a, b bpf.TableKey) int {
	switch {
	case a.Identity != b.Identity:
		return int(int64(a.Identity) - int64(b.Identity))
	case a.Slot != b.Slot:
		return int(a.Slot) - int(b.Slot)
	}
	return int(a.Direction) - int(b.Direction)
}

// oneLine writes joined errors on one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
