package api

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/ringfence/ringfence/internal/policy"
)

// contract finds operations as another program would, with a router of its own.
var contract = func() routers.Router {
	spec, err := GetSpec()
	if err != nil {
		panic(err)
	}
	router, err := gorillamux.NewRouter(spec)
	if err != nil {
		panic(err)
	}
	return router
}()

// hold fails the test when an answer is not as the contract says.
func (a answer) hold(r *http.Request) {
	a.t.Helper()
	route, params, err := contract.FindRoute(r)
	if err != nil {
		return // nothing of the contract
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 a.status, Header: a.header,
		Body:    http.NoBody,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: true},
	})
	if err != nil {
		a.t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
	}
	response := route.Operation.Responses.Status(a.status)
	if response == nil {
		response = route.Operation.Responses.Default()
	}
	if response == nil || response.Value == nil || len(response.Value.Content) == 0 {
		if len(a.body) > 0 {
			a.t.Errorf("%s %s: a body where the contract has none: %s", r.Method, r.URL.Path, a.body)
		}
		return
	}
	media := response.Value.Content.Get(a.header.Get("Content-Type"))
	if media == nil {
		a.t.Errorf("%s %s: type %q", r.Method, r.URL.Path, a.header.Get("Content-Type"))
		return
	}
	var v any
	if err := json.Unmarshal(a.body, &v); err != nil {
		a.t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		return
	}
	if err := media.Schema.Value.VisitJSON(v, openapi3.VisitAsResponse()); err != nil {
		a.t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
	}
}

