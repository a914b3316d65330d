package lab

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// attackLimit is the time of one try: a blocked one takes all of it.
const attackLimit = time.Second

// attackAnswer is how many bytes an attacker asks a server for.
const attackAnswer = 64

// attack makes every try at once.
func attack(ctx context.Context, specs []attackSpec) []attackReply {
	out := make([]attackReply, len(specs))
	var running sync.WaitGroup
	for i, spec := range specs {
		running.Go(func() {
			began := time.Now()
			err := try(ctx, spec)
			out[i] = attackReply{Spec: spec, Reached: err == nil, Elapsed: time.Since(began)}
			if err != nil {
				out[i].Error = err.Error()
			}
		})
	}
	running.Wait()
	return out
}

// try returns nil if the server's program answered.
func try(ctx context.Context, spec attackSpec) error {
	ctx, cancel := context.WithTimeout(ctx, attackLimit)
	defer cancel()
	network, local := "tcp", net.Addr(net.TCPAddrFromAddrPort(netip.AddrPortFrom(spec.At.Local, 0)))
	if spec.Speaks == SpeaksDNS {
		network, local = "udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(spec.At.Local, 0))
	}
	d := net.Dialer{KeepAlive: -1, LocalAddr: local}
	conn, err := d.DialContext(ctx, network, spec.At.Remote.String())
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // the answer is what counts
	until, _ := ctx.Deadline()
	if err := conn.SetDeadline(until); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	switch spec.Speaks {
	case SpeaksSSH:
		banner := make([]byte, len(sshBanner))
		_, err = io.ReadFull(conn, banner)
		if err == nil && string(banner) != sshBanner {
			err = errNotAnswer
		}
	case SpeaksDNS:
		id := uint16(rand.Uint32()) //nolint:gosec // an id, no secret
		// That there is no such name is an answer: the query got there.
		_, _, _, err = queryDNS(conn, id, tunnelName(id), dnsmessage.TypeTXT)
	case SpeaksRequest:
		_, _, err = ask(conn, spec.Send, attackAnswer)
	default:
		err = fmt.Errorf("nobody speaks %q", spec.Speaks)
	}
	return err
}
