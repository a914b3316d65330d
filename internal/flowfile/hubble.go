package flowfile

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/goccy/go-json"

	"github.com/ringfence/ringfence/internal/flow"
)

// hubbleLine is a GetFlowsResponse of Hubble's observer.proto, in the JSON that
// protobuf maps it to; only what is needed of it is read. Older versions write
// the flow alone.
type hubbleLine struct {
	Flow       *hubbleFlow     `json:"flow"`
	LostEvents *hubbleLost     `json:"lost_events"`
	NodeStatus json.RawMessage `json:"node_status"`
	NodeName   string          `json:"node_name"`
	Time       string          `json:"time"`
	AgentEvent json.RawMessage `json:"agent_event"`
	DebugEvent json.RawMessage `json:"debug_event"`
}

type hubbleLost struct {
	Count json.Number `json:"num_events_lost"`
}

// hubbleFlow is a Flow of Hubble's flow.proto.
type hubbleFlow struct {
	Time    string `json:"time"`
	Verdict string `json:"verdict"`
	IP      *struct {
		Source      string `json:"source"`
		Destination string `json:"destination"`
	} `json:"IP"`
	L4               hubbleL4        `json:"l4"`
	Source           verbatim        `json:"source"`
	Destination      verbatim        `json:"destination"`
	Type             string          `json:"Type"`
	NodeName         string          `json:"node_name"`
	SourceNames      []string        `json:"source_names"`
	DestinationNames []string        `json:"destination_names"`
	L7               json.RawMessage `json:"l7"`
	Reply            bool            `json:"reply"`
	EventType        struct {
		Type int `json:"type"`
	} `json:"event_type"`
	SourceService      *hubbleService `json:"source_service"`
	DestinationService *hubbleService `json:"destination_service"`
	Direction          string         `json:"traffic_direction"`
	DropReason         string         `json:"drop_reason_desc"`
	IsReply            *bool          `json:"is_reply"`
}

// verbatim is JSON as it stands in a line. What the decoder gives is a copy
// already: json.RawMessage would make another.
type verbatim []byte

func (v *verbatim) UnmarshalJSON(text []byte) error {
	*v = text
	return nil
}

type hubbleService struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

type hubblePorts struct {
	Source      uint16 `json:"source_port"`
	Destination uint16 `json:"destination_port"`
}

type hubbleICMP struct {
	Type uint8 `json:"type"`
	Code uint8 `json:"code"`
}

type hubbleL4 struct {
	TCP *struct {
		hubblePorts
		Flags struct {
			FIN, SYN, RST, ACK bool
		} `json:"flags"`
	} `json:"TCP"`
	UDP    *hubblePorts `json:"UDP"`
	SCTP   *hubblePorts `json:"SCTP"`
	ICMPv4 *hubbleICMP  `json:"ICMPv4"`
	ICMPv6 *hubbleICMP  `json:"ICMPv6"`
}

// Numbers of Cilium's monitor for event_type.
const (
	eventPolicyVerdict = 5
	eventSocket        = 7
)

// hubble turns lines of Hubble into records.
type hubble struct {
	sink    *Set
	parties map[string]*party // by the JSON of an endpoint
}

// maxRemembered bounds what is remembered of the JSON of endpoints.
const maxRemembered = 1 << 16

var errNoFlow = errors.New("it is no flow of Hubble: want an object with flow, or with IP and l4")

// decodeHubble reads one line. Nothing of it is kept: it may run at the side.
func decodeHubble(text []byte) (l hubbleLine, err error) {
	if bytes.IndexByte(text, 0) >= 0 {
		return l, errors.New("it holds a byte 0, which no JSON has")
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return l, oneLine(err)
	}
	if l.Flow != nil || l.LostEvents != nil || l.isEvent() {
		return l, nil
	}
	var bare hubbleFlow
	if err := json.Unmarshal(text, &bare); err != nil {
		return l, oneLine(err)
	}
	if bare.IP == nil {
		return l, errNoFlow
	}
	l.Flow = &bare
	return l, nil
}

// isEvent reports whether l is not of a flow, yet belongs into such a file.
func (l *hubbleLine) isEvent() bool {
	return l.NodeStatus != nil || l.AgentEvent != nil || l.DebugEvent != nil
}

// take takes one line in. What is not a flow but belongs into such a file is
// counted; anything else is an error.
func (h *hubble) take(l *hubbleLine) error {
	switch {
	case l.Flow != nil:
		return h.flow(l.Flow, l.NodeName)
	case l.LostEvents != nil:
		n, err := l.LostEvents.Count.Int64()
		if err != nil || n < 0 {
			return fmt.Errorf("num_events_lost is %q; want a number", l.LostEvents.Count)
		}
		at, _ := time.Parse(time.RFC3339Nano, l.Time) // a loss without a time is one of the whole file
		h.sink.lose(l.NodeName, at, uint64(n))
		return nil
	}
	h.sink.skip("events that are no flows")
	return nil
}

