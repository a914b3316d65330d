package host

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
)

const clickhousePort = 9000

// clickhouse makes a real ClickHouse answer at far, out in the network, and
// returns the flags that name it.
func (s *site) clickhouse(t *testing.T) (flags []string, passwordFile string) {
	t.Helper()
	engine, err := clickhouse.New(clickhousetest.Config(t, t.TempDir())) // its own: nobody else's gaps in coverage
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	access := engine.Credentials()
	s.far.serve(t, clickhousePort, func(c net.Conn) {
		to, err := net.Dial("tcp", access.Addr)
		if err != nil {
			t.Error(err)
			return
		}
		go func() { _, _ = io.Copy(to, c); _ = to.Close() }()
		_, _ = io.Copy(c, to)
	})
	passwordFile = filepath.Join(filepath.Dir(s.stateDir), "password")
	if err := os.WriteFile(passwordFile, []byte(access.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{
		"--clickhouse", netip.AddrPortFrom(s.farIs[0], clickhousePort).String(),
		"--clickhouse-user", access.User, "--clickhouse-password-file", passwordFile,
	}, passwordFile
}

// TestUpWithClickHouse stores flows in a ClickHouse elsewhere, and goes on to
// when the way there leads through an interface that is enforced, be it the
// agent's or the server's.
func TestUpWithClickHouse(t *testing.T) {
	t.Parallel()
	t.Run("direct", func(t *testing.T) { upWithClickHouse(t, "c") })
	t.Run("gathered", func(t *testing.T) { upWithClickHouse(t, "g", "--gather") })
}

func upWithClickHouse(t *testing.T, name string, more ...string) {
	t.Parallel()
	s := newSite(t, name)
	s.write(t, s.itself())
	const port = 8080
	s.node.echo(t, port)
	flags, _ := s.clickhouse(t)
	u := s.start(t, append(flags, more...)...)
	flows := func(outcome string) {
		t.Helper()
		eventually(t, outcome+" flows", func() error {
			out := s.says(t, []string{"flows", "--config", s.config(), "--verdict", outcome, "--port", fmt.Sprint(port)})
			for _, a := range s.farIs {
				if !strings.Contains(out, a.String()) {
					return fmt.Errorf("none from %s in\n%s", a, out)
				}
			}
			return nil
		})
	}
	reaches(t, "in observe", s.far, s.nodeIs, port, true)
	flows("forwarded")
	p := onlyFrom(shop("server"), "far", port+1)
	p.IsolateEgress = true
	u.create(t, p, 0)
	s.policy(t, []string{"stage", "shop/Host/server", "--revision", "1"})
	u.enforce(t, shop("server"), "1")
	reaches(t, "enforced", s.far, s.nodeIs, port, false)
	flows("dropped")
	if _, err := os.Stat(filepath.Join(s.stateDir, "clickhouse")); err == nil {
		t.Error("an embedded engine was started beside it")
	}
}
