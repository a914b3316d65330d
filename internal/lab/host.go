package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// RunHost is the body of a host process: it serves and calls as the lines on in
// say, answers each line on out, and returns when in ends or ctx does. It is
// started inside the host's namespace; args are for the reader of a process list.
func RunHost(ctx context.Context, in io.Reader, out io.Writer, _ []string) error {
	ctx, cancel := context.WithCancel(ctx)
	h := &hostProcess{out: json.NewEncoder(out)}
	defer func() {
		cancel()
		h.stop()
	}()
	lines := make(chan hostRequest)
	readErr := make(chan error, 1)
	// This reader ends with in, which a cancelled ctx does not wait for: the
	// process ends right after.
	go func() { readErr <- readRequests(ctx, in, lines) }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-readErr:
			return err
		case r := <-lines:
			if r.Op == opServe {
				h.reply(r.ID, h.serve(ctx, r.Spec), hostReply{})
				continue
			}
			h.busy.Go(func() { h.handle(ctx, r) })
		}
	}
}

func readRequests(ctx context.Context, in io.Reader, lines chan<- hostRequest) error {
	d := json.NewDecoder(bufio.NewReader(in))
	for {
		var r hostRequest
		err := d.Decode(&r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		select {
		case lines <- r:
		case <-ctx.Done():
			return nil
		}
	}
}

// hostProcess is what one host does.
type hostProcess struct {
	servers *servers
	clients *clients
	attacks []attackSpec
	busy    sync.WaitGroup

	mu  sync.Mutex
	out *json.Encoder
}

var errNotServing = errors.New("this host has not been told what to serve")

func (h *hostProcess) serve(ctx context.Context, spec *hostSpec) error {
	if h.servers != nil {
		return errors.New("this host is serving already")
	}
	if spec == nil {
		return errNotServing
	}
	s, err := listen(ctx, spec)
	if err != nil {
		return err
	}
	h.servers, h.clients, h.attacks = s, newClients(spec), spec.Attacks
	h.busy.Go(func() { h.clients.run(ctx) })
	return nil
}

func (h *hostProcess) handle(ctx context.Context, r hostRequest) {
	if h.servers == nil {
		h.reply(r.ID, errNotServing, hostReply{})
		return
	}
	var out hostReply
	var err error
	switch r.Op {
	case opResume:
		h.clients.gate.resume()
	case opPause:
		err = h.clients.gate.pause(ctx)
	case opCounters:
		out.Counters, out.Served = h.clients.counters(), h.servers.counters()
	case opAttack:
		out.Attacks = attack(ctx, h.attacks)
	case opOpenIdle:
		out.Idle = h.clients.openIdle()
	case opUseIdle:
		out.Idle = h.clients.useIdle()
	default:
		err = fmt.Errorf("operation %q is unknown: the lab and its hosts are of different versions", r.Op)
	}
	h.reply(r.ID, err, out)
}

func (h *hostProcess) reply(id uint64, err error, out hostReply) {
	out.ID = id
	if err != nil {
		out.Error = err.Error()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// A lab that does not read any more has ended, and so does this process.
	_ = h.out.Encode(out)
}

func (h *hostProcess) stop() {
	if h.servers != nil {
		h.servers.close()
	}
	h.busy.Wait()
}
