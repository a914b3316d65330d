package bpf

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// CheckHost refuses a machine that cannot run the datapath, and names what it
// lacks. It asks the kernel rather than its version alone, since distributions
// leave things out and bring others in.
func CheckHost() error {
	if os.Geteuid() != 0 {
		return errors.New("loading eBPF programs needs root: run as root")
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("read the kernel's version: %w", err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	if err := checkKernel(release); err != nil {
		return err
	}
	return checkFeatures(release, kernelFeatures)
}

// The newest thing that the programs cannot do without, see kernelFeatures, came
// with this version. Where TCX is missing, before 6.6, they attach by clsact.
const needMajor, needMinor = 5, 15

func checkKernel(release string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("kernel release %q: cannot tell its version", release)
	}
	if major < needMajor || (major == needMajor && minor < needMinor) {
		return fmt.Errorf("kernel %s is too old: ringfence needs Linux %d.%d or newer", release, needMajor, needMinor)
	}
	return nil
}

// feature is something the programs need of the kernel.
type feature struct {
	name  string
	since string // version of Linux
	probe func() error
}

var kernelFeatures = []feature{
	{"classifier programs", "4.1", func() error { return features.HaveProgramType(ebpf.SchedCLS) }},
	{"prefix tries", "4.11", func() error { return features.HaveMapType(ebpf.LPMTrie) }},
	{"mappable arrays", "5.5", func() error { return features.HaveMapFlag(features.BPF_F_MMAPABLE) }},
	{"ring buffers", "5.8", func() error { return features.HaveMapType(ebpf.RingBuf) }},
	{"the coarse clock", "5.11", func() error { return features.HaveProgramHelper(ebpf.SchedCLS, asm.FnKtimeGetCoarseNs) }},
	{"walks over maps", "5.13", func() error { return features.HaveProgramHelper(ebpf.SchedCLS, asm.FnForEachMapElem) }},
	{"programs that userspace runs", "5.14", func() error { return features.HaveProgramType(ebpf.Syscall) }},
	{"timers", "5.15", func() error { return features.HaveProgramHelper(ebpf.SchedCLS, asm.FnTimerInit) }},
}

func checkFeatures(release string, list []feature) error {
	var missing []string
	for _, f := range list {
		err := f.probe()
		if errors.Is(err, ebpf.ErrNotSupported) {
			missing = append(missing, fmt.Sprintf("%s (Linux %s)", f.name, f.since))
		} else if err != nil {
			return explain(fmt.Errorf("ask the kernel for %s: %w", f.name, err))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("kernel %s lacks %s: use one that has them", release, strings.Join(missing, ", "))
	}
	return nil
}

// explain adds what to do to errors that the machine is the cause of.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: this kernel is built without CONFIG_BPF_SYSCALL, use one that has it", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: run as root, outside containers that lack CAP_BPF and CAP_NET_ADMIN", err)
	case errors.As(err, &verifier):
		return fmt.Errorf("the kernel's verifier refuses the programs, please report it with the kernel's version: %w", err)
	}
	return err
}
