package agentlink

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringfence/ringfence/internal/agentlink/linkpb"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
)

// RefusedError says that a batch is wrong in itself: it will not be taken,
// however often it is sent.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return e.Why }

// Refused is how who sends tells this from errors that pass.
func (*RefusedError) Refused() bool { return true }

// Sink hands a node's records and coverage to the server, which stores them
// together with those of other nodes. It is safe for concurrent use.
type Sink struct {
	cfg  ClientConfig
	conn *grpc.ClientConn
	link linkpb.AgentLinkClient
}

// Sink returns a Sink with a connection of its own, which is made when there is
// something to send: a large batch does not hold up states and reports, and
// what is left can be sent when Run has ended. It is to be closed.
func (c *Client) Sink() (*Sink, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	return &Sink{cfg: c.cfg, conn: conn, link: linkpb.NewAgentLinkClient(conn)}, nil
}

// Close ends the connection, and calls that are under way.
func (s *Sink) Close() error { return s.conn.Close() }

// InsertFlows returns when the server has the rows on disk. After an error they
// may be sent again, and are stored once, as long as the same rows have the same
// token; not after a *RefusedError.
func (s *Sink) InsertFlows(ctx context.Context, token string, rows []flow.Labelled) error {
	raw := spool.Encode(nil, spool.Batch{Token: token, Rows: rows})
	if most := s.cfg.MaxMessage - overhead; len(raw) > most {
		return &RefusedError{Why: fmt.Sprintf("hand %d records over: they have %d bytes, a message holds %d", len(rows), len(raw), most)}
	}
	sum := sha256.Sum256(raw)
	_, err := s.link.StoreFlows(withToken(ctx, s.cfg.Token), &linkpb.FlowBatch{Node: s.cfg.Node, Batch: raw, Sha256: sum[:]})
	return refusal("hand records over", err)
}

// InsertCoverage returns when the server has the rows on disk. Sent again they
// are stored once.
func (s *Sink) InsertCoverage(ctx context.Context, rows []flow.Coverage) error {
	doc, err := encode("coverage", rows, s.cfg.MaxMessage)
	if err != nil {
		return err
	}
	_, err = s.link.StoreCoverage(withToken(ctx, s.cfg.Token), &linkpb.CoverageRows{Node: s.cfg.Node, Rows: doc})
	return refusal("hand coverage over", err)
}

// Clock returns the store's time.
func (s *Sink) Clock(ctx context.Context) (time.Time, error) {
	answer, err := s.link.StoreClock(withToken(ctx, s.cfg.Token), &linkpb.StoreClockRequest{})
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the store's time: %w", err)
	}
	return time.Unix(0, answer.GetUnixNanoseconds()).UTC(), nil
}

// refusal tells apart what passes and what does not.
func refusal(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.InvalidArgument:
		return &RefusedError{Why: fmt.Sprintf("%s: %v", what, err)}
	}
	return fmt.Errorf("%s: %w", what, err)
}
