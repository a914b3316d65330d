package api

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// operations calls f with every operation of the contract, its path filled in.
func operations(t *testing.T, f func(t *testing.T, method, path string, op *openapi3.Operation)) {
	t.Helper()
	spec, err := GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("{namespace}", "shop", "{kind}", "Host", "{name}", "cart", "{revision}", "1")
	n := 0
	for path, item := range spec.Paths.Map() {
		for method, op := range item.Operations() {
			n++
			t.Run(op.OperationID, func(t *testing.T) { f(t, method, fill.Replace(path), op) })
		}
	}
	if n < 20 {
		t.Fatalf("the contract has %d operations only", n)
	}
}

func TestNothingIsAnsweredToStrangers(t *testing.T) {
	h := build(t)
	open := map[string]bool{"Login": true, "GetHealth": true, "GetReadiness": true}
	body := func(method string) string {
		if method == "POST" {
			return "{}"
		}
		return ""
	}
	operations(t, func(t *testing.T, method, path string, op *openapi3.Operation) {
		h := h.on(t)
		a := h.do(method, path, body(method))
		if open[op.OperationID] {
			if a.status == http.StatusUnauthorized {
				t.Errorf("it wants a login")
			}
			return
		}
		a.problem(401, ErrorCodeUnauthorized)
		for name, edit := range map[string]func(*http.Request){
			"made-up token":   func(r *http.Request) { r.Header.Set("Authorization", "Bearer rft_x") },
			"no token":        func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") },
			"basic":           func(r *http.Request) { r.SetBasicAuth("admin", password) },
			"made-up session": func(r *http.Request) { r.AddCookie(&http.Cookie{Name: cookieName, Value: "x"}) },
		} {
			t.Run(name, func(t *testing.T) { h.on(t).do(method, path, body(method), edit).problem(401, ErrorCodeUnauthorized) })
		}
	})
	for _, path := range []string{"/metrics", "/api", "/api/", "/api/v1", "/api/v2/x", "/api/v1/workloads/"} {
		h.do("GET", path, "").problem(401, ErrorCodeUnauthorized)
	}
	h.do("PUT", "/api/v1/workloads", "{}").problem(401, ErrorCodeUnauthorized)
}

func TestBehindTheLogin(t *testing.T) {
	h := build(t)
	h.get("/api/v1/nothing").problem(404, ErrorCodeNotFound)
	h.do("PUT", "/api/v1/workloads", "{}", h.byToken).problem(405, ErrorCodeNotFound)
	if a := h.get("/metrics").want(200); !bytes.Contains(a.body, []byte("ringfence_api_requests_total")) {
		t.Error("no metrics")
	}
	h.do("PUT", "/healthz", "").problem(401, ErrorCodeUnauthorized)
}

func TestLogin(t *testing.T) {
	h := build(t)
	a := h.do("POST", "/api/v1/session", `{"user":"admin","password":"`+password+`"}`).want(200)
	set := a.header.Get("Set-Cookie")
	for _, want := range []string{cookieName + "=", "Path=/", "HttpOnly", "SameSite=Strict"} {
		if !strings.Contains(set, want) {
			t.Errorf("cookie %q lacks %s", set, want)
		}
	}
	if strings.Contains(set, "Secure") || bytes.Contains(a.body, []byte(password)) {
		t.Errorf("cookie %q, body %s", set, a.body)
	}
	cookie := h.login()
	var s Session
	h.do("GET", "/api/v1/session", "", h.byCookie(cookie)).want(200).into(&s)
	if s.User != "admin" || s.Expires == nil || time.Until(*s.Expires) > 12*time.Hour {
		t.Errorf("%+v", s)
	}
	// A login in place of another ends that one.
	a = h.do("POST", "/api/v1/session", `{"user":"admin","password":"`+password+`"}`, h.byCookie(cookie)).want(200)
	h.do("GET", "/api/v1/session", "", h.byCookie(cookie)).problem(401, ErrorCodeUnauthorized)
	second := (&http.Response{Header: a.header}).Cookies()[0]
	if second.Value == cookie.Value {
		t.Error("the token was kept over a login")
	}
	gone := h.do("DELETE", "/api/v1/session", "", h.byCookie(second)).want(204)
	if !strings.Contains(gone.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("cookie %q", gone.header.Get("Set-Cookie"))
	}
	h.do("GET", "/api/v1/session", "", h.byCookie(second)).problem(401, ErrorCodeUnauthorized)

	third := h.login()
	h.clock.advance(59 * time.Minute)
	h.do("GET", "/api/v1/session", "", h.byCookie(third)).want(200)
	h.clock.advance(61 * time.Minute)
	h.do("GET", "/api/v1/session", "", h.byCookie(third)).problem(401, ErrorCodeUnauthorized)

	h.get("/api/v1/session").want(200).into(&s)
	if s.User != "admin" || s.Expires != nil {
		t.Errorf("by token: %+v", s)
	}
	h.do("DELETE", "/api/v1/session", "", h.byToken).want(204)
	h.get("/api/v1/session").want(200)
}

