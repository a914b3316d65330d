package agentlink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/ringfence/ringfence/internal/agentlink/linkpb"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/rollout"
)

// A peer that vanished without closing the connection is noticed after the two
// together.
const (
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 3 * time.Second
)

// connectTimeout bounds one attempt to connect.
const connectTimeout = 10 * time.Second

// Handler makes states true on this node.
type Handler interface {
	Apply(context.Context, rollout.State) (rollout.Report, error)
	Report() rollout.Report
	// Changed tells that Report has news that should not wait for a heartbeat.
	Changed() <-chan struct{}
}

// ClientConfig is the agent's.
type ClientConfig struct {
	// Address is the server's: unix:///run/ringfence/agent.sock, or a name and
	// port when Credentials are given.
	Address string
	// Token is the one that the server wrote down.
	Token string
	// Node is this node's name; Version the agent's.
	Node    string
	Version string
	// Credentials are the transport's; nil for a unix socket.
	Credentials credentials.TransportCredentials
	// Heartbeat is how often to report when nothing changes; default 1 s.
	Heartbeat time.Duration
	// MinPause and MaxPause bound the pause before connecting again; default
	// 50 ms and 2 s.
	MinPause, MaxPause time.Duration
	// MaxMessage bounds a message in bytes; default 64 MiB.
	MaxMessage int
	// Logger defaults to one that discards.
	Logger *slog.Logger
	// Registerer gets the metrics; nil keeps them to themselves.
	Registerer prometheus.Registerer
}

func (c ClientConfig) withDefaults() ClientConfig {
	for _, d := range []struct {
		p   *time.Duration
		def time.Duration
	}{{&c.Heartbeat, time.Second}, {&c.MinPause, 50 * time.Millisecond}, {&c.MaxPause, 2 * time.Second}} {
		if *d.p == 0 {
			*d.p = d.def
		}
	}
	if c.MaxMessage == 0 {
		c.MaxMessage = DefaultMaxMessage
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate returns every problem of c.
func (c ClientConfig) Validate() error {
	var errs []error
	if c.Address == "" {
		errs = append(errs, errors.New("server address: missing"))
	} else if c.Credentials == nil && !strings.HasPrefix(c.Address, "unix:") {
		errs = append(errs, fmt.Errorf("server address %s: without transport credentials only a unix socket will do", c.Address))
	}
	if c.Node == "" {
		errs = append(errs, errors.New("node name: missing"))
	}
	if err := checkToken(c.Token); err != nil {
		errs = append(errs, err)
	}
	if c.Heartbeat < 0 || c.MinPause < 0 || c.MaxPause < 0 {
		errs = append(errs, errors.New("heartbeat and pauses: want positive durations"))
	}
	if c.MaxMessage < 0 || c.MaxMessage > 0 && c.MaxMessage <= overhead {
		errs = append(errs, fmt.Errorf("message limit %d: want more than %d bytes", c.MaxMessage, overhead))
	}
	return errors.Join(errs...)
}

// Client is one node's side of the link.
type Client struct {
	cfg     ClientConfig
	metrics *clientMetrics
	// unread says why the newest state could not be read; the server gets to
	// know with the next report. Only Run uses it.
	unread string
}

// unreadError says that a state arrived that this node cannot use.
type unreadError struct{ error }

// NewClient returns a Client. It does no I/O.
func NewClient(cfg ClientConfig) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("agent link: %w", err)
	}
	m, err := newClientMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("agent link: %w", err)
	}
	return &Client{cfg: cfg.withDefaults(), metrics: m}, nil
}

// Run keeps the node connected until ctx ends. It gives up, with ErrToken, only
// when the very first answer of the server is that the token is wrong.
func (c *Client) Run(ctx context.Context, h Handler) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = c.cfg.MinPause, c.cfg.MaxPause
	pause.Reset()
	known := false // the server took this token before
	level := slog.LevelWarn
	for ctx.Err() == nil {
		heard, err := c.session(ctx, h)
		c.metrics.connected.Set(0)
		if e, ok := errors.AsType[unreadError](err); ok {
			c.unread = e.Error()
		}
		if heard {
			known, level = true, slog.LevelWarn
			pause.Reset()
		}
		if status.Code(err) == codes.Unauthenticated && !known {
			return ErrToken
		}
		if ctx.Err() != nil {
			break
		}
		wait := pause.NextBackOff()
		c.metrics.reconnects.Inc()
		// Once an outage, not once an attempt.
		c.cfg.Logger.Log(ctx, level, "not connected to the server: what is enforced stays", "error", err, "retry_in", wait.String())
		level = slog.LevelDebug
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil //nolint:nilerr // the session ended because it was told to
}

