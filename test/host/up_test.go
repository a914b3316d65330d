package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

func shop(name string) flow.Workload {
	return flow.Workload{Namespace: "shop", Kind: "Host", Name: name}
}

// onlyFrom is a policy: one labelled peer may connect to one TCP port.
func onlyFrom(w flow.Workload, app string, port uint16) policy.Policy {
	return policy.Policy{Workload: w, IsolateIngress: true, Ingress: []policy.Rule{{
		Peers: []policy.Peer{{Selector: &policy.Selector{Namespace: w.Namespace, MatchLabels: map[string]string{"app": app}}}},
		Ports: []policy.Port{{Protocol: flow.TCP, Port: port}},
	}}}
}

// create saves a policy as the next revision by the API, by somebody who accepts
// what of it is flagged.
func (u *up) create(t *testing.T, p policy.Policy, parent int64) int64 {
	t.Helper()
	w := p.Workload
	rec, err := u.client.GetRecommendationWithResponse(t.Context(), w.Namespace, w.Kind, w.Name, nil)
	if err != nil || rec.JSON200 == nil {
		t.Fatalf("recommendation: %v, %s %s", err, rec.Status(), rec.Body)
	}
	accepted := []api.AcceptedFlagged{}
	for _, r := range rec.JSON200.Rules {
		a := api.AcceptedFlagged{Rule: *r.Rule.ID, Flags: []string{}}
		for _, f := range r.Flags {
			a.Flags = append(a.Flags, f.Code)
		}
		accepted = append(accepted, a)
	}
	res, err := u.client.CreateRevisionWithResponse(t.Context(), w.Namespace, w.Kind, w.Name,
		api.NewRevision{Policy: api.PolicyOf(p), Origin: "edit", Parent: parent, AcceptedFlagged: &accepted})
	if err != nil {
		t.Fatal(err)
	}
	if res.JSON201 == nil {
		t.Fatalf("create a revision: %s %s", res.Status(), res.Body)
	}
	return res.JSON201.Number
}

func (u *up) summary(w flow.Workload) (api.WorkloadSummary, error) {
	res, err := u.client.GetWorkloadWithResponse(context.Background(), w.Namespace, w.Kind, w.Name)
	if err != nil {
		return api.WorkloadSummary{}, err
	}
	if res.JSON200 == nil {
		return api.WorkloadSummary{}, fmt.Errorf("%s %s", res.Status(), res.Body)
	}
	return res.JSON200.Summary, nil
}

// enforce waits until nothing is missing and enforces.
func (u *up) enforce(t *testing.T, w flow.Workload, revision string) {
	t.Helper()
	eventually(t, "enforce "+w.String(), func() error {
		r := u.site.command(t, "policy", "promote", w.String(), "--revision", revision, "--config", u.site.config())
		if r.code != 0 {
			return fmt.Errorf("%s", r.stderr)
		}
		if !strings.Contains(r.stdout, "ingress enforce") || !strings.Contains(r.stdout, "in the kernel of 1 node(s)") {
			t.Errorf("promote printed %q", r.stdout)
		}
		return nil
	})
}

// past asks what was learned of db, with the records behind it, what its first
// revision would have denied, and for that revision in other words.
func (s *site) past(t *testing.T) {
	t.Helper()
	eventually(t, "records behind each piece of evidence", func() error {
		var doc struct {
			Recommendations []struct {
				Rules   []struct{ Evidence []struct{ Filter string } }
				Samples map[string][]api.Flow
			}
		}
		r := s.command(t, "policy", "recommend", "shop/db", "-o", "json", "--config", s.config())
		if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil {
			return fmt.Errorf("%w: %s", err, r.stderr)
		}
		n := 0
		for _, rule := range doc.Recommendations[0].Rules {
			for _, e := range rule.Evidence {
				n++
				if len(doc.Recommendations[0].Samples[e.Filter]) == 0 {
					return fmt.Errorf("no record for %q", e.Filter)
				}
			}
		}
		if n == 0 {
			return fmt.Errorf("no evidence in %s", r.stdout)
		}
		return nil
	})
	r := s.command(t, "replay", "shop/db@1", "--since", "10m", "--config", s.config())
	if r.code != 0 || !strings.Contains(r.stdout, "shop/Host/evil") || !strings.Contains(r.stdout, " > ") || strings.Contains(r.stdout, "shop/Host/web") {
		t.Errorf("replay: exit code %d, %q, printed\n%s", r.code, r.stderr, r.stdout)
	}
	r = s.command(t, "diff", "shop/db@1", "shop/db@1", "--since", "10m", "--config", s.config())
	if r.code != 0 || r.stdout != "" || !strings.Contains(r.stderr, "B denies 0 connections") {
		t.Errorf("diff: exit code %d, %q, printed\n%s", r.code, r.stderr, r.stdout)
	}
	r = s.command(t, "policy", "export", "shop/db@1", "-o", "nftables", "--config", s.config())
	if r.code != 0 || !strings.Contains(r.stdout, "5432") {
		t.Errorf("export: exit code %d, %q, printed\n%s", r.code, r.stderr, r.stdout)
	}
}