func TestOverTLSTheCookieIsSecure(t *testing.T) {
	h := build(t, func(c *Config, _ *Deps) { c.TLS = true })
	a := h.do("POST", "/api/v1/session", `{"user":"admin","password":"`+password+`"}`).want(200)
	if !strings.Contains(a.header.Get("Set-Cookie"), "Secure") || a.header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%v", a.header)
	}
	// A page served without TLS is another site.
	h.do("POST", "/api/v1/session", `{"user":"admin","password":"x"}`, func(r *http.Request) { r.Header.Set("Origin", h.url) }).problem(403, ErrorCodeForbidden)
}

func TestGuessingIsSlowedDown(t *testing.T) {
	h := build(t)
	guess := func(user, pass string) answer {
		t.Helper()
		return h.do("POST", "/api/v1/session", `{"user":"`+user+`","password":"`+pass+`"}`)
	}
	for range freePerAccount {
		guess("admin", "wrong").problem(401, ErrorCodeUnauthorized)
	}
	a := guess("admin", password)
	a.problem(429, ErrorCodeRateLimited)
	if a.header.Get("Retry-After") != "1" && a.header.Get("Retry-After") != "2" {
		t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
	}
	guess("ann", "wrong").problem(401, ErrorCodeUnauthorized) // another account
	h.clock.advance(2 * time.Second)
	guess("admin", "wrong").problem(401, ErrorCodeUnauthorized)
	h.clock.advance(time.Second)
	guess("admin", password).problem(429, ErrorCodeRateLimited) // it takes longer each time
	h.clock.advance(2 * time.Second)
	guess("admin", password).want(200)
	for range freePerAccount {
		guess("admin", "wrong").problem(401, ErrorCodeUnauthorized) // all is forgiven
	}
	if n := testutil.ToFloat64(h.server.metrics.logins.WithLabelValues("limited")); n != 2 {
		t.Errorf("%v limited", n)
	}
}

func TestLimiter(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	l := newLimiter(func() time.Time { return now })
	a, b := loginKeys("192.0.2.1:4000", "admin")
	for range 40 {
		if wait := l.begin(a, b); wait > maxWait {
			t.Fatalf("wait %s", wait)
		}
		now = now.Add(maxWait)
	}
	if l.begin(a, b); l.begin(a, b) != maxWait {
		t.Error("the wait is not bounded by its maximum")
	}
	now = now.Add(forgetAfter + time.Second)
	if l.begin(a, b) != 0 {
		t.Error("old failures are not forgotten")
	}
	// Many users from one address are held up too; another address is not.
	l = newLimiter(func() time.Time { return now })
	for i := range freePerAddress {
		_, account := loginKeys("192.0.2.1:4000", strings.Repeat("u", i+1))
		if l.begin(a, account) != 0 {
			t.Fatalf("held up after %d", i)
		}
	}
	if l.begin(loginKeys("192.0.2.1:4001", "ann")) == 0 {
		t.Error("an address may try any number of users")
	}
	if l.begin(loginKeys("192.0.2.2:4001", "ann")) != 0 {
		t.Error("one address holds up another")
	}
	for _, same := range [][2]string{{"[2001:db8::1]:5", "[2001:db8::ffff]:6"}, {"192.0.2.1:5", "[::ffff:192.0.2.1]:6"}} {
		x, _ := loginKeys(same[0], "u")
		if y, _ := loginKeys(same[1], "u"); x != y {
			t.Errorf("%s is %s, %s is %s", same[0], x, same[1], y)
		}
	}
	for i := range maxAttempts * 3 {
		l.begin("a", strings.Repeat("x", i%7)+time.Duration(i).String())
	}
	if len(l.m) > maxAttempts+2 {
		t.Errorf("%d entries are kept", len(l.m))
	}
}

