package agentlink

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringfence/ringfence/internal/agentlink/linkpb"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/spool"
)

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
