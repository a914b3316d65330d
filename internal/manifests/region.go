package manifests

import (
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/netpol"
)

// workload is an inventory's.
type workload = inventory.Workload

// noAddress stands for the addresses of an endpoint that is only a template.
var noAddress = []netip.Addr{{}}

// everywhere are the blocks that hold all others, one a family.
var everywhere = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// region is a block without the longer blocks that policies name in it: no policy
// tells its addresses apart.
type region struct {
	prefix netip.Prefix
	except []netip.Prefix
	sample netip.Addr
}

// holds reports whether a is in r.
func (r region) holds(a netip.Addr) bool {
	return r.prefix.Contains(a.Unmap()) && !slices.ContainsFunc(r.except, func(e netip.Prefix) bool { return e.Contains(a.Unmap()) })
}

func (r region) String() string {
	if len(r.except) == 0 {
		return r.prefix.String()
	}
	texts := make([]string, len(r.except))
	for i, e := range r.except {
		texts[i] = e.String()
	}
	return r.prefix.String() + " except " + strings.Join(texts, ", ")
}

// regions returns those of all blocks that policies name, in order of address.
func regions(list []netpol.Policy) (out []region) {
	blocks := slices.Clone(everywhere)
	for i := range list {
		for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
			for _, r := range list[i].Rules.Rules(d) {
				for _, p := range r.Peers {
					if p.CIDR != nil {
						blocks = append(append(blocks, p.CIDR.Prefix), p.CIDR.Except...)
					}
				}
			}
		}
	}
	slices.SortFunc(blocks, netip.Prefix.Compare)
	blocks = slices.Compact(blocks)
	for i, b := range blocks {
		r := region{prefix: b}
		var set netipx.IPSetBuilder
		set.AddPrefix(b)
		for _, inner := range blocks[i+1:] {
			if !b.Overlaps(inner) {
				continue
			}
			set.RemovePrefix(inner)
			if !slices.ContainsFunc(r.except, func(outer netip.Prefix) bool { return outer.Overlaps(inner) }) {
				r.except = append(r.except, inner)
			}
		}
		left, err := set.IPSet()
		if err != nil || len(left.Ranges()) == 0 {
			continue // its parts are all of it
		}
		r.sample = left.Ranges()[0].From()
		out = append(out, r)
	}
	return out
}

// names says which addresses regions are, of all that there are: world, a whole
// family, or one by one.
func names(list, all []region) (out []string) {
	if len(list) == len(all) {
		return []string{"world"}
	}
	for _, family := range everywhere {
		of := func(list []region) []region {
			return slices.DeleteFunc(slices.Clone(list), func(r region) bool { return r.prefix.Addr().Is4() != family.Addr().Is4() })
		}
		found := of(list)
		if len(found) == len(of(all)) {
			out = append(out, family.String())
			continue
		}
		for _, r := range found {
			out = append(out, r.String())
		}
	}
	return out
}
