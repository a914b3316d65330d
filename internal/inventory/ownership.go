package inventory

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// Holder is who holds an address, or an endpoint's number: an endpoint of a
// workload, or a node. Everything that was attributed to it shares it, so it is
// never changed.
type Holder struct {
	Party    flow.Party `json:"party"`
	Endpoint uint32     `json:"endpoint,omitempty"` // its number; 0 for a node
	Host     bool       `json:"host,omitempty"`     // its interface is the host's own, and may carry what the host forwards
}

// world holds what no inventory knows.
var world = &Holder{Party: flow.Party{Reserved: flow.IdentityWorld.ReservedName(), Identity: flow.IdentityWorld}}

// Local is an endpoint of the own node that is to be watched, since when the
// inventory says so.
type Local struct {
	ID    uint32
	Name  string // namespace/kind/name/endpoint
	Since time.Time
}

// OwnershipConfig says whose view it is and how far back it goes.
type OwnershipConfig struct {
	// Node is the own node: its addresses are the host's, others' remote.
	Node string
	// History is how long it is remembered who held something before; default
	// 1 h.
	History time.Duration
	// MaxFormer bounds what is remembered, in former holdings of one address or
	// number; default 100,000, which take some 20 MB.
	MaxFormer int
	// Path is the file that another process goes on from; "" keeps nothing.
	Path string
	// Logger defaults to one that discards.
	Logger *slog.Logger
}

// Validate returns every problem of c.
func (c OwnershipConfig) Validate() error {
	var errs []error
	if c.Node == "" {
		errs = append(errs, errors.New("node name: missing"))
	}
	if c.History < 0 {
		errs = append(errs, fmt.Errorf("history %s: want a positive duration", c.History))
	}
	if c.MaxFormer < 0 {
		errs = append(errs, fmt.Errorf("history of %d holdings: want at least one", c.MaxFormer))
	}
	return errors.Join(errs...)
}

// Ownership remembers who held which address, and which endpoint had which
// number, from when until when. A new inventory costs its reader, in Learn, one
// look at everything, and those who ask only what has changed. It is safe for
// concurrent use.
type Ownership struct {
	cfg   OwnershipConfig
	ready chan struct{} // closed by the first Learn
	cut   atomic.Uint64
	lost  atomic.Uint64 // reads and writes of the file that failed

	learning sync.Mutex // one Learn at a time
	round    uint64     // counts them
	last     int64      // since when the newest inventory counts

	mu        sync.RWMutex // held to read what follows, or by Learn to change it
	addresses map[[16]byte]*holdings
	numbers   map[uint32]*holdings
	local     []Local
	former    queue
	// forgotten is the time up to which it is not known any more who held an
	// address that nobody holds now.
	forgotten int64
}

// holdings say who held one address or number, one after the other.
type holdings struct {
	holder    *Holder // now; nil for nobody
	since     int64   // unix nanoseconds, as all times here
	before    []holding
	forgotten int64  // who held it until then is not known any more
	round     uint64 // of the last Learn that found it held; Learn's alone
}

// holding lasted from since until just before until.
type holding struct {
	holder       *Holder
	since, until int64
}

// always is the time that the first inventory counts from for what no earlier
// process knew: nothing else is known of the times before it.
const always = math.MinInt64

// NewOwnership returns an Ownership that knows nothing yet.
func NewOwnership(cfg OwnershipConfig) (*Ownership, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("ownership of addresses: %w", err)
	}
	if cfg.History == 0 {
		cfg.History = time.Hour
	}
	if cfg.MaxFormer == 0 {
		cfg.MaxFormer = 100_000
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Ownership{
		cfg: cfg, ready: make(chan struct{}), last: always, forgotten: always,
		addresses: map[[16]byte]*holdings{}, numbers: map[uint32]*holdings{},
	}, nil
}

// Ready is closed when the first inventory is known.
func (o *Ownership) Ready() <-chan struct{} { return o.ready }

// Cut returns how many holdings were forgotten before their time, to bound the
// memory. What happened under them is nobody's.
func (o *Ownership) Cut() uint64 { return o.cut.Load() }

// StateErrors returns how often the file could not be read or written.
func (o *Ownership) StateErrors() uint64 { return o.lost.Load() }

// Local returns the endpoints of the own node that have an interface. The slice
// is never changed.
func (o *Ownership) Local() []Local {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.local
}

// View is Ownership at one time. It must be closed, soon: Learn waits for it.
type View struct{ o *Ownership }

// View returns what is known now.
func (o *Ownership) View() View {
	o.mu.RLock()
	return View{o}
}

// Close ends the view.
func (v View) Close() { v.o.mu.RUnlock() }

// Owner returns who held a from first to last: a holder, the world's if nobody
// is known to have held it, or nil. Nil means that it is nobody's, since it
// passed from one to another or was given up within that time, or since that
// time is forgotten.
//
// An address that nobody held at first and one holder ever since is the
// holder's: an endpoint sends before the inventory that tells of it is here.
func (v View) Owner(a netip.Addr, first, last time.Time) *Holder {
	from, to := first.UnixNano(), last.UnixNano()
	from = min(from, to)
	h := v.o.addresses[a.As16()]
	switch {
	case h == nil && to < v.o.forgotten:
		return nil
	case h == nil:
		return world
	case h.holder != nil && h.since <= from:
		return h.holder
	}
	return h.during(from, to)
}

// during is Owner for the cases that are not the common one.
func (h *holdings) during(from, to int64) *Holder {
	if from < h.forgotten {
		return nil
	}
	var only *Holder
	held := false // at the end
	if h.holder != nil && h.since <= to {
		only, held = h.holder, true
	}
	for i := len(h.before) - 1; i >= 0 && h.before[i].until > from; i-- {
		b := &h.before[i]
		switch {
		case b.since > to:
		case only == nil:
			only, held = b.holder, to < b.until
		case !only.same(b.holder):
			return nil
		}
	}
	switch {
	case only == nil:
		return world
	case !held:
		return nil
	}
	return only
}

// same reports whether two holders are one workload, or nodes of one kind.
func (h *Holder) same(other *Holder) bool {
	return h == other || h.Party.Workload == other.Party.Workload && h.Party.Reserved == other.Party.Reserved
}

// Endpoint returns the endpoint that had the number at a time, or had it last
// before that, or else first after. Nil is one that is not known, or forgotten.
func (v View) Endpoint(number uint32, at time.Time) *Holder {
	h := v.o.numbers[number]
	if h == nil {
		return nil
	}
	t := at.UnixNano()
	if h.holder != nil && (h.since <= t || len(h.before) == 0) {
		return h.holder
	}
	for i := len(h.before) - 1; i >= 0; i-- {
		if h.before[i].since <= t {
			return h.before[i].holder
		}
	}
	return h.before[0].holder
}
