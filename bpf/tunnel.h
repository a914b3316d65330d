// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#ifndef RF_TUNNEL_H
#define RF_TUNNEL_H

#include "parse.h"

#define RF_PORT_VXLAN	    4789
#define RF_PORT_VXLAN_LINUX 8472 /* from before there was a standard one */
#define RF_PORT_GENEVE	    6081

#define RF_ETH_TEB 0x6558 /* an Ethernet frame follows */

#define RF_GRE_CHECKSUM 0x80 /* in the header's first byte */
#define RF_GRE_ROUTING	0x40
#define RF_GRE_KEY	0x20
#define RF_GRE_SEQUENCE 0x10

/* What a tunnel's packet carries. */
struct rf_inner {
	__u32 at;   /* where it begins; 0: nothing that is looked into */
	__u16 type; /* its ethertype */
	__u16 malformed;
};

static __always_inline void rf_vxlan(struct __sk_buff *skb, __u32 at, struct rf_inner *in)
{
	__u8 flags;

	if (bpf_skb_load_bytes(skb, at, &flags, sizeof(flags)) || !(flags & 0x08)) {
		in->malformed = 1; /* no network identifier */
		return;
	}
	in->at = at + 8;
	in->type = RF_ETH_TEB;
}

static __always_inline void rf_geneve(struct __sk_buff *skb, __u32 at, struct rf_inner *in)
{
	__u8 h[4];

	if (bpf_skb_load_bytes(skb, at, h, sizeof(h)) || h[0] & 0xc0) {
		in->malformed = 1; /* another version */
		return;
	}
	in->at = at + 8 + (h[0] & 0x3f) * 4;
	in->type = (__u16)h[2] << 8 | h[3];
}

/* Another version of GRE (PPTP's), or one that is routed by its sender, is not
 * looked into. */
static __always_inline void rf_gre(struct __sk_buff *skb, __u32 at, __u32 end, struct rf_inner *in)
{
	__u8 h[4];

	if (at + sizeof(h) > end || bpf_skb_load_bytes(skb, at, h, sizeof(h))) {
		in->malformed = 1;
		return;
	}
	if (h[0] & RF_GRE_ROUTING || h[1] & 0x07)
		return;
	at += sizeof(h);
	if (h[0] & RF_GRE_CHECKSUM)
		at += 4;
	if (h[0] & RF_GRE_KEY)
		at += 4;
	if (h[0] & RF_GRE_SEQUENCE)
		at += 4;
	in->at = at;
	in->type = (__u16)h[2] << 8 | h[3];
}

static __always_inline void rf_find_inner(struct __sk_buff *skb, const struct rf_packet *p, __u32 tunnels,
					  struct rf_inner *in)
{
	__u16 port = bpf_ntohs(p->dport);
	bool vxlan = port == RF_PORT_VXLAN || port == RF_PORT_VXLAN_LINUX;

	if (p->protocol == IPPROTO_UDP && vxlan && tunnels & RF_ENDPOINT_VXLAN) {
		rf_vxlan(skb, p->l4 + sizeof(struct udphdr), in);
	} else if (p->protocol == IPPROTO_UDP && port == RF_PORT_GENEVE && tunnels & RF_ENDPOINT_GENEVE) {
		rf_geneve(skb, p->l4 + sizeof(struct udphdr), in);
	} else if (p->protocol == RF_GRE && tunnels & RF_ENDPOINT_GRE) {
		rf_gre(skb, p->l4, p->end, in);
	} else if (p->protocol == RF_IPIP && tunnels & RF_ENDPOINT_IPIP) {
		in->at = p->l4;
		in->type = ETH_P_IP;
	} else if (p->protocol == RF_IPV6 && tunnels & RF_ENDPOINT_IPIP) {
		in->at = p->l4;
		in->type = ETH_P_IPV6;
	}
}

enum rf_entered {
	RF_ENTERED_NOT,
	RF_ENTERED_IP, /* p->l3 is where the inner packet begins */
	RF_ENTERED_ARP,
	RF_ENTERED_MALFORMED,
};

__noinline int rf_enter_tunnel(struct __sk_buff *skb, struct rf_packet *p, __u32 tunnels)
{
	struct rf_inner in = {};

	if (!p)
		return RF_ENTERED_MALFORMED;
	if (p->flags & (RF_PKT_FIRST_FRAGMENT | RF_PKT_LATER_FRAGMENT))
		return RF_ENTERED_NOT;
	rf_find_inner(skb, p, tunnels, &in);
	if (in.malformed)
		return RF_ENTERED_MALFORMED;
	if (!in.at)
		return RF_ENTERED_NOT;
	if (in.type == RF_ETH_TEB) {
		in.at = rf_parse_ethernet(skb, in.at, &in.type);
		if (!in.at)
			return RF_ENTERED_MALFORMED;
	}
	if (in.at > p->end)
		return RF_ENTERED_MALFORMED;
	if (in.type == ETH_P_ARP)
		return RF_ENTERED_ARP;
	if (!rf_is_ip(in.type))
		return RF_ENTERED_NOT;
	p->l3 = in.at;
	p->ethertype = in.type;
	return RF_ENTERED_IP;
}

/* Replaces a tunnel's packet in p by the one that it carries: one level. What
 * is in fragments, and what carries neither IP nor ARP, stays the tunnel's own
 * and is judged as such, or it would be a way round every rule. */
static __always_inline int rf_parse_inner(struct __sk_buff *skb, struct rf_packet *p, __u32 tunnels)
{
	switch (rf_enter_tunnel(skb, p, tunnels)) {
	case RF_ENTERED_IP:
		return rf_parse_ip(skb, p);
	case RF_ENTERED_ARP:
		return RF_PARSED_NON_IP;
	case RF_ENTERED_NOT:
		return RF_PARSED;
	}
	return RF_PARSED_MALFORMED;
}

/* The packet that the ICMP error p quotes, which its receiver must have sent. */
static __always_inline int rf_parse_quoted(struct __sk_buff *skb, const struct rf_packet *p, __u32 tunnels,
					   struct rf_packet *q)
{
	int parsed;

	q->l3 = p->l4 + 8;
	q->end = p->end;
	q->ethertype = p->ethertype;
	q->flags = RF_PKT_QUOTED;
	parsed = rf_parse_ip(skb, q);
	if (parsed != RF_PARSED || !rf_same_address(q->src, p->dst))
		return RF_PARSED_MALFORMED;
	return tunnels ? rf_parse_inner(skb, q, tunnels) : RF_PARSED;
}

#endif
