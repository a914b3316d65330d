package host

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestUpRefuses gives up everything it must refuse, one at a time.
func TestUpRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t, "r")
	good := s.behind()
	dir := filepath.Dir(s.stateDir)
	flags, passwordFile := s.clickhouse(t)
	copied := readable(t, s)
	busy := func(t *testing.T) {
		s.node.serve(t, 7433, func(net.Conn) {})
	}
	inventory := func(from, to string) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			changed := strings.Replace(good, from, to, 1)
			if changed == good {
				t.Fatalf("%q is not in the inventory", from)
			}
			s.write(t, changed)
		}
	}
	write := func(path, content string) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certificate(t, cert, key)
	clickhouse := func(addr, password string) []string {
		return []string{"--clickhouse", addr, "--clickhouse-user", flags[3], "--clickhouse-password-file", password}
	}
	tests := []struct {
		name    string
		prepare func(*testing.T)
		args    []string
		attr    *syscall.SysProcAttr
		want    []string
	}{
		{name: "nothing to watch", args: []string{"--node", "node-2"}, prepare: inventory("workloads:", "  - name: node-2\nworkloads:"),
			want: []string{`gives node "node-2" no interface to watch`, "`interfaces` of the node"}},
		{name: "rule of an unknown kind", prepare: inventory("workloads:", "    interfaces: [{kind: veht}]\nworkloads:"),
			want: []string{"line ", `"veht" is no kind of interface`, "veth"}},
		{name: "malformed inventory", prepare: inventory("    labels: {app: db}", "    labels: {app: db"), want: []string{"inventory.yaml", "line "}},
		{name: "unknown field", prepare: inventory("labels: {app: db}", "lables: {app: db}"), want: []string{"line ", "lables"}},
		{name: "address given twice", prepare: inventory(s.dbIs[0].String(), s.webIs[0].String()),
			want: []string{"line ", s.webIs[0].String() + " belongs to endpoint web-1 of shop/Host/web and to endpoint db-1 of shop/Host/db"}},
		{name: "no labels", prepare: inventory("labels: {app: db}", "labels: {}"), want: []string{"line ", "workload shop/Host/db has none: give at least one"}},
		{name: "no inventory", args: []string{"--inventory", "/nonexistent.yaml"}, want: []string{"/nonexistent.yaml: no such file"}},
		{name: "unnamed inventory", args: []string{"--inventory="}, want: []string{"--inventory"}},
		{name: "node not in the inventory", args: []string{"--node", "node-9"}, want: []string{`no node "node-9"`, "--node"}},
		{name: "not root", attr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}, want: []string{"run as root"}},
		{name: "root without capabilities", attr: &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER, Credential: &syscall.Credential{NoSetGroups: true},
			UidMappings: []syscall.SysProcIDMap{{HostID: 65534, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: 65534, Size: 1}},
		}, prepare: func(t *testing.T) {
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
		}, want: []string{"ask the kernel", "operation not permitted", "run as root"}},
		{name: "engine library missing", args: []string{"--engine-library", "/nonexistent.so"}, want: []string{"/nonexistent.so", "no such file", "make build", "--engine-library"}},
		{name: "engine library damaged", args: []string{"--engine-library", passwordFile}, want: []string{passwordFile, "make build"}},
		{name: "port taken", prepare: busy, args: []string{"--listen", "127.0.0.1:7433"}, want: []string{"--listen 127.0.0.1:7433", "address already in use", "choose another"}},
		{name: "address is not this host's", args: []string{"--listen", "192.0.2.1:7433"}, want: []string{"--listen 192.0.2.1:7433", "choose another"}},
		{name: "no address", args: []string{"--listen", "7433"}, want: []string{`--listen "7433"`, "host:port"}},
		{name: "not loopback without TLS", args: []string{"--listen", "0.0.0.0:7433"}, want: []string{"not a loopback address", "--tls-cert and --tls-key"}},
		{name: "certificate without key", args: []string{"--tls-cert", cert}, want: []string{"--tls-cert and --tls-key go together"}},
		{name: "no certificate file", args: []string{"--tls-cert", "/nonexistent.pem", "--tls-key", key}, want: []string{"--tls-cert", "/nonexistent.pem: no such file"}},
		{name: "certificate file is none", args: []string{"--tls-cert", key, "--tls-key", key}, want: []string{"--tls-cert", key}},
		{name: "ClickHouse refuses the password", prepare: write(filepath.Join(dir, "wrong"), "wrong"),
			args: clickhouse(flags[1], filepath.Join(dir, "wrong")), want: []string{"clickhouse at " + flags[1], "wrong password", "--clickhouse-password-file"}},
		{name: "ClickHouse unreachable", args: clickhouse("127.0.0.1:1", passwordFile), want: []string{"clickhouse at 127.0.0.1:1", "connection refused", "correct the address"}},
		{name: "ClickHouse's name unknown", args: clickhouse("clickhouse.invalid:9000", passwordFile), want: []string{"clickhouse.invalid", "does not resolve", "correct the address"}},
		{name: "ClickHouse without port", args: clickhouse("127.0.0.1", passwordFile), want: []string{"--clickhouse", "host:port"}},
		{name: "no password file", args: clickhouse(flags[1], "/nonexistent"), want: []string{"--clickhouse-password-file", "/nonexistent: no such file"}},
		{name: "password without ClickHouse", args: []string{"--clickhouse-password-file", passwordFile}, want: []string{"is for --clickhouse"}},
		{name: "unknown flag", args: []string{"--frobnicate"}, want: []string{"unknown flag: --frobnicate", "ringfence up --help"}},
		{name: "bad duration", args: []string{"--warm-up", "soon"}, want: []string{"--warm-up", "soon"}},
		{name: "no window", args: []string{"--min-window", "0s"}, want: []string{"--min-window", "positive"}},
		{name: "a window longer than learning looks back", args: []string{"--min-window", "721h"}, want: []string{"--min-window", "720h0m0s", "--retention-flows"}},
		{name: "negative duration", args: []string{"--warm-up", "-1s"}, want: []string{"--warm-up", "positive"}},
		{name: "unknown way of attaching", args: []string{"--attach", "xdp"}, want: []string{"--attach", `"xdp"`, "want auto, tcx or clsact"}},
		{name: "unknown argument", args: []string{"now"}, want: []string{"now"}},
		{name: "state directory of something else", args: []string{"--state-dir", "/etc"}, want: []string{"--state-dir /etc", "holds other files"}},
		{name: "runtime directory of something else", args: []string{"--runtime-dir", "/run"}, want: []string{"--runtime-dir /run", "holds other files"}},
		{name: "state directory is a file", args: []string{"--state-dir", passwordFile}, want: []string{"--state-dir " + passwordFile, "not a directory"}},
		{name: "runtime directory too long", args: []string{"--runtime-dir", filepath.Join(dir, strings.Repeat("x", 100))}, want: []string{"longer than", "--runtime-dir"}},
		{name: "engine's data directory damaged", prepare: func(t *testing.T) {
			write(filepath.Join(s.stateDir, "ringfence.lock"), "")(t)
			write(filepath.Join(s.stateDir, "clickhouse", "data", "metadata"), "x")(t)
			t.Cleanup(func() { _ = os.RemoveAll(s.stateDir) })
		}, want: []string{filepath.Join(s.stateDir, "clickhouse"), "damaged", "move the directory away"}},
		{name: "agent's state directory damaged", prepare: func(t *testing.T) {
			write(filepath.Join(s.stateDir, "ringfence.lock"), "")(t)
			write(filepath.Join(s.stateDir, "nodes", "node-1"), "x")(t)
			t.Cleanup(func() { _ = os.RemoveAll(s.stateDir) })
		}, args: flags, want: []string{filepath.Join(s.stateDir, "nodes", "node-1"), "not a directory"}},
		{name: "gathered records damaged", prepare: func(t *testing.T) {
			write(filepath.Join(s.stateDir, "ringfence.lock"), "")(t)
			write(filepath.Join(s.stateDir, "gather"), "x")(t)
			t.Cleanup(func() { _ = os.RemoveAll(s.stateDir) })
		}, args: flags, want: []string{filepath.Join(s.stateDir, "gather"), "not a directory"}},
		{name: "control store damaged", prepare: func(t *testing.T) {
			write(filepath.Join(s.stateDir, "ringfence.lock"), "")(t)
			write(filepath.Join(s.stateDir, "control.db"), strings.Repeat("garbage", 1000))(t)
			t.Cleanup(func() { _ = os.RemoveAll(s.stateDir) })
		}, args: flags, want: []string{filepath.Join(s.stateDir, "control.db")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.write(t, good)
			if tt.prepare != nil {
				tt.prepare(t)
			}
			before := files(t, dir)
			args := append([]string{"up", "--inventory", s.inventory, "--node", "node-1", "--state-dir", s.stateDir,
				"--runtime-dir", s.runtimeDir, "--listen", "127.0.0.1:0"}, tt.args...)
			bin := binary
			if tt.attr != nil {
				bin = copied // other users cannot read the original's directory
			}
			runAs(t, bin, s.node, tt.attr, args...).refused(t, tt.name, tt.want...)
			s.wantNothing(t)
			if after := files(t, dir); after != before && !strings.Contains(tt.name, "damaged") {
				t.Errorf("left files behind: before\n%s\nafter\n%s", before, after)
			}
		})
	}
}

