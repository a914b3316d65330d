package api

import (
	"net/url"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	h := build(t)
	h.node()
	h.post(cartPath+"/revisions", newRevision("0")).want(201)
	h.post(cartPath+"/stage", slotChange(1, 0)).want(200)
	ask := func(source, destination, port string, more ...string) string {
		q := url.Values{"source": {source}, "destination": {destination}, "port": {port}}
		for i := 0; i < len(more); i += 2 {
			q.Set(more[i], more[i+1])
		}
		return "/api/v1/explain?" + q.Encode()
	}
	for _, c := range []struct {
		name     string
		path     string
		allowed  bool
		judgedBy int64 // the destination's revision
		says     string
	}{
		{"live is empty", ask("shop/front", "shop/cart", "81"), true, 0, "allowed: no policy governs its ingress"},
		{"staged allows", ask("shop/front", "shop/Host/cart", "80", "slot", "staged"), true, 1, "allowed by ingress rule 1"},
		{"staged denies", ask("shop/front", "cart", "81/TCP", "slot", "staged"), false, 1, "denied: ingress is isolated"},
		{"another protocol", ask("shop/front", "cart", "80/UDP", "slot", "staged"), false, 1, "denied: ingress is isolated"},
		{"a revision", ask("shop/front", "shop/cart", "81", "destinationRevision", "1"), false, 1, "denied: ingress is isolated"},
		{"by IPv4", ask("10.1.0.3", "10.1.0.1", "80", "slot", "staged"), true, 1, "allowed by ingress rule 1"},
		{"by IPv6", ask("fd00:1::3", "fd00:1::1", "80", "slot", "staged"), true, 1, "allowed by ingress rule 1"},
		{"a stranger, IPv4", ask("192.0.2.1", "cart", "80", "slot", "staged"), false, 1, "192.0.2.1 (world)"},
		{"a stranger, IPv6", ask("2001:db8::1", "cart", "80", "slot", "staged"), false, 1, "2001:db8::1 (world)"},
		{"a reserved peer", ask("world", "cart", "80", "slot", "staged"), false, 1, "denied: ingress"},
		{"its own node is failsafe", ask("10.0.0.1", "cart", "81", "slot", "staged"), true, 1, "failsafe"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got ConnectionAnswer
			a := h.on(t).get(c.path).want(200)
			a.into(&got)
			if len(got.Connections) != 1 || got.Connections[0].Allowed != c.allowed || !strings.Contains(string(a.body), c.says) {
				t.Errorf("want allowed %t, %q: %s", c.allowed, c.says, a.body)
			}
			for _, by := range got.JudgedBy {
				if by.Workload == RefOf(cart) && deref(by.Revision) != c.judgedBy {
					t.Errorf("judged by %+v", by)
				}
			}
		})
	}
	for _, c := range []struct {
		name, path string
		status     int
		code       ErrorCode
		want       string
	}{
		{"nobody", ask("nobody", "cart", "80"), 400, ErrorCodeInvalid, `source "nobody": no workload is called that`},
		{"no such port", ask("front", "cart", "http"), 400, ErrorCodeInvalid, `port "http": want a number`},
		{"within one endpoint", ask("cart", "cart", "80"), 400, ErrorCodeInvalid, "one endpoint"},
		{"two families", ask("10.1.0.3", "fd00:1::1", "80"), 400, ErrorCodeInvalid, "one family"},
		{"no such revision", ask("front", "cart", "80", "destinationRevision", "7"), 404, ErrorCodeNotFound, "has no revision 7"},
		{"a revision of nobody", ask("world", "cart", "80", "sourceRevision", "1"), 400, ErrorCodeInvalid, "the source is no workload"},
		{"no port", "/api/v1/explain?source=a&destination=b", 400, ErrorCodeInvalid, "port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if e := h.on(t).get(c.path).problem(c.status, c.code); !strings.Contains(e.Message, c.want) {
				t.Errorf("%q, want %q", e.Message, c.want)
			}
		})
	}
}
