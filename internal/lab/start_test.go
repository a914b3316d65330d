package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestStartRefusesWhatIsNotIts(t *testing.T) {
	before := snapshotMachine(t)
	const name = "rf-node-2"
	ns, err := createNamespace(name, nil)
	must(t, err)
	defer ns.Close() //nolint:errcheck // only read from
	t.Cleanup(func() { must(t, deleteNamespace(name)) })
	l, err := New(testConfig(t.TempDir()))
	must(t, err)
	err = l.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "network namespace rf-node-2 exists") {
		t.Errorf("got %v", err)
	}
	if exists, err := namespaceExists(name); err != nil || !exists {
		t.Errorf("somebody else's namespace is gone (%v)", err)
	}
	must(t, deleteNamespace(name))
	mustLeaveNothing(t, l.cfg.StateDir)
	before.mustBeUnchanged(t)
}

// Somebody may take a name between the look and the making.
func TestNamespaceTakenMeanwhile(t *testing.T) {
	l, err := New(testConfig(t.TempDir()))
	must(t, err)
	must(t, l.claimNames())
	const name = "rf-node-2"
	ns, err := createNamespace(name, nil)
	must(t, err)
	defer ns.Close() //nolint:errcheck // only read from
	t.Cleanup(func() { must(t, deleteNamespace(name)) })
	made, err := l.createNamespaces()
	for _, f := range made {
		must(t, f.Close())
	}
	if err == nil || len(made) != 1 {
		t.Errorf("made %d, %v", len(made), err)
	}
	removed, err := Cleanup(t.Context(), l.cfg.StateDir, l.cfg.Logger)
	if err != nil || removed != 1 {
		t.Errorf("removed %d, %v", removed, err)
	}
	if exists, err := namespaceExists(name); err != nil || !exists {
		t.Errorf("somebody else's namespace is gone (%v)", err)
	}
}

const small = `
name: small
nodes:%s
workloads:
  - {namespace: a, name: server, labels: {app: server}, serves: [{port: 80}], endpoints: [{node: node-1, addresses: [10.89.1.1, "fd52::1:1"]}]}
  - {namespace: a, name: client, labels: {app: client}, endpoints: [{node: %s, addresses: [10.89.3.1, "fd52::3:1"]}]}
external:
  node: %s
  peers: [{name: outside, addresses: [203.0.113.1, "2001:db8::1"], serves: [{port: 443}]}]
calls:
  - {from: a/client, to: a/server, port: 80, every: 100ms}
  - {from: a/client, to: outside, port: 443, every: 100ms}
  - {from: outside, to: a/server, port: 80, every: 100ms}
`

func TestOtherShapes(t *testing.T) {
	node := func(n int) string {
		return fmt.Sprintf("\n  - {name: node-%d, addresses: [10.89.0.%d, \"fd52::%d\"]}", n, n, n)
	}
	for name, text := range map[string]string{
		"one node":    fmt.Sprintf(small, node(1), "node-1", "node-1"),
		"three nodes": fmt.Sprintf(small, node(1)+node(2)+node(3), "node-3", "node-2"),
	} {
		t.Run(name, func(t *testing.T) {
			s, err := parse([]byte(text), name)
			must(t, err)
			cfg := testConfig(t.TempDir())
			cfg.Scenario = s
			l, err := New(cfg)
			must(t, err)
			must(t, l.Start(t.Context()))
			defer func() { must(t, l.Stop(context.Background())) }()
			want := wantedCounters(s)
			await(t, 10*time.Second, "every edge to answer", func() bool {
				answered := 0
				for _, c := range counters(t, l) {
					if c.Failures > 0 {
						t.Fatalf("%+v", c)
					}
					if c.Connections > 0 {
						answered++
					}
				}
				return answered == len(want)
			})
		})
	}
}

func TestStartLeavesNothingWhenItFails(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no such program":        func(c *Config) { c.Command = []string{"/nonexistent/program"} },
		"a program that ends":    func(c *Config) { c.Command = []string{"/bin/false"} },
		"a program that is mute": func(c *Config) { c.Command = []string{"/bin/sh", "-c", "exec sleep 60"} },
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			cfg := testConfig(t.TempDir())
			change(&cfg)
			l, err := New(cfg)
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := l.Start(ctx); err == nil {
				t.Error("started")
			} else if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
			mustLeaveNothing(t, cfg.StateDir)
			entries, err := os.ReadDir(cfg.StateDir)
			if err != nil || len(entries) != 0 {
				t.Errorf("state directory holds %v (%v)", entries, err)
			}
		})
	}
}

func TestConfigValidate(t *testing.T) {
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "no command") || !strings.Contains(err.Error(), "no logger") {
		t.Errorf("got %v", err)
	}
	cfg := testConfig(t.TempDir())
	cfg.Scenario = &Scenario{Name: "x"}
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "scenario: nodes: there are none") {
		t.Errorf("got %v", err)
	}
}

func TestHostPrograms(t *testing.T) {
	serve := `{"id":1,"op":"serve","spec":{"listeners":[],"calls":[],"attacks":[]}}` + "\n"
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close() //nolint:errcheck // nobody called
	for name, c := range map[string]struct{ in, out string }{
		"serves and counts":     {serve + `{"id":2,"op":"counters"}`, `{"id":1}` + "\n" + `{"id":2}` + "\n"},
		"before serve":          {`{"id":7,"op":"pause"}`, `{"id":7,"error":"this host has not been told what to serve"}` + "\n"},
		"serve twice":           {serve + serve, `{"id":1}` + "\n" + `{"id":1,"error":"this host is serving already"}` + "\n"},
		"serve nothing":         {`{"id":1,"op":"serve"}`, `{"id":1,"error":"this host has not been told what to serve"}` + "\n"},
		"unknown operation":     {serve + `{"id":3,"op":"dance"}`, `{"id":1}` + "\n" + `{"id":3,"error":"operation \"dance\" is unknown: the lab and its hosts are of different versions"}` + "\n"},
		"a port that is taken":  {fmt.Sprintf(`{"id":1,"op":"serve","spec":{"listeners":[{"protocol":"TCP","address":%q,"speaks":"ssh"}]}}`, taken.Addr()), "address already in use"},
		"nothing at all":        {"", ""},
		"what is not a request": {"{]", ""},
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			var out strings.Builder
			err := RunHost(t.Context(), strings.NewReader(c.in), &out, []string{"rf-x-1"})
			if (err != nil) != (c.in == "{]") {
				t.Error(err)
			}
			if !strings.Contains(out.String(), c.out) || (c.out == "") != (out.Len() == 0) {
				t.Errorf("got %s want %s", out.String(), c.out)
			}
		})
	}
}
