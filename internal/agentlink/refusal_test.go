package agentlink

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringfence/ringfence/internal/agentlink/linkpb"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/rollout"
)

func TestWrongToken(t *testing.T) {
	path, s := socket(t), newStore()
	serve(t, path, s, nil)
	c := client(t, path, func(c *ClientConfig) { c.Token = strings.Repeat("x", 32) })
	if err := receive(t, run(t, c, newHandler())); !errors.Is(err, ErrToken) {
		t.Errorf("got %v", err)
	}
	if err := c.Confirm(t.Context(), workload, 1); status.Code(errors.Unwrap(err)) != codes.Unauthenticated && !strings.Contains(err.Error(), "wrong token") {
		t.Errorf("confirm: %v", err)
	}
	if len(s.reports) != 0 || s.confirms != 0 {
		t.Error("the store was asked")
	}
}

// An agent that was connected before goes on trying: the server may get its old
// token back, and until then the node keeps what it has.
func TestWrongTokenLater(t *testing.T) {
	path, s, h := socket(t), newStore(), newHandler()
	stop := serve(t, path, s, nil)
	done := run(t, client(t, path, nil), h)
	receive(t, h.at)
	stop()
	refused := prometheus.NewRegistry()
	stop = serve(t, path, s, func(c *Config) { c.Token, c.Registerer = strings.Repeat("y", 32), refused })
	await(t, func() bool {
		n, err := testutil.GatherAndCount(refused, "ringfence_agentlink_refused_total")
		return err == nil && n > 0
	})
	stop()
	serve(t, path, s, nil)
	receive(t, h.at)
	if len(done) != 0 {
		t.Errorf("the client gave up: %v", <-done)
	}
}

// forger is a server that sends what it likes.
type forger struct {
	linkpb.UnimplementedAgentLinkServer
	docs    chan *linkpb.Document
	reports chan rollout.Report
}

func (f *forger) Connect(stream linkpb.AgentLink_ConnectServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	r, err := decodeReport(first.GetHello().GetReport())
	if err != nil {
		return err
	}
	f.reports <- r
	select {
	case doc := <-f.docs:
		if err := stream.Send(&linkpb.FromServer{State: doc}); err != nil {
			return err
		}
	case <-stream.Context().Done():
	}
	<-stream.Context().Done()
	return nil
}

func document(json string, sum []byte) *linkpb.Document {
	if sum == nil {
		s := sha256.Sum256([]byte(json))
		sum = s[:]
	}
	return &linkpb.Document{Json: []byte(json), Sha256: sum}
}

