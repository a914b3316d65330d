package main

import (
	"strings"
	"testing"
)

func TestPinNames(t *testing.T) {
	for _, node := range []string{"web-1", "web-1.example.com", "100%", "a%2Eb", "a.b%25"} {
		dir := pinName.Replace(node)
		if strings.Contains(dir, ".") {
			t.Errorf("node %q is pinned as %q, which a bpffs refuses", node, dir)
		}
		if back := unpinName.Replace(dir); back != node {
			t.Errorf("node %q is pinned as %q and shown as %q", node, dir, back)
		}
	}
}
