package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/bpf/drive"
	"github.com/ringfence/ringfence/test/bench/frame"
	"github.com/ringfence/ringfence/test/bench/report"
)

const (
	framesPerSample = 10000
	prefilterRounds = 150
	// The driver draws a source of this many, which is nearly every second one
	// of IPv4.
	sourcesHigh, sourcesLow = 1 << 15, 60000
)

// sieve is a prefilter with deny lists, and a driver of frames from anywhere.
type sieve struct {
	s            *site
	worker       worker
	frame        frame.TCP
	program      *drive.Program
	many, driver *drive.Driver
}

// newSieve makes a prefilter with that many prefixes, all audited: every frame
// takes the whole way and then passes.
func (s *site) newSieve(entries int, empty *drive.Program) (*sieve, error) {
	v := &sieve{s: s}
	ns, err := s.netNS()
	if err != nil {
		return nil, err
	}
	if v.worker, err = s.newWorker(ns); err != nil {
		return nil, err
	}
	if err := v.worker.do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nic"}, PeerName: "peer"})
	}); err != nil {
		return nil, fmt.Errorf("make veth: %w", err)
	}
	dir := filepath.Join(s.bpffs, fmt.Sprintf("node-%d", s.serial.Add(1)))
	p, err := bpf.OpenPrefilter(bpf.PrefilterConfig{PinDir: dir, NetNS: ns})
	if err != nil {
		return nil, err
	}
	s.later(p.Remove)
	if _, err := p.SetLists([]bpf.DenyList{{Name: "bench", Prefixes: randomPrefixes(entries)}}, nil); err != nil {
		return nil, err
	}
	if _, err := p.SetInterfaces([]string{"nic"}); err != nil {
		return nil, err
	}
	if err := v.worker.do(func() error {
		nic, err := net.InterfaceByName("nic")
		if err != nil {
			return err
		}
		v.program, err = drive.AttachedXDP(nic.Index)
		return err
	}); err != nil {
		return nil, err
	}
	s.later(v.program.Close)
	return v, v.aim(empty)
}

func (v *sieve) aim(empty *drive.Program) (err error) {
	v.frame, err = frame.New(netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.2.0.0"), true, "S")
	if err != nil {
		return err
	}
	w := drive.Walk{Random: sourcesHigh * sourcesLow, Fields: []drive.Field{
		{Offset: v.frame.PeerHost, Count: sourcesLow}, {Offset: v.frame.PeerHost - 2, Base: 1 << 8, Count: sourcesHigh},
	}}
	var err1, err2 error
	v.many, err1 = drive.New(v.program, w, len(v.frame.Bytes))
	v.driver, err2 = drive.New(empty, w, len(v.frame.Bytes))
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	v.s.later(v.many.Close)
	v.s.later(v.driver.Close)
	return nil
}

func (v *sieve) run(p *drive.Program) func() (float64, error) {
	return func() (ns float64, err error) {
		err = v.worker.do(func() error {
			code, each, err := p.Run(v.frame.Bytes, drive.Where{}, framesPerSample)
			if err == nil && !p.Passed(code) {
				err = fmt.Errorf("an audited list gave a frame answer %d", code)
			}
			ns = float64(each)
			return err
		})
		return ns, err
	}
}

// randomPrefixes are of 16 to 32 bits, most of them long, and none twice.
func randomPrefixes(n int) []netip.Prefix {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same ones every time
	seen := make(map[netip.Prefix]bool, n)
	for len(seen) < n {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 1<<24+r.Uint32N(127<<24))
		seen[netip.PrefixFrom(netip.AddrFrom4(b), 32-min(r.IntN(17), r.IntN(17))).Masked()] = true
	}
	list := make([]netip.Prefix, 0, n)
	for p := range seen {
		list = append(list, p)
	}
	return list
}

// prefilter measures frames from any source against deny lists.
func (s *site) prefilter(r *Report) (err error) {
	mark := len(s.undo)
	defer func() { err = errors.Join(err, s.closeTo(mark)) }()
	empty, err := drive.EmptyXDP()
	if err != nil {
		return err
	}
	s.later(empty.Close)
	var columns []column
	sizes := map[string]int{"entries_1000": 1000, "entries_1000000": 1000000}
	for _, name := range []string{"entries_1000", "entries_1000000"} {
		v, err := s.newSieve(s.rounds(sizes[name]), empty)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		columns = append(columns,
			column{name: name, measure: v.run(&v.many.Program)},
			column{name: name + "/driver", measure: v.run(&v.driver.Program)},
			column{name: "empty", measure: v.run(empty)})
	}
	samples, err := interleave(s.rounds(prefilterRounds), columns)
	if err != nil {
		return err
	}
	base := r.Series.Add("xdp_ns.empty", samples["empty"]).Q1
	r.XDP["empty"] = &base
	for name := range sizes {
		many := r.Series.Add("xdp_ns."+name, samples[name])
		driver := r.Series.Add("xdp_ns."+name+"/driver", samples[name+"/driver"])
		cost := report.Round(many.Q1 - driver.Q1 + base)
		r.XDP[name] = &cost
	}
	return nil
}
