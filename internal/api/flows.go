package api

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
)

// readFilter reads a filter, or returns an error that says where it is wrong.
func (s *Server) readFilter(text *string) (query.Filter, error) {
	f, err := query.Parse(deref(text), s.deps.Now())
	if at, ok := errors.AsType[*query.Error](err); ok {
		r := invalid("filter", oneLine("filter: "+at.Error()))
		r.body.Column = &at.Column
		return f, r
	}
	if err == nil && !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		return f, invalid("filter", "filter: the window is empty: give a since before until")
	}
	return f, err
}

// flowsError tells a question that is too large from a store that is away.
func (s *Server) flowsError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err() // who asked is gone
	}
	if limit, ok := errors.AsType[*query.LimitError](err); ok {
		return invalid("filter", oneLine("filter: "+limit.Error()))
	}
	return s.storeError(err)
}

// ListFlows answers a page of flow records. The store itself bounds how long
// it reads: longer than a page of decisions may wait for it.
func (s *Server) ListFlows(ctx context.Context, r ListFlowsRequestObject) (ListFlowsResponseObject, error) {
	ctx = own(ctx)
	f, err := s.readFilter(r.Params.Filter)
	if err != nil {
		return nil, err
	}
	var after query.Cursor
	if r.Params.Cursor != nil {
		if after, err = query.ParseCursor(*r.Params.Cursor, f); err != nil {
			return nil, invalid("cursor", "cursor: "+err.Error())
		}
	}
	page, err := s.deps.Flows.Flows(ctx, f, after, deref(r.Params.Limit))
	if err != nil {
		return nil, s.flowsError(ctx, err)
	}
	out := ListFlows200JSONResponse{Flows: flowsOf(page.Rows)}
	if !page.Next.IsZero() {
		next := page.Next.Text(f)
		out.Next = &next
	}
	return out, nil
}

// ListFacets answers the most frequent values of each field.
func (s *Server) ListFacets(ctx context.Context, r ListFacetsRequestObject) (ListFacetsResponseObject, error) {
	ctx = own(ctx)
	f, err := s.readFilter(r.Params.Filter)
	if err != nil {
		return nil, err
	}
	facets, err := s.deps.Flows.Facets(ctx, f, deref(r.Params.Top))
	if err != nil {
		return nil, s.flowsError(ctx, err)
	}
	out := make(ListFacets200JSONResponse, 0, len(facets))
	for _, facet := range facets {
		values := make([]FacetValue, 0, len(facet.Values))
		for _, v := range facet.Values {
			values = append(values, FacetValue{
				Value: v.Term.Values[0].String(), Term: v.Term.String(), Records: count(v.Records), Connections: count(v.Connections),
			})
		}
		out = append(out, Facet{Field: facet.Field, Values: values})
	}
	return out, nil
}

// TailFlows answers with an event stream of what is stored.
func (s *Server) TailFlows(ctx context.Context, r TailFlowsRequestObject) (TailFlowsResponseObject, error) {
	f, err := s.readFilter(r.Params.Filter)
	if err != nil {
		return nil, err
	}
	c, err := s.openChannel(ctx)
	if err != nil {
		return nil, err
	}
	return &tail{channel: c, follower: s.deps.Flows.Follow(f, deref(r.Params.Last))}, nil
}

// tail sends one client what is stored.
type tail struct {
	*channel
	follower query.Follower
	began    bool // something was sent
	away     bool // the client was told that the store is
}

// VisitTailFlowsResponse implements TailFlowsResponseObject.
func (x *tail) VisitTailFlowsResponse(w http.ResponseWriter) error {
	return x.visit(w, func() error { return x.follow(x.s.cfg.TailEvery, nil, x.send) })
}

// send writes what came, and reports whether the stream goes on.
func (x *tail) send() (bool, error) {
	rows, err := x.follower.Next(x.ctx)
	if err != nil {
		return x.problem(err)
	}
	if x.away = false; x.began && len(rows) == 0 {
		return true, nil
	}
	x.began = true
	var out bytes.Buffer
	x.event(&out, "flows", encode(flowsOf(rows)))
	return true, x.write(out.Bytes())
}

func (x *tail) problem(err error) (bool, error) {
	_, body := describe(x.s.flowsError(x.ctx, err))
	passing := body.Code == ErrorCodeUnavailable
	if x.ctx.Err() != nil || passing && x.away {
		return x.ctx.Err() == nil, nil //nolint:nilerr // who asked is gone, or knows already
	}
	x.away = passing
	var out bytes.Buffer
	x.event(&out, "problem", encode(body))
	return passing, x.write(out.Bytes())
}

func flowsOf(rows []query.Row) []Flow {
	out := make([]Flow, 0, len(rows))
	for i := range rows {
		out = append(out, flowOf(&rows[i]))
	}
	return out
}

func flowOf(r *query.Row) Flow {
	f := &r.Labelled
	out := Flow{
		ID: strconv.FormatUint(r.ID, 16), Stored: r.Stored,
		Time: f.Time, FirstSeen: f.FirstSeen, Node: f.Node, Event: f.Event.String(), Direction: DirectionOf(f.Direction),
		Source: PartyOf(*f.Source), Destination: PartyOf(*f.Dest),
		SourceAddress: f.Key.Source.String(), DestinationAddress: f.Destination.String(),
		SourcePort: int(f.SourcePort), Port: int(f.DestinationPort), Protocol: f.Protocol.String(),
		Connections: int64(f.Connections), PacketsForward: count(f.Forward.Packets), PacketsReverse: count(f.Reverse.Packets),
		BytesForward: count(f.Forward.Bytes), BytesReverse: count(f.Reverse.Bytes),
		Outcome: f.Outcome.String(), Live: judgementOf(f.Live), Staged: judgementOf(f.Staged),
	}
	if f.Observer.IsWorkload() {
		ref := RefOf(f.Observer.Workload)
		out.Observer = &ref
	}
	return out
}

func judgementOf(j flow.Judgement) Judgement {
	return Judgement{Verdict: j.Verdict.String(), Reason: j.Reason.String(), Revision: number64(j.Revision)}
}
