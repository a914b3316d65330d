package lab

import (
	"net/netip"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// operation is what the lab asks a host process to do. Each is answered once.
type operation string

const (
	opServe    operation = "serve"     // take the spec and listen; clients wait
	opResume   operation = "resume"    // let clients make requests
	opPause    operation = "pause"     // hold new requests back, await those under way
	opCounters operation = "counters"  // what clients and servers counted so far
	opAttack   operation = "attack"    // run the attacks once
	opOpenIdle operation = "open-idle" // open the idle connections
	opUseIdle  operation = "use-idle"  // one request on each of them
)

// hostRequest is one line to a host process.
type hostRequest struct {
	ID   uint64    `json:"id"`
	Op   operation `json:"op"`
	Spec *hostSpec `json:"spec,omitempty"`
}

// hostReply is one line from a host process. Fields that the operation does not
// ask for are empty.
type hostReply struct {
	ID       uint64         `json:"id"`
	Error    string         `json:"error,omitempty"`
	Counters []callCounters `json:"counters,omitempty"`
	Served   []served       `json:"served,omitempty"`
	Attacks  []attackReply  `json:"attacks,omitempty"`
	Idle     IdleResult     `json:"idle,omitzero"`
}

// hostSpec is everything that one host process serves and does.
type hostSpec struct {
	Listeners []listenSpec `json:"listeners"`
	// Zone is what DNS listeners answer with: addresses by lower-case name.
	Zone    map[string][]netip.Addr `json:"zone,omitempty"`
	Calls   []callSpec              `json:"calls"`
	Attacks []attackSpec            `json:"attacks"`
}

type listenSpec struct {
	Protocol flow.Protocol  `json:"protocol"`
	Address  netip.AddrPort `json:"address"`
	Speaks   Speech         `json:"speaks"`
}

// target is one server address and the own address to reach it from.
type target struct {
	Local  netip.Addr     `json:"local"`
	Remote netip.AddrPort `json:"remote"`
}

func (t target) family() Family { return familyOf(t.Remote.Addr()) }

// callSpec is a call as one client host makes it.
type callSpec struct {
	Call       int           `json:"call"` // number among the lab's calls
	Speaks     Speech        `json:"speaks"`
	Probe      bool          `json:"probe"` // connect and close, nothing more
	Every      time.Duration `json:"every"`
	First      time.Duration `json:"first"`
	Send       int           `json:"send"`
	Receive    int           `json:"receive"`
	Persistent time.Duration `json:"persistent"`
	Idle       bool          `json:"idle"`
	// Turns are the targets of one turn after the other, over and over.
	Turns     [][]target `json:"turns"`
	Questions []question `json:"questions,omitempty"`
}

// targets returns every target of the call once.
func (c *callSpec) targets() []target {
	var out []target
	for _, turn := range c.Turns {
		out = append(out, turn...)
	}
	return out
}

// question is a name to ask for and the answer it must get.
type question struct {
	Name string     `json:"name"`
	Want netip.Addr `json:"want"`
}

type attackSpec struct {
	Attack int    `json:"attack"` // number among the scenario's attacks
	Target int    `json:"target"` // number among the attack's targets
	Speaks Speech `json:"speaks"`
	Send   int    `json:"send"`
	At     target `json:"at"`
}

type attackReply struct {
	Spec    attackSpec    `json:"spec"`
	Reached bool          `json:"reached"`
	Elapsed time.Duration `json:"elapsed"`
	Error   string        `json:"error,omitempty"`
}

// callCounters is what one client host counted of one call over one family.
type callCounters struct {
	Call   int    `json:"call"`
	Family Family `json:"family"`
	Counts
}

// served is what one listener of a host counted.
type served struct {
	Protocol flow.Protocol  `json:"protocol"`
	Address  netip.AddrPort `json:"address"`
	// Connections were accepted; over UDP they are datagrams.
	Connections   uint64 `json:"connections"`
	BytesReceived uint64 `json:"bytesReceived"`
	BytesSent     uint64 `json:"bytesSent"`
}
