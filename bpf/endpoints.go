package bpf

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// Flags of struct rf_endpoint.
const (
	endpointHost    = 1
	endpointTunnels = 1 // how far Tunnels are shifted
)

func endpointFlags(e Endpoint) uint32 {
	flags := uint32(e.Tunnels) << endpointTunnels
	if e.Host {
		flags |= endpointHost
	}
	return flags
}

var hooks = [...]hook{
	{"ingress", ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
	{"egress", ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
}

// program returns what runs at the hook: what an interface of the node receives
// goes to the host, what the node's side of a pod's veth receives comes from it.
func (d *Datapath) program(h hook, host bool) *ebpf.Program {
	if (h.attach == ebpf.AttachTCXIngress) == host {
		return d.programs.RfToEndpoint
	}
	return d.programs.RfFromEndpoint
}

// Attach watches an endpoint's interface. Called again for the same endpoint it
// updates what is known of it, without a gap; when the interface was made anew
// the old one is forgotten.
func (d *Datapath) Attach(e Endpoint) error {
	if e.ID == 0 {
		return fmt.Errorf("attach to %s: endpoint has no number", e.Interface)
	}
	if e.Tunnels&^allTunnels != 0 {
		return fmt.Errorf("attach to %s: tunnels %#x are unknown", e.Interface, uint32(e.Tunnels))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	return explain(d.netns.do(func() error { return d.attach(e) }))
}

func (d *Datapath) attach(e Endpoint) error {
	index, err := d.interfaceIndex(e.Interface)
	if err != nil {
		return err
	}
	known, err := readMap[uint32, kernelRfEndpoint](d.maps.Endpoints)
	if err != nil {
		return fmt.Errorf("read endpoints: %w", err)
	}
	for old, ep := range known {
		if ep.Id == e.ID && old != index {
			if err := d.detach(old); err != nil {
				return err
			}
		}
	}
	now, err := monotonic()
	if err != nil {
		return err
	}
	workload, err := d.policies.workload(e.Identity)
	if err != nil {
		return fmt.Errorf("attach to %s: %w", e.Interface, err)
	}
	// Before a packet can come that the programs take for this endpoint's.
	since, err := coarse()
	if err != nil {
		return err
	}
	value := kernelRfEndpoint{
		Id: e.ID, Identity: uint32(e.Identity), Workload: workload, Flags: endpointFlags(e), ObservedSince: now,
	}
	before, was := known[index]
	same := was && before.Id == e.ID && d.alive(index)
	if same {
		value.ObservedSince = before.ObservedSince
	}
	if !was || before != value {
		forgetInterface(d.settings.value, index)
		if err := d.maps.Endpoints.Put(index, value); err != nil {
			if errors.Is(err, unix.E2BIG) {
				return fmt.Errorf("attach to %s: all %d endpoints of the node are taken", e.Interface, d.limits.Endpoints)
			}
			return fmt.Errorf("note endpoint of %s: %w", e.Interface, err)
		}
	}
	noteInterface(d.settings.value, index, e.ID)
	if err := d.openQuota(e.ID, since, same); err != nil {
		return fmt.Errorf("note flows of endpoint %d: %w", e.ID, err)
	}
	if was && before.Id != e.ID {
		if err := d.endFlows(before.Id); err != nil {
			return err
		}
	}
	for _, h := range hooks {
		if err := d.attachHook(place{index, h}, e.Host); err != nil {
			err = fmt.Errorf("watch interface %s: %w", e.Interface, err)
			if !was {
				return errors.Join(err, d.detach(index))
			}
			return err
		}
	}
	if was && before != value {
		bumpEpoch(d.settings.value)
	}
	d.levels.Endpoints, err = countKeys[uint32, kernelRfEndpoint](d.maps.Endpoints)
	return err
}

// openQuota lets an endpoint hold flows. One that goes on as it was is left
// alone: the programs count in it meanwhile.
func (d *Datapath) openQuota(id uint32, since uint64, same bool) error {
	var q kernelRfQuota
	err := d.maps.Quotas.Lookup(id, &q)
	if err == nil && same && q.Gone == 0 {
		return nil
	}
	q.Gone = 0
	if !same {
		q.Since = since
	}
	return d.maps.Quotas.Put(id, q)
}

// quotaOf keeps the count of an endpoint that was here before.
func (d *Datapath) quotaOf(id uint32) kernelRfQuota {
	var q kernelRfQuota
	_ = d.maps.Quotas.Lookup(id, &q)
	return q
}

func (d *Datapath) interfaceIndex(name string) (uint32, error) {
	where := "on this node"
	if d.netns != "" {
		where = "in network namespace " + string(d.netns)
	}
	l, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return 0, fmt.Errorf("interface %q: there is none %s: correct the inventory or create it", name, where)
	}
	if err != nil {
		return 0, fmt.Errorf("look up interface %s: %w", name, err)
	}
	if kind := l.Attrs().EncapType; kind != "ether" {
		return 0, fmt.Errorf("interface %q: has link type %s, only Ethernet can be watched", name, kind)
	}
	return uint32(l.Attrs().Index), nil //nolint:gosec // the kernel's are positive
}

// Detach stops watching the interface with this index; the flows of its
// endpoint end with the next sweep.
func (d *Datapath) Detach(index int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	return d.detach(uint32(index)) //nolint:gosec // as the kernel gave it
}

func (d *Datapath) detach(index uint32) error {
	forgetInterface(d.settings.value, index)
	var errs []error
	for _, h := range hooks {
		for _, a := range d.attachers() {
			errs = append(errs, a.detach(place{index, h}))
		}
	}
	var ep kernelRfEndpoint
	err := d.maps.Endpoints.Lookup(index, &ep)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return errors.Join(errs...)
	}
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("look up endpoint of interface %d: %w", index, err))...)
	}
	if err := d.maps.Endpoints.Delete(index); err != nil {
		errs = append(errs, fmt.Errorf("forget endpoint of interface %d: %w", index, err))
	}
	errs = append(errs, d.endFlows(ep.Id))
	d.levels.Endpoints, err = countKeys[uint32, kernelRfEndpoint](d.maps.Endpoints)
	return errors.Join(append(errs, err)...)
}

