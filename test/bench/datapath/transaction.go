package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/ringfence/ringfence/test/bench/report"
)

const (
	crrPerSample  = 500
	crrLoads      = 24
	crrRounds     = 40       // a load
	bulkPerSample = 64 << 20 // bytes
	bulkRounds    = 400
)

// guarded is a pair under the name of its guard.
type guarded struct {
	name string
	guard
}

// transactions measures connect, request, answer and close, with everything
// loaded anew several times: where the kernel puts what a connection touches
// differs from load to load, and costs or saves more than most changes do.
func (s *site) transactions(r *Report) error {
	wall := func(p *pair) (float64, error) {
		wall, _, err := p.work(crrPerSample)
		return float64(wall.Nanoseconds()) / 1000 / crrPerSample, err
	}
	guards := []guarded{
		{"none", unguarded}, {"ringfence", ringfence}, {"nftables", nftables}, {"none_again", unguarded},
		{"ringfence_without_agent", withoutAgent},
	}
	loads := map[string][]float64{}
	for range s.rounds(crrLoads) {
		samples, err := s.compare(crrRounds, "answer", "ask", wall, guards)
		if err != nil {
			return err
		}
		for name, list := range samples {
			loads[name] = append(loads[name], report.Sum(list).Q1)
		}
		guards = append(guards[1:], guards[0]) // who is loaded first, and measured first
	}
	for name, list := range loads {
		r.CRR[name] = r.Series.Add("crr_us."+name, list).Median
	}
	added := func(name string) []float64 { return difference(loads[name], loads["none"]) }
	share := func(name string) report.Series {
		return r.Series.Add("crr_us."+name+" / nftables, added", ratios(added(name), added("nftables")))
	}
	r.CRRRatio, r.CRRNoise = share("ringfence"), share("none_again")
	return nil
}

// bulk measures the CPU time of a bulk transfer.
func (s *site) bulk(r *Report) error {
	cpu := func(p *pair) (float64, error) {
		_, cpu, err := p.work(bulkPerSample)
		return cpu.Seconds() / bulkPerSample * 1e9, err
	}
	samples, err := s.compare(bulkRounds, "sink", "send", cpu, []guarded{
		{"none", unguarded}, {"empty", emptyPrograms}, {"ringfence", ringfence}, {"nftables", nftables},
		{"empty_again", emptyPrograms},
	})
	if err != nil {
		return err
	}
	for name, list := range samples {
		r.CPU[name] = r.Series.Add("cpu_s_per_gb."+name, list).Q1
	}
	over := func(name string) float64 {
		return r.Series.Add("cpu_s_per_gb."+name+" / empty - 1, %", excess(samples[name], samples["empty"])).Median
	}
	r.CPUOverEmpty, r.CPUNoise = over("ringfence"), over("empty_again")
	return nil
}

// excess says by how many percent the samples of a exceed those of b of the same
// rounds. What slows a round down slows both, so that their median tells apart
// what the two columns' quartiles cannot.
func excess(a, b []float64) []float64 {
	e := make([]float64, len(a))
	for i := range a {
		e[i] = (a[i]/b[i] - 1) * 100
	}
	return e
}

// compare measures the same work under several guards, interleaved.
func (s *site) compare(
	rounds int, server, client string, measure func(*pair) (float64, error), guards []guarded,
) (samples map[string][]float64, err error) {
	mark := len(s.undo)
	defer func() { err = errors.Join(err, s.closeTo(mark)) }()
	var columns []column
	for _, g := range guards {
		p, err := s.newPair(g.guard, server, client)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.name, err)
		}
		columns = append(columns, column{name: g.name, measure: func() (float64, error) { return measure(p) }})
	}
	// The links' own first packets come and go before anything is measured.
	if _, err := interleave(1, columns); err != nil {
		return nil, err
	}
	time.Sleep(time.Second)
	return interleave(s.rounds(rounds), columns)
}
