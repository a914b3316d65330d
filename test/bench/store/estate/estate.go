package estate

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// Config says how large an estate is. Zero fields get their default.
type Config struct {
	Seed      uint64
	Workloads int // default 2,000
	Nodes     int // default 80, some hundred endpoints each
	Clients   int // addresses outside that come in; default 20,000
}

func (c Config) withDefaults() Config {
	for _, f := range []struct{ value, def *int }{
		{&c.Workloads, new(2000)}, {&c.Nodes, new(80)}, {&c.Clients, new(20_000)},
	} {
		if *f.value == 0 {
			*f.value = *f.def
		}
	}
	return c
}

// minWorkloads are one of each kind.
const minWorkloads = 20

// Validate reports every problem of c.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if c.Workloads < minWorkloads || c.Workloads > 50_000 {
		errs = append(errs, fmt.Errorf("%d workloads: want %d to 50,000", c.Workloads, minWorkloads))
	}
	if c.Nodes < 1 || c.Nodes > 4000 {
		errs = append(errs, fmt.Errorf("%d nodes: want 1 to 4,000", c.Nodes))
	}
	if c.Clients < 1 || c.Clients > 1<<20 {
		errs = append(errs, fmt.Errorf("%d clients: want 1 to %d", c.Clients, 1<<20))
	}
	return errors.Join(errs...)
}

// Estate is made once and may then be used concurrently.
type Estate struct {
	cfg       Config
	workloads []*workload
	nodes     []node
	clients   []*end // outside, coming in
	services  []*end // outside, called
	calls     []call
	pick      alias // of calls
}

// node is a machine with an agent.
type node struct {
	name  string
	end   *end          // its own address, as its endpoints see it
	phase time.Duration // of its clock's ticks
	ends  int           // that live on it
}

// end is who a flow can begin or end at.
type end struct {
	party    *flow.Party
	v4, v6   netip.Addr
	id       uint32 // of an endpoint
	node     int32  // -1: outside
	workload *workload
}

// role is what a workload does.
type role uint8

const (
	service role = iota
	frontend
	database
	batch
	resolver
	scraper
	ingress
)

// stage is how far a workload's policy is.
type stage uint8

const (
	observed stage = iota
	audited
	enforced
)

type workload struct {
	name      flow.Workload
	labels    map[string]string
	canonical string // labels
	identity  flow.Identity
	role      role
	port      uint16 // it serves on
	ends      []*end
	stage     stage
	lifetime  time.Duration // between two revisions of its policy
	dual      bool          // has IPv6 connections too
}

// New makes the estate that cfg describes.
func New(cfg Config) (*Estate, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("estate: %w", err)
	}
	e := &Estate{cfg: cfg.withDefaults()}
	r := rand.New(rand.NewPCG(e.cfg.Seed, 1))
	e.addNodes(r)
	e.addWorkloads(r)
	e.addOutside(r)
	e.addCalls(r)
	return e, nil
}

// Nodes returns how many there are.
func (e *Estate) Nodes() int { return len(e.nodes) }

// Workloads returns their names.
func (e *Estate) Workloads() []flow.Workload {
	out := make([]flow.Workload, len(e.workloads))
	for i, w := range e.workloads {
		out[i] = w.name
	}
	return out
}

func (e *Estate) addNodes(r *rand.Rand) {
	host := &flow.Party{Reserved: flow.IdentityHost.ReservedName(), Identity: flow.IdentityHost}
	e.nodes = make([]node, e.cfg.Nodes)
	for i := range e.nodes {
		e.nodes[i] = node{
			name: fmt.Sprintf("node-%03d", i+1),
			end: &end{
				party: host, node: -1,
				v4: netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), v6: v6(0xff, uint32(i)),
			},
			phase: time.Duration(r.Int64N(int64(tick))),
		}
	}
}

// v6 is an address of fd00::/8.
func v6(net byte, host uint32) netip.Addr {
	b := [16]byte{0: 0xfd, 7: net, 12: byte(host >> 24), 13: byte(host >> 16), 14: byte(host >> 8), 15: byte(host)}
	return netip.AddrFrom16(b)
}

var (
	words = strings.Fields(`account address audit basket billing booking campaign catalog checkout claim contact content
		coupon credit delivery device discount document event export feed fraud gift identity image import index invoice
		ledger loyalty mail market media member message notice offer order partner payment photo pickup policy price
		product profile promo quote rating refund report return review reward route search session shipment signup
		stock store survey tax ticket token tracking transfer user vendor voucher wallet wishlist`)
	suffixes      = strings.Fields("api worker web sync gateway cache consumer proxy scheduler indexer")
	teams         = strings.Fields("atlas borealis cygnus draco eridanus fornax gemini hydra indus")
	servicePorts  = []uint16{8080, 8080, 8080, 80, 443, 8443, 50051, 9000, 3000, 5000}
	databasePorts = []uint16{5432, 5432, 6379, 6379, 3306, 9092, 27017, 9200, 11211}
)

