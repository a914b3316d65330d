package bpf

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/flow"
)

// Numbers of tables have to fit three to a word; they equal RF_TABLE_BITS in
// bpf/types.h.
const (
	tableBits = 21
	tableMask = 1<<tableBits - 1
)

// policies are the kernel's rules, tables and workloads, with the bookkeeping
// of what is free. It can be rebuilt from the maps at any time.
//
// What keeps a verdict exact while tables come and go: rules are added to a
// table before any workload names it, and taken away only when no workload
// does and a grace period has passed since, so that no running program still
// sees it. Numbers are given out again only after that. A switch is one store
// for all tables of a workload's direction, into an element that never moves.
type policies struct {
	rules     *ebpf.Map
	heads     mapping[kernelRfTable]
	workloads mapping[kernelRfWorkload]
	endpoints *ebpf.Map // they name workloads too
	grace     *grace

	tables    map[uint32]*heldTable
	byDigest  map[digest]uint32 // tables that may be named again
	numbers   map[flow.Identity]uint32
	ruleCount int    // of all tables
	lastTable uint32 // number given out last
	lastWork  uint32
	clock     uint64 // counts grace periods begun
}

type heldTable struct {
	image
	digest  digest
	words   int    // that name it
	retired uint64 // the clock's reading when the last of them stopped
}

func (p *policies) open(m *kernelMaps) (err error) {
	p.rules, p.endpoints = m.Rules, m.Endpoints
	if p.heads, err = mapValues[kernelRfTable](m.Tables); err != nil {
		return fmt.Errorf("tables: %w", err)
	}
	if p.workloads, err = mapValues[kernelRfWorkload](m.Workloads); err != nil {
		return fmt.Errorf("workloads: %w", err)
	}
	if p.grace, err = newGrace(); err != nil {
		return err
	}
	return p.read()
}

func (p *policies) close() error {
	p.grace.close()
	return errors.Join(p.heads.close(), p.workloads.close())
}

// word returns the tables of one direction of a workload.
func (p *policies) word(number uint32, d flow.Direction) *uint64 {
	w := &p.workloads.values[number]
	if d == flow.Egress {
		return &w.Egress
	}
	return &w.Ingress
}

func tableOf(word uint64, slot flow.Slot) uint32 {
	return uint32(word>>(uint(slot)*tableBits)) & tableMask //nolint:gosec // masked
}

func withTable(word uint64, slot flow.Slot, table uint32) uint64 {
	shift := uint(slot) * tableBits
	return word&^(tableMask<<shift) | uint64(table)<<shift
}

// read rebuilds the bookkeeping from the maps. Tables that no word names, such
// as those of a process that ended while it wrote them, wait to be deleted.
func (p *policies) read() error {
	rules, err := readMap[kernelRfRuleKey, uint64](p.rules)
	if err != nil {
		return fmt.Errorf("read rules: %w", err)
	}
	p.tables, p.byDigest = make(map[uint32]*heldTable), make(map[digest]uint32)
	p.numbers = make(map[flow.Identity]uint32)
	p.ruleCount = len(rules)
	held := func(number uint32) *heldTable {
		t := p.tables[number]
		if t == nil {
			t = &heldTable{retired: p.clock}
			p.tables[number] = t
		}
		return t
	}
	for number := range uint32(len(p.workloads.values)) { //nolint:gosec // a map's size
		if id := flow.Identity(p.workloads.values[number].Identity); number > 0 && id != flow.IdentityUnknown {
			p.numbers[id] = number
		}
		for _, dir := range directions {
			word := atomic.LoadUint64(p.word(number, dir))
			for slot := range flow.Slot(places) {
				if t := tableOf(word, slot); t != 0 {
					held(t).words++
				}
			}
		}
	}
	for k, ports := range rules {
		t := held(k.Table)
		t.rules = append(t.rules, ruleOf(k, ports))
	}
	for number := range p.heads.values {
		if p.heads.values[number] != (kernelRfTable{}) {
			held(uint32(number))
		}
	}
	for number, t := range p.tables {
		slices.SortFunc(t.rules, rule.compare)
		if int(number) < len(p.heads.values) {
			t.head = p.heads.values[number]
		}
		t.digest = t.image.digest()
		p.byDigest[t.digest] = number
	}
	return nil
}

var directions = [...]flow.Direction{flow.Ingress, flow.Egress}

