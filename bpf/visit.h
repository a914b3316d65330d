// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#ifndef RF_VISIT_H
#define RF_VISIT_H

#include "flow.h"
#include "tunnel.h"

/* One packet's way through a program: everything known of it, in one place, so
 * that the steps below can be functions the verifier looks at one by one. */
struct rf_visit {
	struct rf_packet p;
	struct rf_ask ask;
	struct rf_answer answer;
	__u64 now;
	__u64 bytes;
	__u64 observed_since;
	__u32 packets;
	__u32 endpoint;
	__u32 epoch;
	__u32 panic;
	__u8 side;	/* who sent the packet: RF_LOCAL or RF_REMOTE */
	__u8 from;	/* it comes from the endpoint */
	__u8 host;	/* the endpoint is the node itself */
	__u8 initiator; /* as the packet shows it, for a flow that begins */
	__u8 direction;
	__u8 local_origin; /* RF_ASK_LOCAL_ORIGIN holds, should the flow be the node's */
	__u8 benefit;	   /* allowed as a possible answer */
	__u8 tunnels;	   /* RF_ENDPOINT_TUNNELS that are looked into */
};
_Static_assert(sizeof(struct rf_visit) == 176, "rf_visit");

/* The flow's key is made where it is needed: kept here it would be below
 * everything else on the stack. */
static __always_inline void rf_visit_key(const struct rf_visit *v, struct rf_flow_key *k)
{
	rf_flow_key_of(&v->p, v->endpoint, v->from, k);
}

static __always_inline struct rf_flow *rf_visit_find(const struct rf_visit *v)
{
	return rf_find_flow_of(&v->p, v->endpoint, v->from);
}

__noinline int rf_visit_emit(struct rf_visit *v, struct rf_flow *f, __u32 event)
{
	struct rf_flow_key k;

	if (!v || !f)
		return 0;
	rf_visit_key(v, &k);
	return rf_emit(&k, f, event, v->now);
}

__noinline int rf_visit_end(struct rf_visit *v, struct rf_flow *f)
{
	struct rf_flow_key k;

	if (!v || !f)
		return 0;
	rf_visit_key(v, &k);
	return rf_end(&k, f, v->now);
}

static __always_inline const __u8 *rf_local(const struct rf_visit *v)
{
	return v->from ? v->p.src : v->p.dst;
}

/* Whether the endpoint's side has an address that is not the endpoint's. Of one
 * that nobody knows yet nobody knows the addresses. */
static __always_inline bool rf_forges(const struct rf_visit *v)
{
	return !v->host && v->ask.workload && !rf_owns(v->endpoint, rf_local(v));
}

/* Whether the live slot denies what was judged last. */
static __always_inline bool rf_denies(const struct rf_visit *v)
{
	return (v->answer.judged & 0xff) == RF_VERDICT_DENY;
}

/* Fills in the question about the flow. */
static __always_inline void rf_prepare(struct rf_visit *v, __u8 direction, __u8 flags)
{
	struct rf_ask *ask = &v->ask;

	ask->protocol = v->p.protocol;
	ask->direction = direction;
	ask->flags = flags | (v->host ? RF_ASK_HOST : 0);
	if (v->from) {
		__builtin_memcpy(ask->remote, v->p.dst, 16);
		ask->local_port = v->p.sport;
		ask->remote_port = v->p.dport;
	} else {
		__builtin_memcpy(ask->remote, v->p.src, 16);
		ask->local_port = v->p.dport;
		ask->remote_port = v->p.sport;
	}
}

/* An exchange from before the programs came may show its answer first. Where
 * default-deny is in force already that excuse would let anybody into every
 * endpoint that has just been made. */
static __always_inline bool rf_may_be_answer(struct rf_visit *v)
{
	__u32 zero = 0, state = v->p.protocol == IPPROTO_UDP ? RF_STATE_UDP : RF_STATE_OTHER;
	struct rf_settings *s = bpf_map_lookup_elem(&settings, &zero);

	if (!s || v->now >= v->observed_since + s->idle[state])
		return false;
	return !rf_isolates(v->ask.workload, RF_SLOT_LIVE, v->from ? RF_EGRESS : RF_INGRESS);
}

