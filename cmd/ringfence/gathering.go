package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/internal/gather"
)

// clockPause is how often the store's clock is asked for, for all agents.
const clockPause = 10 * time.Second

// gathering takes the records that agents hand over, for the store.
type gathering struct {
	*gather.Gatherer
	store *storeDoor
	ahead atomic.Pointer[time.Duration] // the store's clock of this host's; nil while unknown
}

// newGathering returns nil when no agent hands records over, and none are left
// from when they did.
func (s *server) newGathering() (*gathering, error) {
	dir := s.cfg.gatherDir()
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !s.cfg.Gather {
		return nil, nil //nolint:nilnil // nothing to gather is no error
	}
	g := &gathering{store: s.store}
	var err error
	g.Gatherer, err = gather.New(gather.Config{Dir: dir, Logger: s.logger, Registerer: s.registry}, s.store)
	if err == nil {
		err = g.Open()
	}
	if err != nil {
		return nil, err
	}
	s.store.problem = g.Problem
	return g, nil
}

// Run works until ctx ends.
func (g *gathering) Run(ctx context.Context) error {
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return g.Gatherer.Run(ctx) })
	all.Go(func() error { g.keepTime(ctx); return nil })
	return all.Wait()
}

// keepTime compares the store's clock with this host's, again and again.
func (g *gathering) keepTime(ctx context.Context) {
	tick := time.NewTicker(clockPause)
	defer tick.Stop()
	for {
		g.askTime(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (g *gathering) askTime(ctx context.Context) {
	before := time.Now()
	at, err := g.store.Clock(ctx)
	if err != nil {
		return // the last difference stands
	}
	ahead := at.Sub(before.Add(time.Since(before) / 2))
	g.ahead.Store(&ahead)
}

// Clock implements agentlink.Records.
func (g *gathering) Clock(context.Context) (time.Time, error) {
	ahead := g.ahead.Load()
	if ahead == nil {
		return time.Time{}, errors.New("the store's time is not known yet")
	}
	return time.Now().Add(*ahead), nil
}
