// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#ifndef RF_POLICY_H
#define RF_POLICY_H

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "types.h"

#define RF_ASK_SPOOFED	    1
#define RF_ASK_LOCAL_ORIGIN 2 /* the remote side is this very node, not someone with its address */
#define RF_ASK_HOST	    4 /* the endpoint is the node itself */
#define RF_ASK_SAFE_INGRESS 8 /* failsafe, found by rf_judge */
#define RF_ASK_SAFE_EGRESS  16

/* A flow as its endpoint sees it. Ports are those of either side; which one is
 * the responder's follows from the direction. */
struct rf_ask {
	__u8 remote[16];
	__u32 workload; /* the endpoint's; 0: its identity is not known yet */
	__u32 peer;	/* the exact address's, found by rf_judge */
	__u32 cidr;	/* the longest prefix's, looked up when a table wants it */
	__u32 service;	/* the remote port's, if the address is a service's; found by rf_judge */
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	__u8 direction;
	__u8 flags;
	__u8 cidr_known;
} __attribute__((aligned(8)));
_Static_assert(sizeof(struct rf_ask) == 40, "rf_ask");

struct rf_answer {
	__u32 revision[RF_SLOTS];
	__u32 judged; /* the low half of struct rf_flow's */
	__u32 pad;
};
_Static_assert(sizeof(struct rf_answer) == 16, "rf_answer");

/* One slot's answer travels in a register: revision<<32 | reason<<8 | verdict. */
#define RF_SLOT_ANSWER(revision, reason, verdict) ((__u64)(revision) << 32 | (__u64)(reason) << 8 | (verdict))
#define RF_ANSWER_VERDICT(a)			  ((__u32)(a) & 0xff)
#define RF_ANSWER_REASON(a)			  (((__u32)(a) >> 8) & 0xff)
#define RF_ANSWER_REVISION(a)			  ((__u32)((a) >> 32))

static __always_inline __u32 rf_peer_identity(const __u8 addr[16])
{
	struct rf_owner *owner = bpf_map_lookup_elem(&addresses, addr);

	return owner ? owner->identity : RF_IDENTITY_WORLD;
}

static __always_inline bool rf_owns(__u32 endpoint, const __u8 addr[16])
{
	struct rf_owner *owner = bpf_map_lookup_elem(&addresses, addr);

	return owner && owner->endpoint == endpoint;
}

/* The numbers of one direction's tables, of one moment. */
static __always_inline __u64 rf_word(__u32 workload, __u32 direction)
{
	struct rf_workload *w = bpf_map_lookup_elem(&workloads, &workload);

	if (!w || !workload)
		return 0;
	return direction == RF_EGRESS ? RF_READ(w->egress) : RF_READ(w->ingress);
}

static __always_inline struct rf_table *rf_table_of(__u64 word, __u32 slot)
{
	__u32 number = RF_TABLE_OF(word, slot);

	return number ? bpf_map_lookup_elem(&tables, &number) : NULL;
}

static __always_inline bool rf_same_tables(__u64 word)
{
	return RF_TABLE_OF(word, RF_SLOT_LIVE) == RF_TABLE_OF(word, RF_SLOT_STAGED);
}

/* The answer where an identity is not known yet. */
static __always_inline __u32 rf_pending_verdict(void)
{
	__u32 zero = 0;
	struct rf_settings *s = bpf_map_lookup_elem(&settings, &zero);

	return s && RF_READ(s->pending) == RF_VERDICT_DENY ? RF_VERDICT_DENY : RF_VERDICT_ALLOW;
}

static __always_inline bool rf_rule_holds(struct rf_rule_key *key, __u16 node, __u32 child)
{
	__u64 *ports;

	key->node = node;
	ports = bpf_map_lookup_elem(&rules, key);
	return ports && *ports >> child & 1;
}

/* Whether the table has a rule of key's peer with the protocol and port. */
static __noinline bool rf_match_peer(const struct rf_table *table, struct rf_rule_key *key, __u8 protocol,
				     __u16 port)
{
	key->protocol = protocol;
	if (table->levels & RF_LEVEL_1 && rf_rule_holds(key, RF_NODE_1(port), RF_CHILD_1(port)))
		return true;
	if (table->levels & RF_LEVEL_64 && rf_rule_holds(key, RF_NODE_64(port), RF_CHILD_64(port)))
		return true;
	if (table->levels & RF_LEVEL_4096 && rf_rule_holds(key, RF_NODE_4096, RF_CHILD_4096(port)))
		return true;
	key->protocol = 0;
	return table->flags & RF_TABLE_ANY_PROTO && rf_rule_holds(key, RF_NODE_4096, RF_CHILD_4096(port));
}

