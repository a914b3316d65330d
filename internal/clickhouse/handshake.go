package clickhouse

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The part of the native protocol that a login needs.
const (
	clientHello     = 0
	serverHello     = 0
	serverException = 2
	// protocolRevision is old enough that the server asks for nothing after its
	// hello.
	protocolRevision = 54058
	maxString        = 64 << 10
)

// Handshake logs in with c and hangs up.
func Handshake(ctx context.Context, c Credentials) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("dial engine: %w", err)
	}
	err = handshake(ctx, conn, c)
	if closeErr := conn.Close(); err == nil && closeErr != nil {
		return fmt.Errorf("close %s: %w", c.Addr, closeErr)
	}
	return err
}

func handshake(ctx context.Context, conn net.Conn, c Credentials) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	hello := []byte{clientHello}
	hello = appendString(hello, "ringfence")
	for _, n := range []uint64{1, 0, protocolRevision} {
		hello = binary.AppendUvarint(hello, n)
	}
	for _, s := range []string{"", c.User, c.Password} {
		hello = appendString(hello, s)
	}
	if _, err := conn.Write(hello); err != nil {
		return fmt.Errorf("log in to %s: %w", c.Addr, err)
	}
	r := bufio.NewReader(conn)
	kind, err := binary.ReadUvarint(r)
	if err != nil {
		return fmt.Errorf("log in to %s: %w", c.Addr, err)
	}
	switch kind {
	case serverHello:
		return nil
	case serverException:
		return readException(r)
	}
	return fmt.Errorf("log in to %s: not a ClickHouse server (packet %d)", c.Addr, kind)
}

func readException(r *bufio.Reader) error {
	var code int32
	if err := binary.Read(r, binary.LittleEndian, &code); err != nil {
		return fmt.Errorf("read exception: %w", err)
	}
	if _, err := readString(r); err != nil { // its class
		return fmt.Errorf("read exception: %w", err)
	}
	message, err := readString(r)
	if err != nil {
		return fmt.Errorf("read exception: %w", err)
	}
	return fmt.Errorf("log in: %s (code %d)", firstLine(message), code)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func readString(r *bufio.Reader) (string, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return "", err
	}
	if n > maxString {
		return "", errors.New("string too long")
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return string(b), err
}
