package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Time limits of one request. A lost first packet is sent again after a second,
// within connectLimit, and makes the request slow.
const (
	connectLimit = 1500 * time.Millisecond
	answerLimit  = 2 * time.Second
	slowAfter    = 900 * time.Millisecond
)

// clients make a host's calls.
type clients struct {
	calls []callSpec
	gate  *gate
	ports udpPorts

	mu     sync.Mutex
	counts map[callFamily]*Counts
	idle   []idleConn
}

type callFamily struct {
	call   int
	family Family
}

type idleConn struct {
	conn net.Conn
	call *callSpec
	to   target
}

func newClients(spec *hostSpec) *clients {
	c := &clients{calls: spec.Calls, gate: newGate(), counts: map[callFamily]*Counts{}}
	// A lab that follows another one must not repeat its exchanges either.
	c.ports.next = firstUDPPort + rand.N[uint16](lastUDPPort-firstUDPPort)
	return c
}

// run makes requests, while the gate lets it, until ctx ends. Time begins when
// the gate opens first.
func (c *clients) run(ctx context.Context) {
	defer c.closeIdle()
	select {
	case <-c.gate.opened:
	case <-ctx.Done():
		return
	}
	var running sync.WaitGroup
	for i := range c.calls {
		call := &c.calls[i]
		running.Go(func() { c.repeat(ctx, call) })
		if call.Persistent == 0 {
			continue
		}
		for _, t := range call.targets() {
			running.Go(func() { c.persist(ctx, call, t) })
		}
	}
	running.Wait()
}

// repeat makes the call's own requests, each over a new connection.
func (c *clients) repeat(ctx context.Context, call *callSpec) {
	turn := 0
	c.tick(ctx, call.First, call.Every, func() {
		for _, t := range call.Turns[turn%len(call.Turns)] {
			c.once(call, t, turn)
		}
		turn++
	})
}

// tick calls fn first after a delay and then at every interval at which the gate
// is open. A turn that takes longer than the interval delays the next.
func (c *clients) tick(ctx context.Context, first, every time.Duration, fn func()) {
	timer := time.NewTimer(first)
	defer timer.Stop()
	next := time.Now().Add(first)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if c.gate.enter() {
			fn()
			c.gate.leave()
		}
		next = next.Add(every)
		if late := time.Since(next); late > 0 {
			next = next.Add(late)
		}
		timer.Reset(time.Until(next))
	}
}

// once makes one request over a connection of its own.
func (c *clients) once(call *callSpec, t target, turn int) {
	r := newRequest(t)
	defer func() { c.record(call, t, r) }()
	if call.Speaks == SpeaksDNS {
		// Turns go through the families of the server; the questions through
		// those of the answers, so step by half as often.
		q := call.Questions[(turn/2)%len(call.Questions)]
		r.finish(c.lookUpOnce(r, t, q))
		return
	}
	conn, err := dial(t)
	if err != nil {
		r.finish(err)
		return
	}
	r.counts.Connections++
	if !call.Probe {
		err = r.ask(conn, call)
	}
	r.finish(errors.Join(err, conn.Close()))
}

func (c *clients) lookUpOnce(r *request, t target, q question) error {
	conn, err := c.ports.dial(t)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // UDP
	if err := conn.SetDeadline(time.Now().Add(connectLimit)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	sent, received, err := lookUp(conn, uint16(rand.Uint32()), q) //nolint:gosec // an id, no secret
	r.counts.transferred(sent, received)
	if received > 0 {
		r.counts.Connections++
	}
	return err
}

// persist keeps a connection open and makes requests over it. After a failure it
// opens another one.
func (c *clients) persist(ctx context.Context, call *callSpec, t target) {
	var conn net.Conn
	defer func() {
		if conn != nil {
			conn.Close() //nolint:errcheck // the lab is over
		}
	}()
	c.tick(ctx, call.First, call.Persistent, func() {
		r := newRequest(t)
		defer func() { c.record(call, t, r) }()
		if conn == nil {
			var err error
			if conn, err = dial(t); err != nil {
				conn = nil
				r.finish(err)
				return
			}
			r.counts.Connections++
		} else {
			r.counts.Attempts = 0
		}
		err := r.ask(conn, call)
		if err != nil {
			err = errors.Join(err, conn.Close())
			conn = nil
		}
		r.finish(err)
	})
}

// openIdle opens the idle connections of the host's calls, on top of those that
// are open already. Nothing is sent over them.
func (c *clients) openIdle() IdleResult {
	var out IdleResult
	for i := range c.calls {
		call := &c.calls[i]
		if !call.Idle {
			continue
		}
		for _, t := range call.targets() {
			r := newRequest(t)
			conn, err := dial(t)
			if err != nil {
				r.finish(err)
				out.Failures = append(out.Failures, r.counts.Errors...)
				c.record(call, t, r)
				continue
			}
			// The connection counts; the request that will be made over it is yet to come.
			r.counts.Connections++
			c.record(call, t, r)
			out.Connections++
			c.mu.Lock()
			c.idle = append(c.idle, idleConn{conn: conn, call: call, to: t})
			c.mu.Unlock()
		}
	}
	return out
}

func (c *clients) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.idle {
		i.conn.Close() //nolint:errcheck // the lab is over
	}
}