/* Whether the table has a rule of everything, wherever it ends. */
static __always_inline bool rf_match_all(const struct rf_table *table, struct rf_rule_key *key)
{
	key->peer = RF_PEER_ANY;
	key->protocol = 0;
	return table->flags & RF_TABLE_ANY_PEER && table->flags & RF_TABLE_ANY_PROTO &&
	       rf_rule_holds(key, RF_NODE_4096, 0);
}

static __always_inline __u32 rf_cidr_identity(struct rf_ask *ask)
{
	struct rf_cidr key = {.bits = 128};
	__u32 *identity;

	if (ask->cidr_known)
		return ask->cidr;
	__builtin_memcpy(key.addr, ask->remote, 16);
	identity = bpf_map_lookup_elem(&cidrs, &key);
	ask->cidr = identity ? *identity : 0;
	ask->cidr_known = 1;
	return ask->cidr;
}

/* Whether a rule of the table matches the flow. A peer that is not known yet is
 * found by its address or as anybody, never as somebody; a service's port as
 * that alone, for neither it nor its address says where the flow ends. */
static __noinline bool rf_match(struct rf_ask *ask, const struct rf_table *table, __u32 number,
				__u32 direction)
{
	struct rf_rule_key key = {.table = number, .peer = ask->peer};
	__u16 port = bpf_ntohs(direction == RF_EGRESS ? ask->remote_port : ask->local_port);

	if (direction == RF_EGRESS && ask->service) {
		key.peer = ask->service;
		return rf_match_peer(table, &key, ask->protocol, port) || rf_match_all(table, &key);
	}
	if (key.peer != RF_IDENTITY_UNKNOWN && rf_match_peer(table, &key, ask->protocol, port))
		return true;
	key.peer = table->flags & RF_TABLE_CIDRS ? rf_cidr_identity(ask) : 0;
	if (key.peer && rf_match_peer(table, &key, ask->protocol, port))
		return true;
	key.peer = RF_PEER_ANY;
	return table->flags & RF_TABLE_ANY_PEER && rf_match_peer(table, &key, ask->protocol, port);
}

/* What one slot says of the flow, taken as one of this direction. */
__noinline __u64 rf_judge_slot(struct rf_ask *ask, __u64 word, __u32 slot, __u32 direction)
{
	struct rf_table *table = rf_table_of(word, slot);
	struct rf_table *guardrails;
	__u32 reason, revision;

	if (!ask)
		return 0;
	reason = ask->flags & RF_ASK_SPOOFED ? RF_REASON_SPOOFED : RF_REASON_NO_POLICY;
	if (!table)
		return RF_SLOT_ANSWER(0, reason, RF_VERDICT_UNKNOWN);
	revision = table->revision;
	if (table->flags & RF_TABLE_OPEN)
		return RF_SLOT_ANSWER(revision, reason, RF_VERDICT_ALLOW);
	if (ask->flags & RF_ASK_SPOOFED)
		return RF_SLOT_ANSWER(revision, reason, RF_VERDICT_DENY);
	if (ask->flags & (direction == RF_EGRESS ? RF_ASK_SAFE_EGRESS : RF_ASK_SAFE_INGRESS))
		return RF_SLOT_ANSWER(revision, RF_REASON_FAILSAFE, RF_VERDICT_ALLOW);
	guardrails = rf_table_of(word, RF_GUARDRAILS);
	if (guardrails && rf_match(ask, guardrails, RF_TABLE_OF(word, RF_GUARDRAILS), direction))
		return RF_SLOT_ANSWER(revision, RF_REASON_GUARDRAIL, RF_VERDICT_DENY);
	if (rf_match(ask, table, RF_TABLE_OF(word, slot), direction))
		return RF_SLOT_ANSWER(revision, RF_REASON_RULE, RF_VERDICT_ALLOW);
	if (ask->peer == RF_IDENTITY_UNKNOWN)
		return RF_SLOT_ANSWER(revision, RF_REASON_PENDING, rf_pending_verdict());
	return RF_SLOT_ANSWER(revision, RF_REASON_DEFAULT, RF_VERDICT_DENY);
}

/* What both slots say while nobody knows whose policy to ask. */
static __always_inline __u64 rf_judge_pending(struct rf_ask *ask)
{
	__u32 verdict = rf_pending_verdict();

	if (verdict == RF_VERDICT_DENY &&
	    ((ask->flags & RF_ASK_SAFE_EGRESS && ask->direction != RF_INGRESS) ||
	     (ask->flags & RF_ASK_SAFE_INGRESS && ask->direction != RF_EGRESS)))
		return RF_SLOT_ANSWER(0, RF_REASON_FAILSAFE, RF_VERDICT_ALLOW);
	return RF_SLOT_ANSWER(0, RF_REASON_PENDING, verdict);
}

