package gapless

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/bpf"
)

// agentVariable marks this binary, executed again, as an agent, and says how.
const agentVariable = "RINGFENCE_GAPLESS_AGENT"

func isAgent() bool { return os.Getenv(agentVariable) != "" }

// orders are what an agent does.
type orders struct {
	Datapath  bpf.Config
	Endpoints []bpf.Endpoint
	Owners    []bpf.AddressOwner
	Notes     string // file of its notes
	Gap       gap
	// Store, if set, is a file that the agent stores records in; it makes no
	// policy then, and ends when every flow is stored.
	Store string
}

// gap is a wrong way to change something: the controls take it.
type gap string

const (
	gapless  gap = ""
	reattach gap = "detach and attach instead of updating the link"
	empty    gap = "delete a table and write it again instead of swapping it"
)

// notes are shared with the agent, and outlive it.
type notes struct {
	Opened, Swaps, Sweeps, Records atomic.Uint64
}

func openNotes(path string) (*notes, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	size := os.Getpagesize()
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	page, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*notes)(unsafe.Pointer(unsafe.SliceData(page))), nil
}

// runAgent is the agent's process: it lives until it is told to end, or killed.
func runAgent() int {
	var o orders
	err := json.Unmarshal([]byte(os.Getenv(agentVariable)), &o)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
		defer stop()
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1) // the test is gone
		}()
		err = o.follow(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (o *orders) follow(ctx context.Context) error {
	n, err := openNotes(o.Notes)
	if err != nil {
		return err
	}
	d, err := bpf.Open(o.Datapath)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err := o.prepare(d); err != nil {
		return err
	}
	n.Opened.Add(1)
	if o.Store != "" {
		return o.store(ctx, d, n)
	}
	reading := make(chan error, 1)
	go func() { reading <- read(ctx, d, n) }()
	err = o.swap(ctx, d, n)
	return errors.Join(err, <-reading)
}

func (o *orders) prepare(d *bpf.Datapath) error {
	if o.Gap == reattach {
		attached, err := d.Attached()
		if err != nil {
			return err
		}
		for _, a := range attached {
			if err := d.Detach(a.Index); err != nil {
				return err
			}
		}
	}
	for _, e := range o.Endpoints {
		if err := d.Attach(e); err != nil {
			return err
		}
	}
	_, err := d.SetAddresses(o.Owners)
	return err
}

// revisionLasts is long enough for a burst of every sender: a revision that
// nobody meets would prove nothing.
const revisionLasts = time.Millisecond

// swap puts one revision in force after the other, and sweeps now and then.
func (o *orders) swap(ctx context.Context, d *bpf.Datapath, n *notes) error {
	var swept time.Time
	turn := time.NewTicker(revisionLasts)
	defer turn.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-turn.C:
		}
		tables := revision(n.Swaps.Load())
		if o.Gap == empty {
			var none []bpf.Table
			for _, t := range tables {
				none = append(none, bpf.Table{TableKey: t.TableKey, Delete: true})
			}
			if _, err := d.Apply(none); err != nil {
				return err
			}
		}
		if _, err := d.Apply(tables); err != nil {
			return err
		}
		n.Swaps.Add(1)
		if time.Since(swept) > 200*time.Millisecond {
			if _, err := d.Sweep(ctx); err != nil && ctx.Err() == nil {
				return err
			}
			n.Sweeps.Add(1)
			swept = time.Now()
		}
	}
}

func read(ctx context.Context, d *bpf.Datapath, n *notes) error {
	r, err := d.NewReader()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if _, _, err := r.Replay(); err != nil {
		return err
	}
	for {
		b, err := r.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		n.Records.Add(uint64(len(b.Records)))
		if err := r.Commit(b.End); err != nil {
			return err
		}
	}
}

// process is an agent in a process of its own.
type process struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan error
}

func startAgent(t testing.TB, o orders) *process {
	t.Helper()
	value, err := json.Marshal(o)
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	p := &process{cmd: exec.Command(self), ended: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), agentVariable+"="+string(value), "GOMAXPROCS=2")
	p.cmd.Stderr = &p.stderr
	_, err = p.cmd.StdinPipe() // open for as long as this process is
	must(t, err)
	must(t, p.cmd.Start())
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	go func() { p.ended <- p.cmd.Wait() }()
	return p
}

// await polls until done, and fails when the agent ends before it.
func (p *process) await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(200 * time.Microsecond) {
		select {
		case err := <-p.ended:
			t.Fatalf("the agent ended before %s: %v: %s", what, err, p.stderr.String())
		default:
		}
		if time.Now().After(deadline) {
			_ = p.cmd.Process.Kill()
			t.Fatalf("no %s in 30 s: %s", what, p.stderr.String())
		}
	}
}

// kill ends the agent in the middle of whatever it does.
func (p *process) kill(t testing.TB) {
	t.Helper()
	must(t, p.cmd.Process.Kill())
	if err := <-p.ended; err == nil || p.cmd.ProcessState.Exited() {
		t.Fatalf("the agent ended before it was killed: %v: %s", err, p.stderr.String())
	}
}

// stop has the agent end by itself.
func (p *process) stop(t testing.TB) {
	t.Helper()
	must(t, p.cmd.Process.Signal(unix.SIGTERM))
	select {
	case err := <-p.ended:
		if err != nil {
			t.Fatalf("the agent: %v: %s", err, p.stderr.String())
		}
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		t.Fatalf("the agent does not end: %s", p.stderr.String())
	}
}

// node gives a network's node an agent's orders, and removes what agents leave.
func (n *network) node(t *testing.T, cfg bpf.Config) (orders, *notes) {
	t.Helper()
	cfg.PinDir = filepath.Join(mounted, fmt.Sprintf("node-%d", serial.Add(1)))
	cfg.NetNS = n.ns
	o := orders{Datapath: cfg, Owners: n.owners(), Notes: filepath.Join(t.TempDir(), "notes")}
	for _, h := range n.hosts() {
		o.Endpoints = append(o.Endpoints, h.endpoint())
	}
	shared, err := openNotes(o.Notes)
	must(t, err)
	return o, shared
}

// adopt opens what the agents left.
func (o *orders) adopt(t *testing.T) *bpf.Datapath {
	t.Helper()
	d, err := bpf.Open(o.Datapath)
	must(t, err)
	t.Cleanup(func() { must(t, d.Remove()) })
	return d
}

// open runs the datapath in this process, all endpoints watched and no policy.
func (n *network) open(t *testing.T, cfg bpf.Config) *bpf.Datapath {
	t.Helper()
	o, _ := n.node(t, cfg)
	d := o.adopt(t)
	must(t, o.prepare(d))
	return d
}
