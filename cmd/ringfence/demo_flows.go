package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/lab"
	"github.com/ringfence/ringfence/internal/store"
)

// Bytes that one packet has besides its payload: Ethernet, IPv4 or IPv6, and
// UDP or TCP with as many options as fit.
const (
	maxTCPHeaders = 14 + 40 + 60
	maxUDPHeaders = 14 + 40 + 8
)

// flowWindow is the time within which stored flows are compared with what the
// lab's clients counted. At its start and end no request is under way. It starts
// after the learning: in an endpoint's first minute a UDP exchange may have begun
// before it was observed, and is stored without a direction.
type flowWindow struct {
	start  time.Time
	counts map[string]lab.Counts // by edge, at the start
}

// flowResult compares the flows stored with the connections that clients made.
// An edge counts as matched when its connections are equal and its bytes differ
// by no more than packet headers.
type flowResult struct {
	Counted       uint64   `json:"connections_counted"`
	Stored        uint64   `json:"connections_stored"`
	PayloadBytes  uint64   `json:"payload_bytes_counted"`
	StoredBytes   uint64   `json:"bytes_stored"`
	StoredPackets uint64   `json:"packets_stored"`
	Edges         int      `json:"edges"`
	Matched       int      `json:"edges_matched"`
	Differences   []string `json:"differences"`
}

// startWindow notes the counters while nothing moves.
func (c *demoCheck) startWindow(ctx context.Context) error {
	if err := c.pause(ctx); err != nil {
		return err
	}
	counts, err := c.edgeCounts(ctx)
	if err != nil {
		return err
	}
	// In the middle of the silence: the kernel's clock of packets is coarse.
	c.window = flowWindow{start: time.Now().Add(-settle / 2), counts: counts}
	return c.lab.Resume(ctx)
}

// endWindow waits until the store has everything, which it has when nothing
// new arrives and no edge differs; at the deadline the differences stay.
func (c *demoCheck) endWindow(ctx context.Context) error {
	if err := c.pause(ctx); err != nil {
		return err
	}
	counts, err := c.edgeCounts(ctx)
	if err != nil {
		return err
	}
	for name, before := range c.window.counts {
		now := counts[name]
		now.Attempts -= before.Attempts
		now.BytesSent -= before.BytesSent
		now.BytesReceived -= before.BytesReceived
		counts[name] = now
	}
	s, err := c.openStore(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // only read from
	end := time.Now()
	err = poll(ctx, storeDeadline, func() (bool, error) {
		totals, err := s.Totals(ctx, store.EdgeFilter{Since: c.window.start, Until: end})
		if err != nil {
			return false, err
		}
		c.result.Flows = compareFlows(counts, totals)
		return len(c.result.Flows.Differences) == 0, nil
	})
	if err != nil {
		return err
	}
	c.say("flows: %d connections counted by clients, %d stored", c.result.Flows.Counted, c.result.Flows.Stored)
	return c.lab.Resume(ctx)
}

func (c *demoCheck) pause(ctx context.Context) error {
	if err := c.lab.Pause(ctx); err != nil {
		return err
	}
	return sleep(ctx, settle)
}

// edgeCounts returns what clients counted, probes left out, both families added.
func (c *demoCheck) edgeCounts(ctx context.Context) (map[string]lab.Counts, error) {
	list, err := c.lab.Counters(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]lab.Counts{}
	for i := range list {
		e := &list[i]
		if e.Probe {
			continue
		}
		name := edgeText(e.Client, e.Server, e.Protocol.String(), int(e.Port))
		sum := out[name]
		sum.Add(e.Counts)
		out[name] = sum
	}
	return out, nil
}

// compareFlows looks at each true edge where its client is observed, or, for a
// client outside, where its server is.
func compareFlows(counts map[string]lab.Counts, totals []flow.EdgeTotal) flowResult {
	stored := map[string]flow.EdgeTotal{}
	for _, t := range totals {
		seenAt := flow.Egress
		if !t.Source.IsWorkload() {
			seenAt = flow.Ingress
		}
		if t.Direction != seenAt {
			continue
		}
		name := edgeText(endName(t.Source), endName(t.Destination), t.Protocol.String(), int(t.Port))
		sum := stored[name]
		sum.Protocol = t.Protocol
		sum.Connections += t.Connections
		sum.Forward = addCounters(sum.Forward, t.Forward)
		sum.Reverse = addCounters(sum.Reverse, t.Reverse)
		stored[name] = sum
	}
	r := flowResult{Edges: len(counts), Differences: []string{}}
	for name, n := range counts {
		t := stored[name]
		both := addCounters(t.Forward, t.Reverse)
		payload := n.PayloadBytes()
		r.Counted += n.Attempts
		r.Stored += t.Connections
		r.PayloadBytes += payload
		r.StoredBytes += both.Bytes
		r.StoredPackets += both.Packets
		headers := uint64(maxTCPHeaders)
		if t.Protocol == flow.UDP {
			headers = maxUDPHeaders
		}
		switch {
		case t.Connections != n.Attempts:
			r.Differences = append(r.Differences, fmt.Sprintf("%s: %d connections counted, %d stored", name, n.Attempts, t.Connections))
		case both.Bytes < payload || both.Bytes > payload+headers*both.Packets:
			r.Differences = append(r.Differences, fmt.Sprintf("%s: %d bytes of payload counted, %d bytes in %d packets stored", name, payload, both.Bytes, both.Packets))
		default:
			r.Matched++
		}
	}
	slices.Sort(r.Differences)
	return r
}

func addCounters(a, b flow.Counters) flow.Counters {
	return flow.Counters{Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes}
}

func endName(p flow.Party) string {
	if p.IsWorkload() {
		return p.Workload.String()
	}
	return p.Address.String()
}
