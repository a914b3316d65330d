package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ringfence/ringfence/bpf/drive"
	"github.com/ringfence/ringfence/test/bench/frame"
	"github.com/ringfence/ringfence/test/bench/report"
)

const (
	coldFirst    = 500  // packets
	warmUpFirst  = 9500 // with those, every rule once
	warmFirst    = 2000
	firstRounds  = 60
	presentFlows = 100000
	sweepGrace   = 60 * time.Millisecond // between a flow's two sweeps
)

// beginner makes new flows beside those that are in its table already.
type beginner struct {
	*bench
	name    string
	open    frame.TCP
	drive   *drive.Driver
	nothing *drive.Driver
	present uint64 // flows that stay
	began   uint64
	cold    []float64
}

func (s *site) newBeginner(name string, f frame.Flows, empty *drive.Program) (*beginner, error) {
	present := f
	present.EndpointPorts = presentFlows / (f.Hosts * f.Ports)
	b, err := s.newBench(false, f, tableSize)
	if err != nil {
		return nil, err
	}
	if err := b.setMode(enforce); err != nil {
		return nil, err
	}
	if _, err := b.establish(present); err != nil {
		return nil, err
	}
	n := &beginner{bench: b, name: name, present: uint64(present.Count())} //nolint:gosec // a count
	if n.open, err = frame.New(b.endpoint, b.peers, false, "S"); err != nil {
		return nil, err
	}
	more := f
	more.EndpointPorts = 65535 - frame.FirstPort
	var err1, err2 error
	n.drive, err1 = b.driver(b.from, n.open, more, false)
	n.nothing, err2 = b.driver(empty, n.open, more, false)
	return n, errors.Join(err1, err2, n.drive.Rewind(n.present))
}

func (n *beginner) columns() []column {
	return []column{
		{name: n.name, prepare: n.forget, measure: n.sample},
		{name: n.name + "/driver", measure: func() (float64, error) {
			return n.run(&n.nothing.Program, n.open, warmFirst)
		}},
	}
}

// sample measures twice: right away, with what it needs in no cache, and after
// as many new flows as there are rules.
func (n *beginner) sample() (ns float64, err error) {
	err = n.worker.do(func() error {
		cold, err1 := n.runHere(&n.drive.Program, n.open, coldFirst)
		n.cold = append(n.cold, cold)
		_, err2 := n.runHere(&n.drive.Program, n.open, warmUpFirst)
		warm, err3 := n.runHere(&n.drive.Program, n.open, warmFirst)
		at, err4 := n.drive.At()
		ns, n.began = warm, n.began+at-n.present
		return errors.Join(err1, err2, err3, err4)
	})
	return ns, err
}

// forget removes the flows that the last sample began: their handshake never
// came to an end. It takes two sweeps.
func (n *beginner) forget() error {
	for range 2 {
		time.Sleep(sweepGrace)
		if _, err := n.d.Sweep(context.Background()); err != nil {
			return err
		}
		if err := n.drain(); err != nil {
			return err
		}
	}
	return n.drive.Rewind(n.present)
}

// check makes sure that every measured packet began a flow.
func (n *beginner) check() error {
	counters, err := n.d.Counters()
	if err != nil {
		return err
	}
	if counters["flows"] != n.present+n.began || counters["dropped"] != 0 || counters["ring_full"] != 0 {
		return fmt.Errorf("%s: %d flows began, %d packets were dropped and %d records found no room, want %d, 0 and 0",
			n.name, counters["flows"], counters["dropped"], counters["ring_full"], n.present+n.began)
	}
	return nil
}

// first measures the first packets of flows.
func (s *site) first(r *Report) (err error) {
	mark := len(s.undo)
	defer func() { err = errors.Join(err, s.closeTo(mark)) }()
	empty, err := drive.Empty()
	if err != nil {
		return err
	}
	s.later(empty.Close)
	var list []*beginner
	var columns []column
	for _, c := range []struct {
		name  string
		flows frame.Flows
	}{
		// The same ten peers, so that the size of the policy is all that differs.
		// Their ports make no ranges; in the last case no two are close either.
		{"rules.ns_10", frame.Flows{Hosts: 10, Ports: 1}},
		{"rules.ns_10000", frame.Flows{Hosts: 10, Ports: 1000, Apart: 3}},
		{"rules.ns_10000_apart", frame.Flows{Hosts: 10, Ports: 1000, Apart: 64}},
		// 10,000 peers of one rule each: addresses and rules are all over memory.
		{"ns.first_packet", frame.Flows{Hosts: 10000, Ports: 1}},
	} {
		b, err := s.newBeginner(c.name, c.flows, empty)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		list = append(list, b)
		columns = append(columns, b.columns()...)
	}
	samples, err := interleave(s.rounds(firstRounds), columns)
	if err != nil {
		return err
	}
	cost := func(name string) float64 {
		return report.Round(r.Series.Add(name, samples[name]).Q1 - r.Series.Add(name+"/driver", samples[name+"/driver"]).Q1 + r.NS["empty"])
	}
	for _, b := range list {
		err = errors.Join(err, b.check())
	}
	r.Rules = Rules{NS10: cost("rules.ns_10"), NS10000: cost("rules.ns_10000"), NS10000Apart: cost("rules.ns_10000_apart")}
	r.Rules.Ratio = report.Round(r.Rules.NS10000 / r.Rules.NS10)
	cold := func(b *beginner) float64 { return r.Series.Add(b.name+", cold", b.cold).Q1 }
	r.Rules.ColdRatio = report.Round(cold(list[1]) / cold(list[0]))
	r.NS["first_packet_cold"] = cold(list[3])
	r.NS["first_packet"] = cost("ns.first_packet")
	return err
}
