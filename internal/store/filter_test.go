package store

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
)

// hostile are values that would do something if they got into a query's text.
var hostile = []string{
	"plain", "it's", `back\slash`, `\`, `\'`, "tab\there", "new\nline", "cr\rhere", "nul\x00here", `"quoted"`, "`tick`",
	"' OR 1=1 --", "{name:String}", "{p2:String}", "名前", "\xff\xfe", "$1", "?", "%s%d", `\N`, "NULL", " space ", "*/ OR 1 /*", "') UNION ALL SELECT 1 --",
}

// TestFilterText feeds hostile values to every field: the query's text must be
// that of innocent ones.
func TestFilterText(t *testing.T) {
	for _, field := range query.Fields() {
		if field == "since" || field == "until" {
			continue // times by their type
		}
		texts := map[string]bool{}
		for _, value := range hostile {
			for _, v := range []query.Value{
				query.Name(value),
				query.Workload{Namespace: value, Kind: value, Name: value},
				query.Label{Key: value, Value: value, Match: query.LabelIs},
			} {
				c, err := where(query.Filter{Terms: []query.Term{{Field: field, Values: []query.Value{v}}}})
				if err != nil {
					t.Fatal(err)
				}
				texts[fmt.Sprintf("%T %s", v, c.text.String())] = true
			}
		}
		if len(texts) != 3 {
			t.Errorf("%s: %d texts, want one for each of three types whatever the values: %v", field, len(texts), texts)
		}
		for text := range texts {
			if strings.ContainsAny(strings.ReplaceAll(text, "'UTC'", ""), "\\\"`;") {
				t.Errorf("%s: a text holds what none should: %s", field, text)
			}
		}
	}
	for _, field := range append(hostile, "", "source_name", "from", "1=1) OR (1") {
		if _, err := where(query.Filter{Terms: []query.Term{{Field: field, Values: []query.Value{query.Name("x")}}}}); err == nil {
			t.Errorf("no error for the field %q", field)
		}
	}
	if _, err := where(query.Filter{Terms: []query.Term{{Field: "node"}}}); err == nil {
		t.Error("no error for a condition without values")
	}
}

// matches is what a filter means, in the plainest words.
func matches(f query.Filter, r *flow.Labelled) bool {
	if !f.Since.IsZero() && r.Time.Before(f.Since) || !f.Until.IsZero() && !r.Time.Before(f.Until) {
		return false
	}
	one := map[string]bool{"from.": true, "to.": true} // which end has all labels that either may have
	for _, t := range f.Terms {
		if t.Field == "label" && !t.Not {
			for side := range one {
				one[side] = one[side] && slices.ContainsFunc(t.Values, func(v query.Value) bool { return isValue(side+"label", v, r) })
			}
			continue
		}
		if slices.ContainsFunc(t.Values, func(v query.Value) bool { return isValue(t.Field, v, r) }) == t.Not {
			return false
		}
	}
	return one["from."] || one["to."]
}

// Several labels name one workload, at whichever end it is.
func TestFilterLabelsOfOneEnd(t *testing.T) {
	s := migrated(t)
	mustInsert(t, s, "a", connection(frontend, cart, 1, noon)) // app=frontend,tier=x to app=cart
	for text, want := range map[string]int{
		"label=app=frontend label=tier=x":         1,
		"label=app=cart label=tier!=x":            1,
		"label=app=cart label=tier=x":             0,
		"label=app=frontend label=app=cart":       0,
		"label=app=frontend,app=cart":             1,
		"from.label=app=frontend label=app=cart":  1,
		"label=app=frontend -label=app=cart":      0,
		"label=app=frontend -label=app=redis":     1,
		"label=tier!=x label=app!=frontend":       1, // cart
		"label=tier label=app=frontend label=app": 1,
	} {
		page, err := s.Flows(t.Context(), parse(t, text), query.Cursor{}, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Rows) != want {
			t.Errorf("%s: %d records, want %d", text, len(page.Rows), want)
		}
	}
}

