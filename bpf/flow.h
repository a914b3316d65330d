// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#ifndef RF_FLOW_H
#define RF_FLOW_H

#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "parse.h"
#include "policy.h"
#include "types.h"

#define RF_FIN_BOTH	  3
#define RF_FIN_LAST(side) (1 << (2 + (side)))

static __always_inline __u64 rf_xchg(__u64 *p, __u64 v)
{
	return __sync_lock_test_and_set(p, v);
}

/* Takes what was counted. Looking first is much cheaper than an exchange, and
 * most counters are 0. */
static __always_inline __u64 rf_take64(__u64 *p)
{
	return RF_READ(*p) ? rf_xchg(p, 0) : 0;
}

static __always_inline __u32 rf_take32(__u32 *p)
{
	return RF_READ(*p) ? __sync_lock_test_and_set(p, 0) : 0;
}

static __always_inline bool rf_has_carried(struct rf_flow *f)
{
	return RF_READ(f->carried[0].packets) || RF_READ(f->carried[0].bytes) ||
	       RF_READ(f->carried[1].packets) || RF_READ(f->carried[1].bytes);
}

static __always_inline bool rf_unreported(struct rf_flow *f)
{
	return RF_READ(f->counted[0]) || RF_READ(f->counted[1]) || RF_READ(f->connections) ||
	       rf_has_carried(f);
}

static __always_inline void rf_copy_address(__u8 to[16], const __u8 from[16])
{
	((__u64 *)to)[0] = ((const __u64 *)from)[0];
	((__u64 *)to)[1] = ((const __u64 *)from)[1];
}

/* The key of a packet that the endpoint sent, or got. */
static __always_inline void rf_flow_key_of(const struct rf_packet *p, __u32 endpoint, bool from,
					   struct rf_flow_key *k)
{
	rf_copy_address(k->local, from ? p->src : p->dst);
	rf_copy_address(k->remote, from ? p->dst : p->src);
	k->local_port = from ? p->sport : p->dport;
	k->remote_port = from ? p->dport : p->sport;
	k->endpoint = endpoint;
	k->protocol = p->protocol;
}

static __always_inline bool rf_is_flow4(const struct rf_flow_key *k)
{
	return rf_is_mapped(k->local);
}

static __always_inline void rf_narrow(const struct rf_flow_key *k, struct rf_flow4_key *n)
{
	n->local = ((const __be32 *)k->local)[3];
	n->remote = ((const __be32 *)k->remote)[3];
	n->local_port = k->local_port;
	n->remote_port = k->remote_port;
	n->endpoint = k->endpoint;
	n->protocol = k->protocol;
}

static __always_inline void rf_widen(const struct rf_flow4_key *n, struct rf_flow_key *k)
{
	rf_map_ipv4(k->local, n->local);
	rf_map_ipv4(k->remote, n->remote);
	k->local_port = n->local_port;
	k->remote_port = n->remote_port;
	k->endpoint = n->endpoint;
	k->protocol = n->protocol;
}

/* In whichever of the tables the key belongs to. */
static __always_inline struct rf_flow *rf_find_flow(const struct rf_flow_key *k)
{
	struct rf_flow4_key n;

	if (!rf_is_flow4(k))
		return bpf_map_lookup_elem(&flows6, k);
	rf_narrow(k, &n);
	return bpf_map_lookup_elem(&flows4, &n);
}

/* A function of its own for the sake of its callers' stack. */
static __noinline struct rf_flow *rf_find_flow_of(const struct rf_packet *p, __u32 endpoint, bool from)
{
	struct rf_flow_key k;

	rf_flow_key_of(p, endpoint, from, &k);
	return rf_find_flow(&k);
}

