package export_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/ringfence/ringfence/internal/export"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/policy"
	"github.com/ringfence/ringfence/internal/policy/policytest"
)

// hostPolicy draws a policy of a host, and what is exported of it.
func hostPolicy(t *rapid.T) (export.Input, policy.Evaluator) {
	p := policytest.Policy(t)
	labels, namespace := map[string]string{"app": "cart", "tier": "back"}, map[string]string{"env": "prod"}
	guardrails := policytest.Guardrails(t)
	who := policy.PeerFacts{Workload: p.Workload, Labels: labels, NamespaceLabels: namespace}
	in := export.Input{
		Subjects:   []export.Subject{{Policy: p, Labels: labels, NamespaceLabels: namespace, Named: policytest.Own()}},
		Guardrails: guardrails, Known: policytest.Peers(),
	}
	return in, policy.Evaluator{Guardrails: policy.Governing(guardrails, who), Own: policytest.Own()}
}

// wire is a host in a network namespace of its own, and everybody else at the
// other end of its only interface.
type wire struct{ host, others string }

func newWire(t *testing.T) wire {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("network namespaces need root")
	}
	w := wire{fmt.Sprintf("rf-nft-h%d", os.Getpid()), fmt.Sprintf("rf-nft-o%d", os.Getpid())}
	for _, name := range []string{w.host, w.others} {
		within(t, "", func() error {
			ns, err := netns.NewNamed(name)
			if err != nil {
				return err
			}
			return ns.Close()
		})
		t.Cleanup(func() {
			if err := netns.DeleteNamed(name); err != nil {
				t.Errorf("remove network namespace %s: %v", name, err)
			}
		})
	}
	run(t, "", fmt.Sprintf(`ip link add rfh netns %[1]s type veth peer name rfo netns %[2]s`, w.host, w.others))
	for _, end := range []struct{ ns, dev, own, other string }{{w.host, "rfh", "10.1.0.1/32 fd00:1::1/128", "rfo"}, {w.others, "rfo", "", "rfh"}} {
		script := fmt.Sprintf("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.%[1]s.rp_filter=0\nip link set lo up\n", end.dev)
		for _, a := range strings.Fields(end.own) {
			script += fmt.Sprintf("ip addr add %s dev %s nodad\n", a, end.dev)
		}
		script += fmt.Sprintf("ip link set %s address 02:00:00:00:00:0%d up\n", end.dev, len(end.own)%2+1)
		run(t, end.ns, script)
	}
	for _, end := range []struct{ ns, dev, mac string }{{w.host, "rfh", "02:00:00:00:00:01"}, {w.others, "rfo", "02:00:00:00:00:02"}} {
		run(t, end.ns, fmt.Sprintf(`
ip neigh replace 10.255.255.254 lladdr %[2]s dev %[1]s nud permanent
ip route replace default via 10.255.255.254 dev %[1]s onlink
ip -6 neigh replace fe80::ff lladdr %[2]s dev %[1]s nud permanent
ip -6 route replace default via fe80::ff dev %[1]s`, end.dev, end.mac))
	}
	return w
}

