package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Arrives bounds the wait for what must come: only a failure takes that long,
// however busy the machine is. Silence is how long to wait for what must not.
const (
	Arrives = 30 * time.Second
	Silence = 400 * time.Millisecond
)

// Awaits returns how long to wait for what must, or must not, come.
func Awaits(want bool) time.Duration {
	if want {
		return Arrives
	}
	return Silence
}

// Dial opens a connection from the calling thread's namespace. A TCP connection
// whose SYN had to be sent again is an error: something dropped the first one.
func Dial(ctx context.Context, network, addr string, limit time.Duration) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: limit}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	again, err := SentAgain(c)
	if err == nil && again > 0 {
		err = fmt.Errorf("connected only after the SYN was sent %d more times", again)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// SentAgain returns how many segments a TCP connection has had to send again; of
// others it is 0.
func SentAgain(c net.Conn) (uint32, error) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return 0, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	asked := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err := errors.Join(asked, err); err != nil {
		return 0, err
	}
	return info.Total_retrans, nil
}
