package flowfile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-json"

	"github.com/ringfence/ringfence/internal/flow"
)

// Set is what files say, added up. It is complete once Read returns it and may
// then be read concurrently.
type Set struct {
	Summary Summary

	cfg     Config
	edges   map[edgeKey]*edge
	order   []*edge // all of them by their keys, once all is read
	pending *connections
	pods    map[podKey]*pod
	labels  map[flow.Workload]map[string]string // that all pods of a workload have
	spaces  map[string]map[string]string        // labels of namespaces
	nodes   map[string]*node
	names   map[string]map[netip.Addr]bool
	orphans map[flow.Workload]bool // without an owner
	strange map[string]bool        // sources of labels that are not known
	hidden  map[client]string      // services that a client connected to, its backend unseen
	services,
	unresolved map[string]uint64
}

// Summary counts what was read. The zero value is an empty file's.
type Summary struct {
	Lines uint64 `json:"lines"`
	Flows uint64 `json:"flows"` // lines that were added up
	// Bad lines are no flows; First are some of them.
	Bad   uint64    `json:"bad"`
	First []BadLine `json:"firstBad,omitempty"`
	// Outside counts flows before or after the time asked for.
	Outside uint64 `json:"outside"`
	// Skipped counts what is no connection, by why.
	Skipped map[string]uint64 `json:"skipped,omitempty"`
	// Lost counts the records that whoever wrote the files says are missing.
	Lost uint64 `json:"lost"`
	// Edges are those learned from; Connections began in the files.
	Edges       int    `json:"edges"`
	Connections uint64 `json:"connections"`
	// Since and Until span the flows; both are zero when there is none.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Notes say what a reader of the results has to know, in order.
	Notes []string `json:"notes,omitempty"`
}

// BadLine is a line that is no flow.
type BadLine struct {
	File string `json:"file"`
	Line uint64 `json:"line"`
	Why  string `json:"why"`
}

func (b BadLine) String() string { return fmt.Sprintf("%s:%d: %s", b.File, b.Line, b.Why) }

// maxBad is how many bad lines are kept to be shown.
const maxBad = 5

// maxNames bounds the DNS names kept.
const maxNames = 100_000

// LimitError says that files hold more than is kept in memory.
type LimitError struct {
	What  string
	Limit int
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("the files hold more than %d %s: give a shorter time with --since and --until, or fewer files", e.Limit, e.What)
}

type edgeKey struct {
	from, to flow.Party
	protocol flow.Protocol
	port     uint16
	at       flow.Direction
	known    bool // the direction is
	both     bool
	observer flow.Workload
}

// edge is a key's traffic by the hour, in order.
type edge struct {
	key     edgeKey
	buckets []bucket
	other   uint16 // port of the source, where nobody knows who is the server
	samples []Sample
}

// Sample is one of an edge's flows.
type Sample struct {
	Time        time.Time      `json:"time"`
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// Endpoints are the pods' names, where they are known.
	SourceEndpoint      string `json:"sourceEndpoint,omitempty"`
	DestinationEndpoint string `json:"destinationEndpoint,omitempty"`
}

// maxSamples is how many flows of an edge are kept as they were.
const maxSamples = 3

type bucket struct {
	hour                  int64 // since 1970
	connections, answered uint64
	denied, staged        uint64
	forward, back         flow.Counters
	first, last           time.Time
	sources, dests        []*pod
}

// maxReplicas is how many distinct endpoints of an edge and hour are told apart.
const maxReplicas = 1000

func (e *edge) bucket(hour int64) *bucket {
	for i := len(e.buckets) - 1; i >= 0; i-- {
		switch b := &e.buckets[i]; {
		case b.hour == hour:
			return b
		case b.hour < hour:
			e.buckets = slices.Insert(e.buckets, i+1, bucket{hour: hour})
			return &e.buckets[i+1]
		}
	}
	e.buckets = slices.Insert(e.buckets, 0, bucket{hour: hour})
	return &e.buckets[0]
}

func newSet(cfg Config) *Set {
	return &Set{
		cfg: cfg, edges: map[edgeKey]*edge{}, pending: newConnections(cfg.MaxConnections), pods: map[podKey]*pod{},
		labels: map[flow.Workload]map[string]string{}, spaces: map[string]map[string]string{}, nodes: map[string]*node{},
		names: map[string]map[netip.Addr]bool{}, orphans: map[flow.Workload]bool{}, strange: map[string]bool{},
		hidden: map[client]string{}, services: map[string]uint64{}, unresolved: map[string]uint64{},
		Summary: Summary{Skipped: map[string]uint64{}},
	}
}

