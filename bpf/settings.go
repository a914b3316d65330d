package bpf

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// Constants of bpf/types.h that no type carries.
const (
	settingsMagic  = 0x52464e43
	settingsLayout = 3

	stateSYN         = 1
	stateEstablished = 2
	stateClosing     = 3
	stateUDP         = 4
	stateICMP        = 5
	stateOther       = 6
	stateMidstream   = 7
)

// mapping is an array map's values, shared with the kernel.
type mapping[T any] struct {
	pages  []byte
	values []T
	value  *T // the first one
}

// mapValues maps all values of m. Their size is a multiple of 8, as their
// distance in the kernel is.
func mapValues[T any](m *ebpf.Map) (mapping[T], error) {
	size := int(unsafe.Sizeof(*new(T)))
	if int(m.ValueSize()) != size && (m.MaxEntries() > 1 || int(m.ValueSize()) < size) || size%8 != 0 {
		return mapping[T]{}, fmt.Errorf("value of %d bytes: want %d", m.ValueSize(), size)
	}
	n, page := int(m.MaxEntries()), os.Getpagesize()
	pages, err := unix.Mmap(m.FD(), 0, (n*size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return mapping[T]{}, fmt.Errorf("map values into memory: %w", err)
	}
	values := unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(pages))), n) //nolint:gosec // of the size mapped above
	return mapping[T]{pages: pages, values: values, value: &values[0]}, nil
}

func (m *mapping[T]) close() error {
	if m.pages == nil {
		return nil
	}
	pages := m.pages
	*m = mapping[T]{}
	return unix.Munmap(pages)
}

// storeLimits writes what may change between two runs of the agent.
func storeLimits(s *kernelRfSettings, cfg Config) {
	idle := [len(s.Idle)]uint64{
		stateSYN:         nanoseconds(cfg.Idle.SYN),
		stateEstablished: nanoseconds(cfg.Idle.Established),
		stateClosing:     nanoseconds(cfg.Idle.Closing),
		stateUDP:         nanoseconds(cfg.Idle.UDP),
		stateICMP:        nanoseconds(cfg.Idle.ICMP),
		stateOther:       nanoseconds(cfg.Idle.Other),
		stateMidstream:   nanoseconds(cfg.Idle.SYN),
	}
	for i, ns := range idle {
		atomic.StoreUint64(&s.Idle[i], ns)
	}
	atomic.StoreUint64(&s.SweepInterval, nanoseconds(cfg.SweepInterval))
	atomic.StoreUint64(&s.OrphanedAfter, nanoseconds(cfg.OrphanedAfter))
	atomic.StoreUint32(&s.EndpointFlows, cfg.EndpointFlows)
	atomic.StoreUint32(&s.EndpointFragments, cfg.EndpointFragments)
}

// noteInterface spares the programs the look-up of an endpoint. Forgotten
// before the endpoint of an interface changes, it is never wrong, whenever the
// agent dies.
func noteInterface(s *kernelRfSettings, index, endpoint uint32) {
	atomic.StoreUint64(interfaceSlot(s, index), uint64(index)<<32|uint64(endpoint))
}

func forgetInterface(s *kernelRfSettings, index uint32) {
	slot := interfaceSlot(s, index)
	if uint32(atomic.LoadUint64(slot)>>32) == index {
		atomic.StoreUint64(slot, 0)
	}
}

func interfaceSlot(s *kernelRfSettings, index uint32) *uint64 {
	return &s.Interfaces[int(index)%len(s.Interfaces)]
}

func nanoseconds(d time.Duration) uint64 { return uint64(d) } //nolint:gosec // Validate refuses negative ones

func bumpEpoch(s *kernelRfSettings) {
	// 0 is what a flow that was never judged has.
	if atomic.AddUint32(&s.Epoch, 1) == 0 {
		atomic.AddUint32(&s.Epoch, 1)
	}
}

func setPanic(s *kernelRfSettings, on bool) {
	var v uint32
	if on {
		v = 1
	}
	atomic.StoreUint32(&s.Panic, v)
	bumpEpoch(s)
}

