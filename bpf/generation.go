package bpf

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A generation is one whole set of pinned maps, in a directory below PinDir.
// The directory's name says how far it is; it changes by a rename, in one step:
//
//	next       being filled; nothing runs on it
//	maps-N     its programs may run; the highest N decides
//	drain-N    nothing runs on it, what it still has to report is being read
//	gone-N     being removed
//
// Maps that did not change are the same ones in two generations.
type generation struct {
	number   int
	dir      string
	draining bool
	schema   *schema
	maps     map[string]*ebpf.Map
	ids      map[string]ebpf.MapID
	settings settingsPage
	sweep    *ebpf.Program // pinned beside the maps
}

const (
	pinSchema  = "schema"
	pinSweep   = "sweep"
	dirNext    = "next"
	dirMaps    = "maps-"
	dirDrain   = "drain-"
	dirGone    = "gone-"
	dirNumbers = "%06d" // so that names sort as numbers do
)

func numbered(prefix string, n int) string { return prefix + fmt.Sprintf(dirNumbers, n) }

// settingsPage is the settings map of any version in this process's memory.
type settingsPage struct {
	schema *schema
	page   []byte
}

func openSettings(m *ebpf.Map, s *schema) (settingsPage, error) {
	page := os.Getpagesize()
	pages, err := unix.Mmap(m.FD(), 0, (int(m.ValueSize())+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return settingsPage{}, fmt.Errorf("map settings into memory: %w", err)
	}
	return settingsPage{schema: s, page: pages}, nil
}

// word64 and word32 point to a member, or to nothing that counts when the
// version has none of that name.
func (p settingsPage) word64(name string) *uint64 { return (*uint64)(p.at(name, 8)) }
func (p settingsPage) word32(name string) *uint32 { return (*uint32)(p.at(name, 4)) }

func (p settingsPage) at(name string, size int) unsafe.Pointer {
	offset, ok := p.schema.field("rf_settings", name, size)
	if !ok || offset+size > len(p.page) {
		return unsafe.Pointer(new(uint64)) //nolint:gosec // stands in for a missing member
	}
	return unsafe.Pointer(&p.page[offset]) //nolint:gosec // inside the page
}

// reportAll makes the generation's sweep report everything and end nothing: its
// flows live on in another table.
func (p settingsPage) reportAll() {
	for _, m := range p.schema.structs["rf_settings"].members {
		for at := m.offset; m.name == "idle" && at+8 <= m.offset+m.size; at += 8 {
			atomic.StoreUint64((*uint64)(unsafe.Pointer(&p.page[at])), math.MaxInt64) //nolint:gosec // inside the page
		}
	}
	atomic.StoreUint64(p.word64("sweep_interval"), 0)
}

func (p *settingsPage) close() error {
	if p.page == nil {
		return nil
	}
	page := p.page
	p.page = nil
	return unix.Munmap(page)
}

func (g *generation) close() error {
	if g == nil {
		return nil
	}
	errs := []error{g.settings.close()}
	for _, m := range g.maps {
		errs = append(errs, m.Close())
	}
	if g.sweep != nil {
		errs = append(errs, g.sweep.Close())
	}
	g.maps, g.sweep = nil, nil
	return errors.Join(errs...)
}

// shares reports whether a map is the same one in both.
func (g *generation) shares(o *generation, name string) bool {
	return g.ids[name] != 0 && g.ids[name] == o.ids[name]
}

// noteIDs looks up which maps the generation's are.
func (g *generation) noteIDs() error {
	g.ids = make(map[string]ebpf.MapID, len(g.maps))
	for name, m := range g.maps {
		info, err := m.Info()
		if err != nil {
			return fmt.Errorf("look at map %s: %w", name, err)
		}
		id, ok := info.ID()
		if !ok {
			return fmt.Errorf("map %s has no number", name)
		}
		g.ids[name] = id
	}
	return nil
}

// findGenerations removes what was left unfinished and opens the rest: the one
// that decides, nil if there is none, and those before it, oldest first.
func findGenerations(pinDir string) (current *generation, formers []*generation, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, current.close())
			for _, f := range formers {
				err = errors.Join(err, f.close())
			}
		}
	}()
	entries, err := os.ReadDir(pinDir)
	if err != nil {
		return nil, nil, fmt.Errorf("read pins: %w", err)
	}
	var all []*generation
	for _, e := range entries {
		name, path := e.Name(), filepath.Join(pinDir, e.Name())
		switch {
		case !e.IsDir():
			return nil, nil, refusal(pinDir, fmt.Errorf("pin %s stands beside the generations: these maps do not describe themselves", name))
		case name == dirNext || strings.HasPrefix(name, dirGone):
			if err := os.RemoveAll(path); err != nil {
				return nil, nil, fmt.Errorf("remove unfinished maps: %w", err)
			}
		case name != linksName && name != prefilterName:
			g := &generation{dir: path, draining: strings.HasPrefix(name, dirDrain)}
			_, number, _ := strings.Cut(name, "-")
			if g.number, err = strconv.Atoi(number); err != nil || (!g.draining && !strings.HasPrefix(name, dirMaps)) {
				return nil, nil, refusal(pinDir, fmt.Errorf("directory %s is not ringfence's", name))
			}
			all = append(all, g)
		}
	}
	slices.SortFunc(all, func(a, b *generation) int { return cmp.Compare(a.number, b.number) })
	for i, g := range all {
		if err := g.open(); err != nil {
			return current, formers, refusal(g.dir, err)
		}
		if i == len(all)-1 && !g.draining {
			current = g
		} else {
			formers = append(formers, g)
		}
	}
	return current, formers, nil
}

