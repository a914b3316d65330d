package manifests

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/netpol"
	"github.com/ringfence/ringfence/internal/policy"
)

// Explain judges a connection at both ends and says why. An end is
// NAMESPACE/KIND/NAME, NAMESPACE/NAME or NAME of a workload, an address, or
// "world"; the destination may be a Service too. port is a number, or a name that
// the destination has, and after a slash its protocol, TCP if there is none.
// Where endpoints of a workload get different answers, each answer is given once.
func (w *World) Explain(source, destination, port string) ([]policy.Connection, error) {
	from, err := w.find(source)
	if err != nil {
		return nil, fmt.Errorf("source %w", err)
	}
	to, err := w.destinations(destination, port)
	if err != nil {
		return nil, err
	}
	var out []policy.Connection
	seen := map[string]bool{}
	for _, s := range from {
		for _, d := range to {
			c := policy.ExplainConnection(s, d.End, d.protocol, d.number)
			text, err := json.Marshal(c)
			if err != nil {
				return nil, fmt.Errorf("explain: %w", err)
			}
			if !seen[string(text)] {
				seen[string(text)] = true
				out = append(out, c)
			}
		}
	}
	return out, nil
}

// destination is an end and the port that is asked about there.
type destination struct {
	policy.End
	protocol flow.Protocol
	number   uint16
}

func (w *World) destinations(name, port string) ([]destination, error) {
	text, protocolText, given := strings.Cut(port, "/")
	protocol, err := flow.TCP, error(nil)
	if given {
		protocol, err = flow.ParseProtocol(protocolText)
	}
	if err == nil && !protocol.HasPorts() {
		err = fmt.Errorf("%s has no ports", protocol)
	}
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", port, err)
	}
	if key, ok := w.service(name); ok {
		return w.backends(key, text, protocol)
	}
	ends, err := w.find(name)
	if err != nil {
		return nil, fmt.Errorf("destination %w", err)
	}
	var out []destination
	for _, e := range ends {
		if n, ok := portOf(e.Named, text, protocol); ok {
			out = append(out, destination{e, protocol, n})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("port %q: want a number from 1 to 65535, or a %s port that %s has a name for", port, protocol, name)
	}
	return out, nil
}

// portOf returns a port's number, given as that or by its name.
func portOf(named []policy.NamedPort, text string, protocol flow.Protocol) (uint16, bool) {
	if n, err := strconv.ParseUint(text, 10, 16); err == nil {
		return uint16(n), n > 0
	}
	for _, p := range named {
		if p.Name == text && p.Protocol == protocol {
			return p.Port, true
		}
	}
	return 0, false
}

// service returns the key of the Service that name means: NAMESPACE/Service/NAME.
func (w *World) service(name string) (string, bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || !strings.EqualFold(parts[1], "service") && !strings.EqualFold(parts[1], "svc") {
		return "", false
	}
	return parts[0] + "/" + parts[2], true
}

// backends returns the endpoints behind a port of a Service, each with the port
// that it gets there.
func (w *World) backends(key, port string, protocol flow.Protocol) ([]destination, error) {
	s, ok := w.services[key]
	if !ok {
		return nil, fmt.Errorf("destination: there is no Service %s", key)
	}
	if len(s.Spec.Selector) == 0 {
		return nil, fmt.Errorf("destination: Service %s selects no pods: name a workload or an address", key)
	}
	var have []string
	for _, p := range s.Spec.Ports {
		of, err := netpol.Protocol(p.Protocol)
		if err != nil {
			return nil, fmt.Errorf("destination: Service %s: %w", key, err)
		}
		have = append(have, strings.TrimPrefix(fmt.Sprintf("%s %d/%s", p.Name, p.Port, of), " "))
		if of != protocol || p.Name != port && strconv.Itoa(int(p.Port)) != port {
			continue
		}
		target := p.TargetPort
		if target == (intstr.IntOrString{}) {
			target = intstr.FromInt32(p.Port)
		}
		namespace, _, _ := strings.Cut(key, "/")
		out := w.behind(&policy.Selector{Namespace: namespace, MatchLabels: s.Spec.Selector}, target.String(), protocol)
		if len(out) == 0 {
			return nil, fmt.Errorf("destination: no workload is behind Service %s with a port %s", key, target.String())
		}
		return out, nil
	}
	return nil, fmt.Errorf("destination: Service %s has no port %s/%s; it has %s", key, port, protocol, strings.Join(have, ", "))
}

func (w *World) behind(s *policy.Selector, port string, protocol flow.Protocol) (out []destination) {
	for _, found := range w.Index.Select(s) {
		for _, e := range w.endpoints(found) {
			if n, ok := portOf(e.Named, port, protocol); ok {
				out = append(out, destination{e, protocol, n})
			}
		}
	}
	return out
}

// find returns the ends that a name means.
func (w *World) find(name string) ([]policy.End, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return w.at(a), nil
	}
	if name == "world" {
		for _, r := range regions(w.Policies) {
			if slices.Contains(everywhere, r.prefix) {
				return w.at(r.sample), nil
			}
		}
	}
	parts := strings.Split(name, "/")
	var found []*workload
	var names []string
	inv := w.Index.Inventory()
	for i := range inv.Workloads {
		k := &inv.Workloads[i]
		same := false
		switch len(parts) {
		case 1:
			same = k.Name == parts[0]
		case 2:
			same = k.Namespace == parts[0] && k.Name == parts[1]
		case 3:
			same = k.Namespace == parts[0] && strings.EqualFold(k.Kind, parts[1]) && k.Name == parts[2]
		}
		if same {
			found = append(found, k)
			names = append(names, k.Ref().String())
		}
	}
	switch len(found) {
	case 1:
		return w.endpoints(found[0]), nil
	case 0:
		return nil, fmt.Errorf("%q: no workload is called that: want NAMESPACE/KIND/NAME as `ringfence connectivity` lists them, an address, or world", name)
	}
	return nil, fmt.Errorf("%q is each of %s: name one of them", name, strings.Join(names, ", "))
}

// at returns the end that has an address.
func (w *World) at(a netip.Addr) []policy.End {
	o, ok := w.Index.Owner(a)
	if !ok {
		return []policy.End{{PeerFacts: w.Index.Peer(a, "")}}
	}
	return slices.DeleteFunc(w.endpoints(o.Workload), func(e policy.End) bool { return e.Addr != a.Unmap() })
}
