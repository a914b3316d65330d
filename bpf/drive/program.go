package drive

import (
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Next is what a program at a tc hook returns that lets a packet pass: TCX_NEXT.
const Next = ^uint32(0)

const xdpPass = 2 // XDP_PASS

// Hook is one of the two places of an interface where programs run.
type Hook = ebpf.AttachType

// The hooks by the names the kernel gives them.
const (
	Ingress = ebpf.AttachTCXIngress
	Egress  = ebpf.AttachTCXEgress
)

// Program is a program that can be run on a frame.
type Program struct {
	prog *ebpf.Program
	own  []*ebpf.Map // of a driver
}

// Attached returns the first program at a hook of an interface of the calling
// thread's network namespace.
func Attached(index int, hook Hook) (*Program, error) {
	list, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: hook})
	if err != nil {
		return nil, fmt.Errorf("list programs of interface %d: %w", index, err)
	}
	if len(list.Programs) == 0 {
		return nil, fmt.Errorf("interface %d has no program at %s", index, hook)
	}
	prog, err := ebpf.NewProgramFromID(list.Programs[0].ID)
	if err != nil {
		return nil, fmt.Errorf("open program %d: %w", list.Programs[0].ID, err)
	}
	return &Program{prog: prog}, nil
}

// AttachedXDP returns the XDP program of an interface of the calling thread's
// network namespace.
func AttachedXDP(index int) (*Program, error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("look up interface %d: %w", index, err)
	}
	x := l.Attrs().Xdp
	if x == nil || !x.Attached {
		return nil, fmt.Errorf("interface %d has no XDP program", index)
	}
	prog, err := ebpf.NewProgramFromID(ebpf.ProgramID(x.ProgId))
	if err != nil {
		return nil, fmt.Errorf("open program %d: %w", x.ProgId, err)
	}
	return &Program{prog: prog}, nil
}

// Empty loads a program for a tc hook that lets every packet pass.
func Empty() (*Program, error) { return empty(ebpf.SchedCLS, ebpf.AttachNone) }

// EmptyXDP loads an XDP program that lets every frame pass.
func EmptyXDP() (*Program, error) { return empty(ebpf.XDP, ebpf.AttachXDP) }

func empty(kind ebpf.ProgramType, at ebpf.AttachType) (*Program, error) {
	p := &Program{}
	code := Next
	if kind == ebpf.XDP {
		code = xdpPass
	}
	var err error
	p.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "rf_empty", Type: kind, AttachType: at, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(code)), asm.Return()}, //nolint:gosec // as the kernel means it
	})
	if err != nil {
		return nil, fmt.Errorf("load empty program: %w", err)
	}
	return p, nil
}

// Attach puts the program in front of a hook of an interface of the calling
// thread's network namespace, until the returned function is called.
func (p *Program) Attach(index int, hook Hook) (detach func() error, err error) {
	l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p.prog, Attach: hook, Anchor: link.Head()})
	if err != nil {
		return nil, fmt.Errorf("attach to %s of interface %d: %w", hook, index, err)
	}
	return l.Close, nil
}

// Close frees the program.
func (p *Program) Close() error {
	errs := []error{p.prog.Close()}
	for _, m := range p.own {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// MapMemory returns the bytes of kernel memory that a map of the program takes,
// as the kernel counts them.
func (p *Program) MapMemory(name string) (uint64, error) {
	info, err := p.prog.Info()
	if err != nil {
		return 0, fmt.Errorf("describe program: %w", err)
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		found, bytes, err := memory(id, name)
		if err != nil {
			return 0, fmt.Errorf("memory of map %d: %w", id, err)
		}
		if found {
			return bytes, nil
		}
	}
	return 0, fmt.Errorf("the program has no map %s", name)
}

func memory(id ebpf.MapID, name string) (found bool, bytes uint64, err error) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return false, 0, err
	}
	defer func() { _ = m.Close() }()
	info, err := m.Info()
	if err != nil || info.Name != name {
		return false, 0, err
	}
	bytes, ok := info.Memlock()
	if !ok {
		return true, 0, errors.New("the kernel does not tell it")
	}
	return true, bytes, nil
}

func (p *Program) xdp() bool { return p.prog.Type() == ebpf.XDP }

// Passed reports whether the answer of a run let the frame pass.
func (p *Program) Passed(code uint32) bool {
	if p.xdp() {
		return code == xdpPass
	}
	return code == Next
}

// Where says how a frame comes to a program at a tc hook. To an XDP program it
// comes by the loopback interface.
type Where struct {
	Index int // of the interface
	// Forwarded says that an interface brought the frame in, and the node did
	// not make it.
	Forwarded bool
}

// context is struct __sk_buff as far as a run reads it.
type context struct {
	_              [36]byte
	IngressIfindex uint32
	Ifindex        uint32
	_              [148]byte
}

// attr is union bpf_attr of BPF_PROG_TEST_RUN.
type attr struct {
	prog, retval         uint32
	sizeIn, sizeOut      uint32
	dataIn, dataOut      uint64
	repeat, duration     uint32
	contextIn            uint32
	contextOut           uint32
	contextAt, contextTo uint64
	flags, cpu, batch, _ uint32
}

const progTestRun = 10 // BPF_PROG_TEST_RUN

// Run runs the program repeat times on frame, on the calling thread's CPU and in
// its network namespace. It returns the last run's answer and how long one took
// on average, by the kernel's own clock and in whole nanoseconds. When a signal
// interrupts the runs they start again: there may be more than repeat of them.
func (p *Program) Run(frame []byte, at Where, repeat int) (code uint32, each time.Duration, err error) {
	ctx := context{Ifindex: uint32(at.Index)} //nolint:gosec // the kernel's are positive
	if at.Forwarded {
		ctx.IngressIfindex = ctx.Ifindex
	}
	a := attr{
		prog:      uint32(p.prog.FD()),                                      //nolint:gosec // a file descriptor
		sizeIn:    uint32(len(frame)),                                       //nolint:gosec // a frame's length
		dataIn:    uint64(uintptr(unsafe.Pointer(unsafe.SliceData(frame)))), //nolint:gosec // pinned below
		repeat:    uint32(repeat),                                           //nolint:gosec // a count
		contextIn: uint32(unsafe.Sizeof(ctx)),
		contextAt: uint64(uintptr(unsafe.Pointer(&ctx))), //nolint:gosec // pinned below
	}
	if p.xdp() {
		a.contextIn, a.contextAt = 0, 0
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(unsafe.SliceData(frame)) //nolint:gosec // the kernel reads it
	pin.Pin(&ctx)
	for {
		_, _, errno := unix.Syscall(unix.SYS_BPF, progTestRun, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a)) //nolint:gosec // the kernel fills it in
		switch errno {
		case 0:
			return a.retval, time.Duration(a.duration), nil
		case unix.EINTR:
			continue
		default:
			return 0, 0, fmt.Errorf("run program: %w", errno)
		}
	}
}
