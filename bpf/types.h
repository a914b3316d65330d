// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#ifndef RF_TYPES_H
#define RF_TYPES_H

#include <linux/bpf.h>
#include <linux/types.h>

/*
 * Every structure here is shared with userspace: fixed widths, explicit
 * padding, addresses as 16 bytes with IPv4 mapped into ::ffff:0:0/96, ports in
 * network byte order. The Go side is generated from this file's BTF.
 *
 * Raise RF_LAYOUT when the meaning of a field changes and its shape does not:
 * a change of shape is noticed by itself.
 */
#define RF_MAGIC  0x52464e43 /* "RFNC" */
#define RF_LAYOUT 3

/* The tests' other layout: upgrades to it and back are real ones. */
#ifdef RF_LAYOUT_TEST
#define RF_TEST_FIELD __u64 test;
#define RF_TEST_BYTES 8
#else
#define RF_TEST_FIELD
#define RF_TEST_BYTES 0
#endif

#define RF_IDENTITY_UNKNOWN 0 /* not known yet */
#define RF_IDENTITY_HOST    1
#define RF_IDENTITY_WORLD   2

enum rf_direction {
	RF_DIRECTION_UNKNOWN,
	RF_INGRESS,
	RF_EGRESS,
};

enum rf_slot {
	RF_SLOT_LIVE,
	RF_SLOT_STAGED,
	RF_SLOTS,
};

enum rf_verdict {
	RF_VERDICT_UNKNOWN,
	RF_VERDICT_ALLOW,
	RF_VERDICT_DENY,
};

enum rf_outcome {
	RF_OUTCOME_UNKNOWN,
	RF_OUTCOME_FORWARDED,
	RF_OUTCOME_AUDITED,
	RF_OUTCOME_DROPPED,
};

enum rf_reason {
	RF_REASON_NONE,
	RF_REASON_NO_POLICY,
	RF_REASON_RULE,
	RF_REASON_DEFAULT,
	RF_REASON_FAILSAFE,
	RF_REASON_RELATED,
	RF_REASON_SPOOFED,
	RF_REASON_MIDSTREAM,
	RF_REASON_MALFORMED,
	RF_REASON_GUARDRAIL,
	RF_REASON_PENDING,
	RF_REASONS,
};

enum rf_event {
	RF_EVENT_NONE,
	RF_EVENT_NEW,
	RF_EVENT_VERDICT,
	RF_EVENT_END,
	RF_EVENT_SWEEP,
};

/* States pick the idle limit of a flow. */
enum rf_state {
	RF_STATE_NONE,
	RF_STATE_SYN,
	RF_STATE_ESTABLISHED,
	RF_STATE_CLOSING,
	RF_STATE_UDP,
	RF_STATE_ICMP,
	RF_STATE_OTHER,
	RF_STATE_MIDSTREAM, /* TCP without its SYN, seen from one side only */
	RF_STATES,
};

