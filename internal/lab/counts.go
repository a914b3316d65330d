package lab

import (
	"net/netip"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// maxErrors bounds how many failures are kept in words; all are counted.
const maxErrors = 8

// Counts are what a client counted. They only ever grow.
type Counts struct {
	Requests uint64 `json:"requests"` // finished, failed ones included
	Failures uint64 `json:"failures"`
	// Slow requests got their answer after slowAfter or later, as they do when
	// the first packet of a connection is lost.
	Slow uint64 `json:"slow"`
	// Attempts are connections tried, or UDP sockets that sent; Connections are
	// those that stood, or were answered.
	Attempts    uint64 `json:"attempts"`
	Connections uint64 `json:"connections"`
	// Bytes of payload, without any packet header.
	BytesSent     uint64         `json:"bytesSent"`
	BytesReceived uint64         `json:"bytesReceived"`
	Errors        []RequestError `json:"errors,omitempty"` // the first ones
}

// Add adds o to c.
func (c *Counts) Add(o Counts) {
	c.Requests += o.Requests
	c.Failures += o.Failures
	c.Slow += o.Slow
	c.Attempts += o.Attempts
	c.Connections += o.Connections
	c.BytesSent += o.BytesSent
	c.BytesReceived += o.BytesReceived
	room := max(maxErrors-len(c.Errors), 0)
	c.Errors = append(c.Errors, o.Errors[:min(room, len(o.Errors))]...)
}

func (c *Counts) transferred(sent, received int) {
	c.BytesSent += unsigned(sent)
	c.BytesReceived += unsigned(received)
}

func unsigned(n int) uint64 { return uint64(max(n, 0)) }

// PayloadBytes is what went over the edge both ways, without packet headers.
func (c *Counts) PayloadBytes() uint64 { return c.BytesSent + c.BytesReceived }

// RequestError is one failed request.
type RequestError struct {
	Time  time.Time      `json:"time"` // when it began
	To    netip.AddrPort `json:"to"`
	Error string         `json:"error"`
}

// EdgeCounters are the counts of every client of an edge over one family.
type EdgeCounters struct {
	Client   string        `json:"client"` // as in TrueEdge; a node's name for a probe
	Server   string        `json:"server"`
	Protocol flow.Protocol `json:"protocol"`
	Port     uint16        `json:"port"`
	Family   Family        `json:"family"`
	Rare     bool          `json:"rare,omitempty"`
	Probe    bool          `json:"probe,omitempty"` // a node's health check: no edge
	Counts
}

// IdleResult is what became of the idle connections.
type IdleResult struct {
	Connections int            `json:"connections"` // opened, or asked
	Failures    []RequestError `json:"failures,omitempty"`
}

// AttackResult is one try of one attack.
type AttackResult struct {
	Name        string        `json:"name"`
	From        string        `json:"from"` // as in TrueEdge
	To          string        `json:"to"`
	FromAddress netip.Addr    `json:"fromAddress"`
	ToAddress   netip.Addr    `json:"toAddress"`
	Family      Family        `json:"family"`
	Protocol    flow.Protocol `json:"protocol"`
	Port        uint16        `json:"port"`
	// Reached means that an answer of the server's program came back.
	Reached bool          `json:"reached"`
	Elapsed time.Duration `json:"elapsed"`
	Error   string        `json:"error,omitempty"` // why it did not
}