func (h *hubble) flow(f *hubbleFlow, node string) error {
	if f.NodeName != "" {
		node = f.NodeName
	}
	at, err := time.Parse(time.RFC3339Nano, f.Time)
	if err != nil {
		return fmt.Errorf("time is %q; want one such as 2026-03-02T08:00:00Z", f.Time)
	}
	if !h.sink.wanted(at) {
		return nil
	}
	if f.EventType.Type == eventSocket || f.Type == "SOCK" || f.Verdict == "TRANSLATED" {
		h.sink.skip("translations at a socket: the connections themselves follow")
		return nil
	}
	if f.IP == nil {
		h.sink.skip("flows without addresses")
		return nil
	}
	r := record{time: at, node: node, both: true, protocol: flow.TCP}
	if err := h.ends(f, &r); err != nil {
		return err
	}
	if f.Type == "L7" || f.L7 != nil {
		h.sink.dns(f.L7)
		h.sink.skip("L7 flows: the connections that carry them are flows of their own")
		return nil
	}
	if f.EventType.Type == eventPolicyVerdict {
		h.sink.skip("policy verdicts: the packets judged are flows of their own")
		return nil
	}
	switch f.Verdict {
	case "DROPPED", "ERROR":
		r.dropped = true
		r.denied = f.DropReason == "POLICY_DENIED" || f.DropReason == "POLICY_DENY"
	case "FORWARDED", "REDIRECTED", "TRACED", "AUDIT", "VERDICT_UNKNOWN", "":
	default:
		return fmt.Errorf("verdict is %q; want one of flow.proto's", f.Verdict)
	}
	if why := h.layer4(f, &r); why != "" {
		h.sink.skip(why)
		return nil
	}
	h.direct(f, &r)
	return h.sink.add(&r)
}

func (h *hubble) ends(f *hubbleFlow, r *record) error {
	for _, side := range []struct {
		name    string
		addr    string
		raw     []byte
		names   []string
		service *hubbleService
		into    *end
	}{
		{"source", f.IP.Source, f.Source, f.SourceNames, f.SourceService, &r.from},
		{"destination", f.IP.Destination, f.Destination, f.DestinationNames, f.DestinationService, &r.to},
	} {
		a, err := netip.ParseAddr(side.addr)
		if err != nil {
			return fmt.Errorf("IP.%s is %q; want an address", side.name, side.addr)
		}
		side.into.addr = a.Unmap().WithZone("")
		if side.into.who, err = h.party(side.raw); err != nil {
			return fmt.Errorf("%s: %w", side.name, err)
		}
		if side.into.who.workload.IsZero() {
			for _, n := range side.names {
				h.sink.named(n, side.into.addr)
			}
			if s := side.service; s != nil && s.Name != "" {
				side.into.who = &party{service: true, endpoint: s.Namespace + "/" + s.Name}
			}
		}
	}
	return nil
}

// layer4 reads protocol, ports and flags. A reason is returned for packets that
// are no connection's.
func (h *hubble) layer4(f *hubbleFlow, r *record) (skip string) {
	ports := func(p flow.Protocol, of *hubblePorts) {
		r.protocol, r.from.port, r.to.port = p, of.Source, of.Destination
	}
	switch l := &f.L4; {
	case l.TCP != nil:
		ports(flow.TCP, &l.TCP.hubblePorts)
		r.syn, r.ack, r.reset = l.TCP.Flags.SYN, l.TCP.Flags.ACK, l.TCP.Flags.RST
	case l.UDP != nil:
		ports(flow.UDP, l.UDP)
	case l.SCTP != nil:
		ports(flow.SCTP, l.SCTP)
	case l.ICMPv4 != nil:
		r.protocol = flow.ICMP
		return icmp(r, l.ICMPv4, 8, 0, func(kind uint8) bool { return kind == 3 || kind == 4 || kind == 5 || kind == 11 || kind == 12 })
	case l.ICMPv6 != nil:
		r.protocol = flow.ICMPv6
		if l.ICMPv6.Type >= 130 && l.ICMPv6.Type <= 137 {
			return "neighbour discovery"
		}
		return icmp(r, l.ICMPv6, 128, 129, func(kind uint8) bool { return kind < 128 })
	default:
		return "flows of protocols without ports"
	}
	if r.from.port == 0 || r.to.port == 0 {
		return "flows without ports"
	}
	return ""
}

// icmp keeps echo and what else is asked; errors belong to what they quote.
func icmp(r *record, of *hubbleICMP, request, answer uint8, isError func(uint8) bool) (skip string) {
	if isError(of.Type) {
		return "ICMP errors: they belong to the flows they quote"
	}
	r.to.port = uint16(of.Type)<<8 | uint16(of.Code)
	if of.Type == answer {
		r.reply, r.to.port = true, uint16(request)<<8
	}
	return ""
}

