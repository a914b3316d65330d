package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// process is a child of this binary that is kept running: the server, or one
// node's agent. The child writes one JSON line to its standard output when it
// is ready; one that ends before that is an error, one that ends later is
// started again.
type process struct {
	name   string
	args   []string
	logs   io.Writer
	logger *slog.Logger

	mu      sync.Mutex
	cmd     *exec.Cmd
	last    *lastLine // of cmd
	exited  chan struct{}
	held    chan struct{} // closed and nil unless restarts are held
	stopped bool
}

// killGrace is how long a child has to end after SIGTERM.
const killGrace = 15 * time.Second

// start runs the child and decodes its ready line into ready, which may be nil.
func (p *process) start(ctx context.Context, ready any) error {
	if err := p.spawn(ctx, ready); err != nil {
		return err
	}
	go p.watch(ctx)
	return nil
}

func (p *process) spawn(ctx context.Context, ready any) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	cmd := exec.Command(self, p.args...) //nolint:noctx // it ends with stop, which gives it time; the kernel ends it with us
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	last := &lastLine{next: p.logs}
	cmd.Stderr = last
	exited := make(chan struct{})
	if err := p.launch(cmd, last, exited); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}

	isReady := make(chan error, 1)
	go func() {
		in := bufio.NewScanner(stdout)
		in.Buffer(nil, 1<<20)
		if in.Scan() {
			if ready != nil {
				isReady <- json.Unmarshal(in.Bytes(), ready)
			} else {
				isReady <- nil
			}
		}
		_, _ = io.Copy(io.Discard, stdout)
		_ = cmd.Wait()
		last.flush()
		close(exited)
	}()
	select {
	case err := <-isReady:
		return err
	case <-exited:
		return errors.New(last.text(p.name + " ended before it was ready"))
	case <-ctx.Done():
		p.stop()
		return ctx.Err()
	}
}

// launch starts cmd as the child, unless stop came first.
func (p *process) launch(cmd *exec.Cmd, last *lastLine, exited chan struct{}) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return errors.New("it is being stopped")
	}
	started := make(chan error, 1)
	go func() {
		// The kernel ends the child with the thread that started it, so that
		// one is kept as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			<-exited
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	p.cmd, p.last, p.exited = cmd, last, exited
	return nil
}

// watch starts the child again whenever it ends, until stop or ctx's end.
func (p *process) watch(ctx context.Context) {
	for {
		p.mu.Lock()
		exited, last := p.exited, p.last
		p.mu.Unlock()
		<-exited
		p.mu.Lock()
		stopped, held := p.stopped, p.held
		p.mu.Unlock()
		if stopped || ctx.Err() != nil {
			return
		}
		p.logger.Warn("child ended, starting it again", "child", p.name, "reason", last.text("killed or crashed"))
		if held != nil {
			select {
			case <-held:
			case <-ctx.Done():
				return
			}
		}
		_, err := backoff.Retry(ctx, func() (struct{}, error) {
			p.mu.Lock()
			stopped := p.stopped
			p.mu.Unlock()
			if stopped {
				return struct{}{}, nil
			}
			return struct{}{}, p.spawn(ctx, nil)
		}, backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, next time.Duration) {
			p.logger.Error("start child again", "child", p.name, "error", err, "next_try", next)
		}))
		if err != nil {
			return
		}
	}
}

// kill ends the child with SIGKILL and holds its restart until resume.
func (p *process) kill() error {
	p.mu.Lock()
	cmd, exited := p.cmd, p.exited
	if p.held == nil {
		p.held = make(chan struct{})
	}
	p.mu.Unlock()
	if err := cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-exited
	return nil
}

// resume lets a killed child be started again.
func (p *process) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// stop ends the child, at first politely, and waits for it.
func (p *process) stop() {
	p.mu.Lock()
	p.stopped = true
	cmd, exited := p.cmd, p.exited
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
	case <-time.After(killGrace):
		p.logger.Warn("child did not end in time, killing it", "child", p.name)
		_ = cmd.Process.Kill()
		<-exited
	}
}

// errorPrefix begins the line by which a command of this binary says why it ends.
const errorPrefix = "ringfence: "

// lastLine passes on what a child writes, line by line, and keeps back the line
// that says why the child ends: that is for the parent to report.
type lastLine struct {
	next io.Writer
	mu   sync.Mutex
	why  string
	part []byte
}

func (l *lastLine) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, b...)
	for {
		i := bytes.IndexByte(l.part, '\n')
		if i < 0 {
			return len(b), nil
		}
		line := l.part[:i+1]
		l.part = l.part[i+1:]
		if why, ok := strings.CutPrefix(string(line[:i]), errorPrefix); ok {
			l.why = why
			continue
		}
		if _, err := l.next.Write(line); err != nil {
			return len(b), err
		}
	}
}

// flush passes on a last line without an end.
func (l *lastLine) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		_, _ = l.next.Write(append(l.part, '\n'))
		l.part = nil
	}
}

// text is why the child ended, if it said so.
func (l *lastLine) text(otherwise string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != "" {
		return l.why
	}
	return otherwise
}

// announceReady tells the parent that this child is ready.
func announceReady(w io.Writer, v any) error {
	return json.NewEncoder(w).Encode(v)
}
