package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
)

// TestVerifier loads every program at its largest options and says what that
// cost the verifier, whose limit is a million instructions.
func TestVerifier(t *testing.T) {
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	size(spec, labConfig().WithDefaults())
	opts := ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}}
	c, err := ebpf.NewCollectionWithOptions(spec, opts)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer c.Close()
	for name, p := range c.Programs {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		size, _ := info.TranslatedSize()
		t.Logf("%s: %d instructions verified, %d bytes\n%s", name, n, size, p.VerifierLog)
		if !ok || n == 0 || n > 500_000 {
			t.Errorf("%s: %d instructions verified, want some and at most half of the kernel's limit", name, n)
		}
	}
}
