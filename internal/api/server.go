package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/gin-gonic/gin"
)

// cookieName is in the contract.
const cookieName = "ringfence_session"

// Server answers requests. It is safe for concurrent use.
type Server struct {
	cfg      Config
	deps     Deps
	metrics  *metrics
	spec     *openapi3.T
	sessions *scs.SessionManager
	limiter  *limiter
	hosts    map[string]bool
	started  time.Time
	engine   *gin.Engine

	stats    statsCache
	snapshot snapshotCache
	streams  chan struct{} // one place for each event stream
	eventID  atomic.Int64
	closing  chan struct{}
	close    sync.Once
}

var releaseMode sync.Once

// New returns a server that does nothing until it is given requests.
func New(cfg Config, deps Deps) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Control == nil || deps.Sessions == nil || deps.Analyzer == nil || deps.Flows == nil {
		return nil, errors.New("api: control, sessions, analyzer and flows are all needed")
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	m, err := newMetrics(deps.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register api metrics: %w", err)
	}
	spec, err := GetSpec()
	if err != nil {
		return nil, fmt.Errorf("read the api's contract: %w", err)
	}
	s := &Server{
		cfg: cfg, deps: deps, metrics: m, spec: spec, hosts: cfg.allowedHosts(), started: deps.Now(),
		limiter: newLimiter(deps.Now), streams: make(chan struct{}, cfg.MaxStreams), closing: make(chan struct{}),
	}
	s.sessions = scs.New()
	s.sessions.Store = deps.Sessions
	s.sessions.Lifetime = cfg.SessionLifetime
	s.sessions.Cookie = scs.SessionCookie{
		Name: cookieName, Path: "/", HttpOnly: true, Persist: true, SameSite: http.SameSiteStrictMode, Secure: cfg.TLS,
	}
	s.engine = s.routes()
	return s, nil
}

func (s *Server) routes() *gin.Engine {
	releaseMode.Do(func() { gin.SetMode(gin.ReleaseMode) })
	e := gin.New()
	e.RedirectTrailingSlash = false
	e.HandleMethodNotAllowed = true
	// Nobody's word is taken for another address than the connection's.
	e.SetTrustedProxies(nil) //nolint:errcheck // none cannot be malformed
	e.Use(s.observe, s.recoverPanics, s.headers, s.checkHost)
	handler := NewStrictHandlerWithOptions(s, nil, StrictGinServerOptions{
		RequestErrorHandlerFunc:  func(c *gin.Context, err error) { fail(c, invalid("body", "body: "+oneLine(err.Error()))) },
		HandlerErrorFunc:         fail,
		ResponseErrorHandlerFunc: func(c *gin.Context, err error) { _ = c.Error(err); c.Abort() },
	})
	operations := e.Group("", s.authenticate, s.validate)
	RegisterHandlersWithOptions(operations, handler, GinServerOptions{
		ErrorHandler: func(c *gin.Context, err error, _ int) { fail(c, invalid("", oneLine(err.Error()))) },
	})
	if s.deps.Metrics != nil {
		e.GET("/metrics", s.authenticate, gin.WrapH(s.deps.Metrics))
	}
	e.NoRoute(s.unmatched)
	e.NoMethod(s.unmatched)
	return e
}

// unmatched serves the user interface, or says that there is no such thing.
func (s *Server) unmatched(c *gin.Context) {
	path, method := c.Request.URL.Path, c.Request.Method
	r := refuse(ErrorCodeNotFound, "there is nothing at this address: see the API's description")
	switch {
	case c.Writer.Status() == http.StatusMethodNotAllowed:
		r.status = http.StatusMethodNotAllowed
		r.body.Message = "this address does not answer " + oneLine(method)
	case path == "/metrics" || path == "/api" || strings.HasPrefix(path, "/api/"):
	case method == http.MethodGet || method == http.MethodHead:
		s.serveUI(c)
		return
	}
	if s.authenticate(c); !c.IsAborted() {
		fail(c, r)
	}
}

// Handler returns the server as a handler.
func (s *Server) Handler() http.Handler { return s.engine }

// Serve answers connections of l until ctx ends, then lets requests finish.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.engine,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		// Event streams set their own deadline for every write.
		WriteTimeout:   2 * time.Minute,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(s.deps.Logger.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		s.endStreams()
		return fmt.Errorf("serve http: %w", err)
	case <-ctx.Done():
	}
	s.endStreams()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownTimeout)
	defer cancel()
	err := srv.Shutdown(end)
	if err != nil {
		err = errors.Join(fmt.Errorf("end http requests: %w", err), srv.Close())
	}
	if serveErr := <-done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve http: %w", serveErr))
	}
	return err
}

func (s *Server) endStreams() { s.close.Do(func() { close(s.closing) }) }
