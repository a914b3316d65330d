package bpf

import (
	"encoding/binary"

	"github.com/ringfence/ringfence/internal/flow"
)

// flowView is what both sides of a twin can show of a flow.
type flowView struct {
	Packets, Bytes [2]uint64
	Flags          [2]uint8
	Connections    uint32
	Live, Staged   flow.Judgement
	Outcome        flow.Outcome
	Epoch          uint32
	State          int
	Direction      flow.Direction
	Initiator      int
	Finished       [2]bool
	Answered       bool
	Reported       bool
	Closed         bool
	Ended          bool
	Dying          bool
}

func modelFlowView(f *modelFlow) flowView {
	return flowView{
		Packets: f.packets, Bytes: f.bytes, Flags: f.flags, Connections: f.connections,
		Live: f.live, Staged: f.staged, Outcome: f.outcome, Epoch: f.judged,
		State: f.state, Direction: f.direction, Initiator: f.initiator,
		Finished: f.finished, Answered: f.answered, Reported: f.reported, Closed: f.closed, Ended: f.ended, Dying: f.dying,
	}
}

// Marks of a flow; they equal RF_FLOW_* in bpf/types.h.
const (
	markReported = 1
	markEnded    = 2
	markSYNACK   = 4
	markClosed   = 512
)

func kernelFlowView(f kernelRfFlow) flowView {
	judgement := func(bits uint64, revision uint32) flow.Judgement {
		return flow.Judgement{Verdict: flow.Verdict(bits), Reason: flow.Reason(bits >> 8), Revision: revision}
	}
	v := flowView{
		Flags:       [2]uint8{uint8(f.Marks >> 16), uint8(f.Marks >> 24)},
		Connections: f.Connections, Live: judgement(f.Judged, f.Revision[0]), Staged: judgement(f.Judged>>16, f.Revision[1]),
		Outcome: flow.Outcome(f.Outcome), Epoch: uint32(f.Judged >> 32),
		State: int(f.State), Direction: flow.Direction(f.Direction), Initiator: int(f.Initiator),
		Finished: [2]bool{f.Fin&1 != 0, f.Fin&2 != 0}, Answered: f.Marks&markSYNACK != 0,
		Reported: f.Marks&markReported != 0, Closed: f.Marks&markClosed != 0, Ended: f.Marks&markEnded != 0, Dying: f.Life != 0,
	}
	for side, n := range f.Counted {
		carried := f.Carried[side]
		v.Packets[side] = n>>40 + uint64(carried.Packets)<<23
		v.Bytes[side] = n&(1<<40-1) + uint64(carried.Bytes)<<39
	}
	return v
}

func hostOrder(port uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, port))
}

func modelKeyOf(k kernelRfFlowKey) modelKey {
	return modelKey{
		local: k.Local, remote: k.Remote, localPort: hostOrder(k.LocalPort), remotePort: hostOrder(k.RemotePort),
		protocol: uint8(k.Protocol), endpoint: k.Endpoint,
	}
}

func kernelKeyOf(k modelKey) kernelRfFlowKey {
	return kernelRfFlowKey{
		Local: k.local, Remote: k.remote, LocalPort: networkOrder(k.localPort), RemotePort: networkOrder(k.remotePort),
		Protocol: uint64(k.protocol), Endpoint: k.endpoint,
	}
}
