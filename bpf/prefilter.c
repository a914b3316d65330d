// clang-format off
//go:build ignore
// clang-format on

// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/*
 * Deny lists of sources, looked at before anything else of a frame. One loaded
 * program is one immutable state of all lists: its tables are made with it and
 * go with it, and a reload is a link update to another program. So a packet
 * never meets half a list, and nothing is deleted entry by entry.
 *
 * A family's lists are flattened into marks: addresses in ascending order, each
 * of which tells what holds from there up to the next one.
 */

/* Must match bpf/parse.h: the programs behind this one see the same frames. */
#define RF_MAX_VLANS 2

#define RF_DENYLISTS	 128 /* slots; twice the lists a node may have, and more */
#define RF_PREFIX_LEVELS 8   /* of the IPv6 tree: room for 8^8 marks */

/* What holds from a mark on: slot << 2 | action. */
enum rf_action {
	RF_ACTION_NONE,
	RF_ACTION_EXEMPT, /* in a list, but never to be dropped */
	RF_ACTION_AUDIT,
	RF_ACTION_ENFORCE,
};

enum rf_prefilter_verdict {
	RF_PREFILTER_EXEMPTED,
	RF_PREFILTER_AUDITED,
	RF_PREFILTER_DROPPED,
	RF_PREFILTER_VERDICTS,
};

/* The fields that `ringfence panic` needs, at the place where rf_settings has
 * them. This structure never changes: programs of several versions share it. */
struct rf_prefilter_settings {
	__u32 magic;
	__u32 layout;
	__u32 epoch;
	__u32 panic; /* not 0: nothing is dropped */
};
_Static_assert(sizeof(struct rf_prefilter_settings) == 16, "rf_prefilter_settings");

struct rf_prefilter_count {
	__u64 packets[RF_PREFILTER_VERDICTS];
	__u64 bytes[RF_PREFILTER_VERDICTS];
};
_Static_assert(sizeof(struct rf_prefilter_count) == 48, "rf_prefilter_count");

struct rf_denylist {
	char name[64]; /* empty: the slot is free */
};
_Static_assert(sizeof(struct rf_denylist) == 64, "rf_denylist");

/* 128 bits in host order. */
struct rf_wide {
	__u64 high;
	__u64 low;
};
_Static_assert(sizeof(struct rf_wide) == 16, "rf_wide");

/* Key 0. Written by userspace through a mapping, pinned. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rf_prefilter_settings);
} settings SEC(".maps");

/* Slot -> packets and bytes of one list. Written by the program, read by
 * userspace, which clears a slot before it gives it to another list. Pinned. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RF_DENYLISTS);
	__type(key, __u32);
	__type(value, struct rf_prefilter_count);
} counts SEC(".maps");

/* Slot -> the list whose packets it counts. Written and read by userspace
 * alone, so that a list keeps its count over reloads and restarts. Pinned. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RF_DENYLISTS);
	__type(key, __u32);
	__type(value, struct rf_denylist);
} denylists SEC(".maps");

/* The tables below are arrays of one value, which userspace sizes, fills and
 * freezes before the program is loaded. They are not pinned: the program holds
 * them. */

/* Upper 16 bits of an address, and one more -> position in v4_marks of the last
 * mark before them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 65537 * 4);
} v4_index SEC(".maps");

/* Lower 16 bits of an address << 16 | what holds from there on, ascending. The
 * first one is at 0.0.0.0. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 4);
} v4_marks SEC(".maps");

/* A search tree of struct rf_wide, 8 to a node, the root's level first; every
 * key's node one level down begins with that same key. The first one is ::. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 8 * sizeof(struct rf_wide));
} v6_keys SEC(".maps");

/* Position on the tree's last level -> what holds from there on, as __u16. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 8 * 2);
} v6_marks SEC(".maps");

/* Set when the program is loaded. 0: the family has no lists. */
volatile const __u32 v4_length;			  /* of v4_marks */
volatile const __u32 v6_levels;			  /* of the tree */
volatile const __u32 v6_offset[RF_PREFIX_LEVELS]; /* of a level's first key */
volatile const __u32
    v6_count[RF_PREFIX_LEVELS]; /* of a level's keys; what fills up its last node is beyond them */
volatile const __u32 v6_length; /* of v6_keys */
volatile const __u32 v6_leaves; /* of v6_marks */

static __always_inline __u32 rf_judge_v4(__u32 addr)
{
	__u32 zero = 0, upper = addr >> 16, lower = addr & 0xffff;
	const __u32 *index = bpf_map_lookup_elem(&v4_index, &zero);
	const __u32 *marks = bpf_map_lookup_elem(&v4_marks, &zero);
	__u64 at, n;
	int i;

	if (!index || !marks)
		return 0;
	at = index[upper];
	n = index[upper + 1] - at + 1;
	/* The mark that holds is among the n from at on. */
	for (i = 0; i < 17 && n > 1; i++) {
		__u64 half = n >> 1, middle = at + half;

		if (middle >= v4_length)
			return 0;
		if (marks[middle] >> 16 <= lower)
			at = middle;
		n -= half;
	}
	if (at >= v4_length)
		return 0;
	return marks[at] & 0xffff;
}

