package analyzer

import (
	"fmt"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// Recommendation is what was learned of one workload.
type Recommendation struct {
	Workload flow.Workload `json:"workload"`
	Window   Window        `json:"window"`
	// Policy is the candidate: the rules proposed for acceptance, and isolation of
	// the directions that have one. It is nil when nothing could be learned, and
	// NoPolicy says why.
	Policy   *policy.Policy `json:"policy,omitempty"`
	NoPolicy string         `json:"noPolicy,omitempty"`

	Ingress DirectionState `json:"ingress"`
	Egress  DirectionState `json:"egress"`
	// Rules are all rules learned, those that wait for a person included.
	Rules    []Rule     `json:"rules"`
	Excluded []Excluded `json:"excluded"`
	Coverage Coverage   `json:"coverage"`
	// Completeness says in numbers how much may have gone unseen.
	Completeness Completeness `json:"completeness"`
	// Notes are remarks for the reviewer that belong to no single rule.
	Notes []string `json:"notes"`
}

// DirectionState says what was learned in one direction.
type DirectionState struct {
	Observed bool   `json:"observed"` // a learnable edge was seen
	Isolated bool   `json:"isolated"` // proposed
	Words    string `json:"words"`
}

// Proposal is what the analyzer thinks should happen with a rule.
type Proposal string

// Proposals. A rule to review is accepted one by one, never in bulk. Keep and
// Remove are for rules of a policy that is there already.
const (
	Accept Proposal = "accept"
	Review Proposal = "review"
	Keep   Proposal = "keep"
	Remove Proposal = "remove"
)

// Rule is one rule with what speaks for and against it.
type Rule struct {
	Rule      policy.Rule    `json:"rule"`
	Direction flow.Direction `json:"direction"`
	Sentence  string         `json:"sentence"`
	Proposed  Proposal       `json:"proposed"`
	// Implied: the rule follows from another one and was not observed itself.
	Implied bool `json:"implied,omitempty"`
	// Evidence has one entry for every observed edge the rule admits.
	Evidence []Evidence `json:"evidence"`
	Flags    []Flag     `json:"flags"`
	// AlsoAdmits says in words what the rule admits beyond what was observed;
	// AlsoSelects are the workloads of these that its selectors pick today.
	AlsoAdmits  []string        `json:"alsoAdmits"`
	AlsoSelects []flow.Workload `json:"alsoSelects"`
	// ShadowedBy are the IDs of rules that admit together all that it admits.
	ShadowedBy []string `json:"shadowedBy,omitempty"`
	// MayAdmit says in words who else it may come to admit later, as labels,
	// names and nodes change.
	MayAdmit []string `json:"mayAdmit"`
}

// Flag is a reason to look at a rule before accepting it.
type Flag struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

// Codes of flags.
const (
	FlagSeenOnce          = "seen-once"
	FlagBurst             = "burst"
	FlagLate              = "late"
	FlagExternalFirstSeen = "external-first-seen"
	FlagSingleReplica     = "single-replica"
	FlagRare              = "rare"
	FlagScan              = "scan"
	FlagAdminPort         = "admin-port"
	FlagOneSided          = "one-sided"
	FlagDenied            = "denied"
	FlagBroad             = "broad"
	FlagLosses            = "losses"
	FlagNode              = "node"
	FlagEnvironment       = "cross-environment"
	FlagImplied           = "implied"
	FlagUnused            = "unused"
	FlagShadowed          = "shadowed"
	FlagLeftOut           = "left-out"
	FlagUnanswered        = "unanswered"
	FlagOpen              = "open"
)

// Observers of an edge, as Evidence.ObservedAt has them.
const (
	AtBoth = "both"
	AtHere = "here" // at the workload the rule is for
	AtPeer = "peer"
)

// Evidence is what was seen of one edge that a rule admits. Where both ends
// were observed they saw the same flows, so their numbers are not added up: the
// larger one counts.
type Evidence struct {
	Peer     flow.Party    `json:"peer"`
	Protocol flow.Protocol `json:"protocol"`
	Port     uint16        `json:"port"`

	Connections uint64        `json:"connections"`
	Answered    uint64        `json:"answered"`
	Forward     flow.Counters `json:"forward"` // from the initiator
	Reverse     flow.Counters `json:"reverse"`

	FirstSeen time.Time `json:"firstSeen"`
	LastSeen  time.Time `json:"lastSeen"`

	SourceEndpoints      uint64 `json:"sourceEndpoints"`
	DestinationEndpoints uint64 `json:"destinationEndpoints"`
	Hours                uint64 `json:"hours"` // distinct ones
	Days                 uint64 `json:"days"`
	// WeekHours are the hours of the week with traffic.
	WeekHours    flow.WeekHours `json:"weekHours"`
	DeniedLive   uint64         `json:"deniedLive"`
	DeniedStaged uint64         `json:"deniedStaged"`
	ObservedAt   string         `json:"observedAt"`
	// Midstream: some of it began unseen, and its direction was proven by other
	// flows to the same port.
	Midstream bool `json:"midstream,omitempty"`
}

// Excluded is an edge that was seen and not learned.
type Excluded struct {
	Direction   flow.Direction `json:"direction"`
	Source      flow.Party     `json:"source"`
	Destination flow.Party     `json:"destination"`
	Protocol    flow.Protocol  `json:"protocol"`
	Port        uint16         `json:"port"` // 0: several, none of them known to be the responder's
	Connections uint64         `json:"connections"`
	Code        string         `json:"code"`
	Reason      string         `json:"reason"`
}

// Codes of exclusions.
const (
	ExcludedUnanswered = "unanswered"
	ExcludedRefused    = "refused"
	ExcludedFailsafe   = "failsafe"
	ExcludedDirection  = "direction-unknown"
	ExcludedSpoofed    = "spoofed"
	ExcludedGuardrail  = "guardrail"
	ExcludedUnknown    = "unknown-peer"
	ExcludedNoLabels   = "no-labels"
)

// PolicyOf returns the policy of the rules that accepted names by ID. A
// direction is isolated when one of its rules is accepted. It shares r's rules.
func (r *Recommendation) PolicyOf(accepted []string) (policy.Policy, error) {
	p := policy.Policy{Workload: r.Workload}
	places := make(map[string]int, len(r.Rules))
	for i := range r.Rules {
		places[r.Rules[i].Rule.ID] = i
	}
	for _, id := range accepted {
		i, ok := places[id]
		if !ok {
			return policy.Policy{}, fmt.Errorf("rule %q is not among the recommended ones; ask for the recommendation again", id)
		}
		if r.Rules[i].Direction == flow.Ingress {
			p.IsolateIngress, p.Ingress = true, append(p.Ingress, r.Rules[i].Rule)
		} else {
			p.IsolateEgress, p.Egress = true, append(p.Egress, r.Rules[i].Rule)
		}
	}
	return policy.Arrange(p), nil
}
