package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ringfence/ringfence/test/bench/store/estate"

	"github.com/ringfence/ringfence/internal/inventory"
)

// offline runs `ringfence recommend` over lines of Hubble, as a user would.
func (r *Report) offline(ctx context.Context, binary string, samples int) error {
	dir, err := os.MkdirTemp("", "ringfence-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	e, err := estate.New(estate.Config{Seed: 1})
	if err != nil {
		return err
	}
	inv := e.Inventory()
	var took, rss [2]float64
	for i, n := range []int{100_000, 1_000_000} {
		path := filepath.Join(dir, "hubble.jsonl")
		size, err := writeHubble(path, inv, n)
		if err != nil {
			return err
		}
		if took[i], err = sample(samples, func() error {
			cmd := exec.CommandContext(ctx, binary, "recommend", "--from", "hubble", path, "--strict", "-o", "json")
			cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("%s: %w", cmd, err)
			}
			use, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
			if !ok {
				return errors.New("the kernel does not say what the command used")
			}
			rss[i] = max(rss[i], float64(use.Maxrss)/1024)
			return nil
		}); err != nil {
			return err
		}
		r.OfflineLines, r.OfflineMiB = uint64(n), float64(size)/(1<<20)
	}
	r.OfflineS, r.OfflineGrowth = took[1], took[1]/took[0]
	r.OfflineRSSMiB, r.OfflineRSS10 = rss[1], rss[1]/rss[0]
	return nil
}

// writeHubble writes n lines with the fields that Hubble writes: connections of
// four packets between pods of the estate, each seen at both ends.
func writeHubble(path string, inv inventory.Inventory, n int) (size int64, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	rnd := rand.New(rand.NewPCG(1, 2))
	type pod struct{ json, ip, node string }
	pods := make([][]pod, len(inv.Workloads))
	for i := range inv.Workloads {
		k := &inv.Workloads[i]
		labels := ""
		for key, v := range k.Labels {
			labels += fmt.Sprintf(`,"k8s:%s=%s"`, key, v)
		}
		for _, e := range k.Endpoints {
			pods[i] = append(pods[i], pod{
				json: fmt.Sprintf(`{"ID":%d,"identity":%d,"cluster_name":"default","namespace":%q,"labels":["k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=%s","k8s:io.cilium.k8s.policy.cluster=default","k8s:io.cilium.k8s.policy.serviceaccount=%s","k8s:io.kubernetes.pod.namespace=%s"%s],"pod_name":%q,"workloads":[{"name":%q,"kind":%q}]}`,
					e.ID%65536, k.Identity, k.Namespace, k.Namespace, k.Name, k.Namespace, labels, e.Name, k.Name, k.Kind),
				ip: e.Addresses[0].String(), node: e.Node,
			})
		}
	}
	const lines = 8
	for done := 0; done < n; {
		from := rnd.IntN(len(pods))
		to := (from*31 + rnd.IntN(6)*rnd.IntN(6)*17 + 1) % len(pods)
		a, b := pods[from][rnd.IntN(len(pods[from]))], pods[to][rnd.IntN(len(pods[to]))]
		port, source := 8000+to%20, 32768+rnd.IntN(28000)
		at := start.Add(time.Duration(float64(done) / float64(n) * float64(48*time.Hour)))
		for i := range lines {
			if done == n {
				break
			}
			done++
			src, dst, sp, dp, reply := a, b, source, port, i/2%2 == 1
			if reply {
				src, dst, sp, dp = b, a, port, source
			}
			flags := [...]string{`"SYN":true`, `"SYN":true,"ACK":true`, `"FIN":true,"ACK":true`, `"FIN":true,"ACK":true`}[i/2]
			direction, node, point := "EGRESS", a.node, "TO_STACK"
			if i%2 == 1 {
				direction, node, point = "INGRESS", b.node, "TO_ENDPOINT"
			}
			t := at.Add(time.Duration(i) * time.Millisecond).Format(time.RFC3339Nano)
			fmt.Fprintf(w, `{"flow":{"time":%q,"uuid":"%08x-6b5c-4f0a-9a51-4e3f6e0c6b6a","verdict":"FORWARDED","ethernet":{"source":"5e:7c:1f:a1:22:10","destination":"9a:0b:4d:11:e0:6e"},"IP":{"source":%q,"destination":%q,"ipVersion":"IPv4"},"l4":{"TCP":{"source_port":%d,"destination_port":%d,"flags":{%s}}},"source":%s,"destination":%s,"Type":"L3_L4","node_name":%q,"node_labels":["kubernetes.io/arch=amd64"],"event_type":{"type":4},"traffic_direction":%q,"trace_observation_point":%q,"trace_reason":"ESTABLISHED","is_reply":%t,"interface":{"index":12},"Summary":"TCP Flags"},"node_name":%q,"time":%q}`+"\n",
				t, rnd.Uint32(), src.ip, dst.ip, sp, dp, flags, src.json, dst.json, node, direction, point, reply, node, t)
		}
	}
	if err := w.Flush(); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
