// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#ifndef RF_PARSE_H
#define RF_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "types.h"

/* Bytes are copied out with bpf_skb_load_bytes: it works wherever in the skb
 * they are, so nothing depends on how much of a packet is linear. */

#define RF_IPIP	  4
#define RF_IPV6	  41
#define RF_GRE	  47
#define RF_ICMPV6 58
#define RF_SCTP	  132

#define RF_MAX_VLANS	  2
#define RF_MAX_EXTENSIONS 8 /* walked; a longer chain is malformed */

#define RF_PKT_FIRST_FRAGMENT 1
#define RF_PKT_LATER_FRAGMENT 2
#define RF_PKT_ICMP_ERROR     4
#define RF_PKT_ICMP_REPLY     8	 /* its sender answers; ports are already turned round */
#define RF_PKT_GSO	      16 /* lengths in the headers may be 0 */
#define RF_PKT_QUOTED	      32 /* inside an ICMP error: 8 bytes of layer 4 at most */
#define RF_PKT_ICMP_REQUEST   64

#define RF_TCP_FIN 0x01
#define RF_TCP_SYN 0x02
#define RF_TCP_RST 0x04
#define RF_TCP_ACK 0x10

#define RF_SCTP_INIT		  1
#define RF_SCTP_INIT_ACK	  2
#define RF_SCTP_ABORT		  6
#define RF_SCTP_SHUTDOWN_COMPLETE 14

struct rf_packet {
	__u8 src[16];
	__u8 dst[16];
	__be16 sport;
	__be16 dport;
	__u32 l3; /* offsets from the frame's start */
	__u32 l4;
	__u32 end; /* of the IP packet; before it is parsed, of what holds it */
	__u32 fragment_id;
	__u32 fragment_end; /* first: bytes of the datagram in it. Later: its offset */
	__u32 seq;
	__u16 ethertype;
	__u8 protocol;
	__u8 fragment_protocol; /* that both the first and later fragments name */
	__u8 flags;
	__u8 tcp_flags; /* SCTP's chunks too, in TCP's words */
	__u8 icmp_type;
	__u8 hop_limit;
	__u8 pad[4];
} __attribute__((aligned(8)));
_Static_assert(sizeof(struct rf_packet) == 72, "rf_packet");

enum rf_parsed {
	RF_PARSED,
	RF_PARSED_NON_IP,
	RF_PARSED_MALFORMED,
};

static __always_inline void rf_map_ipv4(__u8 addr[16], __be32 v4)
{
	__u32 *w = (__u32 *)addr;

	w[0] = 0;
	w[1] = 0;
	w[2] = bpf_htonl(0xffff);
	w[3] = v4;
}

static __always_inline bool rf_is_mapped(const __u8 addr[16])
{
	const __u32 *w = (const __u32 *)addr;

	return !w[0] && !w[1] && w[2] == bpf_htonl(0xffff);
}

static __always_inline bool rf_same_address(const __u8 a[16], const __u8 b[16])
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1];
}

/* The answerer's port of a request is type<<8|code, and an answer is given the
 * ports of its request turned round, so that both find one flow. */
static __always_inline void rf_icmp_ports(struct rf_packet *p, __u8 request, __u8 code, bool answer,
					  __be16 identifier)
{
	__be16 port = bpf_htons((__u16)request << 8 | code);

	p->sport = answer ? port : identifier;
	p->dport = answer ? identifier : port;
	p->flags |= answer ? RF_PKT_ICMP_REPLY : RF_PKT_ICMP_REQUEST;
}

static __always_inline void rf_parse_icmp(struct rf_packet *p, const __u8 *h)
{
	__u8 type = h[0], code = h[1];
	__be16 identifier;

	__builtin_memcpy(&identifier, h + 4, 2);
	p->icmp_type = type;
	p->sport = 0;
	p->dport = bpf_htons((__u16)type << 8 | code);
	if (p->protocol == RF_ICMPV6) {
		if (type == 128 || type == 129)
			rf_icmp_ports(p, 128, code, type == 129, identifier);
		else if (type >= 1 && type <= 4)
			p->flags |= RF_PKT_ICMP_ERROR;
		return;
	}
	if (type == 8 || type == 0)
		rf_icmp_ports(p, 8, code, type == 0, identifier);
	else if (type >= 13 && type <= 18) /* timestamp, information, address mask */
		rf_icmp_ports(p, type - !(type & 1), code, !(type & 1), identifier);
	else if (type == 3 || type == 4 || type == 11 || type == 12)
		p->flags |= RF_PKT_ICMP_ERROR; /* not redirects: those steer, they don't report */
}

