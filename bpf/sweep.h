// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#ifndef RF_SWEEP_H
#define RF_SWEEP_H

#include "flow.h"

/* A flow dies in two steps. The first one reports its end and marks it dying;
 * a packet that comes then revives it. The second one, at least this long
 * after, deletes it: any program that found it alive has long returned. */
#define RF_GRACE_NS 50000000ULL

#define RF_CLOCK_MONOTONIC 1

struct rf_sweep {
	struct rf_sweep_args args;
	__u64 interval;
	__u64 orphaned; /* not 0: no agent asks, the kernel does it by itself */
	__u64 idle[RF_STATES];
};

/* Returns whether that deleted it. */
static __always_inline bool rf_sweep_dying(struct rf_flow_key *k, struct rf_flow *f, struct rf_quota *quota,
					   struct rf_sweep *s)
{
	if ((__s64)(s->args.now - RF_READ(f->reported_at)) < (__s64)RF_GRACE_NS)
		return false;
	if (rf_unreported(f)) {
		/* Counted by a program that had found it alive. */
		__sync_val_compare_and_swap(&f->life, RF_DYING, RF_ALIVE);
		return false;
	}
	if (__sync_val_compare_and_swap(&f->life, RF_DYING, RF_DEAD) != RF_DYING)
		return false;
	if (rf_delete_flow(k))
		return false;
	s->args.deleted++;
	/* Nobody else takes away, so that it cannot fall below 0 in between. */
	if (quota && RF_READ(quota->flows))
		__sync_fetch_and_add(&quota->flows, -1);
	return true;
}

/* Reports what is left of an idle flow and marks it. */
static __always_inline void rf_sweep_idle(struct rf_flow_key *k, struct rf_flow *f, struct rf_sweep *s)
{
	bool ended = RF_READ(f->marks) & RF_FLOW_ENDED;

	if (!ended || rf_unreported(f)) {
		if (rf_emit(k, f, ended ? RF_EVENT_SWEEP : RF_EVENT_END, s->args.now)) {
			s->args.reported++;
			if (!ended)
				s->args.ended++;
			__sync_fetch_and_or(&f->marks, RF_FLOW_ENDED);
		} else {
			s->args.ring_full++;
			/* With nobody reading, room for a new flow is worth more
			 * than an end record that counts nothing. */
			if (!s->orphaned || rf_unreported(f))
				return;
		}
	}
	RF_WRITE(f->reported_at, s->args.now);
	__sync_val_compare_and_swap(&f->life, RF_ALIVE, RF_DYING);
}

/* Returns whether the flow was closed and had no end record. */
static __always_inline bool rf_sweep_closed(struct rf_flow_key *k, struct rf_flow *f, struct rf_sweep *s)
{
	if ((RF_READ(f->marks) & (RF_FLOW_CLOSED | RF_FLOW_ENDED)) != RF_FLOW_CLOSED)
		return false;
	if (rf_end(k, f, s->args.now)) {
		s->args.reported++;
		s->args.ended++;
	} else {
		s->args.ring_full++;
	}
	return true;
}

/* Returns whether the flow is still there. */
static __always_inline bool rf_sweep_flow(struct rf_flow_key *k, struct rf_flow *f, struct rf_sweep *s)
{
	__u32 id = k->endpoint, state = f->state;
	struct rf_quota *quota = bpf_map_lookup_elem(&quotas, &id);
	bool gone = !quota || quota->gone || RF_READ(f->last_seen) < quota->since;
	__s64 idle = s->args.now - RF_READ(f->last_seen);

	if (RF_READ(f->life) != RF_ALIVE)
		return !rf_sweep_dying(k, f, quota, s);
	if (state >= RF_STATES)
		state = RF_STATE_OTHER;
	if (gone || idle >= (__s64)s->idle[state & 7]) {
		rf_sweep_idle(k, f, s);
		return true;
	}
	if (rf_sweep_closed(k, f, s) || !rf_unreported(f))
		return true;
	if (RF_READ(f->marks) & RF_FLOW_REPORTED &&
	    (__s64)(s->args.now - RF_READ(f->reported_at)) < (__s64)s->interval)
		return true;
	if (rf_emit(k, f, RF_EVENT_SWEEP, s->args.now))
		s->args.reported++;
	else
		s->args.ring_full++;
	return true;
}

static long rf_sweep_flow4(void *map, struct rf_flow4_key *k, struct rf_flow *f, struct rf_sweep *s)
{
	struct rf_flow_key key;

	rf_widen(k, &key);
	s->args.flows4 += rf_sweep_flow(&key, f, s);
	return 0;
}

