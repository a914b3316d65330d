package bpf

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// AttachMode says how programs are attached to interfaces.
type AttachMode string

// The ways of attaching. TCX came with Linux 6.6; clsact is older than any
// kernel that can load the programs.
const (
	AttachAuto   AttachMode = "auto" // TCX where the kernel has it
	AttachTCX    AttachMode = "tcx"
	AttachClsact AttachMode = "clsact"
)

// Validate refuses anything but the three modes.
func (m AttachMode) Validate() error {
	if m != AttachAuto && m != AttachTCX && m != AttachClsact {
		return fmt.Errorf("attach mode %q: want %s, %s or %s", string(m), AttachAuto, AttachTCX, AttachClsact)
	}
	return nil
}

// hook is one of the two places of an interface where programs run.
type hook struct {
	name   string
	attach ebpf.AttachType
	parent uint32 // in the clsact qdisc
}

// place is one hook of one interface.
type place struct {
	index uint32
	hook  hook
}

func (p place) String() string { return fmt.Sprintf("%s of interface %d", p.hook.name, p.index) }

// attacher is a way of attaching. What it attaches stays when the process ends,
// and is found again by whoever has the same pin directory. An interface or a
// namespace that is gone has nothing attached.
type attacher interface {
	// attach has prog run ahead of whatever is attached by the same way.
	attach(p place, prog *ebpf.Program) error
	// update puts prog in the place of this node's program in one step. Where
	// there is none it does nothing and says so.
	update(p place, prog *ebpf.Program) (bool, error)
	attached(p place) bool
	detach(p place) error
	// places are all where this node's programs are attached, or were.
	places() ([]place, error)
	// first reports whether no program of others runs before this node's.
	first(p place) (bool, error)
}

func (d *Datapath) attachers() []attacher { return []attacher{d.tcx, d.clsact} }

// chooseAttacher settles how this process attaches.
func (d *Datapath) chooseAttacher() error {
	if d.cfg.Attach == AttachClsact {
		d.attacher = d.clsact
		return nil
	}
	err := d.cfg.probeTCX(d.programs.RfFromEndpoint)
	switch {
	case err == nil:
		d.attacher = d.tcx
	case errors.Is(err, ebpf.ErrNotSupported) && d.cfg.Attach == AttachAuto:
		d.cfg.Logger.Info("this kernel has no TCX, which came with Linux 6.6: attaching by clsact")
		d.attacher = d.clsact
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("attach mode %s: this kernel has no TCX, which came with Linux 6.6: choose %s or %s", d.cfg.Attach, AttachAuto, AttachClsact)
	default:
		return fmt.Errorf("look for TCX: %w", err)
	}
	return nil
}

// probeTCX asks to attach to an interface that no namespace has.
func probeTCX(prog *ebpf.Program) error {
	l, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: prog, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		return l.Close()
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// alive reports whether both hooks of the interface have a program.
func (d *Datapath) alive(index uint32) bool {
	for _, h := range hooks {
		p := place{index, h}
		if !slices.ContainsFunc(d.attachers(), func(a attacher) bool { return a.attached(p) }) {
			return false
		}
	}
	return true
}

// detachAll detaches what the node has attached, by either way.
func (d *Datapath) detachAll() error {
	var errs []error
	for _, a := range d.attachers() {
		list, err := a.places()
		errs = append(errs, err)
		for _, p := range list {
			errs = append(errs, a.detach(p))
		}
	}
	return errors.Join(errs...)
}

// adopt makes everything that is attached run this process's programs, and
// forgets the interfaces that went while nobody looked.
func (d *Datapath) adopt() error {
	known, err := readMap[uint32, kernelRfEndpoint](d.maps.Endpoints)
	if err != nil {
		return fmt.Errorf("read endpoints: %w", err)
	}
	for _, a := range d.attachers() {
		list, err := a.places()
		if err != nil {
			return err
		}
		for _, p := range list {
			ep, watched := known[p.index]
			if !watched {
				if err := a.detach(p); err != nil {
					return err
				}
				continue
			}
			if _, err := a.update(p, d.program(p.hook, ep.Flags&endpointHost != 0)); err != nil {
				return err
			}
			d.step("link moved")
		}
	}
	return d.prune(known)
}

// handOver attaches by today's way what is attached by the other one. For a
// while both programs see a packet: the first one stamps it, so that the second
// one does not count it again.
func (d *Datapath) handOver() error {
	type former struct {
		attacher
		place
	}
	var formers []former
	for _, a := range d.attachers() {
		if a == d.attacher {
			continue
		}
		list, err := a.places()
		if err != nil {
			return err
		}
		for _, p := range list {
			formers = append(formers, former{a, p})
		}
	}
	stamp := &d.settings.value.Handover
	if len(formers) == 0 && atomic.LoadUint64(stamp) == 0 {
		return nil
	}
	if atomic.LoadUint64(stamp) == 0 {
		atomic.StoreUint64(stamp, max(randomID(), 1))
	}
	// A program that runs since before would not stamp its packet.
	if err := d.policies.grace.wait(); err != nil {
		return err
	}
	d.step("stamping")
	known, err := readMap[uint32, kernelRfEndpoint](d.maps.Endpoints)
	if err != nil {
		return fmt.Errorf("read endpoints: %w", err)
	}
	for _, f := range formers {
		if err := d.attachHook(f.place, known[f.index].Flags&endpointHost != 0); err != nil {
			return err
		}
		d.step("attached twice")
		if err := f.detach(f.place); err != nil {
			return err
		}
		d.step("handed over")
	}
	if err := d.policies.grace.wait(); err != nil {
		return err
	}
	atomic.StoreUint64(stamp, 0)
	return nil
}

// attachHook has the right program run at the hook, whatever runs there now.
func (d *Datapath) attachHook(p place, host bool) error {
	prog := d.program(p.hook, host)
	updated, err := d.attacher.update(p, prog)
	if err != nil || updated {
		return err
	}
	return d.attacher.attach(p, prog)
}

// Preceded counts the hooks of watched interfaces where a program of others
// runs before ringfence's, and may let packets past it.
func (d *Datapath) Preceded() (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0, errClosed
	}
	list, err := d.attacher.places()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, p := range list {
		first, err := d.attacher.first(p)
		if err != nil {
			return 0, err
		}
		if !first {
			n++
		}
	}
	return n, nil
}