func TestNodeRefusesBadStates(t *testing.T) {
	path, h := socket(t), newHandler()
	lis, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	f := &forger{docs: make(chan *linkpb.Document, 10), reports: make(chan rollout.Report, 100)}
	g := grpc.NewServer(grpc.WaitForHandlers(true))
	linkpb.RegisterAgentLinkServer(g, f)
	served := make(chan error, 1)
	go func() { served <- g.Serve(lis) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	c := client(t, path, nil)
	run(t, c, h)
	if r := receive(t, f.reports); r.Error != "" {
		t.Errorf("at first: %q", r.Error)
	}
	good := `{"generation":5,"inventory":{"nodes":null,"workloads":null},"slots":null}`
	other := sha256.Sum256([]byte("x"))
	for _, b := range []struct {
		name string
		doc  *linkpb.Document
		want string
	}{
		{"digest of something else", document(good, other[:]), "state does not match its digest"},
		{"no digest", document(good, []byte{}), "state does not match its digest"},
		{"nothing", nil, "state does not match its digest"},
		{"cut", document(good[:20], nil), "decode state"},
		{"a field that this version does not know", document(`{"generation":5,"alsoDeny":[]}`, nil), `unknown field "alsoDeny": the agent may be older than the server`},
	} {
		f.docs <- b.doc
		// The next connection says what was wrong with the last one.
		if r := receive(t, f.reports); !strings.Contains(r.Error, b.want) {
			t.Errorf("%s: the node reports %q", b.name, r.Error)
		}
	}
	if n := testutil.ToFloat64(c.metrics.bad); n != 5 || len(h.at) != 0 {
		t.Errorf("%v bad states counted, %d applied", n, len(h.at))
	}
	f.docs <- document(good, nil)
	receive(t, h.at)
}

func TestServerRefusesBadMessages(t *testing.T) {
	path, s := socket(t), newStore()
	serve(t, path, s, nil)
	conn, err := client(t, path, nil).dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	report := func(json string) *linkpb.FromAgent {
		return &linkpb.FromAgent{Message: &linkpb.FromAgent_Report{Report: document(json, nil)}}
	}
	hello := func(node string, doc *linkpb.Document) *linkpb.FromAgent {
		return &linkpb.FromAgent{Message: &linkpb.FromAgent_Hello{Hello: &linkpb.Hello{Node: node, Report: doc}}}
	}
	mine := document(`{"node":"node-1"}`, nil)
	other := sha256.Sum256([]byte("x"))
	for _, c := range []struct {
		name string
		send []*linkpb.FromAgent
		code codes.Code
		want string
	}{
		{"no hello", []*linkpb.FromAgent{report(`{"node":"node-1"}`)}, codes.InvalidArgument, "the first message must be a hello"},
		{"hello without a name", []*linkpb.FromAgent{hello("", mine)}, codes.InvalidArgument, "the first message must be a hello"},
		{"hello with a report that was changed", []*linkpb.FromAgent{hello("node-1", document(`{}`, other[:]))}, codes.DataLoss, "report does not match its digest"},
		{"report of another node", []*linkpb.FromAgent{hello("node-1", mine), report(`{"node":"node-2"}`)}, codes.PermissionDenied, `a report about node "node-2" came from node "node-1"`},
		{"report that is no JSON", []*linkpb.FromAgent{hello("node-1", mine), report(`{`)}, codes.DataLoss, "decode report"},
		{"second hello", []*linkpb.FromAgent{hello("node-1", mine), hello("node-1", mine)}, codes.DataLoss, "report does not match its digest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(withToken(t.Context(), token), patience)
			defer cancel()
			stream, err := linkpb.NewAgentLinkClient(conn).Connect(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range c.send {
				if err := stream.Send(m); err != nil {
					t.Fatal(err)
				}
			}
			for err == nil {
				_, err = stream.Recv()
			}
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestStateThatIsTooLarge(t *testing.T) {
	path, s, h := socket(t), newStore(), newHandler()
	for i := range 5000 {
		s.state.Inventory.Nodes = append(s.state.Inventory.Nodes, inventory.Node{Name: fmt.Sprint("node-", i)})
	}
	reg := prometheus.NewRegistry()
	serve(t, path, s, func(c *Config) { c.MaxMessage, c.Registerer = 64<<10, reg })
	run(t, client(t, path, nil), h)
	for range 3 {
		receive(t, s.reports) // the agent stays connected
	}
	if len(h.at) != 0 {
		t.Error("it arrived")
	}
	if _, err := encode("state", s.state, 64<<10); err == nil || !strings.Contains(err.Error(), "a message holds 61440") {
		t.Errorf("got %v", err)
	}
	s.set(func() { s.state = rollout.State{Generation: 2} })
	receive(t, h.at)
}

func TestListen(t *testing.T) {
	path := socket(t)
	lis, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v", p, info.Mode(), err)
		}
	}
	if _, err := Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("a second server: %v", err)
	}
	// A server that was killed leaves its socket behind.
	lis.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "a file is in its place") {
		t.Errorf("a file in its place: %v", err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "is open to others") {
		t.Errorf("a directory that is open to others: %v", err)
	}
	if _, err := Listen(t.Context(), "/"+strings.Repeat("x", 120)); err == nil || !strings.Contains(err.Error(), "121 characters") {
		t.Errorf("a long path: %v", err)
	}
}

func TestPlainTCPIsRefused(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := New(Config{Token: token}, newStore())
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Serve(t.Context(), lis); err == nil || !strings.Contains(err.Error(), "only a unix socket") {
		t.Errorf("server: %v", err)
	}
	if _, err := NewClient(ClientConfig{Address: "127.0.0.1:1", Node: "n", Token: token}); err == nil || !strings.Contains(err.Error(), "only a unix socket") {
		t.Errorf("client: %v", err)
	}
}

func TestConfigs(t *testing.T) {
	if _, err := New(Config{Token: "short", MaxMessage: 1}, newStore()); err == nil || !strings.Contains(err.Error(), "token") || !strings.Contains(err.Error(), "message limit") {
		t.Errorf("server: %v", err)
	}
	if _, err := NewClient(ClientConfig{Heartbeat: -1, Token: "has a space in it, you see"}); err == nil ||
		!strings.Contains(err.Error(), "address") || !strings.Contains(err.Error(), "node name") || !strings.Contains(err.Error(), "token") || !strings.Contains(err.Error(), "heartbeat") {
		t.Errorf("client: %v", err)
	}
	reg := prometheus.NewPedanticRegistry()
	if _, err := New(Config{Token: token, Registerer: reg}, newStore()); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(ClientConfig{Address: "unix:///x", Node: "n", Token: token, Registerer: reg}); err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
}
