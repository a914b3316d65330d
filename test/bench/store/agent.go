package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/ringfence/ringfence/bpf/drive"
	"github.com/ringfence/ringfence/test/bench/frame"
	"github.com/ringfence/ringfence/test/bench/report"
	"github.com/ringfence/ringfence/test/wire"
)

// Agent is what an agent costs its host.
type Agent struct {
	RSSMiB     float64 `json:"rss_mib"`      // with LiveFlows, when it no longer grows
	PeakRSSMiB float64 `json:"peak_rss_mib"` // while they began, too
	IdleRSSMiB float64 `json:"idle_rss_mib"` // before
	LiveFlows  uint64  `json:"live_flows"`
	// PerS is how many of them had a packet each second meanwhile.
	PerS int `json:"packets_per_s"`

	CPUUse
	// Alone is what the agent's process has of it: what each node pays.
	Alone CPUUse `json:"agent_alone"`
}

// CPUUse is CPU time in per cent of one CPU.
type CPUUse struct {
	Idle    float64 `json:"idle_cpu_percent"`
	OneFlow float64 `json:"one_flow_cpu_percent"` // with one flow a second
	// Noise is how far apart the idle samples are.
	Noise float64 `json:"noise_cpu_percent"`
}

func (u CPUUse) added() float64 { return max(u.OneFlow-u.Idle, 0) }

const (
	agentEndpoints = 5
	agentPeers     = 10
	// agentPorts makes 100,000 flows of them.
	agentPorts = 2000
	touchEvery = 10 * time.Second // how often a live flow has a packet
	// sameSize is how little memory may change for so long to be settled.
	sameSize   = 0.01
	settleFor  = 30 * time.Second
	settleMost = 90 * time.Second
	// cpuLead is before each sample, for what the one before left behind: its
	// last insert, and the merges that follow.
	cpuLead   = 15 * time.Second
	cpuSample = 30 * time.Second // three inserts of one flow a second
	cpuRounds = 3
)

// host is `ringfence up` in a network namespace of its own.
type host struct {
	s         *site
	ns, dir   string
	cmd       *exec.Cmd
	ended     chan struct{}
	logs      *os.File
	endpoints []*target
	began     uint16 // connections, one by one
}

// program is one of the two at an endpoint.
type program struct{ *drive.Program }

func (p program) pass(index int, f frame.TCP) error {
	code, _, err := p.Run(f.Bytes, drive.Where{Index: index, Forwarded: f.ToEndpoint}, 1)
	return passed(p.Program, code, err)
}

func passed(p *drive.Program, code uint32, err error) error {
	if err == nil && !p.Passed(code) {
		err = fmt.Errorf("a packet got answer %d", int32(code)) //nolint:gosec // as the kernel means it
	}
	return err
}

// target is an endpoint that frames are sent through.
type target struct {
	index   int
	addr    netip.Addr
	from    program // what the endpoint sends passes it
	to      program
	drivers []*drive.Driver
	data    frame.TCP // of the last driver
}

func (t *target) program(to bool) program {
	if to {
		return t.to
	}
	return t.from
}

func (t *target) close() error {
	var errs []error
	for _, d := range t.drivers {
		errs = append(errs, d.Close())
	}
	for _, p := range []program{t.from, t.to} {
		if p.Program != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// each sends one frame of every flow.
func (t *target) each(s frame.Flows, to bool, flags string) (err error) {
	if t.data, err = frame.New(t.addr, peersAddr, to, flags); err != nil {
		return err
	}
	d, err := drive.New(t.program(to).Program, s.Walk(t.data, false), len(t.data.Bytes))
	if err != nil {
		return err
	}
	t.drivers = append(t.drivers, d)
	return t.more(s.Count())
}

// more goes on with the last frame's flows.
func (t *target) more(n int) error {
	d := t.drivers[len(t.drivers)-1]
	code, _, err := d.Run(t.data.Bytes, drive.Where{Index: t.index, Forwarded: t.data.ToEndpoint}, n)
	return passed(&d.Program, code, err)
}

// agent measures a real agent's memory and CPU time.
func agent(ctx context.Context, s *site, r *Report) (err error) {
	h := &host{s: s, dir: filepath.Join(s.temp, "host"), ns: fmt.Sprintf("rf-bench-store-%d", os.Getpid())}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := h.start(ctx); err != nil {
		return err
	}
	a := &Agent{}
	if err := h.idle(ctx, a); err != nil {
		return err
	}
	pid, err := h.child("agent")
	if err != nil {
		return err
	}
	if a.IdleRSSMiB, _, err = memory(pid); err != nil {
		return err
	}
	if err := h.establish(); err != nil {
		return err
	}
	if err := h.hold(ctx, a, pid); err != nil {
		return err
	}
	r.Agent, r.AgentRSS = a, &a.RSSMiB
	return nil
}

// inventory has the endpoints, and their peers as a workload without interfaces.
func (h *host) inventory() string {
	var b strings.Builder
	b.WriteString("nodes: [{name: node-1, addresses: [192.0.2.1]}]\nworkloads:\n")
	for i := range agentEndpoints {
		fmt.Fprintf(&b, "  - {namespace: bench, name: w%d, labels: {app: w%d}, endpoints: [{name: w%d-1, node: node-1, interface: p%d, addresses: [%s]}]}\n",
			i, i, i, i, endpointAddr(i))
	}
	b.WriteString("  - namespace: bench\n    name: peers\n    labels: {app: peers}\n    endpoints:\n")
	for i := range agentPeers {
		fmt.Fprintf(&b, "      - {name: peer-%d, node: node-1, addresses: [%s]}\n", i, frame.Peer(peersAddr, i+1))
	}
	return b.String()
}

var peersAddr = netip.MustParseAddr("10.2.0.0")

func endpointAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)}) } //nolint:gosec // far below

