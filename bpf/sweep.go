package bpf

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

// keep has the kernel sweep by itself, from Config.OrphanedAfter from now on,
// unless Sweep comes before.
func (d *Datapath) keep() error {
	code, err := d.programs.RfKeep.Run(&ebpf.RunOptions{})
	if err == nil {
		err = errnoOf(code)
	}
	if err != nil {
		return fmt.Errorf("arm the kernel's own sweep: %w", err)
	}
	return nil
}

// errnoOf reads what a syscall program returned: 0 or a negative errno.
func errnoOf(code uint32) error {
	if code == 0 {
		return nil
	}
	return unix.Errno(-int32(code)) //nolint:gosec // the program returns an int
}

// Sweep reports flows whose counters waited long enough, ends those that are
// idle and deletes those that ended. It also deletes policy tables that are in
// force no longer. Call it every second.
func (d *Datapath) Sweep(ctx context.Context) (SweepStats, error) {
	now, err := coarse()
	if err != nil {
		return SweepStats{}, err
	}
	stats, err := d.sweepAt(ctx, now)
	if err != nil {
		return stats, err
	}
	return stats, d.reclaim()
}

// reclaim deletes the policy tables that are in force no longer. It waits for
// the programs that may look at them without holding anything up.
func (d *Datapath) reclaim() error {
	d.mu.Lock()
	tables, _ := d.policies.retired()
	d.policies.clock++
	now := d.policies.clock
	d.mu.Unlock()
	if tables == 0 {
		return nil
	}
	if err := d.policies.grace.wait(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	return d.policies.reclaim(now)
}

func (d *Datapath) sweepAt(ctx context.Context, now uint64) (SweepStats, error) {
	if err := ctx.Err(); err != nil {
		return SweepStats{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return SweepStats{}, errClosed
	}
	args := kernelRfSweepArgs{Now: now}
	code, err := d.programs.RfSweep.Run(&ebpf.RunOptions{Context: &args, ContextOut: &args})
	if err == nil {
		err = errnoOf(code)
	}
	if err != nil {
		return SweepStats{}, fmt.Errorf("sweep the flow table: %w", err)
	}
	d.levels.FlowsIPv4, d.levels.FlowsIPv6 = args.Flows4, args.Flows6
	if err := d.readQuotas(); err != nil {
		return SweepStats{}, err
	}
	if err := d.drainFormers(); err != nil {
		return SweepStats{}, err
	}
	return SweepStats{
		Flows: args.Flows4 + args.Flows6 + args.Deleted, Reported: args.Reported, Ended: args.Ended, Deleted: args.Deleted, RingFull: args.RingFull,
	}, nil
}

// readQuotas adds up the notes of fragments, and forgets detached endpoints that
// hold neither those nor flows any more.
func (d *Datapath) readQuotas() error {
	quotas, err := readMap[uint32, kernelRfQuota](d.maps.Quotas)
	if err != nil {
		return fmt.Errorf("read quotas: %w", err)
	}
	d.levels.Fragments = 0
	for id, q := range quotas {
		d.levels.Fragments += uint64(q.Fragments)
		if q.Gone == 0 || q.Flows != 0 || q.Fragments != 0 {
			continue
		}
		if err := d.maps.Quotas.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget quota of endpoint %d: %w", id, err)
		}
	}
	return nil
}

// counterNames are enum rf_counter's, up to the ones by reason.
var counterNames = [...]string{
	kernelRfCounterRF_COUNT_FORWARDED:           "forwarded",
	kernelRfCounterRF_COUNT_AUDITED:             "audited",
	kernelRfCounterRF_COUNT_DROPPED:             "dropped",
	kernelRfCounterRF_COUNT_NON_IP:              "non_ip",
	kernelRfCounterRF_COUNT_NO_ENDPOINT:         "no_endpoint",
	kernelRfCounterRF_COUNT_FAILSAFE:            "failsafe",
	kernelRfCounterRF_COUNT_SELF:                "self",
	kernelRfCounterRF_COUNT_RELATED:             "related",
	kernelRfCounterRF_COUNT_MALFORMED:           "malformed",
	kernelRfCounterRF_COUNT_SPOOFED:             "spoofed",
	kernelRfCounterRF_COUNT_STATELESS:           "stateless",
	kernelRfCounterRF_COUNT_REVERSED_SYN:        "reversed_syn",
	kernelRfCounterRF_COUNT_FRAGMENTS:           "fragments",
	kernelRfCounterRF_COUNT_FRAGMENTS_UNMATCHED: "fragments_unmatched",
	kernelRfCounterRF_COUNT_FRAGMENTS_FULL:      "fragments_full",
	kernelRfCounterRF_COUNT_FLOWS:               "flows",
	kernelRfCounterRF_COUNT_REJUDGED:            "rejudged",
	kernelRfCounterRF_COUNT_TABLE_FULL:          "table_full",
	kernelRfCounterRF_COUNT_QUOTA:               "quota",
	kernelRfCounterRF_COUNT_UNREPORTED_PACKETS:  "unreported_packets",
	kernelRfCounterRF_COUNT_RECORDS:             "records",
	kernelRfCounterRF_COUNT_RING_FULL:           "ring_full",
	kernelRfCounterRF_COUNT_ORPHAN_SWEEPS:       "orphan_sweeps",
}

// reasons is how many values flow.Reason has: the length of the two runs of
// counters by reason.
const reasons = kernelRfCounterRF_COUNT_STAGED_DENY - kernelRfCounterRF_COUNT_LIVE_DENY

// LiveDeny names the counter of packets that the live slot denied for a reason.
func LiveDeny(r flow.Reason) string { return "live_deny_" + r.String() }

// StagedDeny names its twin: what enforcing would have dropped.
func StagedDeny(r flow.Reason) string { return "staged_deny_" + r.String() }

// Counters returns the programs' counters by name.
func (d *Datapath) Counters() (map[string]uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed
	}
	values := make(map[string]uint64, kernelRfCounterRF_COUNTERS)
	for i := range kernelRfCounterRF_COUNTERS {
		var percpu []uint64
		if err := d.maps.Counters.Lookup(uint32(i), &percpu); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", counterName(i), err)
		}
		var sum uint64
		for _, n := range percpu {
			sum += n
		}
		values[counterName(i)] = sum
	}
	return values, nil
}