enum rf_counter {
	RF_COUNT_FORWARDED, /* packets by outcome */
	RF_COUNT_AUDITED,
	RF_COUNT_DROPPED,
	RF_COUNT_NON_IP,      /* passed without a look */
	RF_COUNT_NO_ENDPOINT, /* on an interface that the endpoints map does not know */
	RF_COUNT_FAILSAFE,    /* neighbour discovery and DHCP */
	RF_COUNT_SELF,	      /* an endpoint to itself */
	RF_COUNT_RELATED,
	RF_COUNT_MALFORMED,
	RF_COUNT_SPOOFED,
	RF_COUNT_STATELESS,	      /* judged without a flow entry */
	RF_COUNT_REVERSED_SYN,	      /* a responder's SYN on an open flow, judged by itself */
	RF_COUNT_FRAGMENTS,	      /* later fragments */
	RF_COUNT_FRAGMENTS_UNMATCHED, /* ... whose first one was not seen */
	RF_COUNT_FRAGMENTS_FULL,      /* first fragments that could not be noted */
	RF_COUNT_FLOWS,		      /* flows that began */
	RF_COUNT_REJUDGED,	      /* flows judged again under a newer epoch */
	RF_COUNT_TABLE_FULL,	      /* new flows that found no room */
	RF_COUNT_QUOTA,		      /* new flows over their endpoint's quota */
	RF_COUNT_UNREPORTED_PACKETS,  /* of flows that found no room: no record counts them */
	RF_COUNT_RECORDS,	      /* records written to the ring */
	RF_COUNT_RING_FULL,	      /* records that found no room; the sweep tries again */
	RF_COUNT_ORPHAN_SWEEPS,	      /* sweeps the kernel made because no agent did */
	RF_COUNT_LIVE_DENY,	      /* packets the live slot denies, by reason */
	RF_COUNT_STAGED_DENY = RF_COUNT_LIVE_DENY + RF_REASONS, /* its twin: what audit would drop */
	RF_COUNTERS = RF_COUNT_STAGED_DENY + RF_REASONS,
};

#define RF_INTERFACES 256

/* Written by userspace through a mapping, field by field, so that two writers
 * (the agent and `ringfence panic`) never undo each other. The first four
 * fields keep their place in every layout. */
struct rf_settings {
	__u32 magic;
	__u32 layout;
	__u32 epoch;		  /* verdicts of an older one are judged again */
	__u32 panic;		  /* not 0: the live slot is only judged */
	__u64 handover;		  /* not 0: packets are stamped with it, see rf_judged_before */
	__u64 fingerprint;	  /* of the structures' shape */
	__u64 ring_id;		  /* of this ring, over all that ever were */
	__u64 counters_id;	  /* likewise */
	__u64 carry_until;	  /* ns; until then answers may come before their flows */
	__u64 sweep_interval;	  /* ns a flow's counters may wait for a record */
	__u64 orphaned_after;	  /* ns without an agent's sweep until the kernel makes one */
	__u64 idle[RF_STATES];	  /* ns */
	__u32 endpoint_flows;	  /* quota; 0: none */
	__u32 endpoint_fragments; /* notes in the fragment table; 0: no quota */
	__u32 pending;		  /* enum rf_verdict: the answer where an identity is not known yet */
	__u32 pad;
	/* Interface index<<32 | endpoint id, at index & (RF_INTERFACES - 1): saves
	 * most packets the look-up in endpoints, which knows them all. */
	__u64 interfaces[RF_INTERFACES];
	RF_TEST_FIELD
};
_Static_assert(sizeof(struct rf_settings) == 152 + 8 * RF_INTERFACES + RF_TEST_BYTES, "rf_settings");

#define RF_ENDPOINT_HOST 1
/* Tunnels that are looked into on the interface. */
#define RF_ENDPOINT_VXLAN   2
#define RF_ENDPOINT_GENEVE  4
#define RF_ENDPOINT_GRE	    8
#define RF_ENDPOINT_IPIP    16
#define RF_ENDPOINT_TUNNELS 30

struct rf_endpoint {
	__u32 id;
	__u32 identity;
	__u32 flags;
	__u32 workload;	      /* index of struct rf_workload; 0: identity not known yet */
	__u64 observed_since; /* CLOCK_MONOTONIC, ns */
};
_Static_assert(sizeof(struct rf_endpoint) == 24, "rf_endpoint");

struct rf_quota {
	__u64 flows;	 /* of the endpoint, in the flow table */
	__u32 gone;	 /* not 0: detached, its flows end with the next sweep */
	__u32 fragments; /* its notes in the fragment table */
	__u64 since;	 /* flows last seen before are of its former interface, and end too */
};
_Static_assert(sizeof(struct rf_quota) == 24, "rf_quota");

struct rf_address {
	__u8 addr[16];
};
_Static_assert(sizeof(struct rf_address) == 16, "rf_address");

