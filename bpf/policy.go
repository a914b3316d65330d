package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ringfence/ringfence/internal/flow"
)

// peerMeta is the key of a table's own entry.
const peerMeta = 0xffffffff

// Flags of a table; they equal RF_TABLE_* in bpf/types.h.
const (
	tableOpen     = 1
	tableCIDRs    = 2
	tableAnyPeer  = 4
	tableAnyProto = 8
)

func (k TableKey) raw() kernelRfTableKey {
	return kernelRfTableKey{Identity: uint32(k.Identity), Slot: uint8(k.Slot), Direction: uint8(k.Direction)}
}

// String names the key as messages spell it.
func (k TableKey) String() string {
	return fmt.Sprintf("identity %d %s %s", k.Identity, k.Slot, k.Direction)
}

func (k TableKey) validate() error {
	if k.Identity == 0 || k.Slot > flow.SlotStaged || (k.Direction != flow.Ingress && k.Direction != flow.Egress) {
		return fmt.Errorf("table of %s: no such slot", k)
	}
	return nil
}

func (e Entry) validate() error {
	switch {
	case e.PortBits > 16:
		return fmt.Errorf("port prefix of %d bits", e.PortBits)
	case uint32(e.Port)&(0xffff>>e.PortBits) != 0:
		return fmt.Errorf("port %d is not the start of a range of %d bits", e.Port, 16-e.PortBits)
	case e.Protocol == 0 && e.PortBits != 0:
		return errors.New("a port without a protocol")
	case e.Peer == 0 || e.Peer == peerMeta:
		return fmt.Errorf("peer %d", e.Peer)
	}
	return nil
}

func (e Entry) key() kernelRfEntryKey {
	return kernelRfEntryKey{
		Peer: uint32(e.Peer), Protocol: uint8(e.Protocol), PortBits: e.PortBits, Port: networkOrder(e.Port),
	}
}

func networkOrder(port uint16) uint16 { return bits.ReverseBytes16(port) }

// content returns the table's entries as the kernel holds them.
func (t Table) content() (map[kernelRfEntryKey]kernelRfEntry, error) {
	meta := kernelRfEntry{Revision: t.Revision}
	content := make(map[kernelRfEntryKey]kernelRfEntry, len(t.Entries)+1)
	if t.Open {
		if len(t.Entries) > 0 {
			return nil, fmt.Errorf("table of %s: open, and yet it has entries", t.TableKey)
		}
		meta.Flags |= tableOpen
	}
	if t.UsesCIDRs {
		meta.Flags |= tableCIDRs
	}
	for _, e := range t.Entries {
		if err := e.validate(); err != nil {
			return nil, fmt.Errorf("table of %s: entry for peer %d: %w", t.TableKey, e.Peer, err)
		}
		if e.Peer == PeerAny {
			meta.Flags |= tableAnyPeer
		}
		if e.Protocol == 0 {
			meta.Flags |= tableAnyProto
		} else {
			meta.Lengths |= 1 << e.PortBits
		}
		key := e.key()
		if first, twice := content[key]; !twice || e.Rule < first.Rule {
			content[key] = kernelRfEntry{Rule: e.Rule}
		}
	}
	content[kernelRfEntryKey{Peer: peerMeta}] = meta
	return content, nil
}

// swap is one change of the outer map.
type swap struct {
	key TableKey
	old *ebpf.Map // nil: there was none
	new *ebpf.Map // nil: delete
}

// Apply puts all tables in force at once and returns the time from which the
// kernel decides by them. On an error nothing has changed.
func (d *Datapath) Apply(tables []Table) (time.Time, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return time.Time{}, errClosed
	}
	swaps, err := d.build(tables)
	defer func() {
		for _, s := range swaps {
			_ = s.old.Close()
			_ = s.new.Close()
		}
	}()
	if err != nil {
		return time.Time{}, explain(err)
	}
	if err := d.swap(swaps); err != nil {
		return time.Time{}, err
	}
	bumpEpoch(d.settings.value)
	for _, s := range swaps {
		switch {
		case s.old == nil && s.new != nil:
			d.levels.Tables++
		case s.old != nil && s.new == nil:
			d.levels.Tables--
		}
	}
	return time.Now(), nil
}

// build makes every inner map and finds the ones they replace.
func (d *Datapath) build(tables []Table) (swaps []swap, err error) {
	seen := make(map[TableKey]bool, len(tables))
	count := d.levels.Tables
	for _, t := range tables {
		if err := t.validate(); err != nil {
			return swaps, err
		}
		if seen[t.TableKey] {
			return swaps, fmt.Errorf("table of %s: given twice", t.TableKey)
		}
		seen[t.TableKey] = true
		s := swap{key: t.TableKey}
		if s.old, err = d.table(t.TableKey); err != nil {
			return swaps, err
		}
		swaps = append(swaps, s)
		if t.Delete {
			count--
			continue
		}
		if s.old == nil {
			count++
		}
		inner, err := d.buildTable(t)
		if err != nil {
			return swaps, err
		}
		swaps[len(swaps)-1].new = inner
	}
	if count > d.limits.PolicyTables {
		return swaps, fmt.Errorf("%d policy tables: the kernel's table holds %d", count, d.limits.PolicyTables)
	}
	return swaps, nil
}