/* Returns 0 or a negative errno: EEXIST when the table has it. */
static __noinline long rf_add_flow(const struct rf_flow_key *k, const struct rf_flow *f)
{
	struct rf_flow4_key n;

	if (!rf_is_flow4(k))
		return bpf_map_update_elem(&flows6, k, f, BPF_NOEXIST);
	rf_narrow(k, &n);
	return bpf_map_update_elem(&flows4, &n, f, BPF_NOEXIST);
}

static __noinline long rf_delete_flow(const struct rf_flow_key *k)
{
	struct rf_flow4_key n;

	if (!rf_is_flow4(k))
		return bpf_map_delete_elem(&flows6, k);
	rf_narrow(k, &n);
	return bpf_map_delete_elem(&flows4, &n);
}

/* Hands the upper bits of what a side counted on, should they be set. When
 * others change it all the time the next packet tries again. */
static __noinline int rf_carry(struct rf_flow *f, __u32 side)
{
	__u64 old = RF_READ(f->counted[side & 1]);

	if (!(old & RF_CARRY) ||
	    __sync_val_compare_and_swap(&f->counted[side & 1], old, old & ~RF_CARRY) != old)
		return 0;
	if (old & RF_CARRY_PACKETS)
		__sync_fetch_and_add(&f->carried[side & 1].packets, 1);
	if (old & RF_CARRY_BYTES)
		__sync_fetch_and_add(&f->carried[side & 1].bytes, 1);
	return 0;
}

static __always_inline void rf_count_packet(struct rf_flow *f, __u32 side, __u64 packets, __u64 bytes,
					    __u64 now)
{
	if (__sync_fetch_and_add(&f->counted[side], packets << RF_PACKET | bytes) & RF_CARRY)
		rf_carry(f, side);
	if (RF_READ(f->last_seen) != now)
		RF_WRITE(f->last_seen, now);
}

/* Marks what a packet's flags say, which was counted before, and what rf_tcp_step
 * returned. */
static __always_inline void rf_mark_packet(struct rf_flow *f, __u32 side, __u8 tcp_flags, __u32 step)
{
	__u32 marks = (__u32)tcp_flags << RF_FLOW_FLAGS(side) | step;

	if ((RF_READ(f->marks) & marks) != marks)
		__sync_fetch_and_or(&f->marks, marks);
}

/* What a record takes out of its flow. */
struct rf_taken {
	__u64 forward; /* as counted */
	__u64 reverse;
	__u32 connections;
	__u8 forward_flags;
	__u8 reverse_flags;
	__u8 answered;
	__u8 told;
};

/* The record's lines are in no cache yet, and an atomic operation waits for every
 * store before it: what is taken is taken before anything is filled in. answered
 * says that the responder has packets beside those counted. */
static __always_inline void rf_take(struct rf_flow *f, __u32 initiator, bool answered, struct rf_taken *t)
{
	__u64 local = rf_take64(&f->counted[RF_LOCAL]), remote = rf_take64(&f->counted[RF_REMOTE]);
	__u32 marks, clear = ~RF_FLOW_MARKS | RF_FLOW_UNTOLD_BOTH;

	t->connections = rf_take32(&f->connections);
	t->forward = initiator ? remote : local;
	t->reverse = initiator ? local : remote;
	if (answered || t->reverse >> RF_PACKET)
		clear |= RF_FLOW_UNANSWERED;
	marks = RF_READ(f->marks);
	if (marks & clear)
		marks = __sync_fetch_and_and(&f->marks, ~clear);
	t->forward_flags = marks >> RF_FLOW_FLAGS(initiator ? RF_REMOTE : RF_LOCAL);
	t->reverse_flags = marks >> RF_FLOW_FLAGS(initiator ? RF_LOCAL : RF_REMOTE);
	t->told = (marks & RF_FLOW_UNTOLD_BOTH) / RF_FLOW_UNTOLD(0);
	t->answered = marks & clear & RF_FLOW_UNANSWERED ? 1 : 0;
}