func (s *Set) skip(why string) { s.Summary.Skipped[why]++ }

// wanted reports whether a flow of that time is asked for.
func (s *Set) wanted(t time.Time) bool {
	if !s.cfg.Since.IsZero() && t.Before(s.cfg.Since) || !s.cfg.Until.IsZero() && !t.Before(s.cfg.Until) {
		s.Summary.Outside++
		return false
	}
	return true
}

func (s *Set) bad(file string, line uint64, err error) {
	s.Summary.Bad++
	if len(s.Summary.First) < maxBad {
		s.Summary.First = append(s.Summary.First, BadLine{file, line, err.Error()})
	}
}

// add takes a record in. An error is a *LimitError.
func (s *Set) add(r *record) error {
	s.Summary.Flows++
	if s.Summary.Since.IsZero() || r.time.Before(s.Summary.Since) {
		s.Summary.Since = r.time
	}
	if !r.time.Before(s.Summary.Until) {
		s.Summary.Until = r.time.Add(time.Microsecond) // the end is not included
	}
	r.node = s.beat(r.node, r.time).name // a record's own text would keep its whole line
	if r.from.who.service || r.to.who.service {
		s.viaService(r)
		return nil
	}
	from, to, err := s.owners(r)
	if err != nil {
		return err
	}
	s.resolved(r)
	key := edgeKey{
		from: r.from.flow(), to: r.to.flow(), protocol: r.protocol, port: r.to.port,
		at: r.at, known: r.initiator, both: r.both, observer: r.observer,
	}
	if r.both && r.initiator {
		key.at = flow.DirectionUnknown // it stands for either
	}
	e := s.edges[key]
	if e == nil {
		if len(s.edges) >= s.cfg.MaxEdges {
			return &LimitError{"edges", s.cfg.MaxEdges}
		}
		e = &edge{key: key, other: r.from.port}
		s.edges[key] = e
	}
	s.count(r, e, from, to)
	return nil
}

// count adds a record to its edge.
func (s *Set) count(r *record, e *edge, from, to *pod) {
	hour := r.time.Unix() / 3600
	b := e.bucket(hour)
	if b.first.IsZero() || r.time.Before(b.first) {
		b.first = r.time
	}
	if r.time.After(b.last) {
		b.last = r.time
	}
	b.sources, b.dests = withPod(b.sources, from), withPod(b.dests, to)
	if r.counted {
		b.forward.Packets += r.forward.Packets
		b.forward.Bytes += r.forward.Bytes
		b.back.Packets += r.back.Packets
		b.back.Bytes += r.back.Bytes
	}
	name := tuple{from: r.from.addr, to: r.to.addr, fromPort: r.from.port, toPort: r.to.port, protocol: r.protocol}
	if !r.both {
		name.at = r.at
	}
	c := s.pending.of(name)
	if c.edge != nil && s.anew(r, c) {
		settle(map[uint64]*connection{0: c})
		*c = connection{}
	}
	if c.edge != e {
		*c = connection{edge: e, hour: hour}
	}
	if c.last == 0 && len(e.samples) < maxSamples {
		e.samples = append(e.samples, Sample{
			Time: r.time, Source: netip.AddrPortFrom(r.from.addr, r.from.port), Destination: netip.AddrPortFrom(r.to.addr, r.to.port),
			SourceEndpoint: r.from.who.endpoint, DestinationEndpoint: r.to.who.endpoint,
		})
	}
	c.last = r.time.Unix()
	s.begin(r, c, b)
	switch {
	case r.counted:
		c.fwd, c.back = 2, 2 // they are counted as they are
		if r.completed {
			c.complete()
		}
	case !r.dropped:
		c.packet(r, b)
	case !r.reply:
		b.forward.Packets++
	}
	if r.denied && !c.denied {
		c.denied = true
		b.denied++
	}
	if r.staged && !c.staged {
		c.staged = true
		b.staged++
	}
}

// begin counts the beginning of a connection once.
func (s *Set) begin(r *record, c *connection, b *bucket) {
	if !r.began || c.began {
		return
	}
	c.began = true
	n := max(r.connections, 1)
	b.connections += n
	s.Summary.Connections += n
}

// packet follows a connection by one packet of it.
func (c *connection) packet(r *record, b *bucket) {
	if r.reply {
		b.back.Packets++
		c.back = min(c.back+1, 2)
	} else {
		b.forward.Packets++
		c.fwd = min(c.fwd+1, 2)
	}
	switch {
	case r.protocol != flow.TCP:
		if r.reply {
			c.complete()
		}
	case r.reset:
		c.reset = true
	case r.reply && r.syn:
		c.half = true
	case r.reply, c.half: // data, or the initiator goes on
		c.complete()
	}
}

