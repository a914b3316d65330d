// Package browser clicks through the whole circle in a real browser, on a real
// lab, and asks the kernel after each click.
package browser

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/ringfence/ringfence/internal/lab"
)

// The workload that is clicked through, who may reach it, and who attacks it.
const (
	workload   = "boutique/Host/redis-cart"
	client     = "rf-cartservice-1"
	attacker   = "rf-emailservice-1"
	attackerIs = "emailservice"
)

var redis = []string{"10.89.1.21:6379", "[fd52:6e67:0:1::21]:6379"}

func TestCircleInBrowser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the lab needs root: run `make test` as root")
	}
	d := startDemo(t)
	b := startBrowser(t, d)

	b.do("login", nil)
	b.do("shot", args{"name": "workloads"})
	b.do("open", args{"path": "/workloads/boutique/Host/checkoutservice", "shows": "coverage"})
	b.do("shot", args{"name": "review"})

	// The attack comes after the review: what is seen before it may be learned.
	got := b.do("review", args{"workload": workload})
	if n := got["rules"].(float64); n < 1 {
		t.Fatalf("review offered %v rules, want at least 1", n)
	}
	d.reaches(t, "in observe", true)

	b.do("press", args{"action": "audit", "stage": "audit"})
	d.reaches(t, "in audit", true)
	got = b.do("audit", args{"workload": workload, "text": attackerIs})
	for _, row := range got["rows"].([]any) {
		if strings.Contains(row.(string), "cartservice") {
			t.Errorf("the audit view reports the legitimate client: %q", row)
		}
	}
	b.do("shot", args{"name": "audit"})
	b.do("shot", args{"name": "audit-dark", "scheme": "dark"})

	b.do("open", args{"path": "/workloads/" + workload})
	got = b.do("press", args{"action": "enforce", "stage": "enforce"})
	if text := got["dialog"].(string); !strings.Contains(text, "redis-cart") {
		t.Errorf("the dialog does not name the workload: %q", text)
	}
	d.reaches(t, "enforced", false)
	b.do("shot", args{"name": "enforced"})
	got = b.do("explain", args{"workload": workload, "source": "boutique/" + attackerIs, "port": "6379"})
	if text := got["text"].(string); !strings.HasPrefix(text, "Denied") || !strings.Contains(text, "cartservice") {
		t.Errorf("the enforced policy does not explain why %s is denied: %q", attackerIs, text)
	}
	b.do("shot", args{"name": "explain", "of": "explain"})
	got = b.do("explain", args{"workload": workload, "source": "boutique/cartservice", "port": "6379"})
	if text := got["text"].(string); !strings.HasPrefix(text, "Allowed") {
		t.Errorf("the enforced policy does not allow its client: %q", text)
	}
	b.do("open", args{"path": "/flows?q=" + url.QueryEscape("to.workload="+workload+" verdict=audited,dropped since=1h"), "shows": "flow-row"})
	b.do("shot", args{"name": "flows"})

	b.do("open", args{"path": "/workloads/" + workload})
	b.do("press", args{"action": "rollback", "stage": "audit"})
	d.reaches(t, "rolled back", true)

	b.do("open", args{"path": "/workloads", "shows": "stage-badge"})
	b.do("shot", args{"name": "workloads-dark", "scheme": "dark"})
	b.do("shot", args{"name": "workloads-narrow", "width": 390})
	b.do("open", args{"path": "/activity", "shows": "activity-row"})
	b.do("shot", args{"name": "activity"})
}

// demo is a running `ringfence demo --until observe`.
type demo struct{ url, password string }

var (
	urlLine      = regexp.MustCompile(`^web UI\s+(\S+)`)
	passwordLine = regexp.MustCompile(`^password\s+(\S+)`)
)

func startDemo(t *testing.T) *demo {
	t.Helper()
	bin, err := filepath.Abs("../../build/ringfence")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "demo", "--until", "observe", "--listen", "127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the demo: %v; run `make build`", err)
	}
	ended := make(chan error, 1)
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the demo ended with %v", err)
			}
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			t.Error("the demo did not end within a minute")
		}
		for _, name := range lab.Default().Namespaces() {
			if _, err := os.Stat(filepath.Join("/run/netns", name)); err == nil {
				t.Errorf("the demo left the namespace %s behind", name)
			}
		}
	})
	d := &demo{}
	learned := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			line := lines.Text()
			fmt.Println("demo:", line)
			if m := urlLine.FindStringSubmatch(line); m != nil {
				d.url = m[1]
			}
			if m := passwordLine.FindStringSubmatch(line); m != nil {
				d.password = m[1]
			}
			if strings.Contains(line, "in observe; open") {
				close(learned)
			}
		}
		ended <- cmd.Wait()
	}()
	select {
	case <-learned:
	case err := <-ended:
		ended <- err
		t.Fatalf("the demo ended before it had learned: %v", err)
	case <-time.After(4 * time.Minute):
		t.Fatal("the demo did not finish learning in four minutes")
	}
	return d
}

// reaches asks the kernel: the legitimate client always gets an answer, the
// attacker only where it should.
func (d *demo) reaches(t *testing.T, when string, attack bool) {
	t.Helper()
	for _, to := range redis {
		if err := dialIn(client, to); err != nil {
			t.Errorf("%s: the legitimate client does not reach %s: %v", when, to, err)
		}
		err := dialIn(attacker, to)
		if attack && err != nil {
			t.Errorf("%s: the attacker does not reach %s: %v", when, to, err)
		}
		if !attack && err == nil {
			t.Errorf("%s: the attacker reaches %s", when, to)
		}
	}
}

// dialIn opens and closes a connection from within a network namespace.
func dialIn(namespace, to string) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		ns, err := netns.GetFromName(namespace)
		if err != nil {
			result <- err
			return
		}
		defer ns.Close() //nolint:errcheck // only looked at
		if err := netns.Set(ns); err != nil {
			result <- err
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		c, err := new(net.Dialer).DialContext(ctx, "tcp", to)
		if err == nil {
			err = c.Close()
		}
		result <- err
	}()
	return <-result
}

type args map[string]any

// browser is a running driver.mjs.
type browser struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

func startBrowser(t *testing.T, d *demo) *browser {
	t.Helper()
	cmd := exec.Command("node", "driver.mjs")
	cmd.Env = append(os.Environ(), "RINGFENCE_URL="+d.url, "RINGFENCE_PASSWORD="+d.password,
		"SHOTS="+os.Getenv("RINGFENCE_SCREENSHOTS"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the browser's driver ended with %v", err)
		}
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return &browser{t: t, in: in, out: lines}
}

// do makes one step and returns the driver's answer; a step that fails ends the test.
func (b *browser) do(step string, a args) map[string]any {
	b.t.Helper()
	line := args{"do": step}
	for k, v := range a {
		line[k] = v
	}
	if err := json.NewEncoder(b.in).Encode(line); err != nil {
		b.t.Fatal(err)
	}
	if !b.out.Scan() {
		b.t.Fatalf("%s: the driver ended: %v", step, b.out.Err())
	}
	var answer map[string]any
	if err := json.Unmarshal(b.out.Bytes(), &answer); err != nil {
		b.t.Fatal(err)
	}
	if e, ok := answer["error"]; ok {
		b.t.Fatal(e)
	}
	return answer
}
