package main

import (
	"errors"
	"fmt"

	"github.com/ringfence/ringfence/bpf/drive"
	"github.com/ringfence/ringfence/test/bench/frame"
	"github.com/ringfence/ringfence/test/bench/report"
)

const (
	packetsPerSample  = 10000
	establishedRounds = 200
)

// scenario is a datapath with flows in its table, and drivers over them.
type scenario struct {
	*bench
	name     string
	modes    []mode
	data     frame.TCP
	walk     *drive.Driver // every flow once
	many     *drive.Driver // any flow
	one      *drive.Driver // the same driver, and always the first flow
	nothing  *drive.Driver // the same driver before an empty program
	empty    *drive.Program
	mode     mode
	modeIsOn bool
}

func (s *site) newScenario(name string, v6 bool, f frame.Flows, modes ...mode) (*scenario, error) {
	b, err := s.newBench(v6, f, tableSize)
	if err != nil {
		return nil, err
	}
	c := &scenario{bench: b, name: name, modes: modes}
	if c.data, err = b.establish(f); err != nil {
		return nil, err
	}
	if c.empty, err = drive.Empty(); err != nil {
		return nil, err
	}
	s.later(c.empty.Close)
	first := frame.Flows{Hosts: 1, Ports: 1, EndpointPorts: 1}
	var errs [4]error
	c.walk, errs[0] = b.driver(b.from, c.data, f, false)
	c.many, errs[1] = b.driver(b.from, c.data, f, true)
	c.one, errs[2] = b.driver(b.from, c.data, first, true)
	c.nothing, errs[3] = b.driver(c.empty, c.data, f, true)
	return c, errors.Join(errs[:]...)
}

// use puts the scenario into a mode and lets every flow be judged under it.
func (c *scenario) use(m mode) error {
	if c.modeIsOn && c.mode == m {
		return nil
	}
	if err := c.setMode(m); err != nil {
		return err
	}
	c.mode, c.modeIsOn = m, true
	_, err := c.run(&c.walk.Program, c.data, c.flows.Count())
	return errors.Join(err, c.drain())
}

// columns measures the scenario in each of its modes: the program by itself,
// and behind the driver.
func (c *scenario) columns() []column {
	var list []column
	for _, m := range c.modes {
		name := m.String() + "_" + c.name
		list = append(list,
			column{name: name + "/many", prepare: func() error { return c.use(m) }, measure: c.sampleMany},
			column{name: name + "/one", measure: c.sample(&c.one.Program)},
			column{name: name + "/driver", measure: c.sample(&c.nothing.Program)},
			column{name: name + "/plain", measure: c.sample(c.from)},
			column{name: name + "/empty", measure: c.sample(c.empty)})
	}
	return list
}

// sampleMany first brings the flows back into the caches, from which the other
// columns' have pushed them.
func (c *scenario) sampleMany() (ns float64, err error) {
	err = c.worker.do(func() error {
		for _, p := range []*drive.Driver{c.walk, c.many} {
			if _, err := c.runHere(&p.Program, c.data, c.flows.Count()); err != nil {
				return err
			}
		}
		ns, err = c.runHere(&c.many.Program, c.data, packetsPerSample)
		return err
	})
	return ns, err
}

func (c *scenario) sample(p *drive.Program) func() (float64, error) {
	return func() (float64, error) { return c.run(p, c.data, packetsPerSample) }
}

// check makes sure that what was measured is what was meant.
func (c *scenario) check() error {
	counters, err := c.d.Counters()
	if err != nil {
		return err
	}
	for _, name := range []string{"stateless", "table_full", "quota", "dropped", "audited", "malformed", "no_endpoint"} {
		if counters[name] != 0 {
			return fmt.Errorf("%s: %d packets were counted as %s", c.name, counters[name], name)
		}
	}
	if n := counters["flows"]; n != uint64(c.flows.Count()) { //nolint:gosec // a count
		return fmt.Errorf("%s: %d flows, want %d", c.name, n, c.flows.Count())
	}
	return nil
}

// established measures packets of known flows.
func (s *site) established(r *Report) (err error) {
	mark := len(s.undo)
	defer func() { err = errors.Join(err, s.closeTo(mark)) }()
	var scenarios []*scenario
	var columns []column
	for _, c := range []struct {
		name  string
		v6    bool
		flows frame.Flows
		modes []mode
	}{
		{"v4", false, frame.Flows{Hosts: 1, Ports: 1, EndpointPorts: 10000}, []mode{observe, audit, enforce}},
		{"v6", true, frame.Flows{Hosts: 1, Ports: 1, EndpointPorts: 10000}, []mode{enforce}},
		{"v4_100k", false, frame.Flows{Hosts: 4, Ports: 1, EndpointPorts: 25000}, []mode{enforce}},
	} {
		sc, err := s.newScenario(c.name, c.v6, c.flows, c.modes...)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		scenarios = append(scenarios, sc)
		columns = append(columns, sc.columns()...)
	}
	samples, err := interleave(s.rounds(establishedRounds), columns)
	if err != nil {
		return err
	}
	for _, sc := range scenarios {
		err = errors.Join(err, sc.check())
	}
	var empty []float64
	for _, sc := range scenarios {
		for _, m := range sc.modes {
			name := m.String() + "_" + sc.name
			empty = append(empty, samples[name+"/empty"]...)
			r.NS[name] = r.varied(samples, name)
			r.NSOneFlow[name] = r.Series.Add("ns."+name+"/plain", samples[name+"/plain"]).Q1
		}
	}
	r.NS["empty"] = r.Series.Add("ns.empty", empty).Q1
	r.AuditEnforceNS = r.Series.Add("ns.audit_v4 - ns.enforce_v4, one flow", difference(
		samples["audit_v4/plain"], samples["enforce_v4/plain"])).Median
	return err
}

// varied returns what a packet of any flow costs: what the program by itself
// takes for packets of one flow, and what the driver finds that it takes longer
// for many. Subtracting an empty program behind the same driver instead gives
// less, because the processor works on driver and program at the same time.
func (r *Report) varied(samples map[string][]float64, name string) float64 {
	many := r.Series.Add("ns."+name+"/many", samples[name+"/many"])
	one := r.Series.Add("ns."+name+"/one", samples[name+"/one"])
	plain := report.Sum(samples[name+"/plain"])
	r.Series.Add("ns."+name+"/driver", samples[name+"/driver"])
	return report.Round(plain.Q1 + many.Q1 - one.Q1)
}
