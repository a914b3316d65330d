package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// starter starts processes inside namespaces. Its thread lives as long as the
// lab, because the kernel ends each process with the thread that started it.
type starter struct {
	work chan func()
	done chan struct{}
}

func newStarter() *starter {
	s := &starter{work: make(chan func()), done: make(chan struct{})}
	go func() {
		// Never unlocked: the thread ends here too.
		runtime.LockOSThread()
		defer close(s.done)
		for fn := range s.work {
			fn()
		}
	}()
	return s
}

// start runs cmd.Start with the thread inside ns.
func (s *starter) start(cmd *exec.Cmd, ns *os.File) error {
	result := make(chan error, 1)
	s.work <- func() {
		own, err := os.Open(currentNamespace)
		if err != nil {
			result <- fmt.Errorf("open own namespace: %w", err)
			return
		}
		defer own.Close() //nolint:errcheck // only read from
		if err := enter(ns); err != nil {
			result <- fmt.Errorf("enter namespace: %w", err)
			return
		}
		err = cmd.Start()
		result <- errors.Join(err, enter(own))
	}
	return <-result
}

func (s *starter) close() {
	close(s.work)
	<-s.done
}

// process is one host process as the lab sees it.
type process struct {
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	exited chan struct{} // closed when the process has ended
	err    error         // why, once exited is closed

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan hostReply
}

// maxReply bounds a line from a host process.
const maxReply = 4 << 20

// startProcess starts command inside ns. Its name is its last argument, for the
// reader of a process list.
func startProcess(s *starter, command []string, name string, ns *os.File) (*process, error) {
	args := append(append([]string{}, command[1:]...), name)
	cmd := exec.Command(command[0], args...) //nolint:gosec,noctx // the lab's own command; it ends with its input
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // an interrupt from the terminal is for the lab, which ends hosts in order
	}
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	stderr := &tail{}
	cmd.Stderr = stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start host %s: %w", name, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start host %s: %w", name, err)
	}
	if err := s.start(cmd, ns); err != nil {
		return nil, fmt.Errorf("start host %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, in: in, exited: make(chan struct{}), waiting: map[uint64]chan hostReply{}}
	go func() {
		readErr := p.read(out)
		p.err = errors.Join(cmd.Wait(), readErr)
		if said := stderr.String(); said != "" {
			p.err = errors.Join(p.err, errors.New(said))
		}
		close(p.exited)
	}()
	return p, nil
}

func (p *process) read(out io.Reader) error {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, maxReply)
	for lines.Scan() {
		var r hostReply
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return errors.Join(fmt.Errorf("read answer: %w", err), p.cmd.Process.Kill())
		}
		p.mu.Lock()
		c := p.waiting[r.ID]
		delete(p.waiting, r.ID)
		p.mu.Unlock()
		if c != nil {
			c <- r // has room for the one answer
		}
	}
	return lines.Err()
}

// do asks the process for op and waits for the answer.
func (p *process) do(ctx context.Context, op operation, spec *hostSpec) (hostReply, error) {
	c := make(chan hostReply, 1)
	p.mu.Lock()
	p.last++
	id := p.last
	p.waiting[id] = c
	line, err := json.Marshal(hostRequest{ID: id, Op: op, Spec: spec})
	if err == nil {
		_, err = p.in.Write(append(line, '\n'))
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.waiting, id)
		p.mu.Unlock()
	}()
	if err != nil {
		select {
		case <-p.exited:
			return hostReply{}, p.gone()
		default:
			return hostReply{}, fmt.Errorf("ask host %s to %s: %w", p.name, op, err)
		}
	}
	select {
	case r := <-c:
		if r.Error != "" {
			return r, fmt.Errorf("host %s: %s: %s", p.name, op, r.Error)
		}
		return r, nil
	case <-p.exited:
		return hostReply{}, p.gone()
	case <-ctx.Done():
		return hostReply{}, fmt.Errorf("ask host %s to %s: %w", p.name, op, context.Cause(ctx))
	}
}

func (p *process) gone() error {
	why := "without a word"
	if p.err != nil {
		why = strings.Join(strings.Fields(p.err.Error()), " ")
	}
	return fmt.Errorf("host %s ended: %s", p.name, why)
}

// closing is how long a process has to end by itself.
const closing = 2 * time.Second

// stop ends the process: by the end of its input, else by force.
func (p *process) stop(ctx context.Context) error {
	p.in.Close() //nolint:errcheck // a broken pipe is an ended process
	timer := time.NewTimer(closing)
	defer timer.Stop()
	select {
	case <-p.exited:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill host %s: %w", p.name, err)
	}
	<-p.exited
	return nil
}

// tail keeps the last bytes written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

const tailSize = 2 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	t.kept = t.kept[max(len(t.kept)-tailSize, 0):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
