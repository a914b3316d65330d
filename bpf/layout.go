package bpf

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// fingerprint is a digest of the shape of every structure that maps and the
// ring hold: names, offsets and sizes, as the programs were compiled.
func fingerprint(types *btf.Spec) (uint64, error) {
	var names []string
	for t, err := range types.All() {
		if err != nil {
			return 0, fmt.Errorf("read the programs' types: %w", err)
		}
		s, ok := t.(*btf.Struct)
		if ok && strings.HasPrefix(s.Name, "rf_") && !private[s.Name] {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	h := sha256.New()
	for _, name := range slices.Compact(names) {
		var s *btf.Struct
		if err := types.TypeByName(name, &s); err != nil {
			return 0, fmt.Errorf("look up struct %s: %w", name, err)
		}
		if err := digestStruct(h, s); err != nil {
			return 0, err
		}
	}
	return binary.LittleEndian.Uint64(h.Sum(nil)), nil
}

// private structures live on the programs' stack, or for one call.
var private = map[string]bool{
	"rf_visit": true, "rf_packet": true, "rf_ask": true, "rf_answer": true,
	"rf_sweep": true, "rf_sweep_args": true, "rf_plain": true, "rf_inner": true, "rf_taken": true,
}

func digestStruct(h hash.Hash, s *btf.Struct) error {
	_, _ = fmt.Fprintf(h, "%s %d\n", s.Name, s.Size)
	for _, m := range s.Members {
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			return fmt.Errorf("size of %s.%s: %w", s.Name, m.Name, err)
		}
		_, _ = fmt.Fprintf(h, " %s %d %d\n", m.Name, m.Offset, size)
	}
	return nil
}

// size puts the configured sizes into the maps' definitions.
func size(spec *ebpf.CollectionSpec, cfg Config) {
	for name, n := range map[string]uint32{
		kernelMapEndpoints: cfg.Endpoints,
		kernelMapQuotas:    2 * cfg.Endpoints,
		kernelMapAddresses: cfg.Addresses,
		kernelMapCidrs:     cfg.CIDRs,
		kernelMapFailsafe:  cfg.FailsafeEntries,
		kernelMapWorkloads: cfg.Workloads + 1, // the first one is nobody's
		kernelMapTables:    cfg.PolicyTables + 1,
		kernelMapRules:     cfg.PolicyEntries,
		kernelMapFlows:     cfg.FlowEntries,
		kernelMapFragments: cfg.FragmentEntries,
		kernelMapEvents:    cfg.RingBytes,
	} {
		spec.Maps[name].MaxEntries = n
	}
}

// compatible says how a pinned map differs from what the programs need. Its
// size may differ: it is kept.
func compatible(m *ebpf.Map, want *ebpf.MapSpec) error {
	var diffs []string
	diff := func(what string, have, need any) {
		if have != need {
			diffs = append(diffs, fmt.Sprintf("%s %v, not %v", what, have, need))
		}
	}
	diff("type", m.Type(), want.Type)
	if want.Type != ebpf.RingBuf {
		diff("key size", m.KeySize(), want.KeySize)
		diff("value size", m.ValueSize(), want.ValueSize)
	}
	diff("flags", m.Flags(), want.Flags)
	if len(diffs) > 0 {
		return fmt.Errorf("map %s has %s", want.Name, strings.Join(diffs, ", "))
	}
	return nil
}
