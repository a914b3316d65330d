package clickhouse

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	portAttempts = 5
	// leftoverWait is how long an engine may take to notice that its parent is
	// dead and to leave.
	leftoverWait  = 15 * time.Second
	firstPause    = 10 * time.Millisecond
	longestPause  = 200 * time.Millisecond
	probeTimeout  = 3 * time.Second
	passwordBytes = 24
)

// Engine is the embedded ClickHouse on one data directory.
type Engine struct {
	cfg     Config
	metrics *metrics

	mu    sync.Mutex // held through Start and Stop
	lock  *os.File
	child *child
	creds Credentials
	done  chan error
}

// New returns an engine that is not started.
func New(cfg Config) (*Engine, error) {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("engine data directory %s: %w", cfg.DataDir, err)
	}
	cfg.DataDir = dir
	if cfg.Executable == "" {
		if cfg.Executable, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find the running binary: %w", err)
		}
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register the engine's metrics: %w", err)
	}
	return &Engine{cfg: cfg, metrics: m}, nil
}

// Start starts the engine and returns when it has answered the probe. It may be
// called again after the engine ended by itself; the address and the password
// stay the same then unless the port was taken meanwhile.
func (e *Engine) Start(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.child != nil {
		select {
		case <-e.child.exited:
		default:
			return errors.New("start engine: it is running")
		}
	}
	library, err := FindLibrary(e.cfg.Library, e.cfg.Executable)
	if err != nil {
		return err
	}
	if err := prepareDir(e.cfg.DataDir); err != nil {
		return err
	}
	if e.lock == nil {
		if e.lock, err = lockDir(e.cfg.DataDir, leftoverWait); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.StartTimeout)
	defer cancel()
	if err := e.startOnFreePort(ctx, library); err != nil {
		e.metrics.failed.Inc()
		return errors.Join(err, e.unlock())
	}
	e.metrics.started.Inc()
	return nil
}

// startOnFreePort tries ports until one is free. A port and a password belong
// together: who holds a port that the engine failed to get may have been told
// the password, so neither is used again.
func (e *Engine) startOnFreePort(ctx context.Context, library string) error {
	var err error
	for range portAttempts {
		if err = e.startOnce(ctx, library); err == nil {
			return nil
		}
		e.creds = Credentials{}
		if !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return fmt.Errorf("start engine: %w after %d attempts", err, portAttempts)
}

func (e *Engine) startOnce(ctx context.Context, library string) (err error) {
	if e.creds.Addr == "" {
		if e.creds, err = newCredentials(); err != nil {
			return err
		}
		if e.cfg.Cluster != nil {
			e.creds.Password = e.cfg.Cluster.Password
		}
	}
	_, port, err := net.SplitHostPort(e.creds.Addr)
	if err != nil {
		return fmt.Errorf("engine address %q: %w", e.creds.Addr, err)
	}
	if err := writeServerConfig(&e.cfg, e.creds, port); err != nil {
		return err
	}
	if err := forgetLostTokens(e.cfg.DataDir); err != nil {
		return err
	}
	c, err := spawn(&e.cfg, library, port, e.lock)
	if err != nil {
		return err
	}
	if err := e.await(ctx, c); err != nil {
		return err
	}
	e.watch(c)
	return nil
}

var errPortTaken = errors.New("the port is taken by another process")

// await returns when the child answers, and leaves none behind when it does not.
// Nothing is sent to the port before the child has it: the password would go to
// whoever else holds it.
func (e *Engine) await(ctx context.Context, c *child) error {
	lastErr := errors.New("not listening yet")
	select {
	case <-c.listening:
	case <-c.exited:
		_ = c.lifeline.Close()
		return e.explain(c.err)
	case <-ctx.Done():
		return e.giveUp(ctx, c, lastErr)
	}
	pause := firstPause
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.exited:
			_ = c.lifeline.Close()
			return e.explain(c.err)
		case <-ctx.Done():
			return e.giveUp(ctx, c, lastErr)
		case <-timer.C:
		}
		probeCtx, cancel := context.WithTimeout(ctx, probeTimeout)
		lastErr = e.cfg.Probe(probeCtx, e.creds)
		cancel()
		if lastErr == nil {
			return nil
		}
		pause = min(2*pause, longestPause)
		timer.Reset(pause)
	}
}

