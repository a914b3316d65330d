package flowfile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

type podKey struct {
	workload flow.Workload
	name     string
	addr     netip.Addr
}

// pod is an endpoint under one address.
type pod struct {
	podKey
	node        string // that watched it; "" when nobody did
	first, last time.Time
	party       *party // whose labels were taken in last
}

// node is what the lines say of one that wrote them.
type node struct {
	name        string
	first, last time.Time
	lines, lost uint64
	losses      []time.Time // when, the first ones of very many
}

// maxLosses is how many times of losses are kept of a node.
const maxLosses = 10_000

func (s *Set) beat(name string, at time.Time) *node {
	n := s.nodes[name]
	if n == nil {
		n = &node{name: strings.Clone(name), first: at, last: at}
		s.nodes[n.name] = n
	}
	n.lines++
	if at.Before(n.first) {
		n.first = at
	}
	if at.After(n.last) {
		n.last = at
	}
	return n
}

// lose counts records that a node says are missing; without a time they may be
// missing anywhere.
func (s *Set) lose(name string, at time.Time, count uint64) {
	if !at.IsZero() && !s.wanted(at) {
		return
	}
	n := s.nodes[name]
	if n == nil {
		n = &node{name: strings.Clone(name)}
		s.nodes[n.name] = n
	}
	n.lost += count
	if !at.IsZero() && len(n.losses) < maxLosses {
		n.losses = append(n.losses, at)
	}
	s.Summary.Lost += count
}

// owners keeps who has the addresses of a record.
func (s *Set) owners(r *record) (from, to *pod, err error) {
	if from, err = s.pod(&r.from, r, flow.Egress); err != nil {
		return nil, nil, err
	}
	to, err = s.pod(&r.to, r, flow.Ingress)
	return from, to, err
}

func (s *Set) pod(e *end, r *record, side flow.Direction) (*pod, error) {
	if e.who.workload.IsZero() {
		return nil, nil
	}
	key := podKey{e.who.workload, e.who.endpoint, e.addr}
	p := s.pods[key]
	if p == nil {
		if len(s.pods) >= s.cfg.MaxEndpoints {
			return nil, &LimitError{"endpoints", s.cfg.MaxEndpoints}
		}
		p = &pod{podKey: key, first: r.time, last: r.time}
		s.pods[key] = p
	}
	if p.party != e.who {
		p.party = e.who
		s.label(e.who)
	}
	if r.time.Before(p.first) {
		p.first = r.time
	}
	if r.time.After(p.last) {
		p.last = r.time
	}
	here := r.initiator && r.at == side && (r.both || r.observer == e.who.workload)
	if here && p.node == "" {
		p.node = r.node
	}
	return p, nil
}

// label keeps the labels that all pods of a workload have: a selector has to
// pick every one of them.
func (s *Set) label(p *party) {
	if have, ok := s.labels[p.workload]; ok {
		maps.DeleteFunc(have, func(k, v string) bool { return p.labels[k] != v })
	} else {
		s.labels[p.workload] = maps.Clone(p.labels)
	}
	if len(p.namespaced) > 0 && s.spaces[p.workload.Namespace] == nil {
		s.spaces[p.workload.Namespace] = p.namespaced
	}
}

// maxLabelName bounds the name of a workload that is known by its labels.
const maxLabelName = 100

// byLabels names pods without a known owner by their labels, those left out
// that change with a rollout.
func byLabels(namespace string, labels map[string]string) flow.Workload {
	stable := maps.Clone(labels)
	maps.DeleteFunc(stable, func(k, _ string) bool { return strings.Contains(k, "hash") || strings.Contains(k, "version") })
	if len(stable) == 0 {
		stable = labels
	}
	name := strings.ReplaceAll(flow.JoinLabels(stable), "/", ":")
	if len(name) > maxLabelName {
		sum := sha256.Sum256([]byte(name))
		name = name[:maxLabelName-9] + "-" + hex.EncodeToString(sum[:4])
	}
	return flow.Workload{Namespace: namespace, Kind: "Labels", Name: name}
}

// contradictions names the addresses that two workloads had at the same time.
func (s *Set) contradictions() (notes []string) {
	by := map[netip.Addr][]*pod{}
	for _, p := range s.pods {
		by[p.addr] = append(by[p.addr], p)
	}
	for _, a := range slices.SortedFunc(maps.Keys(by), netip.Addr.Compare) {
		list := by[a]
		slices.SortFunc(list, func(a, b *pod) int { return cmp.Or(a.first.Compare(b.first), a.workload.Compare(b.workload)) })
		for i := 1; i < len(list); i++ {
			one, two := list[i-1], list[i]
			if one.workload != two.workload && !two.first.After(one.last) {
				notes = append(notes, fmt.Sprintf("address %s is that of %s and of %s at the same time, %s: flows are taken as their lines name them; one of the two is wrong",
					a, one.workload, two.workload, two.first.UTC().Format(time.RFC3339)))
				break
			}
		}
	}
	return notes
}

// watched stands for the interface of an endpoint whose flows were written down
// where it is.
const watched = "file"

// Inventory returns who the lines say owns which address.
func (s *Set) Inventory() inventory.Inventory {
	inv := inventory.Inventory{Guardrails: s.cfg.Guardrails}
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		inv.Nodes = append(inv.Nodes, inventory.Node{Name: name})
	}
	pods := map[flow.Workload]map[string]*inventory.Endpoint{}
	keys := slices.Collect(maps.Values(s.pods))
	slices.SortFunc(keys, func(a, b *pod) int { return a.addr.Compare(b.addr) })
	for _, p := range keys {
		of := pods[p.workload]
		if of == nil {
			of = map[string]*inventory.Endpoint{}
			pods[p.workload] = of
		}
		name := p.name
		if name == "" {
			name = p.addr.String()
		}
		e := of[name]
		if e == nil {
			e = &inventory.Endpoint{Name: name}
			of[name] = e
		}
		if p.node != "" {
			e.Node, e.Interface = p.node, watched
		}
		if !slices.Contains(e.Addresses, p.addr) {
			e.Addresses = append(e.Addresses, p.addr)
		}
	}
	for _, w := range slices.SortedFunc(maps.Keys(pods), flow.Workload.Compare) {
		out := inventory.Workload{Namespace: w.Namespace, Kind: w.Kind, Name: w.Name, Labels: s.labels[w]}
		for _, name := range slices.Sorted(maps.Keys(pods[w])) {
			out.Endpoints = append(out.Endpoints, *pods[w][name])
		}
		inv.Workloads = append(inv.Workloads, out)
	}
	for _, ns := range slices.Sorted(maps.Keys(s.spaces)) {
		inv.Namespaces = append(inv.Namespaces, inventory.Namespace{Name: ns, Labels: s.spaces[ns]})
	}
	for _, n := range slices.Sorted(maps.Keys(s.names)) {
		inv.Names = append(inv.Names, inventory.Name{Name: n, Addresses: slices.SortedFunc(maps.Keys(s.names[n]), netip.Addr.Compare)})
	}
	return inv
}
