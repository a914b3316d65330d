package store

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
)

// facetValue is what a record has in a field, as a filter spells it.
func facetValue(field string, r *flow.Labelled) string {
	name := func(w flow.Workload) string { return w.String() }
	switch field {
	case "from.namespace":
		return r.Source.Workload.Namespace
	case "to.namespace":
		return r.Dest.Workload.Namespace
	case "from.workload":
		return name(r.Source.Workload)
	case "to.workload":
		return name(r.Dest.Workload)
	case "from.reserved":
		return r.Source.Reserved
	case "to.reserved":
		return r.Dest.Reserved
	case "from.address":
		return nearOf(r.Source, r.Key.Source)
	case "to.address":
		return nearOf(r.Dest, r.Destination)
	case "to.port":
		return query.Range{Low: uint32(r.DestinationPort), High: uint32(r.DestinationPort)}.String()
	case "protocol":
		return r.Protocol.String()
	case "verdict":
		return r.Outcome.String()
	case "direction":
		return r.Direction.String()
	case "live.reason":
		if r.Live.Verdict == flow.VerdictUnknown {
			return ""
		}
		return r.Live.Reason.String()
	case "staged.reason":
		if r.Staged.Verdict == flow.VerdictUnknown {
			return ""
		}
		return r.Staged.Reason.String()
	case "event":
		return r.Event.String()
	case "node":
		return r.Node
	}
	panic(field)
}

// nearOf is the /24 or /48 of an address that is no workload's.
func nearOf(p *flow.Party, a netip.Addr) string {
	if p.IsWorkload() || !a.IsValid() {
		return ""
	}
	bits := 48
	if a.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(a, bits).Masked().String()
}

func TestFacetsCountRecords(t *testing.T) {
	s := migrated(t)
	w := world{rand.New(rand.NewPCG(7, 8))}
	var all []flow.Labelled
	for i := range 300 {
		r := w.row()
		r.Connections = uint32(i % 2)
		all = append(all, r)
	}
	mustInsert(t, s, "a", all...)
	for _, text := range []string{"", "from.namespace=shop -protocol=udp", "to.port=443 verdict=dropped,audited", "node=none"} {
		for _, top := range []int{0, 1, 3} {
			f := parse(t, text)
			got, err := s.Facets(t.Context(), f, top)
			if err != nil {
				t.Fatal(err)
			}
			type counted struct {
				Term                 string
				Records, Connections uint64
			}
			var have, want [][]counted
			for _, facet := range got {
				var list []counted
				for _, v := range facet.Values {
					list = append(list, counted{v.Term.String(), v.Records, v.Connections})
				}
				have = append(have, list)
			}
			for _, facet := range facets {
				counts := map[string]counted{}
				for i := range all {
					if v := facetValue(facet.field, &all[i]); v != "" && matches(f, &all[i]) {
						c := counts[v]
						counts[v] = counted{facet.field + "=" + v, c.Records + 1, c.Connections + uint64(all[i].Connections)}
					}
				}
				var list []counted
				for _, c := range counts {
					list = append(list, c)
				}
				slices.SortFunc(list, func(a, b counted) int {
					return cmp.Or(cmp.Compare(b.Records, a.Records), cmp.Compare(sortText(a.Term), sortText(b.Term)))
				})
				if list = list[:min(len(list), int(limitOr(top, defaultFacetValues)))]; len(list) > 0 {
					want = append(want, list)
				}
			}
			if diff := gocmp.Diff(want, have); diff != "" {
				t.Errorf("%q, top %d (-want +got):\n%s", text, top, diff)
			}
		}
	}
	for _, top := range []int{-1, maxFacetValues + 1} {
		_, err := s.Facets(t.Context(), query.Filter{}, top)
		wantError(t, err, "want 1 to 100")
	}
}

// sortText is what the store orders equal counts by: protocols by number, and
// prefixes as those of IPv6.
func sortText(term string) string {
	if _, text, ok := strings.Cut(term, ".address="); ok {
		p := netip.MustParsePrefix(text)
		return netip.AddrFrom16(p.Addr().As16()).String()
	}
	for _, p := range []flow.Protocol{flow.TCP, flow.UDP, flow.ICMP} {
		if term == "protocol="+p.String() {
			return strconv.Itoa(int(p))
		}
	}
	return term
}