/* Says a chunk in TCP's words, so that one machine follows both protocols. */
static __always_inline __u8 rf_sctp_flags(__u8 chunk)
{
	switch (chunk) {
	case RF_SCTP_INIT:
		return RF_TCP_SYN;
	case RF_SCTP_INIT_ACK:
		return RF_TCP_SYN | RF_TCP_ACK;
	case RF_SCTP_ABORT:
	case RF_SCTP_SHUTDOWN_COMPLETE:
		return RF_TCP_RST;
	}
	return RF_TCP_ACK;
}

static __always_inline int rf_parse_tcp(struct __sk_buff *skb, struct rf_packet *p, __u32 len)
{
	struct tcphdr tcp;

	if (len < sizeof(tcp) || bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp)))
		return RF_PARSED_MALFORMED;
	if (tcp.doff < 5 || (__u32)tcp.doff * 4 > len)
		return RF_PARSED_MALFORMED;
	p->sport = tcp.source;
	p->dport = tcp.dest;
	p->seq = bpf_ntohl(tcp.seq);
	p->tcp_flags = ((__u8 *)&tcp)[13];
	return RF_PARSED;
}

/* The common header and the first chunk's; INIT and INIT-ACK go alone. */
static __always_inline int rf_parse_sctp(struct __sk_buff *skb, struct rf_packet *p, __u32 len)
{
	__u32 chunk;
	__be32 tag;

	if (len < 16 || bpf_skb_load_bytes(skb, p->l4 + 12, &chunk, sizeof(chunk)))
		return RF_PARSED_MALFORMED;
	p->tcp_flags = rf_sctp_flags(chunk);
	if (!(p->tcp_flags & RF_TCP_SYN))
		return RF_PARSED;
	if (len < 32 || bpf_skb_load_bytes(skb, p->l4 + 16, &tag, sizeof(tag)))
		return RF_PARSED_MALFORMED;
	p->seq = bpf_ntohl(tag);
	return RF_PARSED;
}

/* Layer 4 at p->l4, of which the IP header promises len bytes. */
static __always_inline int rf_parse_l4(struct __sk_buff *skb, struct rf_packet *p, __u32 len)
{
	__u8 h[8];
	__u16 size;

	p->sport = 0;
	p->dport = 0;
	p->tcp_flags = 0;
	switch (p->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case RF_SCTP:
	case IPPROTO_ICMP:
	case RF_ICMPV6:
		break;
	default:
		return RF_PARSED;
	}
	if (p->protocol == IPPROTO_TCP && !(p->flags & RF_PKT_QUOTED))
		return rf_parse_tcp(skb, p, len);
	if (len < sizeof(h) || bpf_skb_load_bytes(skb, p->l4, h, sizeof(h)))
		return RF_PARSED_MALFORMED;
	if (p->protocol == IPPROTO_ICMP || p->protocol == RF_ICMPV6) {
		rf_parse_icmp(p, h);
		return RF_PARSED;
	}
	__builtin_memcpy(&p->sport, h, 2);
	__builtin_memcpy(&p->dport, h + 2, 2);
	if (p->flags & RF_PKT_QUOTED)
		return RF_PARSED;
	if (p->protocol == RF_SCTP)
		return rf_parse_sctp(skb, p, len);
	size = (__u16)h[4] << 8 | h[5];
	if (p->flags & RF_PKT_GSO)
		return RF_PARSED;
	if (size < sizeof(h) || (size > len && !(p->flags & RF_PKT_FIRST_FRAGMENT)))
		return RF_PARSED_MALFORMED;
	return RF_PARSED;
}

/* A later fragment carries no ports. One that would overlap the first one's
 * header could rewrite what was judged. */
