package bpf

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// clsact attaches by filters of a clsact qdisc. The filter's name says whose it
// is, by the pin directory: the kernel keeps it exactly as long as the filter, so
// no note beside it can go out of step, and an interface that got the index of
// another one has none.
type clsact struct {
	pinDir string
	netns  netNS
}

// What filters' names begin with: in a qdisc that was there, and in one made for
// them, which goes with the last of anybody's filters.
const (
	filterName    = "ringfence "
	filterMade    = "ringfence+clsact "
	maxFilterName = 255
)

// clsactPriority runs before all others; within it, the filter added last runs
// first.
const clsactPriority = 1

func device(index uint32) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: int(index)}}
}

// absent are the errors of an interface, a namespace or a filter that is gone.
func absent(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, os.ErrNotExist)
}

// filters lists a hook's, first what runs first. It must be called in the
// node's namespace.
func filters(p place) ([]netlink.Filter, error) {
	var list []netlink.Filter
	err := retryDump(func() (err error) { list, err = netlink.FilterList(device(p.index), p.hook.parent); return err })
	if err != nil && !absent(err) {
		return nil, fmt.Errorf("list filters at %s: %w", p, err)
	}
	return list, nil
}

func (c *clsact) ours(f netlink.Filter) (*netlink.BpfFilter, bool) {
	b, ok := f.(*netlink.BpfFilter)
	return b, ok && (b.Name == filterName+c.pinDir || b.Name == filterMade+c.pinDir)
}

// find returns the node's filter, nil if there is none.
func (c *clsact) find(p place) (*netlink.BpfFilter, error) {
	list, err := filters(p)
	for _, f := range list {
		if b, ok := c.ours(f); ok {
			return b, nil
		}
	}
	return nil, err
}

func (c *clsact) attach(p place, prog *ebpf.Program) error {
	err := c.netns.do(func() error {
		made, err := c.prepare(p)
		if err != nil {
			return err
		}
		f := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: int(p.index), Parent: p.hook.parent, Priority: clsactPriority, Protocol: unix.ETH_P_ALL,
			},
			Fd: prog.FD(), Name: filterName + c.pinDir, DirectAction: true,
		}
		if made {
			f.Name = filterMade + c.pinDir
		}
		if err := netlink.FilterAdd(f); err != nil {
			return errors.Join(err, blocked(p))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("attach clsact to %s: %w", p, err)
	}
	return nil
}

// prepare makes the interface's qdisc unless it is there, and reports whether it
// was made for this node.
func (c *clsact) prepare(p place) (made bool, err error) {
	q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: int(p.index), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	err = netlink.QdiscAdd(q)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EINVAL) {
		return false, fmt.Errorf("add qdisc: %w", err)
	}
	var list []netlink.Qdisc
	if dump := retryDump(func() (err error) { list, err = netlink.QdiscList(device(p.index)); return err }); dump != nil {
		return false, fmt.Errorf("list qdiscs: %w", dump)
	}
	if slices.ContainsFunc(list, func(q netlink.Qdisc) bool { return q.Type() == "ingress" }) {
		return false, errors.New("its ingress qdisc stands in the place of a clsact one, which can do the same: replace it")
	}
	if !slices.ContainsFunc(list, func(q netlink.Qdisc) bool { return q.Type() == "clsact" }) {
		return false, fmt.Errorf("add qdisc: %w", err)
	}
	for _, h := range hooks {
		f, err := c.find(place{p.index, h})
		if err != nil {
			return false, err
		}
		made = made || (f != nil && strings.HasPrefix(f.Name, filterMade))
	}
	return made, nil
}

// blocked names the filter that keeps others out of the first priority.
func blocked(p place) error {
	list, err := filters(p)
	for _, f := range list {
		if a := f.Attrs(); a.Priority == clsactPriority && (f.Type() != "bpf" || a.Protocol != unix.ETH_P_ALL) {
			return fmt.Errorf("a %s filter has priority %d and could let packets past: give it a higher number", f.Type(), clsactPriority)
		}
	}
	return err
}

// update replaces the filter by its handle, which the kernel does in one step.
func (c *clsact) update(p place, prog *ebpf.Program) (updated bool, err error) {
	err = c.netns.do(func() error {
		f, err := c.find(p)
		if err != nil || f == nil {
			return err
		}
		f.Fd, updated = prog.FD(), true
		return netlink.FilterReplace(f)
	})
	if absent(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("replace filter at %s: %w", p, err)
	}
	return updated, nil
}

func (c *clsact) attached(p place) (found bool) {
	_ = c.netns.do(func() error {
		f, err := c.find(p)
		found = f != nil
		return err
	})
	return found
}

func (c *clsact) detach(p place) error {
	err := c.netns.do(func() error {
		f, err := c.find(p)
		if err != nil || f == nil {
			return err
		}
		if err := netlink.FilterDel(f); err != nil || !strings.HasPrefix(f.Name, filterMade) {
			return err
		}
		for _, h := range hooks {
			if left, err := filters(place{p.index, h}); err != nil || len(left) > 0 {
				return err
			}
		}
		return netlink.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: int(p.index), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}})
	})
	if err != nil && !absent(err) {
		return fmt.Errorf("detach from clsact at %s: %w", p, err)
	}
	return nil
}

func (c *clsact) places() ([]place, error) {
	var list []place
	err := c.netns.do(func() error {
		var qdiscs []netlink.Qdisc
		err := retryDump(func() (err error) { qdiscs, err = netlink.QdiscList(nil); return err })
		if err != nil {
			return fmt.Errorf("list qdiscs: %w", err)
		}
		for _, q := range qdiscs {
			for _, h := range hooks {
				if q.Type() != "clsact" {
					continue
				}
				p := place{uint32(q.Attrs().LinkIndex), h} //nolint:gosec // the kernel's are positive
				f, err := c.find(p)
				if err != nil {
					return err
				}
				if f != nil {
					list = append(list, p)
				}
			}
		}
		return nil
	})
	if absent(err) {
		return nil, nil
	}
	return list, err
}

// first: programs of TCX run before all filters.
func (c *clsact) first(p place) (bool, error) {
	before, err := tcxPrograms(c.netns, p)
	if err != nil || len(before) > 0 {
		return false, err
	}
	first := true
	err = c.netns.do(func() error {
		list, err := filters(p)
		for _, f := range list {
			if _, ok := c.ours(f); ok {
				return nil
			}
			if chain := f.Attrs().Chain; chain == nil || *chain == 0 {
				first = false
				return nil
			}
		}
		return err
	})
	return first, err
}

// RemoveFilters detaches what a node with this pin directory attached by clsact.
// It is for when the pins are about to go, or are gone: links of TCX end with
// theirs, filters do not. netNS is as in Config.
func RemoveFilters(pinDir, netNamespace string) error {
	c := &clsact{pinDir: pinDir, netns: netNS(netNamespace)}
	list, err := c.places()
	errs := []error{err}
	for _, p := range list {
		errs = append(errs, c.detach(p))
	}
	return errors.Join(errs...)
}
