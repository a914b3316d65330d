package manifests

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/netpol"
	"github.com/ringfence/ringfence/internal/policy"
)

// World is what manifests describe.
type World struct {
	// Index holds the workloads, ordered by name, and the namespaces' labels.
	// Endpoints have addresses only where a pod's status says so.
	Index    *inventory.Index
	Policies []netpol.Policy // ordered by namespace and name
	// Notes are what a reader of the results has to know, in order.
	Notes    []string
	services map[string]corev1.Service
}

// world works out who owns which pods.
func (r *reader) world(path string) (*World, error) {
	if n := len(r.problems); n > maxProblems {
		r.problems = append(r.problems[:maxProblems], fmt.Errorf("and %d more", n-maxProblems))
	}
	if err := errors.Join(r.problems...); err != nil {
		return nil, err
	}
	b := builder{workloads: map[flow.Workload]*inventory.Workload{}, owners: map[flow.Workload]*owner{}}
	for i := range r.owners {
		o := &r.owners[i]
		b.owners[flow.Workload{Namespace: o.Namespace, Kind: o.kind, Name: o.Name}] = o
	}
	for i := range r.owners {
		b.owner(&r.owners[i])
	}
	for i := range r.pods {
		b.pod(&r.pods[i])
	}
	w := &World{Policies: r.policies, services: map[string]corev1.Service{}}
	inv := inventory.Inventory{}
	for _, ref := range slices.SortedFunc(maps.Keys(b.workloads), flow.Workload.Compare) {
		found := b.workloads[ref]
		if len(found.Endpoints) == 0 {
			found.Endpoints = []inventory.Endpoint{{Name: found.Name, Ports: ports(&b.owners[ref].template.Spec)}}
		}
		inv.Workloads = append(inv.Workloads, *found)
	}
	if len(inv.Workloads) == 0 {
		return nil, fmt.Errorf("%s holds no workload: want pods, or objects that make pods, such as a Deployment", path)
	}
	for _, ns := range r.namespaces {
		inv.Namespaces = append(inv.Namespaces, inventory.Namespace{Name: ns.Name, Labels: ns.Labels})
	}
	for _, s := range r.services {
		w.services[namespaceOf(s.Namespace)+"/"+s.Name] = s
	}
	slices.SortFunc(w.Policies, func(a, b netpol.Policy) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	w.Index = inventory.NewIndex(inv)
	w.Notes = slices.Concat(b.notes, w.notes(r.other))
	return w, nil
}

// governing are kinds that change who may reach whom and are not judged here.
var governing = []string{
	"AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy",
	"GlobalNetworkPolicy", "StagedNetworkPolicy", "AuthorizationPolicy",
}

func (w *World) notes(other map[string]int) (out []string) {
	for _, kind := range slices.Sorted(maps.Keys(other)) {
		if slices.Contains(governing, kind) {
			out = append(out, fmt.Sprintf("%s (%d here) is not judged, and may deny or allow more", kind, other[kind]))
		}
	}
	for i := range w.Policies {
		p := &w.Policies[i]
		if len(w.Index.Select(&p.Subjects)) == 0 {
			out = append(out, fmt.Sprintf("NetworkPolicy %s selects no workload", p.Ref()))
		}
	}
	return out
}

// builder turns pods and what makes them into workloads.
type builder struct {
	owners    map[flow.Workload]*owner
	workloads map[flow.Workload]*inventory.Workload
	notes     []string
}

// top walks up to the object that nobody controls, or that is not here.
func (b *builder) top(namespace string, ref flow.Workload, meta *metav1.ObjectMeta) flow.Workload {
	for range len(b.owners) + 1 {
		c := metav1.GetControllerOfNoCopy(meta)
		if c == nil {
			return ref
		}
		ref = flow.Workload{Namespace: namespace, Kind: c.Kind, Name: c.Name}
		o := b.owners[ref]
		if o == nil {
			ref = maker(ref, meta.Labels)
			o = b.owners[ref]
		}
		if o == nil {
			return ref
		}
		meta = &o.ObjectMeta
	}
	return ref // a circle
}

// scheduled is how Kubernetes names a CronJob's Jobs: with minutes since 1970.
var scheduled = regexp.MustCompile(`^(.+)-[0-9]{8,10}$`)

// maker names what made a ReplicaSet or a Job that is not here, by the name that
// its maker gave it: pods of two rollouts, or of two runs, are one workload.
func maker(ref flow.Workload, labels map[string]string) flow.Workload {
	switch ref.Kind {
	case "ReplicaSet":
		if name, ok := strings.CutSuffix(ref.Name, "-"+labels["pod-template-hash"]); ok && labels["pod-template-hash"] != "" {
			ref.Kind, ref.Name = "Deployment", name
		}
	case "Job":
		if m := scheduled.FindStringSubmatch(ref.Name); m != nil {
			ref.Kind, ref.Name = "CronJob", m[1]
		}
	}
	return ref
}

func (b *builder) owner(o *owner) {
	ref := flow.Workload{Namespace: o.Namespace, Kind: o.kind, Name: o.Name}
	if top := b.top(o.Namespace, ref, &o.ObjectMeta); b.owners[top] != nil && top != ref {
		return
	}
	if o.template.Spec.HostNetwork {
		b.hostNetwork(ref)
		return
	}
	b.workloads[ref] = &inventory.Workload{Namespace: ref.Namespace, Kind: ref.Kind, Name: ref.Name, Labels: o.template.Labels}
}

func (b *builder) hostNetwork(ref flow.Workload) {
	note := ref.String() + " is on its nodes' network: policies do not govern it, and peers see a node"
	if !slices.Contains(b.notes, note) {
		b.notes = append(b.notes, note)
	}
}

// automatic are labels that the makers of pods add to those of the template.
var automatic = []string{
	"pod-template-hash", "pod-template-generation", "controller-revision-hash", "controller-uid", "job-name",
	"batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "batch.kubernetes.io/job-completion-index",
	"statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index",
}

func (b *builder) pod(p *corev1.Pod) {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return // it has no network any more
	}
	ns := namespaceOf(p.Namespace)
	ref := b.top(ns, flow.Workload{Namespace: ns, Kind: "Pod", Name: p.Name}, &p.ObjectMeta)
	if p.Spec.HostNetwork {
		b.hostNetwork(ref)
		return
	}
	labels := p.Labels
	if ref.Kind != "Pod" {
		labels = withoutAutomatic(labels)
	}
	w := b.workloads[ref]
	if w == nil {
		w = &inventory.Workload{Namespace: ref.Namespace, Kind: ref.Kind, Name: ref.Name, Labels: labels}
		b.workloads[ref] = w
	}
	if !maps.Equal(withoutAutomatic(w.Labels), withoutAutomatic(labels)) {
		// It is selected, or not, for itself.
		b.notes = append(b.notes, fmt.Sprintf("pod %s/%s has other labels than %s and is judged by itself", ns, p.Name, ref))
		ref = flow.Workload{Namespace: ns, Kind: "Pod", Name: p.Name}
		w = &inventory.Workload{Namespace: ref.Namespace, Kind: ref.Kind, Name: ref.Name, Labels: p.Labels}
		b.workloads[ref] = w
	}
	e := inventory.Endpoint{Name: p.Name, Node: p.Spec.NodeName, Ports: ports(&p.Spec)}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			e.Addresses = append(e.Addresses, a)
		}
	}
	if a, err := netip.ParseAddr(p.Status.PodIP); err == nil && !slices.Contains(e.Addresses, a) {
		e.Addresses = append(e.Addresses, a)
	}
	w.Endpoints = append(w.Endpoints, e)
}

func withoutAutomatic(labels map[string]string) map[string]string {
	out := maps.Clone(labels)
	maps.DeleteFunc(out, func(k, _ string) bool { return slices.Contains(automatic, k) })
	return out
}

// ports returns the named ports of a pod's containers, sidecars among them.
func ports(spec *corev1.PodSpec) (out []policy.NamedPort) {
	containers := slices.Clone(spec.Containers)
	for _, c := range spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, p := range c.Ports {
			protocol, err := netpol.Protocol(p.Protocol)
			if p.Name == "" || err != nil || p.ContainerPort < 1 || p.ContainerPort > 65535 {
				continue // Kubernetes would refuse the pod
			}
			out = append(out, policy.NamedPort{Name: p.Name, Protocol: protocol, Port: uint16(p.ContainerPort)})
		}
	}
	return out
}
