package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/bpf"
	"github.com/ringfence/ringfence/bpf/drive"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/bench/frame"
)

const (
	promoted      = 500 // workloads
	promoteRounds = 30
	clickRounds   = 2 // of one click for each workload
	loadPorts     = 16
	// promoteTime bounds each of the two: a kernel that has to be waited for at
	// every switch would else take minutes.
	promoteTime = 20 * time.Second
)

// fleet is a node of many workloads, each with an endpoint, whose policies are
// switched while packets of all of them are judged.
//
// Each workload's live policy allows peer 1 always, peer 2 in even revisions
// and peer 3 in odd ones.
type fleet struct {
	s       *site
	d       *bpf.Datapath
	ns      string
	members []*member
	program *drive.Program
	round   chan struct{} // a packet of each kind was judged
	packets uint64
	wrong   uint64
}

// member is one workload. A packet that was judged while began equals done has
// only one right verdict.
type member struct {
	index       int
	identity    flow.Identity
	began, done atomic.Uint32 // promotions
	revision    uint32
	frames      []loadFrame
}

// loadFrame is a packet to one of the peers.
type loadFrame struct {
	frame.TCP
	peer int
}

const (
	peerAlways = 1 + iota
	peerEven
	peerOdd
	peerNever
)

// allowed says whether a policy allows a peer.
func allowed(peer int, revision uint32) bool {
	switch peer {
	case peerAlways:
		return true
	case peerEven:
		return revision%2 == 0
	case peerOdd:
		return revision%2 == 1
	}
	return false
}

func (m *member) table(slot flow.Slot, dir flow.Direction, revision uint32) bpf.Table {
	t := bpf.Table{TableKey: bpf.TableKey{Identity: m.identity, Slot: slot, Direction: dir}, Revision: revision + 1}
	for peer := peerAlways; peer <= peerNever && dir == flow.Egress; peer++ {
		if allowed(peer, revision) {
			t.Entries = append(t.Entries, bpf.Entry{
				Peer: firstPeer + flow.Identity(peer), Protocol: flow.TCP, First: frame.PeerPort, Last: frame.PeerPort,
			})
		}
	}
	return t
}

var directions = []flow.Direction{flow.Egress, flow.Ingress}

// stage puts each workload's next policy into its staged slot.
func (f *fleet) stage() error {
	var tables []bpf.Table
	for _, m := range f.members {
		for _, dir := range directions {
			tables = append(tables, m.table(flow.SlotStaged, dir, m.revision+1))
		}
	}
	_, err := f.d.Apply(tables)
	return err
}

// promote moves what is staged to the live slot and returns how long that took.
func (f *fleet) promote(members []*member) (time.Duration, error) {
	var tables []bpf.Table
	for _, m := range members {
		for _, dir := range directions {
			tables = append(tables, m.table(flow.SlotLive, dir, m.revision+1),
				bpf.Table{TableKey: bpf.TableKey{Identity: m.identity, Slot: flow.SlotStaged, Direction: dir}, Delete: true})
		}
	}
	for _, m := range members {
		m.began.Add(1)
	}
	start := time.Now()
	_, err := f.d.Apply(tables)
	took := time.Since(start)
	for _, m := range members {
		m.revision++
		m.done.Add(1)
	}
	return took, err
}

// newFleet makes the node, with everybody enforced at revision 0.
func (s *site) newFleet() (*fleet, error) {
	f := &fleet{s: s, round: make(chan struct{})}
	var err error
	if f.ns, err = s.netNS(); err != nil {
		return nil, err
	}
	if f.d, err = s.open(bpf.Config{NetNS: f.ns}); err != nil {
		return nil, err
	}
	var owners []bpf.AddressOwner
	for peer := peerAlways; peer <= peerNever; peer++ {
		for _, base := range []string{"10.2.0.0", "fd00:2::"} {
			owners = append(owners, bpf.AddressOwner{
				Addr: frame.Peer(netip.MustParseAddr(base), peer), Identity: firstPeer + flow.Identity(peer), Endpoint: uint32(promoted + peer),
			})
		}
	}
	var tables []bpf.Table
	for i := 1; i <= s.rounds(promoted); i++ {
		m := &member{identity: endpointIdent + flow.Identity(i)}
		f.members = append(f.members, m)
		for _, family := range [][2]string{{"10.1.0.0", "10.2.0.0"}, {"fd00:1::", "fd00:2::"}} {
			self := frame.Peer(netip.MustParseAddr(family[0]), i)
			owners = append(owners, bpf.AddressOwner{Addr: self, Identity: m.identity, Endpoint: uint32(i)})
			if err := m.addFrames(self, netip.MustParseAddr(family[1])); err != nil {
				return nil, err
			}
		}
		for _, dir := range directions {
			tables = append(tables, m.table(flow.SlotLive, dir, 0))
		}
	}
	if _, err := f.d.SetAddresses(owners); err != nil {
		return nil, err
	}
	if err := f.attach(); err != nil {
		return nil, err
	}
	_, err = f.d.Apply(tables)
	return f, err
}

