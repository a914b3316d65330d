// clang-format off
//go:build ignore
// clang-format on

// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "parse.h"
#include "policy.h"
#include "flow.h"
#include "known.h"
#include "visit.h"
#include "sweep.h"
#include "adopt.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline int rf_finish(struct rf_visit *v, __u64 judged)
{
	__u32 outcome = rf_outcome(judged, v->panic);

	rf_count_verdict(judged, outcome);
	return outcome == RF_OUTCOME_DROPPED ? RF_DROP : RF_PASS;
}

/* A packet that no rule can be asked about: passes, unless the endpoint's live
 * policy isolates the direction it goes. */
static __always_inline int rf_unjudged(struct rf_visit *v, enum rf_counter counter)
{
	__u32 direction = v->from ? RF_EGRESS : RF_INGRESS;
	__u64 judged = 0;

	rf_count(counter);
	if (rf_isolates(v->ask.workload, RF_SLOT_LIVE, direction))
		judged |= RF_VERDICT_DENY | RF_REASON_MALFORMED << 8;
	if (rf_isolates(v->ask.workload, RF_SLOT_STAGED, direction))
		judged |= RF_VERDICT_DENY << 16 | RF_REASON_MALFORMED << 24;
	return rf_finish(v, judged);
}

/* Decides by what rf_judge answered, and keeps nothing. */
static __always_inline int rf_finish_stateless(struct rf_visit *v)
{
	rf_count(RF_COUNT_STATELESS);
	return rf_finish(v, v->answer.judged);
}

static __always_inline void rf_fragment_key_of(const struct rf_visit *v, struct rf_fragment_key *k)
{
	k->id = v->p.fragment_id;
	k->endpoint = v->endpoint;
	k->protocol = v->p.fragment_protocol;
	__builtin_memcpy(k->src, v->p.src, 16);
	__builtin_memcpy(k->dst, v->p.dst, 16);
}

/* Gives a later fragment the ports of its first one. Returns what to count it
 * as when it cannot be judged. */
__noinline int rf_find_fragment(struct rf_visit *v)
{
	struct rf_fragment_key key = {};
	struct rf_fragment *first;

	if (!v)
		return RF_COUNT_FRAGMENTS_UNMATCHED;
	rf_fragment_key_of(v, &key);
	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first || (__s64)(v->now - first->seen) >= (__s64)RF_FRAGMENT_NS)
		return RF_COUNT_FRAGMENTS_UNMATCHED;
	if (v->p.fragment_end < first->end)
		return RF_COUNT_MALFORMED; /* it would write over what was judged */
	v->p.sport = first->sport;
	v->p.dport = first->dport;
	v->p.protocol = first->protocol;
	return 0;
}

static __always_inline bool rf_over_fragments(struct rf_quota *q)
{
	__u32 zero = 0, limit;
	struct rf_settings *s = bpf_map_lookup_elem(&settings, &zero);

	limit = s ? RF_READ(s->endpoint_fragments) : 0;
	return limit && RF_READ(q->fragments) >= limit;
}

__noinline int rf_note_fragment(struct rf_visit *v)
{
	struct rf_fragment_key key = {};
	struct rf_fragment first = {};
	struct rf_quota *quota;

	if (!v)
		return 0;
	rf_fragment_key_of(v, &key);
	first.sport = v->p.sport;
	first.dport = v->p.dport;
	first.protocol = v->p.protocol;
	first.end = v->p.fragment_end;
	first.seen = v->now;
	if (!bpf_map_update_elem(&fragments, &key, &first, BPF_EXIST))
		return 0;
	quota = rf_find_quota(v);
	if (!quota || rf_over_fragments(quota) || bpf_map_update_elem(&fragments, &key, &first, BPF_NOEXIST))
		rf_count(RF_COUNT_FRAGMENTS_FULL);
	else
		__sync_fetch_and_add(&quota->fragments, 1);
	return 0;
}

static __always_inline bool rf_is_link_scope(const __u8 addr[16])
{
	return (addr[0] == 0xfe && (addr[1] & 0xc0) == 0x80) || (addr[0] == 0xff && (addr[1] & 0x0f) <= 2);
}

static __always_inline bool rf_is_unspecified(const __u8 addr[16])
{
	const __u64 *w = (const __u64 *)addr;

	return !w[0] && !w[1];
}

/* Neighbour and multicast-listener discovery. To an address beyond the link it
 * would be a way out for data, so that needs an owner the inventory knows. */