func TestCrossSiteRequestsAreRefused(t *testing.T) {
	h := build(t)
	cookie := h.login()
	set := func(pairs ...string) func(*http.Request) {
		return func(r *http.Request) {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i+1] == "" {
					r.Header.Del(pairs[i])
				} else {
					r.Header.Set(pairs[i], pairs[i+1])
				}
			}
		}
	}
	for name, tc := range map[string]struct {
		edit   func(*http.Request)
		status int
		code   ErrorCode // "" when the request reaches its handler
	}{
		"as the web interface does":      {set(), 201, ""},
		"an older browser":               {set("Sec-Fetch-Site", ""), 409, ""},
		"without an origin":              {set("Origin", ""), 409, ""},
		"from nowhere":                   {set("Origin", "", "Sec-Fetch-Site", ""), 403, ErrorCodeForbidden},
		"another site":                   {set("Sec-Fetch-Site", "cross-site"), 403, ErrorCodeForbidden},
		"a sibling site":                 {set("Sec-Fetch-Site", "same-site"), 403, ErrorCodeForbidden},
		"typed into the address bar":     {set("Sec-Fetch-Site", "none"), 403, ErrorCodeForbidden},
		"another origin":                 {set("Origin", "https://evil.example", "Sec-Fetch-Site", ""), 403, ErrorCodeForbidden},
		"another port":                   {set("Origin", "http://127.0.0.1:1", "Sec-Fetch-Site", ""), 403, ErrorCodeForbidden},
		"an origin that hides":           {set("Origin", "null", "Sec-Fetch-Site", ""), 403, ErrorCodeForbidden},
		"the header lies, not the other": {set("Origin", "https://evil.example"), 403, ErrorCodeForbidden},
		"a form":                         {set("Content-Type", "application/x-www-form-urlencoded"), 400, ErrorCodeInvalid},
		"plain text":                     {set("Content-Type", "text/plain"), 400, ErrorCodeInvalid},
		"no type":                        {set("Content-Type", ""), 400, ErrorCodeInvalid},
		"JSON with a charset":            {set("Content-Type", "application/json; charset=utf-8"), 409, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := h.on(t)
			if name != "as the web interface does" {
				// The first one made revision 1, so later good ones are conflicts.
				h.post(cartPath+"/revisions", newRevision("0"))
			}
			a := h.do("POST", cartPath+"/revisions", newRevision("0"), h.byCookie(cookie), tc.edit)
			if tc.code == "" {
				if a.status != 201 && a.status != 409 {
					t.Fatalf("%d %s", a.status, a.body)
				}
				return
			}
			a.problem(tc.status, tc.code)
		})
	}
	t.Run("logging out", func(t *testing.T) {
		h := h.on(t)
		h.do("DELETE", "/api/v1/session", "", h.byCookie(cookie), set("Sec-Fetch-Site", "cross-site")).problem(403, ErrorCodeForbidden)
		h.do("GET", "/api/v1/session", "", h.byCookie(cookie)).want(200)
	})
	t.Run("logging somebody in", func(t *testing.T) {
		h := h.on(t)
		h.do("POST", "/api/v1/session", `{"user":"admin","password":"`+password+`"}`, set("Origin", "https://evil.example")).problem(403, ErrorCodeForbidden)
		h.do("POST", "/api/v1/session", `{"user":"admin","password":"`+password+`"}`, set("Content-Type", "text/plain")).problem(400, ErrorCodeInvalid)
	})
	t.Run("a token needs no origin", func(t *testing.T) {
		h := h.on(t)
		h.post(cartPath+"/stage", slotChange(9, 0)).problem(404, ErrorCodeNotFound)
	})
	t.Run("a bad token does not fall back to the cookie", func(t *testing.T) {
		h := h.on(t)
		h.do("GET", "/api/v1/session", "", h.byCookie(cookie), set("Authorization", "Bearer x")).problem(401, ErrorCodeUnauthorized)
	})
}

