package bpf

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// TestVerifier loads every program at its largest options and says what that
// cost the verifier, whose limit is a million instructions. The prefilter's
// options are its tables.
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
		depth, chain := stackOf(t, spec.Programs[name], p.VerifierLog)
		if depth > 512 {
			t.Errorf("%s: %d bytes of stack in steps of 32, as kernels before 6.9 count: want at most 512", name, depth)
		}
		verified(t, name, p)
		t.Logf("%s: stack %d:%s\n%s", name, depth, chain, p.VerifierLog)
	}
	f := openFilter(t)
	r := rand.New(rand.NewPCG(1, 2))
	f.set([]DenyList{
		{"v4", true, randomPrefixes(r, maxPrefilterEntries/2, 4)}, {"v6", true, randomPrefixes(r, maxPrefilterEntries/2, 6)},
	})
	verified(t, "rf_prefilter, a million prefixes", f.program)
}

func verified(t *testing.T, name string, p *ebpf.Program) {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	n, ok := info.VerifiedInstructions()
	size, _ := info.TranslatedSize()
	t.Logf("%s: %d instructions verified, %d bytes", name, n, size)
	if !ok || n == 0 || n > 500_000 {
		t.Errorf("%s: %d instructions verified, want some and at most half of the kernel's limit", name, n)
	}
}

// stackOf adds up the stacks of the functions that call each other deepest. The
// verifier's log has them in the order of the code. It names those functions too.
func stackOf(t *testing.T, p *ebpf.ProgramSpec, log string) (depth int, chain string) {
	t.Helper()
	line := regexp.MustCompile(`stack depth ([0-9+]+)`).FindStringSubmatch(log)
	if line == nil {
		t.Fatalf("no stack depth in %q", log)
	}
	depths := strings.Split(line[1], "+")
	var function string
	own := map[string]int{}
	calls := map[string][]string{}
	for _, ins := range p.Instructions {
		if s := ins.Symbol(); s != "" && len(own) < len(depths) {
			function = s
			bytes, err := strconv.Atoi(depths[len(own)])
			if err != nil {
				t.Fatal(err)
			}
			own[function] = max(bytes+31, 32) / 32 * 32
		}
		if ins.IsFunctionReference() {
			calls[function] = append(calls[function], ins.Reference())
		}
	}
	if len(own) != len(depths) {
		t.Fatalf("%d functions and %d depths", len(own), len(depths))
	}
	var deepest func(string) (int, string)
	deepest = func(name string) (below int, chain string) {
		for _, callee := range calls[name] {
			if n, c := deepest(callee); n > below {
				below, chain = n, c
			}
		}
		return own[name] + below, fmt.Sprintf(" %s %d%s", name, own[name], chain)
	}
	return deepest(p.Name)
}
