package gapless

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/test/wire"
)

// serve echoes on TCP at every address of the host.
func (h *host) serve(t *testing.T) {
	t.Helper()
	var l net.Listener
	must(t, wire.In(h.ns, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", service))
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
}

// stream is one TCP connection, and what it carries: bytes that its number
// makes, so that a wrong, missing or doubled one is noticed.
type stream struct {
	net.Conn
	number uint64
	sent   atomic.Uint64
	expect *bufio.Reader // what comes back
	source *rand.ChaCha8
}

const answerLimit = 5 * time.Second

func dial(from, to *host, family int, number uint64) (*stream, error) {
	c, err := dialIn(from, to, family, answerLimit)
	if err != nil {
		return nil, fmt.Errorf("connection %d: %w", number, err)
	}
	s := &stream{Conn: c, number: number}
	s.source = content(number)
	s.expect = bufio.NewReader(content(number))
	return s, nil
}

func dialIn(from, to *host, family int, limit time.Duration) (c net.Conn, err error) {
	err = wire.In(from.ns, func() error {
		c, err = net.DialTimeout("tcp", netip.AddrPortFrom(to.in(family), service).String(), limit)
		return err
	})
	return c, err
}

func content(number uint64) *rand.ChaCha8 {
	return rand.NewChaCha8([32]byte{byte(number), byte(number >> 8)})
}

// exchange sends n bytes and checks their echo, both at once.
func (s *stream) exchange(n int, limit time.Duration) error {
	if err := s.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	out := make([]byte, n)
	_, _ = s.source.Read(out) // never fails
	sending := make(chan error, 1)
	go func() {
		_, err := s.Write(out)
		sending <- err
	}()
	got, want := make([]byte, n), make([]byte, n)
	_, err := io.ReadFull(s, got)
	if err = errors.Join(err, <-sending); err != nil {
		return fmt.Errorf("connection %d after %d bytes: %w", s.number, s.sent.Load(), err)
	}
	if _, err := io.ReadFull(s.expect, want); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("connection %d after %d bytes: others came back than were sent", s.number, s.sent.Load())
	}
	s.sent.Add(uint64(n))
	return nil
}

// finish ends the stream in order: the server has had all and says so.
func (s *stream) finish() error {
	tcp, ok := s.Conn.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("connection %d is no TCP", s.number)
	}
	if err := errors.Join(s.SetDeadline(time.Now().Add(answerLimit)), tcp.CloseWrite()); err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, s); err != nil || n != 0 {
		return fmt.Errorf("connection %d at its end: %d bytes too many, %w", s.number, n, err)
	}
	return s.Close()
}

func bytesOf(streams []*stream) (n uint64) {
	for _, s := range streams {
		n += s.sent.Load()
	}
	return n
}
