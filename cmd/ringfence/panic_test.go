package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPinned finds bpffs mounts with a node's pins wherever they are, as panic
// must reach a runtime directory that nobody remembers.
func TestPinned(t *testing.T) {
	dir := t.TempDir()
	at := func(name string, pins ...string) string {
		path := filepath.Join(dir, name)
		for _, p := range append(pins, ".") {
			if err := os.MkdirAll(filepath.Join(path, p), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	plain, odd := at("run/bpf", "node-1/links"), at(`a b[*]\c`, "node-1/links", "node-2/links")
	other, disk := at("sys", "tc/globals"), at("disk", "node-1/links")
	escaped := strings.NewReplacer(`\`, `\134`, " ", `\040`).Replace(odd)
	var mounts string
	for i, m := range []struct{ at, kind string }{
		{plain, "bpf"}, {escaped, "bpf"}, {other, "bpf"}, {disk, "ext4"}, {plain, "bpf"}, {filepath.Join(dir, "gone"), "bpf"},
	} {
		mounts += fmt.Sprintf("%d 1 0:%d / %s rw,nosuid shared:7 - %s bpf rw,mode=700\n", 30+i, i, m.at, m.kind)
	}
	file := filepath.Join(dir, "mountinfo")
	if err := os.WriteFile(file, []byte(mounts+"cut short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := pinned(file)
	if want := []string{plain, odd}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