func (m *member) addFrames(self, peers netip.Addr) error {
	for peer := peerAlways; peer <= peerNever; peer++ {
		fr, err := frame.New(self, peers, false, "S")
		if err != nil {
			return err
		}
		fr.Bytes[fr.PeerHost+1] = byte(peer)
		m.frames = append(m.frames, loadFrame{fr, peer})
	}
	return nil
}

// attach gives every workload an interface.
func (f *fleet) attach() error {
	err := within(f.ns, f.s.otherCPU(), func() error {
		for i, m := range f.members {
			name := fmt.Sprintf("pod%d", i)
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Group: fleetGroup}, PeerName: "in-" + name}); err != nil {
				return fmt.Errorf("make veth %s: %w", name, err)
			}
			l, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			m.index = l.Index
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, m := range f.members {
		e := bpf.Endpoint{Interface: fmt.Sprintf("pod%d", i), ID: uint32(i + 1), Identity: m.identity}
		if err := f.d.Attach(e); err != nil {
			return err
		}
	}
	return within(f.ns, f.s.otherCPU(), func() (err error) {
		f.program, err = drive.Attached(f.members[0].index, drive.Ingress)
		return err
	})
}

// fleetGroup is the fleet's interfaces', so that they can be deleted at once.
const fleetGroup = 77

// forget deletes the interfaces. One by one each would wait for the kernel.
func (f *fleet) forget() error {
	return within(f.ns, f.s.otherCPU(), func() error {
		req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(fleetGroup)))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// load sends packets of every workload, one after the other, until ctx is done,
// and judges the verdicts.
func (f *fleet) load(ctx context.Context) error {
	defer close(f.round)
	for round := 0; ; round++ {
		for _, m := range f.members {
			for i := range m.frames {
				fr := &m.frames[i]
				fr.Bytes[fr.EndpointPort+1] = byte(round % loadPorts)
				if err := f.send(m, fr); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case f.round <- struct{}{}:
		default:
		}
	}
}

func (f *fleet) send(m *member, fr *loadFrame) error {
	done := m.done.Load()
	code, _, err := f.program.Run(fr.Bytes, drive.Where{Index: m.index}, 1)
	if err != nil {
		return err
	}
	f.packets++
	passed := code == drive.Next
	changes := fr.peer == peerEven || fr.peer == peerOdd
	if changes && m.began.Load() != done {
		return nil // either is right
	}
	if passed != allowed(fr.peer, done) {
		f.wrong++
	}
	return nil
}

// promote measures switches under load.
func (s *site) promote(r *Report) (err error) {
	mark := len(s.undo)
	defer func() { err = errors.Join(err, s.closeTo(mark)) }()
	f, err := s.newFleet()
	if err != nil {
		return err
	}
	s.later(f.program.Close)
	if err := s.agent(f.d); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	loaded := make(chan error, 1)
	go func() { loaded <- within(f.ns, s.cpu, func() error { return f.load(ctx) }) }()
	w, err := s.newWorkerOn(f.ns, s.otherCPU())
	if err == nil {
		err = w.do(func() error { return f.measure(r) })
	}
	cancel()
	// With its interfaces gone the node is quicker to take down.
	err = errors.Join(err, <-loaded, f.forget())
	r.Promotes.Packets, r.Promotes.Wrong = f.packets, f.wrong
	return err
}

// look waits until every workload's packets were judged after the last switch.
func (f *fleet) look() {
	<-f.round
	<-f.round // the one before may have begun too early
}

const clicksALook = 50

func (f *fleet) measure(r *Report) error {
	var batches, clicks []float64
	ms := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
	until := time.Now().Add(promoteTime)
	for range f.s.rounds(promoteRounds) {
		if len(batches) > 1 && time.Now().After(until) {
			break
		}
		if err := f.stage(); err != nil {
			return err
		}
		took, err := f.promote(f.members)
		if err != nil {
			return err
		}
		batches = append(batches, ms(took))
		f.look()
	}
	until = time.Now().Add(promoteTime)
	for range clickRounds {
		if err := f.stage(); err != nil {
			return err
		}
		for i := range f.members {
			if len(clicks) > 1 && time.Now().After(until) {
				break
			}
			took, err := f.promote(f.members[i : i+1])
			if err != nil {
				return err
			}
			clicks = append(clicks, ms(took))
			if len(clicks)%clicksALook == 0 {
				f.look()
			}
		}
	}
	b, c := r.Series.Add("promote_500_ms", batches), r.Series.Add("promote click, ms", clicks)
	r.Promote = b.Max
	r.Promotes = Promotes{MedianMS: b.Median, ClickMedianMS: c.Median, ClickP99MS: c.P99, ClickMaxMS: c.Max}
	return nil
}
