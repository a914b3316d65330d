package clickhouse

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestForgetLostTokens checks which tokens are taken back: those whose part is
// neither there nor within a merged one.
func TestForgetLostTokens(t *testing.T) {
	dir := t.TempDir()
	table := filepath.Join(dir, dataSubdir, "store", "abc", "abcdef")
	for _, sub := range []string{"deduplication_logs", "20261122_1_3_1", "20261122_5_5_0_7", "20261121_4_4_0", "tmp_insert_20261122_6_6_0", "detached"} {
		if err := os.MkdirAll(filepath.Join(table, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	logs := []string{
		"1\t20261122_1_1_0\tmerged\n1\t20261122_4_4_0\tlost\n1\t20261122_4_4_0\tdropped\n",
		"2\t20261122_4_4_0\tdropped\n1\t20261122_5_5_0\tmutated\n1\t20261121_4_4_0\tthere\n1\t20261122_6_6_0\tunfinished\n",
	}
	paths := []string{"deduplication_log_9.txt", "deduplication_log_10.txt"}
	for i, name := range paths {
		paths[i] = filepath.Join(table, "deduplication_logs", name)
		if err := os.WriteFile(paths[i], []byte(logs[i]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is nothing to do
		if err := forgetLostTokens(dir); err != nil {
			t.Fatal(err)
		}
		older, err := os.ReadFile(paths[0])
		if err != nil || string(older) != logs[0] {
			t.Fatalf("the older log is %q (%v)", older, err)
		}
		newer, err := os.ReadFile(paths[1])
		if err != nil {
			t.Fatal(err)
		}
		added, kept := strings.CutPrefix(string(newer), logs[1])
		if !kept || len(added) != len("2\t20261122_4_4_0\tlost\n2\t20261122_6_6_0\tunfinished\n") ||
			!strings.Contains(added, "2\t20261122_4_4_0\tlost\n") || !strings.Contains(added, "2\t20261122_6_6_0\tunfinished\n") {
			t.Fatalf("added %q", added)
		}
	}
}

// TestTokensAreCarriedOver takes what one table remembers to one whose parts
// have other names.
func TestTokensAreCarriedOver(t *testing.T) {
	table := func(log string, parts ...string) (dir string, file string) {
		dir = t.TempDir()
		for _, sub := range append(parts, tokenDir) {
			if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		file = filepath.Join(dir, tokenDir, "deduplication_log_1.txt")
		if err := os.WriteFile(file, []byte(log), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir, file
	}
	from, _ := table("1\t20261121_1_1_0\ta\n1\t20261122_2_2_0\tb\n1\t20261122_3_3_0\tc\n2\t20261122_2_2_0\tb\n1\t20261120_4_4_0\told\n1\t20261122_5_5_0\td\n", "20261122_2_5_1")
	tokens, err := Tokens(from)
	if err != nil {
		t.Fatal(err)
	}
	to, file := table("1\t20261122_9_9_0\town\n", "20261122_1_2_1_7", "20261122_9_9_0", "20261121_3_3_0")
	if err := AdoptTokens(to, tokens); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if want := "1\t20261122_9_9_0\town\n1\t20261121_3_3_0\ta\n1\t20261122_1_2_0\tc\n1\t20261122_1_2_0\td\n"; err != nil || string(got) != want {
		t.Errorf("the log is %q (%v), want %q", got, err, want)
	}
	for _, bad := range []string{"2026", "1\tx\ty\n"} {
		if err := AdoptTokens(to, []byte(bad)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q is none", bad)) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := AdoptTokens(t.TempDir(), tokens); err == nil || !strings.Contains(err.Error(), "no log") {
		t.Errorf("a table that remembers nothing: %v", err)
	}
}
