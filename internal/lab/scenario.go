package lab

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// Scenario is what a lab consists of and who talks to whom in it.
type Scenario struct {
	Name  string `yaml:"name"`
	Nodes []Node `yaml:"nodes"`
	// Everywhere is served by every workload besides its own ports.
	Everywhere []Listener `yaml:"everywhere"`
	Workloads  []Workload `yaml:"workloads"`
	External   External   `yaml:"external"`
	// Calls are the only place where legitimate traffic is written down.
	Calls   []Call   `yaml:"calls"`
	Attacks []Attack `yaml:"attacks"`
}

// Node is a machine of the lab. Like every host it has one address of each family.
type Node struct {
	Name      string       `yaml:"name"`
	Addresses []netip.Addr `yaml:"addresses"`
}

// Namespace returns the name of the node's network namespace.
func (n *Node) Namespace() string { return namespacePrefix + n.Name }

// Workload is a set of endpoints that serve and call the same.
type Workload struct {
	Namespace string            `yaml:"namespace"`
	Name      string            `yaml:"name"`
	Labels    map[string]string `yaml:"labels"`
	Serves    []Listener        `yaml:"serves"`
	// Probe, if given, is what each endpoint's node connects to as a health check.
	Probe     *Probe     `yaml:"probe"`
	Endpoints []Endpoint `yaml:"endpoints"`
}

// Ref returns the workload's name as the inventory has it.
func (w *Workload) Ref() flow.Workload {
	return flow.Workload{Namespace: w.Namespace, Kind: inventory.DefaultKind, Name: w.Name}
}

// Endpoint is one replica of a workload: a host behind a node.
type Endpoint struct {
	Node      string       `yaml:"node"`
	Addresses []netip.Addr `yaml:"addresses"`
}

// Probe is a TCP connection that is closed as soon as it stands.
type Probe struct {
	Port  uint16        `yaml:"port"`
	Every time.Duration `yaml:"every"` // 1s unless given
}

// External are hosts that no inventory knows, behind one of the nodes.
type External struct {
	Node  string `yaml:"node"`
	Peers []Peer `yaml:"peers"`
}

// Peer is one host outside.
type Peer struct {
	Name      string       `yaml:"name"`
	Addresses []netip.Addr `yaml:"addresses"`
	Serves    []Listener   `yaml:"serves"`
}

// Listener is a port that answers.
type Listener struct {
	Protocol flow.Protocol `yaml:"protocol"` // TCP unless given
	Port     uint16        `yaml:"port"`
	Speaks   Speech        `yaml:"speaks"` // request over TCP, dns over UDP, unless given
}

// Speech is what a listener understands.
type Speech string

// Speeches.
const (
	SpeaksRequest Speech = "request" // asked for a number of bytes, sends that many
	SpeaksSSH     Speech = "ssh"     // sends a banner
	SpeaksDNS     Speech = "dns"     // answers for the workloads' names
)

// Call is a client's habit of asking a server. A client or a server is a
// workload (namespace/name) or an external peer (its name).
type Call struct {
	From     string        `yaml:"from"`
	To       string        `yaml:"to"`
	Protocol flow.Protocol `yaml:"protocol"` // TCP unless given
	Port     uint16        `yaml:"port"`
	// Every is the time between two requests of one client host: 500ms unless given.
	Every time.Duration `yaml:"every"`
	// First is the delay of the first request after the lab is first let go,
	// less than Every unless given.
	First   time.Duration `yaml:"first"`
	Send    int           `yaml:"send"`    // payload of a request
	Receive int           `yaml:"receive"` // payload of its answer
	// Persistent, if given, also keeps one connection to each server address
	// open and sends a request over it that often.
	Persistent time.Duration `yaml:"persistent"`
	// Idle calls take part in OpenIdle and UseIdle.
	Idle bool `yaml:"idle"`
	// Rare calls reach every address of the server at each turn, so that one
	// turn shows the whole edge.
	Rare bool `yaml:"rare"`
}

// Attack is traffic that nothing legitimate resembles.
type Attack struct {
	Name    string   `yaml:"name"`
	From    string   `yaml:"from"`
	Send    int      `yaml:"send"` // payload of each request: 64 unless given
	Targets []Target `yaml:"targets"`
}

// Target is what an attack tries to get an answer from.
type Target struct {
	To       string        `yaml:"to"`
	Protocol flow.Protocol `yaml:"protocol"` // TCP unless given
	Port     uint16        `yaml:"port"`
}

const maxScenarioFile = 1 << 20

//go:embed online-boutique.yaml
var onlineBoutique []byte

