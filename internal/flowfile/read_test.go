package flowfile

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ringfence/ringfence/internal/flow"
)

// pods of the cases, as Hubble writes endpoints.
const (
	front = `{"ID":10,"identity":1001,"namespace":"shop","labels":["k8s:app=front","k8s:io.kubernetes.pod.namespace=shop","k8s:io.cilium.k8s.namespace.labels.team=sales"],"pod_name":"front-1","workloads":[{"name":"front","kind":"Deployment"}]}`
	cart  = `{"ID":20,"identity":1002,"namespace":"shop","labels":["k8s:app=cart"],"pod_name":"cart-1","workloads":[{"name":"cart","kind":"Deployment"}]}`
	loose = `{"ID":30,"identity":1003,"namespace":"shop","labels":["k8s:app=loose","k8s:pod-template-hash=5c9f"],"pod_name":"loose-5c9f-x"}`
	world = `{"identity":2,"labels":["reserved:world"]}`
	host  = `{"ID":1,"identity":1,"labels":["reserved:host"]}`
	api   = `{"identity":7,"labels":["reserved:kube-apiserver","reserved:remote-node"]}`
)

const (
	syn, synAck, ack, fin, rst = `"SYN":true`, `"SYN":true,"ACK":true`, `"ACK":true`, `"FIN":true,"ACK":true`, `"RST":true`
)

// packet is one line of Hubble.
type packet struct {
	src, dst, srcIP, dstIP string
	l4                     string
	reply                  string // "true", "false", "null" or absent
	at, verdict, more      string
	second                 int
}

func (p packet) String() string {
	or := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	or(&p.src, front)
	or(&p.dst, cart)
	or(&p.srcIP, "10.0.0.1")
	or(&p.dstIP, "10.0.0.2")
	or(&p.at, "EGRESS")
	or(&p.verdict, "FORWARDED")
	reply := ""
	if p.reply != "" {
		reply = `,"is_reply":` + p.reply
	}
	when := time.Date(2026, 3, 2, 8, 0, p.second, 0, time.UTC).Format(time.RFC3339)
	return fmt.Sprintf(`{"flow":{"time":%q,"verdict":%q,"IP":{"source":%q,"destination":%q},"l4":{%s},"source":%s,"destination":%s,"Type":"L3_L4","node_name":"node-1","event_type":{"type":4},"traffic_direction":%q%s%s},"node_name":"node-1","time":%q}`,
		when, p.verdict, p.srcIP, p.dstIP, p.l4, p.src, p.dst, p.at, reply, p.more, when)
}

func tcp(from, to int, flags string) string {
	return fmt.Sprintf(`"TCP":{"source_port":%d,"destination_port":%d,"flags":{%s}}`, from, to, flags)
}

func udp(from, to int) string {
	return fmt.Sprintf(`"UDP":{"source_port":%d,"destination_port":%d}`, from, to)
}

// back is the packet with its ends swapped.
func (p packet) back(l4, reply string) packet {
	q := packet{src: p.dst, dst: p.src, srcIP: p.dstIP, dstIP: p.srcIP, l4: l4, reply: reply, at: p.at, second: p.second, more: p.more}
	if q.src == "" {
		q.src = cart
	}
	if q.dst == "" {
		q.dst = front
	}
	if q.srcIP == "" {
		q.srcIP = "10.0.0.2"
	}
	if q.dstIP == "" {
		q.dstIP = "10.0.0.1"
	}
	return q
}

