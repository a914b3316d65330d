package main

import (
	"os"
	"testing"
)

// TestMain lets the test binary be what ringfence starts itself as.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == engineCommand {
		main()
	}
	os.Exit(m.Run())
}
