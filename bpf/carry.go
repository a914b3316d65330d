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

// carryFlows brings the flows of f into g's table: all of them the first time,
// and then what changed since. Their counters stay where they are.
func (d *Datapath) carryFlows(f, g *generation) error {
	if f.shares(g, kernelMapFlows) {
		return nil
	}
	key, err := translate("rf_flow_key", f.schema.structs["rf_flow_key"], g.schema.structs["rf_flow_key"])
	if err != nil {
		return fmt.Errorf("carry flows: %w", err)
	}
	value, err := translate("rf_flow", f.schema.structs["rf_flow"], g.schema.structs["rf_flow"])
	if err != nil {
		return fmt.Errorf("carry flows: %w", err)
	}
	life, ok := f.schema.field("rf_flow", "life", 4)
	if !ok {
		return errors.New("carry flows: their layout has no life")
	}
	var passing []member
	for _, m := range g.schema.structs["rf_flow"].members {
		switch m.name {
		case "counted", "carried", "last_seen", "reported_at", "connections", "judged":
			passing = append(passing, m)
		}
	}
	full, total := 0, 0
	err = eachEntry(f.maps[kernelMapFlows], func(k, v []byte) error {
		if binary.NativeEndian.Uint32(v[life:]) != 0 {
			return nil // it ended and was reported
		}
		k, err := key.apply(k)
		if err != nil {
			return err
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
	if err != nil {
		return fmt.Errorf("carry flows: %w", err)
	}
	if full > 0 {
		return fmt.Errorf("carry flows: the former table holds %d and the new one has room for %d: ask for more room",
			total, g.maps[kernelMapFlows].MaxEntries())
	}
	return nil
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
