package agentlink

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ringfence/ringfence/internal/agentlink/linkpb"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/rollout"
)

// DefaultMaxMessage bounds a message: some 100,000 endpoints.
const DefaultMaxMessage = 64 << 20

// overhead is room for what a message holds beside its document.
const overhead = 4 << 10

var errDigest = errors.New("does not match its digest: it was changed or cut on its way")

func encode(what string, v any, limit int) (*linkpb.Document, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", what, err)
	}
	if len(raw) > limit-overhead {
		return nil, fmt.Errorf("%s has %d bytes, a message holds %d: split the inventory over several servers or raise the limit on both sides", what, len(raw), limit-overhead)
	}
	sum := sha256.Sum256(raw)
	return &linkpb.Document{Json: raw, Sha256: sum[:]}, nil
}

func check(what string, d *linkpb.Document) error {
	return checkDigest(what, d.GetJson(), d.GetSha256())
}

func checkDigest(what string, content, digest []byte) error {
	sum := sha256.Sum256(content)
	if subtle.ConstantTimeCompare(sum[:], digest) != 1 {
		return fmt.Errorf("%s %w", what, errDigest)
	}
	return nil
}

// decodeReport reads what a node says. Fields that a newer agent added are left
// out: they cannot weaken anything.
func decodeReport(d *linkpb.Document) (rollout.Report, error) {
	var r rollout.Report
	if err := check("report", d); err != nil {
		return r, err
	}
	if err := json.Unmarshal(d.GetJson(), &r); err != nil {
		return rollout.Report{}, fmt.Errorf("decode report: %w", err)
	}
	return r, nil
}

// decodeState reads what a node shall do. A field that this version does not
// know could be a restriction, so it is refused.
func decodeState(d *linkpb.Document) (rollout.State, error) {
	var st rollout.State
	if err := check("state", d); err != nil {
		return st, err
	}
	dec := json.NewDecoder(bytes.NewReader(d.GetJson()))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&st); err != nil {
		return rollout.State{}, fmt.Errorf("decode state: %w: the agent may be older than the server", err)
	}
	return st, nil
}

// decodeCoverage reads rows of coverage. A field that this version does not know
// could be a loss, so it is refused.
func decodeCoverage(d *linkpb.Document) ([]flow.Coverage, error) {
	if err := check("coverage", d); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(d.GetJson()))
	dec.DisallowUnknownFields()
	var rows []flow.Coverage
	if err := dec.Decode(&rows); err != nil {
		return nil, fmt.Errorf("decode coverage: %w: the agent may be newer than the server", err)
	}
	return rows, nil
}
