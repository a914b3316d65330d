package bpf

import (
	"github.com/cilium/ebpf"
)

// size puts the configured sizes into the maps' definitions.
func size(spec *ebpf.CollectionSpec, cfg Config) {
	for name, n := range map[string]uint32{
		kernelMapEndpoints: cfg.Endpoints,
		kernelMapQuotas:    2 * cfg.Endpoints,
		kernelMapAddresses: cfg.Addresses,
		kernelMapCidrs:     cfg.CIDRs,
		kernelMapFailsafe:  cfg.FailsafeEntries,
		kernelMapServices:  cfg.Services,
		kernelMapWorkloads: cfg.Workloads + 1, // the first one is nobody's
		kernelMapTables:    cfg.PolicyTables + 1,
		kernelMapRules:     cfg.PolicyEntries,
		kernelMapFlows4:    cfg.FlowEntries,
		kernelMapFlows6:    cfg.FlowEntries,
		kernelMapFragments: cfg.FragmentEntries,
		kernelMapEvents:    cfg.RingBytes,
	} {
		if m := spec.Maps[name]; m != nil { // other versions lack some
			m.MaxEntries = n
		}
	}
}

// compatible reports whether a pinned map is of the kind and size that the
// programs want. What it holds is the schemas' to compare.
func compatible(m *ebpf.Map, want *ebpf.MapSpec) bool {
	if m.Type() != want.Type || m.Flags() != want.Flags || m.MaxEntries() != want.MaxEntries {
		return false
	}
	return want.Type == ebpf.RingBuf || (m.KeySize() == want.KeySize && m.ValueSize() == want.ValueSize)
}
