package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// tcx attaches by links, which are pinned in dir as INDEX-HOOK.
type tcx struct {
	dir   string
	netns netNS
}

func (t *tcx) pin(p place) string {
	return filepath.Join(t.dir, strconv.FormatUint(uint64(p.index), 10)+"-"+p.hook.name)
}

func (t *tcx) attach(p place, prog *ebpf.Program) error {
	return t.netns.do(func() error {
		l, err := link.AttachTCX(link.TCXOptions{
			Interface: int(p.index),
			Program:   prog,
			Attach:    p.hook.attach,
			// First, so that no other program can let a packet past this one.
			Anchor: link.Head(),
		})
		if err != nil {
			return fmt.Errorf("attach tcx to %s: %w", p, err)
		}
		defer func() { _ = l.Close() }()
		if err := l.Pin(t.pin(p)); err != nil {
			return fmt.Errorf("pin link at %s: %w", p, err)
		}
		return nil
	})
}

func (t *tcx) update(p place, prog *ebpf.Program) (bool, error) {
	return updatePinned(t.pin(p), prog, func(l link.Link) bool {
		_, index := linkAt(l)
		return index != 0
	})
}

// updatePinned puts prog into the link pinned at path, if there is one. A pin
// without a link, or whose interface is gone, is removed.
func updatePinned(path string, prog *ebpf.Program, attached func(link.Link) bool) (bool, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open pinned link %s: %w", path, err)
	}
	defer func() { _ = l.Close() }()
	if attached(l) {
		err = l.Update(prog)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, unix.ENOLINK) {
			return false, fmt.Errorf("update pinned link %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil {
		return false, fmt.Errorf("remove dead link: %w", err)
	}
	return false, nil
}

// linkAt returns the number of l and of the interface that it is attached to,
// which is 0 when that is gone.
func linkAt(l link.Link) (id link.ID, index uint32) {
	info, err := l.Info()
	if err != nil || info.TCX() == nil {
		return 0, 0
	}
	return info.ID, info.TCX().Ifindex
}

func (t *tcx) look(p place) (id link.ID, attached bool) {
	l, err := link.LoadPinnedLink(t.pin(p), nil)
	if err != nil {
		return 0, false
	}
	defer func() { _ = l.Close() }()
	id, index := linkAt(l)
	return id, index == p.index
}

func (t *tcx) attached(p place) bool {
	_, attached := t.look(p)
	return attached
}

func (t *tcx) detach(p place) error { return removeLink(t.pin(p)) }

// removeLink detaches and unpins. Unpinning alone would do, some time later:
// until then the hook refuses the same program.
func removeLink(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = l.Detach()
		_ = l.Close()
	}
	if err != nil && !errors.Is(err, unix.ENOLINK) {
		return errors.Join(fmt.Errorf("detach link %s: %w", path, err), os.Remove(path))
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("unpin link: %w", err)
	}
	return nil
}

// places removes pins that are no link of this node.
func (t *tcx) places() ([]place, error) {
	pins, err := os.ReadDir(t.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pinned links: %w", err)
	}
	var list []place
	for _, pin := range pins {
		p, ok := parsePin(pin.Name())
		if !ok {
			if err := os.Remove(filepath.Join(t.dir, pin.Name())); err != nil {
				return nil, fmt.Errorf("remove stray pin: %w", err)
			}
			continue
		}
		list = append(list, p)
	}
	return list, nil
}

func parsePin(name string) (place, bool) {
	number, side, _ := strings.Cut(name, "-")
	index, err := strconv.ParseUint(number, 10, 32)
	for _, h := range hooks {
		if err == nil && h.name == side {
			return place{uint32(index), h}, true
		}
	}
	return place{}, false
}

func (t *tcx) first(p place) (bool, error) {
	id, attached := t.look(p)
	if !attached {
		return true, nil
	}
	list, err := tcxPrograms(t.netns, p)
	if err != nil || len(list) == 0 {
		return true, err
	}
	first, ok := list[0].LinkID()
	return ok && first == id, nil
}

// tcxPrograms lists what is attached by TCX, first what runs first. A kernel
// without TCX has none.
func tcxPrograms(ns netNS, p place) ([]link.AttachedProgram, error) {
	var list []link.AttachedProgram
	err := ns.do(func() error {
		result, err := link.QueryPrograms(link.QueryOptions{Target: int(p.index), Attach: p.hook.attach})
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, os.ErrNotExist) {
			return nil // no interface, or no TCX
		}
		if err != nil {
			return fmt.Errorf("look at %s: %w", p, err)
		}
		list = result.Programs
		return nil
	})
	return list, err
}
