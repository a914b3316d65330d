package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

// message is one message of an event stream.
type message struct {
	id      int64
	kind    string
	data    string
	comment string
}

// listener reads an event stream.
type listener struct {
	t        *testing.T
	messages chan message
	ended    chan struct{}
}

func (h *house) listen(edit func(*http.Request)) *listener {
	h.t.Helper()
	return h.listenTo("/api/v1/events", edit)
}

func (h *house) listenTo(path string, edit func(*http.Request)) *listener {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	edit(r)
	resp, err := http.DefaultClient.Do(r) //nolint:bodyclose // the goroutine below closes it
	if err != nil {
		h.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
		h.t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	l := &listener{t: h.t.(*testing.T), messages: make(chan message, 1000), ended: make(chan struct{})}
	h.t.Cleanup(func() { cancel(); <-l.ended })
	go func() {
		defer close(l.ended)
		defer resp.Body.Close() //nolint:errcheck // a test
		var m message
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "":
				l.messages <- m
				m = message{comment: value}
				if value == "" {
					m = message{}
				} else {
					l.messages <- m
				}
			case "id":
				m.id, _ = strconv.ParseInt(value, 10, 64)
			case "event":
				m.kind = value
			case "data":
				m.data = value
			}
		}
	}()
	return l
}

// await returns the first message that ok takes.
func (l *listener) await(what string, ok func(message) bool) message {
	l.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case m := <-l.messages:
			if ok(m) {
				return m
			}
		case <-timeout:
			l.t.Fatalf("no %s came", what)
		}
	}
}

func (l *listener) workload(name string, ok func(WorkloadSummary) bool) message {
	l.t.Helper()
	return l.await(name, func(m message) bool {
		if m.kind != "workload" {
			return false
		}
		var w WorkloadSummary
		if err := json.Unmarshal([]byte(m.data), &w); err != nil {
			l.t.Fatal(err)
		}
		return w.Workload.Name == name && ok(w)
	})
}

func TestEventsTellWhatChanges(t *testing.T) {
	h := build(t)
	h.node()
	cookie := h.login()
	l := h.listen(h.byCookie(cookie))
	var last int64
	rising := func(m message) {
		t.Helper()
		if m.id <= last {
			t.Errorf("id %d comes after %d", m.id, last)
		}
		last = m.id
	}
	rising(l.await("status", func(m message) bool { return m.kind == "status" && strings.Contains(m.data, `"node-1"`) }))
	rising(l.workload("cart", func(w WorkloadSummary) bool { return w.IngressStage == Observe }))
	rising(l.workload("front", func(w WorkloadSummary) bool { return w.IngressStage == Observe }))
	rising(l.await("activity", func(m message) bool { return m.kind == "activity" && strings.Contains(m.data, "logged in") }))
	l.await("heartbeat", func(m message) bool { return m.comment != "" })

	h.post(cartPath+"/revisions", newRevision("0")).want(201)
	h.post(cartPath+"/stage", slotChange(1, 0)).want(200)
	rising(l.workload("cart", func(w WorkloadSummary) bool { return w.IngressStage == Audit && deref(w.Effective.Staged) == 1 }))
	rising(l.await("activity", func(m message) bool { return m.kind == "activity" && strings.Contains(m.data, "audits revision 1") }))
	h.flows.set(func(f *fakeFlows) { f.stats.WouldDeny = 7 })
	h.server.stats.now.Store(nil)
	rising(l.workload("cart", func(w WorkloadSummary) bool { return w.WouldDeny == 7 }))
	h.control.Disconnected("node-1")
	rising(l.await("status", func(m message) bool { return m.kind == "status" && strings.Contains(m.data, `"connected":false`) }))

	// Another one gets everything as it is, and then nothing but heartbeats.
	second := h.listen(h.byToken)
	second.workload("cart", func(w WorkloadSummary) bool { return w.IngressStage == Audit && w.WouldDeny == 7 })
	second.await("heartbeat", func(m message) bool { return m.comment != "" })
	for beats := 0; beats < 3; {
		m := <-second.messages
		if m.comment != "" {
			beats++
		} else if m.kind == "workload" || m.kind == "activity" {
			t.Errorf("said again: %+v", m)
		}
	}

	// With the session ends its stream, not the one by token.
	h.do("DELETE", "/api/v1/session", "", h.byCookie(cookie)).want(204)
	select {
	case <-l.ended:
	case <-time.After(10 * time.Second):
		t.Error("the stream outlived its session")
	}
	select {
	case <-second.ended:
		t.Error("another's logout ended the stream")
	default:
	}
}

