package flow

import "fmt"

// Direction is that of a flow as the observed endpoint sees it.
type Direction uint8

// Directions. A flow picked up in the middle has none until it is proven.
const (
	DirectionUnknown Direction = iota
	Ingress
	Egress
)

var directionNames = [...]string{"unknown", "ingress", "egress"}

func (d Direction) String() string { return name(directionNames[:], uint8(d), "direction") }

// ParseDirection reads the form that String writes.
func ParseDirection(s string) (Direction, error) {
	i, err := parse(directionNames[:], s, "direction")
	return Direction(i), err
}

// MarshalText implements encoding.TextMarshaler.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Direction) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDirection(string(b))
	return err
}

// Verdict is what one slot says of a flow. The zero value is never "allow".
type Verdict uint8

// Verdicts. They equal enum rf_verdict in bpf/types.h.
const (
	VerdictUnknown Verdict = iota // the slot is empty: nothing was judged
	VerdictAllow
	VerdictDeny
)

var verdictNames = [...]string{"unknown", "allow", "deny"}

func (v Verdict) String() string { return name(verdictNames[:], uint8(v), "verdict") }

// ParseVerdict reads the form that String writes.
func ParseVerdict(s string) (Verdict, error) {
	i, err := parse(verdictNames[:], s, "verdict")
	return Verdict(i), err
}

// MarshalText implements encoding.TextMarshaler.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *Verdict) UnmarshalText(b []byte) (err error) {
	*v, err = ParseVerdict(string(b))
	return err
}

// Outcome is what happened to the packets of a flow, both slots taken together.
type Outcome uint8

// Outcomes.
const (
	OutcomeUnknown   Outcome = iota
	OutcomeForwarded         // no slot denies
	OutcomeAudited           // forwarded, and the staged slot (or the live one under panic) would deny
	OutcomeDropped           // the live slot denied
)

var outcomeNames = [...]string{"unknown", "forwarded", "audited", "dropped"}

func (o Outcome) String() string { return name(outcomeNames[:], uint8(o), "outcome") }

// ParseOutcome reads the form that String writes.
func ParseOutcome(s string) (Outcome, error) {
	i, err := parse(outcomeNames[:], s, "outcome")
	return Outcome(i), err
}

// MarshalText implements encoding.TextMarshaler.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Outcome) UnmarshalText(b []byte) (err error) {
	*o, err = ParseOutcome(string(b))
	return err
}

// Reason says why a slot judged as it did.
type Reason uint8

// Reasons. They equal enum rf_reason in bpf/types.h.
const (
	ReasonNone      Reason = iota // nothing was judged
	ReasonNoPolicy                // the slot holds no policy for this workload and direction
	ReasonRule                    // a rule of the policy matched
	ReasonDefault                 // the direction is isolated and no rule matched
	ReasonFailsafe                // node traffic, DHCP, neighbour discovery, the agent's own way
	ReasonRelated                 // an ICMP error that quotes a known flow
	ReasonSpoofed                 // the source address is not the endpoint's
	ReasonMidstream               // picked up in the middle, and neither direction is allowed (or one is)
	ReasonMalformed               // a header that cannot be parsed
	ReasonGuardrail               // a guardrail denies it, whatever the rules say
	ReasonPending                 // the identity of the endpoint or its peer is not known yet
)

var reasonNames = [...]string{"none", "no-policy", "rule", "default-deny", "failsafe", "related", "spoofed", "midstream", "malformed", "guardrail", "pending"}

func (r Reason) String() string { return name(reasonNames[:], uint8(r), "reason") }

// ParseReason reads the form that String writes.
func ParseReason(s string) (Reason, error) {
	i, err := parse(reasonNames[:], s, "reason")
	return Reason(i), err
}

// MarshalText implements encoding.TextMarshaler.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Reason) UnmarshalText(b []byte) (err error) {
	*r, err = ParseReason(string(b))
	return err
}

// Slot is one of the two places a workload's policy can be in.
type Slot uint8

// Slots. They equal enum rf_slot in bpf/types.h.
const (
	SlotLive   Slot = iota // decides
	SlotStaged             // is only judged
)

var slotNames = [...]string{"live", "staged"}

func (s Slot) String() string { return name(slotNames[:], uint8(s), "slot") }

func name(names []string, i uint8, what string) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s(%d)", what, i)
}

func parse(names []string, s, what string) (uint8, error) {
	for i, n := range names {
		if n == s {
			return uint8(i), nil
		}
	}
	return 0, fmt.Errorf("%s %q: want one of %q", what, s, names)
}
