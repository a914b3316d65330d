package query

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var now = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func TestParse(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"  \t\n ", ""},
		{"from.namespace=shop to.port=443,8443 verdict=audited -to.label=tier=db", ""},
		{"namespace!=shop", "-namespace=shop"},
		{"-namespace!=shop", "namespace=shop"},
		{"to.label=tier!=db,app", ""},
		{"to.label!=tier=db", "-to.label=tier=db"},
		{`node="a b, \"c\" \\d"`, ""},
		{`node="plain"`, "node=plain"},
		{`node=a,"b",c`, "node=a,b,c"},
		{`label=app=`, ""},
		{"address=10.0.0.1,10.1.2.3/8,2001:db8::1/128,::ffff:192.0.2.1", "address=10.0.0.1,10.0.0.0/8,2001:db8::1,192.0.2.1"},
		{"address=::ffff:10.0.0.0/104", "address=10.0.0.0/8"},
		{"port=1-1,2-3,0", "port=1,2-3,0"},
		{"protocol=tcp,17,icmpV6,200", "protocol=TCP,UDP,ICMPv6,200"},
		{"workload=shop/cart,shop/Deployment/cart", ""},
		{"live.verdict=deny staged.reason=default-deny,rule revision=3 live.revision=1-9", ""},
		{"direction=ingress event=new,end observer=shop/cart reserved=world", ""},
		{"since=90m until=1h", "since=2026-03-04T10:30:00Z until=2026-03-04T11:00:00Z"},
		{"since=7d", "since=2026-02-25T12:00:00Z"},
		{"since=2026-03-04T10:30:00.123456+01:00", "since=2026-03-04T09:30:00.123456Z"},
		{"node=名前", ""},
		{"node=a\u00a0verdict=dropped", "node=a verdict=dropped"},
		{"node=-x", ""},
	} {
		f, err := Parse(tt.text, now)
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		want := tt.want
		if want == "" {
			want = strings.TrimSpace(tt.text)
		}
		if got := f.String(); got != want {
			t.Errorf("%q is read as %q, want %q", tt.text, got, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct {
		text   string
		column int
		says   string
	}{
		{"shop", 1, `"shop" is no condition: want field=value`},
		{"verdict=audited shop", 17, `"shop" is no condition`},
		{"frm.port=443", 1, `unknown field "frm.port": did you mean from.port? want one of`},
		{"-frm.port=443", 2, "unknown field"},
		{"=x", 1, `unknown field "": want one of namespace, workload, `},
		{"qqqqqq=x", 1, `unknown field "qqqqqq": want one of namespace, workload, `},
		{"vredict=x", 1, `did you mean verdict? want one of`},
		{"srouce=x", 1, `unknown field "srouce": want one of`},
		{"frompod.lable=x", 1, `unknown field "frompod.lable"`},
		{"proto=x", 1, `did you mean protocol? want one of`},
		{"from.verdict=dropped", 1, "did you mean verdict"},
		{"live.namespace=x", 1, "did you mean namespace"},
		{"Namespace=x", 1, "did you mean namespace"},
		{"  verdict", 10, "verdict: want = or != and a value"},
		{"verdict=", 9, "verdict: want a value here"},
		{"verdict= dropped", 9, "verdict: want a value here"},
		{"verdict=dropped,", 17, "want a value here"},
		{"verdict=dropped,,audited", 17, "want a value here"},
		{"verdict=dropped,up", 17, `want one of ["unknown" "forwarded" "audited" "dropped"]`},
		{"verdict=allow", 9, "forwarded"},
		{"live.verdict=dropped", 14, `"allow" "deny"`},
		{"reason=because", 8, "default-deny"},
		{"direction=up", 11, "ingress"},
		{"event=begin", 7, "sweep"},
		{"protocol=TPC", 10, "want TCP, UDP"},
		{"reserved=mars", 10, "want one of host, kube-apiserver, remote-node, world"},
		{"port=65536", 6, "want a number from 0 to 65535"},
		{"port=2-1", 6, "want a number"},
		{"port=-1", 6, "want a number"},
		{"port=http", 6, "want a number"},
		{"workload=cart", 10, "want namespace/name or namespace/kind/name"},
		{"workload=a/b/c/d", 10, "want namespace/name"},
		{"workload=a//c", 10, "want namespace/name"},
		{"to.workload=a/b,c", 17, "want namespace/name"},
		{"address=10.0.0", 9, "want an address such as"},
		{"address=10.0.0.0/33", 9, "want an address such as"},
		{"address=fe80::1%eth0", 9, "want an address such as"},
		{"address=::ffff:10.0.0.0/90", 9, "at least 96 bits"},
		{"label==x", 7, "want key, key=value or key!=value"},
		{`label="a=b,c"`, 7, "without commas"},
		{`node="a`, 6, "the quote is not closed"},
		{`node="a\"`, 6, "the quote is not closed"},
		{`node="a"b`, 9, "want a space or a comma after the quoted value"},
		{`node=a"b`, 7, "a quote within a value"},
		{`node=""`, 6, "an empty name matches nothing"},
		{"node=名前 vredict=x", 9, "unknown field"},
		{"node=a\xffb", 7, "is not UTF-8"},
		{"since=yesterday", 7, "how long ago, such as 15m"},
		{"since=-1h", 7, "how long ago"},
		{"since=0s", 7, "how long ago"},
		{"since=1h since=2h", 10, "since is given twice"},
		{"-since=1h", 1, "since cannot be turned round"},
		{"until!=1h", 1, "until cannot be turned round"},
		{"since=1h,2h", 9, "want one time only"},
		{"since=99999999999d", 7, "how long ago"},
		{"since=0001-01-01T00:00:00Z", 7, "no flows yet"},
		{"since", 6, "since: want = or != and a value"},
		{strings.Repeat("x", MaxText+1), 1, "longer than 4096 bytes"},
		{strings.Repeat("port=1 ", maxTerms+1), maxTerms*7 + 1, "more than 64 conditions"},
		{"port=" + strings.Repeat("1,", maxValues) + "1", 6 + 2*maxValues, "more than 256 values"},
	} {
		_, err := Parse(tt.text, now)
		at, ok := errors.AsType[*Error](err)
		if !ok || at.Column != tt.column || !strings.Contains(at.Message, tt.says) {
			t.Errorf("%.60q: %v, want column %d: …%s…", tt.text, err, tt.column, tt.says)
		}
	}
}

func TestEveryFieldIsKnown(t *testing.T) {
	if len(fields) != len(parsers)+2 {
		t.Errorf("%d names and %d parsers, want as many but for since and until", len(fields), len(parsers))
	}
	for _, name := range fields {
		if parsers[name] == nil && name != sinceField && name != untilField {
			t.Errorf("%s has no parser", name)
		}
	}
	if _, err := NewTerm("nobody", "x"); err == nil || !strings.Contains(err.Error(), "want one of") {
		t.Errorf("an unknown field gives %v", err)
	}
	if _, err := NewTerm("node"); err == nil {
		t.Error("a condition without values is none")
	}
}

func TestCursor(t *testing.T) {
	f, err := Parse("to.port=443 since=1h", now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []Cursor{
		{Time: now.Add(123456 * time.Microsecond), ID: 1<<64 - 1, Same: 7, Since: f.Since, Until: now},
		{Time: time.Unix(0, 0).UTC()},
		{Time: time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC), Since: time.Unix(0, 0).UTC()},
	} {
		text := c.Text(f)
		got, err := ParseCursor(text, f)
		if err != nil || got != c {
			t.Errorf("%+v comes back as %+v, %v", c, got, err)
		}
		later, _ := Parse("to.port=443 since=1h", now.Add(time.Minute))
		if _, err := ParseCursor(text, later); err != nil {
			t.Errorf("read a minute later: %v", err)
		}
		other, _ := Parse("to.port=80 since=1h", now)
		if _, err := ParseCursor(text, other); err == nil || !strings.Contains(err.Error(), "another filter") {
			t.Errorf("of another filter: %v", err)
		}
		for i := range text { // any other character
			other := "A"
			if text[i] == 'A' {
				other = "B"
			}
			if got, err := ParseCursor(text[:i]+other+text[i+1:], f); err == nil {
				t.Fatalf("damaged at %d it is read as %+v", i, got)
			}
		}
	}
	for _, text := range []string{"", "A", "====", strings.Repeat("A", 66), "名前"} {
		if _, err := ParseCursor(text, f); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "from.namespace=shop to.port=443,8443 verdict=audited -to.label=tier=db", `node="a \"b\" \\"`, "since=1h until=2026-01-01T00:00:00Z",
		"address=::ffff:10.0.0.0/104,10.0.0.0/8", "label=a!=b,c,d=", "workload=a/b,a/b/c port!=1-2", "since=106751d", "\xff", `node="`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Parse(text, now)
		if err != nil {
			at, ok := errors.AsType[*Error](err)
			if !ok || at.Column < 1 || at.Column > utf8.RuneCountInString(text)+1 || strings.Contains(at.Message, "\n") {
				t.Fatalf("%q: %v is at no place in it, or of several lines", text, err)
			}
			return
		}
		again, err := Parse(got.String(), now.Add(time.Hour))
		if len(got.String()) > MaxText {
			return // a quoted value may grow
		}
		if err != nil || again.String() != got.String() {
			t.Fatalf("%q is read as %q, and that as %q (%v)", text, got, again, err)
		}
		if c := (Cursor{Time: now, ID: 1}); true {
			if back, err := ParseCursor(c.Text(got), again); err != nil || back != c {
				t.Fatalf("%q: cursor %v, %v", text, back, err)
			}
		}
	})
}

func FuzzParseCursor(f *testing.F) {
	f.Add(Cursor{Time: now, ID: 5, Same: 2}.Text(Filter{}))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := ParseCursor(text, Filter{}); err == nil && c.Text(Filter{}) != text {
			t.Fatalf("%q is read as %+v, which is %q", text, c, c.Text(Filter{}))
		}
	})
}
