package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
)

// MaxFileSize bounds an inventory file: about 20,000 workloads.
const MaxFileSize = 8 << 20

// Load reads the YAML file at path, fills in defaults and checks it whole.
func Load(path string) (Inventory, error) { return load(path, (*Inventory).Validate) }

// LoadGuardrails reads the guardrails alone of the YAML file at path, which need
// not have anything else, and checks them.
func LoadGuardrails(path string) ([]policy.Guardrail, error) {
	inv, err := load(path, func(inv *Inventory) error {
		c := checker{}
		if len(inv.Guardrails) == 0 {
			c.add("guardrails", "there are none: list at least one")
		}
		c.checkGuardrails(inv.Guardrails)
		return c.error()
	})
	return inv.Guardrails, err
}

func load(path string, check func(*Inventory) error) (Inventory, error) {
	f, err := os.Open(path)
	if err != nil {
		return Inventory{}, fmt.Errorf("open inventory: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	src, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return Inventory{}, fmt.Errorf("read inventory %s: %w", path, err)
	}
	inv, err := parse(src, check)
	if e, ok := errors.AsType[*Error](err); ok {
		e.File = path
	}
	return inv, err
}

// Parse reads YAML, fills in defaults and checks it whole. Every error it
// returns is an *Error.
func Parse(src []byte) (Inventory, error) { return parse(src, (*Inventory).Validate) }

func parse(src []byte, check func(*Inventory) error) (Inventory, error) {
	if len(src) > MaxFileSize {
		return Inventory{}, problem(nil, "larger than %d MiB: split the fleet over several servers", MaxFileSize>>20)
	}
	file, doc, err := decode(src)
	if err != nil {
		return Inventory{}, err
	}
	inv, problems := doc.inventory()
	if e, ok := errors.AsType[*Error](check(&inv)); ok {
		problems = append(problems, e.Problems...)
	}
	if len(problems) == 0 {
		return inv, nil
	}
	for i := range problems {
		problems[i].locate(file)
	}
	return Inventory{}, &Error{Problems: problems}
}

// decode reads src strictly. The YAML library panics on some malformed input;
// that is one more way to say that the file is malformed.
func decode(src []byte) (file *ast.File, doc *document, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = problem(nil, "malformed YAML: check the indentation and the brackets")
		}
	}()
	if file, err = parser.ParseBytes(src, 0); err != nil {
		return nil, nil, yamlError(err)
	}
	if err = plain(file); err != nil {
		return nil, nil, err
	}
	doc = &document{}
	err = yaml.NewDecoder(bytes.NewReader(src), yaml.Strict()).Decode(doc)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, yamlError(err)
	}
	return file, doc, nil
}

// document mirrors Inventory with addresses as text, so that a malformed one is
// reported with its place.
type document struct {
	Nodes []struct {
		Name       string   `yaml:"name"`
		Addresses  []string `yaml:"addresses"`
		Interfaces []struct {
			Name    string `yaml:"name"`
			Kind    string `yaml:"kind"`
			Address string `yaml:"address"`
			Host    bool   `yaml:"host"`
		} `yaml:"interfaces"`
		DenyLists []DenyList `yaml:"denyLists"`
		Pending   string     `yaml:"pending"`
	} `yaml:"nodes"`
	Workloads []struct {
		Namespace string            `yaml:"namespace"`
		Kind      string            `yaml:"kind"`
		Name      string            `yaml:"name"`
		Labels    map[string]string `yaml:"labels"`
		Endpoints []struct {
			Name      string   `yaml:"name"`
			Node      string   `yaml:"node"`
			Interface string   `yaml:"interface"`
			Host      bool     `yaml:"host"`
			Tunnels   []Tunnel `yaml:"tunnels"`
			Addresses []string `yaml:"addresses"`
			Ports     []struct {
				Name     string `yaml:"name"`
				Protocol string `yaml:"protocol"`
				Port     uint16 `yaml:"port"`
			} `yaml:"ports"`
		} `yaml:"endpoints"`
	} `yaml:"workloads"`
	Guardrails []policy.Guardrail `yaml:"guardrails"`
	Namespaces []Namespace        `yaml:"namespaces"`
	Names      []struct {
		Name      string   `yaml:"name"`
		Addresses []string `yaml:"addresses"`
	} `yaml:"names"`
	Services []struct {
		Namespace string   `yaml:"namespace"`
		Name      string   `yaml:"name"`
		Addresses []string `yaml:"addresses"`
		Ports     []struct {
			Protocol   string `yaml:"protocol"`
			Port       uint16 `yaml:"port"`
			TargetPort uint16 `yaml:"targetPort"`
			TargetName string `yaml:"targetName"`
		} `yaml:"ports"`
		Selector  map[string]string `yaml:"selector"`
		Endpoints []string          `yaml:"endpoints"`
		Reserved  string            `yaml:"reserved"`
	} `yaml:"services"`
}

// Defaults of a workload whose file does not say.
const (
	DefaultNamespace = "default"
	DefaultKind      = "Host"
)