static __always_inline bool rf_is_discovery(struct rf_visit *v)
{
	__u8 type = v->p.icmp_type;
	bool neighbour = type >= 133 && type <= 137;

	if (v->p.protocol != RF_ICMPV6 || v->p.ethertype != ETH_P_IPV6 || v->p.flags & RF_PKT_LATER_FRAGMENT)
		return false;
	if (!neighbour && !(type >= 130 && type <= 132) && type != 143)
		return false;
	if (v->p.hop_limit != (neighbour ? 255 : 1))
		return false;
	if (!rf_is_link_scope(v->p.dst) && !bpf_map_lookup_elem(&addresses, v->p.dst))
		return false;
	return !v->from || v->host || rf_is_link_scope(v->p.src) || rf_is_unspecified(v->p.src) ||
	       rf_owns(v->endpoint, v->p.src);
}

/* DHCP: from a pod to everybody on its link only, whatever asked for. */
static __always_inline bool rf_is_dhcp(struct rf_visit *v)
{
	bool v6 = v->p.ethertype == ETH_P_IPV6;
	__be16 client = v6 ? bpf_htons(546) : bpf_htons(68);
	__be16 server = v6 ? bpf_htons(547) : bpf_htons(67);

	if (v->p.protocol != IPPROTO_UDP || v->p.flags & RF_PKT_LATER_FRAGMENT)
		return false;
	if (!v->from)
		return v->p.sport == server && v->p.dport == client;
	if (v->p.sport != client || v->p.dport != server)
		return false;
	if (v->host)
		return true;
	if (v6)
		return rf_is_link_scope(v->p.dst);
	return ((__u32 *)v->p.dst)[3] == 0xffffffff || rf_peer_identity(v->p.dst) == RF_IDENTITY_HOST;
}

/* Whether the ICMP error quotes a flow that goes on: it then belongs to it. */
__noinline int rf_is_related(struct __sk_buff *skb, struct rf_visit *v)
{
	struct rf_packet quoted = {};
	struct rf_flow *f;

	if (!v)
		return 0;
	if (rf_parse_quoted(skb, &v->p, v->tunnels, &quoted) != RF_PARSED)
		return 0;
	if (v->from && !v->host && !rf_owns(v->endpoint, v->p.src))
		return 0;
	f = rf_find_flow_of(&quoted, v->endpoint, !v->from);
	return f && rf_outcome(RF_READ(f->judged), v->panic) != RF_OUTCOME_DROPPED;
}

static __always_inline bool rf_is_new_syn(const struct rf_packet *p)
{
	return rf_has_handshake(p) && !(p->flags & RF_PKT_LATER_FRAGMENT) &&
	       (p->tcp_flags & (RF_TCP_SYN | RF_TCP_ACK)) == RF_TCP_SYN;
}

/* Whether packets tell by themselves which side began: TCP's with a SYN, SCTP's
 * with an INIT and all of ICMP do. */
static __always_inline bool rf_shows_direction(const struct rf_packet *p)
{
	if (p->flags & RF_PKT_LATER_FRAGMENT)
		return false;
	if (rf_has_handshake(p))
		return p->tcp_flags & RF_TCP_SYN;
	return p->protocol == IPPROTO_ICMP || p->protocol == RF_ICMPV6;
}

enum rf_syn {
	RF_SYN_SAME,	/* of this very flow */
	RF_SYN_RESTART, /* the tuple is used again */
	RF_SYN_ALONE,	/* contradicts an open flow: judged by itself */
};

static __always_inline enum rf_syn rf_judge_syn(struct rf_visit *v, struct rf_flow *f)
{
	bool opens = v->side == f->initiator;

	rf_first_direction(v);
	if (f->state == RF_STATE_CLOSING || (f->state == RF_STATE_SYN && opens && f->isn != v->p.seq)) {
		rf_judge_first(v);
		return RF_SYN_RESTART;
	}
	if (f->direction == RF_DIRECTION_UNKNOWN) {
		/* A forged one must not take an open connection's permission away. */
		rf_judge_first(v);
		return rf_denies(v) ? RF_SYN_ALONE : RF_SYN_RESTART;
	}
	if (!opens && f->state != RF_STATE_SYN) {
		rf_count(RF_COUNT_REVERSED_SYN);
		rf_judge_first(v);
		return RF_SYN_ALONE;
	}
	return RF_SYN_SAME;
}

/* Packets that are no flow's beginning. */
static __always_inline bool rf_is_late(const struct rf_packet *p)
{
	return p->flags & RF_PKT_LATER_FRAGMENT || (rf_has_handshake(p) && p->tcp_flags & RF_TCP_RST);
}

/* Whether the packet would begin a flow, came it not from the other side of one
 * that is dropped. Nothing can be an answer to what never arrived: without this
 * anybody could keep an endpoint from what it is allowed, by sending first. */
static __always_inline bool rf_crosses(const struct rf_visit *v, const struct rf_flow *f)
{
	if (v->side == f->initiator || f->direction == RF_DIRECTION_UNKNOWN || f->state == RF_STATE_CLOSING)
		return false;
	if (!rf_is_new_syn(&v->p) &&
	    (rf_is_late(&v->p) || rf_shows_direction(&v->p) || rf_has_handshake(&v->p)))
		return false;
	return rf_outcome(RF_READ(f->judged), v->panic) == RF_OUTCOME_DROPPED;
}

