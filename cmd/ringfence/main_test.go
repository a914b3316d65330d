package main

import (
	"os"
	"strings"
	"testing"
)

// TestMain lets the test binary be what ringfence starts itself as.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == engineCommand {
		main()
	}
	os.Exit(m.Run())
}

// A command line that cannot be meant is refused with what to write instead,
// before anything is made.
func TestWrongCommandLines(t *testing.T) {
	for line, want := range map[string]string{
		"store backup":               "name the file to write; see ringfence store backup --help",
		"store restore a b":          "name the file of a backup",
		"denylist check":             "name the files of deny lists",
		"policy show":                "name one workload as NAMESPACE/KIND/NAME",
		"explain shop/a shop/b":      "name a source, a destination and a port",
		"connectivity":               "name one directory or file of manifests",
		"replay":                     "name a file of policies or a revision",
		"diff a.yaml":                "name two files of policies or revisions",
		"demo --until never":         "want one of observe, audit, enforce",
		"demo --learn 30s":           "--learn 30s: want at least 1m10s to go on to enforce",
		"demo --check --learn 1ms":   "want at least 1s",
		"demo --check --until audit": "leave --until out",
	} {
		t.Run(line, func(t *testing.T) {
			_, stderr, code := commandLine(t, "", strings.Fields(line)...)
			if code != 1 || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit code %d, stderr %q; want 1 and one line with %q", code, stderr, want)
			}
		})
	}
}