func (d *document) inventory() (Inventory, []Problem) {
	var inv Inventory
	var problems []Problem
	list := func(path string, texts []string) []netip.Addr {
		var out []netip.Addr
		for i, s := range texts {
			a, err := netip.ParseAddr(s)
			if err != nil {
				problems = append(problems, Problem{
					Path:    fmt.Sprintf("%s[%d]", path, i),
					Message: fmt.Sprintf("%q is not an IP address: write it as 10.0.0.1 or fd00::1, without a prefix length", s),
				})
				// Kept as the zero address, so that later paths still count right.
			}
			out = append(out, a)
		}
		return out
	}
	addresses := func(path string, texts []string) []netip.Addr { return list(path+".addresses", texts) }
	protocol := func(path, s string) flow.Protocol {
		if s == "" {
			return flow.TCP
		}
		p, err := flow.ParseProtocol(s)
		if err != nil {
			problems = append(problems, Problem{Path: path + ".protocol", Message: err.Error()})
			return flow.TCP // given, all the same
		}
		return p
	}
	prefix := func(path, s string) netip.Prefix {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			problems = append(problems, Problem{
				Path:    path,
				Message: fmt.Sprintf("%q is not a prefix: write it as 10.0.0.0/8 or fd00::/8", s),
			})
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0) // given, all the same
		}
		return p
	}
	for i, n := range d.Nodes {
		out := Node{Name: n.Name, Addresses: addresses(fmt.Sprintf("nodes[%d]", i), n.Addresses), DenyLists: n.DenyLists}
		for j, r := range n.Interfaces {
			rule := InterfaceRule{Name: r.Name, Kind: r.Kind, Host: r.Host}
			if r.Address != "" {
				rule.Address = prefix(fmt.Sprintf("nodes[%d].interfaces[%d].address", i, j), r.Address)
			}
			out.Interfaces = append(out.Interfaces, rule)
		}
		switch n.Pending {
		case "":
		case flow.VerdictAllow.String(), flow.VerdictDeny.String():
			out.Pending, _ = flow.ParseVerdict(n.Pending)
		default:
			problems = append(problems, Problem{
				Path:    fmt.Sprintf("nodes[%d].pending", i),
				Message: fmt.Sprintf("%q: want %s or %s", n.Pending, flow.VerdictAllow, flow.VerdictDeny),
			})
		}
		inv.Nodes = append(inv.Nodes, out)
	}
	for i, w := range d.Workloads {
		out := Workload{Namespace: w.Namespace, Kind: w.Kind, Name: w.Name, Labels: w.Labels}
		if out.Namespace == "" {
			out.Namespace = DefaultNamespace
		}
		if out.Kind == "" {
			out.Kind = DefaultKind
		}
		for j, e := range w.Endpoints {
			out.Endpoints = append(out.Endpoints, Endpoint{
				Name: e.Name, Node: e.Node, Interface: e.Interface, Host: e.Host, Tunnels: e.Tunnels,
				Addresses: addresses(fmt.Sprintf("workloads[%d].endpoints[%d]", i, j), e.Addresses),
			})
			for k, p := range e.Ports {
				out.Endpoints[j].Ports = append(out.Endpoints[j].Ports, policy.NamedPort{
					Name: p.Name, Protocol: protocol(fmt.Sprintf("workloads[%d].endpoints[%d].ports[%d]", i, j, k), p.Protocol), Port: p.Port,
				})
			}
		}
		inv.Workloads = append(inv.Workloads, out)
	}
	inv.Guardrails, inv.Namespaces = d.Guardrails, d.Namespaces
	for i, n := range d.Names {
		inv.Names = append(inv.Names, Name{Name: n.Name, Addresses: addresses(fmt.Sprintf("names[%d]", i), n.Addresses)})
	}
	for i, s := range d.Services {
		path := fmt.Sprintf("services[%d]", i)
		out := Service{
			Namespace: s.Namespace, Name: s.Name, Addresses: addresses(path, s.Addresses),
			Selector: s.Selector, Endpoints: list(path+".endpoints", s.Endpoints), Reserved: s.Reserved,
		}
		if out.Namespace == "" {
			out.Namespace = DefaultNamespace
		}
		for j, p := range s.Ports {
			out.Ports = append(out.Ports, ServicePort{
				Protocol: protocol(fmt.Sprintf("%s.ports[%d]", path, j), p.Protocol), Port: p.Port, TargetPort: p.TargetPort, TargetName: p.TargetName,
			})
		}
		inv.Services = append(inv.Services, out)
	}
	return inv, problems
}

// plain refuses what an inventory has no use for and a reader could be misled or
// exhausted by: several documents, and aliases, which can multiply a file.
func plain(file *ast.File) error {
	docs := 0
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if docs++; docs > 1 {
			return problem(d.Body, "a second YAML document: put everything into one")
		}
		for _, t := range []ast.NodeType{ast.AnchorType, ast.AliasType, ast.MergeKeyType} {
			if found := ast.Filter(t, d.Body); len(found) > 0 {
				return problem(found[0], "anchors and aliases are not supported: write the value out")
			}
		}
	}
	return nil
}

// locate finds the place of p's path, or of the nearest parent that the file has.
func (p *Problem) locate(file *ast.File) {
	for path := p.Path; path != ""; path = path[:max(strings.LastIndexAny(path, ".["), 0)] {
		at, err := yaml.PathString("$." + path)
		if err != nil {
			continue
		}
		if node, err := at.FilterFile(file); err == nil && node != nil {
			p.place(node)
			return
		}
	}
}

func (p *Problem) place(node ast.Node) {
	if t := node.GetToken(); t != nil && t.Position != nil {
		p.Line, p.Column = t.Position.Line, t.Position.Column
	}
}

func problem(node ast.Node, format string, args ...any) error {
	p := Problem{Message: fmt.Sprintf(format, args...)}
	if node != nil {
		p.place(node)
	}
	return &Error{Problems: []Problem{p}}
}

// yamlError turns the decoder's many-line error into one line with its place.
func yamlError(err error) error {
	p := Problem{Message: strings.Join(strings.Fields(err.Error()), " ")}
	if e, ok := errors.AsType[yaml.Error](err); ok {
		p.Message = strings.Join(strings.Fields(e.GetMessage()), " ")
		if t := e.GetToken(); t != nil && t.Position != nil {
			p.Line, p.Column = t.Position.Line, t.Position.Column
		}
	}
	return &Error{Problems: []Problem{p}}
}
