package main

import (
	"strings"
	"testing"
)

func TestSpoolSize(t *testing.T) {
	for in, want := range map[string]int64{"1GiB": 1 << 30, "500 MB": 500_000_000, "16777216": 16 << 20, "2Gi": 2 << 30} {
		if got, err := spoolBytes(in); err != nil || got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{"": "want a number of bytes", "-1": "want a number of bytes", "much": "want a number of bytes", "15MiB": "at least 16 MiB", "0": "at least", "1e30": "want a number of bytes"} {
		if _, err := spoolBytes(in); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--spool-size") {
			t.Errorf("%q: %v", in, err)
		}
	}
}
