package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"

	"github.com/ringfence/ringfence/test/bench/frame"
	"github.com/ringfence/ringfence/test/bench/report"
	"github.com/ringfence/ringfence/test/wire"
)

// processes returns the numbers of up and of all that it started, by their
// subcommand.
func (h *host) processes() (map[string]int, error) {
	found := map[string]int{"up": h.cmd.Process.Pid}
	list, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	parent := map[int]int{}
	for _, path := range list {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 1 {
			parent[pid], _ = strconv.Atoi(f[1])
		}
	}
	for pid := range parent {
		for up := parent[pid]; up > 1; up = parent[up] {
			if up != h.cmd.Process.Pid {
				continue
			}
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if args := strings.Split(string(line), "\x00"); len(args) > 1 {
				found[args[1]] = pid
			}
		}
	}
	return found, nil
}

func (h *host) child(name string) (int, error) {
	all, err := h.processes()
	if err == nil && all[name] == 0 {
		err = fmt.Errorf("ringfence up has no process %s", name)
	}
	return all[name], err
}

// cpu is what all processes together have used, and the agent's share of it.
func (h *host) cpu() (total, agent time.Duration, err error) {
	all, err := h.processes()
	if err != nil {
		return 0, 0, err
	}
	for _, name := range []string{"up", "server", "agent", engineCommand} {
		if all[name] == 0 {
			return 0, 0, fmt.Errorf("ringfence up has no process %s", name)
		}
		t, err := processCPU(all[name])
		if err != nil {
			return 0, 0, err
		}
		if total += t; name == "agent" {
			agent = t
		}
	}
	return total, agent, nil
}

// idle compares the host without flows and with one a second.
func (h *host) idle(ctx context.Context, a *Agent) error {
	lead, sample, rounds := cpuLead, cpuSample, cpuRounds
	if h.s.quick {
		lead, sample, rounds = time.Second, 3*time.Second, 1
	}
	if err := h.open(); err != nil {
		return err
	}
	all, alone := map[bool][]float64{}, map[bool][]float64{} // by whether there is a flow
	for range rounds {
		for _, with := range []bool{false, true} {
			if _, _, err := h.used(ctx, lead, with); err != nil {
				return err
			}
			total, agent, err := h.used(ctx, sample, with)
			if err != nil {
				return err
			}
			h.s.progress("agent: %.2f %% of a CPU, %.2f %% with server and engine", agent, total)
			all[with], alone[with] = append(all[with], total), append(alone[with], agent)
		}
	}
	a.CPUUse, a.Alone = cpuUse(all), cpuUse(alone)
	return nil
}

// cpuUse adds up samples in per cent.
func cpuUse(by map[bool][]float64) CPUUse {
	idle := by[false]
	return CPUUse{
		Idle: report.Sum(idle).Q1, OneFlow: report.Sum(by[true]).Q1,
		Noise: report.Round(slices.Max(idle) - slices.Min(idle)),
	}
}

// used is the share of one CPU that all processes, and the agent's alone, use in
// a while.
func (h *host) used(ctx context.Context, during time.Duration, withFlow bool) (total, agent float64, err error) {
	totalBefore, agentBefore, err := h.cpu()
	if err != nil {
		return 0, 0, err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	begin := time.Now()
	for time.Since(begin) < during {
		select {
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-tick.C:
		}
		if withFlow {
			if err := h.one(); err != nil {
				return 0, 0, err
			}
		}
	}
	percent := 100 / time.Since(begin).Seconds()
	totalAfter, agentAfter, err := h.cpu()
	return (totalAfter - totalBefore).Seconds() * percent, (agentAfter - agentBefore).Seconds() * percent, err
}

// one is a whole connection, of a tuple that was not there before.
func (h *host) one() error {
	h.began++
	t := h.endpoints[0]
	return wire.In(h.ns, func() error {
		for _, step := range []struct {
			to    bool
			flags string
		}{{false, "S"}, {true, "SA"}, {false, "A"}, {true, "FA"}, {false, "FA"}} {
			f, err := frame.New(t.addr, peersAddr, step.to, step.flags)
			if err != nil {
				return err
			}
			f.Bytes[f.EndpointPort], f.Bytes[f.EndpointPort+1] = byte(h.began>>8), byte(h.began) //nolint:gosec // two bytes of a number
			if err := t.program(step.to).pass(t.index, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// close ends up, removes what it left, and the namespace.
func (h *host) close() error {
	var errs []error
	for _, t := range h.endpoints {
		errs = append(errs, t.close())
	}
	if h.ended != nil {
		_ = h.cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-h.ended:
		case <-time.After(time.Minute):
			_ = h.cmd.Process.Kill()
			errs = append(errs, errors.New("ringfence up did not end within a minute"))
		}
		down := exec.Command(h.s.binary, "down", "--runtime-dir", filepath.Join(h.dir, "run")) //nolint:noctx // ends by itself
		if out, err := down.CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("ringfence down: %w: %s", err, strings.TrimSpace(string(out))))
		}
	}
	if h.logs != nil {
		errs = append(errs, h.logs.Close())
	}
	if err := netns.DeleteNamed(h.ns); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, fmt.Errorf("remove network namespace %s: %w", h.ns, err))
	}
	return errors.Join(errs...)
}

// memory is what a process holds of the machine's, in MiB: now, and at most.
func memory(pid int) (now, peak float64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	value := func(key string) float64 {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == key+":" {
				kib, _ := strconv.ParseFloat(f[1], 64)
				return report.Round(kib / 1024)
			}
		}
		return math.NaN()
	}
	if now, peak = value("VmRSS"), value("VmHWM"); math.IsNaN(now) || math.IsNaN(peak) {
		return 0, 0, fmt.Errorf("memory of process %d: not understood", pid)
	}
	return now, peak, nil
}

// liveFlows asks the agent how many there are.
func (h *host) liveFlows(ctx context.Context) (uint64, error) {
	lines, err := metrics(ctx, filepath.Join(h.dir, "run", "agents", "node-1.metrics.sock"))
	if err != nil {
		return 0, err
	}
	const name = "ringfence_datapath_flows_ipv4 " // the benchmark sends no others
	for line := range strings.Lines(lines) {
		if v, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return uint64(n), err
		}
	}
	return 0, fmt.Errorf("the agent has no metric %s", name)
}

func metrics(ctx context.Context, socket string) (string, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/metrics", nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask the agent for its metrics: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}
