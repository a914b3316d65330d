package flowfile

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/goccy/go-json"

	"github.com/ringfence/ringfence/internal/flow"
)

// ownFlow is a record as `ringfence flows -o json` prints it.
type ownFlow struct {
	Time        time.Time      `json:"time"`
	Node        string         `json:"node"`
	Direction   flow.Direction `json:"direction"`
	Event       string         `json:"event"`
	Observer    flow.Workload  `json:"observer"`
	Source      ownParty       `json:"source"`
	Destination ownParty       `json:"destination"`

	SourceAddress      netip.Addr    `json:"sourceAddress"`
	DestinationAddress netip.Addr    `json:"destinationAddress"`
	SourcePort         uint16        `json:"sourcePort"`
	Port               uint16        `json:"port"`
	Protocol           flow.Protocol `json:"protocol"`

	Connections    uint64 `json:"connections"`
	PacketsForward uint64 `json:"packetsForward"`
	BytesForward   uint64 `json:"bytesForward"`
	PacketsReverse uint64 `json:"packetsReverse"`
	BytesReverse   uint64 `json:"bytesReverse"`

	Live   ownJudgement `json:"live"`
	Staged ownJudgement `json:"staged"`
}

type ownParty struct {
	Workload flow.Workload     `json:"workload"`
	Reserved string            `json:"reserved"`
	Endpoint string            `json:"endpoint"`
	Labels   map[string]string `json:"labels"`
}

type ownJudgement struct {
	Verdict flow.Verdict `json:"verdict"`
}

// own turns our own records into those that are added up.
type own struct {
	sink *Set
}

// decodeOwn reads one record. Nothing of it is kept: it may run at the side.
func decodeOwn(text []byte) (f ownFlow, err error) {
	if bytes.IndexByte(text, 0) >= 0 {
		return f, errors.New("it holds a byte 0, which no JSON has")
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return f, oneLine(err)
	}
	return f, f.validate()
}

func (f *ownFlow) validate() error {
	switch {
	case f.Time.IsZero():
		return errors.New("time is missing; want one such as 2026-03-02T08:00:00Z")
	case f.Protocol == 0:
		return errors.New("protocol is missing; want TCP, UDP, SCTP, ICMP, ICMPv6 or a number")
	case !f.SourceAddress.IsValid() || !f.DestinationAddress.IsValid():
		return errors.New("sourceAddress or destinationAddress is missing; want an address each")
	case f.Protocol.HasPorts() && f.Port == 0:
		return errors.New("port is missing; want the responder's")
	}
	for _, w := range []flow.Workload{f.Observer, f.Source.Workload, f.Destination.Workload} {
		if (w.Namespace == "") != (w.Kind == "") || (w.Kind == "") != (w.Name == "") {
			return fmt.Errorf("workload %q: want namespace, kind and name", w)
		}
	}
	return nil
}

func (o *own) take(f *ownFlow) error {
	if !o.sink.wanted(f.Time) {
		return nil
	}
	r := record{
		time: f.Time, node: f.Node, initiator: f.Direction != flow.DirectionUnknown,
		from:     end{who: f.Source.party(), addr: f.SourceAddress.Unmap(), port: f.SourcePort},
		to:       end{who: f.Destination.party(), addr: f.DestinationAddress.Unmap(), port: f.Port},
		protocol: f.Protocol, at: f.Direction, observer: f.Observer,
		began: f.Connections > 0, connections: f.Connections, completed: f.PacketsReverse > 0, counted: true,
		forward: flow.Counters{Packets: f.PacketsForward, Bytes: f.BytesForward},
		back:    flow.Counters{Packets: f.PacketsReverse, Bytes: f.BytesReverse},
		denied:  f.Live.Verdict == flow.VerdictDeny, staged: f.Staged.Verdict == flow.VerdictDeny,
	}
	return o.sink.add(&r)
}

func (p *ownParty) party() *party {
	return &party{workload: p.Workload, reserved: p.Reserved, endpoint: p.Endpoint, labels: p.Labels}
}
