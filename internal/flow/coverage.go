package flow

import "time"

// Coverage is one heartbeat of an agent: what it saw between Start and End.
// Numbers are those of the interval, not totals since the agent started.
type Coverage struct {
	Node  string
	Start time.Time
	End   time.Time

	Records uint64 // read from the ring buffer
	Lost    uint64 // records gone for good
	Delayed uint64 // records a full ring buffer put off; nothing is missing

	Endpoints int  // attached at End
	Started   bool // the first heartbeat of an agent process
}

// NodeCoverage adds up the heartbeats of one node within a window.
type NodeCoverage struct {
	Node string
	// Covered is the time within the window that heartbeats span, each moment
	// counted once.
	Covered     time.Duration
	First, Last time.Time // the span from the first to the last covered moment

	Records, Lost, Delayed uint64
	Starts                 uint64 // agent processes that began
	Endpoints              int    // attached at the last heartbeat

	// Gaps are the times between First and Last that no heartbeat covers, the
	// newest ones when there are very many. GapCount counts all of them.
	Gaps     []Gap
	GapCount uint64
}

// Gap is a time that no agent of the node covered.
type Gap struct {
	Start, End time.Time
}
