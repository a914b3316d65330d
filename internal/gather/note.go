package gather

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
)

// note says what is in a group.
type note struct {
	// At is when its first member came.
	At      time.Time `json:"at"`
	Members []member  `json:"members,omitempty"`
	// Coverage has the rows of each call, and Lost those that tell of a damaged
	// group.
	Coverage []call          `json:"coverage,omitempty"`
	Lost     []flow.Coverage `json:"lost,omitempty"`
}

// member is a batch in a group.
type member struct {
	Token   string    `json:"token"`
	Records uint64    `json:"records"`
	Start   time.Time `json:"start"` // of its records
	End     time.Time `json:"end"`
}

// call is what one TakeCoverage takes: rows of one node and kind.
type call []flow.Coverage

// name tells c from others of its node and kind.
func (c call) name() string {
	raw, _ := json.Marshal(c) // check refuses the only thing that has no form: a time
	return digest(raw)
}

func digest(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16])
}

// decodeNote reads a note. A field that is not known could be a loss: it was
// written by another version.
func decodeNote(raw []byte) (note, error) {
	var n note
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&n); err != nil {
		return note{}, fmt.Errorf("note: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return note{}, errors.New("note: it goes on after its end")
	}
	for _, m := range n.Members {
		if _, err := spool.ParseToken(m.Token); err != nil {
			return note{}, fmt.Errorf("note: %w", err)
		}
	}
	for _, c := range n.Coverage {
		if err := c.check(c.node()); err != nil {
			return note{}, fmt.Errorf("note: %w", err)
		}
	}
	return n, nil
}

func (c call) node() string {
	if len(c) == 0 {
		return ""
	}
	return c[0].Node
}

// check returns what is wrong with c as what node hands over.
func (c call) check(node string) error {
	if len(c) == 0 {
		return errors.New("no rows of coverage")
	}
	for _, r := range c {
		switch {
		case r.Node != node || node == "":
			return fmt.Errorf("coverage of node %q came from node %q", r.Node, node)
		case r.Kind != c[0].Kind:
			return fmt.Errorf("coverage of kinds %s and %s at once", c[0].Kind, r.Kind)
		case !dated(r.Start) || !dated(r.End):
			return fmt.Errorf("coverage from %s to %s: want times from 0000 to 9999", r.Start, r.End)
		}
	}
	return nil
}

// dated reports whether t has a form on disk.
func dated(t time.Time) bool { return t.UTC().Year() >= 0 && t.UTC().Year() <= 9999 }

// rows returns all coverage that is to be stored with the group.
func (n note) rows() []flow.Coverage {
	var out []flow.Coverage
	for _, c := range n.Coverage {
		out = append(out, c...)
	}
	return append(out, n.Lost...)
}

// lost returns what tells that the group's records are gone, of each node.
func (n note) lost() []flow.Coverage {
	var out []flow.Coverage
	index := map[string]int{}
	for _, m := range n.Members {
		t, err := spool.ParseToken(m.Token)
		if err != nil {
			continue // decodeNote checked them
		}
		i, known := index[t.Node]
		if !known {
			i = len(out)
			index[t.Node] = i
			out = append(out, flow.Coverage{Kind: flow.CoverageDropped, Node: t.Node, Start: m.Start, End: m.End})
		}
		c := &out[i]
		c.Dropped += m.Records
		if m.Start.Before(c.Start) {
			c.Start = m.Start
		}
		if m.End.After(c.End) {
			c.End = m.End
		}
	}
	return out
}

func (n note) records() (sum uint64) {
	for _, m := range n.Members {
		sum += m.Records
	}
	return sum
}

func (n note) encode() ([]byte, error) {
	raw, err := json.Marshal(n)
	if err != nil {
		return nil, fmt.Errorf("encode note: %w", err)
	}
	return raw, nil
}

// encodeGroup returns what is on disk of a group: its note, and the rows. The
// token is made of the note, whose members are in no other.
func encodeGroup(noted []byte, rows []flow.Labelled) []byte {
	group := binary.AppendUvarint(make([]byte, 0, len(noted)+128*len(rows)), uint64(len(noted)))
	group = append(group, noted...)
	return spool.Encode(group, spool.Batch{Token: "gather/" + digest(noted), Rows: rows})
}

// decodeGroup reads what encodeGroup made.
func decodeGroup(raw []byte) (note, spool.Batch, error) {
	length, used := binary.Uvarint(raw)
	if used <= 0 || length > uint64(len(raw)-used) { //nolint:gosec // at least what was used
		return note{}, spool.Batch{}, errors.New("group: it ends too early")
	}
	split := used + int(length) //nolint:gosec // at most its own length
	n, err := decodeNote(raw[used:split])
	if err != nil {
		return note{}, spool.Batch{}, err
	}
	b, err := spool.Decode(raw[split:])
	if err == nil && uint64(len(b.Rows)) != n.records() {
		err = fmt.Errorf("it has %d records, its note says %d", len(b.Rows), n.records())
	}
	if err != nil {
		return note{}, spool.Batch{}, fmt.Errorf("group: %w", err)
	}
	return n, b, nil
}
