package enforcer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/rollout"
	"github.com/ringfence/ringfence/internal/statefile"
)

// held is what the kernel holds, or is about to: it is on disk before the kernel
// is touched.
type held struct {
	Generation uint64              `json:"generation"` // last State applied whole
	Requested  uint64              `json:"requested"`  // last State applied at all
	Inventory  inventory.Inventory `json:"inventory"`
	Workloads  []workload          `json:"workloads"` // of this node, in order
	CIDRs      []cidr              `json:"cidrs"`
	Services   []service           `json:"services,omitempty"`
}

// workload is what the node holds for one workload.
type workload struct {
	Workload flow.Workload `json:"workload"`
	slots
	SwitchedAt   time.Time `json:"switchedAt"`
	RevertedFrom uint32    `json:"revertedFrom,omitempty"`
	// Barred is a live revision that was not confirmed. The State that asked
	// for it does not bring it back; a newer one that still asks for it does.
	Barred *barred `json:"barred,omitempty"`
	// Pending is set while Live awaits the server's confirmation.
	Pending *pending `json:"pending,omitempty"`
}

type barred struct {
	Revision   uint32 `json:"revision"`
	Digest     string `json:"digest"`
	Generation uint64 `json:"generation"`
}

type pending struct {
	Previous *rollout.Revision `json:"previous,omitempty"` // the last one that was confirmed
	Deadline time.Time         `json:"deadline"`
}

type cidr struct {
	Prefix   netip.Prefix  `json:"prefix"`
	Identity flow.Identity `json:"identity"`
}

type service struct {
	Protocol flow.Protocol  `json:"protocol"`
	Addr     netip.AddrPort `json:"addr"`
	Identity flow.Identity  `json:"identity"`
}

const stateName = "enforcer.state"

func statePath(dir string) string { return filepath.Join(dir, stateName) }

// load reads the state file.
func load(dir string) (held, error) {
	raw, err := statefile.Read(statePath(dir))
	if err != nil {
		return held{}, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var h held
	if err := dec.Decode(&h); err != nil {
		return held{}, &statefile.DamagedError{Path: statePath(dir), Why: "not this version's: " + err.Error()}
	}
	return h, nil
}

func (h *held) store(dir string) error {
	raw, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("encode enforcer state: %w", err)
	}
	return statefile.Write(statePath(dir), raw)
}

// clone returns a copy whose workloads can be changed.
func (h *held) clone() held {
	out := *h
	out.Workloads = slices.Clone(h.Workloads)
	return out
}

func (h *held) setNumbers(n numbers) {
	h.CIDRs, h.Services = nil, nil
	for _, c := range n.prefixes.kernel() {
		h.CIDRs = append(h.CIDRs, cidr{Prefix: c.Prefix, Identity: c.Identity})
	}
	for _, s := range n.services.kernel() {
		h.Services = append(h.Services, service{Protocol: s.Protocol, Addr: s.Addr, Identity: s.Identity})
	}
}

func (h *held) workload(ref flow.Workload) workload {
	for _, w := range h.Workloads {
		if w.Workload == ref {
			return w
		}
	}
	return workload{Workload: ref}
}

func (h *held) slots() map[flow.Workload]slots {
	out := map[flow.Workload]slots{}
	for _, w := range h.Workloads {
		out[w.Workload] = w.slots
	}
	return out
}

func (h *held) numbers() numbers {
	out := numbers{prefixes{}, services{}}
	for _, c := range h.CIDRs {
		out.prefixes[c.Prefix] = c.Identity
	}
	for _, s := range h.Services {
		out.services[inventory.Destination{Protocol: s.Protocol, Addr: s.Addr}] = s.Identity
	}
	return out
}
