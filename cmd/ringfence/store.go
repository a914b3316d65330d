package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/store"
)

func newStoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Look after the store of flows: its status, backups",
	}
	cmd.AddCommand(newStoreStatusCommand(), newStoreBackupCommand(), newStoreRestoreCommand())
	return cmd
}

// storePlaces say where the store of an installation on this host is.
type storePlaces struct {
	layout
	engineLibrary string
}

func (p *storePlaces) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&p.StateDir, "state-dir", defaultStateDir, "state directory of \"ringfence up\"")
	fs.StringVar(&p.RuntimeDir, "runtime-dir", defaultRuntimeDir, "runtime directory of \"ringfence up\"")
	fs.StringVar(&p.engineLibrary, "engine-library", "", "path of libchdb.so (default: beside this binary)")
}

// openedStore is a store to look after. Closing it also ends the engine that was
// started for it.
type openedStore struct {
	*store.Store
	embedded bool
	end      func() error
}

func (o *openedStore) close() error { return errors.Join(o.Close(), o.end()) }

// open finds the store: the one that a running `up` uses, or else the embedded
// one, whose engine is started for as long as it is open.
func (p *storePlaces) open(ctx context.Context) (*openedStore, error) {
	if !isOwn(p.StateDir) {
		return nil, fmt.Errorf("nothing is stored in %s: name the --state-dir that `up` was given", p.StateDir)
	}
	unlock, err := lockDir(p.StateDir, "")
	if running := (*inUseError)(nil); errors.As(err, &running) {
		return p.openRunning(ctx)
	}
	if err != nil {
		return nil, err
	}
	opened, err := p.openAtRest(ctx)
	if err != nil {
		unlock()
		return nil, err
	}
	end := opened.end
	opened.end = func() error { defer unlock(); return end() }
	return opened, nil
}

// openRunning takes the way to the store that the server left for its agents.
func (p *storePlaces) openRunning(ctx context.Context) (*openedStore, error) {
	var cfg serverConfig
	var access storeAccess
	if err := errors.Join(readJSON(p.serverConfig(), &cfg), readJSON(p.storeFile(), &access)); err != nil {
		return nil, fmt.Errorf("the ringfence that works with %s left no way to its store in %s, or is still starting: name its --runtime-dir: %w", p.StateDir, p.RuntimeDir, err)
	}
	s, err := access.open(ctx, nil)
	if err != nil {
		return nil, err
	}
	return &openedStore{Store: s, embedded: len(cfg.ClickHouse.Addrs) == 0, end: func() error { return nil }}, nil
}

// openAtRest starts the engine on the data of an `up` that has ended.
func (p *storePlaces) openAtRest(ctx context.Context) (*openedStore, error) {
	if err := p.finishRestore(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(p.engineDir()); err != nil {
		return nil, fmt.Errorf("%s has no embedded store, and no `up` that runs says where another is: name it with --clickhouse, or start `up`", p.StateDir)
	}
	return startEngine(ctx, p.engineDir(), p.engineLibrary)
}

// startEngine starts an engine on dir and opens its store.
func startEngine(ctx context.Context, dir, library string) (*openedStore, error) {
	engine, err := clickhouse.New(clickhouse.Config{
		DataDir: dir, Library: library, Command: []string{engineCommand}, Database: database,
	})
	if err != nil {
		return nil, err
	}
	if err := engine.Start(ctx); err != nil {
		return nil, err
	}
	end := func() error { return engine.Stop(context.WithoutCancel(ctx)) }
	s, err := accessTo(engine).open(ctx, nil)
	if err != nil {
		return nil, errors.Join(err, end())
	}
	return &openedStore{Store: s, embedded: true, end: end}, nil
}

func accessTo(engine *clickhouse.Engine) storeAccess {
	c := engine.Credentials()
	return storeAccess{Addrs: []string{c.Addr}, User: c.User, Password: c.Password, Database: database}
}

// external opens the server that the flags name.
func (f *storeFlags) external(ctx context.Context) (*openedStore, error) {
	password, err := f.password()
	if err != nil {
		return nil, err
	}
	s, err := f.access(password).open(ctx, nil)
	if err != nil {
		return nil, err
	}
	return &openedStore{Store: s, end: func() error { return nil }}, nil
}

func (f *storeFlags) access(password string) storeAccess {
	return storeAccess{Addrs: f.Addrs, Cluster: f.Cluster, User: f.User, Password: password, Database: database, TLS: f.TLS}
}

// problemsError is what a look at the store found.
type problemsError []string

func (e problemsError) Error() string { return "the store: " + strings.Join(e, "; ") }
