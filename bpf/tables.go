package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// SetAddresses makes owners the whole address table. Additions come before
// deletions, and every flow is judged again if anything changed.
func (d *Datapath) SetAddresses(owners []AddressOwner) (Changes, error) {
	want := make(map[kernelRfAddress]kernelRfOwner, len(owners))
	for _, o := range owners {
		if !o.Addr.IsValid() || o.Addr.Zone() != "" {
			return Changes{}, fmt.Errorf("address %q of endpoint %d: not a plain address", o.Addr, o.Endpoint)
		}
		key := kernelRfAddress{Addr: o.Addr.As16()}
		value := kernelRfOwner{Identity: uint32(o.Identity), Endpoint: o.Endpoint}
		if other, twice := want[key]; twice && other != value {
			return Changes{}, fmt.Errorf("address %s: given to endpoint %d and to endpoint %d", o.Addr, other.Endpoint, o.Endpoint)
		}
		want[key] = value
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return Changes{}, errClosed
	}
	changes, err := replaceMap(d.maps.Addresses, "addresses", want)
	return changes, d.replaced(changes, err, &d.levels.Addresses, len(want))
}

// SetCIDRs makes cidrs the whole prefix table, likewise.
func (d *Datapath) SetCIDRs(cidrs []CIDRIdentity) (Changes, error) {
	want := make(map[kernelRfCidr]uint32, len(cidrs))
	for _, c := range cidrs {
		if !c.Prefix.IsValid() || c.Prefix.Addr().Is4In6() {
			return Changes{}, fmt.Errorf("prefix %q: not a valid one", c.Prefix)
		}
		if c.Identity == 0 {
			return Changes{}, fmt.Errorf("prefix %s: has no identity", c.Prefix)
		}
		key := cidrKey(c.Prefix)
		if other, twice := want[key]; twice && other != uint32(c.Identity) {
			return Changes{}, fmt.Errorf("prefix %s: given identities %d and %d", c.Prefix, other, c.Identity)
		}
		want[key] = uint32(c.Identity)
	}
	keepFamiliesApart(want)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return Changes{}, errClosed
	}
	changes, err := replaceMap(d.maps.Cidrs, "prefixes", want)
	return changes, d.replaced(changes, err, &d.levels.CIDRs, len(want))
}

