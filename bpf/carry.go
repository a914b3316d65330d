package bpf

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Answers of rf_adopt; they equal enum rf_adopted in bpf/types.h.
const (
	adoptedNew   = 0
	adoptedKnown = 1
	adoptedGone  = 2
)

// carryFlows brings the flows of f into g's tables: all of them the first time,
// and then what changed since. Their counters stay where they are.
func (d *Datapath) carryFlows(f, g *generation) error {
	if f.shares(g, kernelMapFlows4) {
		return nil
	}
	full, total := 0, 0
	for name, c := range f.schema.maps {
		if c.value != "rf_flow" {
			continue
		}
		n, refused, err := d.carryTable(f, g, name)
		if err != nil {
			return fmt.Errorf("carry flows: %w", err)
		}
		total, full = total+n, full+refused
	}
	if full > 0 {
		return fmt.Errorf("carry flows: the former tables hold %d, of which %d found no room in the new ones of %d each: ask for more room",
			total, full, g.maps[kernelMapFlows4].MaxEntries())
	}
	return nil
}

// carryTable brings the flows of one of f's tables, whatever keys it has.
func (d *Datapath) carryTable(f, g *generation, name string) (total, full int, err error) {
	keyName := f.schema.maps[name].key
	key, err := translate(keyName, f.schema.structs[keyName], g.schema.structs[keyName])
	if err != nil {
		return 0, 0, err
	}
	value, err := translate("rf_flow", f.schema.structs["rf_flow"], g.schema.structs["rf_flow"])
	if err != nil {
		return 0, 0, err
	}
	life, ok := f.schema.field("rf_flow", "life", 4)
	if !ok {
		return 0, 0, errors.New("their layout has no life")
	}
	passing := passingMembers(g.schema)
	err = eachEntry(f.maps[name], func(k, v []byte) error {
		if binary.NativeEndian.Uint32(v[life:]) != 0 {
			return nil // it ended and was reported
		}
		k, err := key.apply(k)
		if err != nil {
			return err
		}
		if keyName == "rf_flow4_key" {
			if k, err = wideKey(k); err != nil {
				return err
			}
		}
		if v, err = value.apply(v); err != nil {
			return err
		}
		total++
		if d.carried != nil && d.sameFlow(k, v, passing) {
			return nil
		}
		code, err := d.programs.RfAdopt.Run(&ebpf.RunOptions{Context: slices.Concat(k, v)})
		if err != nil {
			return err
		}
		if code != adoptedNew && code != adoptedKnown && code != adoptedGone {
			full++
		}
		return nil
	})
	return total, full, err
}

// passingMembers are those of a flow that change with its packets.
func passingMembers(s *schema) []member {
	var list []member
	for _, m := range s.structs["rf_flow"].members {
		switch m.name {
		case "counted", "carried", "last_seen", "reported_at", "connections", "judged":
			list = append(list, m)
		}
	}
	return list
}

// wideKey turns an IPv4 flow's key into the one that rf_adopt takes.
func wideKey(k []byte) ([]byte, error) {
	var narrow kernelRfFlow4Key
	if _, err := binary.Decode(k, binary.NativeEndian, &narrow); err != nil {
		return nil, err
	}
	return binary.Append(nil, binary.NativeEndian, narrow.wide())
}

// mapped returns an IPv4 address in network byte order as IPv6 has it.
func mapped(addr uint32) (out [16]uint8) {
	out[10], out[11] = 0xff, 0xff
	binary.NativeEndian.PutUint32(out[12:], addr)
	return out
}

// wide returns the key as IPv6's table would have it.
func (k kernelRfFlow4Key) wide() kernelRfFlowKey {
	return kernelRfFlowKey{
		Local: mapped(k.Local), Remote: mapped(k.Remote), LocalPort: k.LocalPort, RemotePort: k.RemotePort,
		Endpoint: k.Endpoint, Protocol: k.Protocol,
	}
}

// sameFlow reports whether the flow was carried as it is now, but for what
// changes with every packet, and notes that it is.
func (d *Datapath) sameFlow(k, v []byte, passing []member) bool {
	steady := slices.Concat(k, v)
	for _, m := range passing {
		clear(steady[len(k)+m.offset:][:m.size])
	}
	digest := sha256.Sum256(steady)
	_, known := d.carried[digest]
	d.carried[digest] = struct{}{}
	return known
}

// eachEntry calls fn with every entry of a map of any type. It may keep neither
// slice.
func eachEntry(m *ebpf.Map, fn func(key, value []byte) error) error {
	if m.Type() == ebpf.Array {
		for i := range m.MaxEntries() {
			value, err := m.LookupBytes(i)
			if err != nil {
				return err
			}
			if err := fn(binary.NativeEndian.AppendUint32(nil, i), value); err != nil {
				return err
			}
		}
		return nil
	}
	for size := batchSize; ; size *= 2 {
		keys, values, err := readRaw(m, min(size, int(m.MaxEntries())+1))
		if errors.Is(err, unix.ENOSPC) {
			continue // a bucket of the hash holds more than that
		}
		if err != nil {
			return err
		}
		k, v := int(m.KeySize()), int(m.ValueSize())
		for i := range len(keys) / k {
			if err := fn(keys[i*k:][:k], values[i*v:][:v]); err != nil {
				return err
			}
		}
		return nil
	}
}

// readRaw returns all keys, and all values, one after the other.
func readRaw(m *ebpf.Map, size int) (keys, values []byte, err error) {
	var cursor ebpf.MapBatchCursor
	k, v := int(m.KeySize()), int(m.ValueSize())
	keyBatch, keyBytes := byteArrays(size, k)
	valueBatch, valueBytes := byteArrays(size, v)
	for {
		n, err := m.BatchLookup(&cursor, keyBatch, valueBatch, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, nil, err
		}
		keys, values = append(keys, keyBytes[:n*k]...), append(values, valueBytes[:n*v]...)
		if err != nil {
			return keys, values, nil //nolint:nilerr // the last batch ends with ErrKeyNotExist
		}
	}
}

// byteArrays makes n arrays of a size that is not known when compiling, and
// their memory as bytes.
func byteArrays(n, size int) (list any, memory []byte) {
	slice := reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(size, reflect.TypeFor[byte]())), n, n)
	return slice.Interface(), unsafe.Slice((*byte)(slice.UnsafePointer()), n*size) //nolint:gosec // of the size just made
}