// direct works out who began: what Cilium's connection tracking says, or else
// a SYN. Of anything else nobody knows.
func (h *hubble) direct(f *hubbleFlow, r *record) {
	switch {
	case r.protocol == flow.TCP && r.syn && !r.ack:
		r.initiator, r.began = true, true
	case f.IsReply != nil:
		r.initiator, r.reply = true, *f.IsReply
	case r.protocol == flow.TCP && r.syn:
		r.initiator, r.reply = true, true
	case f.Reply || r.reply: // older versions say it only when it is true
		r.initiator, r.reply = true, true
	}
	if r.initiator && r.protocol != flow.TCP && !r.reply {
		r.began = true
	}
	if r.reply {
		p := r.to.port
		r.from, r.to = r.to, r.from
		if !r.protocol.HasPorts() {
			r.from.port, r.to.port = 0, p
		}
	}
	switch f.Direction {
	case "INGRESS":
		r.at = flow.Ingress
	case "EGRESS":
		r.at = flow.Egress
	}
}

// hubbleEndpoint is an Endpoint of flow.proto.
type hubbleEndpoint struct {
	Identity  uint32   `json:"identity"`
	Namespace string   `json:"namespace"`
	Labels    []string `json:"labels"`
	PodName   string   `json:"pod_name"`
	Workloads []struct {
		Name string `json:"name"`
		Kind string `json:"kind"`
	} `json:"workloads"`
}

func (h *hubble) party(raw []byte) (*party, error) {
	if p, ok := h.parties[string(raw)]; ok {
		return p, nil
	}
	var e hubbleEndpoint
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &e); err != nil {
			return nil, oneLine(err)
		}
	}
	p := h.whois(&e)
	if len(h.parties) >= maxRemembered {
		clear(h.parties)
	}
	h.parties[string(raw)] = p
	return p, nil
}

// Prefixes of Cilium's labels.
const (
	labelNamespace  = "io.kubernetes.pod.namespace"
	labelOfSpace    = "io.cilium.k8s.namespace.labels."
	labelOfCilium   = "io.cilium.k8s."
	sourceKube      = "k8s"
	sourceReserved  = "reserved"
	sourceCIDR      = "cidr"
	sourceFQDN      = "fqdn"
	sourceCIDRGroup = "cidrgroup"
)

func (h *hubble) whois(e *hubbleEndpoint) *party {
	p := &party{endpoint: e.PodName, labels: map[string]string{}, namespaced: map[string]string{}}
	var reserved []string
	for _, l := range e.Labels {
		key, value, _ := strings.Cut(l, "=")
		source, name, given := strings.Cut(key, ":")
		if !given {
			source, name = sourceKube, key
		}
		switch {
		case source == sourceReserved:
			reserved = append(reserved, name)
		case source == sourceCIDR || source == sourceFQDN || source == sourceCIDRGroup:
		case source != sourceKube:
			h.sink.unknownLabels(source)
		case name == labelNamespace:
			if e.Namespace == "" {
				e.Namespace = value
			}
		case strings.HasPrefix(name, labelOfSpace):
			p.namespaced[strings.TrimPrefix(name, labelOfSpace)] = value
		case strings.HasPrefix(name, labelOfCilium):
		case name != "":
			p.labels[name] = value
		}
	}
	if e.Namespace == "" {
		p.reserved = reservedName(reserved, e.Identity)
		return p
	}
	switch {
	case len(e.Workloads) > 0 && e.Workloads[0].Name != "" && e.Workloads[0].Kind != "":
		p.workload = flow.Workload{Namespace: e.Namespace, Kind: e.Workloads[0].Kind, Name: e.Workloads[0].Name}
	case len(p.labels) > 0:
		p.workload = byLabels(e.Namespace, p.labels)
		h.sink.ownerless(p.workload)
	case e.PodName != "":
		p.workload = flow.Workload{Namespace: e.Namespace, Kind: "Pod", Name: e.PodName}
		h.sink.ownerless(p.workload)
	}
	return p
}

// reservedName returns how policies spell a peer of Cilium that is no pod. The
// API server is that wherever it runs.
func reservedName(labels []string, identity uint32) string {
	found := ""
	for _, l := range labels {
		switch l {
		case "kube-apiserver":
			return l
		case "host", "remote-node":
			found = l
		case "world", "world-ipv4", "world-ipv6":
			if found == "" {
				found = flow.IdentityWorld.ReservedName()
			}
		}
	}
	if found != "" || len(labels) > 0 {
		return found
	}
	switch identity { // of Cilium
	case 1:
		return flow.IdentityHost.ReservedName()
	case 2, 9, 10:
		return flow.IdentityWorld.ReservedName()
	case 6:
		return flow.IdentityRemoteNode.ReservedName()
	case 7:
		return flow.IdentityKubeAPIServer.ReservedName()
	}
	return ""
}

func oneLine(err error) error {
	return errors.New(strings.Join(strings.Fields(err.Error()), " "))
}