// readable returns a binary that other users may run, too.
func readable(t *testing.T, s *site) string {
	t.Helper()
	to := filepath.Join(filepath.Dir(s.stateDir), "ringfence")
	if out, err := exec.Command("cp", "--", binary, to).CombinedOutput(); err != nil {
		t.Fatalf("copy the binary: %s", out)
	}
	return to
}

// files lists everything below dir.
func files(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		fmt.Fprintln(&out, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// certificate makes a self-signed one for ringfence.example.
func certificate(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"ringfence.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// statusAs asks for what needs a login, under a name of the server.
func (u *up) statusAs(t *testing.T, name string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://localhost:7433/api/v1/workloads", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = name
	client := u.site.http()
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // its own test is beside this one
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // only its status counts
	return res.StatusCode
}

// TestCommandsRefuse gives the commands that talk to a server what they must refuse.
func TestCommandsRefuse(t *testing.T) {
	t.Parallel()
	s := newSite(t, "s")
	dir := filepath.Dir(s.stateDir)
	damaged := filepath.Join(dir, "damaged.json")
	if err := os.WriteFile(damaged, []byte(`{"server": "http://127.0.0.1:1"`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.command(t, "policy", "list", "--config", "/nonexistent/client.json").
		refused(t, "no server", "no server has left /nonexistent/client.json", "ringfence up", "--config")
	s.command(t, "flows", "--config", damaged).refused(t, "damaged client.json", damaged, "damaged", "ringfence up")

	s.write(t, s.behind())
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certificate(t, cert, key)
	u := s.start(t, "--listen", "0.0.0.0:7433", "--tls-cert", cert, "--tls-key", key)
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"unknown workload", []string{"policy", "show", "shop/Host/nobody"}, []string{"shop/Host/nobody"}},
		{"malformed workload", []string{"policy", "show", "nobody"}, []string{`"nobody"`, "namespace/kind/name"}},
		{"unknown revision", []string{"policy", "show", "shop/Host/db", "--revision", "7"}, []string{"7"}},
		{"stage an unknown revision", []string{"policy", "stage", "shop/Host/db", "--revision", "7"}, []string{"revision 7"}},
		{"stage without revision", []string{"policy", "stage", "shop/Host/db"}, []string{"--revision", "policy show"}},
		{"promote what is not audited", []string{"policy", "promote", "shop/Host/db", "--revision", "1"}, []string{"not being audited"}},
		{"roll back nothing", []string{"policy", "rollback", "shop/Host/db"}, []string{"no live revision"}},
		{"no workload", []string{"policy", "show"}, []string{"ringfence policy show --help"}},
		{"unknown policy command", []string{"policy", "frobnicate"}, []string{"frobnicate"}},
		{"unknown command", []string{"frobnicate"}, []string{"frobnicate"}},
		{"bad selector", []string{"policy", "list", "-l", "=="}, []string{"-l"}},
		{"bad format", []string{"policy", "list", "-o", "xml"}, []string{"-o", "table, json"}},
		{"bad outcome", []string{"flows", "--verdict", "lost"}, []string{"outcome", "forwarded"}},
		{"bad direction", []string{"flows", "--direction", "up"}, []string{"direction"}},
		{"bad protocol", []string{"flows", "--protocol", "carrier-pigeon"}, []string{"protocol"}},
		{"bad port", []string{"flows", "--port", "70000"}, []string{"port"}},
		{"bad limit", []string{"flows", "--limit", "0"}, []string{"limit"}},
		{"bad since", []string{"flows", "--since", "-1m"}, []string{"--since", "how long ago"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := tt.args
			if args[0] != "frobnicate" {
				args = append(args, "--config", s.config())
			}
			s.command(t, args...).refused(t, tt.name, tt.want...)
		})
	}
	s.policy(t, []string{"list"}, "shop/Host/db") // by TLS, with a certificate that nobody signed
	for name, want := range map[string]int{"ringfence.example": http.StatusUnauthorized, "localhost": http.StatusUnauthorized, "other.example": http.StatusForbidden} {
		if got := u.statusAs(t, name); got != want {
			t.Errorf("under the name %s the server answers %d, want %d", name, got, want)
		}
	}
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	for _, args := range [][]string{{"panic", "--bpf-dir", "/nonexistent"}, {"down", "--runtime-dir", "/nonexistent"}} {
		runAs(t, readable(t, s), s.node, nobody, args...).refused(t, args[0]+" by nobody", "run it as root")
	}

	other := newSite(t, "t")
	other.write(t, s.behind())
	args := []string{"up", "--inventory", s.inventory, "--node", "node-1", "--listen", "127.0.0.1:0"}
	s.command(t, append(args, "--state-dir", s.stateDir, "--runtime-dir", other.runtimeDir)...).
		refused(t, "state directory in use", s.stateDir+" is in use by another ringfence", fmt.Sprint(u.cmd.Process.Pid), "--state-dir")
	s.command(t, append(args, "--state-dir", other.stateDir, "--runtime-dir", s.runtimeDir)...).
		refused(t, "runtime directory in use", s.runtimeDir+" is in use by another ringfence", "--runtime-dir")
	other.wantNothing(t)
	u.stop(t)
	s.command(t, "policy", "list", "--config", s.config()).refused(t, "server gone", "connection refused", "ringfence up")
}
