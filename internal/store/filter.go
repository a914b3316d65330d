package store

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
)

// condition is the text of a condition on flows and the parameters it names.
// The text is made of this file's own words only, whatever the filter says: its
// values are parameters.
type condition struct {
	text strings.Builder
	args []any
}

// where renders a filter. It is an error when a term is none that package query
// makes.
func where(f query.Filter) (*condition, error) {
	c := &condition{args: windowArgs(f.Since, f.Until)}
	c.text.WriteString(`time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND time < fromUnixTimestamp64Micro({until:Int64}, 'UTC')`)
	var labels []query.Term
	for _, t := range f.Terms {
		if t.Field == "label" && !t.Not {
			labels = append(labels, t)
			continue
		}
		text, err := c.term(t, fieldColumns[t.Field])
		if err != nil {
			return nil, err
		}
		c.text.WriteString("\n  AND " + text)
	}
	if len(labels) == 0 {
		return c, nil
	}
	text, err := c.atOneEnd(labels)
	c.text.WriteString("\n  AND " + text)
	return c, err
}

// atOneEnd is that one and the same end holds all conditions, as who names a
// workload by several labels means it.
func (c *condition) atOneEnd(terms []query.Term) (string, error) {
	var ends []string
	for _, column := range fieldColumns[terms[0].Field] {
		var all []string
		for _, t := range terms {
			text, err := c.term(t, []string{column})
			if err != nil {
				return "", err
			}
			all = append(all, text)
		}
		ends = append(ends, "("+strings.Join(all, " AND ")+")")
	}
	return "(" + strings.Join(ends, " OR ") + ")", nil
}

// bind adds a parameter and writes its place.
func (c *condition) bind(typ string, value any) string {
	name := fmt.Sprintf("p%d", len(c.args))
	c.args = append(c.args, clickhouse.Named(name, value))
	return "{" + name + ":" + typ + "}"
}

// term is that one of the columns has one of the values.
func (c *condition) term(t query.Term, columns []string) (string, error) {
	if len(columns) == 0 || len(t.Values) == 0 {
		return "", fmt.Errorf("the store has no field %q with %d values", t.Field, len(t.Values))
	}
	var either []string
	for _, v := range t.Values {
		for _, column := range columns {
			text, err := c.is(column, v)
			if err != nil {
				return "", fmt.Errorf("field %s: %w", t.Field, err)
			}
			either = append(either, text)
		}
	}
	text := "(" + strings.Join(either, " OR ") + ")"
	if t.Not {
		text = "NOT " + text
	}
	return text, nil
}

// fieldColumns are the columns, or for workloads their prefixes, of which one
// must have the value.
var fieldColumns = map[string][]string{
	"namespace":      {"source_namespace", "destination_namespace"},
	"from.namespace": {"source_namespace"},
	"to.namespace":   {"destination_namespace"},
	"workload":       {"source", "destination"},
	"from.workload":  {"source"},
	"to.workload":    {"destination"},
	"observer":       {"observer"},
	"endpoint":       {"source_endpoint", "destination_endpoint"},
	"from.endpoint":  {"source_endpoint"},
	"to.endpoint":    {"destination_endpoint"},
	"reserved":       {"source_reserved", "destination_reserved"},
	"from.reserved":  {"source_reserved"},
	"to.reserved":    {"destination_reserved"},
	"label":          {"source_labels", "destination_labels"},
	"from.label":     {"source_labels"},
	"to.label":       {"destination_labels"},
	"address":        {"source_address", "destination_address"},
	"from.address":   {"source_address"},
	"to.address":     {"destination_address"},
	"port":           {"destination_port"},
	"from.port":      {"source_port"},
	"to.port":        {"destination_port"},
	"protocol":       {"protocol"},
	"verdict":        {"outcome"},
	"live.verdict":   {"live_verdict"},
	"staged.verdict": {"staged_verdict"},
	"reason":         {"live_reason", "staged_reason"},
	"live.reason":    {"live_reason"},
	"staged.reason":  {"staged_reason"},
	"revision":       {"live_revision", "staged_revision"},
	"live.revision":  {"live_revision"},
	"staged.revision": {
		"staged_revision"},
	"direction": {"direction"},
	"event":     {"event"},
	"node":      {"node"},
}

func (c *condition) is(column string, v query.Value) (string, error) {
	switch v := v.(type) {
	case query.Name:
		return column + " = " + c.bind("String", string(v)), nil
	case query.Workload:
		text := column + "_namespace = " + c.bind("String", v.Namespace) + " AND " + column + "_name = " + c.bind("String", v.Name)
		if v.Kind != "" {
			text += " AND " + column + "_kind = " + c.bind("String", v.Kind)
		}
		return "(" + text + ")", nil
	case query.Label:
		return c.label(column, v), nil
	case query.Prefix:
		return c.within(column, netip.Prefix(v)), nil
	case query.Range:
		if v.Low == v.High {
			return column + " = " + c.bind("UInt32", v.Low), nil
		}
		return column + " BETWEEN " + c.bind("UInt32", v.Low) + " AND " + c.bind("UInt32", v.High), nil
	case flow.Protocol:
		return column + " = " + c.bind("UInt8", uint8(v)), nil
	case flow.Outcome, flow.Verdict, flow.Reason, flow.Direction, flow.Event:
		return column + " = " + c.bind("String", v.String()), nil
	}
	return "", fmt.Errorf("no condition for a %T", v)
}

// Labels are one string, key=value in the order of keys, joined by commas.
// These functions of one column run once for each distinct value of a block.
func (c *condition) label(column string, l query.Label) string {
	if l.Match == query.LabelExists {
		return "position(concat(',', " + column + "), " + c.bind("String", ","+l.Key+"=") + ") > 0"
	}
	text := "position(concat(',', " + column + ", ','), " + c.bind("String", ","+l.Key+"="+l.Value+",") + ") "
	if l.Match == query.LabelIsNot {
		return text + "= 0"
	}
	return text + "> 0"
}

var mappedPrefix = netip.MustParsePrefix("::ffff:0:0/96")

// within compares with the first and last address of a prefix. Addresses are
// stored as IPv6, where those of IPv4 are mapped: they are in no prefix of IPv6.
func (c *condition) within(column string, p netip.Prefix) string {
	text := c.between(column, p)
	if p.Addr().Is6() && p.Bits() <= mappedPrefix.Bits() && p.Contains(netip.AddrFrom16(mappedPrefix.Addr().As16())) {
		return "(" + text + " AND NOT " + c.between(column, mappedPrefix) + ")"
	}
	return text
}

func (c *condition) between(column string, p netip.Prefix) string {
	first, bits := p.Addr().As16(), p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	last := first
	for bit := bits; bit < 128; bit++ {
		last[bit/8] |= 1 << (7 - bit%8)
	}
	text := func(a [16]byte) string { return netip.AddrFrom16(a).String() }
	return column + " BETWEEN " + c.bind("IPv6", text(first)) + " AND " + c.bind("IPv6", text(last))
}

// before adds that a row comes at or after a cursor in the order of a page.
func (c *condition) before(after query.Cursor) {
	at := "fromUnixTimestamp64Micro(" + c.bind("Int64", stamp(after.Time).UnixMicro()) + ", 'UTC')"
	c.text.WriteString("\n  AND time <= " + at + " AND (time < " + at + " OR " + rowID + " <= " + c.bind("UInt64", after.ID) + ")")
}

// storedSince adds that a row was stored at t or later.
func (c *condition) storedSince(t time.Time) {
	c.text.WriteString("\n  AND stored >= toDateTime(" + c.bind("Int64", t.Unix()) + ", 'UTC')")
}
