package main

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/api"
)

func TestExplainByServer(t *testing.T) {
	answer := api.ConnectionAnswer{
		Connections: []api.Connection{{
			Source: "shop/Host/front", Destination: "shop/Host/cart", Protocol: "UDP", Port: 53, Summary: "no",
			Ingress: &api.Explanation{Verdict: "deny", Reason: "default-deny", Summary: "denied: none matches", Rules: []api.RuleOutcome{
				{Index: 1, ID: "r2", Sentence: "anyone may connect on TCP 80", Why: []string{"the flow is to UDP 53"}},
			}},
		}},
		JudgedBy: []api.JudgedBy{
			{Workload: api.WorkloadRef{Namespace: "shop", Kind: "Host", Name: "front"}, Slot: new(api.Live)},
			{Workload: api.WorkloadRef{Namespace: "shop", Kind: "Host", Name: "cart"}, Slot: new(api.Staged), Revision: new(int64(8))},
		},
	}
	var asked string
	config := flowServer(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path + "?" + r.URL.RawQuery
		sendJSON(w, answer)
	})
	for _, c := range []struct {
		args  []string
		asked string
		says  []string
	}{
		{[]string{"--slot", "staged"}, "/api/v1/explain?source=front&destination=cart&port=53%2FUDP&slot=staged", []string{
			"denied: shop/Host/front to shop/Host/cart on UDP 53\n", "ingress of shop/Host/cart: denied: none matches\n",
			"no  rule 2: anyone may connect on TCP 80\n        the flow is to UDP 53\n",
			"judged shop/Host/front by nothing: its live slot is empty\n", "judged shop/Host/cart by revision 8, staged\n",
		}},
		{[]string{"-o", "json", "--source-revision", "3", "--destination-revision", "8"},
			"/api/v1/explain?source=front&destination=cart&port=53%2FUDP&slot=live&sourceRevision=3&destinationRevision=8", []string{`"allowed": false`, `"revision": 8`}},
		{[]string{"-o", "yaml"}, "", []string{"allowed: false"}},
		{[]string{"-o", "name"}, "", []string{"denied\n"}},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"explain", "front", "cart", "53/UDP", "--config", config}, c.args...), &out, &errs)
		if code != 0 || c.asked != "" && asked != c.asked {
			t.Errorf("%q: code %d, asked %s: %s", c.args, code, asked, errs.String())
		}
		for _, want := range c.says {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q: %q is not in\n%s", c.args, want, out.String())
			}
		}
	}
}
