package outage

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// door is the way to the engine: it can be closed, held, and shut just before an
// answer.
type door struct {
	addr string

	mu     sync.Mutex
	target string
	lis    net.Listener
	open   map[net.Conn]bool
	held   chan struct{} // closed to let go; nil while nothing is held
	// after counts down what a client still sends before its connection's answers
	// are withheld; armed tells when that is.
	armed chan struct{}
	after int
}

func newDoor(t *testing.T, target string) *door {
	t.Helper()
	d := &door{target: target, open: map[net.Conn]bool{}, addr: "127.0.0.1:0"}
	d.listen(t)
	t.Cleanup(d.shut)
	return d
}

func (d *door) listen(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	d.lis, d.addr = l, l.Addr().String()
	d.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go d.pass(c)
		}
	}()
}

// shut refuses connections and cuts those there are.
func (d *door) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.lis.Close()
	d.cut()
}

func (d *door) cut() {
	for c := range d.open {
		_ = c.Close()
	}
	clear(d.open)
}

// hold lets nothing through until the returned function is called.
func (d *door) hold() (letGo func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := make(chan struct{})
	d.held = held
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.held = nil
		close(held)
	}
}

// arm makes the door withhold every answer as soon as clients sent so many bytes
// more, which is when the returned channel is closed.
func (d *door) arm(bytes int) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed, d.after = make(chan struct{}), bytes
	return d.armed
}

// disarm cuts the connections whose answers were withheld.
func (d *door) disarm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed = nil
	d.cut()
}

func (d *door) pass(c net.Conn) {
	d.mu.Lock()
	target := d.target
	d.mu.Unlock()
	s, err := net.Dial("tcp", target)
	if err != nil {
		_ = c.Close()
		return
	}
	d.mu.Lock()
	d.open[c], d.open[s] = true, true
	d.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { _ = errors.Join(d.copy(s, c, true), s.Close()) })
	both.Go(func() { _ = errors.Join(d.copy(c, s, false), c.Close()) })
	both.Wait()
	d.mu.Lock()
	delete(d.open, c)
	delete(d.open, s)
	d.mu.Unlock()
}

func (d *door) copy(to io.Writer, from io.Reader, asks bool) error {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return err
		}
		if !d.let(n, asks) {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return err
		}
		d.sent(n, asks)
	}
}

// let waits while the door is held, and reports whether n bytes may pass.
func (d *door) let(_ int, asks bool) bool {
	d.mu.Lock()
	held := d.held
	d.mu.Unlock()
	if held != nil {
		<-held
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return asks || d.armed == nil || d.after > 0
}

func (d *door) sent(n int, asks bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !asks || d.armed == nil || d.after <= 0 {
		return
	}
	if d.after -= n; d.after <= 0 {
		close(d.armed)
	}
}
