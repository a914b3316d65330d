package store

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// dashboard is what of a Grafana dashboard asks ClickHouse.
type dashboard struct {
	Title      string
	Templating struct {
		List []struct{ Name, Type string }
	}
	Panels []struct {
		Type, Title string
		Targets     []struct{ RawSQL, Expr, QueryType string }
	}
}

// Grafana's plugin puts a column and the dashboard's time into these.
var grafanaMacros = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`\$__timeFilter\((\w+)\)`), "$1 >= toDateTime(%[1]d) AND $1 <= toDateTime(%[2]d)"},
	{regexp.MustCompile(`\$__fromTime\b`), "toDateTime(%[1]d)"},
	{regexp.MustCompile(`\$__toTime\b`), "toDateTime(%[2]d)"},
	{regexp.MustCompile(`\$__timeInterval\((\w+)\)`), "toStartOfInterval(toDateTime($1), INTERVAL 60 second)"},
}

func substitute(t *testing.T, query string, from, to time.Time, namespaces string) string {
	t.Helper()
	for _, m := range grafanaMacros {
		with := m.with
		if strings.Contains(with, "%[") {
			with = fmt.Sprintf(with, from.Unix(), to.Unix())
		}
		query = m.pattern.ReplaceAllString(query, with)
	}
	query = strings.ReplaceAll(query, "${namespace:singlequote}", namespaces)
	if strings.Contains(query, "$_") || strings.Contains(query, "${") {
		t.Fatalf("a macro that the test does not know: %s", query)
	}
	return query
}

func TestDashboards(t *testing.T) {
	s := migrated(t)
	now := time.Now().Truncate(time.Second)
	fillDashboards(t, s, now)
	files, err := filepath.Glob("../../deploy/grafana/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards (%v)", err)
	}
	for _, file := range files {
		doc, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(doc, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				if (target.RawSQL == "") == (target.Expr == "") {
					t.Errorf("%s, panel %q: want either SQL or an expression", file, p.Title)
				}
				if target.RawSQL == "" {
					continue
				}
				t.Run(filepath.Base(file)+"/"+p.Title, func(t *testing.T) {
					query := substitute(t, target.RawSQL, now.Add(-time.Hour), now.Add(time.Minute), "'boutique', 'other'")
					checkPanel(t, s, p.Type, query)
					// No namespace is known yet.
					rows, err := s.conn.Query(t.Context(), substitute(t, target.RawSQL, now, now, ""))
					if err != nil {
						t.Fatal(err)
					}
					if err := rows.Close(); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// checkPanel wants rows that the panel can draw.
func checkPanel(t *testing.T, s *Store, kind, query string) {
	t.Helper()
	rows, err := s.conn.Query(t.Context(), query)
	if err != nil {
		t.Fatalf("%v\n%s", err, query)
	}
	defer rows.Close() //nolint:errcheck // read to its end
	types := rows.ColumnTypes()
	if kind == "timeseries" {
		number := false
		for _, c := range types[1:] {
			number = number || c.ScanType().Kind() == reflect.Float64
		}
		if types[0].ScanType() != reflect.TypeFor[time.Time]() || !number {
			t.Errorf("columns %v of %v, want a time and numbers", rows.Columns(), types)
		}
	}
	n := 0
	for rows.Next() {
		n++
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Errorf("no rows\n%s", query)
	}
}

// fillDashboards stores something for every panel.
func fillDashboards(t *testing.T, s *Store, now time.Time) {
	t.Helper()
	denied := connection(frontend, cart, 1, now.Add(-time.Minute))
	denied.Live = flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Revision: 7}
	denied.Outcome = flow.OutcomeDropped
	audited := connection(frontend, cart, 2, now.Add(-2*time.Minute))
	audited.Staged = flow.Judgement{Verdict: flow.VerdictDeny, Reason: flow.ReasonDefault, Revision: 8}
	audited.Outcome = flow.OutcomeAudited
	external := connection(frontend, cart, 3, now.Add(-3*time.Minute))
	external.Dest = &flow.Party{Reserved: "world"}
	external.Destination = addr("203.0.113.9")
	mustInsert(t, s, token(1), connection(frontend, cart, 4, now.Add(-4*time.Minute)), denied, audited, external)
	err := s.InsertCoverage(t.Context(), []flow.Coverage{
		{Node: "node-1", Start: now.Add(-time.Minute), End: now, Records: 9, Spooled: 1, Endpoints: 3, Skew: time.Millisecond},
		{Node: "node-1", Kind: flow.CoverageAttach, Endpoint: "cart-1", Start: now.Add(-time.Minute), End: now},
		{Node: "node-1", Kind: flow.CoverageDropped, Start: now.Add(-time.Minute), End: now, Dropped: 4},
	})
	if err != nil {
		t.Fatal(err)
	}

	misdated := ask(t, s, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'flows_misdated'")
	if misdated > 0 {
		mustInsert(t, s, token(2), connection(frontend, cart, 5, now.Add(time.Hour)))
	}
}
