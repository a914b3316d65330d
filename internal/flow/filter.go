package flow

import "time"

// EdgeFilter says which edges are wanted. Zero fields do not filter.
type EdgeFilter struct {
	// Workload is on either side.
	Workload *Workload
	// Since and Until bound the window. Edges are kept by the hour: an hour is
	// in or out as a whole, and it is in when its first and last flow overlap
	// the window. Totals are exact.
	Since, Until time.Time
	Direction    Direction
	// LiveRevision and StagedRevision restrict Edge.DeniedLive and
	// Edge.DeniedStaged to what that revision denied.
	LiveRevision, StagedRevision uint32
	// Times asks for Edge.Hours, Edge.Days and Edge.WeekHours, which take longer
	// to find than all the rest.
	Times bool
	// Limit bounds the number of edges; more of them is an error, since a
	// policy made from a part would deny the rest.
	Limit int
}

// DenialFilter says which denials are wanted. Zero fields do not filter, but
// for Slot, whose zero value is the live slot.
type DenialFilter struct {
	Workload *Workload // whose policy denied
	Slot     Slot
	Revision uint32
	// Since and Until are as in EdgeFilter: by the hour.
	Since, Until time.Time
	Limit        int // the ones with most connections come first
}