struct rf_owner {
	__u32 identity;
	__u32 endpoint;
};
_Static_assert(sizeof(struct rf_owner) == 8, "rf_owner");

struct rf_cidr {
	__u32 bits;
	__u8 addr[16];
};
_Static_assert(sizeof(struct rf_cidr) == 20, "rf_cidr");

struct rf_destination {
	__u8 addr[16];
	__be16 port;
	__u8 protocol;
	__u8 pad;
};
_Static_assert(sizeof(struct rf_destination) == 20, "rf_destination");

/* The third place of a workload's word, after the slots: the table of what is
 * denied before any rule is asked. */
#define RF_GUARDRAILS RF_SLOTS

#define RF_TABLE_BITS	     21
#define RF_TABLE_OF(w, slot) ((__u32)((w) >> ((slot) * RF_TABLE_BITS)) & ((1u << RF_TABLE_BITS) - 1))

/* Which tables govern a workload. Each direction's word holds the numbers of
 * all of its tables, so that one store switches them together. */
struct rf_workload {
	__u32 identity;
	__u32 pad;
	__u64 ingress; /* live | staged << RF_TABLE_BITS | guardrails << 2 * RF_TABLE_BITS; 0: none */
	__u64 egress;
};
_Static_assert(sizeof(struct rf_workload) == 24, "rf_workload");

#define RF_TABLE_OPEN	   1 /* not isolated: allows everything */
#define RF_TABLE_CIDRS	   2 /* rules name CIDR identities */
#define RF_TABLE_ANY_PEER  4 /* rules name RF_PEER_ANY */
#define RF_TABLE_ANY_PROTO 8 /* rules of protocol 0 */

/* What holds for a whole table. Never changes while a word names it. */
struct rf_table {
	__u32 revision;
	__u32 levels; /* RF_LEVEL_* that its rules are on */
	__u32 flags;
	__u32 rules;
};
_Static_assert(sizeof(struct rf_table) == 16, "rf_table");

/* The ports of a protocol are a tree of three levels. A rule is one node, and
 * bit n of its ports says that the rule holds for all of the node's child n: for
 * one port, for 64, or for 4096. Nodes are numbered 1, 16 to 31, 1024 to 2047. */
#define RF_LEVEL_4096	    1
#define RF_LEVEL_64	    2
#define RF_LEVEL_1	    4
#define RF_NODE_4096	    1
#define RF_NODE_64(port)    (16 | (port) >> 12)
#define RF_NODE_1(port)	    (1024 | (port) >> 6)
#define RF_CHILD_4096(port) ((port) >> 12)
#define RF_CHILD_64(port)   ((port) >> 6 & 63)
#define RF_CHILD_1(port)    ((port) & 63)

#define RF_PEER_ANY 0xfffffffe

struct rf_rule_key {
	__u32 table;
	__u32 peer;
	__u16 node;
	__u8 protocol; /* 0: every one */
	__u8 pad;
};
_Static_assert(sizeof(struct rf_rule_key) == 12, "rf_rule_key");

/* Both directions of a connection have the same key: what the endpoint sends
 * has it as the source, what it gets as the destination. ICMP keeps the echo
 * identifier as the requester's port and type<<8|code of the request as the
 * answerer's. Chosen so that no packet needs a comparison to find its key. */
struct rf_flow_key {
	__u8 local[16];
	__u8 remote[16];
	__be16 local_port;
	__be16 remote_port;
	__u32 endpoint;
	__u64 protocol;
};
_Static_assert(sizeof(struct rf_flow_key) == 48, "rf_flow_key");

/* The same of an IPv4 flow, in its own table: half as much to hash and to compare. */
struct rf_flow4_key {
	__be32 local;
	__be32 remote;
	__be16 local_port;
	__be16 remote_port;
	__u32 endpoint;
	__u64 protocol;
};
_Static_assert(sizeof(struct rf_flow4_key) == 24, "rf_flow4_key");

