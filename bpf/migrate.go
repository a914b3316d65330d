package bpf

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
)

// together are maps that mean something only side by side: when one is made
// anew, all are.
var together = [][]string{
	{kernelMapFlows4, kernelMapFlows6, kernelMapQuotas, kernelMapFragments, kernelMapKeeper},
	{kernelMapEvents, kernelMapRingIntent},
}

// keeps returns which maps the next generation can share with g.
func (g *generation) keeps(spec *ebpf.CollectionSpec, shape *schema) map[string]bool {
	keep := make(map[string]bool)
	for name := range shape.maps {
		m, want := g.maps[name], spec.Maps[name]
		keep[name] = m != nil && compatible(m, want) && g.schema.sameContents(shape, name)
	}
	for _, set := range together {
		if slices.ContainsFunc(set, func(name string) bool { return !keep[name] }) {
			for _, name := range set {
				keep[name] = false
			}
		}
	}
	return keep
}

// fits reports whether g can go on as it is.
func (g *generation) fits(spec *ebpf.CollectionSpec, shape *schema) bool {
	keep := g.keeps(spec, shape)
	for _, kept := range keep {
		if !kept {
			return false
		}
	}
	return len(keep) == len(g.maps) && g.schema.text() == shape.text() && *g.settings.word32("layout") == settingsLayout
}

// renew makes a new generation out of the current one, or the first one, and
// loads the programs on it. Until it is renamed nothing runs on it, so that any
// error leaves what was as it was.
func (d *Datapath) renew(spec *ebpf.CollectionSpec, shape *schema) (err error) {
	base := d.gen
	next := &generation{dir: filepath.Join(d.cfg.PinDir, dirNext), schema: shape, maps: make(map[string]*ebpf.Map), number: 1}
	for _, g := range append(slices.Clone(d.formers), base) {
		if g != nil {
			next.number = max(next.number, g.number+1)
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.programs.Close(), next.close(), os.RemoveAll(filepath.Join(d.cfg.PinDir, dirNext)))
			d.programs = kernelPrograms{}
		}
	}()
	if err := os.Mkdir(next.dir, 0o700); err != nil {
		return fmt.Errorf("make a generation: %w", err)
	}
	d.step("made")
	if err := next.create(base, spec); err != nil {
		return err
	}
	d.step("created")
	if err := next.pinAll(); err != nil {
		return err
	}
	d.step("pinned")
	if err := next.begin(base, d.step); err != nil {
		return err
	}
	d.step("begun")
	if base != nil {
		if err := next.copyFrom(base); err != nil {
			return err
		}
	}
	d.step("copied")
	if err := d.loadPrograms(spec, next.maps); err != nil {
		return err
	}
	if err := pinProgram(d.programs.RfSweep, filepath.Join(next.dir, pinSweep)); err != nil {
		return err
	}
	d.step("loaded")
	d.carried = make(map[[sha256.Size]byte]struct{})
	for _, f := range append(slices.Clone(d.formers), base) {
		if f == nil || f.draining {
			continue
		}
		if err := d.carryFlows(f, next); err != nil {
			return err
		}
	}
	d.step("flows carried")
	if err := pinSchemaText(filepath.Join(next.dir, pinSchema), shape.text()); err != nil {
		return err
	}
	d.step("described")
	if err := next.rename(numbered(dirMaps, next.number)); err != nil {
		return err
	}
	d.step("renamed")
	if base != nil {
		d.formers = append(d.formers, base)
		d.cfg.Logger.Info("maps of another layout or size are carried over",
			"from", base.number, "to", next.number, "made_anew", next.anew(base))
	}
	d.gen = next
	return nil
}

// anew lists the maps that are not base's.
func (g *generation) anew(base *generation) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(g.maps)) {
		if !g.shares(base, name) {
			list = append(list, name)
		}
	}
	return list
}

// create takes base's maps where they fit and makes the others.
func (g *generation) create(base *generation, spec *ebpf.CollectionSpec) error {
	keep := make(map[string]bool)
	if base != nil {
		keep = base.keeps(spec, g.schema)
	}
	for _, name := range slices.Sorted(maps.Keys(g.schema.maps)) {
		var m *ebpf.Map
		var err error
		if keep[name] && name != kernelMapSettings {
			m, err = base.maps[name].Clone()
		} else {
			m, err = ebpf.NewMap(spec.Maps[name])
		}
		if err != nil {
			return fmt.Errorf("create map %s of %d entries: %w", name, spec.Maps[name].MaxEntries, err)
		}
		g.maps[name] = m
	}
	return g.noteIDs()
}