func run(t *testing.T, ns, script string) {
	t.Helper()
	args := []string{"sh", "-ec", script}
	if ns != "" {
		args = append([]string{"ip", "netns", "exec", ns}, args...)
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// within runs fn on a thread of the namespace, which dies with it.
func within(t *testing.T, ns string, fn func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := error(nil)
		if ns != "" {
			var h netns.NsHandle
			if h, err = netns.GetFromName(ns); err == nil {
				err = errors.Join(netns.Set(h), h.Close())
			}
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// magic begins the payload of a probe, whose number follows.
const magic = "ring"

// probe is one packet of a flow of its own.
type probe struct {
	facts    policy.Facts
	src, dst netip.Addr
	number   uint16
}

// packet returns an IP packet: the header, the transport's, and the payload.
func (p *probe) packet() []byte {
	var l4 []byte
	be := binary.BigEndian
	switch p.facts.Protocol {
	case flow.TCP:
		l4 = make([]byte, 20)
		l4[12], l4[13] = 5<<4, 2 // a SYN
	case flow.UDP:
		l4 = make([]byte, 8)
		be.PutUint16(l4[4:], 8+6)
	case flow.SCTP:
		l4 = make([]byte, 12)
	case flow.ICMP, flow.ICMPv6:
		l4 = make([]byte, 8)
		be.PutUint16(l4, p.facts.Port)
		be.PutUint16(l4[4:], p.number)
	}
	if p.facts.Protocol.HasPorts() {
		be.PutUint16(l4, p.number)
		be.PutUint16(l4[2:], p.facts.Port)
	}
	l4 = be.AppendUint16(append(l4, magic...), p.number)
	if p.facts.Protocol == flow.ICMPv6 { // whose sockets check it
		be.PutUint16(l4[2:], checksum(p.src.AsSlice(), p.dst.AsSlice(), []byte{0, byte(len(l4)), 0, byte(flow.ICMPv6)}, l4))
	}
	var ip []byte
	if p.src.Is4() {
		ip = make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, byte(p.facts.Protocol)
		be.PutUint16(ip[2:], uint16(20+len(l4)))
		copy(ip[12:], p.src.AsSlice())
		copy(ip[16:], p.dst.AsSlice())
	} else {
		ip = make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, byte(p.facts.Protocol), 64
		be.PutUint16(ip[4:], uint16(len(l4)))
		copy(ip[8:], p.src.AsSlice())
		copy(ip[24:], p.dst.AsSlice())
	}
	return append(ip, l4...)
}

// checksum is the internet's, RFC 1071; each part has an even length.
func checksum(parts ...[]byte) uint16 {
	sum := uint32(0)
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// barrier is let through by a rule of the test's own, and comes last.
func barrier(d flow.Direction, number uint16) probe {
	host, other := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("203.0.113.9")
	p := probe{facts: policy.Facts{Direction: d, Protocol: 253}, src: other, dst: host, number: number}
	if d == flow.Egress {
		p.src, p.dst = host, other
	}
	return p
}

// arrive sends probes of one direction and returns the numbers of those that
// arrived: at the host's sockets behind its input chain, or at the other end of
// the wire.
func (w wire) arrive(t *testing.T, d flow.Direction, probes []probe) map[uint16]bool {
	t.Helper()
	from, to := w.others, w.host
	if d == flow.Egress {
		from, to = w.host, w.others
	}
	var listening []int
	within(t, to, func() (err error) {
		listening, err = listen(d)
		return err
	})
	defer func() {
		for _, fd := range listening {
			_ = unix.Close(fd)
		}
	}()
	within(t, from, func() error { return send(probes) })
	got := map[uint16]bool{}
	last := probes[len(probes)-1].number
	for deadline := time.Now().Add(10 * time.Second); !got[last]; {
		if time.Now().After(deadline) {
			t.Fatal("the last probe, which is always let through, has not arrived")
		}
		drain(listening, got)
	}
	drain(listening, got)
	return got
}

// listen opens raw sockets, which hear what the input chain accepted, or a packet
// socket, which hears what was sent.
func listen(d flow.Direction) (fds []int, err error) {
	open := func(family, kind, protocol int) {
		fd, e := unix.Socket(family, kind|unix.SOCK_NONBLOCK, protocol)
		err = errors.Join(err, e)
		if e == nil {
			err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
			fds = append(fds, fd)
		}
	}
	if d == flow.Egress {
		open(unix.AF_PACKET, unix.SOCK_DGRAM, 0x0300) // ETH_P_ALL in network order
		return fds, err
	}
	for _, p := range []int{1, 6, 17, 47, 58, 132, 253} {
		open(unix.AF_INET, unix.SOCK_RAW, p)
		open(unix.AF_INET6, unix.SOCK_RAW, p)
	}
	return fds, err
}

func drain(fds []int, got map[uint16]bool) {
	buf := make([]byte, 2048)
	for _, fd := range fds {
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				break
			}
			// A probe ends with the payload; what quotes or answers one does not.
			if i := n - len(magic) - 2; i >= 0 && string(buf[i:n-2]) == magic {
				got[binary.BigEndian.Uint16(buf[n-2:n])] = true
			}
		}
	}
}

// send sends from one thread on one processor, so that packets stay in order.
func send(probes []probe) error {
	var one unix.CPUSet
	one.Set(0)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	v4, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(v4) }()
	v6, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(v6) }()
	for i := range probes {
		p := &probes[i]
		fd, to := v4, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(p.dst.AsSlice()[:4])})
		if p.dst.Is6() {
			fd, to = v6, &unix.SockaddrInet6{Addr: p.dst.As16()}
		}
		// A packet that the output chain drops is an EPERM.
		if err := unix.Sendto(fd, p.packet(), 0, to); err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("send %v %s to %s: %w", p.facts.Protocol, p.src, p.dst, err)
		}
	}
	return nil
}