// list returns the tables in force.
func (p *policies) list() []Table {
	var list []Table
	for _, id := range slices.Sorted(maps.Keys(p.numbers)) {
		for slot := range flow.Slot(places) {
			for _, dir := range directions {
				number := tableOf(atomic.LoadUint64(p.word(p.numbers[id], dir)), slot)
				if number != 0 {
					list = append(list, p.tables[number].table(TableKey{id, slot, dir}))
				}
			}
		}
	}
	return list
}

// need is what a change takes of the maps.
type need struct{ tables, rules, workloads int }

func (p *policies) needs(c *change) (n need) {
	for d, im := range c.images {
		if _, have := p.byDigest[d]; !have {
			n.tables++
			n.rules += len(im.rules)
		}
	}
	fresh := make(map[flow.Identity]bool)
	for _, t := range c.tables {
		if _, have := p.numbers[t.Identity]; !have && !t.Delete {
			fresh[t.Identity] = true
		}
	}
	n.workloads = len(fresh)
	return n
}

// misses says what of n there is no room for.
func (p *policies) misses(n need) error {
	lack := func(what string, n, have, limit int) error {
		if n == 0 || n+have <= limit {
			return nil
		}
		return fmt.Errorf("%d new %s beside the %d in force: the kernel holds %d", n, what, have, limit)
	}
	return errors.Join(
		lack("policy entries", n.rules, p.ruleCount, int(p.rules.MaxEntries())),
		lack("policy tables", n.tables, len(p.tables), len(p.heads.values)-1),
		lack("workloads", n.workloads, len(p.numbers), len(p.workloads.values)-1),
	)
}

// write puts the content of c into tables that nobody names yet. On an error
// none of it stays.
func (p *policies) write(c *change) error {
	if err := p.makeRoom(c); err != nil {
		return err
	}
	var written []uint32
	for d, im := range c.images {
		if _, have := p.byDigest[d]; have {
			continue
		}
		number := p.freeTable()
		written = append(written, number)
		if err := p.writeTable(number, d, im); err != nil {
			// Nobody has seen them: they need no grace period.
			return errors.Join(fmt.Errorf("write policy table of %d entries: %w", len(im.rules), err), p.erase(written))
		}
	}
	for _, t := range c.tables {
		if !t.Delete {
			p.takeNumber(t.Identity)
		}
	}
	return nil
}

// makeRoom sees to it that c fits, and waits for the programs only if it does
// not without what they may still look at.
func (p *policies) makeRoom(c *change) error {
	if p.misses(p.needs(c)) == nil {
		return nil
	}
	if err := p.grace.wait(); err != nil {
		return err
	}
	p.clock++
	if err := p.reclaim(p.clock); err != nil {
		return err
	}
	if p.needs(c).workloads > 0 {
		if err := p.forgetWorkloads(c.tables); err != nil {
			return err
		}
	}
	return p.misses(p.needs(c))
}

// freeTable returns a number that is not taken; makeRoom saw that there is one.
func (p *policies) freeTable() uint32 {
	for {
		p.lastTable = p.lastTable%uint32(len(p.heads.values)-1) + 1 //nolint:gosec // a map's size
		if p.tables[p.lastTable] == nil {
			return p.lastTable
		}
	}
}

func (p *policies) writeTable(number uint32, d digest, im image) error {
	p.tables[number] = &heldTable{image: im, digest: d, retired: p.clock}
	p.byDigest[d] = number
	p.ruleCount += len(im.rules)
	p.heads.values[number] = im.head
	return writeRules(p.rules, number, im.rules)
}

func writeRules(m *ebpf.Map, number uint32, rules []rule) error {
	for chunk := range slices.Chunk(rules, batchSize) {
		keys, ports := make([]kernelRfRuleKey, len(chunk)), make([]uint64, len(chunk))
		for i, r := range chunk {
			keys[i], ports[i] = r.key(number), r.ports
		}
		if _, err := m.BatchUpdate(keys, ports, nil); err != nil {
			return err
		}
	}
	return nil
}

