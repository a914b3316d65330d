package bpf

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// CheckHost refuses a machine that cannot run the datapath, and says why.
func CheckHost() error {
	if os.Geteuid() != 0 {
		return errors.New("loading eBPF programs needs root: run as root")
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("read the kernel's version: %w", err)
	}
	return checkKernel(unix.ByteSliceToString(name.Release[:]))
}

// TCX, by which the programs attach, came with Linux 6.6.
const needMajor, needMinor = 6, 6

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

// explain adds what to do to errors that the machine is the cause of.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: this kernel is built without CONFIG_BPF_SYSCALL, use one that has it", err)
	case errors.As(err, &verifier):
		return fmt.Errorf("the kernel's verifier refuses the programs, please report it with the kernel's version: %w", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: run as root, outside containers that lack CAP_BPF and CAP_NET_ADMIN", err)
	}
	return err
}
