package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// Limits of a node's deny lists. The entries' one also bounds what the kernel
// locks in memory: at most 41 bytes an IPv6 prefix, 8 an IPv4 one.
const (
	MaxDenyLists        = 32
	MaxDenyListName     = 63 // bytes
	maxPrefilterEntries = 1_000_000
)

// prefilterName is the prefilter's directory beside the datapath's pins.
const prefilterName = "prefilter"

// PrefilterConfig says where a node's prefilter lives and how large it may get.
type PrefilterConfig struct {
	// PinDir is the node's own directory on a bpffs, as in Config. The
	// prefilter keeps to a directory below it.
	PinDir string
	// NetNS is where the interfaces are, as in Config.
	NetNS string
	// MaxEntries bounds the prefixes of all lists; default and most 1,000,000.
	MaxEntries int
	// Panicked tells a prefilter that begins whether panic is in force; nil: no.
	Panicked func() bool
}

// Validate returns every problem of c.
func (c PrefilterConfig) Validate() error {
	var errs []error
	if !filepath.IsAbs(c.PinDir) {
		errs = append(errs, fmt.Errorf("pin directory %q: want an absolute path on a bpffs", c.PinDir))
	}
	if c.MaxEntries < 0 || c.MaxEntries > maxPrefilterEntries {
		errs = append(errs, fmt.Errorf("deny-list entries %d: want at most %d", c.MaxEntries, maxPrefilterEntries))
	}
	return errors.Join(errs...)
}

// DenyList is a named list of sources. An audited one is only counted.
type DenyList struct {
	Name     string
	Enforce  bool
	Prefixes []netip.Prefix
}

// DenyListCount is what met one list, by what became of it.
type DenyListCount struct {
	Name     string
	Exempted flow.Counters // passed whatever the list says
	Audited  flow.Counters
	Dropped  flow.Counters
}

// PrefilterStats describe one load of all lists.
type PrefilterStats struct {
	Entries int           // prefixes of all lists
	Bytes   int           // of the kernel's tables
	Took    time.Duration // from prefixes to the program that runs
}

// Prefilter drops or counts frames by their source, by XDP, before anything
// else of the node sees them. Its methods may be called from several goroutines.
//
// What runs is pinned below the node's directory and goes on without this
// process: an interface's link, whose program holds its tables, and what
// outlives a program: settings, counts, and the names that they belong to.
type Prefilter struct {
	cfg   PrefilterConfig
	netns netNS

	mu       sync.Mutex
	closed   bool
	lock     *os.File // of the pin directory; nil before there is one
	settings mapping[prefilterRfPrefilterSettings]
	maps     prefilterPins
	program  *ebpf.Program // nil before the first SetLists
	used     [denyListSlots]bool
}

// prefilterPins are the maps that outlive a program.
type prefilterPins struct {
	settings, counts, denylists *ebpf.Map
}

var errPrefilterClosed = errors.New("prefilter is closed")

// OpenPrefilter adopts what runs already, with the lists that it has. It puts
// nothing anywhere: SetLists does.
func OpenPrefilter(cfg PrefilterConfig) (*Prefilter, error) {
	fill(&cfg.MaxEntries, maxPrefilterEntries)
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Prefilter{cfg: cfg, netns: netNS(cfg.NetNS)}
	if _, err := os.Stat(p.dir()); errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err := p.begin(); err != nil {
		return nil, errors.Join(explain(err), p.Close())
	}
	return p, nil
}

func (p *Prefilter) dir() string { return filepath.Join(p.cfg.PinDir, prefilterName) }

func (p *Prefilter) linkDir() string { return filepath.Join(p.dir(), "links") }

// begin takes the directory, which it makes if needed, and the maps in it.
func (p *Prefilter) begin() error {
	if p.settings.value != nil {
		return nil
	}
	if on, err := isBPFFS(filepath.Dir(p.cfg.PinDir)); err != nil || !on {
		return fmt.Errorf("pin directory %s is not on a bpffs: mount one at %s", p.cfg.PinDir, filepath.Dir(p.cfg.PinDir))
	}
	if err := os.MkdirAll(p.linkDir(), 0o700); err != nil {
		return fmt.Errorf("prefilter's pin directory: %w", err)
	}
	if err := p.takeLock(); err != nil {
		return err
	}
	spec, err := loadPrefilter()
	if err != nil {
		return fmt.Errorf("read the prefilter: %w", err)
	}
	if err := p.openSettings(spec.Maps[prefilterMapSettings]); err != nil {
		return err
	}
	if p.maps.counts, err = p.openMap(spec.Maps[prefilterMapCounts]); err != nil {
		return err
	}
	if p.maps.denylists, err = p.openMap(spec.Maps[prefilterMapDenylists]); err != nil {
		return err
	}
	for slot := range p.used {
		name, err := p.slotName(slot)
		if err != nil {
			return err
		}
		p.used[slot] = name != ""
	}
	return p.adoptProgram()
}