/* Works out who began the flow that this packet is the first one of. */
static __always_inline void rf_first_direction(struct rf_visit *v)
{
	bool sender = true, known = true;

	if (v->p.flags & RF_PKT_LATER_FRAGMENT) {
		known = false;
	} else if (rf_has_handshake(&v->p)) {
		known = v->p.tcp_flags & RF_TCP_SYN;
		if (known && v->p.tcp_flags & RF_TCP_ACK)
			sender = false;
	} else if (v->p.flags & RF_PKT_ICMP_REPLY) {
		sender = false;
	} else if (v->p.protocol != IPPROTO_ICMP && v->p.protocol != RF_ICMPV6) {
		known = !rf_may_be_answer(v);
	}
	v->initiator = sender ? v->side : !v->side;
	if (!known)
		v->direction = RF_DIRECTION_UNKNOWN;
	else
		v->direction = sender == v->from ? RF_EGRESS : RF_INGRESS;
}

/* Judges the packet as the first one of a flow, should it be that. */
__noinline int rf_judge_as_first(struct rf_visit *v)
{
	__u8 flags;

	if (!v)
		return 0;
	flags = v->local_origin ? RF_ASK_LOCAL_ORIGIN : 0;
	if (v->from && rf_forges(v))
		flags |= RF_ASK_SPOOFED;
	rf_prepare(v, v->direction, flags);
	rf_judge(&v->ask, &v->answer);
	return 0;
}

static __always_inline void rf_count_spoofed(const struct rf_visit *v)
{
	if (v->ask.flags & RF_ASK_SPOOFED)
		rf_count(RF_COUNT_SPOOFED);
}

/* Judges the packet as the first one of a flow, which it is. */
static __always_inline void rf_judge_first(struct rf_visit *v)
{
	rf_judge_as_first(v);
	rf_count_spoofed(v);
}

static __always_inline void rf_store_answer(struct rf_visit *v, struct rf_flow *f)
{
	f->revision[0] = v->answer.revision[0];
	f->revision[1] = v->answer.revision[1];
	f->outcome = rf_outcome(v->answer.judged, v->panic);
	/* Last, and in one piece: who sees the epoch sees its verdict. */
	rf_xchg(&f->judged, (__u64)v->epoch << 32 | v->answer.judged);
}

static __always_inline void rf_init_flow(struct rf_visit *v, struct rf_flow *f)
{
	f->first_seen = v->now;
	f->initiator = v->initiator;
	f->direction = v->direction;
	f->fin = 0;
	f->isn = v->p.seq;
	f->state = rf_first_state(&v->p);
}

static __always_inline __u32 rf_first_marks(const struct rf_visit *v)
{
	__u32 marks = RF_FLOW_UNANSWERED | RF_FLOW_UNTOLD_BOTH;

	if (v->ask.flags & RF_ASK_LOCAL_ORIGIN)
		marks |= RF_FLOW_LOCAL_ORIGIN;
	if (rf_has_handshake(&v->p) && v->p.tcp_flags & RF_TCP_SYN && v->p.tcp_flags & RF_TCP_ACK)
		marks |= RF_FLOW_SYNACK;
	if (v->from)
		marks |= RF_FLOW_SENT_FIRST;
	if (v->benefit)
		marks |= RF_FLOW_BENEFIT;
	return marks;
}

static __always_inline __u64 rf_first_count(const struct rf_visit *v)
{
	return (__u64)v->packets << RF_PACKET | v->bytes;
}

static __always_inline int rf_report_first4(const struct rf_flow_key *k, const struct rf_flow *f,
					    const struct rf_taken *t)
{
	struct rf_record4 *r = rf_reserve(sizeof(*r));

	if (!r)
		return 0;
	rf_fill_record4(r, k, f, t);
	r->event = RF_EVENT_NEW;
	rf_submit4(r);
	return 1;
}

/* Writes the first record of a flow of one packet. Returns 0 when the ring has
 * no room. */