func TestUp(t *testing.T) {
	t.Parallel()
	s := newSite(t, "a")
	s.write(t, s.behind())
	s.db.echo(t, dbPort)
	u := s.start(t)
	db := shop("db")

	// Observe.
	if u.password == "" {
		t.Error("the first start printed no password")
	}
	open := func(when string, evil bool) {
		t.Helper()
		reaches(t, when, s.web, s.dbIs, dbPort, true)
		reaches(t, when, s.evil, s.dbIs, dbPort, evil)
	}
	var idle []net.Conn
	for _, a := range s.dbIs {
		c, err := s.web.dial(t.Context(), netip.AddrPortFrom(a, dbPort).String(), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close() //nolint:errcheck // its echoes are what counts
		idle = append(idle, c)
	}
	open("in observe", true)
	eventually(t, "flows of both families", func() error {
		out := s.says(t, []string{"flows", "--config", s.config(), "--workload", "shop/Host/web", "--since", "5m"})
		for i := range s.webIs {
			if !strings.Contains(out, "shop/Host/web "+netip.AddrPortFrom(s.webIs[i], 0).String()[:len(s.webIs[i].String())]) &&
				!strings.Contains(out, s.webIs[i].String()) {
				return fmt.Errorf("no flow from %s in\n%s", s.webIs[i], out)
			}
		}
		return nil
	})
	for _, format := range []string{"json", "yaml", "name"} {
		s.policy(t, []string{"list", "-o", format}, "db")
	}
	s.policy(t, []string{"list"}, "shop/Host/db", "observe")
	if out := s.policy(t, []string{"list", "-l", "app=db", "-o", "name"}); out != "shop/Host/db\n" {
		t.Errorf("list by label printed %q", out)
	}

	// Audit.
	n := u.create(t, onlyFrom(db, "web", dbPort), 0)
	if n != 1 {
		t.Fatalf("the first revision has number %d", n)
	}
	s.policy(t, []string{"show", db.String()}, "1", "admin")
	s.policy(t, []string{"show", db.String(), "--revision", "1"}, "app=web", "5432")
	s.past(t)
	s.policy(t, []string{"stage", db.String(), "--revision", "1", "--dry-run"}, "would stage")
	s.policy(t, []string{"stage", db.String(), "--revision", "1"}, "staged 1", "ingress audit")
	open("in audit", true)
	eventually(t, "the audit shows evil", func() error {
		out := s.says(t, []string{"flows", "--config", s.config(), "--verdict", "audited", "--workload", "shop/Host/evil"})
		if !strings.Contains(out, "default-deny") && !strings.Contains(out, "r1") {
			return fmt.Errorf("got\n%s", out)
		}
		if strings.Contains(out, "shop/Host/web") {
			t.Errorf("the audit accuses web:\n%s", out)
		}
		return nil
	})
	audited, err := u.summary(db)
	if err != nil {
		t.Fatal(err)
	}

	// Enforce.
	u.enforce(t, db, "1")
	open("enforced", false)
	for _, c := range idle {
		if err := say(c, patience); err != nil {
			t.Errorf("a connection older than the enforcement: %v", err)
		}
	}
	s.command(t, "policy", "promote", db.String(), "--revision", "1", "--config", s.config()).
		refused(t, "enforce twice", "revision 1 of shop/Host/db is already enforced")
	old, err := u.client.StageRevisionWithResponse(t.Context(), db.Namespace, db.Kind, db.Name,
		api.SlotChange{Revision: u.create(t, onlyFrom(db, "evil", dbPort), 1), Version: audited.Version})
	if err != nil || old.StatusCode() != 409 || !strings.Contains(string(old.Body), "changed meanwhile") {
		t.Errorf("a change by an old version: %v, %s %s", err, old.Status(), old.Body)
	}
	eventually(t, "dropped flows are stored", func() error {
		out := s.says(t, []string{"flows", "--config", s.config(), "--verdict", "dropped", "--workload", "shop/Host/evil"})
		if strings.Count(out, "\n") < 2 {
			return fmt.Errorf("got\n%s", out)
		}
		return nil
	})

	// Panic.
	pins := s.runtimeDir + "/bpf"
	s.says(t, []string{"panic", "--bpf-dir", pins}, "node-1: in audit")
	open("in panic", true)
	s.says(t, []string{"panic", "--bpf-dir", pins, "--clear"}, "node-1: enforcing again")
	open("after panic", false)

	// Crashes.
	killed := u.kill(t, "agent")
	open("with the agent killed", false)
	u.back(t, "agent", killed)
	killed = u.kill(t, "server")
	open("with the server killed", false)
	u.back(t, "server", killed)
	eventually(t, "the new server answers at the old address", func() error {
		u.client = u.api(t, u.token(t))
		now, err := u.summary(db)
		if err == nil && (now.IngressStage != api.Enforce || now.Effective.Live == nil) {
			err = fmt.Errorf("ingress stage %s, effective %v", now.IngressStage, now.Effective.Live)
		}
		return err
	})
	killed = u.engine(t)
	if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine comes back", func() error {
		if pid := u.engine(t); pid == 0 || pid == killed {
			return fmt.Errorf("its process is %d", pid)
		}
		return nil
	})
	open("after the crashes", false)
	eventually(t, "flows from before and after the crashes", func() error {
		out := s.says(t, []string{"flows", "--config", s.config(), "--verdict", "dropped", "--workload", "shop/Host/evil", "-o", "json"})
		var flows []api.Flow
		if err := json.Unmarshal([]byte(out), &flows); err != nil {
			return err
		}
		if len(flows) < 8 {
			return fmt.Errorf("only %d flows", len(flows))
		}
		return nil
	})

	// Ctrl-C, a start that fails, a second up, and its violent end.
	u.stop(t)
	open("after Ctrl-C", false)
	s.command(t, "up", "--inventory", s.inventory, "--node", "node-1", "--state-dir", s.stateDir, "--runtime-dir", s.runtimeDir,
		"--listen", "127.0.0.1:0", "--engine-library", "/nonexistent").refused(t, "a start that fails", "/nonexistent")
	open("after a start that failed", false)
	u = s.start(t)
	if err := u.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-u.ended
	open("after up was killed", false)
	eventually(t, "its children end", func() error { return s.running(t) })

	// A third one, and back.
	u = s.start(t)
	if u.password != "" {
		t.Error("a later start printed a password")
	}
	open("adopted", false)
	eventually(t, "roll back", func() error {
		r := s.command(t, "policy", "rollback", db.String(), "--config", s.config())
		if r.code != 0 {
			return fmt.Errorf("%s", r.stderr)
		}
		return nil
	})
	open("rolled back", true)
	s.policy(t, []string{"list", "-l", "app=db"}, "shop/Host/db")

	// Down, from enforced.
	r := s.command(t, "down", "--runtime-dir", s.runtimeDir)
	r.refused(t, "down while up runs", "in use by another ringfence", "end `ringfence up` first")
	u.stop(t)
	s.says(t, []string{"down", "--runtime-dir", s.runtimeDir}, "nothing is watched or enforced")
	s.wantNothing(t)
	open("after down", true)
	s.command(t, "down", "--runtime-dir", s.runtimeDir).refused(t, "down twice", "nothing is attached", "--runtime-dir")
	s.command(t, "panic", "--bpf-dir", pins).refused(t, "panic without pins", "no node is pinned")
	s.says(t, []string{"version"}, "ringfence ")
}

// TestUpInterrupted presses Ctrl-C while everything is being started.
func TestUpInterrupted(t *testing.T) {
	t.Parallel()
	s := newSite(t, "j")
	s.write(t, s.behind())
	cmd := exec.Command(binary, "up", "--inventory", s.inventory, "--node", "node-1", "--state-dir", s.stateDir,
		"--runtime-dir", s.runtimeDir, "--listen", "127.0.0.1:0")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	s.node.must(t, cmd.Start)
	u := &up{site: s, cmd: cmd}
	eventually(t, "the server is started", func() error {
		if u.child(t, "server") == 0 {
			return errors.New("no such process")
		}
		return nil
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}.refused(t, "interrupted", "interrupted")
	s.wantNothing(t)
	if _, err := os.Stat(s.stateDir); err == nil {
		t.Errorf("%s is left, with an admin whose password nobody knows", s.stateDir)
	}
}
