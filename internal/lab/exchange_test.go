package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

func TestExchangeCountsBytes(t *testing.T) {
	for _, c := range []struct{ send, receive int }{{0, 0}, {1, 5000}, {1 << 10, 1 << 15}, {100_000, 1}, {MaxPayload, MaxPayload}} {
		client, server := net.Pipe()
		type result struct {
			a, b int
			err  error
		}
		served := make(chan result, 1)
		go func() {
			received, sent, err := answer(server)
			served <- result{received, sent, err}
		}()
		sent, received, err := ask(client, c.send, c.receive)
		got := <-served
		if err != nil || got.err != nil {
			t.Fatalf("%+v: %v, %v", c, err, got.err)
		}
		if sent != requestLen+c.send || received != answerLen+c.receive || got.a != sent || got.b != received {
			t.Errorf("%+v: client %d and %d, server %d and %d", c, sent, received, got.a, got.b)
		}
		if err := errors.Join(client.Close(), server.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestExchangeRefuses(t *testing.T) {
	request := func(magic string, send, want uint32) []byte {
		b := append([]byte(magic), make([]byte, 8)...)
		binary.BigEndian.PutUint32(b[4:], send)
		binary.BigEndian.PutUint32(b[8:], want)
		return b
	}
	for name, c := range map[string]struct {
		line []byte
		want error
	}{
		"another protocol":  {[]byte("GET / HTTP/1.1\r\n\r\n"), errNotRequest},
		"too long":          {request(requestMagic, MaxPayload+1, 0), errNotRequest},
		"too much wanted":   {request(requestMagic, 0, MaxPayload+1), errNotRequest},
		"cut in the header": {[]byte("RFQ1"), io.ErrUnexpectedEOF},
		"cut in the body":   {request(requestMagic, 10, 0), io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := net.Pipe()
			go func() {
				_, _ = client.Write(c.line)
				_ = client.Close()
			}()
			if _, _, err := answer(server); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			_ = server.Close()
		})
	}
	t.Run("an answer of another length", func(t *testing.T) {
		client, server := net.Pipe()
		go func() {
			_, _ = io.CopyN(io.Discard, server, requestLen)
			_, _ = server.Write([]byte(answerMagic + "\x00\x00\x00\x07"))
			_ = server.Close()
		}()
		if _, _, err := ask(client, 0, 8); !errors.Is(err, errNotAnswer) {
			t.Errorf("got %v", err)
		}
		_ = client.Close()
	})
}

func TestDNS(t *testing.T) {
	zone := map[string][]netip.Addr{"a.b.svc.lab.": {netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.2")}}
	cases := []struct {
		name  string
		ask   string
		kind  dnsmessage.Type
		rcode dnsmessage.RCode
		want  string
	}{
		{"IPv4", "a.b.svc.lab.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, "10.0.0.1 10.0.0.2"},
		{"IPv6", "a.b.svc.lab.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, "fd00::1"},
		{"case does not matter", "A.b.SVC.lab.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, "fd00::1"},
		{"another type", "a.b.svc.lab.", dnsmessage.TypeTXT, dnsmessage.RCodeSuccess, ""},
		{"unknown name", "x.b.svc.lab.", dnsmessage.TypeA, dnsmessage.RCodeNameError, ""},
		{"tunnel", tunnelName(7), dnsmessage.TypeTXT, dnsmessage.RCodeNameError, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			q, err := dnsQuery(77, c.ask, c.kind)
			if err != nil {
				t.Fatal(err)
			}
			reply, err := dnsAnswer(q, zone)
			if err != nil {
				t.Fatal(err)
			}
			if len(reply) > maxDNSMessage {
				t.Errorf("%d bytes", len(reply))
			}
			var m dnsmessage.Message
			if err := m.Unpack(reply); err != nil || m.RCode != c.rcode {
				t.Errorf("%v, code %s", err, m.RCode)
			}
			addrs, err := dnsAddresses(77, reply)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range addrs {
				got = append(got, a.String())
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
			if _, err := dnsAddresses(78, reply); err == nil {
				t.Error("accepted as the answer to another query")
			}
			if _, err := dnsAnswer(reply, zone); err == nil {
				t.Error("answered an answer")
			}
		})
	}
	if _, err := dnsAnswer([]byte("short"), zone); err == nil {
		t.Error("answered what is no message")
	}
}

func TestUDPPortsDoNotRepeat(t *testing.T) {
	var p udpPorts
	seen := map[uint16]bool{}
	for range lastUDPPort - firstUDPPort + 1 {
		port := p.take()
		if port < firstUDPPort || port > lastUDPPort || seen[port] {
			t.Fatalf("port %d is out of range or came twice", port)
		}
		seen[port] = true
	}
	if !seen[p.take()] {
		t.Error("ports do not start over")
	}
}

func TestGate(t *testing.T) {
	g := newGate()
	if g.enter() {
		t.Fatal("a new gate is open")
	}
	g.resume()
	for range 2 {
		if !g.enter() {
			t.Fatal("an open gate is closed")
		}
	}
	paused := make(chan error, 2)
	for range cap(paused) {
		go func() { paused <- g.pause(t.Context()) }()
	}
	for g.enter() { // until one of them has closed it
		g.leave()
	}
	g.leave()
	select {
	case err := <-paused:
		t.Fatalf("paused with a request under way: %v", err)
	default:
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := g.pause(ctx); err == nil {
		t.Error("paused with a request under way")
	}
	g.leave()
	for range cap(paused) {
		if err := <-paused; err != nil {
			t.Error(err)
		}
	}
	if g.enter() {
		t.Error("a paused gate is open")
	}
}

func TestCountsKeepTheFirstErrors(t *testing.T) {
	var c Counts
	for i := range 3 {
		one := Counts{Requests: 5, Failures: 5}
		for j := range 5 {
			one.Errors = append(one.Errors, RequestError{Error: string(rune('a' + 5*i + j))})
		}
		c.Add(one)
	}
	if c.Requests != 15 || c.Failures != 15 || len(c.Errors) != maxErrors || c.Errors[7].Error != "h" {
		t.Errorf("%+v", c)
	}
}

// Silent connections have no keep-alive packets, on either side.
func TestConnectionsAreSilent(t *testing.T) {
	loopback := netip.MustParseAddrPort("127.0.0.1:0")
	s, err := listen(t.Context(), &hostSpec{Listeners: []listenSpec{{Protocol: flow.TCP, Address: loopback, Speaks: SpeaksRequest}}})
	must(t, err)
	defer s.close()
	var at netip.AddrPort
	s.mu.Lock()
	for c := range s.open {
		at = netip.MustParseAddrPort(c.(net.Listener).Addr().String())
	}
	s.mu.Unlock()
	client, err := dial(target{Local: loopback.Addr(), Remote: at})
	must(t, err)
	defer client.Close() //nolint:errcheck // the test is over
	if _, _, err := ask(client, 10, 10); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	checked := 0
	for _, c := range append(slices.Collect(maps.Keys(s.open)), client) {
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			continue // the listener
		}
		raw, err := tcp.SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) {
			if on, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || on != 0 {
				t.Errorf("keep-alive is %d, %v", on, err)
			}
		}))
		checked++
	}
	if checked != 2 {
		t.Errorf("looked at %d connections, want both sides", checked)
	}
}
