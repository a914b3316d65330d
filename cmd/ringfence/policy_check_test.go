package main

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/api"
)

func TestPolicyCheck(t *testing.T) {
	ref := func(name string) api.WorkloadRef {
		return api.WorkloadRef{Namespace: "shop", Kind: "Host", Name: name}
	}
	rule := func(proposed api.RecommendedRuleProposed, sentence string, flags ...api.Flag) api.RecommendedRule {
		return api.RecommendedRule{Direction: api.Ingress, Proposed: proposed, Sentence: sentence, Flags: flags, Evidence: []api.Evidence{{Connections: 7}}}
	}
	check := api.PolicyCheck{
		Slot: api.Live, Revision: 4, Unused: 1, New: 1, ToReview: 1, Words: "Of 2 rules 1 unused.", Coverage: api.Coverage{CoveredSeconds: 23 * 86400, Seconds: 30 * 86400},
		Rules: []api.RecommendedRule{
			rule(api.Keep, "front may connect"),
			rule(api.Remove, "old may connect", api.Flag{Code: "unused", Reason: "nothing used it"}),
			rule(api.Review, "new may connect", api.Flag{Code: "late", Reason: "first seen late"}),
		},
	}
	list := []api.WorkloadSummary{
		{Workload: ref("cart"), Labels: map[string]string{"app": "cart"}, Requested: api.SlotRevisions{Live: new(int64(4))}},
		{Workload: ref("idle"), Labels: map[string]string{}},
		{Workload: ref("pay"), Labels: map[string]string{"app": "pay"}, Requested: api.SlotRevisions{Staged: new(int64(2))}},
	}
	var asked []string
	config := flowServer(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/workloads") {
			sendJSON(w, list)
			return
		}
		parts := strings.Split(r.URL.Path, "/")
		name := parts[len(parts)-2]
		asked = append(asked, name+" "+r.URL.Query().Get("slot"))
		answer := check
		answer.Workload = ref(name)
		sendJSON(w, answer)
	})
	for _, c := range []struct {
		args  []string
		asked string
		says  []string
		code  int
	}{
		{[]string{"shop/Host/cart"}, "cart ", []string{
			"PROPOSED", "keep      ingress    7            front may connect", "remove    ingress    7            old may connect    unused: nothing used it",
			"review    ingress    7            new may connect    late: first seen late", "shop/Host/cart@4, live: Of 2 rules 1 unused.",
		}, 0},
		{[]string{"shop/Host/cart", "-o", "name"}, "cart ", []string{"shop/Host/cart@4\n"}, 0},
		{[]string{"-A"}, "cart ,pay ", []string{"WORKLOAD", "shop/Host/cart  live  4         2      1       0         0      1    1          552h of 720h"}, 0},
		{[]string{"-A", "--slot", "staged", "-o", "json"}, "pay staged", []string{`"unused": 1`}, 0},
		{[]string{"-l", "app=cart"}, "cart ", nil, 0},
		{[]string{"-n", "ops"}, "", []string{"no workload asked about has a revision in that slot"}, 0},
		{nil, "", []string{"name one workload as NAMESPACE/KIND/NAME, or several by -A, -n or -l"}, 1},
		{[]string{"-A", "shop/Host/cart"}, "", []string{"name one workload"}, 1},
		{[]string{"shop/Host/cart", "--slot", "both"}, "", []string{`--slot "both": want live or staged`}, 1},
		{[]string{"shop/Host/cart", "--since", "tomorrow"}, "", []string{"--since: "}, 1},
		{[]string{"-l", "a=b=c"}, "", []string{`-l "a=b=c": `}, 1},
	} {
		asked = nil
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"policy", "check", "--config", config}, c.args...), &out, &out)
		if code != c.code || strings.Join(asked, ",") != c.asked {
			t.Errorf("%q: code %d, asked %q", c.args, code, asked)
		}
		for _, want := range c.says {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q: %q is not in\n%s", c.args, want, out.String())
			}
		}
	}
}