/* Sides of a flow. */
#define RF_LOCAL  0
#define RF_REMOTE 1

#define RF_FLOW_REPORTED     1 /* has had a record */
#define RF_FLOW_ENDED	     2 /* has had its end record */
#define RF_FLOW_SYNACK	     4
#define RF_FLOW_LOCAL_ORIGIN 8		     /* the node itself began it */
#define RF_FLOW_SENT_FIRST   16		     /* its first packet came from the endpoint, maybe as an answer */
#define RF_FLOW_BENEFIT	     32		     /* undirected only for an upgrade, see rf_judge_answer */
#define RF_FLOW_UNANSWERED   64		     /* no record has held a packet of the responder */
#define RF_FLOW_UNTOLD(slot) (128 << (slot)) /* no record has told of the slot's judgement */
#define RF_FLOW_UNTOLD_BOTH  (RF_FLOW_UNTOLD(RF_SLOT_LIVE) | RF_FLOW_UNTOLD(RF_SLOT_STAGED))
#define RF_FLOW_CLOSED	     512 /* the sweep writes its end record */
#define RF_FLOW_MARKS	     0xffff
#define RF_FLOW_FLAGS(side)  (16 + 8 * (side)) /* where a side's TCP flags begin in marks */

#define RF_ALIVE 0
#define RF_DYING 1 /* ended; the next packet revives it as a new flow */
#define RF_DEAD	 2 /* being deleted */

/* What one side sent and no record has reported: packets<<40 | bytes, so that
 * one atomic addition counts a packet. Each half hands its upper bit on to
 * rf_carried when it is set, long before it could overflow. */
#define RF_PACKET	 40
#define RF_CARRY_BYTES	 (1ULL << 39)
#define RF_CARRY_PACKETS (1ULL << 63)
#define RF_CARRY	 (RF_CARRY_BYTES | RF_CARRY_PACKETS)
#define RF_BYTES	 ((1ULL << RF_PACKET) - 1)

struct rf_carried {
	__u32 packets; /* in units of 1<<23 */
	__u32 bytes;   /* in units of 1<<39 */
};
_Static_assert(sizeof(struct rf_carried) == 8, "rf_carried");

/* Counters hold what no record has reported yet. Whoever writes a record takes
 * them with an exchange, so that each packet is in exactly one record however
 * many CPUs report at once.
 *
 * An entry of the hash table is 48 bytes of its own, the key and this: in IPv6
 * exactly three cache lines, in IPv4 168 bytes. All that most packets touch is
 * in the first 48 bytes of this. */
struct rf_flow {
	RF_TEST_FIELD
	__u64 judged;	  /* epoch<<32 | staged reason<<24 | staged<<16 | live reason<<8 | live */
	__u64 counted[2]; /* by side */
	__u32 marks;	  /* | TCP flags of either side */
	__u32 life;	  /* RF_ALIVE, RF_DYING, RF_DEAD */
	__u64 last_seen;  /* coarse CLOCK_MONOTONIC, ns, as the next two */
	__u8 state;
	__u8 initiator; /* side */
	__u8 direction;
	__u8 fin; /* bit 0: local sent one, bit 1: remote, bits 2-3: who did last */
	__u8 outcome;
	__u8 pad[3];
	__u64 first_seen;
	__u64 reported_at;
	__u32 revision[RF_SLOTS];
	struct rf_carried carried[2];
	__u32 connections;
	__u32 isn; /* sequence number of the SYN */
};
_Static_assert(sizeof(struct rf_flow) == 96 + RF_TEST_BYTES, "rf_flow");

struct rf_fragment_key {
	__u8 src[16];
	__u8 dst[16];
	__u32 id;
	__u32 endpoint;
	__u8 protocol; /* that the fragments name; in IPv6 maybe an extension header's */
	__u8 pad[7];
} __attribute__((aligned(8)));
_Static_assert(sizeof(struct rf_fragment_key) == 48, "rf_fragment_key");