static __always_inline enum rf_syn rf_judge_beginning(struct rf_visit *v, struct rf_flow *f)
{
	if (rf_crosses(v, f)) {
		rf_first_direction(v);
		rf_judge_first(v);
		return rf_denies(v) ? RF_SYN_SAME : RF_SYN_RESTART;
	}
	return rf_is_new_syn(&v->p) ? rf_judge_syn(v, f) : RF_SYN_SAME;
}

/* A packet of a flow in the table. */
static __always_inline int rf_hit(struct rf_visit *v, struct rf_flow *f, bool revived)
{
	__u32 step = 0, event = RF_EVENT_NEW;

	if (revived) {
		rf_first_direction(v);
		rf_judge_first(v);
	} else {
		event = RF_EVENT_NONE;
		if (RF_READ(f->judged) >> 32 != v->epoch && rf_rejudge(v, f))
			event = RF_EVENT_VERDICT;
		switch (rf_judge_beginning(v, f)) {
		case RF_SYN_ALONE:
			if (event)
				rf_visit_emit(v, f, event);
			return rf_finish_stateless(v);
		case RF_SYN_RESTART:
			event = RF_EVENT_NEW;
			break;
		case RF_SYN_SAME:
			break;
		}
	}
	if (event == RF_EVENT_NEW)
		rf_restart(v, f);
	rf_count_packet(f, v->side & 1, v->packets, v->bytes, v->now);
	if (rf_has_handshake(&v->p) && !(v->p.flags & RF_PKT_LATER_FRAGMENT))
		step = rf_tcp_step(f, v->side & 1, v->p.tcp_flags);
	rf_mark_packet(f, v->side & 1, v->p.tcp_flags, step);
	if (event)
		rf_visit_emit(v, f, event);
	return rf_finish(v, RF_READ(f->judged));
}

/* A judged packet of a flow that found no room. */
static __always_inline int rf_unstored(struct rf_visit *v, enum rf_inserted why)
{
	if (why == RF_INSERT_QUOTA)
		rf_count(RF_COUNT_QUOTA);
	if (why == RF_INSERT_FULL)
		rf_count(RF_COUNT_TABLE_FULL);
	rf_count(RF_COUNT_UNREPORTED_PACKETS);
	if (v->direction != RF_DIRECTION_UNKNOWN && !rf_shows_direction(&v->p)) {
		/* Without state this may as well be an answer. */
		v->direction = RF_DIRECTION_UNKNOWN;
		rf_judge_first(v);
	}
	return rf_finish_stateless(v);
}

/* A packet of no flow in the table. */
static __always_inline int rf_miss(struct rf_visit *v, __u32 dead)
{
	enum rf_inserted inserted = RF_INSERT_PRESENT;
	struct rf_flow *f;

	rf_first_direction(v);
	rf_judge_first(v);
	if (rf_denies(v) && v->direction != RF_DIRECTION_UNKNOWN && !rf_shows_direction(&v->p))
		rf_judge_answer(v);
	if (rf_is_late(&v->p))
		return rf_finish_stateless(v);
	if (dead) {
		if (rf_report_alone(v))
			return rf_finish(v, v->answer.judged);
		return rf_unstored(v, inserted);
	}
	inserted = rf_insert(v);
	if (inserted == RF_INSERTED)
		return rf_finish(v, v->answer.judged);
	f = inserted == RF_INSERT_PRESENT ? rf_visit_find(v) : NULL; /* another CPU was faster */
	if (!f)
		return rf_unstored(v, inserted);
	rf_count_packet(f, v->side & 1, v->packets, v->bytes, v->now);
	rf_mark_packet(f, v->side & 1, v->p.tcp_flags, 0);
	return rf_finish(v, RF_READ(f->judged));
}

static __always_inline bool rf_is_self(struct rf_visit *v)
{
	return rf_same_address(v->p.src, v->p.dst) && rf_owns(v->endpoint, v->p.src);
}

/* A SYN. Nearly every one begins a flow, and inserting that tells whether one is
 * there: nobody need look first, into memory that is in no cache yet. Returns
 * RF_UNUSUAL for one of a flow that is in the table. */
__noinline int rf_begin(struct rf_visit *v)
{
	enum rf_inserted inserted;

	if (!v)
		return RF_UNUSUAL;
	rf_first_direction(v);
	rf_judge_as_first(v);
	inserted = rf_insert(v);
	if (inserted != RF_INSERTED && (inserted == RF_INSERT_PRESENT || rf_visit_find(v)))
		return RF_UNUSUAL;
	rf_count_spoofed(v);
	return inserted == RF_INSERTED ? rf_finish(v, v->answer.judged) : rf_unstored(v, inserted);
}

