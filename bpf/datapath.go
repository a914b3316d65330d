package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Datapath is one node's programs and maps. Its methods may be called from
// several goroutines.
type Datapath struct {
	cfg   Config
	netns netNS
	lock  *os.File // of the pin directory: one agent a node

	programs kernelPrograms
	maps     kernelMaps
	limits   Limits
	created  bool // the maps are this process's, not adopted

	mu       sync.Mutex // guards what follows, and every change of a map
	closed   bool
	settings mapping[kernelRfSettings]
	reading  bool
	levels   Levels
	policies policies
}

var errClosed = errors.New("datapath is closed")

// Open loads the programs and creates their maps, or adopts those pinned in
// cfg.PinDir: links found there run the new programs from then on, without a
// packet in between that none of them saw.
func Open(cfg Config) (*Datapath, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := CheckHost(); err != nil {
		return nil, err
	}
	d := &Datapath{cfg: cfg, netns: netNS(cfg.NetNS)}
	err := d.open()
	switch {
	case err == nil:
		return d, nil
	case d.created:
		return nil, errors.Join(explain(err), d.Remove())
	default:
		return nil, errors.Join(explain(err), d.Close())
	}
}

func (d *Datapath) open() error {
	if err := d.lockPins(); err != nil {
		return err
	}
	spec, err := loadKernel()
	if err != nil {
		return fmt.Errorf("read the programs: %w", err)
	}
	size(spec, d.cfg)
	if err := d.openMaps(spec); err != nil {
		return err
	}
	if err := d.policies.open(&d.maps); err != nil {
		return err
	}
	if err := d.loadPrograms(spec); err != nil {
		return err
	}
	storeLimits(d.settings.value, d.cfg)
	if err := d.adoptLinks(); err != nil {
		return err
	}
	// The programs may be newer than the verdicts in the flow table.
	bumpEpoch(d.settings.value)
	return d.readLevels()
}

func (d *Datapath) linkDir() string { return filepath.Join(d.cfg.PinDir, "links") }

// lockPins makes the directories and takes the node for this process.
func (d *Datapath) lockPins() error {
	root := filepath.Dir(d.cfg.PinDir)
	if on, err := isBPFFS(root); err != nil || !on {
		return fmt.Errorf("pin directory %s is not on a bpffs: mount one at %s", d.cfg.PinDir, root)
	}
	if err := os.MkdirAll(d.linkDir(), 0o700); err != nil {
		return fmt.Errorf("pin directory: %w", err)
	}
	lock, err := os.Open(d.cfg.PinDir)
	if err != nil {
		return fmt.Errorf("pin directory: %w", err)
	}
	d.lock = lock
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("pin directory %s is held by another agent: stop that one first", d.cfg.PinDir)
	}
	if err != nil {
		return fmt.Errorf("lock pin directory %s: %w", d.cfg.PinDir, err)
	}
	return nil
}

// openMaps adopts a whole set of pinned maps, or creates one.
func (d *Datapath) openMaps(spec *ebpf.CollectionSpec) error {
	shape, err := fingerprint(spec.Types)
	if err != nil {
		return err
	}
	names := d.mapNames()
	pinned, err := d.loadPins(spec, names)
	if err != nil {
		return err
	}
	if pinned[kernelMapSettings] == nil {
		return d.createMaps(spec, names, pinned, shape)
	}
	d.assign(pinned)
	for _, name := range names {
		if pinned[name] == nil {
			return fmt.Errorf("pinned map %s of %s is missing: remove the directory's pins and start again",
				name, d.cfg.PinDir)
		}
		// What the programs are loaded with is what the kernel has.
		spec.Maps[name].MaxEntries = pinned[name].MaxEntries()
	}
	if err := d.mapSettings(); err != nil {
		return err
	}
	if err := checkLayout(d.settings.value, shape); err != nil {
		return fmt.Errorf("maps pinned in %s are refused: %w: run the version that made them, or remove them", d.cfg.PinDir, err)
	}
	return d.setLimits()
}

// mapNames orders the maps; settings come last, so that they mark a set as whole.
func (d *Datapath) mapNames() []string {
	return []string{
		kernelMapEndpoints, kernelMapQuotas, kernelMapAddresses, kernelMapCidrs, kernelMapFailsafe,
		kernelMapWorkloads, kernelMapTables, kernelMapRules, kernelMapFlows, kernelMapFragments, kernelMapCounters, kernelMapEvents,
		kernelMapRingIntent, kernelMapSettings,
	}
}

func (d *Datapath) loadPins(spec *ebpf.CollectionSpec, names []string) (map[string]*ebpf.Map, error) {
	pinned := make(map[string]*ebpf.Map)
	var errs []error
	for _, name := range names {
		m, err := ebpf.LoadPinnedMap(filepath.Join(d.cfg.PinDir, name), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("open pinned map %s: %w", name, err))
			continue
		}
		pinned[name] = m
		if err := compatible(m, spec.Maps[name]); err != nil {
			errs = append(errs, fmt.Errorf("maps pinned in %s are refused: %w: run the version that made them, or remove them",
				d.cfg.PinDir, err))
		}
	}
	if len(errs) > 0 {
		closeMaps(pinned)
		return nil, errors.Join(errs...)
	}
	return pinned, nil
}

