// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#ifndef RF_MAPS_H
#define RF_MAPS_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "types.h"

#define RF_READ(x)     (*(volatile typeof(x) *)&(x))
#define RF_WRITE(x, v) (*(volatile typeof(x) *)&(x) = (v))

/* Sizes here are placeholders of the smallest kind: userspace sets them from
 * its configuration when it creates a map. All maps are pinned. */

/* Key 0. Written by userspace through a mapping. Read by every program. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rf_settings);
} settings SEC(".maps");

/* Interface index -> the endpoint behind it. Written by userspace on attach
 * and detach. Unknown: the packet passes and is counted. Full: attach fails. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rf_endpoint);
} endpoints SEC(".maps");

/* Endpoint id -> flows and notes of fragments it holds. Created by userspace on attach, counted by
 * the programs. As large as endpoints, twice, for those that are going. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rf_quota);
} quotas SEC(".maps");

/* Exact address -> owner. Written by userspace from the inventory. An address
 * that is not in it is world. Full: the update is refused before it starts. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct rf_address);
	__type(value, struct rf_owner);
} addresses SEC(".maps");

/* Prefix -> identity that policy entries name. Written by userspace; read only
 * for tables that have RF_TABLE_CIDRS. Full: refused before it starts. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct rf_cidr);
	__type(value, __u32);
} cidrs SEC(".maps");

/* Destinations that endpoints may always reach. Written by userspace. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct rf_destination);
	__type(value, __u32);
} failsafe SEC(".maps");

/* Port of a service's address -> identity that policy entries name. Written by
 * userspace. What is sent there ends elsewhere, so that only entries of this
 * identity match it, and those of everything, whatever the address would be else. Not preallocated: a
 * deleted entry's memory stays its own until no program reads it. Full: refused
 * before it starts. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct rf_destination);
	__type(value, __u32);
} services SEC(".maps");

/* Number -> the tables in force for a workload; 0 is nobody's. Written by
 * userspace through a mapping, one store a direction: an array's elements stay
 * where they are, where a hash would hand a replaced one to another key while
 * a program still reads it. Full: attach or apply is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct rf_workload);
} workloads SEC(".maps");

/* Number -> what holds for a whole table; 0 is none. Written by userspace
 * through a mapping, before a workload names the number and a grace period
 * after the last one did. Full: apply is refused before anything is touched. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct rf_table);
} tables SEC(".maps");

/* (table, peer, protocol, node of the port tree) -> its children that match, a
 * bit each. Written by userspace while no workload names the table, like
 * tables; preallocated and shared by all of them. Full: apply is refused before
 * anything is touched. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct rf_rule_key);
	__type(value, __u64);
} rules SEC(".maps");

/* Endpoint and tuple as it sees it -> flow, shared by both hooks and all CPUs:
 * IPv4's, and below IPv6's. Written by the programs; deleted by rf_sweep only. Never an LRU: under
 * attack that would evict the connections that work. Preallocated, so that an
 * insert in softirq cannot fail for want of memory. Full or over the quota:
 * packets are judged without state. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct rf_flow4_key);
	__type(value, struct rf_flow);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct rf_flow_key);
	__type(value, struct rf_flow);
} flows6 SEC(".maps");

/* Fragmented datagram -> the ports of its first fragment. Written by the
 * programs, emptied by rf_sweep. Full or over the endpoint's quota: later
 * fragments stay unmatched. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct rf_fragment_key);
	__type(value, struct rf_fragment);
} fragments SEC(".maps");

/* enum rf_counter -> count. Written by the programs, read by userspace. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RF_COUNTERS);
	__type(key, enum rf_counter);
	__type(value, __u64);
} counters SEC(".maps");

/* struct rf_record and rf_record4. Full: the flow keeps its counters until the sweep finds
 * room. Userspace gives space back only when a batch is stored. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
	__type(value, struct rf_record);
} events SEC(".maps");

/* Key 0. Written and read by userspace alone: it must outlive the agent just
 * as long as the ring does. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rf_intent);
} ring_intent SEC(".maps");

/* Key 0. The timer that sweeps while no agent does: armed by rf_keep and
 * rf_sweep, which userspace runs. Being in a pinned map it outlives the agent,
 * with the program that armed it; when the map's last pin goes it stops. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rf_keeper);
} keeper SEC(".maps");

static __always_inline void rf_count(enum rf_counter counter)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &counter);

	if (n)
		*n += 1;
}

/* For what rf_sweep counts too: softirqs interrupt it on its own CPU. */
static __always_inline void rf_count_shared(enum rf_counter counter)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &counter);

	if (n)
		__sync_fetch_and_add(n, 1);
}

#endif