static long rf_sweep_flow6(void *map, struct rf_flow_key *k, struct rf_flow *f, struct rf_sweep *s)
{
	struct rf_flow_key key = *k;

	s->args.flows6 += rf_sweep_flow(&key, f, s);
	return 0;
}

static long rf_sweep_fragment(void *map, struct rf_fragment_key *k, struct rf_fragment *first,
			      struct rf_sweep *s)
{
	struct rf_fragment_key key = *k;
	__u32 id = k->endpoint;
	struct rf_quota *quota;

	if ((__s64)(s->args.now - first->seen) < (__s64)RF_FRAGMENT_NS ||
	    bpf_map_delete_elem(&fragments, &key))
		return 0;
	quota = bpf_map_lookup_elem(&quotas, &id);
	/* As with flows, nobody else takes away. */
	if (quota && RF_READ(quota->fragments))
		__sync_fetch_and_add(&quota->fragments, -1);
	return 0;
}

/* One sweep of all tables. Never two at once: see rf_sweep. */
static __always_inline void rf_sweep_tables(const struct rf_settings *settings_value, struct rf_sweep *s)
{
	int i;

	s->interval = settings_value->sweep_interval;
	for (i = 0; i < RF_STATES; i++)
		s->idle[i] = settings_value->idle[i];
	bpf_for_each_map_elem(&flows4, rf_sweep_flow4, s, 0);
	bpf_for_each_map_elem(&flows6, rf_sweep_flow6, s, 0);
	bpf_for_each_map_elem(&fragments, rf_sweep_fragment, s, 0);
}

/* The timer's: it fires only when no agent has put it off in time. */
static int rf_sweep_orphaned(void *map, __u32 *key, struct rf_keeper *k)
{
	struct rf_settings *settings_value;
	struct rf_sweep s = {};
	__u32 zero = 0;

	settings_value = bpf_map_lookup_elem(&settings, &zero);
	if (!settings_value)
		return 0;
	/* The flows' own, coarse clock is not for programs of this type. It is
	 * a tick behind at most, which no limit is fine enough to notice. */
	s.args.now = bpf_ktime_get_ns();
	s.orphaned = 1;
	rf_sweep_tables(settings_value, &s);
	rf_count_shared(RF_COUNT_ORPHAN_SWEEPS);
	bpf_timer_start(&k->timer, settings_value->orphaned_after, 0);
	return 0;
}

static __always_inline int rf_arm(const struct rf_settings *settings_value, struct rf_keeper *k)
{
	int err = bpf_timer_init(&k->timer, &keeper, RF_CLOCK_MONOTONIC);

	if (err && err != -16) /* EBUSY: an earlier agent did it */
		return err;
	err = bpf_timer_set_callback(&k->timer, rf_sweep_orphaned);
	if (err)
		return err;
	return bpf_timer_start(&k->timer, settings_value->orphaned_after, 0);
}

/* Run by userspace at its start: from then on the timer runs this program's
 * sweep, not that of an earlier version. Returns 0 or a negative errno. */
SEC("syscall")
int rf_keep(void *unused)
{
	struct rf_settings *settings_value;
	struct rf_keeper *k;
	__u32 zero = 0;

	settings_value = bpf_map_lookup_elem(&settings, &zero);
	k = bpf_map_lookup_elem(&keeper, &zero);
	if (!settings_value || !k)
		return -2;
	bpf_timer_cancel(&k->timer);
	return rf_arm(settings_value, k);
}

/* Run by userspace every second: reports what waits, ends what is idle. The
 * caller gives the time, on the clock of the flows. Cancelling the timer waits
 * for its sweep to end, and it is armed anew when this one has: there is one
 * sweep at a time, which the steps of a flow's death and the quotas rely on.
 * Returns 0 or a negative errno. */
SEC("syscall")
int rf_sweep(struct rf_sweep_args *args)
{
	struct rf_settings *settings_value;
	struct rf_sweep s = {};
	struct rf_keeper *k;
	__u32 zero = 0;

	settings_value = bpf_map_lookup_elem(&settings, &zero);
	k = bpf_map_lookup_elem(&keeper, &zero);
	if (!settings_value || !k)
		return -2;
	s.args.now = args->now;
	bpf_timer_cancel(&k->timer);
	rf_sweep_tables(settings_value, &s);
	*args = s.args;
	return rf_arm(settings_value, k);
}

#endif
