package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
)

// flowServer answers as the API does, from a list.
func flowServer(t *testing.T, serve http.HandlerFunc) (config string) {
	t.Helper()
	s := httptest.NewServer(serve)
	t.Cleanup(s.Close)
	dir := t.TempDir()
	if err := (clientFile{Server: s.URL, Token: "secret"}).write(dir); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, clientFileName)
}

func flowNumber(n int) api.Flow {
	return api.Flow{ID: fmt.Sprint(n), Node: "node-1", Direction: "egress", SourceAddress: "10.0.0.1", DestinationAddress: "2001:db8::1",
		Port: 443, Protocol: "TCP", Outcome: "audited", Source: api.Party{Workload: &api.WorkloadRef{Namespace: "shop", Kind: "Host", Name: "cart"}}}
}

func sendJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func TestFlowsFlagsAreAFilter(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string // without since
		err  string
	}{
		{nil, "", ""},
		{[]string{"-n", "shop,tools", "--to", "shop/cart", "--port", "443,8000-8100", "--protocol", "tcp"},
			"namespace=shop,tools to.workload=shop/cart to.port=443,8000-8100 protocol=TCP", ""},
		{[]string{"-l", "app=x,tier!=db", "--verdict", "audited", "--cidr", "10.0.0.0/8"}, "label=app=x label=tier!=db verdict=audited address=10.0.0.0/8", ""},
		{[]string{"--filter", `-to.label=tier=db node="a b"`, "--from", "a/b/c", "--direction", "ingress", "--reason", "rule"},
			`-to.label=tier=db node="a b" from.workload=a/b/c reason=rule direction=ingress`, ""},
		{[]string{"-n", "x y=z"}, `namespace="x y=z"`, ""},
		{[]string{"--port", "http"}, "", `--port: port "http": want a number`},
		{[]string{"--to", "cart"}, "", "--to: workload \"cart\": want namespace/name"},
		{[]string{"--filter", "port=1 vredict=x"}, "", "--filter: column 8: unknown field"},
		{[]string{"--since", "tomorrow"}, "", "--since: time \"tomorrow\""},
		{[]string{"--since", "1h", "--filter", "since=2h"}, "", "leave out one"},
		{[]string{"-o", "name"}, "", "flows have no names"},
		{[]string{"-f", "-o", "yaml"}, "", "no document"},
		{[]string{"-f", "--until", "1h"}, "", "no end"},
		{[]string{"--limit", "0"}, "", "want a positive number"},
		{[]string{"-f", "--limit", "1001"}, "", "at most 1000"},
	} {
		var asked string
		config := flowServer(t, func(w http.ResponseWriter, r *http.Request) {
			asked = r.URL.Query().Get("filter")
			sendJSON(w, api.FlowPage{Flows: []api.Flow{}})
		})
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"flows", "--config", config}, tt.args...), &out, &errs)
		if tt.err != "" {
			if code != 1 || !strings.Contains(errs.String(), tt.err) || strings.Count(errs.String(), "\n") != 1 {
				t.Errorf("%q: code %d, %q, want one line with %q", tt.args, code, errs.String(), tt.err)
			}
			continue
		}
		before, since, _ := strings.Cut(asked, "since=")
		if at, err := time.Parse(time.RFC3339Nano, since); err != nil || time.Since(at) > time.Hour+time.Minute {
			t.Errorf("%q: since %q, %v", tt.args, since, err)
		}
		if code != 0 || strings.TrimSpace(before) != tt.want || !strings.Contains(errs.String(), "no flow matches") {
			t.Errorf("%q: code %d, asks %q, says %q", tt.args, code, asked, errs.String())
		}
	}
}

func TestFlowsReadsPages(t *testing.T) {
	const all = 2500
	config := flowServer(t, func(w http.ResponseWriter, r *http.Request) {
		var from, limit int
		_, _ = fmt.Sscan(r.URL.Query().Get("cursor"), &from)
		_, _ = fmt.Sscan(r.URL.Query().Get("limit"), &limit)
		page := api.FlowPage{Flows: []api.Flow{}}
		for n := from; n < min(all, from+limit); n++ {
			page.Flows = append(page.Flows, flowNumber(n))
		}
		if next := fmt.Sprint(from + limit); from+limit < all {
			page.Next = &next
		}
		sendJSON(w, page)
	})
	for limit, want := range map[int]int{5: 5, 1000: 1000, 2100: 2100, 9000: all} {
		var out, errs bytes.Buffer
		code := run(t.Context(), []string{"flows", "--config", config, "-o", "json", "--limit", fmt.Sprint(limit)}, &out, &errs)
		var flows []api.Flow
		if err := json.Unmarshal(out.Bytes(), &flows); err != nil || code != 0 || len(flows) != want || flows[want-1].ID != fmt.Sprint(want-1) {
			t.Errorf("limit %d: code %d, %d flows, %v, %s", limit, code, len(flows), err, errs.String())
		}
	}
	var out, errs bytes.Buffer
	run(t.Context(), []string{"flows", "--config", config, "--limit", "2"}, &out, &errs)
	if !strings.Contains(out.String(), "shop/Host/cart 10.0.0.1:0") || !strings.Contains(errs.String(), "the newest 2; --limit shows more") {
		t.Errorf("%s%s", out.String(), errs.String())
	}
}

