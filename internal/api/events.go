package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/control"
)

const (
	// firstActivity is how many entries a new stream begins with; maxActivity is
	// how many may come between two looks.
	firstActivity = 20
	maxActivity   = 200
)

// StreamEvents answers with an event stream: first everything as it is, then
// what changes.
func (s *Server) StreamEvents(ctx context.Context, _ StreamEventsRequestObject) (StreamEventsResponseObject, error) {
	c, err := s.openChannel(ctx)
	if err != nil {
		return nil, err
	}
	return &stream{channel: c, sent: map[string][]byte{}}, nil
}

// stream tells one client what changes.
type stream struct {
	*channel
	sent     map[string][]byte // the newest data sent, by what it is about
	activity int64             // the newest entry sent
}

// VisitStreamEventsResponse implements StreamEventsResponseObject.
func (x *stream) VisitStreamEventsResponse(w http.ResponseWriter) error {
	return x.visit(w, func() error { return x.follow(x.s.cfg.StreamEvery, x.s.deps.Control.Updated, x.send) })
}

// send writes what is not as it was when last sent. A stream always goes on.
func (x *stream) send() (bool, error) {
	snap := x.s.snapshot.get(x.ctx, x.s)
	var out bytes.Buffer
	x.add(&out, "status", snap.status)
	for _, w := range snap.workloads {
		x.add(&out, "workload", w)
	}
	news := snap.activity
	if x.activity == 0 && len(news) > firstActivity {
		news = news[len(news)-firstActivity:]
	}
	for _, a := range news {
		if a.id > x.activity {
			x.activity = a.id
			x.event(&out, "activity", a.data)
		}
	}
	if out.Len() == 0 {
		return true, nil
	}
	return true, x.write(out.Bytes())
}

func (x *stream) add(out *bytes.Buffer, kind string, k keyed) {
	if k.data == nil || bytes.Equal(x.sent[k.key], k.same) {
		return
	}
	x.sent[k.key] = k.same
	x.event(out, kind, k.data)
}

// snapshotCache keeps many streams from asking for the same things.
type snapshotCache struct {
	mu      sync.Mutex
	updated <-chan struct{}
	at      time.Time
	now     *snapshot
}

// snapshot is everything that streams tell of, encoded once for all of them.
type snapshot struct {
	status    keyed
	workloads []keyed
	activity  []numbered // oldest first
}

// keyed is something that is sent again when it is no longer the same.
type keyed struct {
	key  string
	data []byte
	same []byte // what of data makes news
}

type numbered struct {
	id   int64
	data []byte
}

// get returns a snapshot made after the newest change.
func (x *snapshotCache) get(ctx context.Context, s *Server) *snapshot {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	if x.now != nil && now.Sub(x.at) < s.cfg.StreamEvery/2 {
		select {
		case <-x.updated:
		default:
			return x.now
		}
	}
	x.at, x.updated = now, s.deps.Control.Updated()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*s.cfg.StoreTimeout)
	defer cancel()
	x.now = s.look(ctx)
	return x.now
}

// look makes a snapshot. What cannot be read now is left out and comes with the
// next one.
func (s *Server) look(ctx context.Context) *snapshot {
	out := &snapshot{}
	status := s.status(ctx)
	data := encode(status)
	// Time going by is no news.
	status.Now = time.Time{}
	for i := range status.Nodes {
		status.Nodes[i].LastReport = nil
	}
	out.status = keyed{"status", data, encode(status)}
	if list, err := s.summaries(ctx, time.Second); err == nil {
		for i := range list {
			data := encode(&list[i])
			out.workloads = append(out.workloads, keyed{"workload/" + refFrom(list[i].Workload).String(), data, data})
		}
	}
	if events, err := s.deps.Control.Events(ctx, control.EventFilter{Limit: maxActivity}); err == nil {
		for i := len(events) - 1; i >= 0; i-- {
			out.activity = append(out.activity, numbered{events[i].ID, encode(activityOf(events[i]))})
		}
	}
	return out
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return []byte(strconv.Quote(err.Error())) // the contract's types always encode
	}
	return b
}
