package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// maxDNSMessage is that of UDP without extensions.
const maxDNSMessage = 512

// dnsTTL is what answers carry; nobody in the lab caches.
const dnsTTL = 5

var errNoAddress = errors.New("answer does not hold the address asked for")

// dnsQuery returns a message that asks for name.
func dnsQuery(id uint16, name string, kind dnsmessage.Type) ([]byte, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, fmt.Errorf("dns name %s: %w", name, err)
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}},
	}
	return m.Pack()
}

// dnsAnswer returns the answer to a query from the zone: addresses, none for
// another type, or that there is no such name.
func dnsAnswer(query []byte, zone map[string][]netip.Addr) ([]byte, error) {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil {
		return nil, fmt.Errorf("parse dns query: %w", err)
	}
	if head.Response {
		return nil, errors.New("parse dns query: it is an answer")
	}
	q, err := p.Question()
	if err != nil {
		return nil, fmt.Errorf("parse dns query: %w", err)
	}
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: head.ID, Response: true, Authoritative: true, RecursionDesired: head.RecursionDesired,
		},
		Questions: []dnsmessage.Question{q},
	}
	addrs, known := zone[strings.ToLower(q.Name.String())]
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: dnsTTL}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return m.Pack()
}

// dnsAddresses returns the addresses in the answer to the query id.
func dnsAddresses(id uint16, message []byte) ([]netip.Addr, error) {
	var m dnsmessage.Message
	if err := m.Unpack(message); err != nil {
		return nil, fmt.Errorf("parse dns answer: %w", err)
	}
	if !m.Response || m.ID != id {
		return nil, errors.New("parse dns answer: it answers another query")
	}
	var out []netip.Addr
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			out = append(out, netip.AddrFrom4(b.A))
		case *dnsmessage.AAAAResource:
			out = append(out, netip.AddrFrom16(b.AAAA))
		}
	}
	return out, nil
}

// lookUp asks for the question over c, which is connected and has a deadline.
func lookUp(c net.Conn, id uint16, q question) (sent, received int, err error) {
	kind := dnsmessage.TypeA
	if q.Want.Is6() {
		kind = dnsmessage.TypeAAAA
	}
	addrs, sent, received, err := queryDNS(c, id, q.Name, kind)
	if err == nil && !slices.Contains(addrs, q.Want) {
		err = errNoAddress
	}
	return sent, received, err
}

func queryDNS(c net.Conn, id uint16, name string, kind dnsmessage.Type) (addrs []netip.Addr, sent, received int, err error) {
	query, err := dnsQuery(id, name, kind)
	if err != nil {
		return nil, 0, 0, err
	}
	sent, err = c.Write(query)
	if err != nil {
		return nil, sent, 0, fmt.Errorf("send dns query: %w", err)
	}
	buf := make([]byte, maxDNSMessage)
	received, err = c.Read(buf)
	if err != nil {
		return nil, sent, received, fmt.Errorf("read dns answer: %w", err)
	}
	addrs, err = dnsAddresses(id, buf[:received])
	return addrs, sent, received, err
}

// tunnelName is a name as data leaves in: labels full of it.
func tunnelName(seed uint16) string {
	label := fmt.Sprintf("%04x", seed)
	label = strings.Repeat(label, 15)
	return strings.Join([]string{label, label, label, "tunnel", "example"}, ".") + "."
}
