package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
)

var (
	fence      = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpan   = regexp.MustCompile("`[^`]+`")
	docLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	docHeading = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// documents are what people read, by path from here.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	for _, pattern := range []string{"../../*.md", "../../docs/*.md"} {
		paths, err := filepath.Glob(pattern)
		must(t, err)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			must(t, err)
			docs[path] = string(text)
		}
	}
	if len(docs) < 10 {
		t.Fatalf("only %d documents", len(docs))
	}
	return docs
}

func TestDocumentedLinks(t *testing.T) {
	docs := documents(t)
	anchors := map[string]bool{}
	for path, text := range docs {
		for _, h := range docHeading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			anchors[path+"#"+slug(h[1])] = true
		}
	}
	checked := 0
	for path, text := range docs {
		for _, l := range docLink.FindAllStringSubmatch(codeSpan.ReplaceAllString(fence.ReplaceAllString(text, ""), ""), -1) {
			if strings.Contains(l[1], "://") {
				continue
			}
			checked++
			name, anchor, _ := strings.Cut(l[1], "#")
			to := path
			if name != "" {
				to = filepath.Join(filepath.Dir(path), name)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s, which is not there", path, l[1])
			} else if anchor != "" && !anchors[to+"#"+anchor] {
				t.Errorf("%s links to %s, and there is no such heading", path, l[1])
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d links were found", checked)
	}
}

// slug is a heading's anchor, as the usual renderers of Markdown make it.
func slug(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

// TestDocumentedCommands looks up every command of ringfence, and each of its
// flags, that a document's code names; of a table's row also the flags that
// stand beside the command.
func TestDocumentedCommands(t *testing.T) {
	root := newRootCommand()
	checked := 0
	for path, text := range documents(t) {
		text = strings.ReplaceAll(text, "\\\n", " ")
		fenced := false
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "```") {
				fenced = !fenced
			}
			code := codeSpan.FindAllString(line, -1)
			if fenced || strings.HasPrefix(line, "    ") {
				code = []string{line}
			}
			var row *cobra.Command
			for _, c := range code {
				for _, part := range strings.Split(strings.ReplaceAll(c, `\|`, ";"), "|") {
					words := strings.Fields(strings.Trim(part, "` \n"))
					for len(words) > 0 && (words[0] == "sudo" || strings.Contains(words[0], "=")) {
						words = words[1:]
					}
					switch {
					case len(words) > 1 && filepath.Base(words[0]) == "ringfence":
						row = documented(t, path, root, words[1:])
						checked++
					case row != nil && strings.HasPrefix(line, "|") && len(words) > 0 && strings.HasPrefix(words[0], "-"):
						documentedFlags(t, path, row, words)
					}
				}
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d commands were found", checked)
	}
}

func documented(t *testing.T, path string, root *cobra.Command, words []string) *cobra.Command {
	t.Helper()
	names := strings.Split(words[0], ";") // a|b|c in a table
	var cmd *cobra.Command
	for _, name := range names {
		found, rest, err := root.Find(append([]string{name}, words[1:]...))
		if err != nil || found == root && !strings.HasPrefix(name, "-") {
			t.Errorf("%s has %q, which is no command", path, "ringfence "+strings.Join(words, " "))
			return nil
		}
		if cmd = found; cmd.HasSubCommands() && len(rest) > 0 {
			for _, sub := range strings.Split(rest[0], ";") {
				if s, _, err := root.Find([]string{name, sub}); err != nil || s == found {
					t.Errorf("%s has %q, which is no command", path, "ringfence "+name+" "+sub)
				} else {
					cmd = s
				}
			}
		}
	}
	documentedFlags(t, path, cmd, words)
	return cmd
}

func documentedFlags(t *testing.T, path string, cmd *cobra.Command, words []string) {
	t.Helper()
	cmd.InitDefaultHelpFlag()
	for _, w := range words {
		known := false
		name, long := strings.CutPrefix(strings.TrimRight(w, ".,;"), "--")
		name, _, _ = strings.Cut(name, "=")
		switch {
		case w == "#" || w == ">" || w == "--":
			return
		case long:
			known = cmd.Flag(name) != nil
		case strings.HasPrefix(w, "-") && len(w) == 2:
			known = cmd.Flags().ShorthandLookup(w[1:]) != nil || cmd.InheritedFlags().ShorthandLookup(w[1:]) != nil
		default:
			continue
		}
		if !known {
			t.Errorf("%s gives %q the flag %s, which it has not", path, cmd.CommandPath(), w)
		}
	}
}
