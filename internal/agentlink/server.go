package agentlink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/ringfence/ringfence/internal/agentlink/linkpb"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/rollout"
)

// Store is what the server knows and wants of its nodes.
type Store interface {
	// State returns what every node should make true. On an error nodes keep
	// what they have.
	State(context.Context) (rollout.State, error)
	// Changed returns a channel that is closed once State is newer than at the
	// call.
	Changed() <-chan struct{}
	// Report takes what a node says of itself.
	Report(context.Context, rollout.Report) error
	// ConfirmLive reports whether a node may keep a live revision.
	ConfirmLive(ctx context.Context, node string, w flow.Workload, revision uint32) (bool, error)
	// Disconnected says that a node's connection has ended.
	Disconnected(node string)
}

// Config is the server's.
type Config struct {
	// Token is what an agent must present; at least 16 characters.
	Token string
	// MaxMessage bounds a message in bytes; default 64 MiB.
	MaxMessage int
	// Credentials are the transport's; nil for a unix socket.
	Credentials credentials.TransportCredentials
	// Records takes what agents hand over to be stored; nil refuses it.
	Records Records
	// Logger defaults to one that discards.
	Logger *slog.Logger
	// Registerer gets the metrics; nil keeps them to themselves.
	Registerer prometheus.Registerer
}

// Validate returns every problem of c.
func (c Config) Validate() error {
	var errs []error
	if err := checkToken(c.Token); err != nil {
		errs = append(errs, err)
	}
	if c.MaxMessage < 0 || c.MaxMessage > 0 && c.MaxMessage <= overhead {
		errs = append(errs, fmt.Errorf("message limit %d: want more than %d bytes", c.MaxMessage, overhead))
	}
	return errors.Join(errs...)
}

// Server serves the nodes' agents.
type Server struct {
	linkpb.UnimplementedAgentLinkServer

	cfg     Config
	store   Store
	metrics *serverMetrics

	mu       sync.Mutex
	sessions map[string]*session // by node
	encoded  *encodedState
}

// session is one agent's connection.
type session struct {
	node   string
	stream linkpb.AgentLink_ConnectServer
	cancel context.CancelCauseFunc
}

// encodedState is the newest state, encoded once for all nodes.
type encodedState struct {
	generation uint64
	doc        *linkpb.Document
}

// New returns a Server. It does no I/O.
func New(cfg Config, store Store) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("agent link: %w", err)
	}
	if cfg.MaxMessage == 0 {
		cfg.MaxMessage = DefaultMaxMessage
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newServerMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("agent link: %w", err)
	}
	return &Server{cfg: cfg, store: store, metrics: m, sessions: map[string]*session{}}, nil
}

// Serve serves agents on lis until ctx ends, and closes lis. A listener that is
// not a unix socket needs credentials.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	if s.cfg.Credentials == nil && lis.Addr().Network() != "unix" {
		return errors.Join(
			fmt.Errorf("agent link on %s: without transport credentials only a unix socket can be served", lis.Addr()),
			lis.Close())
	}
	opts := []grpc.ServerOption{
		// The store must not be asked after Serve has returned.
		grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(s.cfg.MaxMessage),
		grpc.MaxSendMsgSize(s.cfg.MaxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	}
	if s.cfg.Credentials != nil {
		opts = append(opts, grpc.Creds(s.cfg.Credentials))
	}
	g := grpc.NewServer(opts...)
	linkpb.RegisterAgentLinkServer(g, s)
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(lis); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve agents: %w", err)
	}
	// Serve returns before its handlers do.
	g.Stop()
	return nil
}

func (s *Server) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := s.authorize(ctx); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (s *Server) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := s.authorize(stream.Context()); err != nil {
		return err
	}
	return next(srv, stream)
}

func (s *Server) authorize(ctx context.Context) error {
	err := authorize(ctx, s.cfg.Token)
	if err != nil {
		s.metrics.refused.WithLabelValues("token").Inc()
		s.cfg.Logger.Warn("an agent with a wrong token was refused")
	}
	return err
}

