package flow

import "time"

// Edge is flows added up: who talks to whom, over which protocol and port. A
// flow between two observed endpoints is in two edges, one per direction.
type Edge struct {
	Direction Direction `json:"direction"` // as the observing endpoint sees it
	// Observer is the workload of the endpoint that saw it: the source of an
	// egress edge and the destination of an ingress one, whoever they claim to be.
	Observer    Workload `json:"observer,omitzero"`
	Source      Party    `json:"source"` // the initiator
	Destination Party    `json:"destination"`
	Protocol    Protocol `json:"protocol"`
	// Port is the responder's; for ICMP it is type<<8|code.
	Port uint16 `json:"port"`

	Connections uint64 `json:"connections"` // began; exact
	// Answered counts the connections whose first answer came in the window, and
	// is at least 1 when anything was answered in it.
	Answered uint64   `json:"answered"`
	Forward  Counters `json:"forward"`
	Reverse  Counters `json:"reverse"`

	FirstSeen time.Time `json:"firstSeen"`
	LastSeen  time.Time `json:"lastSeen"`

	SourceEndpoints      uint64 `json:"sourceEndpoints"` // distinct ones
	DestinationEndpoints uint64 `json:"destinationEndpoints"`
	Hours                uint64 `json:"hours"` // distinct hours with traffic
	// Days counts distinct days with traffic, in UTC; WeekHours are the hours of
	// the week with traffic.
	Days      uint64    `json:"days"`
	WeekHours WeekHours `json:"weekHours"`

	// DeniedLive and DeniedStaged count the connections that the slot began to
	// deny in the window, established ones that a new revision judged again
	// included. They are at least 1 when anything was denied in it.
	DeniedLive   uint64 `json:"deniedLive"`
	DeniedStaged uint64 `json:"deniedStaged"`
}

// EdgeTotal is what one edge carried, summed from the flows themselves: exact
// to the microsecond of the window, and only as old as flows are kept.
type EdgeTotal struct {
	Direction   Direction `json:"direction"`
	Observer    Workload  `json:"observer,omitzero"`
	Source      Party     `json:"source"`
	Destination Party     `json:"destination"`
	Protocol    Protocol  `json:"protocol"`
	Port        uint16    `json:"port"`

	Connections uint64    `json:"connections"`
	Forward     Counters  `json:"forward"`
	Reverse     Counters  `json:"reverse"`
	FirstSeen   time.Time `json:"firstSeen"`
	LastSeen    time.Time `json:"lastSeen"`
}

// Denial is flows that one slot's policy denied at one workload, added up.
type Denial struct {
	Direction   Direction `json:"direction"`
	Observer    Workload  `json:"observer"` // whose policy it was
	Source      Party     `json:"source"`
	Destination Party     `json:"destination"`
	Protocol    Protocol  `json:"protocol"`
	Port        uint16    `json:"port"`
	Reason      Reason    `json:"reason"`
	Revision    uint32    `json:"revision"`

	// Connections counts as Edge.DeniedLive does.
	Connections uint64    `json:"connections"`
	Packets     uint64    `json:"packets"` // both ways
	FirstSeen   time.Time `json:"firstSeen"`
	LastSeen    time.Time `json:"lastSeen"`
}

// WorkloadStats are the totals of what a workload's endpoints observed.
type WorkloadStats struct {
	Workload    Workload  `json:"workload"`
	Edges       uint64    `json:"edges"` // distinct ones
	Connections uint64    `json:"connections"`
	LastSeen    time.Time `json:"lastSeen"`
	// WouldDeny counts the connections the staged slot denied, by its
	// revision; Denied those the live slot denied, by its own.
	WouldDeny map[uint32]uint64 `json:"wouldDeny"`
	Denied    map[uint32]uint64 `json:"denied"`
}

// Summary adds up everything that was ever observed and is still kept.
type Summary struct {
	Edges        uint64    `json:"edges"` // distinct ones
	Connections  uint64    `json:"connections"`
	Since        time.Time `json:"since"`        // the first flow
	NewestEdgeAt time.Time `json:"newestEdgeAt"` // when the newest edge was first seen
}
