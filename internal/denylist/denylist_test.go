package denylist

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, src string
		want      []string
	}{
		{"prefixes and addresses", "192.0.2.0/24\n198.51.100.7\n2001:db8::/32\n2001:db9::1\n",
			[]string{"192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32", "2001:db9::1/128"}},
		{"as Spamhaus writes them", "; Spamhaus DROP List\n; Expires: Fri\n1.10.16.0/20 ; SBL256894\n1.19.0.0/16 ; SBL434604\n",
			[]string{"1.10.16.0/20", "1.19.0.0/16"}},
		{"comments and blanks", "\n  # whole line\n\t192.0.2.1# trailing\n \n192.0.2.2\t; other\n", []string{"192.0.2.1/32", "192.0.2.2/32"}},
		{"no last line feed", "192.0.2.1", []string{"192.0.2.1/32"}},
		{"Windows", "\xef\xbb\xbf192.0.2.1\r\n192.0.2.2\r\n", []string{"192.0.2.1/32", "192.0.2.2/32"}},
		{"twice", "192.0.2.2\n192.0.2.1\n192.0.2.2/32\n", []string{"192.0.2.1/32", "192.0.2.2/32"}},
		{"a long comment", "192.0.2.1 # " + strings.Repeat("x", 10000) + "\n", []string{"192.0.2.1/32"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, err := Parse([]byte(c.src), false)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range list {
				got = append(got, p.String())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, src, want string }{
		{"a word", "192.0.2.1\nexample.com\n", `deny list: line 2: "example.com" is no address or prefix: write it as 192.0.2.1 or 2001:db8::/32`},
		{"host bits", "192.0.2.1/24", "deny list: line 1: 192.0.2.1/24 has bits beyond its length: write 192.0.2.0/24"},
		{"host bits of IPv6", "2001:db8::1/32", "deny list: line 1: 2001:db8::1/32 has bits beyond its length: write 2001:db8::/32"},
		{"everybody", "0.0.0.0/0", "deny list: line 1: 0.0.0.0/0 is everybody: that would cut this node off"},
		{"everybody of IPv6", "::/0", "deny list: line 1: ::/0 is everybody: that would cut this node off"},
		{"everybody with host bits", "10.0.0.0/0", "deny list: line 1: 10.0.0.0/0 is everybody: that would cut this node off"},
		{"two on a line", "192.0.2.1 192.0.2.2", `deny list: line 1: "192.0.2.1 192.0.2.2" is no address or prefix: write it as 192.0.2.1 or 2001:db8::/32`},
		{"a mask", "192.0.2.0/255.255.255.0", `deny list: line 1: "192.0.2.0/255.255.255.0" is no prefix: write it as 192.0.2.0/24 or 2001:db8::/32`},
		{"too long a prefix", "192.0.2.0/33", `deny list: line 1: "192.0.2.0/33" is no prefix: write it as 192.0.2.0/24 or 2001:db8::/32`},
		{"leading zeros", "192.0.02.1", `deny list: line 1: "192.0.02.1" is no address or prefix: write it as 192.0.2.1 or 2001:db8::/32`},
		{"a range", "192.0.2.1-192.0.2.9", `deny list: line 1: "192.0.2.1-192.0.2.9" is no address or prefix: write it as 192.0.2.1 or 2001:db8::/32`},
		{"mapped", "::ffff:192.0.2.1", `deny list: line 1: "::ffff:192.0.2.1" is an IPv4-mapped address: write it as IPv4`},
		{"mapped prefix", "::ffff:192.0.2.0/120", `deny list: line 1: "::ffff:192.0.2.0/120" is an IPv4-mapped address: write it as IPv4`},
		{"a zone", "fe80::1%eth0", `deny list: line 1: "fe80::1%eth0" has a zone: a list holds for every interface`},
		{"no entry", "# nothing\n\n", "deny list: has no entry: set allowEmpty if that is meant"},
		{"nothing", "", "deny list: has no entry: set allowEmpty if that is meant"},
		{"control characters", "\x1b[31m\x00", `deny list: line 1: "\x1b[31m\x00" is no address or prefix: write it as 192.0.2.1 or 2001:db8::/32`},
		{"a web page", "<html>" + strings.Repeat("x", 100), `deny list: line 1: "<html>` + strings.Repeat("x", 54) + `"… is no address or prefix: want one a line`},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, err := Parse([]byte(c.src), false)
			if err == nil || err.Error() != c.want {
				t.Errorf("error %v\n  want %s", err, c.want)
			}
			if list != nil {
				t.Errorf("%d entries beside the error", len(list))
			}
		})
	}
}

func TestParseLimit(t *testing.T) {
	var b strings.Builder
	for i := range MaxEntries {
		fmt.Fprintf(&b, "%d.%d.%d.%d\n", 1+i>>24, i>>16&255, i>>8&255, i&255)
	}
	list, err := Parse([]byte(b.String()), false)
	if err != nil || len(list) != MaxEntries {
		t.Fatalf("%d entries, %v", len(list), err)
	}
	b.WriteString("2001:db8::/32\n")
	_, err = Parse([]byte(b.String()), false)
	if want := "deny list: line 1000001: more than 1000000 entries: a node has room for that many in all its lists"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drop.txt")
	if _, err := Load(path, false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("# nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := Load(path, true); err != nil || len(list) != 0 {
		t.Errorf("allowed empty file: %v, %v", list, err)
	}
	_, err := Load(path, false)
	if e, ok := errors.AsType[*Error](err); !ok || e.File != path {
		t.Errorf("empty file: %v", err)
	}
	if _, err := Load(filepath.Dir(path), false); err == nil {
		t.Error("a directory was taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("192.0.2.0/24\n; c\n2001:db8::1 # x\r\n"))
	f.Add([]byte("10.0.0.1/8"))
	f.Add([]byte("::ffff:1.2.3.4/128\nfe80::1%e"))
	f.Fuzz(func(t *testing.T, src []byte) {
		list, err := Parse(src, false)
		if err != nil {
			if e, ok := errors.AsType[*Error](err); !ok || strings.ContainsAny(e.Error(), "\n\x00\x1b") || list != nil {
				t.Fatalf("error %q beside %d entries", err, len(list))
			}
			return
		}
		var b strings.Builder
		for i, p := range list {
			if !p.IsValid() || p != p.Masked() || p.Bits() == 0 || p.Addr().Is4In6() {
				t.Fatalf("entry %s", p)
			}
			if i > 0 && list[i-1].Compare(p) >= 0 {
				t.Fatalf("%s before %s", list[i-1], p)
			}
			fmt.Fprintln(&b, netip.Prefix.String(p))
		}
		again, err := Parse([]byte(b.String()), false)
		if err != nil || !slices.Equal(again, list) {
			t.Fatalf("written and read again: %v, %v", again, err)
		}
	})
}
