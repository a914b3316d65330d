package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
)

// A request over TCP is a header and as many bytes as the header announces; its
// answer is one as well. Either side may repeat this on one connection.
//
//	request: "RFQ1", length of the payload, length wanted of the answer's
//	answer:  "RFA1", length of the payload
const (
	requestMagic = "RFQ1"
	answerMagic  = "RFA1"
	requestLen   = 12
	answerLen    = 8
)

var (
	errNotRequest = errors.New("not a request of this protocol")
	errNotAnswer  = errors.New("not an answer of this protocol")
)

// payload is what every byte of content is taken from.
var payload [32 << 10]byte

// ask sends one request and reads its answer; the numbers of bytes are right
// also when it fails.
func ask(c net.Conn, send, receive int) (sent, received int, err error) {
	var head [requestLen]byte
	copy(head[:], requestMagic)
	binary.BigEndian.PutUint32(head[4:], uint32(send))    //nolint:gosec // at most MaxPayload
	binary.BigEndian.PutUint32(head[8:], uint32(receive)) //nolint:gosec // at most MaxPayload
	if sent, err = writeMessage(c, head[:], send); err != nil {
		return sent, 0, fmt.Errorf("send request: %w", err)
	}
	var answer [answerLen]byte
	received, err = io.ReadFull(c, answer[:])
	if err != nil {
		return sent, received, fmt.Errorf("read answer: %w", err)
	}
	if string(answer[:4]) != answerMagic || int(binary.BigEndian.Uint32(answer[4:])) != receive {
		return sent, received, errNotAnswer
	}
	n, err := io.CopyN(io.Discard, c, int64(receive))
	received += int(n)
	if err != nil {
		return sent, received, fmt.Errorf("read answer: %w", err)
	}
	return sent, received, nil
}

// answer reads one request and answers it. io.EOF means that there was none.
func answer(c net.Conn) (received, sent int, err error) {
	var head [requestLen]byte
	received, err = io.ReadFull(c, head[:])
	if err != nil {
		return received, 0, err
	}
	send, want := binary.BigEndian.Uint32(head[4:]), binary.BigEndian.Uint32(head[8:])
	if string(head[:4]) != requestMagic || send > MaxPayload || want > MaxPayload {
		return received, 0, errNotRequest
	}
	n, err := io.CopyN(io.Discard, c, int64(send))
	received += int(n)
	if err != nil {
		return received, 0, err
	}
	var reply [answerLen]byte
	copy(reply[:], answerMagic)
	binary.BigEndian.PutUint32(reply[4:], want)
	sent, err = writeMessage(c, reply[:], int(want))
	return received, sent, err
}

// writeMessage writes the head and length bytes of payload, the first of them
// in one piece.
func writeMessage(c net.Conn, head []byte, length int) (written int, err error) {
	part := slices.Concat(head, payload[:min(length, 1<<10)])
	length -= len(part) - len(head)
	for {
		n, err := c.Write(part)
		written += n
		if err != nil || length == 0 {
			return written, err
		}
		part = payload[:min(length, len(payload))]
		length -= len(part)
	}
}
