package inventory

import (
	"os"
	"strings"
	"testing"
)

// TestDocumentedInventories checks that what the documents show can be used.
func TestDocumentedInventories(t *testing.T) {
	found := 0
	for _, path := range []string{"../../README.md", "../../docs/inventory.md"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(text), "```yaml\n")[1:] {
			sample, _, _ := strings.Cut(block, "```")
			if !strings.Contains(sample, "workloads:") {
				continue
			}
			found++
			if _, err := Parse([]byte(sample)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d inventories in the documents, want 2", found)
	}
}