// Confirm asks the server over a new connection whether this node may keep a
// live revision. Anything but a yes is an error.
func (c *Client) Confirm(ctx context.Context, w flow.Workload, revision uint32) (err error) {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	answer, err := linkpb.NewAgentLinkClient(conn).Confirm(withToken(ctx, c.cfg.Token), &linkpb.ConfirmRequest{
		Node: c.cfg.Node, Namespace: w.Namespace, Kind: w.Kind, Name: w.Name, Revision: revision,
	})
	switch {
	case err != nil:
		return fmt.Errorf("confirm %s revision %d: %w", w, revision, err)
	case !answer.GetConfirmed():
		return fmt.Errorf("confirm %s revision %d: the server wants another one", w, revision)
	}
	return nil
}

func (c *Client) dial() (*grpc.ClientConn, error) {
	creds := c.cfg.Credentials
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient(c.cfg.Address,
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(c.cfg.MaxMessage), grpc.MaxCallSendMsgSize(c.cfg.MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		// A session dials once; a Sink's connection is made anew by itself.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: grpcbackoff.Config{
			BaseDelay: c.cfg.MinPause, Multiplier: 1.5, Jitter: 0.5, MaxDelay: c.cfg.MaxPause,
		}, MinConnectTimeout: connectTimeout}),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.cfg.Address, err)
	}
	return conn, nil
}

// session is one connection from its hello to its end. heard says that the
// server sent at least one message.
func (c *Client) session(ctx context.Context, h Handler) (heard bool, err error) {
	conn, err := c.dial()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	// Ends with the session, so that the receiving goroutine does too.
	streaming, cancel := context.WithCancel(withToken(ctx, c.cfg.Token))
	defer cancel()
	stream, err := linkpb.NewAgentLinkClient(conn).Connect(streaming)
	if err != nil {
		return false, err
	}
	if err := c.hello(stream, h.Report()); err != nil {
		return false, err
	}
	states, ended := make(chan rollout.State, 1), make(chan error, 1)
	go func() { ended <- c.receive(stream, states) }()
	heartbeat := time.NewTicker(c.cfg.Heartbeat)
	defer heartbeat.Stop()
	for {
		report := rollout.Report{}
		select {
		case err := <-ended:
			return heard, err
		case st := <-states:
			heard, c.unread = true, ""
			c.metrics.connected.Set(1)
			// Not the stream's context: a change that began is finished, whatever
			// becomes of the connection. What was refused is in the report.
			report, _ = h.Apply(ctx, st)
		case <-h.Changed():
			report = h.Report()
		case <-heartbeat.C:
			report = h.Report()
		}
		if err := c.report(stream, report); err != nil {
			// The stream's own error says more than the failed send.
			return heard, errors.Join(<-ended, ignoreEOF(err))
		}
	}
}

func (c *Client) hello(stream linkpb.AgentLink_ConnectClient, r rollout.Report) error {
	doc, err := c.encode(r)
	if err != nil {
		return err
	}
	err = stream.Send(&linkpb.FromAgent{Message: &linkpb.FromAgent_Hello{Hello: &linkpb.Hello{
		Node: c.cfg.Node, Version: c.cfg.Version, Report: doc,
	}}})
	if errors.Is(err, io.EOF) {
		_, err = stream.Recv()
	}
	return err
}

func (c *Client) report(stream linkpb.AgentLink_ConnectClient, r rollout.Report) error {
	doc, err := c.encode(r)
	if err != nil {
		return err
	}
	return stream.Send(&linkpb.FromAgent{Message: &linkpb.FromAgent_Report{Report: doc}})
}

func (c *Client) encode(r rollout.Report) (*linkpb.Document, error) {
	if c.unread != "" {
		r.Error = strings.TrimSuffix(c.unread+"; "+r.Error, "; ")
	}
	return encode("report", r, c.cfg.MaxMessage)
}

// receive hands states over until the stream breaks. Of states that come faster
// than they are applied, only the newest counts.
func (c *Client) receive(stream linkpb.AgentLink_ConnectClient, states chan rollout.State) error {
	for {
		msg, err := stream.Recv()
		if err != nil {
			return err
		}
		st, err := decodeState(msg.GetState())
		if err != nil {
			c.metrics.bad.Inc()
			return unreadError{err}
		}
		c.metrics.states.Inc()
		select {
		case <-states:
		default:
		}
		states <- st
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