func isValue(field string, v query.Value, r *flow.Labelled) bool {
	side, name, qualified := strings.Cut(field, ".")
	if !qualified {
		switch name = field; name {
		case "namespace", "workload", "endpoint", "reserved", "label", "address":
			return isValue("from."+name, v, r) || isValue("to."+name, v, r)
		case "reason", "revision":
			return isValue("live."+name, v, r) || isValue("staged."+name, v, r)
		case "port":
			return isValue("to.port", v, r)
		case "protocol":
			return v == r.Protocol
		case "verdict":
			return v == r.Outcome
		case "direction":
			return v == r.Direction
		case "event":
			return v == r.Event
		case "node":
			return v == query.Name(r.Node)
		case "observer":
			return isWorkload(v, r.Observer.Workload)
		}
		panic(field)
	}
	party, address, port, judged := r.Source, r.Key.Source, r.SourcePort, r.Live
	if side == "to" {
		party, address, port = r.Dest, r.Destination, r.DestinationPort
	}
	if side == "staged" {
		judged = r.Staged
	}
	switch name {
	case "namespace":
		return v == query.Name(party.Workload.Namespace)
	case "workload":
		return isWorkload(v, party.Workload)
	case "endpoint":
		return v == query.Name(party.Endpoint)
	case "reserved":
		return v == query.Name(party.Reserved)
	case "label":
		return hasLabel(v.(query.Label), party.Labels)
	case "address":
		return netip.Prefix(v.(query.Prefix)).Contains(address)
	case "port":
		return inRange(v, uint32(port))
	case "verdict":
		return v == judged.Verdict
	case "reason":
		return v == judged.Reason
	case "revision":
		return inRange(v, judged.Revision)
	}
	panic(field)
}

func isWorkload(v query.Value, w flow.Workload) bool {
	want := v.(query.Workload)
	return want.Namespace == w.Namespace && want.Name == w.Name && (want.Kind == "" || want.Kind == w.Kind)
}

func hasLabel(l query.Label, labels string) bool {
	for _, pair := range strings.Split(labels, ",") {
		key, value, _ := strings.Cut(pair, "=")
		if labels != "" && key == l.Key {
			return l.Match == query.LabelExists || (value == l.Value) == (l.Match == query.LabelIs)
		}
	}
	return l.Match == query.LabelIsNot
}

func inRange(v query.Value, n uint32) bool { r := v.(query.Range); return r.Low <= n && n <= r.High }

// world draws records and filters from a small cast, so that they meet.
type world struct{ *rand.Rand }

func pick[T any](w world, of ...T) T { return of[w.IntN(len(of))] }

func (w world) party() *flow.Party {
	if w.IntN(4) == 0 {
		return &flow.Party{Reserved: pick(w, "", "world", "host", "remote-node")}
	}
	labels := map[string]string{}
	for range w.IntN(3) {
		labels[pick(w, "app", "tier", "a", "app.kubernetes.io/name")] = pick(w, "db", "web", "d", "")
	}
	name := pick(w, "cart", "redis", "web")
	return &flow.Party{
		Workload: flow.Workload{Namespace: pick(w, "shop", "tools", "sho"), Kind: pick(w, "Deployment", "Host"), Name: name},
		Endpoint: fmt.Sprintf("%s-%d", name, w.IntN(2)), Identity: flow.Identity(256 + w.IntN(4)), Labels: flow.JoinLabels(labels),
	}
}

