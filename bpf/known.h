// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#ifndef RF_KNOWN_H
#define RF_KNOWN_H

#include "flow.h"
#include "tunnel.h"

/*
 * The way of nearly every packet: plain TCP or UDP of a flow that is in the
 * table and judged under today's epoch. It only has to be counted, and its
 * connection followed.
 * Whatever is not perfectly ordinary is left to rf_visit_packet, which starts
 * from the beginning, so that the checks here may be too strict and never too
 * lax.
 */

/* TCX_NEXT and TCX_DROP; headers older than 6.6 lack them. Never TCX_PASS: the
 * programs of others on the same hook would not run. */
#define RF_PASS -1
#define RF_DROP 2
/* No verdict of TCX: the packet is not one of these. */
#define RF_UNUSUAL -2

/* A packet as far as it is known before its flow is. */
struct rf_plain {
	void *l4;
	__u32 len; /* bytes from layer 4 on that the IP header promises */
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	__u8 tcp_flags;
};

static __always_inline bool rf_plain_ipv4(void *l3, void *end, bool from, struct rf_plain *p,
					  struct rf_flow4_key *k)
{
	struct iphdr *ip = l3;

	if ((void *)(ip + 1) > end || *(__u8 *)l3 != 0x45 || ip->frag_off & bpf_htons(0x3fff))
		return false;
	k->local = from ? ip->saddr : ip->daddr;
	k->remote = from ? ip->daddr : ip->saddr;
	p->l4 = ip + 1;
	p->len = (__u32)bpf_ntohs(ip->tot_len) - sizeof(*ip);
	p->protocol = ip->protocol;
	return true;
}

/* Addresses that begin with 64 zeros are left out: mapped IPv4 among them. */
static __always_inline bool rf_plain_ipv6(void *l3, void *end, bool from, struct rf_plain *p,
					  struct rf_flow_key *k)
{
	struct ipv6hdr *ip = l3;
	__u64 *local = (__u64 *)k->local, *remote = (__u64 *)k->remote;
	__u64 *source = l3 + offsetof(struct ipv6hdr, saddr), *target = l3 + offsetof(struct ipv6hdr, daddr);

	if ((void *)(ip + 1) > end || *(__u8 *)l3 >> 4 != 6 || !source[0] || !target[0])
		return false;
	local[0] = from ? source[0] : target[0];
	local[1] = from ? source[1] : target[1];
	remote[0] = from ? target[0] : source[0];
	remote[1] = from ? target[1] : source[1];
	p->l4 = ip + 1;
	p->len = bpf_ntohs(ip->payload_len);
	p->protocol = ip->nexthdr;
	return true;
}

/* Where the IP header begins, and of what kind it is; NULL for what is not plain. */
static __always_inline void *rf_plain_l3(struct __sk_buff *skb, __be16 *type)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end,
	     *l3 = data + sizeof(struct ethhdr);

	if (l3 > end || rf_may_be_bare(skb))
		return NULL;
	*type = *(__be16 *)(data + offsetof(struct ethhdr, h_proto));
	if (*type != bpf_htons(ETH_P_8021Q) && *type != bpf_htons(ETH_P_8021AD))
		return l3;
	l3 += 4;
	if (l3 > end)
		return NULL;
	*type = *(__be16 *)(data + sizeof(struct ethhdr) + 2);
	return l3;
}

/* Ports of datagrams that may not be their flow's: DHCP's answers pass
 * whatever it says, and tunnels may be looked into. */
static __always_inline bool rf_is_special(__be16 port)
{
	return port == bpf_htons(68) || port == bpf_htons(546) || port == bpf_htons(RF_PORT_VXLAN) ||
	       port == bpf_htons(RF_PORT_VXLAN_LINUX) || port == bpf_htons(RF_PORT_GENEVE);
}

/* Adds what layer 4 says. Returns whether that is plain too. */
static __always_inline bool rf_plain_l4(struct __sk_buff *skb, bool from, struct rf_plain *p)
{
	void *end = (void *)(long)skb->data_end;
	struct tcphdr *tcp = p->l4;
	struct udphdr *udp = p->l4;
	__u32 rest = skb->len - (__u32)(p->l4 - (void *)(long)skb->data), size;

	/* What is cut up only later has no length yet. */
	if (skb->gso_size)
		p->len = rest;
	if (p->len > rest || (void *)(udp + 1) > end)
		return false;
	p->local_port = from ? udp->source : udp->dest;
	p->remote_port = from ? udp->dest : udp->source;
	p->tcp_flags = 0;
	if (p->protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end)
			return false;
		size = (((__u8 *)tcp)[12] >> 4) * 4;
		p->tcp_flags = ((__u8 *)tcp)[13];
		return size >= sizeof(*tcp) && size <= p->len &&
		       (p->tcp_flags & (RF_TCP_SYN | RF_TCP_ACK)) != RF_TCP_SYN;
	}
	if (p->protocol != IPPROTO_UDP)
		return false;
	size = bpf_ntohs(udp->len);
	return p->len >= sizeof(*udp) && (skb->gso_size || (size >= sizeof(*udp) && size <= p->len)) &&
	       !rf_is_special(udp->dest);
}

/* Moves a TCP flow on. Most packets find it established, and leave it so. */
static __always_inline bool rf_moves(const struct rf_flow *f, __u8 flags)
{
	return flags & (RF_TCP_SYN | RF_TCP_FIN | RF_TCP_RST) || f->state != RF_STATE_ESTABLISHED;
}