func readLines(t *testing.T, format string, lines ...any) *Set {
	t.Helper()
	texts := make([]string, len(lines))
	for i, l := range lines {
		texts[i] = fmt.Sprint(l)
	}
	s, err := Read(t.Context(), Config{Format: format}, []string{"-"}, strings.NewReader(strings.Join(texts, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// edgeTexts writes edges shortly: direction, ends, port, connections and how
// many were answered.
func edgeTexts(t *testing.T, s *Set) []string {
	t.Helper()
	edges, err := s.Edges(t.Context(), flow.EdgeFilter{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range edges {
		out = append(out, fmt.Sprintf("%s %s > %s %s %d: %d/%d denied %d", e.Direction, e.Source, e.Destination, e.Protocol, e.Port, e.Answered, e.Connections, e.DeniedLive))
	}
	slices.Sort(out)
	return out
}

func TestHubbleEdges(t *testing.T) {
	const egress, ingress = "egress shop/Deployment/front > shop/Deployment/cart ", "ingress shop/Deployment/front > shop/Deployment/cart "
	out := packet{l4: tcp(40000, 80, syn), reply: "false"}
	both := func(s string) []string { return []string{egress + s, ingress + s} }
	world6 := packet{src: world, srcIP: "2001:db8::7", dstIP: "fd00::2", l4: tcp(40000, 80, syn), reply: "false", at: "INGRESS"}
	for _, c := range []struct {
		name  string
		lines []any
		want  []string
	}{
		{"a whole connection", []any{out, out.back(tcp(80, 40000, synAck), "true"), packet{l4: tcp(40000, 80, fin), reply: "false"}, out.back(tcp(80, 40000, fin), "true")}, both("TCP 80: 1/1 denied 0")},
		{"a connection whose lines end at the answer", []any{out, out.back(tcp(80, 40000, synAck), "true")}, both("TCP 80: 1/1 denied 0")},
		{"seen at both ends and once more on the way", []any{out, out, packet{l4: tcp(40000, 80, syn), reply: "false", at: "INGRESS"}, out.back(tcp(80, 40000, synAck), "true"), out.back(tcp(80, 40000, synAck), "true")}, both("TCP 80: 1/1 denied 0")},
		{"never answered", []any{out}, both("TCP 80: 0/1 denied 0")},
		{"refused", []any{out, out.back(tcp(80, 40000, rst+","+ack), "true")}, both("TCP 80: 0/1 denied 0")},
		{"half open, then reset by who began", []any{out, out.back(tcp(80, 40000, synAck), "true"), packet{l4: tcp(40000, 80, rst), reply: "false"}}, both("TCP 80: 0/1 denied 0")},
		{"the answer's direction alone", []any{out.back(tcp(80, 40000, fin), "true")}, both("TCP 80: 1/0 denied 0")},
		{"the port is used again after the end", []any{out, out.back(tcp(80, 40000, fin), "true"), packet{l4: tcp(40000, 80, syn), reply: "false", second: 9}}, both("TCP 80: 1/2 denied 0")},
		{"a SYN tells although is_reply does not", []any{packet{l4: tcp(40000, 80, syn), reply: "null"}, out.back(tcp(80, 40000, synAck), "")}, both("TCP 80: 1/1 denied 0")},
		{"nobody knows who began", []any{packet{l4: tcp(40000, 80, ack), reply: "null"}}, []string{"unknown shop/Deployment/front > shop/Deployment/cart TCP 80: 0/0 denied 0"}},
		{"nobody knows, but another flow shows who listens", []any{packet{l4: tcp(80, 41000, ack), src: cart, dst: front}, out},
			[]string{egress + "TCP 80: 0/1 denied 0", ingress + "TCP 80: 0/1 denied 0", "unknown shop/Deployment/front > shop/Deployment/cart TCP 80: 0/0 denied 0"}},
		{"UDP on the same port is another edge", []any{out, packet{l4: udp(40000, 80), reply: "false"}, out.back(udp(80, 40000), "true")}, []string{egress + "TCP 80: 0/1 denied 0", egress + "UDP 80: 1/1 denied 0", ingress + "TCP 80: 0/1 denied 0", ingress + "UDP 80: 1/1 denied 0"}},
		{"UDP of unknown direction", []any{packet{l4: udp(40000, 53)}}, []string{"unknown shop/Deployment/front > shop/Deployment/cart UDP 53: 0/0 denied 0"}},
		{"SCTP", []any{packet{l4: `"SCTP":{"source_port":5000,"destination_port":5001}`, reply: "false"}}, both("SCTP 5001: 0/1 denied 0")},
		{"echo and its answer", []any{packet{l4: `"ICMPv4":{"type":8}`, reply: "false"}, out.back(`"ICMPv4":{}`, "true")}, both("ICMP 2048: 1/1 denied 0")},
		{"from the world, IPv6", []any{world6, world6.back(tcp(80, 40000, synAck), "true")}, []string{"ingress world/2001:db8::7 > shop/Deployment/cart TCP 80: 1/1 denied 0"}},
		{"to the API server", []any{packet{dst: api, dstIP: "192.0.2.1", l4: tcp(40000, 6443, syn), reply: "false"}}, []string{"egress shop/Deployment/front > kube-apiserver/192.0.2.1 TCP 6443: 0/1 denied 0"}},
		{"from the node", []any{packet{src: host, srcIP: "192.0.2.9", l4: tcp(40000, 80, syn), reply: "false", at: "INGRESS"}}, []string{"ingress host/192.0.2.9 > shop/Deployment/cart TCP 80: 0/1 denied 0"}},
		{"denied by a policy", []any{packet{l4: tcp(40000, 80, syn), reply: "false", verdict: "DROPPED", more: `,"drop_reason_desc":"POLICY_DENIED"`}}, both("TCP 80: 0/1 denied 1")},
		{"dropped for another reason", []any{packet{l4: tcp(40000, 80, syn), reply: "false", verdict: "DROPPED", more: `,"drop_reason_desc":"STALE_OR_UNROUTABLE_IP"`}}, both("TCP 80: 0/1 denied 0")},
		{"pods without an owner, by their labels", []any{packet{dst: loose, l4: tcp(40000, 80, syn), reply: "false"}},
			[]string{"egress shop/Deployment/front > shop/Labels/app=loose TCP 80: 0/1 denied 0", "ingress shop/Deployment/front > shop/Labels/app=loose TCP 80: 0/1 denied 0"}},
		{"the flow alone, as older versions write it", []any{`{"time":"2026-03-02T08:00:00Z","verdict":"FORWARDED","IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"l4":{` + tcp(40000, 80, syn) + `},"source":` + front + `,"destination":` + cart + `,"traffic_direction":"EGRESS"}`}, both("TCP 80: 0/1 denied 0")},
		{"what is no connection", []any{
			packet{l4: tcp(40000, 80, syn), more: `,"event_type":{"type":5}`}, packet{l4: `"ICMPv4":{"type":3}`}, packet{l4: `"ICMPv6":{"type":135}`},
			packet{l4: tcp(40000, 80, syn), more: `,"l7":{"type":"REQUEST","http":{"method":"GET"}}`}, packet{l4: "", reply: "false"},
			`{"agent_event":{"type":"AGENT_STARTED"},"node_name":"node-1"}`, `{"node_status":{"state_change":"NODE_CONNECTED"},"time":"2026-03-02T08:00:00Z"}`,
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := readLines(t, Hubble, c.lines...)
			if s.Summary.Bad > 0 {
				t.Fatalf("bad lines: %v", s.Summary.First)
			}
			if got := edgeTexts(t, s); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestServices(t *testing.T) {
	via := packet{dst: `{"identity":2,"labels":["reserved:world"]}`, dstIP: "10.96.0.10", l4: tcp(40000, 80, syn), reply: "false", more: `,"destination_service":{"name":"cart","namespace":"shop"}`}
	behind := packet{l4: tcp(40000, 8080, syn), reply: "false"}
	seen := readLines(t, Hubble, via, behind)
	if got := edgeTexts(t, seen); len(got) != 2 || len(seen.Summary.Notes) != 0 {
		t.Errorf("translated: %v, notes %v", got, seen.Summary.Notes)
	}
	hidden := readLines(t, Hubble, via)
	if got := edgeTexts(t, hidden); len(got) != 0 || !slices.Contains(hidden.Summary.Notes, "1 connections to Service shop/cart are left out: no line shows which backend got them") {
		t.Errorf("not translated: %v, notes %v", got, hidden.Summary.Notes)
	}
}

func TestWhoIsWho(t *testing.T) {
	other := strings.Replace(cart, `"name":"cart"`, `"name":"other"`, 1)
	v1, v2 := strings.Replace(cart, `"k8s:app=cart"`, `"k8s:app=cart","k8s:release=a"`, 1), strings.Replace(cart, `"k8s:app=cart"`, `"k8s:app=cart","k8s:release=b"`, 1)
	one := packet{dst: v1, l4: tcp(40000, 80, syn), reply: "false"}
	s := readLines(t, Hubble, one, packet{dst: other, l4: tcp(40001, 80, syn), reply: "false"}, packet{dst: v2, l4: tcp(40002, 80, syn), reply: "false", second: 1},
		packet{dst: loose, dstIP: "10.0.0.3", l4: tcp(40003, 80, syn), reply: "false"},
		packet{dst: strings.Replace(cart, "k8s:app=cart", "mesos:app=cart", 1), l4: tcp(40004, 80, syn), reply: "false", dstIP: "10.0.0.4"})
	want := []string{
		"shop/Labels/app=loose: the lines name no owner, so it is grouped by its labels",
		"labels of these sources are left out, since no policy can select them: mesos",
		"address 10.0.0.2 is that of shop/Deployment/cart and of shop/Deployment/other at the same time, 2026-03-02T08:00:00Z: flows are taken as their lines name them; one of the two is wrong",
	}
	if !slices.Equal(s.Summary.Notes, want) {
		t.Errorf("notes %q", s.Summary.Notes)
	}
	inv := s.Inventory()
	for _, w := range inv.Workloads {
		if w.Name == "cart" && len(w.Labels) != 0 {
			t.Errorf("cart has labels that not all of its pods have: %v", w.Labels)
		}
		if w.Name == "front" && (w.Endpoints[0].Node != "node-1" || w.Endpoints[0].Interface == "") {
			t.Errorf("front was watched: %+v", w.Endpoints)
		}
		if w.Name == "loose" && w.Endpoints[0].Interface != "" {
			t.Errorf("nobody watched %+v", w.Endpoints)
		}
	}
	if len(inv.Namespaces) != 1 || inv.Namespaces[0].Labels["team"] != "sales" {
		t.Errorf("namespaces %v", inv.Namespaces)
	}
}

func TestNamesAndLosses(t *testing.T) {
	s := readLines(t, Hubble,
		packet{dst: world, dstIP: "198.51.100.4", l4: tcp(40000, 443, syn), reply: "false", more: `,"destination_names":["api.example.com"]`},
		packet{l4: udp(53, 40000), more: `,"Type":"L7","l7":{"type":"RESPONSE","dns":{"query":"DB.example.com.","ips":["198.51.100.5"]}}`},
		`{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"12"},"node_name":"node-1","time":"2026-03-02T08:00:00Z"}`)
	names := s.Inventory().Names
	if len(names) != 2 || names[0].Name != "api.example.com" || names[1].Name != "db.example.com" || names[1].Addresses[0].String() != "198.51.100.5" {
		t.Errorf("names %v", names)
	}
	c, err := s.Coverage(t.Context(), s.Summary.Since, s.Summary.Until)
	if err != nil || len(c) != 1 || c[0].Lost != 12 || len(c[0].Losses) != 1 || s.Summary.Lost != 12 {
		t.Errorf("coverage %+v, %v", c, err)
	}
}

func TestBadLines(t *testing.T) {
	good := packet{l4: tcp(40000, 80, syn), reply: "false"}.String()
	for _, c := range []struct{ name, format, line, want string }{
		{"no JSON", Hubble, "Mar  2 08:00:00: shop/front (ID:1) -> shop/cart", "invalid"},
		{"cut off", Hubble, good[:len(good)/2], "unexpected end"},
		{"another object", Hubble, `{"kind":"Pod"}`, "it is no flow of Hubble"},
		{"a list instead of an object", Hubble, `["x"]`, ""},
		{"no time", Hubble, strings.Replace(good, `{"flow":{"time":"2026-03-02T08:00:00Z"`, `{"flow":{"time":"yesterday"`, 1), `time is "yesterday"; want one such as`},
		{"no address", Hubble, strings.Replace(good, `"10.0.0.1"`, `"10.0.0"`, 1), `IP.source is "10.0.0"; want an address`},
		{"unknown verdict", Hubble, strings.Replace(good, "FORWARDED", "MAYBE", 1), `verdict is "MAYBE"`},
		{"port out of range", Hubble, strings.Replace(good, "40000", "70000", 1), ""},
		{"labels that are none", Hubble, strings.Replace(good, `"labels":[`, `"labels":[1,`, 1), "source: "},
		{"a byte 0", Hubble, good + "\x00", "byte 0"},
		{"number of losses", Hubble, `{"lost_events":{"num_events_lost":"many"}}`, ""},
		{"own: not ours", Ringfence, good, "protocol is missing"},
		{"own: no time", Ringfence, `{"node":"node-1"}`, "time is missing"},
		{"own: no address", Ringfence, `{"time":"2026-03-02T08:00:00Z","protocol":"TCP"}`, "sourceAddress or destinationAddress is missing"},
		{"own: no port", Ringfence, `{"time":"2026-03-02T08:00:00Z","protocol":"TCP","sourceAddress":"10.0.0.1","destinationAddress":"10.0.0.2"}`, "port is missing"},
		{"own: half a workload", Ringfence, `{"time":"2026-03-02T08:00:00Z","protocol":"TCP","sourceAddress":"10.0.0.1","destinationAddress":"10.0.0.2","port":80,"source":{"workload":{"name":"x"}}}`, "want namespace, kind and name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Read(t.Context(), Config{Format: c.format}, []string{"-"}, strings.NewReader("\n\n"+c.line+"\n"))
			if c.name == "a list instead of an object" && err == nil {
				c.want = "" // its element is the bad line
			} else if err != nil {
				t.Fatal(err)
			}
			if s.Summary.Bad != 1 || !strings.Contains(s.Summary.First[0].Why, c.want) || strings.Contains(s.Summary.First[0].Why, "\n") {
				t.Fatalf("%d bad: %v", s.Summary.Bad, s.Summary.First)
			}
			if line := s.Summary.First[0].Line; line != 3 && c.line[0] != '[' {
				t.Errorf("it is line 3, not %d", line)
			}
		})
	}
}

func TestLongLine(t *testing.T) {
	good := packet{l4: tcp(40000, 80, syn), reply: "false"}.String()
	s := readLines(t, Hubble, good, strings.Repeat("x", maxLine+10), good)
	if s.Summary.Bad != 1 || s.Summary.Flows != 2 || s.Summary.First[0].Line != 2 {
		t.Errorf("%+v", s.Summary)
	}
}

// Our own format comes as a list or as lines, and tells which end saw it.
func TestOwnFormat(t *testing.T) {
	const record = `{"id":"1","time":"2026-03-02T08:00:00Z","firstSeen":"2026-03-02T08:00:00Z","node":"node-1","direction":"%s","event":"end",
 "observer":{"namespace":"shop","kind":"Deployment","name":"%s"},
 "source":{"workload":{"namespace":"shop","kind":"Deployment","name":"front"},"endpoint":"front-1","labels":{"app":"front"}},"sourceAddress":"fd00::1","sourcePort":40000,
 "destination":{"workload":{"namespace":"shop","kind":"Deployment","name":"cart"},"endpoint":"cart-1","labels":{"app":"cart"}},"destinationAddress":"fd00::2","port":80,
 "protocol":"TCP","connections":1,"packetsForward":4,"bytesForward":400,"packetsReverse":3,"bytesReverse":300,
 "live":{"verdict":"deny","reason":"default-deny"},"staged":{"verdict":"unknown","reason":"none"},"outcome":"forwarded"}`
	one, two := fmt.Sprintf(record, "egress", "front"), fmt.Sprintf(record, "ingress", "cart")
	flat := func(s string) string { return strings.ReplaceAll(s, "\n", "") }
	for name, text := range map[string]string{
		"lines": flat(one) + "\n" + flat(two) + "\n",
		"list":  "\n[" + one + ",\n" + two + "]",
	} {
		t.Run(name, func(t *testing.T) {
			s := readLines(t, Ringfence, text)
			want := []string{"egress shop/Deployment/front > shop/Deployment/cart TCP 80: 1/1 denied 1", "ingress shop/Deployment/front > shop/Deployment/cart TCP 80: 1/1 denied 1"}
			got := edgeTexts(t, s)
			if !slices.Equal(got, want) || s.Summary.Bad > 0 {
				t.Errorf("got %v, %+v", got, s.Summary)
			}
		})
	}
	s := readLines(t, Ringfence, "["+one+", 7, {\"a\":")
	if s.Summary.Flows != 1 || s.Summary.Bad != 2 || !strings.Contains(s.Summary.First[1].Why, "breaks off") {
		t.Errorf("%+v", s.Summary)
	}
}

func TestCompressedFiles(t *testing.T) {
	text, err := os.ReadFile("testdata/hubble.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(text)
	_ = w.Close()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{"plain": text, "gz": z.Bytes(), "zst": enc.EncodeAll(text, nil)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Read(t.Context(), Config{Format: Hubble}, []string{path}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if s.Summary.Bad != 0 || s.Summary.Flows == 0 || s.Summary.Edges != 8 {
			t.Errorf("%s: %+v", name, s.Summary)
		}
	}
	cut := filepath.Join(dir, "cut")
	if err := os.WriteFile(cut, z.Bytes()[:z.Len()/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), Config{Format: Hubble}, []string{cut}, nil); err == nil {
		t.Error("half a gzip file was taken for a whole one")
	}
}

func TestBounds(t *testing.T) {
	lines := []string{
		packet{l4: tcp(40000, 80, syn), reply: "false"}.String(),
		packet{l4: tcp(40001, 81, syn), reply: "false", second: 30}.String(),
	}
	in := func() *strings.Reader { return strings.NewReader(strings.Join(lines, "\n")) }
	_, err := Read(t.Context(), Config{Format: Hubble, MaxEdges: 1}, []string{"-"}, in())
	if limit, ok := errors.AsType[*LimitError](err); !ok || !strings.Contains(limit.Error(), "more than 1 edges") {
		t.Errorf("edges: %v", err)
	}
	_, err = Read(t.Context(), Config{Format: Hubble, MaxEndpoints: 1}, []string{"-"}, in())
	if _, ok := errors.AsType[*LimitError](err); !ok {
		t.Errorf("endpoints: %v", err)
	}
	start := time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)
	s, err := Read(t.Context(), Config{Format: Hubble, Since: start, Until: start.Add(30 * time.Second)}, []string{"-"}, in())
	if err != nil || s.Summary.Flows != 1 || s.Summary.Outside != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, c := range []Config{{Format: "pcap"}, {Format: Hubble, Since: start, Until: start}, {Format: Hubble, MaxEdges: -1}} {
		if _, err := Read(t.Context(), c, []string{"-"}, in()); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	if _, err := Read(t.Context(), Config{Format: Hubble}, []string{"/nowhere"}, nil); err == nil || err.Error() != "read /nowhere: no such file or directory" {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, Config{Format: Hubble}, []string{"-"}, strings.NewReader(strings.Repeat("x\n", progressEvery))); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// Connections forgotten for lack of room are counted all the same.
func TestForgottenConnections(t *testing.T) {
	var lines []string
	for i := range 100 {
		p := packet{l4: tcp(40000+i, 80, syn), reply: "false"}
		lines = append(lines, p.String(), p.back(tcp(80, 40000+i, synAck), "true").String())
	}
	s, err := Read(t.Context(), Config{Format: Hubble, MaxConnections: 4}, []string{"-"}, strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	if got := edgeTexts(t, s)[0]; !strings.HasSuffix(got, "TCP 80: 100/100 denied 0") {
		t.Error(got)
	}
}

func FuzzHubble(f *testing.F) {
	f.Add([]byte(packet{l4: tcp(40000, 80, syn), reply: "false"}.String()))
	f.Add([]byte(`{"lost_events":{"num_events_lost":"1"}}`))
	f.Add([]byte(`{"flow":{"time":"2026-03-02T08:00:00Z","IP":{},"l4":{"ICMPv4":{}}}}`))
	f.Fuzz(func(t *testing.T, b []byte) { fuzz(t, Hubble, b) })
}

func FuzzOwn(f *testing.F) {
	f.Add([]byte(`[{"time":"2026-03-02T08:00:00Z","protocol":"TCP","sourceAddress":"10.0.0.1","destinationAddress":"10.0.0.2","port":80,"direction":"egress"}]`))
	f.Fuzz(func(t *testing.T, b []byte) { fuzz(t, Ringfence, b) })
}

func fuzz(t *testing.T, format string, b []byte) {
	s, err := Read(t.Context(), Config{Format: format}, []string{"-"}, bytes.NewReader(b))
	if err != nil {
		return
	}
	if _, err := s.Edges(t.Context(), flow.EdgeFilter{}); err != nil {
		t.Fatal(err)
	}
	s.Inventory()
	if s.Summary.Flows+s.Summary.Bad > s.Summary.Lines {
		t.Fatalf("%+v", s.Summary)
	}
}