// Connect serves one agent's connection.
func (s *Server) Connect(stream linkpb.AgentLink_ConnectServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello.GetNode() == "" {
		return s.refuse("hello", codes.InvalidArgument, "the first message must be a hello with the node's name")
	}
	ss := &session{node: hello.GetNode(), stream: stream, cancel: cancel}
	// What the node went back from by itself must be known before a state is
	// sent to it, so the first report is taken first.
	if err := s.take(ctx, ss, hello.GetReport()); err != nil {
		return err
	}
	s.enter(ss)
	defer s.leave(ss)
	s.cfg.Logger.Info("agent connected", "node", ss.node, "version", hello.GetVersion())
	go s.receive(ctx, ss)
	err = s.push(ctx, ss)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// receive takes reports until the stream breaks, and ends the session.
func (s *Server) receive(ctx context.Context, ss *session) {
	for {
		msg, err := ss.stream.Recv()
		if err == nil {
			err = s.take(ctx, ss, msg.GetReport())
		}
		if err != nil {
			ss.cancel(err)
			return
		}
	}
}

// take hands one report over. An error ends the session.
func (s *Server) take(ctx context.Context, ss *session, doc *linkpb.Document) error {
	r, err := decodeReport(doc)
	if err != nil {
		return s.refuse("report", codes.DataLoss, "%v", err)
	}
	if r.Node != ss.node {
		return s.refuse("report", codes.PermissionDenied, "a report about node %q came from node %q", r.Node, ss.node)
	}
	s.metrics.reports.Inc()
	if err := s.store.Report(ctx, r); err != nil {
		return s.refuse("store", codes.FailedPrecondition, "%v", err)
	}
	return nil
}

func (s *Server) refuse(reason string, code codes.Code, format string, args ...any) error {
	s.metrics.refused.WithLabelValues(reason).Inc()
	return status.Errorf(code, format, args...)
}

// push sends the state now and whenever it changes.
func (s *Server) push(ctx context.Context, ss *session) error {
	var sent *linkpb.Document
	for {
		changed := s.store.Changed()
		doc, err := s.document(ctx)
		switch {
		case err != nil:
			s.metrics.stateErrors.Inc()
			s.cfg.Logger.Error("no state can be sent to an agent: its node keeps what it has", "node", ss.node, "error", err)
		case doc != sent:
			if err := ss.stream.Send(&linkpb.FromServer{State: doc}); err != nil {
				return err
			}
			s.metrics.states.Inc()
			sent = doc
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// document returns the state as it goes over the wire.
func (s *Server) document(ctx context.Context) (*linkpb.Document, error) {
	st, err := s.store.State(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.encoded != nil && s.encoded.generation == st.Generation {
		return s.encoded.doc, nil
	}
	doc, err := encode("state", st, s.cfg.MaxMessage)
	if err != nil {
		return nil, err
	}
	s.encoded = &encodedState{generation: st.Generation, doc: doc}
	return doc, nil
}

// enter makes ss the one session of its node.
func (s *Server) enter(ss *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.sessions[ss.node]; old != nil {
		old.cancel(status.Errorf(codes.Aborted, "another agent connected as node %q: start one agent a node", ss.node))
	}
	s.sessions[ss.node] = ss
	s.metrics.connected.Set(float64(len(s.sessions)))
}

func (s *Server) leave(ss *session) {
	s.mu.Lock()
	newest := s.sessions[ss.node] == ss
	if newest {
		delete(s.sessions, ss.node)
		s.metrics.connected.Set(float64(len(s.sessions)))
	}
	s.mu.Unlock()
	if newest {
		s.store.Disconnected(ss.node)
		s.cfg.Logger.Info("agent disconnected", "node", ss.node)
	}
}

// Confirm answers whether a node may keep a live revision.
func (s *Server) Confirm(ctx context.Context, req *linkpb.ConfirmRequest) (*linkpb.ConfirmResponse, error) {
	w := flow.Workload{Namespace: req.GetNamespace(), Kind: req.GetKind(), Name: req.GetName()}
	ok, err := s.store.ConfirmLive(ctx, req.GetNode(), w, req.GetRevision())
	if err != nil {
		return nil, s.refuse("confirm", codes.FailedPrecondition, "%v", err)
	}
	s.metrics.confirms.WithLabelValues(fmt.Sprint(ok)).Inc()
	return &linkpb.ConfirmResponse{Confirmed: ok}, nil
}