// CountersID tells the counters that Counters returns from those that began at
// 0 anew: an upgrade may replace them.
func (d *Datapath) CountersID() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0
	}
	return d.settings.value.CountersId
}

func counterName(i kernelRfCounter) string {
	switch {
	case i < kernelRfCounterRF_COUNT_LIVE_DENY:
		return counterNames[i]
	case i < kernelRfCounterRF_COUNT_STAGED_DENY:
		return LiveDeny(flow.Reason(i - kernelRfCounterRF_COUNT_LIVE_DENY))
	default:
		return StagedDeny(flow.Reason(i - kernelRfCounterRF_COUNT_STAGED_DENY)) //nolint:gosec // below reasons
	}
}

// Levels returns how full the kernel's tables are.
func (d *Datapath) Levels() (Levels, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return Levels{}, errClosed
	}
	l := d.levels
	used, err := d.policies.usedWorkloads()
	if err != nil {
		return Levels{}, err
	}
	l.Workloads = len(used)
	tables, rules := d.policies.retired()
	l.Tables, l.Entries, l.RetiredEntries = len(d.policies.tables)-tables, d.policies.ruleCount-rules, rules
	ring, err := mapRing(d.maps.Events)
	if err != nil {
		return Levels{}, err
	}
	defer func() { _ = ring.close() }()
	l.RingSize = uint64(ring.size) //nolint:gosec // a map's size
	l.RingBytes = ring.produced() - ring.consumed()
	for _, f := range d.formers {
		if f.shares(d.gen, kernelMapEvents) {
			continue
		}
		n, err := f.backlog()
		if err != nil {
			return Levels{}, err
		}
		l.RingBytes += n
	}
	return l, nil
}

// readLevels counts what adopted maps hold.
func (d *Datapath) readLevels() error {
	endpoints, err1 := countKeys[uint32, kernelRfEndpoint](d.maps.Endpoints)
	addresses, err2 := countKeys[kernelRfAddress, kernelRfOwner](d.maps.Addresses)
	cidrs, err3 := countKeys[kernelRfCidr, uint32](d.maps.Cidrs)
	failsafe, err4 := countKeys[kernelRfDestination, uint32](d.maps.Failsafe)
	services, err5 := countKeys[kernelRfDestination, uint32](d.maps.Services)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return fmt.Errorf("read fill levels: %w", err)
	}
	d.levels = Levels{Endpoints: endpoints, Addresses: addresses, CIDRs: cidrs, Failsafe: failsafe, Services: services}
	return nil
}
