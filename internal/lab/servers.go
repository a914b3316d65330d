package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

const sshBanner = "SSH-2.0-ringfence-lab\r\n"

// sshPatience is how long the other side may take to go after the banner.
const sshPatience = 5 * time.Second

// servers answer on a host's ports until they are closed.
type servers struct {
	zone    map[string][]netip.Addr
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[interface{ Close() error }]struct{} // listeners and connections
	stats  []*served
}

// listen opens every port and begins to answer. On an error nothing stays open.
func listen(ctx context.Context, spec *hostSpec) (*servers, error) {
	s := &servers{zone: spec.Zone, open: map[interface{ Close() error }]struct{}{}}
	for _, l := range spec.Listeners {
		stat := &served{Protocol: l.Protocol, Address: l.Address}
		s.stats = append(s.stats, stat)
		if err := s.listenOn(ctx, l, stat); err != nil {
			s.close()
			return nil, fmt.Errorf("listen on %s port %d of %s: %w", l.Protocol, l.Address.Port(), l.Address.Addr(), err)
		}
	}
	return s, nil
}

func (s *servers) listenOn(ctx context.Context, l listenSpec, stat *served) error {
	// Keep-alive packets would speak on connections that are to be silent.
	cfg := net.ListenConfig{KeepAlive: -1}
	if l.Speaks == SpeaksDNS {
		c, err := cfg.ListenPacket(ctx, "udp", l.Address.String())
		if err != nil {
			return err
		}
		s.start(c, func() { s.serveDNS(c, stat) })
		return nil
	}
	ln, err := cfg.Listen(ctx, "tcp", l.Address.String())
	if err != nil {
		return err
	}
	s.start(ln, func() { s.accept(ln, l.Speaks, stat) })
	return nil
}

// start runs fn, which ends when c is closed.
func (s *servers) start(c interface{ Close() error }, fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close() //nolint:errcheck // nobody waits for it
		return
	}
	s.open[c] = struct{}{}
	s.running.Go(func() {
		fn()
		s.mu.Lock()
		delete(s.open, c)
		s.mu.Unlock()
		c.Close() //nolint:errcheck // the other side sees it
	})
}

func (s *servers) accept(ln net.Listener, speaks Speech, stat *served) {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // that connection is gone; the client counts it
		}
		s.count(stat, 1, 0, 0)
		s.start(c, func() {
			if speaks == SpeaksSSH {
				s.serveSSH(c, stat)
			} else {
				s.serveRequests(c, stat)
			}
		})
	}
}

func (s *servers) serveRequests(c net.Conn, stat *served) {
	for {
		received, sent, err := answer(c)
		s.count(stat, 0, received, sent)
		if err != nil {
			return
		}
	}
}

func (s *servers) serveSSH(c net.Conn, stat *served) {
	n, err := c.Write([]byte(sshBanner))
	if err != nil {
		return
	}
	var buf [256]byte
	if err := c.SetReadDeadline(time.Now().Add(sshPatience)); err != nil {
		return
	}
	m, _ := c.Read(buf[:]) // whatever it is, there is nothing to log in to
	s.count(stat, 0, m, n)
}

func (s *servers) serveDNS(c net.PacketConn, stat *served) {
	buf := make([]byte, maxDNSMessage)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		var m int
		if reply, err := dnsAnswer(buf[:n], s.zone); err == nil {
			if m, err = c.WriteTo(reply, from); err != nil {
				m = 0
			}
		}
		s.count(stat, 1, n, m)
	}
}

func (s *servers) count(stat *served, connections, received, sent int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stat.Connections += unsigned(connections)
	stat.BytesReceived += unsigned(received)
	stat.BytesSent += unsigned(sent)
}

func (s *servers) counters() []served {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]served, 0, len(s.stats))
	for _, st := range s.stats {
		out = append(out, *st)
	}
	return out
}

// close ends every listener and connection and waits for their goroutines.
func (s *servers) close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		c.Close() //nolint:errcheck // the goroutine that uses it sees it
	}
	s.mu.Unlock()
	s.running.Wait()
}
