package clickhouse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// maxMessage bounds what is kept of a child's last words.
const maxMessage = 4096

// child is one engine process.
type child struct {
	process   *os.Process
	lifeline  *os.File      // closing it asks the child to leave
	asked     atomic.Bool   // to leave
	listening chan struct{} // closed when it has its port
	exited    chan struct{} // closed when err is set
	err       error         // why it ended; nil when it was asked to
}

// spawn starts the child with the lock's file description in its hands.
func spawn(cfg *Config, libraryPath, port string, lock *os.File) (*child, error) {
	lifelineRead, lifelineWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	statusRead, statusWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start engine: %w", err), lifelineRead.Close(), lifelineWrite.Close())
	}
	stderrRead, stderrWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start engine: %w", err),
			lifelineRead.Close(), lifelineWrite.Close(), statusRead.Close(), statusWrite.Close())
	}
	args := append(append([]string{}, cfg.Command...),
		"--data-dir", cfg.DataDir, "--library", libraryPath, "--port", port, "--grace", cfg.StopGrace.String())
	cmd := exec.Command(cfg.Executable, args...) //nolint:noctx // it lives until stop, not as long as the start's context
	cmd.Stdin = lifelineRead
	cmd.Stderr = stderrWrite
	cmd.ExtraFiles = []*os.File{lock, statusWrite} // lockFD, statusFD
	// The client wants a home and a terminal type; nothing else of our
	// environment is the engine's business.
	cmd.Env = []string{"HOME=" + cfg.DataDir, "TERM=dumb", "PATH=/usr/bin:/bin", "TZ=UTC"}
	// A group of its own keeps a Ctrl-C in the terminal from reaching it first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: parentDeath}

	c := &child{lifeline: lifelineWrite, listening: make(chan struct{}), exited: make(chan struct{})}
	started := make(chan error)
	go c.own(cmd, started, statusRead, stderrRead, cfg.Logger)
	err = <-started
	closeErr := errors.Join(lifelineRead.Close(), statusWrite.Close(), stderrWrite.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start engine: %w", err), closeErr, lifelineWrite.Close(), statusRead.Close(), stderrRead.Close())
	}
	return c, nil
}

// own starts cmd and waits for it on one thread: the kernel sends the parent's
// death signal when the thread that forked ends.
func (c *child) own(cmd *exec.Cmd, started chan<- error, status, stderr *os.File, logger *slog.Logger) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	c.process = cmd.Process
	started <- nil

	var words, last, exception string
	var wg sync.WaitGroup
	wg.Go(func() { words = c.readStatus(status) })
	wg.Go(func() { last, exception = readOutput(stderr, logger) })
	err := cmd.Wait()
	wg.Wait()
	switch {
	case c.asked.Load():
		if err != nil {
			logger.Warn("engine was asked to leave and did not do so in order", "error", err)
		}
		err = nil
	case err == nil:
		err = errors.New("it left without being asked to")
	case words != "" && words != endedByItself:
		err = errors.New(words)
	case exception != "":
		err = errors.New(firstLine(exception))
	case last != "":
		err = fmt.Errorf("%w (%s)", err, last)
	}
	c.err = err
	close(c.exited)
}

// readStatus waits for the line that says the child listens, and returns what
// comes after it or in its place.
func (c *child) readStatus(f *os.File) string {
	r := bufio.NewReader(io.LimitReader(f, maxMessage))
	first, err := r.ReadString('\n')
	if first == nowListening {
		close(c.listening)
		first = ""
	}
	var rest []byte
	if err == nil {
		rest, _ = io.ReadAll(r) // what was read until the error is all there is
	}
	_ = f.Close()
	return strings.TrimSpace(first + string(rest))
}

// readOutput passes the child's standard error on, and returns its last line and
// the last exception in it.
func readOutput(f *os.File, logger *slog.Logger) (last, exception string) {
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		line := strings.TrimSpace(scanner.Text())
		if line == "" {
			continue
		}
		last = line[:min(len(line), maxMessage)]
		if strings.Contains(last, exceptionMark) {
			exception = last
		}
		logger.Debug("engine wrote to its standard error", "line", last)
	}
	_, _ = io.Copy(io.Discard, f) // a line too long for the scanner must not block the engine
	_ = f.Close()
	return last, exception
}

// stop asks the child to leave, and kills it when it has not after grace or
// when ctx ends. It returns whether it had to be killed.
func (c *child) stop(ctx context.Context, grace time.Duration) (killed bool) {
	c.asked.Store(true)
	_ = c.lifeline.Close() // closing twice is harmless
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.exited:
		return false
	case <-timer.C:
	case <-ctx.Done():
	}
	select {
	case <-c.exited:
		return false
	default:
	}
	_ = c.process.Kill()
	<-c.exited
	return true
}