__noinline int rf_step(struct rf_flow *f, __u32 side, __u32 flags)
{
	return f ? rf_tcp_step(f, side & 1, flags) : 0;
}

/* 0, which no endpoint has, for an interface that is not watched. */
static __always_inline __u32 rf_endpoint_of(struct rf_settings *s, __u32 ifindex)
{
	__u64 known = RF_READ(s->interfaces[ifindex & (RF_INTERFACES - 1)]);
	struct rf_endpoint *ep;

	if (known >> 32 == ifindex)
		return known;
	ep = bpf_map_lookup_elem(&endpoints, &ifindex);
	return ep ? ep->id : 0;
}

/* While a hook goes over from one way of attaching to the other, two of these
 * programs run on a packet, one right after the other. The first one leaves a
 * stamp in what the kernel has the programs of a hook hand on to each other;
 * the second one takes it away and leaves the packet alone, so that each is
 * counted once. The stamp is random: nothing else can have left it there. */
static __noinline int rf_judged_before(struct __sk_buff *skb, __u64 stamp, bool from)
{
	__u32 low = stamp, high = stamp >> 32, hook = skb->ifindex << 1 | from;

	if (skb->cb[0] == low && skb->cb[1] == high && skb->cb[2] == hook) {
		skb->cb[0] = 0;
		skb->cb[1] = 0;
		skb->cb[2] = 0;
		return 1;
	}
	skb->cb[0] = low;
	skb->cb[1] = high;
	skb->cb[2] = hook;
	return 0;
}

/* What is left to do for a packet whose flow was found. */
static __always_inline int rf_known_flow(struct __sk_buff *skb, const struct rf_settings *s,
					 struct rf_flow *f, const struct rf_plain *p, bool from)
{
	__u32 outcome, packets, step = 0, side = from ? RF_LOCAL : RF_REMOTE;
	__u64 judged = RF_READ(f->judged);

	if (RF_READ(f->life) != RF_ALIVE || judged >> 32 != RF_READ(s->epoch))
		return RF_UNUSUAL;
	outcome = rf_outcome(judged, RF_READ(s->panic));
	/* The other side of what is dropped may begin a flow of its own. */
	if (outcome == RF_OUTCOME_DROPPED && f->initiator != side)
		return RF_UNUSUAL;
	packets = skb->gso_segs;
	rf_count_packet(f, side, packets ? packets : 1, skb->len, bpf_ktime_get_coarse_ns());
	if (p->protocol == IPPROTO_TCP && rf_moves(f, p->tcp_flags))
		step = rf_step(f, side, p->tcp_flags);
	rf_mark_packet(f, side, p->tcp_flags, step);
	rf_count_verdict(judged, outcome);
	return outcome == RF_OUTCOME_DROPPED ? RF_DROP : RF_PASS;
}

static __always_inline int rf_known4(struct __sk_buff *skb, struct rf_settings *s, void *l3, bool from)
{
	struct rf_flow4_key k;
	struct rf_plain p;
	struct rf_flow *f;

	if (!rf_plain_ipv4(l3, (void *)(long)skb->data_end, from, &p, &k) || !rf_plain_l4(skb, from, &p))
		return RF_UNUSUAL;
	k.local_port = p.local_port;
	k.remote_port = p.remote_port;
	k.endpoint = rf_endpoint_of(s, skb->ifindex);
	k.protocol = p.protocol;
	f = bpf_map_lookup_elem(&flows4, &k);
	return f ? rf_known_flow(skb, s, f, &p, from) : RF_UNUSUAL;
}

static __always_inline int rf_known6(struct __sk_buff *skb, struct rf_settings *s, void *l3, bool from)
{
	struct rf_flow_key k;
	struct rf_plain p;
	struct rf_flow *f;

	if (!rf_plain_ipv6(l3, (void *)(long)skb->data_end, from, &p, &k) || !rf_plain_l4(skb, from, &p))
		return RF_UNUSUAL;
	k.local_port = p.local_port;
	k.remote_port = p.remote_port;
	k.endpoint = rf_endpoint_of(s, skb->ifindex);
	k.protocol = p.protocol;
	f = bpf_map_lookup_elem(&flows6, &k);
	return f ? rf_known_flow(skb, s, f, &p, from) : RF_UNUSUAL;
}

static __always_inline int rf_visit_known(struct __sk_buff *skb, bool from)
{
	__u32 zero = 0;
	struct rf_settings *s = bpf_map_lookup_elem(&settings, &zero);
	__u64 stamp;
	__be16 type;
	void *l3;

	if (!s)
		return RF_UNUSUAL;
	stamp = RF_READ(s->handover);
	if (stamp && rf_judged_before(skb, stamp, from))
		return RF_PASS;
	l3 = rf_plain_l3(skb, &type);
	if (!l3)
		return RF_UNUSUAL;
	if (type == bpf_htons(ETH_P_IP))
		return rf_known4(skb, s, l3, from);
	return type == bpf_htons(ETH_P_IPV6) ? rf_known6(skb, s, l3, from) : RF_UNUSUAL;
}

/* Functions of their own, so that their stack is not below rf_visit_packet's:
 * kernels before 6.9 count both in steps of 32 bytes. One for each direction, as
 * choosing costs. */
static __noinline int rf_known_from(struct __sk_buff *skb)
{
	return rf_visit_known(skb, true);
}

static __noinline int rf_known_to(struct __sk_buff *skb)
{
	return rf_visit_known(skb, false);
}

#endif
