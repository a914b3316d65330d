package bpf

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/internal/flow"
)

func without() func(*ebpf.Program) error {
	return func(*ebpf.Program) error { return fmt.Errorf("tcx: %w", ebpf.ErrNotSupported) }
}

// TestAttachMode checks which way is taken, on kernels with and without TCX.
func TestAttachMode(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   AttachMode
		err    string
	}{
		{"auto", func(*Config) {}, AttachTCX, ""},
		{"tcx", attachBy(AttachTCX), AttachTCX, ""},
		{"clsact", attachBy(AttachClsact), AttachClsact, ""},
		{"auto without TCX", func(c *Config) { c.probeTCX = without() }, AttachClsact, ""},
		{"clsact without TCX", func(c *Config) { c.Attach, c.probeTCX = AttachClsact, without() }, AttachClsact, ""},
		{"tcx without TCX", func(c *Config) { c.Attach, c.probeTCX = AttachTCX, without() }, "", "attach mode tcx: this kernel has no TCX, which came with Linux 6.6: choose auto or clsact"},
		{"probe fails", func(c *Config) { c.probeTCX = func(*ebpf.Program) error { return unix.EPERM } }, "", "look for TCX: operation not permitted: run as root"},
		{"nonsense", attachBy("xdp"), "", `attach mode "xdp": want auto, tcx or clsact`},
		{"long pin directory", func(c *Config) { c.PinDir += strings.Repeat("/"+strings.Repeat("x", 49), 5) }, "", "want at most 238"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := labConfig()
			c.change(&cfg)
			if c.err != "" {
				d, err := Open(cfg)
				if err == nil {
					_ = d.Remove()
				}
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want one with %q", err, c.err)
				}
				if _, err := os.Stat(cfg.PinDir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("pin directory: %v", err)
				}
				return
			}
			l := newLab(t, func(to *Config) { pins := to.PinDir; *to = cfg; to.PinDir = pins })
			if got := inMode(t, l.d, AttachTCX); (got == 2) != (c.want == AttachTCX) {
				t.Errorf("%d links", got)
			}
			if got := inMode(t, l.d, AttachClsact); (got == 2) != (c.want == AttachClsact) {
				t.Errorf("%d filters", got)
			}
		})
	}
}

// inMode counts the hooks that are attached by one way.
func inMode(t testing.TB, d *Datapath, mode AttachMode) (n int) {
	t.Helper()
	a := attacher(d.tcx)
	if mode == AttachClsact {
		a = d.clsact
	}
	list, err := a.places()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if a.attached(p) {
			n++
		}
	}
	return n
}

// onlyWeb lets web alone reach db, by UDP and TCP.
func onlyWeb() Table {
	return Table{
		TableKey: TableKey{dbIdent, flow.SlotLive, flow.Ingress}, Revision: 1,
		Entries: []Entry{allow(webIdent, flow.TCP, serverPort), allow(webIdent, flow.UDP, serverPort)},
	}
}

// TestCheckFeatures checks that what the kernel lacks is named.
func TestCheckFeatures(t *testing.T) {
	if err := CheckHost(); err != nil {
		t.Error(err)
	}
	lacks := func() error { return fmt.Errorf("probe: %w", ebpf.ErrNotSupported) }
	list := []feature{{"wheels", "7.1", lacks}, {"ring buffers", "5.8", func() error { return nil }}, {"wings", "7.2", lacks}}
	err := checkFeatures("5.15.0", list)
	if err == nil || err.Error() != "kernel 5.15.0 lacks wheels (Linux 7.1), wings (Linux 7.2): use one that has them" {
		t.Errorf("error %v", err)
	}
	list[1].probe = func() error { return unix.EPERM }
	if err := checkFeatures("5.15.0", list); err == nil || !strings.Contains(err.Error(), "ask the kernel for ring buffers: operation not permitted: run as root") {
		t.Errorf("error %v", err)
	}
}