func TestHostHeader(t *testing.T) {
	h := build(t, func(c *Config, _ *Deps) { c.Hosts = []string{"Ringfence.example", "192.0.2.7", "2001:db8::7"} })
	for host, ok := range map[string]bool{
		"localhost": true, "localhost:8443": true, "127.0.0.1:1": true, "[::1]:8080": true, "::1": true, "LOCALHOST": true, "localhost.": true,
		"ringfence.example:443": true, "192.0.2.7": true, "[2001:db8::7]:80": true,
		"evil.example": false, "evil.example:80": false, "127.0.0.1.evil.example": false, "localhost.evil.example": false,
		"192.0.2.8": false, "127.0.0.2": false, "0.0.0.0": false,
	} {
		t.Run(host, func(t *testing.T) {
			h := h.on(t)
			for _, path := range []string{"/api/v1/session", "/"} {
				a := h.do("GET", path, "", h.byToken, func(r *http.Request) { r.Host = host })
				if ok {
					a.want(200)
				} else {
					a.problem(403, ErrorCodeForbidden)
				}
			}
			h.do("GET", "/healthz", "", func(r *http.Request) { r.Host = host }).want(200)
		})
	}
}

func TestHeaders(t *testing.T) {
	h := build(t)
	for _, path := range []string{"/", "/api/v1/status", "/api/v1/nothing", "/healthz", "/metrics", "/assets/app-1a2b3c.js"} {
		a := h.get(path)
		csp := a.header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: policy %q lacks %s", path, csp, want)
			}
		}
		if a.header.Get("X-Content-Type-Options") != "nosniff" || a.header.Get("X-Frame-Options") != "DENY" || a.header.Get("Referrer-Policy") == "" {
			t.Errorf("%s: %v", path, a.header)
		}
		want := "no-store"
		switch path {
		case "/":
			want = "no-cache"
		case "/assets/app-1a2b3c.js":
			want = "public, max-age=31536000, immutable"
		}
		if got := a.header.Get("Cache-Control"); got != want {
			t.Errorf("%s: Cache-Control %q, want %q", path, got, want)
		}
		if a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: other sites may read it", path)
		}
	}
}

func TestUI(t *testing.T) {
	h := build(t)
	for path, want := range map[string]string{
		"/": "<title>ringfence", "/index.html": "<title>ringfence", "/workloads/shop/Host/cart.v1": "<title>ringfence",
		"/assets/app-1a2b3c.js": "export {}", "/.gitkeep": "<title>ringfence", "/..%2f..%2fetc%2fpasswd": "<title>ringfence", "/assets": "<title>ringfence",
	} {
		if a := h.do("GET", path, "").want(200); !bytes.Contains(a.body, []byte(want)) {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	if a := h.do("GET", "/assets/app-1a2b3c.js", ""); !strings.HasPrefix(a.header.Get("Content-Type"), "text/javascript") {
		t.Errorf("type %q", a.header.Get("Content-Type"))
	}
	h.do("GET", "/assets/gone.js", "").problem(404, ErrorCodeNotFound)
	h.do("POST", "/", "{}").problem(401, ErrorCodeUnauthorized)
	bare := build(t, func(_ *Config, d *Deps) { d.UI = nil })
	if a := bare.do("GET", "/", "").want(503); !bytes.Contains(a.body, []byte("make build")) {
		t.Errorf("%s", a.body)
	}
}
