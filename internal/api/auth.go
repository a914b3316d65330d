package api

import (
	"context"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/gin-gonic/gin"
)

// principal is who asks.
type principal struct {
	user string
	// session is the session's token when a cookie said who, "" when an API
	// token did.
	session string
}

type principalKey struct{}

// caller returns who asks; the zero value when that is not known.
func caller(ctx context.Context) principal {
	p, _ := ctx.Value(principalKey{}).(principal)
	return p
}

// know returns ctx with p as the one who asks.
func know(ctx context.Context, p principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// own returns the request's context. Generated code hands gin's over, which is
// used again for the next request: whatever still looks at it then would see
// that one's.
func own(ctx context.Context) context.Context {
	if c, ok := ctx.(*gin.Context); ok {
		return c.Request.Context()
	}
	return ctx
}

// operation returns what the contract says of the route that gin matched. One
// router decides both, so that they cannot disagree about a path.
func (s *Server) operation(c *gin.Context) (*openapi3.PathItem, *openapi3.Operation) {
	parts := strings.Split(c.FullPath(), "/")
	for i, p := range parts {
		if name, ok := strings.CutPrefix(p, ":"); ok {
			parts[i] = "{" + name + "}"
		}
	}
	item := s.spec.Paths.Value(strings.Join(parts, "/"))
	if item == nil {
		return nil, nil
	}
	return item, item.GetOperation(c.Request.Method)
}

// authenticate lets a request through when the contract says that anybody may
// make it, or when it says who makes it.
func (s *Server) authenticate(c *gin.Context) {
	open := false
	if _, op := s.operation(c); op != nil {
		open = op.Security != nil && len(*op.Security) == 0
	}
	if !open {
		p, err := s.identify(c)
		if err != nil {
			s.metrics.refused.WithLabelValues("unauthorized").Inc()
			fail(c, err)
			return
		}
		c.Request = c.Request.WithContext(know(c.Request.Context(), p))
	}
	if err := s.checkSite(c, open); err != nil {
		s.metrics.refused.WithLabelValues("cross_site").Inc()
		fail(c, err)
		return
	}
}

// identify tells who makes a request: by its API token if it has one, else by
// its session.
func (s *Server) identify(c *gin.Context) (principal, error) {
	if h := c.GetHeader("Authorization"); h != "" {
		scheme, token, _ := strings.Cut(h, " ")
		if !strings.EqualFold(scheme, "Bearer") || token == "" {
			return principal{}, refuse(ErrorCodeUnauthorized, "the Authorization header is no bearer token: log in, or give an API token")
		}
		user, err := s.deps.Control.CheckToken(c.Request.Context(), token)
		return principal{user: user}, err
	}
	cookie, err := c.Request.Cookie(cookieName)
	if err == nil && cookie.Value != "" {
		ctx, err := s.sessions.Load(c.Request.Context(), cookie.Value)
		if err != nil {
			return principal{}, err
		}
		if user := s.sessions.GetString(ctx, sessionUser); user != "" {
			c.Request = c.Request.WithContext(ctx)
			return principal{user: user, session: cookie.Value}, nil
		}
	}
	return principal{}, refuse(ErrorCodeUnauthorized, "not logged in, or no longer: log in")
}

// checkSite refuses changes that a page of another site asks a browser to make.
// A browser sends a session's cookie by itself, so a change by session must show
// that it comes from this site; one by API token need not. Logging in is held to
// the same as far as the browser says anything.
func (s *Server) checkSite(c *gin.Context, open bool) error {
	r := c.Request
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	if p := caller(r.Context()); p.session == "" && !open {
		return nil
	}
	site, origin := r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Origin")
	if site == "" && origin == "" && !open {
		return refuse(ErrorCodeForbidden, "the request does not say which site it comes from: use the web interface, or an API token")
	}
	if site != "" && site != "same-origin" || origin != "" && !s.sameOrigin(r, origin) {
		return refuse(ErrorCodeForbidden, "the request comes from another site: open the web interface itself")
	}
	if r.ContentLength == 0 && r.Method == http.MethodDelete {
		return nil
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return invalid("Content-Type", "the body must be application/json")
	}
	return nil
}

func (s *Server) sameOrigin(r *http.Request, origin string) bool {
	u, err := url.Parse(origin)
	scheme := "http"
	if s.cfg.TLS {
		scheme = "https"
	}
	return err == nil && u.Scheme == scheme && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// Keys of a session's data.
const sessionUser = "user"

// GetSession answers who is logged in.
func (s *Server) GetSession(ctx context.Context, _ GetSessionRequestObject) (GetSessionResponseObject, error) {
	ctx = own(ctx)
	p := caller(ctx)
	out := Session{User: p.user}
	if p.session != "" {
		deadline := s.sessions.Deadline(ctx)
		out.Expires = &deadline
	}
	return GetSession200JSONResponse(out), nil
}

// Login checks a password and sets the session's cookie.
func (s *Server) Login(ctx context.Context, r LoginRequestObject) (LoginResponseObject, error) {
	c := ctx.(*gin.Context)
	ctx = own(ctx)
	address, account := loginKeys(c.Request.RemoteAddr, r.Body.User)
	if wait := s.limiter.begin(address, account); wait > 0 {
		s.metrics.logins.WithLabelValues("limited").Inc()
		seconds := int(wait/time.Second) + 1
		c.Header("Retry-After", strconv.Itoa(seconds))
		return nil, refuse(ErrorCodeRateLimited, "too many failed logins: try again in "+(time.Duration(seconds)*time.Second).String())
	}
	if err := s.deps.Control.CheckPassword(ctx, r.Body.User, r.Body.Password); err != nil {
		s.metrics.logins.WithLabelValues("refused").Inc()
		return nil, err
	}
	s.limiter.succeeded(address, account)
	session, err := s.sessions.Load(ctx, "")
	if err != nil {
		return nil, err
	}
	s.sessions.Put(session, sessionUser, r.Body.User)
	token, expiry, err := s.sessions.Commit(session)
	if err != nil {
		return nil, err
	}
	// The session that the browser had before, if any, ends with this.
	if old, err := c.Request.Cookie(cookieName); err == nil && old.Value != "" {
		if err := s.deps.Sessions.DeleteCtx(ctx, old.Value); err != nil {
			return nil, err
		}
	}
	if err := s.deps.Control.RecordLogin(ctx, r.Body.User); err != nil {
		return nil, err
	}
	s.metrics.logins.WithLabelValues("ok").Inc()
	c.Request = c.Request.WithContext(know(ctx, principal{user: r.Body.User, session: token}))
	return withCookie{func(w http.ResponseWriter) { s.sessions.WriteSessionCookie(session, w, token, expiry) },
		Session{User: r.Body.User, Expires: &expiry}}, nil
}

// withCookie is a login's answer.
type withCookie struct {
	set  func(http.ResponseWriter)
	body Session
}

// VisitLoginResponse implements LoginResponseObject.
func (r withCookie) VisitLoginResponse(w http.ResponseWriter) error {
	r.set(w)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(r.body)
}

// Logout ends the session. An API token goes on.
func (s *Server) Logout(ctx context.Context, _ LogoutRequestObject) (LogoutResponseObject, error) {
	c := ctx.(*gin.Context)
	session := own(ctx)
	if caller(session).session != "" {
		if err := s.sessions.Destroy(session); err != nil {
			return nil, err
		}
		s.sessions.WriteSessionCookie(session, c.Writer, "", time.Time{})
		c.Writer.Header().Set("Cache-Control", "no-store")
	}
	return Logout204Response{}, nil
}
