package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/store"
)

// storeSink is the collector's way to the store. It connects when there is
// something to store, and again after an error: the store's address may be new.
// What is inserted at once does not wait for each other.
type storeSink struct {
	file    string
	dialing chan struct{} // holds one while somebody connects

	mu   sync.Mutex
	open *store.Store
}

func newStoreSink(file string) *storeSink {
	return &storeSink{file: file, dialing: make(chan struct{}, 1)}
}

func (s *storeSink) with(ctx context.Context, use func(*store.Store) error) error {
	st, err := s.connect(ctx)
	if err != nil {
		return err
	}
	if err = use(st); err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == st {
		// Others that are using it fail, too, and try again.
		s.open = nil
		err = errors.Join(err, st.Close())
	}
	return err
}

func (s *storeSink) current() *store.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

func (s *storeSink) connect(ctx context.Context) (*store.Store, error) {
	if st := s.current(); st != nil {
		return st, nil
	}
	select {
	case s.dialing <- struct{}{}:
		defer func() { <-s.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if st := s.current(); st != nil {
		return st, nil
	}
	var access storeAccess
	if err := readJSON(s.file, &access); err != nil {
		return nil, err
	}
	st, err := access.open(ctx, nil)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = st
	return st, nil
}

// InsertFlows implements collector.Sink.
func (s *storeSink) InsertFlows(ctx context.Context, token string, rows []flow.Labelled) error {
	return s.with(ctx, func(st *store.Store) error { return st.InsertFlows(ctx, token, rows) })
}

// InsertCoverage implements collector.Sink.
func (s *storeSink) InsertCoverage(ctx context.Context, rows []flow.Coverage) error {
	return s.with(ctx, func(st *store.Store) error { return st.InsertCoverage(ctx, rows) })
}

// Clock implements collector.Sink.
func (s *storeSink) Clock(ctx context.Context) (at time.Time, err error) {
	err = s.with(ctx, func(st *store.Store) error {
		at, err = st.Clock(ctx)
		return err
	})
	return at, err
}

// Close closes the connection, if there is one.
func (s *storeSink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		return nil
	}
	return s.open.Close()
}