var castAddresses = []string{"10.0.0.1", "10.0.0.2", "10.0.1.1", "192.0.2.255", "0.0.0.0", "255.255.255.255", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::", "fe80::1", "::1"}

func (w world) judgement() flow.Judgement {
	return flow.Judgement{Verdict: flow.Verdict(w.IntN(3)), Reason: flow.Reason(w.IntN(11)), Revision: uint32(w.IntN(4))}
}

func (w world) row() flow.Labelled {
	r := connection(frontend, cart, uint16(w.IntN(5)), noon.Add(time.Duration(w.IntN(4))*time.Second))
	r.Key.Source, r.Destination = addr(pick(w, castAddresses...)), addr(pick(w, castAddresses...))
	r.DestinationPort, r.Protocol = pick[uint16](w, 0, 53, 443, 8080, 65535), pick(w, flow.TCP, flow.UDP, flow.ICMP)
	r.Node, r.Endpoint = pick(w, "node-1", "node-2"), uint32(w.IntN(3))
	r.Source, r.Dest = w.party(), w.party()
	r.Observer = &flow.Party{Workload: pick(w, r.Source, r.Dest).Workload, Endpoint: "x"}
	r.Direction, r.Event, r.Outcome = flow.Direction(w.IntN(3)), flow.Event(w.IntN(5)), flow.Outcome(w.IntN(4))
	r.Live, r.Staged = w.judgement(), w.judgement()
	return r
}

func (w world) value(field string) string {
	_, name, qualified := strings.Cut(field, ".")
	if !qualified {
		name = field
	}
	switch name {
	case "namespace":
		return pick(w, "shop", "tools", "sho", "none")
	case "workload", "observer":
		return pick(w, "shop/cart", "tools/Host/redis", "shop/Deployment/web", "sho/web", "shop/none")
	case "endpoint":
		return pick(w, "cart-0", "redis-1", "none")
	case "reserved":
		return pick(w, "world", "host", "remote-node", "kube-apiserver")
	case "label":
		return pick(w, "app", "app=db", "app!=db", "a=d", "tier!=web", "tier", "app=", "app.kubernetes.io/name=web", "pp=db", "none")
	case "address":
		return pick(w, append(castAddresses, "10.0.0.0/24", "10.0.0.0/31", "0.0.0.0/0", "::/0", "2001:db8::/64", "::ffff:10.0.0.0/120", "::/96", "::/95", "2000::/3", "10.0.0.0/8")...)
	case "port":
		return pick(w, "0", "443", "1-3", "53-443", "8080-65535", "7")
	case "protocol":
		return pick(w, "tcp", "UDP", "1", "132")
	case "verdict":
		if qualified {
			return pick(w, "unknown", "allow", "deny")
		}
		return pick(w, "unknown", "forwarded", "audited", "dropped")
	case "reason":
		return flow.Reason(w.IntN(11)).String()
	case "revision":
		return pick(w, "0", "1", "1-2", "3-4294967295")
	case "direction":
		return pick(w, "unknown", "ingress", "egress")
	case "event":
		return pick(w, "new", "verdict", "end", "sweep", "none")
	case "node":
		return pick(w, "node-1", "node-2", "none")
	}
	panic(field)
}

func (w world) filter(t *testing.T) query.Filter {
	t.Helper()
	var f query.Filter
	fields := query.Fields()
	fields = fields[:len(fields)-2] // without since and until
	for range w.IntN(4) {
		field := pick(w, fields...)
		var values []string
		for range 1 + w.IntN(3) {
			values = append(values, w.value(field))
		}
		term, err := query.NewTerm(field, values...)
		if err != nil {
			t.Fatal(err)
		}
		term.Not = w.IntN(3) == 0
		f.Terms = append(f.Terms, term)
	}
	if w.IntN(4) == 0 {
		f.Since = noon.Add(time.Duration(w.IntN(4)) * time.Second)
	}
	if w.IntN(4) == 0 {
		f.Until = noon.Add(time.Duration(w.IntN(5)) * time.Second)
	}
	return f
}

// sorted orders records by all that they are, to compare sets.
func sorted(rows []flow.Labelled) []string {
	out := make([]string, len(rows))
	for i := range rows {
		r := &rows[i]
		out[i] = fmt.Sprint(r.Record, r.Node, *r.Observer, *r.Source, *r.Dest)
	}
	slices.Sort(out)
	return out
}

func TestFilterMeaning(t *testing.T) {
	s := migrated(t)
	w := world{rand.New(rand.NewPCG(1, 2))}
	var all []flow.Labelled
	for range 600 {
		all = append(all, w.row())
	}
	mustInsert(t, s, "a", all...)
	each := map[string]int{} // how often a field both took and left records
	for range 250 {
		f := w.filter(t)
		var want []flow.Labelled
		for i := range all {
			if matches(f, &all[i]) {
				want = append(want, all[i])
			}
		}
		if diff := cmp.Diff(sorted(want), sorted(readFlows(t, s, f))); diff != "" {
			t.Fatalf("%s: (-want +got):\n%s", f, diff)
		}
		if parsed := parse(t, f.String()); parsed.String() != f.String() {
			t.Errorf("%s is read as %s", f, parsed)
		}
		if len(f.Terms) == 1 && len(want) > 0 && len(want) < len(all) {
			each[f.Terms[0].Field]++
		}
	}
	for _, field := range query.Fields()[:len(query.Fields())-2] {
		for i := 0; each[field] == 0; i++ { // those that chance left out
			values := []string{w.value(field)}
			term, err := query.NewTerm(field, values...)
			if err != nil || i > 100 {
				t.Fatalf("%s: no value divides the records: %v", field, err)
			}
			f := query.Filter{Terms: []query.Term{term}}
			var want []flow.Labelled
			for j := range all {
				if matches(f, &all[j]) {
					want = append(want, all[j])
				}
			}
			if diff := cmp.Diff(sorted(want), sorted(readFlows(t, s, f))); diff != "" {
				t.Fatalf("%s: (-want +got):\n%s", f, diff)
			}
			if len(want) > 0 && len(want) < len(all) {
				each[field]++
			}
		}
	}
}
