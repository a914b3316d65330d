package enforcer

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// prefixes gives every prefix that a policy on this node mentions its identity.
//
// The kernel finds the longest prefix of an address and nothing else, so an
// identity stands for a prefix without the longer ones in it. A CIDR peer
// admits the identities of all regions that it covers; the prefixes carved out
// of it are regions too, which it leaves out.
type prefixes map[netip.Prefix]flow.Identity

// v4 separates IPv4 from IPv6 prefixes so short that they would cover the
// mapped addresses by which the kernel looks IPv4 up.
var (
	v4       = netip.MustParsePrefix("0.0.0.0/0")
	v4Mapped = netip.MustParsePrefix("::ffff:0:0/96")
)

// mention adds the prefixes of one policy.
func mention(set map[netip.Prefix]bool, in scope, p *policy.Policy) {
	for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
		if !p.Isolates(d) {
			continue
		}
		for _, r := range p.Rules(d) {
			mentionPeers(set, r.Peers)
			in.mention(set, d, &r)
		}
	}
}

func mentionPeers(set map[netip.Prefix]bool, peers []policy.Peer) {
	for _, peer := range peers {
		if peer.CIDR == nil {
			continue
		}
		for _, c := range append([]netip.Prefix{peer.CIDR.Prefix}, peer.CIDR.Except...) {
			set[c] = true
			if within(v4Mapped, c) {
				set[v4] = true
			}
		}
	}
}

// allocate gives every one of want a number, from first on. Known ones keep
// theirs, so that tables compiled earlier stay right; new ones get the lowest that
// is free.
func allocate[K comparable, V any](want map[K]V, known map[K]flow.Identity, first flow.Identity, compare func(a, b K) int) map[K]flow.Identity {
	out := map[K]flow.Identity{}
	used := map[flow.Identity]bool{}
	for k, id := range known {
		used[id] = true
		if _, ok := want[k]; ok {
			out[k] = id
		}
	}
	next := first
	for _, k := range slices.SortedFunc(maps.Keys(want), compare) {
		if _, ok := out[k]; ok {
			continue
		}
		for used[next] {
			next++
		}
		out[k], used[next] = next, true
	}
	return out
}

func union[M ~map[K]V, K comparable, V any](a, b M) M {
	out := make(M, max(len(a), len(b)))
	maps.Copy(out, a)
	maps.Copy(out, b)
	return out
}

// kernel returns the kernel's table of prefixes.
func (p prefixes) kernel() []bpf.CIDRIdentity {
	out := make([]bpf.CIDRIdentity, 0, len(p))
	for _, prefix := range slices.SortedFunc(maps.Keys(p), comparePrefixes) {
		out = append(out, bpf.CIDRIdentity{Prefix: prefix, Identity: p[prefix]})
	}
	return out
}

// regions are prefixes in order of address, so that those inside of another one
// stand together behind it.
type regions struct {
	sorted     []netip.Prefix
	identities prefixes
}

func newRegions(p prefixes) regions {
	return regions{sorted: slices.SortedFunc(maps.Keys(p), comparePrefixes), identities: p}
}

// admitted returns the identities of the regions that c covers.
func (r regions) admitted(c *policy.CIDR) []flow.Identity {
	var out []flow.Identity
	from, _ := slices.BinarySearchFunc(r.sorted, c.Prefix, comparePrefixes)
	for _, region := range r.sorted[from:] {
		if !within(region, c.Prefix) {
			break
		}
		if !slices.ContainsFunc(c.Except, func(e netip.Prefix) bool { return within(region, e) }) {
			out = append(out, r.identities[region])
		}
	}
	return out
}

// within reports whether outer holds all of inner. Prefixes of the two address
// families never hold each other.
func within(inner, outer netip.Prefix) bool {
	return inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