// follow runs flows -f against a server that sends events, one at a time.
func follow(t *testing.T, ctx context.Context, stdout *os.File, format string, events ...string) (code int, said string) { //nolint:revive // a test's t comes first
	t.Helper()
	config := flowServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, e := range events {
			fmt.Fprint(w, e)
			w.(http.Flusher).Flush()
		}
		if ctx.Done() != nil {
			<-r.Context().Done()
		}
	})
	var errs bytes.Buffer
	code = run(ctx, []string{"flows", "--config", config, "-f", "-o", format}, stdout, &errs)
	return code, errs.String()
}

func event(kind string, v any) string {
	b, _ := json.Marshal(v)
	return fmt.Sprintf("id: 1\nevent: %s\ndata: %s\n\n", kind, b)
}

func TestFlowsFollow(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // a test
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		code int
		said string
	}
	done := make(chan result)
	go func() {
		code, said := follow(t, ctx, w, "json", "retry: 2000\n\n", event("flows", []api.Flow{flowNumber(1)}), ": still here\n\n",
			event("problem", api.Error{Code: api.ErrorCodeUnavailable, Message: "ClickHouse does not answer"}),
			event("flows", []api.Flow{flowNumber(2), flowNumber(3)}))
		done <- result{code, said}
	}()
	dec := json.NewDecoder(r)
	for want := 1; want <= 3; want++ {
		var f api.Flow
		if err := dec.Decode(&f); err != nil || f.ID != fmt.Sprint(want) {
			t.Fatalf("%+v, %v: want flow %d", f, err, want)
		}
	}
	cancel()
	if got := <-done; got.code != 130 || got.said != "" {
		t.Errorf("Ctrl-C ends it with %d and %q, want 130 and nothing said", got.code, got.said)
	}
}

func TestFlowsFollowEnds(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close() //nolint:errcheck // a test
	for name, tt := range map[string]struct {
		events []string
		says   string
	}{
		"the server ends":     {[]string{event("flows", []api.Flow{})}, "ended the stream"},
		"too many":            {[]string{event("problem", api.Error{Code: api.ErrorCodeInvalid, Message: "filter: too many to follow"})}, "too many to follow"},
		"what is no event":    {[]string{"event: flows\ndata: <html>\n\n"}, "no list of flows"},
		"half of an event":    {[]string{"event: flows\ndata: [{"}, "ended the stream"},
		"nothing whatsoever":  {nil, "ended the stream"},
		"what is no problem":  {[]string{"event: problem\ndata: 5\n\n"}, "no error"},
		"an event of another": {[]string{event("weather", 5)}, "ended the stream"},
	} {
		t.Run(name, func(t *testing.T) {
			code, said := follow(t, context.Background(), null, "table", tt.events...)
			if code != 1 || !strings.Contains(said, tt.says) || strings.Count(said, "\n") != 1 {
				t.Errorf("code %d, %q, want one line with %q", code, said, tt.says)
			}
		})
	}
}

func TestABrokenPipeIsQuiet(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close() //nolint:errcheck // nobody reads
	code, said := follow(t, context.Background(), w, "json", event("flows", []api.Flow{flowNumber(1)}))
	if want := 128 + int(syscall.SIGPIPE); code != want || said != "" {
		t.Errorf("code %d, %q, want %d and nothing said", code, said, want)
	}
}

func TestGrowingTable(t *testing.T) {
	var out bytes.Buffer
	table := growingTable{w: &out, header: []string{"A", "B"}}
	for _, rows := range [][][]string{{}, {{"x", "1"}, {"long", "2"}}, {{"x", "3"}}, {{"longer", "4"}}} {
		if err := table.add(rows); err != nil {
			t.Fatal(err)
		}
	}
	if want := "A     B\nx     1\nlong  2\nx     3\nlonger  4\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
