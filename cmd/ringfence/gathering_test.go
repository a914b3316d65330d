package main

import (
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"
)

// The server gathers when agents hand records over, and when some are left from
// when they did.
func TestGathering(t *testing.T) {
	p := place(t)
	must(t, p.create())
	s := &server{cfg: serverConfig{layout: p.layout}, logger: slog.New(slog.DiscardHandler), registry: newRegistry()}
	must(t, s.openStore(t.Context()))
	defer func() { must(t, s.closeStore(t.Context())) }()
	if g, err := s.newGathering(); g != nil || err != nil {
		t.Errorf("with nothing to gather: %v, %v", g, err)
	}
	must(t, s.store.Ping(t.Context()))
	must(t, os.Mkdir(s.cfg.gatherDir(), 0o700))
	g, err := s.newGathering()
	must(t, err)
	if g == nil {
		t.Fatal("what is left is looked after by nobody")
	}
	if at, err := g.Clock(t.Context()); err == nil {
		t.Errorf("nobody asked, and the store's time is %s", at)
	}
	g.askTime(t.Context())
	if at, err := g.Clock(t.Context()); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("the store's time is %s, %v", at, err)
	}

	must(t, s.store.Ping(t.Context()))
	s.store.problem = func() error { return errors.New("no group can be stored") }
	if err := s.store.Ping(t.Context()); err == nil {
		t.Error("the store is ready, and nothing that is gathered gets there")
	}
}
