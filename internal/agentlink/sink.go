package agentlink

import (
	"context"
	"crypto/sha256"
	"errors"
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

// Records takes what agents hand over to be stored. An error with a method
// Refused that returns true means that a batch is wrong in itself.
type Records interface {
	// Take returns when b, of which every row must be node's, is on disk. The same
	// batch taken again is stored once.
	Take(ctx context.Context, node string, b spool.Batch) error
	// TakeCoverage does the same with rows of coverage.
	TakeCoverage(ctx context.Context, node string, rows []flow.Coverage) error
	// Clock returns the store's time.
	Clock(ctx context.Context) (time.Time, error)
}

// StoreFlows takes a batch of one node's records.
func (s *Server) StoreFlows(ctx context.Context, req *linkpb.FlowBatch) (*linkpb.StoreResponse, error) {
	if err := s.takes(req.GetNode()); err != nil {
		return nil, err
	}
	if err := checkDigest("batch", req.GetBatch(), req.GetSha256()); err != nil {
		return nil, s.refuse("records", codes.DataLoss, "%v", err)
	}
	b, err := spool.Decode(req.GetBatch())
	if err != nil {
		return nil, s.refuse("records", codes.InvalidArgument, "decode batch: %v", err)
	}
	return s.stored(s.cfg.Records.Take(ctx, req.GetNode(), b))
}

// StoreCoverage takes rows of one node's coverage.
func (s *Server) StoreCoverage(ctx context.Context, req *linkpb.CoverageRows) (*linkpb.StoreResponse, error) {
	if err := s.takes(req.GetNode()); err != nil {
		return nil, err
	}
	rows, err := decodeCoverage(req.GetRows())
	if err != nil {
		code := codes.InvalidArgument
		if errors.Is(err, errDigest) {
			code = codes.DataLoss
		}
		return nil, s.refuse("records", code, "%v", err)
	}
	return s.stored(s.cfg.Records.TakeCoverage(ctx, req.GetNode(), rows))
}

// StoreClock answers with the store's time.
func (s *Server) StoreClock(ctx context.Context, _ *linkpb.StoreClockRequest) (*linkpb.StoreClockResponse, error) {
	if s.cfg.Records == nil {
		return nil, s.refuse("records", codes.FailedPrecondition, noRecords)
	}
	at, err := s.cfg.Records.Clock(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &linkpb.StoreClockResponse{UnixNanoseconds: at.UnixNano()}, nil
}

const noRecords = "this server takes no records: start it with --gather, or the agent without"

// takes refuses a call that cannot be served, whatever is in it.
func (s *Server) takes(node string) error {
	switch {
	case s.cfg.Records == nil:
		return s.refuse("records", codes.FailedPrecondition, noRecords)
	case node == "":
		return s.refuse("records", codes.InvalidArgument, "the node's name is missing")
	}
	return nil
}

// stored is the answer to what was taken, or was not.
func (s *Server) stored(err error) (*linkpb.StoreResponse, error) {
	if err == nil {
		return &linkpb.StoreResponse{}, nil
	}
	if r, ok := errors.AsType[interface {
		error
		Refused() bool
	}](err); ok && r.Refused() {
		return nil, s.refuse("records", codes.InvalidArgument, "%v", err)
	}
	return nil, status.Error(codes.Unavailable, err.Error())
}