// createMaps makes a new set. Pins of an earlier start that did not get as far
// as its settings are replaced: nothing runs on them.
func (d *Datapath) createMaps(spec *ebpf.CollectionSpec, names []string, left map[string]*ebpf.Map, shape uint64) error {
	closeMaps(left)
	links, err := os.ReadDir(d.linkDir())
	if err != nil {
		return fmt.Errorf("read pinned links: %w", err)
	}
	if len(links) > 0 {
		return fmt.Errorf("%s has pinned links without their settings: remove the directory's pins and start again", d.cfg.PinDir)
	}
	made := make(map[string]*ebpf.Map)
	for _, name := range names {
		m, err := ebpf.NewMap(spec.Maps[name])
		if err != nil {
			closeMaps(made)
			return fmt.Errorf("create map %s of %d entries: %w", name, spec.Maps[name].MaxEntries, err)
		}
		made[name] = m
	}
	d.created = true
	d.assign(made)
	if err := d.mapSettings(); err != nil {
		return err
	}
	initSettings(d.settings.value, shape)
	for _, name := range names {
		path := filepath.Join(d.cfg.PinDir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("replace pinned map %s: %w", name, err)
		}
		if err := made[name].Pin(path); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return d.setLimits()
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close()
	}
}

func (d *Datapath) assign(maps map[string]*ebpf.Map) {
	d.maps = kernelMaps{
		Addresses: maps[kernelMapAddresses], Cidrs: maps[kernelMapCidrs], Counters: maps[kernelMapCounters],
		Endpoints: maps[kernelMapEndpoints], Events: maps[kernelMapEvents], Failsafe: maps[kernelMapFailsafe],
		Flows: maps[kernelMapFlows], Fragments: maps[kernelMapFragments], Quotas: maps[kernelMapQuotas],
		RingIntent: maps[kernelMapRingIntent], Rules: maps[kernelMapRules], Settings: maps[kernelMapSettings],
		Tables: maps[kernelMapTables], Workloads: maps[kernelMapWorkloads],
	}
}

func (d *Datapath) mapSettings() (err error) {
	if d.settings, err = mapValues[kernelRfSettings](d.maps.Settings); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	return nil
}

func (d *Datapath) setLimits() error {
	entries := func(m *ebpf.Map) int { return int(m.MaxEntries()) }
	d.limits = Limits{
		Endpoints:       entries(d.maps.Endpoints),
		Addresses:       entries(d.maps.Addresses),
		CIDRs:           entries(d.maps.Cidrs),
		Failsafe:        entries(d.maps.Failsafe),
		Workloads:       entries(d.maps.Workloads) - 1,
		PolicyTables:    entries(d.maps.Tables) - 1,
		PolicyEntries:   entries(d.maps.Rules),
		Flows:           entries(d.maps.Flows),
		FlowsOfEndpoint: int(d.cfg.EndpointFlows),
	}
	if d.limits.Flows != int(d.cfg.FlowEntries) || entries(d.maps.Events) != int(d.cfg.RingBytes) ||
		d.limits.PolicyEntries != int(d.cfg.PolicyEntries) {
		d.cfg.Logger.Warn("pinned maps keep the size they were made with",
			"flow_entries", d.limits.Flows, "ring_bytes", entries(d.maps.Events),
			"policy_entries", d.limits.PolicyEntries)
	}
	return nil
}

// Capacity returns the limits of every table, so that a policy that does not
// fit can be refused before anything is touched.
func (d *Datapath) Capacity() Limits { return d.limits }

func (d *Datapath) loadPrograms(spec *ebpf.CollectionSpec) error {
	replace := map[string]*ebpf.Map{
		kernelMapAddresses: d.maps.Addresses, kernelMapCidrs: d.maps.Cidrs, kernelMapCounters: d.maps.Counters,
		kernelMapEndpoints: d.maps.Endpoints, kernelMapEvents: d.maps.Events, kernelMapFailsafe: d.maps.Failsafe,
		kernelMapFlows: d.maps.Flows, kernelMapFragments: d.maps.Fragments, kernelMapQuotas: d.maps.Quotas,
		kernelMapRules: d.maps.Rules, kernelMapSettings: d.maps.Settings, kernelMapTables: d.maps.Tables,
		kernelMapWorkloads: d.maps.Workloads,
	}
	delete(spec.Maps, kernelMapRingIntent) // no program reads it
	if err := spec.LoadAndAssign(&d.programs, &ebpf.CollectionOptions{MapReplacements: replace}); err != nil {
		return fmt.Errorf("load the programs: %w", err)
	}
	return nil
}

// Close gives up the process's hold on the datapath. The pinned programs go on
// deciding by the tables as they are.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	errs := []error{d.settings.close(), d.policies.close(), d.programs.Close(), d.maps.Close()}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

// Remove detaches the programs, unpins everything and closes d.
func (d *Datapath) Remove() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return errClosed
	}
	names := d.mapNames()
	slices.Reverse(names) // settings first: what is left then counts as unfinished
	errs := []error{d.removeLinks()}
	for _, name := range names {
		if err := os.Remove(filepath.Join(d.cfg.PinDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, os.Remove(d.cfg.PinDir))
	d.mu.Unlock()
	return errors.Join(append(errs, d.Close())...)
}
