package ui_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/ui"
)

// TestDist holds with a build and without one: what is embedded is the directory's
// content, and a page that is there names only files that are there too.
func TestDist(t *testing.T) {
	dist := ui.Dist()
	if _, err := fs.Stat(dist, ".gitkeep"); err != nil {
		t.Fatalf("the build must leave .gitkeep, or Go does not compile from a clean checkout: %v", err)
	}
	page, err := fs.ReadFile(dist, "index.html")
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, part := range strings.Split(string(page), `"`) {
		if !strings.HasPrefix(part, "/") {
			continue
		}
		files++
		if _, err := fs.Stat(dist, part[1:]); err != nil {
			t.Errorf("index.html names %s: %v", part, err)
		}
	}
	if files < 4 {
		t.Errorf("index.html names %d files, want its icon, two scripts and a style sheet", files)
	}
	if strings.Contains(string(page), "<style") || strings.Contains(string(page), "onload=") {
		t.Error("index.html holds something inline, which the content security policy forbids")
	}
}
