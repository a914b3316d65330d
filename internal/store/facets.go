package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/ringfence/ringfence/internal/query"
)

// facets are the fields that are counted: each one's value as a filter spells
// it, and which rows have one. Of addresses that are no workload's, prefixes are.
var facets = []struct{ field, value, has string }{
	{"from.namespace", "source_namespace", "source_namespace != ''"},
	{"to.namespace", "destination_namespace", "destination_namespace != ''"},
	{"from.workload", "concat(source_namespace, '/', source_kind, '/', source_name)", "source_name != ''"},
	{"to.workload", "concat(destination_namespace, '/', destination_kind, '/', destination_name)", "destination_name != ''"},
	{"from.reserved", "source_reserved", "source_reserved != ''"},
	{"to.reserved", "destination_reserved", "destination_reserved != ''"},
	{"from.address", nearPrefix("source"), "source_name = '' AND source_address != toIPv6('::')"},
	{"to.address", nearPrefix("destination"), "destination_name = '' AND destination_address != toIPv6('::')"},
	{"to.port", "destination_port", "1"},
	{"protocol", "protocol", "1"},
	{"verdict", "outcome", "1"},
	{"direction", "direction", "1"},
	{"live.reason", "live_reason", "live_verdict != 'unknown'"},
	{"staged.reason", "staged_reason", "staged_verdict != 'unknown'"},
	{"event", "event", "1"},
	{"node", "node", "1"},
}

// nearPrefix is the longest prefix that an end's address is folded to.
func nearPrefix(end string) string {
	bits := levelBits(end, "1")
	return "concat(toString(" + foldedPrefix(end, bits) + "), '/', toString(128 - " + bits + "))"
}

const (
	defaultFacetValues = 10
	maxFacetValues     = 100
)

// Facets returns the most frequent values of the fields that can be counted, of
// the records that f wants: at most top of each, or a default number when top
// is 0. A field without a value is left out.
func (s *Store) Facets(ctx context.Context, f query.Filter, top int) ([]query.Facet, error) {
	if top < 0 || top > maxFacetValues {
		return nil, fmt.Errorf("facets: %d values of each: want 1 to %d", top, maxFacetValues)
	}
	c, err := where(f)
	if err != nil {
		return nil, err
	}
	parts := make([]string, len(facets))
	for i, facet := range facets {
		parts[i] = fmt.Sprintf(`
SELECT %d AS field, toString(%s) AS value, count() AS records, sum(toUInt64(connections)) AS began
FROM flows
WHERE %s AND %s
GROUP BY value
ORDER BY records DESC, value
LIMIT {top:UInt64}`, i, facet.value, c.text.String(), facet.has)
	}
	text := "SELECT toUInt32(field), value, records, began FROM (" + strings.Join(parts, "\nUNION ALL") +
		")\nORDER BY field, records DESC, value"
	c.args = append(c.args, clickhouse.Named("top", limitOr(top, defaultFacetValues)))
	var out []query.Facet
	err = s.each(ctx, "facets", text, c.args, func(rows driver.Rows) error {
		var field uint32
		var value string
		var v query.FacetValue
		if err := rows.Scan(&field, &value, &v.Records, &v.Connections); err != nil {
			return err
		}
		name := facets[field].field
		var err error
		if v.Term, err = query.NewTerm(name, value); err != nil {
			return nil //nolint:nilerr // a newer ringfence wrote what no filter of this one can ask for
		}
		if len(out) == 0 || out[len(out)-1].Field != name {
			out = append(out, query.Facet{Field: name})
		}
		last := &out[len(out)-1]
		last.Values = append(last.Values, v)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
