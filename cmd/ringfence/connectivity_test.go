package main

import (
	"bytes"
	"strings"
	"testing"
)

const shopManifests = "../../internal/manifests/testdata/shop"

func TestOfflineCommands(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string // in what is printed, on either stream
	}{
		{"table", []string{"connectivity", shopManifests}, 0, []string{"SOURCE", "shop/StatefulSet/db                       TCP       5432\n", "world                                     any       any\n", "note: CiliumNetworkPolicy (1 here) is not judged"}},
		{"csv", []string{"connectivity", shopManifests, "-o", "csv"}, 0, []string{"source,destination,protocol,from_port,to_port\n", "shop/Deployment/front,2001:db8::/32,UDP,8000,8010\n"}},
		{"json", []string{"connectivity", shopManifests, "-o", "json"}, 0, []string{`"workloads": 5`, `"protocol": "SCTP"`}},
		{"no such format", []string{"connectivity", shopManifests, "-o", "dot"}, 1, []string{`-o "dot": want one of table, json, yaml, name, csv`}},
		{"no directory", []string{"connectivity"}, 1, []string{"name one directory"}},
		{"missing directory", []string{"connectivity", "testdata/none"}, 1, []string{"no such file or directory"}},
		{"allowed", []string{"explain", "shop/front", "shop/db", "sql", "--manifests", shopManifests}, 0, []string{
			"allowed: shop/Deployment/front to shop/StatefulSet/db on TCP 5432", "yes rule 2 [shop/db]", "no address of the peer shop/StatefulSet/db is known, the rule allows 198.51.100.0/24 except 198.51.100.128/25", "[shop/front-egress]",
		}},
		{"denied", []string{"explain", "shop/front", "shop/db", "5433", "--manifests", shopManifests}, 0, []string{
			"denied: shop/Deployment/front", `the flow is to TCP 5433, the rule allows TCP port "sql", which is 5432 there`,
		}},
		{"as JSON", []string{"explain", "shop/front", "198.51.100.200", "443", "--manifests", shopManifests, "-o", "json"}, 0, []string{`"allowed": false`, `is carved out of 198.51.100.0/24`}},
		{"of a server", []string{"explain", "a", "b", "1", "--manifests", shopManifests, "--slot", "staged"}, 1, []string{"--slot is of a server"}},
		{"no such slot", []string{"explain", "a", "b", "1", "--slot", "dead"}, 1, []string{`--slot "dead": want live or staged`}},
		{"no server", []string{"explain", "a", "b", "1", "--config", "testdata/none.json"}, 1, []string{"no server has left testdata/none.json"}},
		{"too few", []string{"explain", "a", "b"}, 1, []string{"name a source, a destination and a port"}},
		{"csv is not for all", []string{"explain", "a", "b", "1", "-o", "csv"}, 1, []string{`-o "csv": want one of table, json, yaml, name`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			if code := run(t.Context(), c.args, &out, &out); code != c.code {
				t.Errorf("exit code %d", code)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is not in\n%s", want, out.String())
				}
			}
		})
	}
}