// BumpEpoch makes every flow be judged again with its next packet.
func (d *Datapath) BumpEpoch() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	bumpEpoch(d.settings.value)
	return nil
}

// SetPending sets the answer where an identity is not known yet: to every flow of
// such an endpoint, failsafe apart, and to flows with such a peer that no rule
// matches in a direction that is isolated. It is VerdictAllow until it is set, or
// VerdictDeny, and stays when the process ends.
func (d *Datapath) SetPending(answer flow.Verdict) error {
	if answer != flow.VerdictAllow && answer != flow.VerdictDeny {
		return fmt.Errorf("answer %q to pending identities: want %q or %q", answer, flow.VerdictAllow, flow.VerdictDeny)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	if atomic.SwapUint32(&d.settings.value.Pending, uint32(answer)) != uint32(answer) {
		bumpEpoch(d.settings.value)
	}
	return nil
}

// Panic puts the live slot on audit: it goes on judging and drops nothing.
func (d *Datapath) Panic(on bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	setPanic(d.settings.value, on)
	return nil
}

// Panicked reports whether panic is in force, whoever called it.
func (d *Datapath) Panicked() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.closed && atomic.LoadUint32(&d.settings.value.Panic) != 0
}

// OpenPinnedPanic sets or lifts panic on every node pinned below root, and
// returns their names. It needs neither the agent nor the server, loads
// nothing, and works on pins of other versions too. The nodes it reached are
// returned beside the error of those that it did not.
func OpenPinnedPanic(root string, on bool) ([]string, error) {
	failed := make(map[string]error) // by node, nil: reached
	done := make(map[string]bool)
	for {
		// Again after writing: a generation that was made meanwhile copied
		// either what was written or what was there before.
		pins, err := settingsPins(root)
		if err != nil {
			return nil, err
		}
		pins = slices.DeleteFunc(pins, func(pin string) bool { return done[pin] })
		if len(pins) == 0 {
			break
		}
		for _, pin := range pins {
			done[pin] = true
			node, _, _ := strings.Cut(strings.TrimPrefix(pin, filepath.Clean(root)+"/"), "/")
			err := panicPin(pin, on)
			if errors.Is(err, os.ErrNotExist) {
				continue // removed, or renamed and found again
			}
			failed[node] = errors.Join(failed[node], err)
		}
	}
	if len(failed) == 0 {
		return nil, fmt.Errorf("no node is pinned below %s: is this the agent's bpffs, and are you root?", root)
	}
	var nodes []string
	var errs []error
	for _, node := range slices.Sorted(maps.Keys(failed)) {
		if err := failed[node]; err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", node, err))
			continue
		}
		nodes = append(nodes, node)
	}
	return nodes, errors.Join(errs...)
}

// settingsPins lists the settings of every generation of every node below root,
// older ones first.
func settingsPins(root string) ([]string, error) {
	var pins []string
	for _, level := range []string{"*", "*/*"} {
		found, err := filepath.Glob(filepath.Join(root, level, kernelMapSettings))
		if err != nil {
			return nil, fmt.Errorf("look for nodes below %s: %w", root, err)
		}
		slices.Sort(found)
		pins = append(pins, found...)
	}
	return pins, nil
}

// panicPin relies on the settings' first four fields alone, which no version
// moves.
func panicPin(pin string, on bool) error {
	m, err := ebpf.LoadPinnedMap(pin, nil)
	if err != nil {
		return fmt.Errorf("open pinned settings: %w", err)
	}
	defer func() { _ = m.Close() }()
	if m.Type() != ebpf.Array || m.ValueSize() < 16 {
		return errors.New("pinned settings are not ringfence's")
	}
	page, err := unix.Mmap(m.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map pinned settings: %w", err)
	}
	defer func() { _ = unix.Munmap(page) }()
	s := (*kernelRfSettings)(unsafe.Pointer(unsafe.SliceData(page))) //nolint:gosec // only its first fields are touched
	if s.Magic != settingsMagic {
		return errors.New("pinned settings are not ringfence's")
	}
	setPanic(s, on)
	return nil
}