static __always_inline int rf_parse_later(struct rf_packet *p, __u32 offset)
{
	if (p->flags & RF_PKT_QUOTED)
		return RF_PARSED_MALFORMED;
	if (p->protocol == IPPROTO_TCP && offset < sizeof(struct tcphdr))
		return RF_PARSED_MALFORMED;
	if (p->protocol == RF_SCTP && offset < 16)
		return RF_PARSED_MALFORMED;
	p->sport = 0;
	p->dport = 0;
	p->tcp_flags = 0;
	p->fragment_end = offset;
	p->flags |= RF_PKT_LATER_FRAGMENT;
	return RF_PARSED;
}

static __always_inline int rf_parse_ipv4(struct __sk_buff *skb, struct rf_packet *p)
{
	__u32 header, end, offset;
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)))
		return RF_PARSED_MALFORMED;
	header = ip.ihl * 4;
	end = p->l3 + bpf_ntohs(ip.tot_len);
	if (p->flags & (RF_PKT_GSO | RF_PKT_QUOTED))
		end = p->end; /* of the quoting packet: an upper bound */
	p->l4 = p->l3 + header;
	if (ip.version != 4 || header < sizeof(ip) || end < p->l4 || end > p->end)
		return RF_PARSED_MALFORMED;
	p->end = end;
	rf_map_ipv4(p->src, ip.saddr);
	rf_map_ipv4(p->dst, ip.daddr);
	p->protocol = ip.protocol;
	p->fragment_protocol = ip.protocol;
	p->hop_limit = ip.ttl;
	p->fragment_id = ip.id;
	offset = (bpf_ntohs(ip.frag_off) & 0x1fff) * 8;
	if (offset)
		return rf_parse_later(p, offset);
	if (ip.frag_off & bpf_htons(0x2000)) {
		p->flags |= RF_PKT_FIRST_FRAGMENT;
		p->fragment_end = end - p->l4;
	}
	return rf_parse_l4(skb, p, end - p->l4);
}

/* Walks the extension headers from next at p->l4 to the last one. Returns the
 * fragment offset in bytes, or -1 for a chain that cannot be judged. */
static __always_inline int rf_walk_ipv6(struct __sk_buff *skb, struct rf_packet *p, __u8 next)
{
	bool fragment = false;
	__u8 h[8];
	int i;

	for (i = 0; i <= RF_MAX_EXTENSIONS; i++) {
		switch (next) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_FRAGMENT:
		case IPPROTO_DSTOPTS:
		case IPPROTO_AH:
			break;
		default:
			p->protocol = next;
			return 0;
		}
		if (p->l4 + sizeof(h) > p->end || bpf_skb_load_bytes(skb, p->l4, h, sizeof(h)))
			return -1;
		if (next == IPPROTO_ROUTING && h[3])
			return -1; /* segments left: dst is not where it goes */
		if (next == IPPROTO_FRAGMENT) {
			__u32 offset = ((__u32)h[2] << 8 | h[3]) & 0xfff8;

			if (fragment)
				return -1; /* fragments of a fragment */
			fragment = true;
			p->l4 += sizeof(h);
			p->fragment_protocol = h[0];
			__builtin_memcpy(&p->fragment_id, h + 4, 4);
			if (offset) {
				p->protocol = h[0];
				return offset;
			}
			if (h[3] & 1) {
				p->flags |= RF_PKT_FIRST_FRAGMENT;
				p->fragment_end = p->end - p->l4;
			}
		} else if (next == IPPROTO_AH) {
			p->l4 += (h[1] + 2) * 4;
		} else {
			p->l4 += (h[1] + 1) * 8;
		}
		next = h[0];
	}
	return -1;
}

static __always_inline int rf_parse_ipv6(struct __sk_buff *skb, struct rf_packet *p)
{
	struct ipv6hdr ip;
	int offset;
	__u32 end;

	if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)))
		return RF_PARSED_MALFORMED;
	p->l4 = p->l3 + sizeof(ip);
	end = p->l4 + bpf_ntohs(ip.payload_len);
	if (p->flags & (RF_PKT_GSO | RF_PKT_QUOTED))
		end = p->end;
	if (ip.version != 6 || end < p->l4 || end > p->end)
		return RF_PARSED_MALFORMED;
	p->end = end;
	__builtin_memcpy(p->src, &ip.saddr, 16);
	__builtin_memcpy(p->dst, &ip.daddr, 16);
	/* Never on a wire, and it would pass for an IPv4 address here. */
	if (rf_is_mapped(p->src) || rf_is_mapped(p->dst))
		return RF_PARSED_MALFORMED;
	p->hop_limit = ip.hop_limit;
	offset = rf_walk_ipv6(skb, p, ip.nexthdr);
	if (offset < 0 || p->l4 > end)
		return RF_PARSED_MALFORMED;
	if (offset)
		return rf_parse_later(p, offset);
	return rf_parse_l4(skb, p, end - p->l4);
}

