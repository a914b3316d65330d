package manifests

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ringfence/ringfence/internal/connection"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/netpol"
	"github.com/ringfence/ringfence/internal/policy"
)

// Explain judges a connection at both ends and says why. An end is what
// connection.Judge.Find takes; the destination may be a Service too, as
// NAMESPACE/Service/NAME. port is a number, or a name that the destination has,
// and after a slash its protocol, TCP if there is none. Where endpoints of a
// workload get different answers, each answer is given once.
func (w *World) Explain(source, destination, port string) ([]policy.Connection, error) {
	source, destination = w.sample(source), w.sample(destination)
	key, ok := w.service(destination)
	if !ok {
		return connection.Explain(w.judge(), w.judge(), source, destination, port)
	}
	from, err := w.judge().Find(source)
	if err != nil {
		return nil, fmt.Errorf("source %w", err)
	}
	asked, err := connection.ParsePort(port)
	if err != nil {
		return nil, err
	}
	to, err := w.backends(key, asked)
	if err != nil {
		return nil, err
	}
	return connection.Between(from, to)
}

// judge knows what the NetworkPolicies say.
func (w *World) judge() *connection.Judge {
	return &connection.Judge{Index: w.Index, Govern: w.govern}
}

// sample returns an address in place of "world": blocks of addresses match it
// only where they hold all that there are.
func (w *World) sample(name string) string {
	if name == flow.IdentityWorld.ReservedName() {
		for _, r := range regions(w.Policies) {
			if slices.Contains(everywhere, r.prefix) {
				return r.sample.String()
			}
		}
	}
	return name
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
func (w *World) backends(key string, asked connection.Port) ([]connection.Target, error) {
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
		if of != asked.Protocol || p.Name != asked.Text && strconv.Itoa(int(p.Port)) != asked.Text {
			continue
		}
		target := p.TargetPort
		if target == (intstr.IntOrString{}) {
			target = intstr.FromInt32(p.Port)
		}
		namespace, _, _ := strings.Cut(key, "/")
		out, err := w.behind(&policy.Selector{Namespace: namespace, MatchLabels: s.Spec.Selector}, target.String()+"/"+asked.Protocol.String())
		switch {
		case err != nil:
			return nil, err
		case len(out) == 0:
			return nil, fmt.Errorf("destination: no workload is behind Service %s with a port %s", key, target.String())
		}
		return out, nil
	}
	return nil, fmt.Errorf("destination: Service %s has no port %s/%s; it has %s", key, asked.Text, asked.Protocol, strings.Join(have, ", "))
}

func (w *World) behind(s *policy.Selector, port string) (out []connection.Target, err error) {
	asked, err := connection.ParsePort(port)
	if err != nil {
		return nil, err
	}
	for _, found := range w.Index.Select(s) {
		ends, err := w.judge().Of(found)
		if err != nil {
			return nil, err
		}
		out = append(out, asked.At(ends)...)
	}
	return out, nil
}
