package bpf

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
)

// Config says where a node's datapath lives and how large it is. Pinned
// maps of other sizes are carried over into new ones, unless what they hold does
// not fit.
type Config struct {
	// PinDir is the node's own directory on a bpffs, e.g. /run/ringfence/bpf/node-1.
	PinDir string
	// NetNS is where the endpoints' interfaces are: a name below /run/netns, a
	// path, or "" for the process's own.
	NetNS string

	FlowEntries     uint32 // of IPv4, and again of IPv6; default 131072
	EndpointFlows   uint32 // flows one endpoint may hold; default a quarter of FlowEntries
	FragmentEntries uint32 // datagrams whose later fragments are awaited; default 4096
	// EndpointFragments is how many of them one endpoint may hold; default a
	// sixteenth of FragmentEntries.
	EndpointFragments uint32
	RingBytes         uint32 // ring buffer, a power of two; default 16 MiB
	Endpoints         uint32 // default 4096
	Addresses         uint32 // exact addresses; default 65536
	CIDRs             uint32 // prefixes; default 65536, at most 100000
	Services          uint32 // ports of services' addresses; default 65536
	Workloads         uint32 // with endpoints or policies on the node; default 4096
	PolicyTables      uint32 // tables of different content; default 32768, at most 2097151
	PolicyEntries     uint32 // of all tables together, see Table.Size; default 262144
	FailsafeEntries   uint32 // default 64

	Idle IdleLimits
	// SweepInterval is how long a flow's counters may wait for a record;
	// default 5 s.
	SweepInterval time.Duration
	// OrphanedAfter is how long after the last Sweep the kernel sweeps by
	// itself, and then again and again, until an agent does; default 10 s.
	OrphanedAfter time.Duration

	// Attach is how programs are attached to interfaces; default AttachAuto.
	// What was attached otherwise before is handed over without a gap.
	Attach AttachMode

	// Logger defaults to one that discards.
	Logger *slog.Logger

	// object is where the programs come from: the ones built in, unless a test
	// upgrades to others.
	object func() (*ebpf.CollectionSpec, error)
	// probeTCX reports whether the kernel has TCX; tests have kernels without.
	probeTCX func(*ebpf.Program) error
	// step is told how far Open is, for tests that break off there.
	step func(d *Datapath, name string)
}

// IdleLimits say how long a flow without packets is kept.
type IdleLimits struct {
	SYN         time.Duration // not yet established; default 20 s
	Established time.Duration // default 1 h
	Closing     time.Duration // after RST or both FINs; default 30 s
	UDP         time.Duration // default 60 s
	ICMP        time.Duration // default 5 s
	Other       time.Duration // default 60 s
}

// WithDefaults returns c with every zero field filled in.
func (c Config) WithDefaults() Config {
	fill(&c.FlowEntries, 131072)
	fill(&c.EndpointFlows, max(c.FlowEntries/4, 1))
	fill(&c.FragmentEntries, 4096)
	fill(&c.EndpointFragments, max(c.FragmentEntries/16, 1))
	fill(&c.RingBytes, 16<<20)
	fill(&c.Endpoints, 4096)
	fill(&c.Addresses, 65536)
	fill(&c.CIDRs, 65536)
	fill(&c.Services, 65536)
	fill(&c.Workloads, 4096)
	fill(&c.PolicyTables, 32768)
	fill(&c.PolicyEntries, 262144)
	fill(&c.FailsafeEntries, 64)
	fill(&c.Idle.SYN, 20*time.Second)
	fill(&c.Idle.Established, time.Hour)
	fill(&c.Idle.Closing, 30*time.Second)
	fill(&c.Idle.UDP, time.Minute)
	fill(&c.Idle.ICMP, 5*time.Second)
	fill(&c.Idle.Other, time.Minute)
	fill(&c.SweepInterval, 5*time.Second)
	fill(&c.OrphanedAfter, 10*time.Second)
	fill(&c.Attach, AttachAuto)
	if c.probeTCX == nil {
		c.probeTCX = probeTCX
	}
	if c.object == nil {
		c.object = loadKernel
	}
	if c.step == nil {
		c.step = func(*Datapath, string) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func fill[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// maxCIDRs bounds the prefix trie: freeing a larger one locks a CPU for long.
const maxCIDRs = 100_000

// Validate returns every problem of c, which must have its defaults.
func (c Config) Validate() error {
	var errs []error
	if !filepath.IsAbs(c.PinDir) {
		errs = append(errs, fmt.Errorf("pin directory %q: want an absolute path on a bpffs", c.PinDir))
	}
	if c.RingBytes < 4096 || c.RingBytes&(c.RingBytes-1) != 0 {
		errs = append(errs, fmt.Errorf("ring size %d: want a power of two of at least 4096 bytes", c.RingBytes))
	}
	if c.CIDRs > maxCIDRs {
		errs = append(errs, fmt.Errorf("CIDR entries %d: want at most %d", c.CIDRs, maxCIDRs))
	}
	if c.PolicyTables > tableMask {
		errs = append(errs, fmt.Errorf("policy tables %d: want at most %d", c.PolicyTables, tableMask))
	}
	if n := maxFilterName - len(filterMade); len(c.PinDir) > n {
		errs = append(errs, fmt.Errorf("pin directory of %d characters: want at most %d", len(c.PinDir), n))
	}
	if err := c.Attach.Validate(); err != nil {
		errs = append(errs, err)
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"SYN", c.Idle.SYN}, {"established", c.Idle.Established}, {"closing", c.Idle.Closing},
		{"UDP", c.Idle.UDP}, {"ICMP", c.Idle.ICMP}, {"other", c.Idle.Other}, {"sweep", c.SweepInterval},
		{"orphaned", c.OrphanedAfter},
	} {
		if d.d < 0 {
			errs = append(errs, fmt.Errorf("%s limit %s: want a positive duration", d.name, d.d))
		}
	}
	return errors.Join(errs...)
}