// Default returns the built-in scenario.
func Default() *Scenario {
	s, err := parse(onlineBoutique, "online-boutique.yaml")
	if err != nil {
		panic(err) // it is compiled in and tested
	}
	return s
}

// Load reads the scenario file at path, fills in defaults and checks it whole.
func Load(path string) (*Scenario, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open scenario: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	src, err := io.ReadAll(io.LimitReader(f, maxScenarioFile+1))
	if err != nil {
		return nil, fmt.Errorf("read scenario %s: %w", path, err)
	}
	if len(src) > maxScenarioFile {
		return nil, fmt.Errorf("scenario %s is larger than %d MiB: leave something out", path, maxScenarioFile>>20)
	}
	return parse(src, path)
}

func parse(src []byte, file string) (s *Scenario, err error) {
	defer func() {
		// The YAML library panics on some malformed input.
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("scenario %s: malformed YAML: check the indentation and the brackets", file)
		}
	}()
	tree, err := parser.ParseBytes(src, 0)
	if err != nil {
		return nil, yamlError(file, nil, err)
	}
	s = &Scenario{}
	err = yaml.NewDecoder(bytes.NewReader(src), yaml.Strict()).Decode(s)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, yamlError(file, tree, err)
	}
	s.setDefaults()
	if e, ok := errors.AsType[*ScenarioError](s.Validate()); ok {
		e.File = file
		for i := range e.Problems {
			locate(&e.Problems[i], tree)
		}
		return nil, e
	}
	return s, nil
}

// yamlError turns the decoder's many-line error into one line with its place.
func yamlError(file string, tree *ast.File, err error) error {
	p := inventory.Problem{Message: strings.Join(strings.Fields(err.Error()), " ")}
	if e, ok := errors.AsType[yaml.Error](err); ok {
		p.Message = strings.Join(strings.Fields(e.GetMessage()), " ")
		if t := e.GetToken(); t != nil && t.Position != nil {
			p.Line, p.Column = t.Position.Line, t.Position.Column
		}
	} else if tree != nil {
		// The types' own errors have no place, but quote the value.
		for _, d := range tree.Docs {
			ast.Walk(quoted{&p}, d)
		}
	}
	return &ScenarioError{File: file, Problems: []inventory.Problem{p}}
}

// quoted places a problem at the first scalar that its message quotes.
type quoted struct{ p *inventory.Problem }

// Visit implements ast.Visitor.
func (q quoted) Visit(n ast.Node) ast.Visitor {
	s, ok := n.(ast.ScalarNode)
	if ok && q.p.Line == 0 && strings.Contains(q.p.Message, strconv.Quote(s.GetToken().Value)) {
		q.p.Line, q.p.Column = s.GetToken().Position.Line, s.GetToken().Position.Column
	}
	return q
}

// locate finds the line of p's path, or of the nearest parent that the file has.
func locate(p *inventory.Problem, tree *ast.File) {
	for path := p.Path; path != ""; path = path[:max(strings.LastIndexAny(path, ".["), 0)] {
		at, err := yaml.PathString("$." + path)
		if err != nil {
			continue
		}
		if node, err := at.FilterFile(tree); err == nil && node != nil && node.GetToken() != nil {
			p.Line, p.Column = node.GetToken().Position.Line, node.GetToken().Position.Column
			return
		}
	}
}

// Defaults of what a scenario leaves out.
const (
	defaultEvery      = 500 * time.Millisecond
	defaultProbeEvery = time.Second
	defaultAttackSend = 64
)

func (s *Scenario) setDefaults() {
	listeners := func(ls []Listener) {
		for i := range ls {
			l := &ls[i]
			setDefault(&l.Protocol, flow.TCP)
			if l.Protocol == flow.UDP {
				setDefault(&l.Speaks, SpeaksDNS)
			}
			setDefault(&l.Speaks, SpeaksRequest)
		}
	}
	listeners(s.Everywhere)
	for i := range s.Workloads {
		listeners(s.Workloads[i].Serves)
		if p := s.Workloads[i].Probe; p != nil {
			setDefault(&p.Every, defaultProbeEvery)
		}
	}
	for i := range s.External.Peers {
		listeners(s.External.Peers[i].Serves)
	}
	for i := range s.Calls {
		setDefault(&s.Calls[i].Protocol, flow.TCP)
		setDefault(&s.Calls[i].Every, defaultEvery)
	}
	for i := range s.Attacks {
		setDefault(&s.Attacks[i].Send, defaultAttackSend)
		for j := range s.Attacks[i].Targets {
			setDefault(&s.Attacks[i].Targets[j].Protocol, flow.TCP)
		}
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