func refusal(dir string, err error) error {
	return fmt.Errorf("maps pinned in %s are refused: %w: run the version that made them, or remove them", dir, err)
}

// open loads the pins, and refuses maps that are not what they say.
func (g *generation) open() (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	if g.schema, err = loadSchema(filepath.Join(g.dir, pinSchema)); err != nil {
		return err
	}
	g.maps = make(map[string]*ebpf.Map)
	for name := range g.schema.maps {
		m, err := ebpf.LoadPinnedMap(filepath.Join(g.dir, name), nil)
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("pinned map %s is missing", name)
		}
		if err != nil {
			return fmt.Errorf("open pinned map %s: %w", name, err)
		}
		g.maps[name] = m
		if err := g.schema.describes(name, m); err != nil {
			return err
		}
	}
	if err := g.noteIDs(); err != nil {
		return err
	}
	if g.maps[kernelMapSettings] == nil {
		return errors.New("there are no settings")
	}
	if g.settings, err = openSettings(g.maps[kernelMapSettings], g.schema); err != nil {
		return err
	}
	if err := g.checkLayout(); err != nil {
		return err
	}
	if g.sweep, err = ebpf.LoadPinnedProgram(filepath.Join(g.dir, pinSweep), nil); err != nil {
		return fmt.Errorf("open pinned sweep program: %w", err)
	}
	return nil
}

// describes checks a map against what the schema says it holds.
func (s *schema) describes(name string, m *ebpf.Map) error {
	for _, c := range []struct {
		what, of string
		size     uint32
	}{{"key", s.maps[name].key, m.KeySize()}, {"value", s.maps[name].value, m.ValueSize()}} {
		if want := s.structs[c.of].size; m.Type() != ebpf.RingBuf && c.of != "-" && int(c.size) != want {
			return fmt.Errorf("map %s has %s size %d, not %d as its schema says", name, c.what, c.size, want)
		}
	}
	return nil
}

// checkLayout refuses maps whose meaning this version does not know.
func (g *generation) checkLayout() error {
	if magic := atomic.LoadUint32(g.settings.word32("magic")); magic != settingsMagic {
		return errors.New("they are not ringfence's")
	}
	if layout := atomic.LoadUint32(g.settings.word32("layout")); layout < layoutPrefixes || layout > settingsLayout {
		return fmt.Errorf("they have layout %d and this version needs %d", layout, settingsLayout)
	}
	if have, want := atomic.LoadUint64(g.settings.word64("fingerprint")), g.schema.fingerprint(); have != want {
		return fmt.Errorf("their schema (%016x) is not the one they were made with (%016x)", want, have)
	}
	return nil
}

// loadSchema reads a pinned schema. It is written once, when a generation is made.
func loadSchema(path string) (*schema, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("they have no schema")
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned schema: %w", err)
	}
	defer func() { _ = m.Close() }()
	text := make([]byte, m.ValueSize())
	if m.Type() != ebpf.Array || m.KeySize() != 4 {
		return nil, errors.New("their schema is none")
	}
	if err := m.Lookup(uint32(0), &text); err != nil {
		return nil, fmt.Errorf("read pinned schema: %w", err)
	}
	return parseSchema(string(bytes.TrimRight(text, "\x00")))
}

func pinSchemaText(path, text string) error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "schema", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(text)), MaxEntries: 1, //nolint:gosec // a few kilobytes
		Contents: []ebpf.MapKV{{Key: uint32(0), Value: []byte(text)}},
	})
	if err != nil {
		return fmt.Errorf("create schema: %w", err)
	}
	defer func() { _ = m.Close() }()
	if err := m.Pin(path); err != nil {
		return fmt.Errorf("pin schema: %w", err)
	}
	return nil
}

// rename moves the generation's directory on to its next state.
func (g *generation) rename(to string) error {
	path := filepath.Join(filepath.Dir(g.dir), to)
	if err := os.Rename(g.dir, path); err != nil {
		return fmt.Errorf("rename generation: %w", err)
	}
	g.dir = path
	return nil
}

// remove unpins everything and closes the generation.
func (g *generation) remove() error {
	err := g.rename(numbered(dirGone, g.number))
	if err == nil {
		err = os.RemoveAll(g.dir)
	}
	return errors.Join(err, g.close())
}
