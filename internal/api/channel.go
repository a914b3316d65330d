package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
)

const (
	// writeTimeout is how long a client may take to accept what it is sent.
	writeTimeout = 10 * time.Second
	// settle is how long a stream waits for more once something changed, so that
	// many changes at once make one look.
	settle = 50 * time.Millisecond
)

// channel carries server-sent events to one client. It runs in its request's
// goroutine, so a slow client holds up nobody else.
type channel struct {
	s     *Server
	ctx   context.Context
	who   principal
	token string

	w       http.ResponseWriter
	control *http.ResponseController
}

// openChannel takes one of the places for streams; visit gives it back.
func (s *Server) openChannel(ctx context.Context) (*channel, error) {
	select {
	case s.streams <- struct{}{}:
	default:
		return nil, refuse(ErrorCodeRateLimited, "too many event streams are open: close some pages")
	}
	return &channel{s: s, ctx: own(ctx), who: caller(own(ctx)), token: bearer(ctx.(*gin.Context))}, nil
}

// bearer returns the request's API token. It was found good before.
func bearer(c *gin.Context) string {
	const scheme = "Bearer "
	if h := c.GetHeader("Authorization"); len(h) > len(scheme) {
		return h[len(scheme):]
	}
	return ""
}

// visit answers with what run sends. A stream that ends is no error.
func (x *channel) visit(w http.ResponseWriter, run func() error) error {
	defer func() { <-x.s.streams }()
	x.s.metrics.streams.Inc()
	defer x.s.metrics.streams.Dec()
	x.w, x.control = w, http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	err := x.write([]byte("retry: 2000\n\n"))
	if err == nil {
		err = run()
	}
	if err != nil && x.ctx.Err() == nil {
		x.s.metrics.dropped.Inc()
	}
	return nil
}

// follow calls send at once, every so often and when there is news, until it
// says to stop, or the client, its session or the server ends. news may be nil.
func (x *channel) follow(every time.Duration, news func() <-chan struct{}, send func() (bool, error)) error {
	look := time.NewTicker(every)
	defer look.Stop()
	beat := time.NewTicker(x.s.cfg.Heartbeat)
	defer beat.Stop()
	for {
		var updated <-chan struct{}
		if news != nil {
			updated = news()
		}
		if on, err := send(); !on || err != nil {
			return err
		}
		select {
		case <-x.ctx.Done():
			return nil
		case <-x.s.closing:
			return nil
		case <-look.C:
		case <-updated:
			if !x.pause(settle) {
				return nil
			}
		case <-beat.C:
			if on, err := x.beat(); !on || err != nil {
				return err
			}
		}
	}
}

func (x *channel) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-x.ctx.Done():
	case <-x.s.closing:
	}
	return false
}

// allowed reports whether who opened the stream is still logged in.
func (x *channel) allowed() bool {
	ctx, cancel := context.WithTimeout(x.ctx, x.s.cfg.StoreTimeout)
	defer cancel()
	if x.who.session == "" {
		_, err := x.s.deps.Control.CheckToken(ctx, x.token)
		return err == nil
	}
	alive, err := x.s.deps.Sessions.Alive(ctx, x.who.session)
	return err == nil && alive
}

func (x *channel) event(out *bytes.Buffer, kind string, data []byte) {
	fmt.Fprintf(out, "id: %d\nevent: %s\ndata: %s\n\n", x.s.eventID.Add(1), kind, data)
}

// write gives up on a client that does not read.
func (x *channel) write(b []byte) error {
	if err := x.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := x.w.Write(b); err != nil {
		return err
	}
	return x.control.Flush()
}

// beat shows that the stream lives. It reports whether it may go on.
func (x *channel) beat() (bool, error) {
	if !x.allowed() {
		return false, nil
	}
	return true, x.write([]byte(": still here\n\n"))
}