static __always_inline int rf_report_first(const struct rf_visit *v, const struct rf_flow_key *k,
					   const struct rf_flow *f)
{
	struct rf_taken t = {.connections = 1, .told = RF_FLOW_UNTOLD_BOTH / RF_FLOW_UNTOLD(0)};
	struct rf_record *r;

	if (v->initiator == v->side) {
		t.forward = rf_first_count(v);
		t.forward_flags = v->p.tcp_flags;
	} else {
		t.reverse = rf_first_count(v);
		t.reverse_flags = v->p.tcp_flags;
		t.answered = 1;
	}
	if (rf_is_flow4(k))
		return rf_report_first4(k, f, &t);
	r = rf_reserve(sizeof(*r));
	if (!r)
		return 0;
	rf_fill_record(r, k, f, &t);
	r->event = RF_EVENT_NEW;
	rf_submit(r, sizeof(*r));
	return 1;
}

/* Leaves the first record of a flow, for which the ring had no room, to the
 * sweep. */
__noinline int rf_report_later(struct rf_visit *v, struct rf_flow_key *k)
{
	struct rf_flow *f;

	if (!v || !k)
		return 0;
	f = rf_find_flow(k);
	if (!f)
		return 0;
	__sync_fetch_and_add(&f->connections, 1);
	__sync_fetch_and_add(&f->counted[v->side & 1], rf_first_count(v));
	__sync_fetch_and_or(&f->marks, (__u32)v->p.tcp_flags << RF_FLOW_FLAGS(v->side & 1));
	__sync_fetch_and_or(&f->marks, RF_FLOW_UNANSWERED | RF_FLOW_UNTOLD_BOTH);
	__sync_fetch_and_and(&f->marks, ~RF_FLOW_REPORTED);
	return 0;
}

enum rf_inserted {
	RF_INSERTED,
	RF_INSERT_PRESENT, /* the table has it */
	RF_INSERT_QUOTA,
	RF_INSERT_FULL,
};

static __always_inline bool rf_over_quota(struct rf_quota *q)
{
	__u32 zero = 0, limit;
	struct rf_settings *s = bpf_map_lookup_elem(&settings, &zero);

	limit = s ? RF_READ(s->endpoint_flows) : 0;
	return q && limit && RF_READ(q->flows) >= limit;
}

static __always_inline struct rf_quota *rf_find_quota(const struct rf_visit *v)
{
	__u32 id = v->endpoint;

	return bpf_map_lookup_elem(&quotas, &id);
}

/* Puts a judged flow into the table, if it is not there, and reports it. */
__noinline int rf_insert(struct rf_visit *v)
{
	struct rf_flow fresh = {};
	struct rf_flow_key k;
	struct rf_quota *quota;
	long err;

	if (!v)
		return RF_INSERT_FULL;
	quota = rf_find_quota(v);
	if (rf_over_quota(quota))
		return RF_INSERT_QUOTA;
	rf_init_flow(v, &fresh);
	rf_store_answer(v, &fresh);
	/* As its record leaves it. */
	fresh.marks = (rf_first_marks(v) & ~RF_FLOW_UNTOLD_BOTH) | RF_FLOW_REPORTED;
	if (v->initiator != v->side)
		fresh.marks &= ~RF_FLOW_UNANSWERED;
	fresh.last_seen = v->now;
	fresh.reported_at = v->now;
	rf_visit_key(v, &k);
	err = rf_add_flow(&k, &fresh);
	if (err)
		return err == -17 /* EEXIST */ ? RF_INSERT_PRESENT : RF_INSERT_FULL;
	if (quota)
		__sync_fetch_and_add(&quota->flows, 1);
	rf_count(RF_COUNT_FLOWS);
	if (!rf_report_first(v, &k, &fresh))
		rf_report_later(v, &k);
	return RF_INSERTED;
}

/* Reports a judged flow of one packet, while the table still holds one of the
 * same key that is just being deleted. Returns 0 when the ring has no room. */
