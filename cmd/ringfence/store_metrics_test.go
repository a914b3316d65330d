package main

import (
	"log/slog"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// The store's metrics go on counting whenever the server opens it anew.
func TestStoreMetricsOutliveTheStore(t *testing.T) {
	p := place(t)
	must(t, p.create())
	s := &server{cfg: serverConfig{layout: p.layout}, logger: slog.New(slog.DiscardHandler), registry: newRegistry()}
	must(t, s.openStore(t.Context()))
	defer func() { must(t, s.closeStore(t.Context())) }()
	var queries float64
	counts := func(when string) {
		t.Helper()
		if _, err := s.store.Edges(t.Context(), flow.EdgeFilter{Since: time.Now().Add(-time.Hour), Until: time.Now()}); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		families, err := s.registry.Gather()
		must(t, err)
		before := queries
		queries = 0
		for _, f := range families {
			if f.GetName() == "ringfence_store_queries_total" {
				for _, m := range f.GetMetric() {
					queries += m.GetCounter().GetValue()
				}
			}
		}
		if queries <= before {
			t.Errorf("%s: %v queries counted, %v before", when, queries, before)
		}
	}
	counts("at first")
	must(t, s.engine.Stop(t.Context()))
	must(t, s.restartEngine(t.Context()))
	counts("after the engine was started again")
	must(t, s.reopenStore(t.Context()))
	counts("after the store was opened again")
}