static __always_inline bool rf_reaches(__u64 high, __u64 low, const struct rf_wide *key)
{
	return high != key->high ? high > key->high : low >= key->low;
}

/* Which of the node's children the address is under. A function of its own:
 * inlined, the verifier would walk every path down the tree. */
__noinline __u32 rf_descend(__u64 high, __u64 low, __u64 first)
{
	__u32 zero = 0, child = 0;
	const struct rf_wide *node = bpf_map_lookup_elem(&v6_keys, &zero);

	if (!node || first > v6_length - 8)
		return 0;
	node += first;
	if (rf_reaches(high, low, node + 4)) {
		node += 4;
		child += 4;
	}
	if (rf_reaches(high, low, node + 2)) {
		node += 2;
		child += 2;
	}
	if (rf_reaches(high, low, node + 1))
		child += 1;
	return child;
}

static __always_inline __u32 rf_judge_v6(__u64 high, __u64 low)
{
	__u32 zero = 0;
	const __u16 *marks = bpf_map_lookup_elem(&v6_marks, &zero);
	__u64 at = 0;
	int i;

	for (i = 0; i < RF_PREFIX_LEVELS; i++) {
		if (i >= v6_levels)
			break;
		at = at * 8 + rf_descend(high, low, v6_offset[i] + at * 8);
		if (at >= v6_count[i])
			at = v6_count[i] - 1;
	}
	if (!marks || at >= v6_leaves)
		return 0;
	return marks[at];
}

static __always_inline bool rf_load(struct xdp_md *ctx, __u32 off, void *to, __u32 len)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (data + off + len > end)
		return false;
	__builtin_memcpy(to, data + off, len);
	return true;
}

/* What the lists say of the frame's source. Frames that are too short to tell,
 * or not IP, are for the programs behind this one. */
static __always_inline __u32 rf_judge(struct xdp_md *ctx)
{
	__u32 l3 = sizeof(struct ethhdr);
	__be16 type;
	int i;

	if (!rf_load(ctx, offsetof(struct ethhdr, h_proto), &type, sizeof(type)))
		return 0;
	for (i = 0; i < RF_MAX_VLANS; i++) {
		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		if (!rf_load(ctx, l3 + 2, &type, sizeof(type)))
			return 0;
		l3 += 4;
	}
	if (type == bpf_htons(ETH_P_IP) && v4_length) {
		__be32 src;

		if (!rf_load(ctx, l3 + offsetof(struct iphdr, saddr), &src, sizeof(src)))
			return 0;
		return rf_judge_v4(bpf_ntohl(src));
	}
	if (type == bpf_htons(ETH_P_IPV6) && v6_levels) {
		struct rf_wide src;

		if (!rf_load(ctx, l3 + offsetof(struct ipv6hdr, saddr), &src, sizeof(src)))
			return 0;
		return rf_judge_v6(bpf_be64_to_cpu(src.high), bpf_be64_to_cpu(src.low));
	}
	return 0;
}

static __always_inline bool rf_panicked(void)
{
	__u32 zero = 0;
	const struct rf_prefilter_settings *s = bpf_map_lookup_elem(&settings, &zero);

	return s && *(volatile const __u32 *)&s->panic;
}

/* Not "xdp.frags": for such a program generic XDP copies the packet and forgets
 * its mac_len, and then the tc programs behind it do not find the IP header. A
 * driver that would need it, as with jumbo frames, refuses, and generic XDP
 * makes the packet linear. */
SEC("xdp")
int rf_prefilter(struct xdp_md *ctx)
{
	__u32 mark = rf_judge(ctx), slot = mark >> 2, verdict = RF_PREFILTER_EXEMPTED;
	struct rf_prefilter_count *count;

	if (!mark)
		return XDP_PASS;
	if ((mark & 3) == RF_ACTION_ENFORCE)
		verdict = rf_panicked() ? RF_PREFILTER_AUDITED : RF_PREFILTER_DROPPED;
	else if ((mark & 3) == RF_ACTION_AUDIT)
		verdict = RF_PREFILTER_AUDITED;
	count = bpf_map_lookup_elem(&counts, &slot);
	if (count) {
		count->packets[verdict] += 1;
		count->bytes[verdict] += bpf_xdp_get_buff_len(ctx);
	}
	return verdict == RF_PREFILTER_DROPPED ? XDP_DROP : XDP_PASS;
}