__noinline int rf_report_alone(struct rf_visit *v)
{
	struct rf_flow alone = {};
	struct rf_flow_key k;

	if (!v)
		return 0;
	if (rf_over_quota(rf_find_quota(v))) {
		rf_count(RF_COUNT_QUOTA);
		return 0;
	}
	rf_init_flow(v, &alone);
	rf_store_answer(v, &alone);
	alone.last_seen = v->now;
	rf_count(RF_COUNT_FLOWS);
	rf_visit_key(v, &k);
	return rf_report_first(v, &k, &alone);
}

/* While an upgrade carries flows from one table to another, an answer may come
 * where its request is not known. What would be denied is then judged as one;
 * when the upgrade is done, as what it looks like. */
__noinline int rf_judge_answer(struct rf_visit *v)
{
	struct rf_settings *s;
	__u32 zero = 0;
	__u8 direction;

	if (!v)
		return 0;
	s = bpf_map_lookup_elem(&settings, &zero);
	if (!s || v->now >= RF_READ(s->carry_until))
		return 0;
	direction = v->direction;
	v->direction = RF_DIRECTION_UNKNOWN;
	rf_judge_first(v);
	v->benefit = !rf_denies(v);
	if (!v->benefit) {
		v->direction = direction;
		rf_judge_first(v);
	}
	return 0;
}

/* Judges a flow again after the epoch moved. What was counted under the old
 * verdict is reported under it. Returns whether the verdict changed. */
__noinline int rf_rejudge(struct rf_visit *v, struct rf_flow *f)
{
	__u32 live, staged, untold = 0;
	__u8 flags = 0;
	__u64 old;

	if (!v || !f)
		return 0;
	live = f->revision[RF_SLOT_LIVE];
	staged = f->revision[RF_SLOT_STAGED];
	if (f->marks & RF_FLOW_BENEFIT) {
		__sync_fetch_and_and(&f->marks, ~RF_FLOW_BENEFIT);
		f->direction = f->initiator == RF_LOCAL ? RF_EGRESS : RF_INGRESS;
	}
	if (f->marks & RF_FLOW_LOCAL_ORIGIN)
		flags |= RF_ASK_LOCAL_ORIGIN;
	if ((f->direction != RF_INGRESS || f->marks & RF_FLOW_SENT_FIRST) && rf_forges(v))
		flags |= RF_ASK_SPOOFED;
	rf_prepare(v, f->direction, flags);
	rf_judge(&v->ask, &v->answer);
	rf_count(RF_COUNT_REJUDGED);
	old = RF_READ(f->judged);
	if ((__u32)old == v->answer.judged && f->revision[0] == v->answer.revision[0] &&
	    f->revision[1] == v->answer.revision[1] && f->outcome == rf_outcome(v->answer.judged, v->panic)) {
		rf_xchg(&f->judged, (__u64)v->epoch << 32 | v->answer.judged);
		return 0;
	}
	if (rf_unreported(f))
		rf_visit_emit(v, f, RF_EVENT_SWEEP);
	rf_store_answer(v, f);
	if ((__u16)old != (__u16)v->answer.judged || live != v->answer.revision[RF_SLOT_LIVE])
		untold |= RF_FLOW_UNTOLD(RF_SLOT_LIVE);
	if ((__u32)old >> 16 != v->answer.judged >> 16 || staged != v->answer.revision[RF_SLOT_STAGED])
		untold |= RF_FLOW_UNTOLD(RF_SLOT_STAGED);
	__sync_fetch_and_or(&f->marks, untold);
	return 1;
}

/* Makes a finished flow's entry that of a new one with the same key. */
__noinline int rf_restart(struct rf_visit *v, struct rf_flow *f)
{
	if (!v || !f)
		return 0;
	if (!(RF_READ(f->marks) & RF_FLOW_ENDED))
		rf_visit_end(v, f);
	else if (rf_unreported(f))
		rf_visit_emit(v, f, RF_EVENT_SWEEP);
	rf_init_flow(v, f);
	rf_store_answer(v, f);
	/* TCP flags that no record has stay. */
	__sync_fetch_and_and(&f->marks, ~RF_FLOW_MARKS);
	__sync_fetch_and_or(&f->marks, rf_first_marks(v));
	__sync_fetch_and_add(&f->connections, 1);
	rf_count(RF_COUNT_FLOWS);
	return 0;
}

#endif
