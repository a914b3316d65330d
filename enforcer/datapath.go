package enforcer

import (
	"context"
	"time"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// Datapath is the part of bpf.Datapath that the enforcer drives.
type Datapath interface {
	Attach(bpf.Endpoint) error
	Detach(index int) error
	Attached() ([]bpf.Attached, error)
	// Prune forgets endpoints whose interface is gone.
	Prune() error
	// SetAddresses, SetCIDRs, SetServices and SetFailsafe replace a whole table, adding
	// before they delete.
	SetAddresses([]bpf.AddressOwner) (bpf.Changes, error)
	SetCIDRs([]bpf.CIDRIdentity) (bpf.Changes, error)
	SetServices([]bpf.ServiceIdentity) (bpf.Changes, error)
	SetFailsafe([]bpf.Failsafe) (bpf.Changes, error)
	// SetPending sets the answer where an identity is not known yet.
	SetPending(flow.Verdict) error
	// Apply switches all tables at once, or none.
	Apply([]bpf.Table) (time.Time, error)
	Tables() ([]bpf.Table, error)
	Capacity() bpf.Limits
	Panicked() bool
}

// Interfaces knows the interfaces of the node at every moment.
type Interfaces interface {
	Interfaces() []inventory.Interface
	// Changed tells when Interfaces returns something else than before.
	Changed() <-chan struct{}
}

// Confirmer asks the server, over a connection made for the purpose, whether it
// still wants the revision that this node just switched to. An error means that
// the question could not be asked or was not answered with yes.
type Confirmer interface {
	Confirm(ctx context.Context, workload flow.Workload, revision uint32) error
}

// Clock tells the time.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