/* The IP packet at p->l3, whose family is p->ethertype. A function of its own,
 * so that the verifier looks at it once. */
__noinline int rf_parse_ip(struct __sk_buff *skb, struct rf_packet *p)
{
	if (!p)
		return RF_PARSED_MALFORMED;
	if (p->ethertype == ETH_P_IP)
		return rf_parse_ipv4(skb, p);
	return rf_parse_ipv6(skb, p);
}

static __always_inline bool rf_is_ip(__u32 ethertype)
{
	return ethertype == ETH_P_IP || ethertype == ETH_P_IPV6;
}

/* The Ethernet header at "at" and its tags. Sets *type; returns where what it
 * carries begins, 0 for more tags than are walked. */
static __always_inline __u32 rf_parse_ethernet(struct __sk_buff *skb, __u32 at, __u16 *type)
{
	__be16 t;
	int i;

	at += offsetof(struct ethhdr, h_proto);
	for (i = 0; i <= RF_MAX_VLANS; i++) {
		if (bpf_skb_load_bytes(skb, at, &t, sizeof(t)))
			return 0;
		at += sizeof(t);
		if (t != bpf_htons(ETH_P_8021Q) && t != bpf_htons(ETH_P_8021AD)) {
			*type = bpf_ntohs(t);
			return at;
		}
		at += 2;
	}
	return 0;
}

/* Whether the frame begins with what may be an IP header: in most, the receiver's
 * address stands there. */
static __always_inline bool rf_may_be_bare(struct __sk_buff *skb)
{
	__u8 *data = (void *)(long)skb->data;

	if ((void *)(data + sizeof(struct ethhdr)) > (void *)(long)skb->data_end)
		return true;
	if (data[0] >> 4 == 4)
		return bpf_ntohs(*(__be16 *)(data + 2)) <= skb->len;
	return data[0] >> 4 == 6 && bpf_ntohs(*(__be16 *)(data + 4)) <= skb->len;
}

/* An XDP program in generic mode may cost a packet its Ethernet header on the way
 * to the ingress hook: the kernel copies it and forgets how long that header was.
 * The network header is then where the frame begins, or a byte that lies as far
 * from it as the last one from the beginning could not be read. */
static __always_inline bool rf_is_bare(struct __sk_buff *skb)
{
	void *linear = (void *)(long)skb->data_end, *data = (void *)(long)skb->data;
	__u8 last;

	if (!rf_may_be_bare(skb))
		return false;
	/* The compiler's own way is arithmetic that the verifier refuses. */
	asm volatile("%0 -= %1" : "+r"(linear) : "r"(data));
	return !bpf_skb_load_bytes_relative(skb, (__u32)(long)linear - 1, &last, sizeof(last),
					    BPF_HDR_START_NET);
}

/* The frame's Ethernet header and tags, then its IP packet. */
static __always_inline int rf_parse(struct __sk_buff *skb, struct rf_packet *p, bool ingress)
{
	__u16 protocol = bpf_ntohs(RF_READ(skb->protocol)), type = protocol;
	bool bare = ingress && rf_is_bare(skb);

	p->l3 = bare ? 0 : rf_parse_ethernet(skb, 0, &type);
	if (!p->l3 && !bare)
		return RF_PARSED_MALFORMED;
	if (!rf_is_ip(type))
		return ingress && rf_is_ip(protocol) ? RF_PARSED_MALFORMED : RF_PARSED_NON_IP;
	p->ethertype = type;
	p->end = skb->len;
	if (skb->gso_size)
		p->flags |= RF_PKT_GSO;
	return rf_parse_ip(skb, p);
}

#endif