func (h *host) start(ctx context.Context) error {
	if err := os.MkdirAll(h.dir, 0o755); err != nil { //nolint:gosec // ringfence wants its parents passable
		return err
	}
	if err := os.Chmod(h.s.temp, 0o755); err != nil { //nolint:gosec // likewise
		return err
	}
	path := filepath.Join(h.dir, "inventory.yaml")
	if err := os.WriteFile(path, []byte(h.inventory()), 0o600); err != nil {
		return err
	}
	if err := h.network(); err != nil {
		return fmt.Errorf("make the host: %w", err)
	}
	var err error
	if h.logs, err = os.Create(filepath.Join(h.dir, "up.log")); err != nil {
		return err
	}
	h.cmd = exec.Command(h.s.binary, "up", "--inventory", path, "--node", "node-1", "--state-dir", h.dir+"/state", //nolint:noctx // ended by close
		"--runtime-dir", h.dir+"/run", "--listen", "127.0.0.1:0", "--engine-library", h.s.library)
	h.cmd.Stderr = h.logs
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := wire.In(h.ns, h.cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", h.s.binary, err)
	}
	h.ended = make(chan struct{})
	ready := make(chan struct{})
	go func() {
		defer close(h.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "store") {
				close(ready)
			}
		}
		_ = h.cmd.Wait()
	}()
	select {
	case <-ready:
		return nil
	case <-h.ended:
		b, _ := os.ReadFile(h.logs.Name())
		return fmt.Errorf("ringfence up ended: %s", strings.TrimSpace(string(b)))
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Minute):
		return errors.New("ringfence up was not ready within a minute")
	}
}

// network makes the namespace, and an interface an endpoint.
func (h *host) network() error {
	return wire.OnOwnThread(func() error {
		ns, err := netns.NewNamed(h.ns)
		if err != nil {
			return err
		}
		errs := []error{ns.Close(), wire.Quiet(), wire.Up("lo")}
		for i := range agentEndpoints {
			name := fmt.Sprintf("p%d", i)
			err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "q" + name})
			errs = append(errs, err, wire.Up(name), wire.Up("q"+name))
		}
		return errors.Join(errs...)
	})
}

// open finds the programs at the endpoints and makes drivers for them.
func (h *host) open() error {
	return wire.In(h.ns, func() error {
		for i := range agentEndpoints {
			link, err := net.InterfaceByName(fmt.Sprintf("p%d", i))
			if err != nil {
				return err
			}
			t := &target{index: link.Index, addr: endpointAddr(i)}
			h.endpoints = append(h.endpoints, t)
			if t.from.Program, err = drive.Attached(t.index, drive.Ingress); err != nil {
				return err
			}
			if t.to.Program, err = drive.Attached(t.index, drive.Egress); err != nil {
				return err
			}
		}
		return nil
	})
}

// establish shakes hands on all flows.
func (h *host) establish() error {
	flows := frame.Flows{Hosts: agentPeers, Ports: 1, EndpointPorts: agentPorts}
	return wire.In(h.ns, func() error {
		for _, t := range h.endpoints {
			for _, step := range []struct {
				to    bool
				flags string
			}{{false, "S"}, {true, "SA"}, {false, "A"}} {
				if err := t.each(flows, step.to, step.flags); err != nil {
					return fmt.Errorf("open flows: %w", err)
				}
			}
		}
		return nil
	})
}

// hold keeps the flows alive until the agent's memory no longer changes.
func (h *host) hold(ctx context.Context, a *Agent, pid int) error {
	const steps = 10 // a second
	each := agentPeers * agentPorts
	a.PerS = int(float64(each*agentEndpoints) / touchEvery.Seconds())
	tick := time.NewTicker(time.Second / steps)
	defer tick.Stop()
	var sizes []float64
	begin := time.Now()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.ended:
			return errors.New("ringfence up ended")
		case <-tick.C:
		}
		if err := wire.In(h.ns, func() error {
			var errs []error
			for _, t := range h.endpoints {
				errs = append(errs, t.more(int(float64(each)/touchEvery.Seconds()/steps)))
			}
			return errors.Join(errs...)
		}); err != nil {
			return err
		}
		if n%steps != 0 {
			continue
		}
		rss, peak, err := memory(pid)
		if err != nil {
			return err
		}
		sizes = append(sizes, rss)
		a.PeakRSSMiB = peak
		h.s.progress("agent: %.0f MiB after %.0f s", rss, time.Since(begin).Seconds())
		if last := sizes[max(0, len(sizes)-int(settleFor.Seconds())):]; h.s.quick && len(sizes) > 3 ||
			len(last) == int(settleFor.Seconds()) && slices.Max(last)-slices.Min(last) <= sameSize*slices.Max(last) ||
			time.Since(begin) > settleMost {
			a.RSSMiB = report.Round(slices.Max(last))
			break
		}
	}
	var err error
	a.LiveFlows, err = h.liveFlows(ctx)
	return err
}