static __always_inline int rf_visit_flow(struct rf_visit *v)
{
	struct rf_flow *f;
	__u32 life;

	if (rf_is_new_syn(&v->p) && !rf_is_late(&v->p)) {
		int verdict = rf_begin(v);

		if (verdict != RF_UNUSUAL)
			return verdict;
	}
	f = rf_visit_find(v);
	if (!f)
		return rf_miss(v, 0);
	life = RF_READ(f->life);
	if (life == RF_DYING && rf_is_late(&v->p))
		return rf_miss(v, 0);
	if (life == RF_DYING) {
		life = __sync_val_compare_and_swap(&f->life, RF_DYING, RF_ALIVE);
		if (life == RF_DYING)
			return rf_hit(v, f, true);
	}
	if (life == RF_DEAD)
		return rf_miss(v, 1);
	return rf_hit(v, f, false);
}

/* Fills in what does not need the packet's bytes. */
static __always_inline bool rf_arrive(struct __sk_buff *skb, struct rf_visit *v, bool from)
{
	__u32 zero = 0, ifindex = skb->ifindex;
	struct rf_endpoint *ep = bpf_map_lookup_elem(&endpoints, &ifindex);
	struct rf_settings *s = bpf_map_lookup_elem(&settings, &zero);

	if (!ep || !s) {
		rf_count(RF_COUNT_NO_ENDPOINT);
		return false;
	}
	/* The epoch first: what is looked up after it is at least as new. */
	v->epoch = RF_READ(s->epoch);
	v->panic = RF_READ(s->panic);
	v->endpoint = ep->id;
	v->ask.workload = ep->workload;
	v->observed_since = ep->observed_since;
	v->host = ep->flags & RF_ENDPOINT_HOST ? 1 : 0;
	v->tunnels = ep->flags & RF_ENDPOINT_TUNNELS;
	v->from = from;
	v->side = from ? RF_LOCAL : RF_REMOTE;
	v->now = bpf_ktime_get_coarse_ns();
	v->bytes = skb->len;
	v->packets = skb->gso_segs ? skb->gso_segs : 1;
	return true;
}

/* Any packet, from the beginning. */
static __noinline int rf_visit_packet(struct __sk_buff *skb, bool from)
{
	struct rf_visit v = {};
	int parsed;

	if (!rf_arrive(skb, &v, from))
		return RF_PASS;
	/* Pods' packets come in from their side of the link, the node's go out. */
	parsed = rf_parse(skb, &v.p, from != v.host);
	if (parsed == RF_PARSED && v.tunnels)
		parsed = rf_parse_inner(skb, &v.p, v.tunnels);
	if (parsed == RF_PARSED_NON_IP) {
		rf_count(RF_COUNT_NON_IP);
		return RF_PASS;
	}
	if (parsed != RF_PARSED)
		return rf_unjudged(&v, RF_COUNT_MALFORMED);
	if (v.p.flags & RF_PKT_LATER_FRAGMENT) {
		__u32 counter = rf_find_fragment(&v);

		rf_count(RF_COUNT_FRAGMENTS);
		if (counter)
			return rf_unjudged(&v, counter);
	}
	if (rf_is_discovery(&v) || rf_is_dhcp(&v)) {
		rf_count(RF_COUNT_FAILSAFE);
		return RF_PASS;
	}
	if (rf_is_self(&v)) {
		rf_count(RF_COUNT_SELF);
		return RF_PASS;
	}
	if (v.p.flags & RF_PKT_FIRST_FRAGMENT)
		rf_note_fragment(&v);
	if (v.p.flags & RF_PKT_ICMP_ERROR && rf_is_related(skb, &v)) {
		rf_count(RF_COUNT_RELATED);
		return RF_PASS;
	}
	/* An answer to the node's address goes to the node; a packet from that
	 * address is the node's own only if no interface brought it in. */
	v.local_origin = from || !skb->ingress_ifindex;
	return rf_visit_flow(&v);
}

static __always_inline int rf_run(struct __sk_buff *skb, bool from)
{
	int verdict = from ? rf_known_from(skb) : rf_known_to(skb);

	return verdict == RF_UNUSUAL ? rf_visit_packet(skb, from) : verdict;
}

/* Attached where packets come out of an endpoint: the ingress hook of a pod's
 * veth on the node, the egress hook of the node's own interface. */
SEC("tc")
int rf_from_endpoint(struct __sk_buff *skb)
{
	return rf_run(skb, true);
}

/* Attached where packets go to an endpoint. */
SEC("tc")
int rf_to_endpoint(struct __sk_buff *skb)
{
	return rf_run(skb, false);
}