func TestEveryOperationIsRouted(t *testing.T) {
	h := build(t)
	operations(t, func(t *testing.T, method, path string, op *openapi3.Operation) {
		if ok := op.Responses.Value("200"); ok != nil && ok.Value.Content["text/event-stream"] != nil {
			return // it has no end
		}
		body := ""
		if op.RequestBody != nil {
			body = "{}"
		}
		if a := h.on(t).do(method, path, body, h.byToken); a.status == 405 || a.status == 500 || a.status == 501 {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}

func TestTheContractIsValid(t *testing.T) {
	loader := openapi3.NewLoader()
	b, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	spec, err := loader.LoadFromData(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	embedded, err := GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	if len(embedded.Paths.Map()) != len(spec.Paths.Map()) || len(embedded.Components.Schemas) != len(spec.Components.Schemas) {
		t.Error("openapi.gen.go is not of this openapi.yaml: run go generate ./internal/api")
	}
}

func TestBadRequests(t *testing.T) {
	h := build(t)
	policyWith := func(old, repl string) string { return strings.Replace(newRevision("0"), old, repl, 1) }
	if strings.Count(newRevision("0"), `"port":80`) != 1 {
		t.Fatal("the fixture is not what the table expects")
	}
	long := strings.Repeat("x", 3000)
	for name, tc := range map[string]struct {
		method, path, body string
		field              string
		want               string
	}{
		"no body":               {"POST", cartPath + "/stage", " ", "body", "missing"},
		"no JSON":               {"POST", cartPath + "/stage", "{", "body", "no JSON"},
		"two documents":         {"POST", cartPath + "/stage", slotChange(1, 0) + "{}", "body", "no JSON"},
		"a field twice":         {"POST", cartPath + "/stage", `{"revision":1,"revision":2,"version":0}`, "revision", "twice"},
		"a field twice, deep":   {"POST", cartPath + "/revisions", policyWith(`"port":80`, `"port":80,"port":443`), "policy.ingress[0].ports[0].port", "twice"},
		"nested without end":    {"POST", cartPath + "/stage", strings.Repeat("[", 100) + strings.Repeat("]", 100), "body", "deep"},
		"not an object":         {"POST", cartPath + "/stage", `[1]`, "body", "object"},
		"unknown field":         {"POST", cartPath + "/stage", `{"revision":1,"version":0,"force":true}`, "force", "no such field"},
		"other case":            {"POST", cartPath + "/stage", `{"Revision":1,"version":0}`, "Revision", "no such field"},
		"missing field":         {"POST", cartPath + "/stage", `{"revision":1}`, "version", "missing"},
		"wrong type":            {"POST", cartPath + "/stage", `{"revision":"1","version":0}`, "revision", "integer"},
		"fraction":              {"POST", cartPath + "/stage", `{"revision":1.5,"version":0}`, "revision", "integer"},
		"too small":             {"POST", cartPath + "/stage", `{"revision":0,"version":0}`, "revision", "at least 1"},
		"negative":              {"POST", cartPath + "/stage", `{"revision":1,"version":-1}`, "version", "at least 0"},
		"too large":             {"POST", cartPath + "/stage", `{"revision":4294967296,"version":0}`, "revision", "most"},
		"huge":                  {"POST", cartPath + "/stage", `{"revision":1,"version":1e400}`, "", ""},
		"anyway for an audit":   {"POST", cartPath + "/stage", `{"revision":1,"version":0,"anyway":"x"}`, "anyway", "no such field"},
		"anyway for nothing":    {"POST", cartPath + "/promote", `{"revision":1,"version":0,"anyway":""}`, "anyway", "minimum"},
		"flags of no rule":      {"POST", cartPath + "/revisions", policyWith(`"parent"`, `"acceptedFlagged":[{"flags":["late"]}],"parent"`), "acceptedFlagged[0].rule", "missing"},
		"diff of one":           {"POST", cartPath + "/diff", `{"before":` + onePolicy + `}`, "after", "missing"},
		"diff with another's":   {"POST", cartPath + "/diff", `{"before":` + onePolicy + `,"after":` + strings.Replace(onePolicy, `"name":"cart"`, `"name":"front"`, 1) + `}`, "after.workload", "another workload"},
		"unknown rule field":    {"POST", cartPath + "/revisions", policyWith(`"port":80`, `"port":80,"action":"deny"`), "policy.ingress[0].ports[0].action", "action"},
		"port out of range":     {"POST", cartPath + "/revisions", policyWith(`"port":80`, `"port":70000`), "policy.ingress[0].ports[0].port", "65535"},
		"end before port":       {"POST", cartPath + "/revisions", policyWith(`"port":80`, `"port":80,"endPort":79`), "policy.ingress[0].ports[0].endPort", "below port 80"},
		"unknown protocol":      {"POST", cartPath + "/revisions", policyWith(`"TCP"`, `"TPC"`), "policy.ingress[0].ports[0].protocol", "TPC"},
		"empty selector":        {"POST", cartPath + "/revisions", policyWith(`{"app":"front"}`, `{}`), "policy.ingress[0].peers[0].selector.matchLabels", ""},
		"no prefix":             {"POST", cartPath + "/revisions", policyWith(`"selector":{"namespace":"shop","matchLabels":{"app":"front"}}`, `"cidr":{"prefix":"10.0.0.0/33"}`), "policy.ingress[0].peers[0].cidr.prefix", "10.0.0.0/33"},
		"prefix with host bits": {"POST", cartPath + "/revisions", policyWith(`"selector":{"namespace":"shop","matchLabels":{"app":"front"}}`, `"cidr":{"prefix":"2001:db8::1/32"}`), "policy.ingress[0].peers[0].cidr.prefix", "2001:db8::/32"},
		"two kinds of peer":     {"POST", cartPath + "/revisions", policyWith(`"peers":[{`, `"peers":[{"reserved":"world",`), "policy.ingress[0].peers[0]", "exactly one"},
		"no kind of peer":       {"POST", cartPath + "/revisions", policyWith(`"selector":{"namespace":"shop","matchLabels":{"app":"front"}}`, ``), "policy.ingress[0].peers[0]", "exactly one"},
		"unknown reserved":      {"POST", cartPath + "/revisions", policyWith(`"selector":{"namespace":"shop","matchLabels":{"app":"front"}}`, `"reserved":"mars"`), "policy.ingress[0].peers[0].reserved", ""},
		"another's policy":      {"POST", cartPath + "/revisions", policyWith(`"name":"cart"`, `"name":"front"`), "policy.workload", "front"},
		"unknown origin":        {"POST", cartPath + "/revisions", policyWith(`"edit"`, `"rollback"`), "origin", ""},
		"a novel":               {"POST", cartPath + "/revisions", policyWith(`"first"`, `"`+long+`"`), "comment", ""},
		"replay of another":     {"POST", cartPath + "/replay", `{"policy":` + strings.Replace(onePolicy, `"cart"`, `"front"`, 1) + `}`, "policy.workload", ""},
		"unknown parameter":     {"GET", "/api/v1/flows?limt=5", "", "limt", "no such parameter"},
		"parameter twice":       {"GET", "/api/v1/flows?limit=5&limit=6", "", "limit", "twice"},
		"limit":                 {"GET", "/api/v1/flows?limit=0", "", "limit", ""},
		"limit of text":         {"GET", "/api/v1/flows?limit=x", "", "limit", ""},
		"empty parameter":       {"GET", "/api/v1/flows?limit=", "", "limit", ""},
		"time":                  {"GET", cartPath + "/denials?slot=live&since=yesterday", "", "since", ""},
		"empty window":          {"GET", cartPath + "/recommendation?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "", "since", "window"},
		"empty flows' window":   {"GET", "/api/v1/flows?filter=since%3D1h+until%3D2h", "", "filter", "window"},
		"long filter":           {"GET", "/api/v1/flows?filter=node%3D" + strings.Repeat("x", 5000), "", "filter", ""},
		"cursor":                {"GET", "/api/v1/flows?cursor=AAAA", "", "cursor", "first page"},
		"facets of none":        {"GET", "/api/v1/flows/facets?top=0", "", "top", ""},
		"tail of too many":      {"GET", "/api/v1/flows/tail?last=1001", "", "last", ""},
		"activity's workload":   {"GET", "/api/v1/activity?workload=a/b", "", "workload", "namespace/kind/name"},
		"slot is missing":       {"GET", cartPath + "/denials", "", "slot", "missing"},
		"slot":                  {"GET", cartPath + "/denials?slot=both", "", "slot", ""},
		"revision of text":      {"GET", cartPath + "/revisions/x", "", "revision", ""},
		"revision 0":            {"GET", cartPath + "/revisions/0", "", "revision", ""},
		"empty password":        {"POST", "/api/v1/session", `{"user":"admin","password":""}`, "password", ""},
		"lines in a parameter":  {"GET", "/api/v1/flows?a%0Ab=1", "", "a\uFFFDb", ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := h.on(t).do(tc.method, tc.path, tc.body, h.byToken).problem(400, ErrorCodeInvalid)
			if tc.field != "" && deref(e.Field) != tc.field {
				t.Errorf("field %q, want %q: %s", deref(e.Field), tc.field, e.Message)
			}
			if !strings.Contains(e.Message, tc.want) {
				t.Errorf("message %q does not say %q", e.Message, tc.want)
			}
		})
	}
	if revs, _ := h.control.Revisions(t.Context(), cart); len(revs) != 0 {
		t.Errorf("%d revisions came of it", len(revs))
	}
	t.Run("too much", func(t *testing.T) {
		h := h.on(t)
		e := h.post(cartPath+"/revisions", policyWith(`"first"`, `"`+strings.Repeat("x", 1<<20)+`"`)).problem(413, ErrorCodeInvalid)
		if deref(e.Field) != "body" {
			t.Errorf("%+v", e)
		}
	})
}

// bodies are what the fuzz test and the mutations begin with.
func bodies() []string {
	return []string{
		newRevision("0"), newRevision("1"), slotChange(1, 0), `{"user":"admin","password":"x"}`, `{"policy":null}`, `[[[[`,
		strings.Replace(newRevision("0"), `"port":80`, `"port":80,"endPort":90`, 1),
		strings.Replace(newRevision("0"), `"selector":{"namespace":"shop","matchLabels":{"app":"front"}}`,
			`"cidr":{"prefix":"2001:db8::/32","except":["2001:db8:1::/48"]}`, 1),
		strings.Replace(newRevision("0"), `"protocol":"TCP","port":80`, `"protocol":"ICMPv6","icmpType":128,"icmpCode":0`, 1),
	}
}

// survive sends any body to a real server. It must never answer with an internal
// error, and what it stores must be a valid policy of the workload.
func survive(t testing.TB, h *house, body string) {
	for _, path := range []string{cartPath + "/revisions", cartPath + "/replay", cartPath + "/stage"} {
		w := h.recorder("POST", path, body)
		if w.Code >= 500 {
			t.Fatalf("%s: %d %s\n%q", path, w.Code, w.Body, body)
		}
		if w.Code != 201 {
			continue
		}
		var rev Revision
		if err := json.Unmarshal(w.Body.Bytes(), &rev); err != nil {
			t.Fatal(err)
		}
		if p, err := readPolicy(rev.Policy, ""); err != nil || p.Workload != cart || policy.Digest(p) != rev.Digest {
			t.Fatalf("stored %+v: %v", rev, err)
		}
	}
}

func FuzzBodies(f *testing.F) {
	for _, body := range bodies() {
		f.Add(body)
	}
	h := build(f)
	f.Fuzz(func(t *testing.T, body string) { survive(t, h, body) })
}

// TestMutatedBodies does many bodies in little time: the fuzzer is slow with a
// database engine to look at.
func TestMutatedBodies(t *testing.T) {
	h := build(t)
	seeds := bodies()
	pieces := []string{`"`, `{`, `}`, `[`, `]`, `,`, `:`, `null`, `-1`, `1e9`, `4294967296`, `""`, `true`, `"port"`, `"peers"`, "\x00", "é", `\u0000`, `{"reserved":"world"}`, `0`}
	random := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		body := seeds[random.IntN(len(seeds))]
		for range 1 + random.IntN(3) {
			from := random.IntN(len(body) + 1)
			to := min(len(body), from+random.IntN(8))
			body = body[:from] + pieces[random.IntN(len(pieces))] + body[to:]
		}
		survive(t, h, body)
	}
}

// recorder answers a request without a network.
func (h *house) recorder(method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "localhost"
	r.Header.Set("Content-Type", "application/json")
	h.byToken(r)
	w := httptest.NewRecorder()
	h.server.Handler().ServeHTTP(w, r)
	return w
}
