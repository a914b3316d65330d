package spool

import "testing"

func TestToken(t *testing.T) {
	for s, want := range map[string]Token{
		"node-1/abc/0-80/000000000000002d":                {Node: "node-1", Ring: 0xabc, End: 80, Sum: 45},
		"eu/rack 1/ffffffffffffffff/5-6/ffffffffffffffff": {Node: "eu/rack 1", Ring: 1<<64 - 1, Start: 5, End: 6, Sum: 1<<64 - 1},
	} {
		if got, err := ParseToken(s); err != nil || got != want || got.String() != s {
			t.Errorf("%s: got %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "token-1", "///", "/abc/0-80/000000000000002d", "n/abc/80-80/000000000000002d", "n/abc/81-80/000000000000002d",
		"n/abc/0-80/2d", "n/ABC/0-80/000000000000002d", "n/abc/080/000000000000002d", "n/abc/-1-80/000000000000002d",
		"n/abc/0-99999999999999999999/000000000000002d", "n/abc/00-80/000000000000002d", "n/abc/0-80/000000000000002d/",
	} {
		if got, err := ParseToken(s); err == nil {
			t.Errorf("%q is %+v", s, got)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("node-1/abc/0-80/000000000000002d")
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := ParseToken(s); err == nil && got.String() != s {
			t.Errorf("%q came back as %q", s, got)
		}
	})
}
