package prefilter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/internal/inventory"
)

// Datapath is the part of bpf.Prefilter that is driven.
type Datapath interface {
	// SetLists replaces all lists in one step, or none.
	SetLists(lists []bpf.DenyList, exempt []netip.Prefix) (bpf.PrefilterStats, error)
	SetInterfaces(names []string) ([]bpf.PrefilterPort, error)
	Counts() ([]bpf.DenyListCount, error)
	Remove() error
}

// Clock tells the time.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Config says which node this is and whom it never drops.
type Config struct {
	// Node is this node's name in the inventory.
	Node string
	// Failsafe are addresses that pass whatever a list says: the server's and
	// the store's. The node's own are added.
	Failsafe []netip.Addr
	// Poll is how often files and interfaces are looked at; default 5 s. A
	// changed file is taken at the second look that finds it the same.
	Poll time.Duration
	// Clock defaults to the system's.
	Clock Clock
	// Logger defaults to one that discards.
	Logger *slog.Logger
	// Registerer gets the metrics; nil keeps them to themselves.
	Registerer prometheus.Registerer
}

// Validate returns every problem of c.
func (c Config) Validate() error {
	var errs []error
	if c.Node == "" {
		errs = append(errs, errors.New("node name: missing"))
	}
	if c.Poll < 0 {
		errs = append(errs, fmt.Errorf("poll interval %s: want a positive duration", c.Poll))
	}
	return errors.Join(errs...)
}

// Watcher keeps one node's lists. Its methods may be called from several
// goroutines.
type Watcher struct {
	cfg     Config
	dp      Datapath
	metrics *metrics
	wake    chan struct{}

	mu       sync.Mutex
	wanted   *wanted // nil before the first inventory
	problems []string

	// What follows is Run's alone.
	files  map[string]*file // by list's name
	loaded *wanted          // what SetLists last took, with stale false
	stale  bool             // a file changed since
	ports  []bpf.PrefilterPort
}

// wanted is what an inventory says of one node.
type wanted struct {
	lists      []inventory.DenyList
	interfaces []string
	exempt     []netip.Prefix
}

// New returns a Watcher of dp. It does no I/O.
func New(cfg Config, dp Datapath) (*Watcher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("prefilter: %w", err)
	}
	if cfg.Poll == 0 {
		cfg.Poll = 5 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = systemClock{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(cfg.Registerer, dp)
	if err != nil {
		return nil, fmt.Errorf("prefilter: %w", err)
	}
	return &Watcher{cfg: cfg, dp: dp, metrics: m, wake: make(chan struct{}, 1), files: map[string]*file{}}, nil
}

// Apply takes a new inventory; Run does what it says.
func (w *Watcher) Apply(inv *inventory.Inventory) {
	next := w.read(inv)
	w.mu.Lock()
	w.wanted = next
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Problems are what could not be done; it is tried again.
func (w *Watcher) Problems() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.problems)
}

// alwaysExempt are the sources of neighbour discovery and of a DHCP request:
// they come from the link itself, and a node without them is cut off.
var alwaysExempt = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/32"), netip.MustParsePrefix("::/128"), netip.MustParsePrefix("fe80::/10"),
}

func (w *Watcher) read(inv *inventory.Inventory) *wanted {
	out := &wanted{exempt: slices.Clone(alwaysExempt)}
	own := slices.Clone(w.cfg.Failsafe)
	for _, n := range inv.Nodes {
		if n.Name == w.cfg.Node {
			out.lists = slices.Clone(n.DenyLists)
			own = append(own, n.Addresses...)
		}
	}
	for i := range inv.Workloads {
		for _, e := range inv.Workloads[i].Endpoints {
			if e.Node == w.cfg.Node && e.Host && e.Interface != "" {
				out.interfaces = append(out.interfaces, e.Interface)
				own = append(own, e.Addresses...)
			}
		}
	}
	for _, a := range own {
		a = a.Unmap().WithZone("")
		out.exempt = append(out.exempt, netip.PrefixFrom(a, a.BitLen()))
	}
	slices.SortFunc(out.exempt, netip.Prefix.Compare)
	out.exempt = slices.Compact(out.exempt)
	slices.Sort(out.interfaces)
	return out
}

// Run works until ctx ends, and leaves the lists in the kernel in force.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		w.look()
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		case <-w.cfg.Clock.After(w.cfg.Poll):
		}
	}
}

// look brings the kernel to what is wanted, as far as the files allow.
func (w *Watcher) look() {
	w.mu.Lock()
	want := w.wanted
	w.mu.Unlock()
	if want == nil {
		return
	}
	var problems []string
	problem := func(err error) {
		if err != nil {
			problems = append(problems, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	if len(want.lists) == 0 {
		problem(w.removeAll())
	} else {
		for _, err := range w.readFiles(want.lists) {
			problem(err)
		}
		problem(w.setLists(want))
		if w.loaded != nil {
			problem(w.setInterfaces(want.interfaces))
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range problems {
		if !slices.Contains(w.problems, p) {
			w.cfg.Logger.Warn("deny lists", "problem", p)
		}
	}
	w.problems = problems
}

func (w *Watcher) removeAll() error {
	clear(w.files)
	w.loaded, w.ports = nil, nil
	w.metrics.forget()
	if err := w.dp.Remove(); err != nil {
		return fmt.Errorf("remove deny lists: %w", err)
	}
	return nil
}

// setLists hands the lists over if they differ from those in force.
func (w *Watcher) setLists(want *wanted) error {
	if w.loaded != nil && !w.stale && slices.Equal(w.loaded.lists, want.lists) && slices.Equal(w.loaded.exempt, want.exempt) {
		return nil
	}
	held, err := w.dp.Counts()
	if err != nil {
		return fmt.Errorf("read deny lists in force: %w", err)
	}
	var lists []bpf.DenyList
	for _, l := range want.lists {
		f := w.files[l.Name]
		if f.taken {
			lists = append(lists, bpf.DenyList{Name: l.Name, Enforce: l.Mode == inventory.ModeEnforce, Prefixes: f.prefixes})
			continue
		}
		// Its entries are in the kernel only: to go on without it would open it.
		if slices.ContainsFunc(held, func(c bpf.DenyListCount) bool { return c.Name == l.Name }) {
			return fmt.Errorf("deny lists stay as the agent before left them until list %s can be read", l.Name)
		}
	}
	if len(lists) == 0 {
		return nil
	}
	stats, err := w.dp.SetLists(lists, want.exempt)
	if err != nil {
		w.stale = true
		return fmt.Errorf("the former deny lists stay: %w", err)
	}
	w.loaded, w.stale = want, false
	w.metrics.set(lists, stats, w.cfg.Clock.Now())
	w.cfg.Logger.Info("deny lists in force", "lists", len(lists), "entries", stats.Entries, "bytes", stats.Bytes, "took", stats.Took)
	return nil
}

func (w *Watcher) setInterfaces(names []string) error {
	ports, err := w.dp.SetInterfaces(names)
	if !slices.Equal(ports, w.ports) {
		for _, p := range ports {
			w.cfg.Logger.Info("deny lists hold on an interface", "interface", p.Interface, "mode", p.Mode)
		}
		w.ports = ports
		w.metrics.setPorts(ports)
	}
	return err
}