/* How long a first fragment is remembered. */
#define RF_FRAGMENT_NS 30000000000ULL

struct rf_fragment {
	__be16 sport;
	__be16 dport;
	__u32 end; /* bytes of the datagram that the first fragment holds */
	__u64 seen;
	__u8 protocol;
	__u8 pad[7];
};
_Static_assert(sizeof(struct rf_fragment) == 24, "rf_fragment");

/* One message of the ring: this, or struct rf_record4; its length says which.
 * Counters are deltas since the flow's last one; so are answered and told, whose
 * sums count each connection once. */
struct rf_record {
	RF_TEST_FIELD
	__u64 time;
	__u64 first_seen;
	__u64 forward_packets;
	__u64 forward_bytes;
	__u64 reverse_packets;
	__u64 reverse_bytes;
	__u8 src[16]; /* the initiator */
	__u8 dst[16];
	__be16 sport;
	__be16 dport;
	__u32 endpoint;
	__u32 connections;
	__u32 live_revision;
	__u32 staged_revision;
	__u8 protocol;
	__u8 event;
	__u8 direction;
	__u8 outcome;
	__u8 live_verdict;
	__u8 live_reason;
	__u8 staged_verdict;
	__u8 staged_reason;
	__u8 forward_flags;
	__u8 reverse_flags;
	__u8 answered; /* 1 in the record with the responder's first packet */
	__u8 told;     /* bits by slot whose judgement no record has told of yet */
};
_Static_assert(sizeof(struct rf_record) == 112 + RF_TEST_BYTES, "rf_record");

/* The same of an IPv4 flow whose counters were not carried, which is nearly every
 * one. Its memory is in no cache when it is written, and that is much of what it
 * costs: with the ring's own 8 bytes this takes 80 where the other takes 120. */
struct rf_record4 {
	RF_TEST_FIELD
	__u64 time;
	__u64 first_seen;
	__u64 forward; /* packets<<RF_PACKET | bytes */
	__u64 reverse;
	__be32 src;
	__be32 dst;
	__be16 sport;
	__be16 dport;
	__u32 endpoint;
	__u32 connections;
	__u32 live_revision;
	__u32 staged_revision;
	__u32 judged; /* the low half of struct rf_flow's */
	__u8 protocol;
	__u8 event;
	__u8 direction;
	__u8 outcome;
	__u8 forward_flags;
	__u8 reverse_flags;
	__u8 answered;
	__u8 told;
};
_Static_assert(sizeof(struct rf_record4) == 72 + RF_TEST_BYTES, "rf_record4");

/* What the agent is about to store: if it dies in between, the next one sends
 * exactly this again. */
struct rf_intent {
	__u64 start;
	__u64 end;
};
_Static_assert(sizeof(struct rf_intent) == 16, "rf_intent");

struct rf_keeper {
	struct bpf_timer timer;
};
_Static_assert(sizeof(struct rf_keeper) == 16, "rf_keeper");

/* Argument and answer of rf_sweep. */
struct rf_sweep_args {
	__u64 now;
	__u64 flows4; /* left in either table */
	__u64 flows6;
	__u64 reported;
	__u64 ended;
	__u64 deleted;
	__u64 ring_full;
};
_Static_assert(sizeof(struct rf_sweep_args) == 56, "rf_sweep_args");

enum rf_adopted {
	RF_ADOPTED_NEW,
	RF_ADOPTED_KNOWN, /* the table had it; what it lacked was added */
	RF_ADOPTED_GONE,  /* its endpoint is no longer watched */
	RF_ADOPTED_FULL,
};

/* Argument of rf_adopt. */
struct rf_adopt_args {
	struct rf_flow_key key;
	struct rf_flow flow;
};
_Static_assert(sizeof(struct rf_adopt_args) == 144 + RF_TEST_BYTES, "rf_adopt_args");

#endif
