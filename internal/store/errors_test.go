package store

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
	"github.com/ringfence/ringfence/internal/query"
)

// wantError checks that err is one line that contains every part.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %v", err)
	}
	if len(err.Error()) > 600 {
		t.Errorf("%d characters are no line for people: %v", len(err.Error()), err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

// server accepts connections on the loopback address and hands them to serve.
func server(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

func TestOpenErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	silence := make(chan struct{})
	t.Cleanup(func() { close(silence) })
	silent := server(t, func(net.Conn) { <-silence })
	closing := server(t, func(net.Conn) {})
	http := server(t, func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.0 400 Bad Request\r\n\r\n")) })

	tests := []struct {
		name   string
		change func(*Config)
		want   []string
	}{
		{"refused", func(c *Config) { c.Addrs = []string{refused} }, []string{refused, "refuses connections", "start it"}},
		{"wrong password", func(c *Config) { c.Password = "wrong" }, []string{`user "ringfence"`, "wrong password", "--clickhouse-password-file"}},
		{"wrong user", func(c *Config) { c.User, c.PasswordHelp = "nobody", "ask the operator" }, []string{`user "nobody"`, "wrong password or no such user", "ask the operator"}},
		{"a server's own user without password", func(c *Config) { c.User, c.Password = "", "" }, []string{"clickhouse"}},
		{"not clickhouse", func(c *Config) { c.Addrs = []string{http} }, []string{"clickhouse"}},
		{"closes", func(c *Config) { c.Addrs = []string{closing} }, []string{closing, "closed the connection", "native protocol"}},
		{"silent", func(c *Config) { c.Addrs, c.DialTimeout = []string{silent}, 200*time.Millisecond }, []string{silent, "did not answer in time"}},
		{"unknown name", func(c *Config) { c.Addrs = []string{"clickhouse.invalid:9000"} }, []string{"clickhouse.invalid", "does not resolve"}},
		{"no address", func(c *Config) { c.Addrs = nil }, []string{"clickhouse address: missing"}},
		{"no port", func(c *Config) { c.Addrs = []string{"localhost"} }, []string{`"localhost"`, "HOST:PORT"}},
		{"bad database", func(c *Config) { c.Database = "a`b" }, []string{"clickhouse database", "letters, digits and underscores"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig(t)
			tt.change(&cfg)
			s, err := Open(t.Context(), cfg)
			if err == nil {
				_ = s.Close()
			}
			wantError(t, err, tt.want...)
		})
	}
	// Wrong passwords must not have hurt the engine.
	if err := empty(t).createDatabase(t.Context(), clickhousetest.Database(t)); err != nil {
		t.Error(err)
	}
}

func TestNoSchema(t *testing.T) {
	s := empty(t)
	want := []string{"no ringfence schema", s.cfg.Database, "start the ringfence server"}
	wantError(t, s.Ping(t.Context()), want...)
	wantError(t, s.InsertFlows(t.Context(), "a", connections(1, noon)), want...)
	if err := s.createDatabase(t.Context(), s.cfg.Database); err != nil {
		t.Fatal(err)
	}
	_, err := s.Edges(t.Context(), EdgeFilter{})
	wantError(t, err, want...)
}

func TestDatabaseNotOurs(t *testing.T) {
	cfg := testConfig(t)
	cfg.Database = "somebody_elses"
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	wantError(t, s.Migrate(t.Context()), `user "ringfence"`, "may not", "somebody_elses")
}

func TestCheckVersion(t *testing.T) {
	for _, tt := range []struct {
		version string
		want    string // part of the error
	}{
		{"26.7.2.1", ""},
		{"25.8.1.1", ""},
		{"26.1.1.1", ""},
		{"25.7.9.9", "upgrade it to 25.8"},
		{"24.12.1.1", "upgrade it to 25.8"},
		{"banana", "not understood"},
	} {
		err := checkVersion(tt.version)
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.version, err)
			}
			continue
		}
		wantError(t, err, tt.version, tt.want)
	}
}