func TestStreamsAreBounded(t *testing.T) {
	h := build(t, func(c *Config, _ *Deps) { c.MaxStreams = 1 })
	h.listen(h.byToken).await("status", func(m message) bool { return m.kind == "status" })
	h.get("/api/v1/events").problem(429, ErrorCodeRateLimited)
}

func TestASlowClientIsDropped(t *testing.T) {
	h := build(t)
	x := &stream{channel: &channel{s: h.server, ctx: t.Context()}, sent: map[string][]byte{}}
	h.server.streams <- struct{}{}
	if err := x.VisitStreamEventsResponse(&stuck{header: http.Header{}}); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(h.server.metrics.dropped); n != 1 {
		t.Errorf("%v dropped", n)
	}
	if len(h.server.streams) != 0 || testutil.ToFloat64(h.server.metrics.streams) != 0 {
		t.Error("its place was not given back")
	}
}

// stuck is a client whose connection takes nothing until the deadline.
type stuck struct {
	header   http.Header
	deadline time.Time
}

func (s *stuck) Header() http.Header                { return s.header }
func (s *stuck) WriteHeader(int)                    {}
func (s *stuck) SetWriteDeadline(t time.Time) error { s.deadline = t; return nil }
func (s *stuck) FlushError() error                  { return nil }
func (s *stuck) Write([]byte) (int, error) {
	if until := time.Until(s.deadline); until <= 0 || until > time.Minute {
		return 0, fmt.Errorf("the deadline is %s away", until)
	}
	return 0, errors.New("i/o timeout")
}

func TestServeEndsCleanly(t *testing.T) {
	h := build(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	running := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.server.Serve(ctx, l) }()
	h.url = "http://" + l.Addr().String()
	h.get("/api/v1/status").want(200)
	events := h.listen(h.byToken)
	events.await("status", func(m message) bool { return m.kind == "status" })
	begin := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %s with a stream open", took)
	}
	<-events.ended
	http.DefaultClient.CloseIdleConnections()
	goleak.VerifyNone(t, running)
}

// TestAStreamOutlivesTimeouts has the server's own limits, shortened.
func TestAStreamOutlivesTimeouts(t *testing.T) {
	h := build(t)
	srv := &http.Server{Handler: h.server.Handler(), ReadHeaderTimeout: time.Second, ReadTimeout: 150 * time.Millisecond, WriteTimeout: 150 * time.Millisecond}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }() //nolint:errcheck // it is closed below
	t.Cleanup(func() { srv.Close(); <-done })       //nolint:errcheck // a test
	h.url = "http://" + l.Addr().String()
	events := h.listen(h.byToken)
	begin := time.Now()
	for time.Since(begin) < 600*time.Millisecond {
		events.await("heartbeat", func(m message) bool { return m.comment != "" })
	}
}

func TestPanicsAreCounted(t *testing.T) {
	h := build(t)
	h.server.engine.GET("/panic", func(*gin.Context) { panic("a secret") })
	a := h.do("GET", "/panic", "")
	a.problem(500, ErrorCodeInternal)
	if strings.Contains(string(a.body), "secret") || testutil.ToFloat64(h.server.metrics.panics) != 1 {
		t.Errorf("%s", a.body)
	}
	h.get("/api/v1/status").want(200)
}

// TestALeavingClientEndsItsQuestion also shows that handlers get the request's
// context: gin's own has no end.
func TestALeavingClientEndsItsQuestion(t *testing.T) {
	stuck := make(chan context.Context, 1)
	h := build(t, func(_ *Config, d *Deps) { d.Analyzer = fakeAnalyzer{stuck: stuck} })
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+cartPath+"/recommendation", nil)
	if err != nil {
		t.Fatal(err)
	}
	h.byToken(r)
	left := make(chan struct{})
	go func() {
		defer close(left)
		if resp, err := http.DefaultClient.Do(r); err == nil {
			resp.Body.Close() //nolint:errcheck // a test
		}
	}()
	asked := <-stuck
	cancel()
	select {
	case <-asked.Done():
	case <-time.After(10 * time.Second):
		t.Error("the question goes on")
	}
	<-left
}
