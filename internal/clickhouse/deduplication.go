package clickhouse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The engine notes an insert's token in a table's log before the insert's part
// is there. Killed in between it would take the insert, sent again, for a
// repeated one, and the rows would be lost.

// Where that log is, of each table, and its operations: a line is the operation,
// the part and the token's block, with tabs between them.
const (
	tokenDir     = "deduplication_logs" //nolint:gosec // a name
	tokenAdded   = "1"
	tokenDropped = "2"
)

// forgetLostTokens takes the tokens back whose parts never came to be, or are
// gone. The engine must not run.
func forgetLostTokens(dir string) error {
	logs, err := filepath.Glob(filepath.Join(dir, dataSubdir, "store", "*", "*", tokenDir))
	if err != nil {
		return fmt.Errorf("find the engine's tokens: %w", err)
	}
	for _, log := range logs {
		if err := forgetLostTokensOf(log); err != nil {
			return fmt.Errorf("take back tokens of lost inserts in %s: %w", log, bare(err))
		}
	}
	return nil
}

func forgetLostTokensOf(log string) error {
	files, err := tokenFiles(log)
	if err != nil || len(files) == 0 {
		return err
	}
	parts, err := partsOf(filepath.Dir(log))
	if err != nil {
		return err
	}
	held, err := tokensIn(files)
	if err != nil {
		return err
	}
	var lost strings.Builder
	for _, t := range held {
		p, ok := parsePart(t.part)
		if ok && !slices.ContainsFunc(parts[p.partition], func(o part) bool { return o.from <= p.from && p.to <= o.to }) {
			lost.WriteString(t.line(tokenDropped))
		}
	}
	if lost.Len() == 0 {
		return nil
	}
	return appendTo(files[len(files)-1], lost.String())
}

// Tokens returns those that a table remembers, for AdoptTokens. Dir is the
// table's, and nothing is inserted meanwhile.
func Tokens(dir string) ([]byte, error) {
	files, err := tokenFiles(filepath.Join(dir, tokenDir))
	if err != nil {
		return nil, fmt.Errorf("find the engine's tokens: %w", err)
	}
	held, err := tokensIn(files)
	if err != nil {
		return nil, fmt.Errorf("read the engine's tokens: %w", bare(err))
	}
	var out strings.Builder
	for _, t := range held {
		out.WriteString(t.line(tokenAdded))
	}
	return []byte(out.String()), nil
}

// AdoptTokens makes a table remember what Tokens returned of the one that its
// rows are from, whose parts had other names. The engine must not run.
func AdoptTokens(dir string, tokens []byte) error {
	files, err := tokenFiles(filepath.Join(dir, tokenDir))
	if err == nil && len(files) == 0 {
		err = errors.New("the table has no log of them")
	}
	var parts map[string][]part
	if err == nil {
		parts, err = partsOf(dir)
	}
	if err != nil {
		return fmt.Errorf("take over tokens: %w", bare(err))
	}
	var out strings.Builder
	for line := range strings.Lines(string(tokens)) {
		_, t, ok := parseToken(line)
		p, named := parsePart(t.part)
		if !ok || !named {
			return fmt.Errorf("take over tokens: %q is none", line)
		}
		// Any part will do: it is only asked whether there is one. What is too old
		// to be kept has none.
		if there := parts[p.partition]; len(there) > 0 {
			t.part = fmt.Sprintf("%s_%d_%d_0", p.partition, there[0].from, there[0].to)
			out.WriteString(t.line(tokenAdded))
		}
	}
	if err := appendTo(files[len(files)-1], out.String()); err != nil {
		return fmt.Errorf("take over tokens: %w", bare(err))
	}
	return nil
}

// token is one that a table remembers, with the part that was inserted under it.
type token struct{ part, block string }

func (t token) line(operation string) string {
	return operation + "\t" + t.part + "\t" + t.block + "\n"
}

func parseToken(line string) (operation string, t token, ok bool) {
	f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
	if len(f) != 3 {
		return "", t, false // cut off with the process that wrote it
	}
	return f[0], token{part: f[1], block: f[2]}, true
}

// tokensIn returns what the files of a log say is remembered, oldest first.
func tokensIn(files []string) ([]token, error) {
	held := map[string]int{} // by block
	var all []token          // those that were dropped are empty
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			operation, t, ok := parseToken(line)
			if !ok {
				continue
			}
			if at, again := held[t.block]; again {
				all[at] = token{}
				delete(held, t.block)
			}
			if operation == tokenAdded {
				held[t.block] = len(all)
				all = append(all, t)
			}
		}
	}
	return slices.DeleteFunc(all, func(t token) bool { return t == token{} }), nil
}

// appendTo adds lines to a file. One whose last line was cut off, as only a loss
// of power does, is the engine's to read.
func appendTo(path, lines string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	last := []byte{'\n'}
	if err == nil && info.Size() > 0 {
		_, err = f.ReadAt(last, info.Size()-1)
	}
	if err == nil && last[0] == '\n' {
		_, err = f.WriteString(lines)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// tokenFiles returns the files of a log, oldest first.
func tokenFiles(log string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(log, "deduplication_log_*.txt"))
	if err != nil {
		return nil, err
	}
	number := func(path string) int {
		n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "deduplication_log_"), ".txt"))
		return n
	}
	slices.SortFunc(files, func(a, b string) int { return number(a) - number(b) })
	return files, nil
}

// part is the range of blocks that a part of a partition holds.
type part struct {
	partition string
	from, to  uint64
}

// parsePart reads PARTITION_FROM_TO_LEVEL, which a mutation's number may follow.
func parsePart(name string) (part, bool) {
	f := strings.Split(name, "_")
	if len(f) != 4 && len(f) != 5 {
		return part{}, false
	}
	from, err1 := strconv.ParseUint(f[1], 10, 64)
	to, err2 := strconv.ParseUint(f[2], 10, 64)
	return part{f[0], from, to}, err1 == nil && err2 == nil
}

// partsOf returns the parts of a table by partition.
func partsOf(table string) (map[string][]part, error) {
	entries, err := os.ReadDir(table)
	if err != nil {
		return nil, err
	}
	out := map[string][]part{}
	for _, e := range entries {
		if p, ok := parsePart(e.Name()); ok && e.Type()&fs.ModeDir != 0 {
			out[p.partition] = append(out[p.partition], p)
		}
	}
	return out, nil
}