func TestCheckSettings(t *testing.T) {
	s := empty(t)
	for name, value := range map[string]any{
		"async_insert":       1,
		"insert_deduplicate": 0,
		"deduplicate_insert": "disable",
		"deduplicate_blocks_in_dependent_materialized_views": 0,
	} {
		t.Run(name, func(t *testing.T) {
			o := s.options("")
			o.Settings[name] = value
			db := clickhouse.OpenDB(o)
			defer func() { _ = db.Close() }()
			wantError(t, s.checkSettings(t.Context(), db), name, "counted twice", "profile")
		})
	}
}

func TestQueryLimits(t *testing.T) {
	s := migrated(t)
	mustInsert(t, s, "a", connections(1000, noon)...)
	limited := func(t *testing.T, change func(*Config)) *Store {
		t.Helper()
		cfg := s.cfg
		change(&cfg)
		l, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	t.Run("rows", func(t *testing.T) {
		_, err := limited(t, func(c *Config) { c.MaxRowsRead = 10 }).Flows(t.Context(), query.Filter{}, query.Cursor{}, 1000)
		wantError(t, err, "gave up the query", "shorter time")
		wantLimit(t, err)
	})
	t.Run("bytes", func(t *testing.T) {
		_, err := limited(t, func(c *Config) { c.MaxBytesRead = 1000 }).Flows(t.Context(), query.Filter{}, query.Cursor{}, 1000)
		wantError(t, err, "gave up the query", "shorter time")
		wantLimit(t, err)
	})
	t.Run("memory", func(t *testing.T) {
		_, err := limited(t, func(c *Config) { c.MaxMemory = 1000 }).Facets(t.Context(), query.Filter{}, 0)
		wantError(t, err, "short of memory", "shorter time")
		wantLimit(t, err)
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Edges(ctx, EdgeFilter{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want that the context was cancelled", err)
		}
	})
	t.Run("unlimited", func(t *testing.T) {
		if _, err := s.Flows(t.Context(), query.Filter{}, query.Cursor{}, 1000); err != nil {
			t.Error(err)
		}
	})
}

// wantLimit checks that the error says of itself that a smaller question helps.
func wantLimit(t *testing.T, err error) {
	t.Helper()
	if _, ok := errors.AsType[*query.LimitError](err); !ok {
		t.Errorf("%v is no query.LimitError", err)
	}
}

func TestExplainException(t *testing.T) {
	s := &Store{cfg: Config{Addrs: []string{"db:9000"}, User: "me", Database: "ringfence", PasswordHelp: "help"}}
	for _, tt := range []struct {
		code int32
		want string
	}{
		{codeSettingConstraint, "take the constraint out"},
		{codeReadonly, "may not do this"},
		{codeNoSpace, "full"},
		{codeMemoryLimit, "short of memory"},
		{codeTimeout, "gave up the query"},
		{12345, "code 12345"},
	} {
		e := &clickhouse.Exception{Code: tt.code, Message: "Something. Stack trace:\n\n0. main\n1. start"}
		err := s.explain("op", e)
		wantError(t, err, tt.want, "Something")
		var back *clickhouse.Exception
		if !errors.As(err, &back) {
			t.Errorf("code %d: the exception is not in the chain", tt.code)
		}
	}
}

func TestMetrics(t *testing.T) {
	cfg := testConfig(t)
	registry := prometheus.NewPedanticRegistry()
	cfg.Registerer = registry
	var stores []*Store
	for range 2 { // one after the other, on the same registry
		s, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		stores = append(stores, s)
	}
	if err := stores[0].Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, s := range stores {
		mustInsert(t, s, token(i), connections(3, noon)...)
	}
	if _, err := stores[1].Flows(t.Context(), query.Filter{}, query.Cursor{}, 1); err != nil {
		t.Fatal(err)
	}
	m := stores[1].metrics
	if n := testutil.ToFloat64(m.inserted.WithLabelValues("flows")); n != 6 {
		t.Errorf("%v rows inserted, want 6", n)
	}
	if n := testutil.ToFloat64(m.queries.WithLabelValues("flows", "ok")); n != 1 {
		t.Errorf("%v queries for flows, want 1", n)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
}

func TestPing(t *testing.T) {
	s := migrated(t)
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := s.Flows(t.Context(), query.Filter{}, query.Cursor{}, 0); err != nil {
		t.Error(err)
	}
}