// addWorkloads makes the namespaces: the first few hold what all need.
func (e *Estate) addWorkloads(r *rand.Rand) {
	namespaces := max(e.cfg.Workloads/50, 3)
	for i := range e.cfg.Workloads {
		k := skewed(r, namespaces)
		ns := fmt.Sprintf("%s-%s", teams[k%len(teams)], words[k%len(words)])
		w := &workload{identity: flow.FirstWorkloadIdentity + flow.Identity(i), lifetime: days(5 + r.Float64()*40), dual: r.IntN(10) == 0}
		replicas := 1 + min(int(pareto(r, 1.3, 40))-1+r.IntN(3), 40)
		switch p := r.IntN(100); {
		case i == 0:
			ns, w.role, w.port, replicas = "kube-system", resolver, 53, 8
		case i == 1:
			ns, w.role, w.port, replicas = "monitoring", scraper, 9090, 4
		case i < 8:
			ns, w.role, w.port, replicas = "ingress", ingress, 443, 6
		case p < 8 || i == 8:
			w.role, w.port = frontend, servicePorts[r.IntN(len(servicePorts))]
		case p < 20 || i == 9:
			w.role, w.port, replicas = database, databasePorts[r.IntN(len(databasePorts))], 1+2*r.IntN(2)
		case p < 23:
			w.role, w.port = batch, 9100
		default:
			w.role, w.port = service, servicePorts[r.IntN(len(servicePorts))]
		}
		name := fmt.Sprintf("%s-%s", words[r.IntN(len(words))], suffixes[r.IntN(len(suffixes))])
		if other := fmt.Sprintf("%s-%d", name, i); i < 8 || slices.ContainsFunc(e.workloads, func(o *workload) bool {
			return o.name.Namespace == ns && o.name.Name == name
		}) {
			name = other
		}
		kind := "Deployment"
		if w.role == database || w.role == scraper {
			kind = "StatefulSet"
		}
		w.name = flow.Workload{Namespace: ns, Kind: kind, Name: name}
		w.label(r)
		w.stage = []stage{observed, observed, observed, audited, audited, enforced}[r.IntN(6)]
		e.addEnds(r, w, replicas)
		e.workloads = append(e.workloads, w)
	}
}

func (w *workload) label(r *rand.Rand) {
	w.labels = map[string]string{
		"app.kubernetes.io/name":    w.name.Name,
		"app.kubernetes.io/part-of": w.name.Namespace,
		"team":                      teams[r.IntN(len(teams))],
		"tier":                      [...]string{"service", "frontend", "database", "batch", "platform", "platform", "platform"}[w.role],
	}
	if r.IntN(3) == 0 {
		w.labels["criticality"] = strings.Fields("low medium high")[r.IntN(3)]
	}
	w.canonical = flow.JoinLabels(w.labels)
}

// letters are those of generated pod names.
const letters = "bcdfghjklmnpqrstvwxz2456789"

func suffix(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[r.IntN(len(letters))]
	}
	return string(b)
}

func (e *Estate) addEnds(r *rand.Rand, w *workload, replicas int) {
	set := suffix(r, 10)
	for i := range replicas {
		n := r.IntN(len(e.nodes))
		pod := fmt.Sprintf("%s-%s-%s", w.name.Name, set, suffix(r, 5))
		if w.name.Kind == "StatefulSet" {
			pod = fmt.Sprintf("%s-%d", w.name.Name, i)
		}
		e.nodes[n].ends++
		host := e.nodes[n].ends
		w.ends = append(w.ends, &end{
			party: &flow.Party{Workload: w.name, Endpoint: pod, Identity: w.identity, Labels: w.canonical},
			v4:    netip.AddrFrom4([4]byte{10, byte(n >> 4), byte(n<<4 | host>>8), byte(host)}),
			v6:    v6(1, uint32(n)<<16|uint32(host)),
			id:    uint32(w.identity)<<6 | uint32(i), node: int32(n), workload: w,
		})
	}
}

// addOutside makes clients in a few prefixes, and services that are called.
func (e *Estate) addOutside(r *rand.Rand) {
	world := &flow.Party{Reserved: flow.IdentityWorld.ReservedName(), Identity: flow.IdentityWorld}
	prefixes := make([][3]byte, max(e.cfg.Clients/12, 1))
	for i := range prefixes {
		prefixes[i] = [3]byte{byte(20 + r.IntN(150)), byte(r.IntN(256)), byte(r.IntN(256))}
	}
	for i := range e.cfg.Clients {
		p := prefixes[skewed(r, len(prefixes))]
		six := [16]byte{0x20, 0x01, 4: p[0], 5: p[1], 6: p[2], 7: byte(r.IntN(4))}
		for j := 8; j < 16; j++ {
			six[j] = byte(r.IntN(256))
		}
		e.clients = append(e.clients, &end{
			party: world, node: -1, id: uint32(i),
			v4: netip.AddrFrom4([4]byte{p[0], p[1], p[2], byte(r.IntN(256))}), v6: netip.AddrFrom16(six),
		})
	}
	for i := range 300 {
		a := netip.AddrFrom4([4]byte{byte(3 + r.IntN(15)), byte(r.IntN(256)), byte(r.IntN(256)), byte(1 + r.IntN(254))})
		e.services = append(e.services, &end{party: world, node: -1, v4: a, v6: v6(2, uint32(i))})
	}
}

// skewed draws from [0, n) by a power law: small numbers are common.
func skewed(r *rand.Rand, n int) int {
	u := r.Float64()
	return int(u * u * u * float64(n))
}

// pareto draws from 1 to limit by a power law with exponent 1+a.
func pareto(r *rand.Rand, a, limit float64) float64 {
	return min(math.Pow(1-r.Float64(), -1/a), limit)
}

func days(n float64) time.Duration { return time.Duration(n * 24 * float64(time.Hour)) }
