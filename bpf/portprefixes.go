package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ringfence/ringfence/internal/flow"
)

// layoutPrefixes is the layout whose rules are a port prefix each. A generation
// of it is read, and never written.
const layoutPrefixes = 1

// copyRules writes the rules of a generation of layoutPrefixes anew, and the
// heads of their tables, which have been copied.
func (g *generation) copyRules(base *generation) error {
	tables, err := base.prefixRules()
	if err != nil {
		return fmt.Errorf("carry map %s: %w", kernelMapRules, err)
	}
	heads, rules := g.maps[kernelMapTables], g.maps[kernelMapRules]
	n := 0
	for number, entries := range tables {
		var head kernelRfTable
		if number >= heads.MaxEntries() {
			continue // nobody's: a table with a head was refused
		}
		if err := heads.Lookup(number, &head); err != nil {
			return fmt.Errorf("carry map %s: read table %d: %w", kernelMapRules, number, err)
		}
		list := rulesOf(Normalize(entries))
		if n += len(list); n > int(rules.MaxEntries()) {
			continue // counted on, for the message
		}
		fresh := headOf(list)
		fresh.Revision = head.Revision
		fresh.Flags |= head.Flags
		if err := errors.Join(writeRules(rules, number, list), heads.Put(number, fresh)); err != nil {
			return fmt.Errorf("carry map %s: write table %d: %w", kernelMapRules, number, err)
		}
	}
	return checkRoom(kernelMapRules, n, rules)
}

// prefixRules returns what the rules of layoutPrefixes match, by table.
func (g *generation) prefixRules() (map[uint32][]Entry, error) {
	at := make(map[string]int)
	name := g.schema.maps[kernelMapRules].key
	for member, size := range map[string]int{"table": 4, "peer": 4, "protocol": 1, "port_bits": 1, "port": 2} {
		offset, ok := g.schema.field(name, member, size)
		if !ok {
			return nil, fmt.Errorf("their keys have no %s", member)
		}
		at[member] = offset
	}
	tables := make(map[uint32][]Entry)
	err := eachEntry(g.maps[kernelMapRules], func(k, _ []byte) error {
		e := Entry{
			Peer:     flow.Identity(binary.NativeEndian.Uint32(k[at["peer"]:])),
			Protocol: flow.Protocol(k[at["protocol"]]),
			First:    binary.BigEndian.Uint16(k[at["port"]:]),
		}
		if e.Protocol != 0 {
			e.Last = e.First | uint16(0xffff>>k[at["port_bits"]])
		}
		if err := e.validate(); err != nil {
			return fmt.Errorf("entry for peer %d: %w", e.Peer, err)
		}
		number := binary.NativeEndian.Uint32(k[at["table"]:])
		tables[number] = append(tables[number], e)
		return nil
	})
	return tables, err
}
