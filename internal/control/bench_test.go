package control

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/ringfence/ringfence/internal/inventory"
)

// BenchmarkChange is one change of slots: its transaction on the disk, its
// event, and the new state for nodes.
func BenchmarkChange(b *testing.B) {
	for _, workloads := range []int{13, 1000} {
		b.Run(fmt.Sprintf("workloads=%d", workloads), func(b *testing.B) {
			s, err := Open(b.Context(), Config{Path: filepath.Join(b.TempDir(), "control.db")}, Deps{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close() //nolint:errcheck // a benchmark
			inv := testInventory()
			for i := len(inv.Workloads); i < workloads; i++ {
				inv.Workloads = append(inv.Workloads, inventory.Workload{
					Namespace: "many", Kind: "Host", Name: fmt.Sprintf("w%d", i), Labels: map[string]string{"app": fmt.Sprint(i)},
					Endpoints: []inventory.Endpoint{{Name: "e", Node: "node-1", Interface: fmt.Sprintf("rf%d", i),
						Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)})}}},
				})
			}
			if _, err := s.SetInventory(b.Context(), inv, System); err != nil {
				b.Fatal(err)
			}
			for i := range 2 {
				n := NewRevision{Workload: cart, Policy: allow(uint16(80 + i)), Origin: OriginEdit, Actor: "ann", Parent: uint32(i)}
				if _, err := s.CreateRevision(b.Context(), n); err != nil {
					b.Fatal(err)
				}
			}
			version, revision := uint64(0), uint32(1)
			for b.Loop() {
				slots, err := s.Stage(b.Context(), Change{Workload: cart, Revision: revision, Version: version, Actor: "ann"})
				if err != nil {
					b.Fatal(err)
				}
				version, revision = slots.Version, 3-revision
			}
		})
	}
}