func (d *Datapath) buildTable(t Table) (*ebpf.Map, error) {
	content, err := t.content()
	if err != nil {
		return nil, err
	}
	if n := len(content) - 1; n > d.limits.PolicyEntries {
		return nil, fmt.Errorf("table of %s at revision %d needs %d entries: it may hold %d",
			t.TableKey, t.Revision, n, d.limits.PolicyEntries)
	}
	inner, err := ebpf.NewMap(&ebpf.MapSpec{
		Name:       "rf_table",
		Type:       ebpf.Hash,
		KeySize:    8,
		ValueSize:  16,
		MaxEntries: uint32(len(content)), //nolint:gosec // bounded above
	})
	if err != nil {
		return nil, fmt.Errorf("create table of %s with %d entries: %w", t.TableKey, len(content), err)
	}
	keys := make([]kernelRfEntryKey, 0, len(content))
	for k := range content {
		keys = append(keys, k)
	}
	if err := writeKeys(inner, keys, content); err != nil {
		_ = inner.Close()
		return nil, fmt.Errorf("fill table of %s: %w", t.TableKey, err)
	}
	return inner, nil
}

// table returns the inner map of a key, nil if there is none.
func (d *Datapath) table(k TableKey) (*ebpf.Map, error) {
	var inner *ebpf.Map
	err := d.maps.Policies.Lookup(k.raw(), &inner)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil //nolint:nilnil // an empty slot is no error
	}
	if err != nil {
		return nil, fmt.Errorf("look up table of %s: %w", k, err)
	}
	return inner, nil
}

// swap changes the pointers, all or none: the kernel waits once for the
// programs that still see the old tables.
func (d *Datapath) swap(swaps []swap) error {
	var set []swap
	for _, s := range swaps {
		if s.new != nil {
			set = append(set, s)
		}
	}
	if err := d.point(set, func(s swap) *ebpf.Map { return s.new }); err != nil {
		return errors.Join(fmt.Errorf("swap policy tables: %w", err), d.unswap(swaps))
	}
	for _, s := range swaps {
		if s.new != nil || s.old == nil {
			continue
		}
		if err := d.maps.Policies.Delete(s.key.raw()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return errors.Join(fmt.Errorf("empty %s: %w", s.key, err), d.unswap(swaps))
		}
	}
	return nil
}

// unswap puts back what was there.
func (d *Datapath) unswap(swaps []swap) error {
	var set []swap
	var errs []error
	for _, s := range swaps {
		if s.old != nil {
			set = append(set, s)
			continue
		}
		if err := d.maps.Policies.Delete(s.key.raw()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("empty %s: %w", s.key, err))
		}
	}
	if err := d.point(set, func(s swap) *ebpf.Map { return s.old }); err != nil {
		errs = append(errs, fmt.Errorf("put the former tables back: %w", err))
	}
	bumpEpoch(d.settings.value)
	return errors.Join(errs...)
}

func (d *Datapath) point(swaps []swap, to func(swap) *ebpf.Map) error {
	if len(swaps) == 0 {
		return nil
	}
	keys := make([]kernelRfTableKey, len(swaps))
	fds := make([]uint32, len(swaps))
	for i, s := range swaps {
		keys[i], fds[i] = s.key.raw(), uint32(to(s).FD()) //nolint:gosec // a file descriptor
	}
	_, err := d.maps.Policies.BatchUpdate(keys, fds, nil)
	return err
}

// Tables reads back what the kernel holds, ordered by key and entries by peer,
// protocol and port.
func (d *Datapath) Tables() ([]Table, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed
	}
	ids, err := readMap[kernelRfTableKey, uint32](d.maps.Policies)
	if err != nil {
		return nil, fmt.Errorf("read policy tables: %w", err)
	}
	keys := make(map[TableKey]uint32, len(ids))
	for k, id := range ids {
		keys[TableKey{flow.Identity(k.Identity), flow.Slot(k.Slot), flow.Direction(k.Direction)}] = id
	}
	tables := make([]Table, 0, len(keys))
	for _, k := range sortedKeys(keys) {
		t, err := readTable(k, ebpf.MapID(keys[k]))
		if err != nil {
			return nil, fmt.Errorf("read table of %s: %w", k, err)
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func readTable(k TableKey, id ebpf.MapID) (Table, error) {
	inner, err := ebpf.NewMapFromID(id)
	if err != nil {
		return Table{}, err
	}
	defer func() { _ = inner.Close() }()
	content, err := readMap[kernelRfEntryKey, kernelRfEntry](inner)
	if err != nil {
		return Table{}, err
	}
	t := Table{TableKey: k}
	for key, value := range content {
		if key.Peer == peerMeta {
			t.Revision = value.Revision
			t.Open = value.Flags&tableOpen != 0
			t.UsesCIDRs = value.Flags&tableCIDRs != 0
			continue
		}
		t.Entries = append(t.Entries, Entry{
			Peer: flow.Identity(key.Peer), Protocol: flow.Protocol(key.Protocol), Port: networkOrder(key.Port),
			PortBits: key.PortBits, Rule: value.Rule,
		})
	}
	slices.SortFunc(t.Entries, Entry.compare)
	return t, nil
}

func (e Entry) compare(o Entry) int {
	return cmp.Or(cmp.Compare(e.Peer, o.Peer), cmp.Compare(e.Protocol, o.Protocol),
		cmp.Compare(e.Port, o.Port), cmp.Compare(e.PortBits, o.PortBits))
}