/* Waking a reader that is caught up costs more than writing the record. It looks
 * by itself, see ring.go, and is woken whenever a quarter of the ring was written:
 * by the one record that reaches over the quarter's end. Where a record lies tells
 * that without asking how far the ring is written: records lie end to end, and
 * round the ring in a whole number of quarters, from wherever they are counted. */
static __always_inline __u64 rf_wakes(const void *r, __u32 size)
{
	__u64 quarter = bpf_ringbuf_query(&events, BPF_RB_RING_SIZE) / 4, at = (__u64)(long)r;
	__u32 zero = 0;
	struct rf_settings *fixed = bpf_map_lookup_elem(&settings, &zero);

	if (!fixed)
		return 0;
	/* A pointer is no number to the verifier, a distance is. */
	asm volatile("%0 -= %1" : "+r"(at) : "r"(fixed));
	return (at ^ (at + BPF_RINGBUF_HDR_SZ + size)) >= quarter ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

static __always_inline void *rf_reserve(__u32 size)
{
	void *r = bpf_ringbuf_reserve(&events, size, 0);

	if (!r)
		rf_count_shared(RF_COUNT_RING_FULL);
	return r;
}

static __always_inline void rf_submit(void *r, __u32 size)
{
	bpf_ringbuf_submit(r, rf_wakes(r, size));
	rf_count_shared(RF_COUNT_RECORDS);
}

/* A function, or the structure would be none of the object's types, which tell
 * userspace how it is laid out. */
static __noinline void rf_submit4(struct rf_record4 *r)
{
	rf_submit(r, sizeof(*r));
}

/* Fills in all but the event and what was carried. */
static __always_inline void rf_fill_record(struct rf_record *r, const struct rf_flow_key *k,
					   const struct rf_flow *f, const struct rf_taken *t)
{
	__u32 initiator = f->initiator;
	__u64 judged = RF_READ(f->judged);

	r->time = RF_READ(f->last_seen);
	r->first_seen = f->first_seen;
	r->forward_packets = t->forward >> RF_PACKET;
	r->forward_bytes = t->forward & RF_BYTES;
	r->reverse_packets = t->reverse >> RF_PACKET;
	r->reverse_bytes = t->reverse & RF_BYTES;
	__builtin_memcpy(r->src, initiator ? k->remote : k->local, 16);
	__builtin_memcpy(r->dst, initiator ? k->local : k->remote, 16);
	r->sport = initiator ? k->remote_port : k->local_port;
	r->dport = initiator ? k->local_port : k->remote_port;
	r->endpoint = k->endpoint;
	r->connections = t->connections;
	r->live_revision = f->revision[RF_SLOT_LIVE];
	r->staged_revision = f->revision[RF_SLOT_STAGED];
	r->protocol = k->protocol;
	r->direction = f->direction;
	r->outcome = f->outcome;
	r->live_verdict = judged;
	r->live_reason = judged >> 8;
	r->staged_verdict = judged >> 16;
	r->staged_reason = judged >> 24;
	r->forward_flags = t->forward_flags;
	r->reverse_flags = t->reverse_flags;
	r->answered = t->answered;
	r->told = t->told;
}

/* Fills in all but the event. */
static __always_inline void rf_fill_record4(struct rf_record4 *r, const struct rf_flow_key *k,
					    const struct rf_flow *f, const struct rf_taken *t)
{
	__be32 local = ((const __be32 *)k->local)[3], remote = ((const __be32 *)k->remote)[3];
	__u32 initiator = f->initiator;

	r->time = RF_READ(f->last_seen);
	r->first_seen = f->first_seen;
	r->forward = t->forward;
	r->reverse = t->reverse;
	r->src = initiator ? remote : local;
	r->dst = initiator ? local : remote;
	r->sport = initiator ? k->remote_port : k->local_port;
	r->dport = initiator ? k->local_port : k->remote_port;
	r->endpoint = k->endpoint;
	r->connections = t->connections;
	r->live_revision = f->revision[RF_SLOT_LIVE];
	r->staged_revision = f->revision[RF_SLOT_STAGED];
	r->judged = RF_READ(f->judged);
	r->protocol = k->protocol;
	r->direction = f->direction;
	r->outcome = f->outcome;
	r->forward_flags = t->forward_flags;
	r->reverse_flags = t->reverse_flags;
	r->answered = t->answered;
	r->told = t->told;
}

/* The first record of a flow is its new one, whoever writes it. */
static __always_inline __u32 rf_first_event(struct rf_flow *f, __u32 event)
{
	if (!(RF_READ(f->marks) & RF_FLOW_REPORTED) &&
	    !(__sync_fetch_and_or(&f->marks, RF_FLOW_REPORTED) & RF_FLOW_REPORTED) && event == RF_EVENT_SWEEP)
		return RF_EVENT_NEW;
	return event;
}

/* What is carried in between stays for the next record. */
static __always_inline int rf_emit4(struct rf_flow_key *k, struct rf_flow *f, __u32 event)
{
	struct rf_record4 *r = rf_reserve(sizeof(*r));
	struct rf_taken t;

	if (!r)
		return 0;
	event = rf_first_event(f, event);
	rf_take(f, f->initiator, false, &t);
	rf_fill_record4(r, k, f, &t);
	r->event = event;
	rf_submit4(r);
	return 1;
}

static __always_inline int rf_emit_any(struct rf_flow_key *k, struct rf_flow *f, __u32 event)
{
	struct rf_record *r = rf_reserve(sizeof(*r));
	__u32 initiator = f->initiator;
	__u64 local, remote;
	struct rf_taken t;

	if (!r)
		return 0;
	event = rf_first_event(f, event);
	local = rf_take32(&f->carried[RF_LOCAL].packets) * (RF_CARRY_PACKETS >> RF_PACKET);
	remote = rf_take32(&f->carried[RF_REMOTE].packets) * (RF_CARRY_PACKETS >> RF_PACKET);
	rf_take(f, initiator, initiator ? local : remote, &t);
	rf_fill_record(r, k, f, &t);
	r->event = event;
	r->forward_packets += initiator ? remote : local;
	r->reverse_packets += initiator ? local : remote;
	local = rf_take32(&f->carried[RF_LOCAL].bytes) * RF_CARRY_BYTES;
	remote = rf_take32(&f->carried[RF_REMOTE].bytes) * RF_CARRY_BYTES;
	r->forward_bytes += initiator ? remote : local;
	r->reverse_bytes += initiator ? local : remote;
	rf_submit(r, sizeof(*r));
	return 1;
}

/* In the form that holds it. */
__noinline int rf_write_record(struct rf_flow_key *k, struct rf_flow *f, __u32 event)
{
	if (!k || !f)
		return 0;
	return rf_is_flow4(k) && !rf_has_carried(f) ? rf_emit4(k, f, event) : rf_emit_any(k, f, event);
}

/* Writes a record with what is unreported. Returns 0, and leaves the counters
 * where they are, when the ring has no room. */
static __always_inline int rf_emit(struct rf_flow_key *k, struct rf_flow *f, __u32 event, __u64 now)
{
	int written = rf_write_record(k, f, event);

	if (written)
		RF_WRITE(f->reported_at, now);
	return written;
}

/* Writes the flow's end record once. Returns whether this did. */
static __always_inline bool rf_end(struct rf_flow_key *k, struct rf_flow *f, __u64 now)
{
	if (__sync_fetch_and_or(&f->marks, RF_FLOW_ENDED) & RF_FLOW_ENDED)
		return false;
	if (rf_emit(k, f, RF_EVENT_END, now))
		return true;
	__sync_fetch_and_and(&f->marks, ~RF_FLOW_ENDED);
	return false;
}

static __always_inline bool rf_denied(__u64 judged, __u32 slot)
{
	return (judged >> (slot * 16) & 0xff) == RF_VERDICT_DENY;
}

static __always_inline __u32 rf_outcome(__u64 judged, __u32 panic)
{
	if (rf_denied(judged, RF_SLOT_LIVE))
		return panic ? RF_OUTCOME_AUDITED : RF_OUTCOME_DROPPED;
	return rf_denied(judged, RF_SLOT_STAGED) ? RF_OUTCOME_AUDITED : RF_OUTCOME_FORWARDED;
}

/* Counts a packet that a slot denies. */
__noinline int rf_count_denied(__u64 judged, __u32 outcome)
{
	__u32 live_reason = (judged >> 8) & 0xff, staged_reason = (judged >> 24) & 0xff;

	rf_count(outcome == RF_OUTCOME_DROPPED ? RF_COUNT_DROPPED : RF_COUNT_AUDITED);
	if (rf_denied(judged, RF_SLOT_LIVE) && live_reason < RF_REASONS)
		rf_count(RF_COUNT_LIVE_DENY + live_reason);
	if (rf_denied(judged, RF_SLOT_STAGED) && staged_reason < RF_REASONS)
		rf_count(RF_COUNT_STAGED_DENY + staged_reason);
	return 0;
}

/* Counts a judged packet. */
static __always_inline void rf_count_verdict(__u64 judged, __u32 outcome)
{
	if (outcome == RF_OUTCOME_FORWARDED)
		rf_count(RF_COUNT_FORWARDED);
	else
		rf_count_denied(judged, outcome);
}

/* Protocols whose packets say where a connection begins and ends. */
static __always_inline bool rf_has_handshake(const struct rf_packet *p)
{
	return p->protocol == IPPROTO_TCP || p->protocol == RF_SCTP;
}

static __always_inline __u8 rf_first_state(const struct rf_packet *p)
{
	switch (p->protocol) {
	case IPPROTO_TCP:
	case RF_SCTP:
		return p->tcp_flags & RF_TCP_SYN ? RF_STATE_SYN : RF_STATE_MIDSTREAM;
	case IPPROTO_UDP:
		return RF_STATE_UDP;
	case IPPROTO_ICMP:
	case RF_ICMPV6:
		return RF_STATE_ICMP;
	}
	return RF_STATE_OTHER;
}

/* Moves a TCP or SCTP flow on by one packet. Returns what is to be marked. */
static __always_inline __u32 rf_tcp_step(struct rf_flow *f, __u32 side, __u8 flags)
{
	__u8 fin = f->fin;

	if (flags & RF_TCP_RST) {
		f->state = RF_STATE_CLOSING;
		return RF_FLOW_CLOSED;
	}
	if (flags & RF_TCP_FIN) {
		fin |= 1 << side;
		fin = (fin & RF_FIN_BOTH) | RF_FIN_LAST(side);
		f->fin = fin;
		if ((fin & RF_FIN_BOTH) == RF_FIN_BOTH)
			f->state = RF_STATE_CLOSING;
		return 0;
	}
	/* The acknowledgement of the second FIN. */
	if (f->state == RF_STATE_CLOSING)
		return (fin & RF_FIN_BOTH) == RF_FIN_BOTH && !(fin & RF_FIN_LAST(side)) ? RF_FLOW_CLOSED : 0;
	if (f->state == RF_STATE_SYN) {
		if (side != f->initiator && (flags & (RF_TCP_SYN | RF_TCP_ACK)) == (RF_TCP_SYN | RF_TCP_ACK))
			return RF_FLOW_SYNACK;
		if (side == f->initiator && !(flags & RF_TCP_SYN) && RF_READ(f->marks) & RF_FLOW_SYNACK)
			f->state = RF_STATE_ESTABLISHED;
	} else if (f->state == RF_STATE_MIDSTREAM && side != f->initiator) {
		f->state = RF_STATE_ESTABLISHED;
	}
	return 0;
}

#endif