/* Both directions of one slot taken together: nobody knows which one the flow
 * has, so either's permission is enough. A forged source has none. */
static __always_inline __u64 rf_judge_either(struct rf_ask *ask, __u64 in, __u64 out, __u32 slot)
{
	__u64 egress = rf_judge_slot(ask, out, slot, RF_EGRESS);
	__u64 ingress = rf_judge_slot(ask, in, slot, RF_INGRESS);
	__u32 e = RF_ANSWER_VERDICT(egress), i = RF_ANSWER_VERDICT(ingress);
	__u64 said = e == RF_VERDICT_UNKNOWN ? ingress : egress;

	if (e == RF_VERDICT_UNKNOWN && i == RF_VERDICT_UNKNOWN)
		return egress;
	if (ask->flags & RF_ASK_SPOOFED)
		return i == RF_VERDICT_DENY ? ingress : said;
	if (e == RF_VERDICT_DENY && i == RF_VERDICT_DENY)
		return RF_SLOT_ANSWER(RF_ANSWER_REVISION(egress), RF_REASON_MIDSTREAM, RF_VERDICT_DENY);
	if (RF_ANSWER_REASON(egress) == RF_REASON_FAILSAFE)
		return egress;
	if (RF_ANSWER_REASON(ingress) == RF_REASON_FAILSAFE)
		return ingress;
	if (e == RF_VERDICT_DENY && i == RF_VERDICT_ALLOW)
		said = ingress;
	return RF_SLOT_ANSWER(RF_ANSWER_REVISION(said), RF_REASON_MIDSTREAM, RF_VERDICT_ALLOW);
}

/* Whether the remote side may always be reached, and whether it is a service's
 * port. A function of its own for the sake of rf_judge's stack. */
__noinline int rf_find_destination(struct rf_ask *ask)
{
	struct rf_destination key = {};
	__u32 *service;

	if (!ask)
		return 0;
	key.port = ask->remote_port;
	key.protocol = ask->protocol;
	__builtin_memcpy(key.addr, ask->remote, 16);
	if (bpf_map_lookup_elem(&failsafe, &key))
		ask->flags |= RF_ASK_SAFE_EGRESS;
	/* Nobody else has a service's address. */
	service = ask->peer == RF_IDENTITY_WORLD ? bpf_map_lookup_elem(&services, &key) : NULL;
	if (service)
		ask->service = *service;
	return 0;
}

/* Judges a flow in both slots. */
__noinline int rf_judge(struct rf_ask *ask, struct rf_answer *answer)
{
	__u64 in, out, said = 0;
	__u32 slot;

	if (!ask || !answer)
		return 0;
	in = rf_word(ask->workload, RF_INGRESS);
	out = rf_word(ask->workload, RF_EGRESS);
	ask->peer = rf_peer_identity(ask->remote);
	ask->cidr_known = 0;
	ask->service = 0;
	if (ask->direction != RF_INGRESS)
		rf_find_destination(ask);
	if (ask->peer == RF_IDENTITY_HOST && ask->flags & RF_ASK_LOCAL_ORIGIN && !(ask->flags & RF_ASK_HOST))
		ask->flags |= RF_ASK_SAFE_INGRESS;
	answer->judged = 0;
	for (slot = 0; slot < RF_SLOTS; slot++) {
		if (slot && rf_same_tables(in) && rf_same_tables(out))
			; /* what the live one says */
		else if (!ask->workload)
			said = rf_judge_pending(ask);
		else if (ask->direction == RF_DIRECTION_UNKNOWN || ask->flags & RF_ASK_SPOOFED)
			said = rf_judge_either(ask, in, out, slot);
		else
			said =
			    rf_judge_slot(ask, ask->direction == RF_EGRESS ? out : in, slot, ask->direction);
		answer->revision[slot] = RF_ANSWER_REVISION(said);
		answer->judged |= (RF_ANSWER_REASON(said) << 8 | RF_ANSWER_VERDICT(said)) << (slot * 16);
	}
	return 0;
}

/* Whether one slot isolates a direction of a workload, for packets that cannot
 * be judged by rules. */
__noinline int rf_isolates(__u32 workload, __u32 slot, __u32 direction)
{
	struct rf_table *table;

	if (!workload)
		return rf_pending_verdict() == RF_VERDICT_DENY;
	table = rf_table_of(rf_word(workload, direction), slot);
	return table && !(table->flags & RF_TABLE_OPEN);
}

#endif
