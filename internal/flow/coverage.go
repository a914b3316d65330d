package flow

import "time"

// CoverageKind says what an agent tells of an interval.
type CoverageKind uint8

// Kinds of coverage.
const (
	CoverageHeartbeat CoverageKind = iota // an agent ran and watched
	CoverageAttach                        // an endpoint had no program
	CoverageDropped                       // a full spool gave up what was recorded then
)

var coverageKindNames = [...]string{"heartbeat", "attach", "dropped"}

func (k CoverageKind) String() string { return name(coverageKindNames[:], uint8(k), "coverage") }

// Coverage is what an agent tells of the time between Start and End. Numbers
// are those of the interval, not totals since the agent started.
type Coverage struct {
	Kind  CoverageKind
	Node  string
	Start time.Time
	End   time.Time

	// Endpoint is the one without a program, of an attach gap only.
	Endpoint string

	Records uint64 // read from the ring buffer
	Lost    uint64 // records gone for good
	Delayed uint64 // records a full ring buffer put off; nothing is missing
	Dropped uint64 // records a full spool gave up for good
	Spooled uint64 // records that wait on disk at End

	Skew      time.Duration // the node's clock minus the store's at End
	Endpoints int           // attached at End
	Started   bool          // the first heartbeat of an agent process
}

// NodeCoverage adds up the heartbeats of one node within a window.
type NodeCoverage struct {
	Node string
	// Covered is the time within the window that heartbeats span, each moment
	// counted once.
	Covered     time.Duration
	First, Last time.Time // the span from the first to the last covered moment

	Records, Lost, Delayed, Dropped uint64

	Starts    uint64        // agent processes that began
	Endpoints int           // attached at the last heartbeat
	MaxSkew   time.Duration // the largest, either way; never negative

	// AttachGaps are the times in which an endpoint had no program, the newest
	// ones when there are very many.
	AttachGaps []EndpointGap

	// Gaps are the times between First and Last that no heartbeat covers, the
	// newest ones when there are very many. GapCount counts all of them.
	Gaps     []Gap
	GapCount uint64

	// Losses are the times in which records were lost or dropped, the newest ones
	// when there are very many.
	Losses []Gap
}

// Gap is a time that no agent of the node covered.
type Gap struct {
	Start, End time.Time
}

// EndpointGap is a time in which an endpoint of the node had no program.
type EndpointGap struct {
	Endpoint string
	Gap
}