func (p *Prefilter) takeLock() error {
	if p.lock != nil {
		return nil
	}
	lock, err := os.Open(p.dir())
	if err != nil {
		return fmt.Errorf("prefilter's pin directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("pin directory %s is held by another agent: stop that one first", p.dir())
		}
		return fmt.Errorf("lock pin directory %s: %w", p.dir(), err)
	}
	p.lock = lock
	return nil
}

// openSettings adopts or makes the settings. They have one layout for good:
// programs of every version obey the same panic.
func (p *Prefilter) openSettings(spec *ebpf.MapSpec) (err error) {
	path := filepath.Join(p.dir(), prefilterMapSettings)
	m, err := ebpf.LoadPinnedMap(path, nil)
	made := errors.Is(err, os.ErrNotExist)
	if made {
		m, err = ebpf.NewMap(spec)
	} else if err == nil {
		if !compatible(m, spec) {
			err = errors.New("they are not ringfence's: remove the directory's pins")
		}
	}
	p.maps.settings = m
	if err != nil {
		return fmt.Errorf("prefilter's settings %s: %w", path, err)
	}
	if p.settings, err = mapValues[prefilterRfPrefilterSettings](m); err != nil {
		return fmt.Errorf("prefilter's settings: %w", err)
	}
	s := p.settings.value
	if !made {
		if s.Magic != settingsMagic {
			return fmt.Errorf("prefilter's settings %s are not ringfence's: remove the directory's pins", path)
		}
		return nil
	}
	s.Magic, s.Layout = settingsMagic, settingsLayout
	if p.cfg.Panicked != nil && p.cfg.Panicked() {
		atomic.StoreUint32(&s.Panic, 1)
	}
	if err := m.Pin(path); err != nil {
		return fmt.Errorf("pin prefilter's settings: %w", err)
	}
	return nil
}

// openMap adopts or makes a pinned map. One of another layout is replaced: the
// programs that count in it hold it until the next SetLists.
func (p *Prefilter) openMap(spec *ebpf.MapSpec) (*ebpf.Map, error) {
	path := filepath.Join(p.dir(), spec.Name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil && compatible(m, spec) && m.MaxEntries() == spec.MaxEntries {
		return m, nil
	}
	if err == nil {
		_ = m.Close()
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open pinned map %s: %w", path, err)
	}
	if m, err = ebpf.NewMap(spec); err != nil {
		return nil, fmt.Errorf("create map %s: %w", spec.Name, err)
	}
	if err := m.Pin(path); err != nil {
		return nil, errors.Join(fmt.Errorf("pin map %s: %w", path, err), m.Close())
	}
	return m, nil
}

// Panic has enforced lists only count, or drop again.
func (p *Prefilter) Panic(on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errPrefilterClosed
	}
	if err := p.begin(); err != nil {
		return err
	}
	var v uint32
	if on {
		v = 1
	}
	atomic.StoreUint32(&p.settings.value.Panic, v)
	return nil
}

// Counts returns what met each of the lists in force. Counts of a list grow
// over reloads and restarts, until it is no longer among the lists.
func (p *Prefilter) Counts() ([]DenyListCount, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errPrefilterClosed
	}
	var out []DenyListCount
	for slot, used := range p.used {
		if !used {
			continue
		}
		name, err := p.slotName(slot)
		if err != nil {
			return nil, err
		}
		var cpus []prefilterRfPrefilterCount
		if err := p.maps.counts.Lookup(uint32(slot), &cpus); err != nil {
			return nil, fmt.Errorf("read counts of deny list %s: %w", name, err)
		}
		c := DenyListCount{Name: name}
		for _, n := range cpus {
			for i, to := range []*flow.Counters{&c.Exempted, &c.Audited, &c.Dropped} {
				to.Packets += n.Packets[i]
				to.Bytes += n.Bytes[i]
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// Close gives up the process's hold. What runs goes on.
func (p *Prefilter) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	return p.release()
}

func (p *Prefilter) release() error {
	errs := []error{p.settings.close()}
	for _, m := range []*ebpf.Map{p.maps.settings, p.maps.counts, p.maps.denylists} {
		errs = append(errs, m.Close()) // nil is closed already
	}
	errs = append(errs, p.program.Close())
	if p.lock != nil {
		errs = append(errs, p.lock.Close())
	}
	p.maps, p.program, p.lock = prefilterPins{}, nil, nil
	return errors.Join(errs...)
}

// Remove takes the prefilter off every interface and unpins it. It may be used
// again.
func (p *Prefilter) Remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errPrefilterClosed
	}
	if p.settings.value == nil {
		return nil
	}
	var errs []error
	pins, err := p.links()
	errs = append(errs, err)
	for _, index := range pins {
		errs = append(errs, removeLink(p.linkPath(index)))
	}
	for _, name := range []string{"links", prefilterMapCounts, prefilterMapDenylists, prefilterMapSettings} {
		errs = append(errs, os.Remove(filepath.Join(p.dir(), name)))
	}
	errs = append(errs, os.Remove(p.dir()), p.release())
	p.used = [denyListSlots]bool{}
	return errors.Join(errs...)
}