// keepFamiliesApart has IPv4 addresses, which lie inside IPv6's in the kernel's
// tables, fall under no IPv6 prefix: ::/0 is not everything.
func keepFamiliesApart(want map[kernelRfCidr]uint32) {
	allIPv4 := cidrKey(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	if _, given := want[allIPv4]; given {
		return
	}
	for k := range want {
		p := netip.PrefixFrom(netip.AddrFrom16(k.Addr), int(k.Bits))
		if k.Bits < allIPv4.Bits && p.Contains(netip.AddrFrom16(allIPv4.Addr)) {
			want[allIPv4] = 0 // no identity
			return
		}
	}
}

func cidrKey(p netip.Prefix) kernelRfCidr {
	p = p.Masked()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return kernelRfCidr{Bits: uint32(bits), Addr: p.Addr().As16()} //nolint:gosec // at most 128
}

// SetFailsafe makes list the whole table of destinations that endpoints may
// always open connections to, likewise.
func (d *Datapath) SetFailsafe(list []Failsafe) (Changes, error) {
	want := make(map[kernelRfDestination]uint32, len(list))
	for _, f := range list {
		if !f.Addr.IsValid() || f.Protocol == 0 {
			return Changes{}, fmt.Errorf("failsafe destination %s %s: not a valid one", f.Protocol, f.Addr)
		}
		want[destination(f.Protocol, f.Addr)] = 1
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return Changes{}, errClosed
	}
	changes, err := replaceMap(d.maps.Failsafe, "failsafe destinations", want)
	return changes, d.replaced(changes, err, &d.levels.Failsafe, len(want))
}

func destination(protocol flow.Protocol, a netip.AddrPort) kernelRfDestination {
	return kernelRfDestination{Addr: a.Addr().As16(), Port: networkOrder(a.Port()), Protocol: uint8(protocol)}
}

// SetServices makes list the whole table of services' ports, likewise.
func (d *Datapath) SetServices(list []ServiceIdentity) (Changes, error) {
	want := make(map[kernelRfDestination]uint32, len(list))
	for _, s := range list {
		if !s.Addr.IsValid() || s.Addr.Addr().Zone() != "" || !s.Protocol.HasPorts() || s.Addr.Port() == 0 || s.Identity == 0 {
			return Changes{}, fmt.Errorf("service port %s %s of identity %d: not a valid one", s.Protocol, s.Addr, s.Identity)
		}
		key := destination(s.Protocol, s.Addr)
		if other, twice := want[key]; twice && other != uint32(s.Identity) {
			return Changes{}, fmt.Errorf("service port %s %s: given identities %d and %d", s.Protocol, s.Addr, other, s.Identity)
		}
		want[key] = uint32(s.Identity)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return Changes{}, errClosed
	}
	changes, err := replaceMap(d.maps.Services, "services' ports", want)
	return changes, d.replaced(changes, err, &d.levels.Services, len(want))
}

// replaced notes what an update did, whether or not it came to its end.
func (d *Datapath) replaced(changes Changes, err error, level *int, n int) error {
	if changes.Any() {
		bumpEpoch(d.settings.value)
	}
	if err == nil {
		*level = n
	}
	return err
}

// batchSize is how many entries one system call moves.
const batchSize = 8192

// replaceMap makes want the content of m.
func replaceMap[K, V comparable](m *ebpf.Map, what string, want map[K]V) (Changes, error) {
	limit := int(m.MaxEntries())
	if len(want) > limit {
		return Changes{}, fmt.Errorf("%d %s: the kernel's table holds %d", len(want), what, limit)
	}
	have, err := readMap[K, V](m)
	if err != nil {
		return Changes{}, fmt.Errorf("read %s: %w", what, err)
	}
	var set, gone []K
	var changes Changes
	for k, v := range want {
		old, exists := have[k]
		switch {
		case !exists:
			changes.Added++
		case old != v:
			changes.Changed++
		default:
			continue
		}
		set = append(set, k)
	}
	for k := range have {
		if _, keep := want[k]; !keep {
			gone = append(gone, k)
		}
	}
	remove := func() error {
		n, err := deleteKeys(m, gone)
		changes.Deleted = n
		if err != nil {
			return fmt.Errorf("delete %s: %w", what, err)
		}
		return nil
	}
	write := func() error {
		if err := writeKeys(m, set, want); err != nil {
			return fmt.Errorf("write %s: %w", what, err)
		}
		return nil
	}
	steps := []func() error{write, remove}
	if len(have)+changes.Added > limit {
		slices.Reverse(steps) // no room for both at once
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return changes, err
		}
	}
	return changes, nil
}

func writeKeys[K comparable, V any](m *ebpf.Map, keys []K, values map[K]V) error {
	for chunk := range slices.Chunk(keys, batchSize) {
		list := make([]V, len(chunk))
		for i, k := range chunk {
			list[i] = values[k]
		}
		if _, err := m.BatchUpdate(chunk, list, nil); err != nil {
			return err
		}
	}
	return nil
}

func deleteKeys[K any](m *ebpf.Map, keys []K) (int, error) {
	n := 0
	for chunk := range slices.Chunk(keys, batchSize) {
		done, err := m.BatchDelete(chunk, nil)
		n += done
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readMap returns the whole content of m.
func readMap[K comparable, V any](m *ebpf.Map) (map[K]V, error) {
	content := make(map[K]V)
	size := batchSize
	for {
		err := readBatches(m, size, content)
		if !errors.Is(err, unix.ENOSPC) {
			return content, err
		}
		size *= 2 // a bucket of the hash holds more than that
		clear(content)
	}
}

func readBatches[K comparable, V any](m *ebpf.Map, size int, content map[K]V) error {
	var cursor ebpf.MapBatchCursor
	size = min(size, int(m.MaxEntries())+1)
	keys, values := make([]K, size), make([]V, size)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		for i := range n {
			content[keys[i]] = values[i]
		}
		if err != nil {
			return nil //nolint:nilerr // the last batch ends with ErrKeyNotExist
		}
	}
}

func countKeys[K comparable, V any](m *ebpf.Map) (int, error) {
	content, err := readMap[K, V](m)
	return len(content), err
}
