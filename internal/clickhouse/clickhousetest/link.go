package clickhousetest

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
)

// Link is a way to an engine that a test can cut.
type Link struct {
	listener net.Listener

	mu   sync.Mutex
	to   string
	cut  bool
	open map[net.Conn]bool
}

// NewLink returns a way to the engine at addr, closed when the test ends. With
// cfg it speaks TLS, which the engine itself does not.
func NewLink(tb testing.TB, addr string, cfg *tls.Config) *Link {
	tb.Helper()
	l := newLink(tb)
	if cfg != nil {
		l.listener = tls.NewListener(l.listener, cfg)
	}
	l.lead(addr)
	return l
}

// newLink listens, and leads nowhere before lead says where.
func newLink(tb testing.TB) *Link {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it returns at once
	if err != nil {
		tb.Fatal(err)
	}
	l := &Link{listener: listener, open: map[net.Conn]bool{}}
	tb.Cleanup(func() {
		_ = listener.Close()
		l.Cut()
	})
	return l
}

// Addr is the host:port of the near end.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Cut ends every connection, and each new one at once, until Mend.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for c := range l.open {
		_ = c.Close()
	}
}

// Mend undoes Cut.
func (l *Link) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}

func (l *Link) lead(to string) {
	l.to = to
	go func() {
		for {
			c, err := l.listener.Accept()
			if err != nil {
				return
			}
			go l.carry(c)
		}
	}()
}

func (l *Link) carry(near net.Conn) {
	defer l.forget(near)
	if !l.note(near) {
		return
	}
	var d net.Dialer
	far, err := d.DialContext(context.Background(), "tcp", l.to)
	if err != nil {
		return
	}
	defer l.forget(far)
	if !l.note(far) {
		return
	}
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() {
			_, _ = io.Copy(way[0], way[1]) // whichever way it ends, the connection does
			ended <- struct{}{}
		}()
	}
	<-ended
}

// note remembers an open connection, unless the link is cut.
func (l *Link) note(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return false
	}
	l.open[c] = true
	return true
}

func (l *Link) forget(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
	_ = c.Close()
}