func (g *generation) pinAll() error {
	for name, m := range g.maps {
		if name == kernelMapSettings {
			continue // when they are filled in
		}
		if err := m.Pin(filepath.Join(g.dir, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// begin fills the settings in, and pins them.
func (g *generation) begin(base *generation, step func(string)) (err error) {
	if g.settings, err = openSettings(g.maps[kernelMapSettings], g.schema); err != nil {
		return err
	}
	s := g.settings
	if base != nil {
		if err := g.copySettings(base); err != nil {
			return err
		}
	}
	*s.word32("magic") = settingsMagic
	*s.word32("layout") = settingsLayout
	*s.word64("fingerprint") = g.schema.fingerprint()
	*s.word64("ring_id"), *s.word64("counters_id") = randomID(), randomID()
	if base == nil {
		atomic.StoreUint32(s.word32("epoch"), 1)
	} else {
		if g.shares(base, kernelMapEvents) {
			*s.word64("ring_id") = *base.settings.word64("ring_id")
		}
		if g.shares(base, kernelMapCounters) {
			*s.word64("counters_id") = *base.settings.word64("counters_id")
		}
	}
	step("settings filled in")
	// Pinned before panic is copied: from here on whoever panics reaches both.
	if err := g.maps[kernelMapSettings].Pin(filepath.Join(g.dir, kernelMapSettings)); err != nil {
		return fmt.Errorf("pin settings: %w", err)
	}
	if base != nil {
		copyPanic(base.settings.word32("panic"), s.word32("panic"))
	}
	return nil
}

// copySettings keeps the epoch too: while links move, no flow is judged to and
// fro.
func (g *generation) copySettings(base *generation) error {
	from, to := base.schema.structs["rf_settings"], g.schema.structs["rf_settings"]
	t, err := translate("rf_settings", from, to)
	if err != nil {
		return fmt.Errorf("carry settings: %w", err)
	}
	value, err := t.apply(base.settings.page[:from.size])
	if err != nil {
		return fmt.Errorf("carry settings: %w", err)
	}
	copy(g.settings.page, value)
	return nil
}

// copyPanic copies until it finds the source as it was. Panic is set in the
// older generation first, so that one set in between is copied too.
func copyPanic(from, to *uint32) {
	for {
		v := atomic.LoadUint32(from)
		atomic.StoreUint32(to, v)
		if atomic.LoadUint32(from) == v {
			return
		}
	}
}

func randomID() uint64 {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never returns an error
	return binary.NativeEndian.Uint64(id[:])
}

// pinProgram pins p, in the place of another one if need be.
func pinProgram(p *ebpf.Program, path string) error {
	fresh := path + "-fresh"
	err := os.Remove(fresh)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = p.Pin(fresh)
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return fmt.Errorf("pin sweep program: %w", err)
	}
	return nil
}

// copied are the maps that userspace fills. Those that the programs fill are
// carried flow by flow, begin anew, or are read out.
func copied(name string) bool {
	switch name {
	case kernelMapSettings, kernelMapFlows4, kernelMapFlows6, kernelMapQuotas, kernelMapEvents, kernelMapRingIntent, kernelMapCounters:
		return false
	}
	return !strings.HasPrefix(name, ".")
}

// copyFrom fills the maps that base's content has to be translated into.
func (g *generation) copyFrom(base *generation) error {
	prefixes := *base.settings.word32("layout") == layoutPrefixes
	for _, name := range slices.Sorted(maps.Keys(g.maps)) {
		if !copied(name) || g.shares(base, name) || base.maps[name] == nil || (name == kernelMapRules && prefixes) {
			continue
		}
		if err := g.copyMap(base, name); err != nil {
			return err
		}
	}
	if prefixes {
		if err := g.copyRules(base); err != nil {
			return err
		}
	}
	if g.shares(base, kernelMapFlows4) {
		return nil
	}
	return g.copyQuotas(base)
}

// copyMap copies one map.
func (g *generation) copyMap(base *generation, name string) error {
	from, to := base.schema.maps[name], g.schema.maps[name]
	key, err := translate(from.key, base.schema.structs[from.key], g.schema.structs[to.key])
	if err != nil {
		return fmt.Errorf("carry map %s: %w", name, err)
	}
	value, err := translate(from.value, base.schema.structs[from.value], g.schema.structs[to.value])
	if err != nil {
		return fmt.Errorf("carry map %s: %w", name, err)
	}
	old, fresh := base.maps[name], g.maps[name]
	n := 0
	err = eachEntry(old, func(k, v []byte) error {
		if old.Type() == ebpf.Array && zero(v) {
			return nil // nothing there
		}
		k, err := key.apply(k)
		if err != nil {
			return err
		}
		if v, err = value.apply(v); err != nil {
			return err
		}
		if n++; fresh.Type() == ebpf.Array {
			n = int(binary.NativeEndian.Uint32(k)) + 1
		}
		if n > int(fresh.MaxEntries()) {
			return nil // counted on, for the message
		}
		return fresh.Put(k, v)
	})
	if err != nil {
		return fmt.Errorf("carry map %s: %w", name, err)
	}
	return checkRoom(name, n, fresh)
}

func checkRoom(name string, n int, fresh *ebpf.Map) error {
	if n > int(fresh.MaxEntries()) {
		return fmt.Errorf("carry map %s: it holds %d entries and the new one has room for %d: ask for more room", name, n, fresh.MaxEntries())
	}
	return nil
}

// copyQuotas makes a count for every endpoint that is watched: of the fragments
// that were copied, and of no flows, which are counted as they come. Those of
// former interfaces still end.
func (g *generation) copyQuotas(base *generation) error {
	notes := make(map[uint32]uint32)
	owner, ok := g.schema.field("rf_fragment_key", "endpoint", 4)
	gone, isGone := base.schema.field("rf_quota", "gone", 4)
	count, counts := g.schema.field("rf_quota", "fragments", 4)
	oldSince, hadSince := base.schema.field("rf_quota", "since", 8)
	since, hasSince := g.schema.field("rf_quota", "since", 8)
	if !ok || !isGone || !counts {
		return errors.New("carry quotas: their layout is unknown")
	}
	err := eachEntry(g.maps[kernelMapFragments], func(k, _ []byte) error {
		notes[binary.NativeEndian.Uint32(k[owner:])]++
		return nil
	})
	if err != nil {
		return fmt.Errorf("count fragments: %w", err)
	}
	quotas := g.maps[kernelMapQuotas]
	n := 0
	err = eachEntry(base.maps[kernelMapQuotas], func(k, v []byte) error {
		if !zero(v[gone : gone+4]) {
			return nil
		}
		n++
		fresh := make([]byte, quotas.ValueSize())
		binary.NativeEndian.PutUint32(fresh[count:], notes[binary.NativeEndian.Uint32(k)])
		if hadSince && hasSince {
			copy(fresh[since:since+8], v[oldSince:oldSince+8])
		}
		return quotas.Put(k, fresh)
	})
	if err != nil {
		return fmt.Errorf("carry the quotas of %d endpoints to a map of %d: %w", n, quotas.MaxEntries(), err)
	}
	return nil
}

const carryWindow = 10 * time.Second

// openWindow has the programs of all generations take a packet that begins no
// flow they know for a possible answer, until the flows are carried.
func (d *Datapath) openWindow() error {
	now, err := coarse()
	if err != nil {
		return err
	}
	for _, f := range d.formers {
		if f.draining || f.shares(d.gen, kernelMapFlows4) {
			continue
		}
		atomic.StoreUint64(f.settings.word64("carry_until"), now+uint64(carryWindow))
		atomic.StoreUint64(d.gen.settings.word64("carry_until"), now+uint64(carryWindow))
	}
	return nil
}

// settle brings the formers to an end, after all links have left them.
func (d *Datapath) settle() error {
	waited := false
	for _, f := range d.formers {
		if f.draining {
			continue
		}
		if !waited {
			if err := d.policies.grace.wait(); err != nil {
				return err
			}
			waited = true
		}
		if err := d.carryFlows(f, d.gen); err != nil {
			return err
		}
		if !f.shares(d.gen, kernelMapFlows4) {
			f.settings.reportAll()
		}
	}
	d.step("flows settled")
	// Only now: a flow of the oldest is carried before the next one is done with.
	for _, f := range d.formers {
		if !f.draining {
			if err := f.rename(numbered(dirDrain, f.number)); err != nil {
				return err
			}
			f.draining = true
			d.step("draining")
		}
	}
	d.carried = nil
	atomic.StoreUint64(d.gen.settings.word64("carry_until"), 0)
	return nil
}
