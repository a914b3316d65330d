package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
)

// SetLists makes lists the only ones, on every interface: each interface goes
// from all old ones to all new ones in one step. An error leaves the old ones.
//
// A source in several lists is counted by the first one that is enforced, or
// else by the first one. Sources in exempt always pass; they are counted if a
// list has them.
func (p *Prefilter) SetLists(lists []DenyList, exempt []netip.Prefix) (PrefilterStats, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return PrefilterStats{}, errPrefilterClosed
	}
	start := time.Now()
	stats := PrefilterStats{}
	for _, l := range lists {
		stats.Entries += len(l.Prefixes)
	}
	if err := p.checkLists(lists, exempt, stats.Entries); err != nil {
		return PrefilterStats{}, err
	}
	if err := p.begin(); err != nil {
		return PrefilterStats{}, explain(err)
	}
	former := p.used
	slots, err := p.takeSlots(lists)
	if err != nil {
		return PrefilterStats{}, errors.Join(err, p.freeSlots(former))
	}
	tables := makeTables(lists, slots, exempt)
	stats.Bytes = tables.size()
	program, err := p.load(tables)
	if err != nil {
		return PrefilterStats{}, errors.Join(explain(err), p.freeSlots(former))
	}
	if err := p.swap(program); err != nil {
		return PrefilterStats{}, errors.Join(err, program.Close(), p.freeSlots(former))
	}
	stats.Took = time.Since(start)
	var keep [denyListSlots]bool
	for _, slot := range slots {
		keep[slot] = true
	}
	return stats, p.freeSlots(keep)
}

func (p *Prefilter) checkLists(lists []DenyList, exempt []netip.Prefix, entries int) error {
	if len(lists) > MaxDenyLists {
		return fmt.Errorf("%d deny lists: a node may have %d", len(lists), MaxDenyLists)
	}
	if entries > p.cfg.MaxEntries {
		return fmt.Errorf("deny lists have %d entries together: there is room for %d", entries, p.cfg.MaxEntries)
	}
	names := map[string]bool{}
	for _, l := range lists {
		if l.Name == "" || len(l.Name) > MaxDenyListName || strings.ContainsRune(l.Name, 0) {
			return fmt.Errorf("deny list %q: want a name of 1 to %d bytes", l.Name, MaxDenyListName)
		}
		if names[l.Name] {
			return fmt.Errorf("deny list %s is there twice", l.Name)
		}
		names[l.Name] = true
		if i := slices.IndexFunc(l.Prefixes, badPrefix); i >= 0 {
			return fmt.Errorf("deny list %s: %s is not a plain prefix", l.Name, l.Prefixes[i])
		}
	}
	if i := slices.IndexFunc(exempt, badPrefix); i >= 0 {
		return fmt.Errorf("exempt %s is not a plain prefix", exempt[i])
	}
	return nil
}

// badPrefix also refuses IPv4 addresses mapped into IPv6: no frame has one.
func badPrefix(p netip.Prefix) bool {
	return !p.IsValid() || p != p.Masked() || p.Addr().Is4In6()
}

// takeSlots finds the slots that count for lists. One that runs now keeps its
// own; another gets one that no running program counts in.
func (p *Prefilter) takeSlots(lists []DenyList) ([]uint16, error) {
	known := map[string]int{}
	for slot, used := range p.used {
		if !used {
			continue
		}
		name, err := p.slotName(slot)
		if err != nil {
			return nil, err
		}
		known[name] = slot
	}
	slots := make([]uint16, len(lists))
	for i, l := range lists {
		slot, ok := known[l.Name]
		if !ok {
			if slot = slices.Index(p.used[:], false); slot < 0 {
				return nil, fmt.Errorf("no count is free for deny list %s: all %d are taken", l.Name, denyListSlots)
			}
			cpus, err := ebpf.PossibleCPU()
			if err != nil {
				return nil, fmt.Errorf("count CPUs: %w", err)
			}
			if err := p.maps.counts.Put(uint32(slot), make([]prefilterRfPrefilterCount, cpus)); err != nil { //nolint:gosec // below denyListSlots
				return nil, fmt.Errorf("clear counts of deny list %s: %w", l.Name, err)
			}
			if err := p.nameSlot(slot, l.Name); err != nil {
				return nil, err
			}
			p.used[slot] = true
		}
		slots[i] = uint16(slot) //nolint:gosec // below denyListSlots
	}
	return slots, nil
}

