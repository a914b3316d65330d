package bpf

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Datapath is one node's programs and maps. Its methods may be called from
// several goroutines.
type Datapath struct {
	cfg      Config
	netns    netNS
	tcx      *tcx
	clsact   *clsact
	attacher attacher // the one of the two that is used
	lock     *os.File // of the pin directory: one agent a node

	programs kernelPrograms
	maps     kernelMaps
	limits   Limits
	created  bool // the first generation is this process's
	record   *schema
	carried  map[[sha256.Size]byte]struct{} // flows, as they were carried

	mu       sync.Mutex // guards what follows, and every change of a map
	closed   bool
	gen      *generation
	formers  []*generation // oldest first
	settings mapping[kernelRfSettings]
	reading  bool
	levels   Levels
	policies policies
}

var errClosed = errors.New("datapath is closed")

// Open loads the programs and creates their maps, or adopts those pinned in
// cfg.PinDir: links found there run the new programs from then on, without a
// packet in between that none of them saw. Maps of another size or layout are
// carried over into new ones; what cannot be is refused and stays as it is.
func Open(cfg Config) (*Datapath, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := CheckHost(); err != nil {
		return nil, err
	}
	d := &Datapath{cfg: cfg, netns: netNS(cfg.NetNS)}
	d.tcx = &tcx{dir: d.linkDir(), netns: d.netns}
	d.clsact = &clsact{pinDir: cfg.PinDir, netns: d.netns}
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
	spec, err := d.cfg.object()
	if err != nil {
		return fmt.Errorf("read the programs: %w", err)
	}
	size(spec, d.cfg)
	shape, err := schemaOf(spec)
	if err != nil {
		return err
	}
	if d.record, err = ownSchema(); err != nil {
		return err
	}
	if d.gen, d.formers, err = findGenerations(d.cfg.PinDir); err != nil {
		return err
	}
	if err := d.openMaps(spec, shape); err != nil {
		return err
	}
	if err := d.assign(); err != nil {
		return err
	}
	if err := d.chooseAttacher(); err != nil {
		return err
	}
	storeLimits(d.settings.value, d.cfg)
	if err := d.keep(); err != nil {
		return err
	}
	if err := d.openWindow(); err != nil {
		return err
	}
	d.step("window open")
	if err := d.adopt(); err != nil {
		return err
	}
	d.step("links moved")
	if err := d.settle(); err != nil {
		return err
	}
	d.step("settled")
	if err := d.handOver(); err != nil {
		return err
	}
	// The programs may be newer than the verdicts in the flow table.
	bumpEpoch(d.settings.value)
	if err := d.drainFormers(); err != nil {
		return err
	}
	return d.readLevels()
}

func (d *Datapath) step(name string) { d.cfg.step(d, name) }

// openMaps takes the pinned maps as they are, or makes a new generation.
func (d *Datapath) openMaps(spec *ebpf.CollectionSpec, shape *schema) error {
	if d.gen != nil && d.gen.fits(spec, shape) {
		if err := d.loadPrograms(spec, d.gen.maps); err != nil {
			return err
		}
		return pinProgram(d.programs.RfSweep, filepath.Join(d.gen.dir, pinSweep))
	}
	if d.gen == nil {
		links, err := os.ReadDir(d.linkDir())
		if err != nil {
			return fmt.Errorf("read pinned links: %w", err)
		}
		if len(links) > 0 {
			return fmt.Errorf("%s has pinned links without their maps: remove the directory's pins and start again", d.cfg.PinDir)
		}
		d.created = true
	}
	if err := d.renew(spec, shape); err != nil {
		if d.gen != nil {
			return fmt.Errorf("upgrade of the maps in %s, which stay as they are: %w", d.cfg.PinDir, err)
		}
		return err
	}
	return nil
}

const linksName = "links"

func (d *Datapath) linkDir() string { return filepath.Join(d.cfg.PinDir, linksName) }

// lockPins makes the directories and takes the node for this process.
func (d *Datapath) lockPins() error {
	root := filepath.Dir(d.cfg.PinDir)
	if on, err := isBPFFS(root); err != nil || !on {
		return fmt.Errorf("pin directory %s is not on a bpffs: mount one at %s", d.cfg.PinDir, root)
	}
	if err := os.MkdirAll(d.linkDir(), 0o700); err != nil {
		return fmt.Errorf("pin directory: %w", err)
	}
	if err := checkPrivate(d.cfg.PinDir); err != nil {
		return err
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

// assign takes the current generation's maps for this process's own.
func (d *Datapath) assign() error {
	fields := reflect.ValueOf(&d.maps).Elem()
	for i := range fields.NumField() {
		name := fields.Type().Field(i).Tag.Get("ebpf")
		fields.Field(i).Set(reflect.ValueOf(d.gen.maps[name]))
	}
	if !d.gen.schema.holds("rf_settings", d.record) {
		return errors.New("settings: the programs lay them out otherwise than this version")
	}
	var err error
	if d.settings, err = mapValues[kernelRfSettings](d.maps.Settings); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	d.setLimits()
	return d.policies.open(&d.maps)
}

func (d *Datapath) setLimits() {
	entries := func(m *ebpf.Map) int { return int(m.MaxEntries()) }
	d.limits = Limits{
		Endpoints:       entries(d.maps.Endpoints),
		Addresses:       entries(d.maps.Addresses),
		CIDRs:           entries(d.maps.Cidrs),
		Failsafe:        entries(d.maps.Failsafe),
		Services:        entries(d.maps.Services),
		Workloads:       entries(d.maps.Workloads) - 1,
		PolicyTables:    entries(d.maps.Tables) - 1,
		PolicyEntries:   entries(d.maps.Rules),
		Flows:           entries(d.maps.Flows4),
		FlowsOfEndpoint: int(d.cfg.EndpointFlows),
		Fragments:       entries(d.maps.Fragments),
	}
}

// Capacity returns the limits of every table, so that a policy that does not
// fit can be refused before anything is touched.
func (d *Datapath) Capacity() Limits { return d.limits }

// loadPrograms loads the programs with these maps.
func (d *Datapath) loadPrograms(spec *ebpf.CollectionSpec, with map[string]*ebpf.Map) error {
	replace := maps.Clone(with)
	delete(replace, kernelMapRingIntent) // no program reads it
	delete(spec.Maps, kernelMapRingIntent)
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
	return d.close()
}

func (d *Datapath) close() error {
	if d.closed {
		return nil
	}
	d.closed = true
	errs := []error{d.settings.close(), d.policies.close(), d.programs.Close(), d.gen.close()}
	for _, f := range d.formers {
		errs = append(errs, f.close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

// Remove detaches the programs, unpins everything and closes d.
func (d *Datapath) Remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	errs := []error{d.detachAll(), os.Remove(d.linkDir())}
	for _, g := range append(slices.Clone(d.formers), d.gen) {
		if g != nil {
			errs = append(errs, g.remove())
		}
	}
	return errors.Join(append(errs, os.Remove(d.cfg.PinDir), d.close())...)
}
