package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

func TestRetention(t *testing.T) {
	s := migrated(t)
	now := time.Now()
	mustInsert(t, s, "a", append(connections(3, now.Add(-28*day)), connections(2, now.Add(-20*day))...)...)
	counts := func() string {
		t.Helper()
		out := ""
		for _, table := range []string{"flows", "edges", "edge_days", "edge_months"} {
			mustExec(t, s, "OPTIMIZE TABLE "+table+" FINAL SETTINGS mutations_sync = 2, alter_sync = 2")
			out += fmt.Sprintf("%s %d ", table, ask(t, s, "SELECT sum(toUInt64(connections)) FROM "+table))
		}
		return out
	}
	if got := counts(); got != "flows 5 edges 5 edge_days 5 edge_months 5 " {
		t.Errorf("by default: %s", got)
	}
	for _, c := range []struct {
		keep Retention
		want string
	}{
		{Retention{Flows: 25 * day}, "flows 2 edges 5 edge_days 5 edge_months 5 "},
		{Retention{Flows: 25 * day, Hours: 24 * day}, "flows 2 edges 2 edge_days 5 edge_months 5 "},
		{Retention{Flows: 10 * day, Hours: 24 * day, Days: 10 * day}, "flows 0 edges 2 edge_days 0 edge_months 5 "},
	} {
		c.keep.setDefaults()
		s.cfg.Retention = c.keep
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := counts(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.keep, got, c.want)
		}
	}
	for _, keep := range []Retention{{Flows: time.Hour}, {Hours: -day}, {Days: 36 * time.Hour}, {Months: 5000 * day}} {
		cfg := Config{Addrs: []string{"127.0.0.1:9000"}, Retention: keep}
		if err := cfg.Validate(); err == nil {
			t.Errorf("%+v: no error", keep)
		}
	}
}

// Flows whose time cannot be right are kept apart and make no edges.
func TestMisdated(t *testing.T) {
	s := migrated(t)
	now := time.Now()
	at := func(name string, port uint16, when time.Time) flow.Labelled {
		r := connection(frontend, cart, port, when)
		r.Node = name
		return r
	}
	rows := []flow.Labelled{
		at("good", 1, now), at("good", 2, now.Add(futureTolerance-time.Minute)), at("good", 3, now.Add(-30*day+time.Hour)),
		at("zero", 4, time.Time{}), at("zero", 5, time.Unix(5, 0)),
		at("future", 6, now.Add(futureTolerance+time.Minute)), at("future", 7, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)),
		at("expired", 8, now.Add(-30*day-time.Hour)), at("expired", 9, now.AddDate(-20, 0, 0)),
	}
	for range 2 {
		mustInsert(t, s, "a", rows...)
	}
	wantStored(t, s, 3)
	if n := ask(t, s, "SELECT count() FROM flows_misdated"); n != 6 {
		t.Errorf("%d rows kept apart, want 6", n)
	}
	if n := ask(t, s, "SELECT countIf(reason != node) FROM flows_misdated"); n != 0 {
		t.Errorf("%d rows with the wrong reason", n)
	}
	for _, table := range []string{"edges", "edge_days", "edge_months"} {
		if n := ask(t, s, "SELECT sum(connections) FROM "+table); n != 3 {
			t.Errorf("%s of %d connections, want 3", table, n)
		}
	}
}