// freeSlots gives up the slots that are not kept.
func (p *Prefilter) freeSlots(keep [denyListSlots]bool) error {
	for slot, used := range p.used {
		if !used || keep[slot] {
			continue
		}
		if err := p.nameSlot(slot, ""); err != nil {
			return err
		}
		p.used[slot] = false
	}
	return nil
}

func (p *Prefilter) slotName(slot int) (string, error) {
	var l prefilterRfDenylist
	if err := p.maps.denylists.Lookup(uint32(slot), &l); err != nil { //nolint:gosec // below denyListSlots
		return "", fmt.Errorf("read deny list's name: %w", err)
	}
	name := *(*[len(l.Name)]byte)(unsafe.Pointer(&l.Name)) //nolint:gosec // C's char
	text, _, _ := strings.Cut(string(name[:]), "\x00")
	return text, nil
}

func (p *Prefilter) nameSlot(slot int, name string) error {
	var l prefilterRfDenylist
	for i := range len(name) {
		l.Name[i] = int8(name[i]) //nolint:gosec // C's char
	}
	if err := p.maps.denylists.Put(uint32(slot), l); err != nil { //nolint:gosec // below denyListSlots
		return fmt.Errorf("note name of deny list %s: %w", name, err)
	}
	return nil
}

// load makes the program of these tables.
func (p *Prefilter) load(t *prefilterTables) (*ebpf.Program, error) {
	spec, err := loadPrefilter()
	if err != nil {
		return nil, fmt.Errorf("read the prefilter: %w", err)
	}
	for name, value := range map[string]any{
		prefilterVarV4Length: t.v4Length,
		prefilterVarV6Levels: t.v6Levels, prefilterVarV6Offset: t.v6Offset, prefilterVarV6Count: t.v6Count,
		prefilterVarV6Length: uint32(len(t.v6Keys) / 16), //nolint:gosec // bounded by the entries
		prefilterVarV6Leaves: uint32(len(t.v6Marks) / 2), //nolint:gosec // bounded by the entries
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set the prefilter's %s: %w", name, err)
		}
	}
	replace := map[string]*ebpf.Map{prefilterMapSettings: p.maps.settings, prefilterMapCounts: p.maps.counts}
	for name, content := range map[string][]byte{
		prefilterMapV4Index: t.v4Index, prefilterMapV4Marks: t.v4Marks,
		prefilterMapV6Keys: t.v6Keys, prefilterMapV6Marks: t.v6Marks,
	} {
		m, err := fillMap(spec.Maps[name], content)
		if err != nil {
			return nil, err
		}
		defer func() { _ = m.Close() }() // the program holds it
		replace[name] = m
	}
	delete(spec.Maps, prefilterMapDenylists) // no program reads it
	var programs prefilterPrograms
	if err := spec.LoadAndAssign(&programs, &ebpf.CollectionOptions{MapReplacements: replace}); err != nil {
		return nil, fmt.Errorf("load the prefilter: %w", err)
	}
	return programs.RfPrefilter, nil
}

func fillMap(spec *ebpf.MapSpec, content []byte) (*ebpf.Map, error) {
	spec.ValueSize = uint32(len(content)) //nolint:gosec // bounded by the entries
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("create map %s of %d bytes: %w", spec.Name, len(content), err)
	}
	if err = m.Put(uint32(0), content); err == nil {
		err = m.Freeze()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fill map %s: %w", spec.Name, err), m.Close())
	}
	return m, nil
}