// point puts c, which is written, in force.
func (p *policies) point(c *change) {
	words := make(map[*uint64]uint64)
	var order []*uint64
	for i, t := range c.tables {
		number, known := p.numbers[t.Identity]
		if !known {
			continue // there is nothing to delete
		}
		at := p.word(number, t.Direction)
		if _, have := words[at]; !have {
			words[at] = atomic.LoadUint64(at)
			order = append(order, at)
		}
		words[at] = withTable(words[at], t.Slot, p.byDigest[c.digests[i]])
	}
	for _, at := range order {
		was := atomic.SwapUint64(at, words[at])
		for slot := range flow.Slot(places) {
			p.count(tableOf(words[at], slot), 1)
			p.count(tableOf(was, slot), -1)
		}
	}
}

func (p *policies) count(number uint32, n int) {
	t := p.tables[number]
	if t == nil {
		return
	}
	t.words += n
	if t.words == 0 {
		t.retired = p.clock
	}
}

// retired says how many rules wait to be deleted.
func (p *policies) retired() (tables, rules int) {
	for _, t := range p.tables {
		if t.words == 0 {
			tables++
			rules += len(t.rules)
		}
	}
	return tables, rules
}

// reclaim deletes the tables that nobody has named since before the grace
// period that began when the clock came to read now.
func (p *policies) reclaim(now uint64) error {
	var gone []uint32
	for number, t := range p.tables {
		if t.words == 0 && t.retired < now {
			gone = append(gone, number)
		}
	}
	return p.erase(gone)
}

// erase deletes tables that no program can be looking at. One that cannot be
// deleted is kept for another time, and never named again.
func (p *policies) erase(numbers []uint32) error {
	var keys []kernelRfRuleKey
	for _, number := range numbers {
		t := p.tables[number]
		if p.byDigest[t.digest] == number {
			delete(p.byDigest, t.digest)
		}
		for _, r := range t.rules {
			keys = append(keys, r.key(number))
		}
	}
	for len(keys) > 0 {
		n, err := p.rules.BatchDelete(keys[:min(len(keys), batchSize)], nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) && n < len(keys) {
			n++ // it was not written
		} else if err != nil {
			return fmt.Errorf("delete rules: %w", err)
		}
		keys = keys[n:]
	}
	for _, number := range numbers {
		p.ruleCount -= len(p.tables[number].rules)
		if int(number) < len(p.heads.values) {
			p.heads.values[number] = kernelRfTable{}
		}
		delete(p.tables, number)
	}
	return nil
}

// workload returns the number of an identity's, which it gets now if it has
// none; 0 for the identity that is not known yet.
func (p *policies) workload(id flow.Identity) (uint32, error) {
	if id == flow.IdentityUnknown {
		return 0, nil
	}
	c := &change{tables: []Table{{TableKey: TableKey{Identity: id}}}}
	if err := p.makeRoom(c); err != nil {
		return 0, err
	}
	return p.takeNumber(id), nil
}

func (p *policies) takeNumber(id flow.Identity) uint32 {
	if number, have := p.numbers[id]; have {
		return number
	}
	for {
		p.lastWork = p.lastWork%uint32(len(p.workloads.values)-1) + 1 //nolint:gosec // a map's size
		if w := &p.workloads.values[p.lastWork]; w.Identity == 0 {
			w.Identity = uint32(id)
			p.numbers[id] = p.lastWork
			return p.lastWork
		}
	}
}

// forgetWorkloads takes the numbers back of identities that have neither a
// table nor an endpoint nor a part in what is about to be applied. The caller
// has waited for the programs since any of that changed.
func (p *policies) forgetWorkloads(keep []Table) error {
	used, err := p.usedWorkloads()
	if err != nil {
		return err
	}
	for _, t := range keep {
		used[p.numbers[t.Identity]] = true
	}
	for id, number := range p.numbers {
		if !used[number] {
			p.workloads.values[number].Identity = 0
			delete(p.numbers, id)
		}
	}
	return nil
}

// usedWorkloads returns the numbers that have a table or an endpoint.
func (p *policies) usedWorkloads() (map[uint32]bool, error) {
	used := make(map[uint32]bool)
	endpoints, err := readMap[uint32, kernelRfEndpoint](p.endpoints)
	if err != nil {
		return nil, fmt.Errorf("read endpoints: %w", err)
	}
	for _, e := range endpoints {
		if e.Workload != 0 {
			used[e.Workload] = true
		}
	}
	for _, number := range p.numbers {
		if w := &p.workloads.values[number]; w.Ingress != 0 || w.Egress != 0 {
			used[number] = true
		}
	}
	return used, nil
}