// giveUp ends a child that did not answer before ctx ended.
func (e *Engine) giveUp(ctx context.Context, c *child, lastErr error) error {
	c.stop(context.WithoutCancel(ctx), e.cfg.StopGrace)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("start engine: no answer on %s within %s (last: %w); see %s", e.creds.Addr, e.cfg.StartTimeout,
			lastErr, filepath.Join(e.cfg.DataDir, logSubdir, "engine.log"))
	}
	return fmt.Errorf("start engine: %w", ctx.Err())
}

// brokenTable finds the table whose parts the engine refuses to load.
var brokenTable = regexp.MustCompile("broken parts.*Cannot attach table `([^`]*)`.`([^`]*)`")

// explain turns a child's last words into an error that says what to do.
func (e *Engine) explain(err error) error {
	if err == nil { // only when it was asked to leave
		return errors.New("start engine: it was stopped")
	}
	message := err.Error()
	switch {
	case strings.Contains(message, errPortTaken.Error()):
		return errPortTaken
	case strings.HasPrefix(message, "engine "), strings.HasPrefix(message, "open a pseudo-terminal"):
		return err // says what to do itself
	case strings.Contains(message, "No space left on device"):
		return fmt.Errorf("start engine: the disk of %s is full; make room or give another data directory", e.cfg.DataDir)
	}
	if m := brokenTable.FindStringSubmatch(message); m != nil {
		err = fmt.Errorf("broken parts in table %s.%s", m[1], m[2])
	}
	return damaged(e.cfg.DataDir, err.Error())
}

func (e *Engine) watch(c *child) {
	e.child, e.done = c, make(chan error, 1)
	done := e.done
	go func() {
		<-c.exited
		_ = c.lifeline.Close() // again, when it was asked to leave
		if c.err != nil {
			e.metrics.crashed.Inc()
			done <- fmt.Errorf("the engine ended: %w", c.err)
		}
		close(done)
	}()
}

// Done returns a channel that gives the reason when the running engine ends by
// itself, and is closed when it has ended. It is nil before the first Start.
func (e *Engine) Done() <-chan error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.done
}

// Credentials returns those of the latest start.
func (e *Engine) Credentials() Credentials {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.creds
}

// PID returns the running child's process id, or 0.
func (e *Engine) PID() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.child == nil {
		return 0
	}
	select {
	case <-e.child.exited:
		return 0
	default:
		return e.child.process.Pid
	}
}

// Stop asks the engine to leave, kills it when it does not, and gives the data
// directory free. Stopping an engine that does not run is no error.
func (e *Engine) Stop(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.child != nil {
		if e.child.stop(ctx, e.cfg.StopGrace) {
			e.cfg.Logger.Warn("engine did not leave in time and was killed")
		}
		e.child = nil
	}
	return e.unlock()
}

func (e *Engine) unlock() error {
	if e.lock == nil {
		return nil
	}
	err := e.lock.Close()
	e.lock = nil
	if err != nil {
		return fmt.Errorf("unlock %s: %w", e.cfg.DataDir, err)
	}
	return nil
}

func newCredentials() (Credentials, error) {
	l, err := net.Listen("tcp4", net.JoinHostPort(loopback, "0")) //nolint:noctx // it returns at once
	if err != nil {
		return Credentials{}, fmt.Errorf("find a free port: %w", err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return Credentials{}, fmt.Errorf("find a free port: %w", err)
	}
	secret := make([]byte, passwordBytes)
	_, _ = rand.Read(secret) // never fails
	return Credentials{Addr: addr, User: serverUser, Password: hex.EncodeToString(secret)}, nil
}