// endFlows has the sweep end the flows of an endpoint that is no longer watched.
func (d *Datapath) endFlows(id uint32) error {
	quota := d.quotaOf(id)
	quota.Gone = 1
	if err := d.maps.Quotas.Put(id, quota); err != nil {
		return fmt.Errorf("forget flows of endpoint %d: %w", id, err)
	}
	return nil
}

// Attached lists the endpoints whose interfaces are watched, by index. One
// whose interface is gone is not among them.
func (d *Datapath) Attached() ([]Attached, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed
	}
	known, err := readMap[uint32, kernelRfEndpoint](d.maps.Endpoints)
	if err != nil {
		return nil, fmt.Errorf("read endpoints: %w", err)
	}
	names, err := d.interfaceNames()
	if err != nil {
		return nil, err
	}
	clock, err := newClock()
	if err != nil {
		return nil, err
	}
	var list []Attached
	for index, ep := range known {
		if !d.alive(index) {
			continue
		}
		list = append(list, Attached{
			Endpoint: Endpoint{
				Interface: names[index],
				ID:        ep.Id,
				Identity:  flow.Identity(ep.Identity),
				Host:      ep.Flags&endpointHost != 0,
				Tunnels:   Tunnels(ep.Flags>>endpointTunnels) & allTunnels,
			},
			Index:         int(index),
			ObservedSince: clock.wall(ep.ObservedSince),
		})
	}
	slices.SortFunc(list, func(a, b Attached) int { return a.Index - b.Index })
	return list, nil
}

func (d *Datapath) interfaceNames() (map[uint32]string, error) {
	names := make(map[uint32]string)
	err := d.netns.do(func() error {
		var links []netlink.Link
		err := retryDump(func() (err error) { links, err = netlink.LinkList(); return err })
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, l := range links {
			names[uint32(l.Attrs().Index)] = l.Attrs().Name //nolint:gosec // the kernel's are positive
		}
		return nil
	})
	return names, err
}

// retryDump repeats a netlink dump that a change interrupted.
func retryDump(dump func() error) error {
	var err error
	for range 5 {
		if err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return err
}

// Prune forgets endpoints whose interface is gone; their flows end with the next
// sweep.
func (d *Datapath) Prune() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	known, err := readMap[uint32, kernelRfEndpoint](d.maps.Endpoints)
	if err != nil {
		return fmt.Errorf("read endpoints: %w", err)
	}
	return d.prune(known)
}

func (d *Datapath) prune(known map[uint32]kernelRfEndpoint) error {
	for index := range known {
		if d.alive(index) {
			continue
		}
		if err := d.detach(index); err != nil {
			return err
		}
	}
	return nil
}
