package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/gin-gonic/gin"
)

// oneLine keeps what somebody sent from forging lines of output.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// observe counts a request and logs it, without its body, query or path: those
// may hold what flows hold.
func (s *Server) observe(c *gin.Context) {
	begin := time.Now()
	c.Next()
	route := c.FullPath()
	if route == "" {
		route = "other"
	}
	method, status, elapsed := knownMethod(c.Request.Method), c.Writer.Status(), time.Since(begin)
	s.metrics.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	if route != "/api/v1/events" && route != "/api/v1/flows/tail" {
		s.metrics.seconds.WithLabelValues(route, method).Observe(elapsed.Seconds())
	}
	level := slog.LevelDebug
	switch {
	case status >= http.StatusInternalServerError && status != http.StatusServiceUnavailable:
		level = slog.LevelError
	case len(c.Errors) > 0:
		level = slog.LevelWarn
	case method != http.MethodGet && method != http.MethodHead:
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{
		slog.String("method", method), slog.String("route", route), slog.Int("status", status),
		slog.Duration("elapsed", elapsed), slog.String("user", caller(c.Request.Context()).user),
	}
	if len(c.Errors) > 0 {
		attrs = append(attrs, slog.String("error", oneLine(c.Errors.Last().Error())))
	}
	s.deps.Logger.LogAttrs(c.Request.Context(), level, "http request", attrs...)
}

// knownMethod bounds the values of a metric's label.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}

// recoverPanics turns a handler's panic into an answer and a count.
func (s *Server) recoverPanics(c *gin.Context) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(v)
		}
		s.metrics.panics.Inc()
		s.deps.Logger.Error("http handler panicked", "route", c.FullPath(), "stack", string(debug.Stack()))
		fail(c, fmt.Errorf("panic: %v", v))
	}()
	c.Next()
}

// contentPolicy lets the user interface load its own files only, nothing inline.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
	"font-src 'self'; connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

func (s *Server) headers(c *gin.Context) {
	h := c.Writer.Header()
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	// The files of the user interface say otherwise.
	h.Set("Cache-Control", "no-store")
	if s.cfg.TLS {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
	c.Next()
}

// checkHost refuses requests under a name that is not the server's: a page of
// another site can make its own name point here, and would then be same-origin.
// Health has nothing to steal, and probes use whatever address they have.
func (s *Server) checkHost(c *gin.Context) {
	if s.hosts[hostname(c.Request.Host)] || c.FullPath() == "/healthz" || c.FullPath() == "/readyz" {
		c.Next()
		return
	}
	s.metrics.refused.WithLabelValues("host").Inc()
	fail(c, refuse(ErrorCodeForbidden, fmt.Sprintf("the server does not go by the name %q: use localhost, or allow the name when starting it",
		oneLine(hostname(c.Request.Host)))))
}
