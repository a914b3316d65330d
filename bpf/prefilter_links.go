package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// PrefilterPort is an interface that the prefilter runs on.
type PrefilterPort struct {
	Interface string
	Index     int
	// Mode is native (in the driver) or generic (after it, on socket buffers).
	Mode string
}

func (p *Prefilter) linkPath(index uint32) string {
	return filepath.Join(p.linkDir(), strconv.FormatUint(uint64(index), 10))
}

// links lists the interfaces whose links are pinned.
func (p *Prefilter) links() ([]uint32, error) {
	pins, err := os.ReadDir(p.linkDir())
	if err != nil {
		return nil, fmt.Errorf("read prefilter's pinned links: %w", err)
	}
	var list []uint32
	for _, pin := range pins {
		index, err := strconv.ParseUint(pin.Name(), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("pinned link %s is not the prefilter's: remove it", filepath.Join(p.linkDir(), pin.Name()))
		}
		list = append(list, uint32(index))
	}
	return list, nil
}

// adoptProgram finds the program that the last process left running, for
// interfaces that come before the lists are loaded again.
func (p *Prefilter) adoptProgram() error {
	pins, err := p.links()
	if err != nil {
		return err
	}
	for _, index := range pins {
		l, err := link.LoadPinnedLink(p.linkPath(index), nil)
		if err != nil {
			return fmt.Errorf("open pinned link %s: %w", p.linkPath(index), err)
		}
		info, err := l.Info()
		_ = l.Close()
		if err != nil {
			return fmt.Errorf("read pinned link %s: %w", p.linkPath(index), err)
		}
		if p.program, err = ebpf.NewProgramFromID(info.Program); err == nil {
			return nil
		}
	}
	return nil
}

// swap makes program run on every interface instead of the former one, or on
// none.
func (p *Prefilter) swap(program *ebpf.Program) error {
	pins, err := p.links()
	if err != nil {
		return err
	}
	for i, index := range pins {
		_, err := p.update(index, program)
		if err == nil {
			continue
		}
		for _, done := range pins[:i] {
			if p.program == nil {
				break
			}
			if _, e := p.update(done, p.program); e != nil {
				err = errors.Join(err, e)
			}
		}
		return err
	}
	former := p.program
	p.program = program
	return former.Close()
}

// update puts program into the interface's pinned link, if there is one.
func (p *Prefilter) update(index uint32, program *ebpf.Program) (bool, error) {
	return updatePinned(p.linkPath(index), program, func(l link.Link) bool {
		info, err := l.Info()
		return err == nil && info.XDP() != nil && info.XDP().Ifindex == index
	})
}

// SetInterfaces makes the lists run on these interfaces and on no others. One
// that is missing, or has another's XDP program, does not keep the rest from
// it: the error names it beside the ports that run. SetLists comes first, now
// or in an earlier process.
func (p *Prefilter) SetInterfaces(names []string) ([]PrefilterPort, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errPrefilterClosed
	}
	if len(names) == 0 && p.settings.value == nil {
		return nil, nil
	}
	if len(names) > 0 && p.program == nil {
		return nil, errors.New("prefilter has no lists yet")
	}
	var ports []PrefilterPort
	err := p.netns.do(func() (err error) { ports, err = p.setInterfaces(names); return err })
	return ports, explain(err)
}

func (p *Prefilter) setInterfaces(names []string) ([]PrefilterPort, error) {
	var errs []error
	var ports []PrefilterPort
	var wanted []uint32
	for _, name := range names {
		l, err := netlink.LinkByName(name)
		var missing netlink.LinkNotFoundError
		switch {
		case errors.As(err, &missing):
			errs = append(errs, fmt.Errorf("interface %q: there is none: correct the inventory or create it", name))
			continue
		case err != nil:
			// Nothing is detached for want of an answer.
			return nil, fmt.Errorf("look up interface %s: %w", name, err)
		}
		wanted = append(wanted, uint32(l.Attrs().Index)) //nolint:gosec // the kernel's are positive
		port, err := p.attach(l)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ports = append(ports, port)
	}
	pins, err := p.links()
	errs = append(errs, err)
	for _, index := range pins {
		if !slices.Contains(wanted, index) {
			errs = append(errs, removeLink(p.linkPath(index)))
		}
	}
	return ports, errors.Join(errs...)
}

func (p *Prefilter) attach(l netlink.Link) (PrefilterPort, error) {
	name, index := l.Attrs().Name, l.Attrs().Index
	port := PrefilterPort{Interface: name, Index: index, Mode: xdpMode(l)}
	if kind := l.Attrs().EncapType; kind != "ether" {
		return port, fmt.Errorf("interface %q: has link type %s, only Ethernet can be filtered", name, kind)
	}
	running, err := p.update(uint32(index), p.program) //nolint:gosec // the kernel's are positive
	if err != nil || running {
		return port, err
	}
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		return port, fmt.Errorf("interface %q: XDP program %d of another is on it, and nothing was changed: take that off, or the deny lists off this interface", name, x.ProgId)
	}
	made, err := attachXDP(p.program, index)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return port, fmt.Errorf("interface %q: another's XDP program is on it, and nothing was changed: %w", name, err)
	}
	if err != nil {
		return port, fmt.Errorf("attach xdp to %s: %w", name, err)
	}
	defer func() { _ = made.Close() }()
	if err := made.Pin(p.linkPath(uint32(index))); err != nil { //nolint:gosec // the kernel's are positive
		return port, fmt.Errorf("pin xdp link of %s: %w", name, err)
	}
	if l, err = netlink.LinkByIndex(index); err != nil {
		return port, fmt.Errorf("look up interface %s: %w", name, err)
	}
	port.Mode = xdpMode(l)
	return port, nil
}

// attachXDP prefers the driver. One that cannot run the program as the
// interface is set up says so in many ways.
func attachXDP(program *ebpf.Program, index int) (link.Link, error) {
	l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: index, Flags: link.XDPDriverMode})
	if err == nil || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EPERM) {
		return l, err
	}
	generic, e := link.AttachXDP(link.XDPOptions{Program: program, Interface: index, Flags: link.XDPGenericMode})
	if e != nil {
		return nil, errors.Join(err, e)
	}
	return generic, nil
}

func xdpMode(l netlink.Link) string {
	x := l.Attrs().Xdp
	if x == nil {
		return ""
	}
	switch x.AttachMode {
	case nl.XDP_ATTACHED_DRV:
		return "native"
	case nl.XDP_ATTACHED_SKB:
		return "generic"
	}
	return ""
}
