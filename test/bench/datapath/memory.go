package main

import (
	"github.com/ringfence/ringfence/test/bench/frame"
	"github.com/ringfence/ringfence/test/bench/report"
)

// memoryLimit is what the largest table must fit into.
const memoryLimit = 256 << 20

// memory asks the kernel what flow tables take.
func (s *site) memory(r *Report) error {
	bytes, err := s.tableMemory(tableSize)
	if err != nil {
		return err
	}
	r.BytesPerFlow = report.Round(float64(bytes) / tableSize)
	// Memory grows with entries, in steps.
	const step = 4096
	fits, not := tableSize, memoryLimit/48
	for not-fits > step {
		middle := (fits + not) / 2 / step * step
		bytes, err := s.tableMemory(middle)
		if err != nil {
			return err
		}
		if bytes <= memoryLimit {
			fits = middle
		} else {
			not = middle
		}
	}
	r.FlowsIn256MiB = fits
	return nil
}

// tableMemory opens a datapath with a flow table of that many entries.
func (s *site) tableMemory(entries int) (bytes uint64, err error) {
	mark := len(s.undo)
	defer func() {
		if e := s.closeTo(mark); err == nil {
			err = e
		}
	}()
	b, err := s.newBench(false, frame.Flows{Hosts: 1, Ports: 1, EndpointPorts: 1}, uint32(entries)) //nolint:gosec // far below
	if err != nil {
		return 0, err
	}
	return b.from.MapMemory("flows4")
}