// useIdle makes one request over each idle connection. One that fails is closed
// and is idle no more.
func (c *clients) useIdle() IdleResult {
	c.mu.Lock()
	conns := c.idle
	c.idle = nil
	c.mu.Unlock()
	out := IdleResult{Connections: len(conns)}
	var running sync.WaitGroup
	for _, i := range conns {
		running.Go(func() {
			r := newRequest(i.to)
			r.counts.Attempts = 0
			err := r.ask(i.conn, i.call)
			if err != nil {
				err = errors.Join(err, i.conn.Close())
			}
			r.finish(err)
			c.record(i.call, i.to, r)
			c.mu.Lock()
			defer c.mu.Unlock()
			out.Failures = append(out.Failures, r.counts.Errors...)
			if err == nil {
				c.idle = append(c.idle, i)
			}
		})
	}
	running.Wait()
	return out
}

// request is the counts of one request while it is under way.
type request struct {
	began  time.Time
	to     target
	counts Counts
}

func newRequest(t target) *request {
	return &request{began: time.Now(), to: t, counts: Counts{Attempts: 1}}
}

func (r *request) ask(conn net.Conn, call *callSpec) error {
	if err := conn.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	sent, received, err := ask(conn, call.Send, call.Receive)
	r.counts.transferred(sent, received)
	return err
}

func (r *request) finish(err error) {
	r.counts.Requests++
	if err != nil {
		r.counts.Failures++
		r.counts.Errors = append(r.counts.Errors, RequestError{Time: r.began, To: r.to.Remote, Error: err.Error()})
	} else if time.Since(r.began) >= slowAfter {
		r.counts.Slow++
	}
}

func (c *clients) record(call *callSpec, t target, r *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := callFamily{call: call.Call, family: t.family()}
	if c.counts[key] == nil {
		c.counts[key] = &Counts{}
	}
	c.counts[key].Add(r.counts)
}

func (c *clients) counters() []callCounters {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []callCounters
	for key, counts := range c.counts {
		one := *counts
		one.Errors = append([]RequestError{}, counts.Errors...)
		out = append(out, callCounters{Call: key.call, Family: key.family, Counts: one})
	}
	return out
}

// dial opens a TCP connection that sends nothing by itself.
func dial(t target) (net.Conn, error) {
	d := net.Dialer{
		Timeout:   connectLimit,
		KeepAlive: -1,
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.Local, 0)),
	}
	return d.Dial("tcp", t.Remote.String())
}

// udpPorts hands out source ports in turn. The kernel picks at random, and a
// port that comes again within a minute would not be a new exchange to anybody
// who watches.
type udpPorts struct {
	mu   sync.Mutex
	next uint16
}

// The ports are below those that the kernel picks from.
const (
	firstUDPPort = 10000
	lastUDPPort  = 31999
)

func (p *udpPorts) dial(t target) (net.Conn, error) {
	for {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(t.Local, p.take()))}
		conn, err := d.Dial("udp", t.Remote.String())
		if !errors.Is(err, syscall.EADDRINUSE) {
			return conn, err
		}
	}
}

func (p *udpPorts) take() uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next < firstUDPPort || p.next > lastUDPPort {
		p.next = firstUDPPort
	}
	port := p.next
	p.next++
	return port
}

// gate holds requests back while it is closed, as it is at first.
type gate struct {
	opened chan struct{} // closed when the gate opens for the first time

	mu     sync.Mutex
	open   bool
	inside int
	empty  chan struct{} // closed when the last request leaves a closed gate
}

func newGate() *gate { return &gate{opened: make(chan struct{})} }

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open {
		g.inside++
	}
	return g.open
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

func (g *gate) resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
	select {
	case <-g.opened:
	default:
		close(g.opened)
	}
}

// pause closes the gate and waits until nobody is inside.
func (g *gate) pause(ctx context.Context) error {
	g.mu.Lock()
	g.open = false
	if g.inside == 0 {
		g.mu.Unlock()
		return nil
	}
	if g.empty == nil {
		g.empty = make(chan struct{})
	}
	empty := g.empty
	g.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("await requests under way: %w", context.Cause(ctx))
	}
}
