package truth

import (
	"embed"
	"fmt"
	"strconv"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
)

//go:embed testdata/*.csv
var fixtures embed.FS

// App is an application: its workloads and its true edges.
type App struct {
	Name      string
	Workloads []Workload
	Edges     []Edge
}

// Workload is a deployment of an application.
type Workload struct {
	Name, Namespace, Kind string
	Labels                map[string]string
	Ports                 []Port
	// HostNetwork pods have their node's address, and no policy governs them.
	HostNetwork bool
}

// Port is a port that a workload's containers declare.
type Port struct {
	Protocol flow.Protocol
	Port     uint16
}

// Edge is who connects to whom. Names that begin with @ are no workloads.
type Edge struct {
	Client, Server string
	Port
}

// Peers that are no workloads of the application.
const (
	External  = "@external"  // a client out there
	Stranger  = "@stranger"  // another address out there, whom nobody knows
	APIServer = "@apiserver" // a managed one, with an address of its own
	Node      = "@node"      // any process of any node
)

// dns is the cluster's resolver, a workload of its own.
const dns = "coredns"

// Apps are the applications there are.
func Apps() []string { return []string{"online-boutique", "kube-prometheus"} }

// Load reads an application.
func Load(name string) (App, error) {
	app := App{Name: name}
	hosts := map[string]bool{}
	err := records(name+"-workloads.csv", 5, func(f []string) error {
		w := Workload{Name: f[0], Namespace: f[1], Kind: f[2], Labels: map[string]string{}, HostNetwork: f[2] == "host-network"}
		for _, pair := range strings.Split(f[3], ";") {
			k, v, _ := strings.Cut(pair, "=")
			w.Labels[k] = v
		}
		for _, text := range strings.Split(f[4], ";") {
			protocol, number, ok := strings.Cut(text, "/")
			if !ok {
				continue
			}
			p, err := port(protocol, number)
			if err != nil {
				return err
			}
			w.Ports = append(w.Ports, p)
		}
		hosts[w.Name] = w.HostNetwork
		app.Workloads = append(app.Workloads, w)
		return nil
	})
	if err != nil {
		return App{}, err
	}
	app.Workloads = append(app.Workloads, Workload{
		Name: dns, Namespace: "kube-system", Kind: "Deployment", Labels: map[string]string{"k8s-app": "kube-dns"},
		Ports: []Port{{flow.UDP, 53}, {flow.TCP, 53}, {flow.TCP, 9153}},
	})
	canonical := func(name string) string {
		switch {
		case name == "@dns" || name == "@kube-system/coredns":
			return dns
		case strings.HasPrefix(name, "@host/") || hosts[name]:
			return Node
		}
		return name
	}
	err = records(name+"-edges.csv", 4, func(f []string) error {
		p, err := port(f[2], f[3])
		app.Edges = append(app.Edges, Edge{canonical(f[0]), canonical(f[1]), p})
		return err
	})
	return app, err
}

func port(protocol, number string) (Port, error) {
	p, err := flow.ParseProtocol(protocol)
	if err != nil {
		return Port{}, err
	}
	n, err := strconv.ParseUint(number, 10, 16)
	return Port{p, uint16(n)}, err
}

func records(name string, fields int, each func([]string) error) error {
	text, err := fixtures.ReadFile("testdata/" + name)
	if err != nil {
		return err
	}
	for n, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, ",")
		if len(f) != fields {
			return fmt.Errorf("%s:%d: %d fields, want %d", name, n+1, len(f), fields)
		}
		if err := each(f); err != nil {
			return fmt.Errorf("%s:%d: %w", name, n+1, err)
		}
	}
	return nil
}
