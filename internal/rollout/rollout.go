package rollout

import (
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// State is what every node should make true. It is immutable; a newer one has a
// higher Generation.
type State struct {
	Generation uint64              `json:"generation"`
	Inventory  inventory.Inventory `json:"inventory"`
	Slots      []Slots             `json:"slots"` // ordered by workload
}

// Slots are the policies of one workload. A nil revision is an empty slot.
type Slots struct {
	Workload flow.Workload `json:"workload"`
	Live     *Revision     `json:"live,omitempty"`
	Staged   *Revision     `json:"staged,omitempty"`
	// Confirm is the time a node gives the server to confirm a change of Live
	// over a new connection, before it goes back by itself.
	Confirm time.Duration `json:"confirm"`
}

// Revision is one numbered, immutable policy.
type Revision struct {
	Number uint32        `json:"number"`
	Digest string        `json:"digest"` // hex SHA-256 of the policy's canonical JSON
	Policy policy.Policy `json:"policy"`
}

// Report is what one node says of itself. It is sent after every applied State
// and with every heartbeat.
type Report struct {
	Node       string    `json:"node"`
	Version    string    `json:"version"`
	Generation uint64    `json:"generation"` // last State applied whole
	Time       time.Time `json:"time"`
	Panicked   bool      `json:"panicked"` // `ringfence panic` is in force
	// Error says why the newest State was refused; the former one still holds.
	Error string `json:"error,omitempty"`
	// Problems are what could not be done although the State was applied, such
	// as to watch an interface that does not exist. They are tried again.
	Problems  []string    `json:"problems,omitempty"`
	Workloads []Effective `json:"workloads"`
}

// Effective is what one node's kernel holds for one workload.
type Effective struct {
	Workload       flow.Workload `json:"workload"`
	LiveRevision   uint32        `json:"liveRevision"`
	StagedRevision uint32        `json:"stagedRevision"`
	Endpoints      int           `json:"endpoints"` // attached on this node
	// ObservedSince is when the last of these endpoints was first attached:
	// the flow table is warm one idle timeout later.
	ObservedSince time.Time `json:"observedSince"`
	// SwitchedAt is when the kernel's maps took LiveRevision.
	SwitchedAt time.Time `json:"switchedAt"`
	// Unconfirmed: LiveRevision awaits the server's confirmation until Deadline.
	Unconfirmed bool      `json:"unconfirmed"`
	Deadline    time.Time `json:"deadline"`
	// RevertedFrom is the revision the node went back from by itself; 0 if none.
	RevertedFrom uint32 `json:"revertedFrom"`
}
