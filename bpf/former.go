package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// drainFormers has former generations report what they still hold, and removes
// those that have nothing left. It must be called with d.mu held.
func (d *Datapath) drainFormers() error {
	for _, f := range slices.Clone(d.formers) {
		empty, err := d.drain(f)
		if err != nil {
			return fmt.Errorf("drain generation %d: %w", f.number, err)
		}
		if !empty {
			return nil // the later ones wait for their turn
		}
		d.formers = slices.DeleteFunc(d.formers, func(o *generation) bool { return o == f })
		if err := f.remove(); err != nil {
			return fmt.Errorf("remove generation %d: %w", f.number, err)
		}
		d.step("removed")
	}
	return nil
}

// drain reports whether nothing is left of f: no counter that is not reported
// and no record that is not committed. Nothing may run on f any more.
func (d *Datapath) drain(f *generation) (bool, error) {
	if !f.shares(d.gen, kernelMapFlows4) {
		now, err := coarse()
		if err != nil {
			return false, err
		}
		// An ended flow that was counted on is reported by the second run; the
		// time is set forward for it to have waited long enough.
		for i := range 3 {
			if open, err := f.runSweep(now + uint64(i)*uint64(time.Second)); err != nil || open {
				return false, err
			}
		}
	}
	if f.shares(d.gen, kernelMapEvents) {
		return true, nil
	}
	backlog, err := f.backlog()
	return backlog == 0 && err == nil, err
}

// backlog is how many bytes of the generation's ring are not committed.
func (g *generation) backlog() (uint64, error) {
	ring, err := mapRing(g.maps[kernelMapEvents])
	if err != nil {
		return 0, err
	}
	n := ring.produced() - ring.consumed()
	return n, ring.close()
}

// runSweep runs the generation's own sweep, whatever version it is of, and
// reports whether there was anything to report.
func (g *generation) runSweep(now uint64) (bool, error) {
	shape := g.schema.structs["rf_sweep_args"]
	args := make([]byte, shape.size)
	at := func(name string) ([]byte, error) {
		offset, ok := g.schema.field("rf_sweep_args", name, 8)
		if !ok {
			return nil, fmt.Errorf("its sweep has no %s", name)
		}
		return args[offset : offset+8], nil
	}
	nowAt, err1 := at("now")
	reported, err2 := at("reported")
	ringFull, err3 := at("ring_full")
	if err := errors.Join(err1, err2, err3); err != nil {
		return false, err
	}
	binary.NativeEndian.PutUint64(nowAt, now)
	code, err := g.sweep.Run(&ebpf.RunOptions{Context: args, ContextOut: args})
	if err != nil {
		return false, fmt.Errorf("sweep its flow table: %w", err)
	}
	if code != 0 {
		return false, fmt.Errorf("sweep its flow table: program returned %d", code)
	}
	return !zero(reported) || !zero(ringFull), nil
}