// Random policies of a host are loaded into a namespace, and random packets of
// everybody are sent: nftables must let through what the evaluator allows.
func TestNFTablesJudgesAlike(t *testing.T) {
	w := newWire(t)
	number := uint16(1024)
	allowed, denied := map[bool]int{}, map[bool]int{}
	gen := rapid.Custom(draw)
	for seed := range 12 {
		l := gen.Example(seed)
		res, err := export.Export(export.NFTables, l.in)
		if err != nil {
			t.Fatal(err)
		}
		if res.Refused() || res.Wider() {
			t.Fatalf("lost %v", res.Losses)
		}
		ruleset := "flush ruleset\n"
		for _, o := range res.Objects {
			ruleset += o.(*export.Ruleset).Text()
		}
		for _, chain := range []string{"input", "output"} {
			if strings.Contains(ruleset, "chain "+chain) {
				ruleset += fmt.Sprintf("insert rule inet ringfence %s meta l4proto 253 accept\n", chain)
			}
		}
		path := t.TempDir() + "/rules.nft"
		if err := os.WriteFile(path, []byte(ruleset), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, w.host, "nft -f "+path)
		for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
			var probes []probe
			for _, f := range l.facts {
				if f.Direction == d {
					number++
					probes = append(probes, probeOf(f, number))
				}
			}
			number++
			// Flows of before would make answers of those of now.
			within(t, w.host, func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
			got := w.arrive(t, d, append(probes, barrier(d, number)))
			for i := range probes {
				p := &probes[i]
				want := !l.evaluator.Evaluate(&l.in.Subjects[0].Policy, p.facts).Denied()
				if got[p.number] != want {
					t.Fatalf("seed %d: %s %s → %s port %d: let through %v, want %v\n%s", seed, p.facts.Protocol, p.src, p.dst, p.facts.Port, got[p.number], want, ruleset)
				}
				if want {
					allowed[p.src.Is6()]++
				} else {
					denied[p.src.Is6()]++
				}
			}
		}
	}
	for _, six := range []bool{false, true} {
		if allowed[six] < 50 || denied[six] < 50 {
			t.Errorf("IPv6 %v: %d packets allowed, %d denied; want plenty of both", six, allowed[six], denied[six])
		}
	}
	t.Logf("IPv4: %d allowed, %d denied; IPv6: %d allowed, %d denied", allowed[false], denied[false], allowed[true], denied[true])
}

// load is one policy with flows to ask about.
type load struct {
	in        export.Input
	evaluator policy.Evaluator
	facts     []policy.Facts
}

func draw(t *rapid.T) load {
	l := load{}
	l.in, l.evaluator = hostPolicy(t)
	for range 250 {
		f := policytest.Facts(t, &l.in.Subjects[0].Policy)
		v4 := f.Peer.Addr.Is4()
		switch {
		case f.Direction == flow.DirectionUnknown || f.Peer.Workload == policytest.Subject:
			continue // traffic with itself stays within
		case f.Protocol == flow.ICMP && !v4 || f.Protocol == flow.ICMPv6 && v4:
			continue
		}
		f.Peer.Outside = true // it comes over the wire
		l.facts = append(l.facts, f)
	}
	return l
}

func probeOf(f policy.Facts, number uint16) probe {
	host := netip.MustParseAddr("10.1.0.1")
	if f.Peer.Addr.Is6() {
		host = netip.MustParseAddr("fd00:1::1")
	}
	if f.Direction == flow.Egress {
		return probe{f, host, f.Peer.Addr, number}
	}
	return probe{f, f.Peer.Addr, host, number}
}
