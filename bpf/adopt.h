// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#ifndef RF_ADOPT_H
#define RF_ADOPT_H

#include "flow.h"

static __always_inline void rf_adopt_beginning(struct rf_flow *f, const struct rf_flow *old)
{
	f->first_seen = old->first_seen;
	f->initiator = old->initiator;
	f->direction = old->direction;
	f->isn = old->isn;
	f->fin = old->fin;
	f->state = old->state;
	f->revision[0] = old->revision[0];
	f->revision[1] = old->revision[1];
	f->outcome = old->outcome;
	rf_xchg(&f->judged, 0); /* of no epoch: the next packet asks again */
	RF_WRITE(f->marks, old->marks);
}

/* Brings a flow that both tables have up to what the other one saw of it. */
static __always_inline void rf_adopt_known(struct rf_flow *f, const struct rf_flow *old)
{
	bool undirected = f->direction == RF_DIRECTION_UNKNOWN && old->direction != RF_DIRECTION_UNKNOWN;

	if ((__s64)(old->last_seen - RF_READ(f->last_seen)) > 0)
		RF_WRITE(f->last_seen, old->last_seen);
	if (undirected || ((__s64)(old->first_seen - f->first_seen) > 0 && !(old->marks & RF_FLOW_BENEFIT))) {
		rf_adopt_beginning(f, old);
		return;
	}
	if (old->first_seen != f->first_seen)
		return; /* began again since */
	if (f->state == RF_STATE_SYN || f->state == RF_STATE_MIDSTREAM || old->state == RF_STATE_CLOSING)
		f->state = old->state;
	if (!(f->fin & ~RF_FIN_BOTH))
		f->fin |= old->fin;
	else
		f->fin |= old->fin & RF_FIN_BOTH;
	__sync_fetch_and_or(&f->marks, old->marks & (RF_FLOW_SYNACK | RF_FLOW_ENDED));
}

/* Run by userspace for each flow of another generation's table, translated to
 * this layout; again when both generations ran for a while. The flow's counters
 * stay there, for that table's own sweep to report. */
SEC("syscall")
int rf_adopt(struct rf_adopt_args *args)
{
	struct rf_flow_key k = args->key;
	struct rf_flow flow = args->flow;
	struct rf_quota *quota;
	struct rf_flow *f;
	__u32 id = k.endpoint;

	quota = bpf_map_lookup_elem(&quotas, &id);
	if (!quota || quota->gone)
		return RF_ADOPTED_GONE;
	/* What the old table has counted, its own record tells. */
	if (flow.counted[!flow.initiator])
		flow.marks &= ~RF_FLOW_UNANSWERED;
	flow.counted[RF_LOCAL] = 0;
	flow.counted[RF_REMOTE] = 0;
	__builtin_memset(flow.carried, 0, sizeof(flow.carried));
	flow.connections = 0;
	flow.life = RF_ALIVE;
	/* Its end too. */
	if (flow.marks & RF_FLOW_CLOSED)
		flow.marks |= RF_FLOW_ENDED;
	flow.marks = (flow.marks & RF_FLOW_MARKS & ~RF_FLOW_UNTOLD_BOTH) | RF_FLOW_REPORTED;
	if (!rf_add_flow(&k, &flow)) {
		__sync_fetch_and_add(&quota->flows, 1);
		return RF_ADOPTED_NEW;
	}
	f = rf_find_flow(&k);
	if (!f)
		return RF_ADOPTED_FULL;
	if (RF_READ(f->life) == RF_ALIVE)
		rf_adopt_known(f, &flow);
	return RF_ADOPTED_KNOWN;
}

#endif
