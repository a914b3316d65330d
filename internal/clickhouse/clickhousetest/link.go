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
	l := newLink(tb, cfg)
	l.Lead(addr)
	return l
}

// newLink listens, and leads nowhere before Lead says where.
func newLink(tb testing.TB, cfg *tls.Config) *Link {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it returns at once
	if err != nil {
		tb.Fatal(err)
	}
	if cfg != nil {
		listener = tls.NewListener(listener, cfg)
	}
	l := &Link{listener: listener, open: map[net.Conn]bool{}}
	tb.Cleanup(func() {
		_ = listener.Close()
		l.Cut()
	})
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go l.carry(c)
		}
	}()
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

// Lead says where the link leads to from now on.
func (l *Link) Lead(to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to = to
}

func (l *Link) carry(near net.Conn) {
	defer l.forget(near)
	to := l.note(near)
	if to == "" {
		return
	}
	var d net.Dialer
	far, err := d.DialContext(context.Background(), "tcp", to)
	if err != nil {
		return
	}
	defer l.forget(far)
	if l.note(far) == "" {
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

// note remembers an open connection and returns where the link leads: nowhere
// when it is cut.
func (l *Link) note(c net.Conn) (to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return ""
	}
	l.open[c] = true
	return l.to
}

func (l *Link) forget(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
	_ = c.Close()
}
