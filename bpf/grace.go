package bpf

import (
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
)

// grace waits until every program that runs has ended. The kernel does so after
// it replaced a map within a map, in order that nobody runs on the replaced one
// when the system call returns: that is all that the two maps are for.
type grace struct {
	mu           sync.Mutex
	outer, inner *ebpf.Map
}

func newGrace() (*grace, error) {
	shape := &ebpf.MapSpec{Name: "rf_grace_inner", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	inner, err := ebpf.NewMap(shape)
	if err != nil {
		return nil, fmt.Errorf("create map of grace periods: %w", err)
	}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "rf_grace", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: shape,
	})
	if err != nil {
		_ = inner.Close()
		return nil, fmt.Errorf("create map of grace periods: %w", err)
	}
	return &grace{inner: inner, outer: outer}, nil
}

// wait takes some 10 ms, and up to half a second on a busy machine.
func (g *grace) wait() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.outer == nil {
		return errClosed
	}
	if err := g.outer.Put(uint32(0), g.inner); err != nil {
		return fmt.Errorf("wait for the running programs: %w", err)
	}
	return nil
}

func (g *grace) close() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = g.outer.Close()
	_ = g.inner.Close()
	g.outer, g.inner = nil, nil
}
