package query

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

const (
	sinceField = "since"
	untilField = "until"
)

// parsers read one value each, by the field's name without its side or slot.
var (
	ofEnd = map[string]func(string) (Value, error){
		"namespace": parseName,
		"workload":  parseWorkload,
		"endpoint":  parseName,
		"reserved":  parseReserved,
		"label":     parseLabel,
		"address":   parsePrefix,
		"port":      parseRange("port", math.MaxUint16),
	}
	ofSlot = map[string]func(string) (Value, error){
		"reason":   enum(flow.ParseReason),
		"revision": parseRange("revision", math.MaxUint32),
	}
	ofRecord = map[string]func(string) (Value, error){
		"verdict":        enum(flow.ParseOutcome),
		"live.verdict":   enum(flow.ParseVerdict),
		"staged.verdict": enum(flow.ParseVerdict),
		"protocol":       enum(flow.ParseProtocol),
		"direction":      enum(flow.ParseDirection),
		"event":          enum(flow.ParseEvent),
		"node":           parseName,
		"observer":       parseWorkload,
	}
	parsers = fieldParsers()
	fields  = fieldNames()
)

func fieldParsers() map[string]func(string) (Value, error) {
	out := map[string]func(string) (Value, error){}
	for name, parse := range ofEnd {
		out[name], out["from."+name], out["to."+name] = parse, parse, parse
	}
	for name, parse := range ofSlot {
		out[name], out["live."+name], out["staged."+name] = parse, parse, parse
	}
	for name, parse := range ofRecord {
		out[name] = parse
	}
	return out
}

// endNames and slotNames are those that have sides and slots, with what is asked
// most first; recordNames are of the record as such.
var (
	endNames    = []string{"namespace", "workload", "label", "address", "port", "endpoint", "reserved"}
	slotNames   = []string{"reason", "revision"}
	recordNames = []string{"protocol", "verdict", "live.verdict", "staged.verdict", "direction", "event", "node", "observer", sinceField, untilField}

	// fieldList names every field, those with sides and slots once.
	fieldList = fmt.Sprintf("%s (either end's; from.… and to.… for one), %s (either slot's; live.… and staged.… for one), %s",
		strings.Join(endNames, ", "), strings.Join(slotNames, ", "), strings.Join(recordNames, ", "))
)

func fieldNames() []string {
	var out []string
	for _, name := range endNames {
		out = append(out, name, "from."+name, "to."+name)
	}
	for _, name := range slotNames {
		out = append(out, name, "live."+name, "staged."+name)
	}
	return append(out, recordNames...)
}

// Fields returns the names that a filter may use.
func Fields() []string { return slices.Clone(fields) }

// NewTerm returns the condition that a field is any of the values, each as it
// is, without quotes.
func NewTerm(field string, values ...string) (Term, error) {
	parse := parsers[field]
	if parse == nil {
		return Term{}, errors.New(unknownField(field))
	}
	t := Term{Field: field}
	for _, text := range values {
		v, err := parse(text)
		if err != nil {
			return Term{}, err
		}
		t.Values = append(t.Values, v)
	}
	if len(t.Values) == 0 {
		return Term{}, fmt.Errorf("%s: no value", field)
	}
	return t, nil
}

func parseName(s string) (Value, error) {
	if s == "" {
		return nil, fmt.Errorf("an empty name matches nothing: give a value")
	}
	return Name(s), nil
}

func parseWorkload(s string) (Value, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return nil, fmt.Errorf("workload %q: want namespace/name or namespace/kind/name", s)
	}
	w := Workload{Namespace: parts[0], Name: parts[len(parts)-1]}
	if len(parts) == 3 {
		w.Kind = parts[1]
	}
	return w, nil
}

func parseReserved(s string) (Value, error) {
	if _, err := flow.ReservedIdentity(s); err != nil {
		return nil, err
	}
	return Name(s), nil
}

func parseLabel(s string) (Value, error) {
	l := Label{Key: s}
	if key, value, ok := strings.Cut(s, "="); ok {
		l = Label{Key: key, Value: value, Match: LabelIs}
		if key, not := strings.CutSuffix(key, "!"); not {
			l.Key, l.Match = key, LabelIsNot
		}
	}
	if l.Key == "" || strings.ContainsAny(l.Key, ",!") || strings.Contains(l.Value, ",") {
		return nil, fmt.Errorf("label %q: want key, key=value or key!=value, without commas", s)
	}
	return l, nil
}

func parsePrefix(s string) (Value, error) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		address, err := netip.ParseAddr(s)
		if err != nil || address.Zone() != "" {
			return nil, fmt.Errorf("address %q: want an address such as 192.0.2.7 or 2001:db8::7, or a prefix such as 192.0.2.0/24", s)
		}
		prefix = netip.PrefixFrom(address, address.BitLen())
	}
	if prefix.Addr().Is4In6() {
		if prefix.Bits() < 96 {
			return nil, fmt.Errorf("address %q: a prefix of mapped addresses has at least 96 bits", s)
		}
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return Prefix(prefix.Masked()), nil
}

func parseRange(what string, highest uint32) func(string) (Value, error) {
	return func(s string) (Value, error) {
		low, high, isRange := strings.Cut(s, "-")
		if !isRange {
			high = low
		}
		from, errLow := parseNumber(low, highest)
		to, errHigh := parseNumber(high, highest)
		if errLow != nil || errHigh != nil || from > to {
			return nil, fmt.Errorf("%s %q: want a number from 0 to %d, or two such as 8000-8100", what, s, highest)
		}
		return Range{from, to}, nil
	}
}

func parseNumber(s string, highest uint32) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > uint64(highest) {
		return 0, fmt.Errorf("%q is no number up to %d", s, highest)
	}
	return uint32(n), nil
}

func enum[V Value](parse func(string) (V, error)) func(string) (Value, error) {
	return func(s string) (Value, error) {
		v, err := parse(s)
		if err != nil {
			return nil, err
		}
		return v, nil
	}
}

// ParseTime reads a time in RFC 3339, or how long before now it was: a duration
// such as 90s, 15m or 1h30m, or days such as 7d.
func ParseTime(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	ago, err := ParseDuration(s)
	if err != nil {
		return time.Time{}, fmt.Errorf("time %q: want one such as 2006-01-02T15:04:05Z, or how long ago, such as 15m, 2h or 7d", s)
	}
	return now.Add(-ago), nil
}

// ParseDuration reads a positive duration as time.ParseDuration does, and days.
func ParseDuration(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	var d time.Duration
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := parseNumber(days, uint32(math.MaxInt64/day))
		if err != nil {
			return 0, fmt.Errorf("duration %q: want one such as 15m, 2h or 7d", s)
		}
		d = time.Duration(n) * day
	} else {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			return 0, fmt.Errorf("duration %q: want one such as 15m, 2h or 7d", s)
		}
	}
	if d <= 0 {
		return 0, fmt.Errorf("duration %q: want a positive one such as 15m", s)
	}
	return d, nil
}