// anew reports whether r begins another connection with the ends of c.
func (s *Set) anew(r *record, c *connection) bool {
	switch {
	case r.counted:
		return r.began && c.began && r.time.Unix() != c.last
	case r.protocol == flow.TCP:
		// The same SYN is seen at several places, within a moment.
		return r.began && (c.whole || c.reset) && r.time.Unix() > c.last
	}
	return r.time.Unix()-c.last > idle
}

func withPod(list []*pod, p *pod) []*pod {
	if p == nil || slices.Contains(list, p) || len(list) >= maxReplicas {
		return list
	}
	return append(list, p)
}

// client names one connection by its client, for the answer of who its server
// is once a service's address is translated.
type client struct {
	addr     netip.Addr
	port     uint16
	protocol flow.Protocol
}

// viaService remembers a connection to an address that stands for others. What
// is behind it is seen where the address is translated.
func (s *Set) viaService(r *record) {
	name := r.to.who.endpoint
	if !r.to.who.service {
		name = r.from.who.endpoint
	}
	s.services[name]++
	if len(s.hidden) < maxConnections && r.began {
		s.hidden[client{r.from.addr, r.from.port, r.protocol}] = name
	}
}

func (s *Set) resolved(r *record) {
	if len(s.hidden) > 0 {
		delete(s.hidden, client{r.from.addr, r.from.port, r.protocol})
	}
}

// named keeps that a DNS name has an address.
func (s *Set) named(name string, a netip.Addr) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	have := s.names[name]
	if have == nil {
		if len(s.names) >= maxNames || name == "" {
			return
		}
		have = map[netip.Addr]bool{}
		s.names[name] = have
	}
	have[a] = true
}

// dns keeps the answer of an L7 flow, if it is one of DNS.
func (s *Set) dns(l7 []byte) {
	var l struct {
		Type string `json:"type"`
		DNS  *struct {
			Query string   `json:"query"`
			IPs   []string `json:"ips"`
		} `json:"dns"`
	}
	if len(l7) == 0 || json.Unmarshal(l7, &l) != nil || l.DNS == nil || l.Type != "RESPONSE" {
		return
	}
	for _, ip := range l.DNS.IPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			s.named(l.DNS.Query, a.Unmap())
		}
	}
}

func (s *Set) unknownLabels(source string) {
	if len(s.strange) < 100 {
		s.strange[source] = true
	}
}

func (s *Set) ownerless(w flow.Workload) { s.orphans[w] = true }

// finish counts what was still open and writes the notes.
func (s *Set) finish() {
	settle(s.pending.young)
	settle(s.pending.old)
	s.pending = nil
	s.orient()
	s.order = slices.SortedFunc(maps.Values(s.edges), func(a, b *edge) int { return a.key.compare(&b.key) })
	s.Summary.Edges = len(s.edges)
	for _, name := range s.hidden {
		s.unresolved[name]++
	}
	note := func(format string, args ...any) {
		s.Summary.Notes = append(s.Summary.Notes, fmt.Sprintf(format, args...))
	}
	for _, w := range slices.SortedFunc(maps.Keys(s.orphans), flow.Workload.Compare) {
		note("%s: the lines name no owner, so it is grouped by its labels", w)
	}
	for _, name := range slices.Sorted(maps.Keys(s.unresolved)) {
		note("%d connections to Service %s are left out: no line shows which backend got them", s.unresolved[name], name)
	}
	if len(s.strange) > 0 {
		note("labels of these sources are left out, since no policy can select them: %s", strings.Join(slices.Sorted(maps.Keys(s.strange)), ", "))
	}
	s.Summary.Notes = append(s.Summary.Notes, s.contradictions()...)
}

// orient turns edges of unknown direction towards the end that other flows show
// to be a server. The analyzer judges what stays unknown.
func (s *Set) orient() {
	type service struct {
		party    flow.Party
		protocol flow.Protocol
		port     uint16
	}
	servers := map[service]bool{}
	for k := range s.edges {
		if k.known {
			servers[service{k.to, k.protocol, k.port}] = true
		}
	}
	for k, e := range s.edges {
		if k.known || !k.both || servers[service{k.to, k.protocol, k.port}] || !servers[service{k.from, k.protocol, e.other}] {
			continue
		}
		e.key.from, e.key.to, e.key.port = k.to, k.from, e.other
		for i := range e.buckets {
			b := &e.buckets[i]
			b.forward, b.back, b.sources, b.dests = b.back, b.forward, b.dests, b.sources
		}
	}
}
