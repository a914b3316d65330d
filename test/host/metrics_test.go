package host

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newSite(t, "m")
	s.write(t, s.behind())
	s.db.echo(t, dbPort)
	u := s.start(t, "--listen", "[::1]:0")
	reaches(t, "in observe", s.web, s.dbIs, dbPort, true)

	if code, _ := u.metrics(t, ""); code != http.StatusUnauthorized {
		t.Errorf("without a token the answer is %d, want 401", code)
	}
	if code, _ := u.metrics(t, "wrong"); code != http.StatusUnauthorized {
		t.Errorf("with a wrong token the answer is %d, want 401", code)
	}
	code, text := u.metrics(t, u.token(t))
	if code != http.StatusOK {
		t.Fatalf("the answer is %d: %s", code, text)
	}
	for _, want := range []string{
		`ringfence_build_info{version=`, `ringfence_agent_up{node="node-1"} 1`,
		`ringfence_api_requests_total{`, `process_resident_memory_bytes `, `process_resident_memory_bytes{node="node-1"} `,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("%q is missing", want)
		}
	}
	houseRules(t, text)
}

func (u *up) metrics(t *testing.T, token string) (code int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.url+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := u.site.http().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // only read from
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

var sample = regexp.MustCompile(`^([a-z_0-9]+?)(_bucket|_sum|_count)?(\{.*\})? \S+$`)

// houseRules checks names, help texts and labels of every metric.
func houseRules(t *testing.T, text string) {
	t.Helper()
	helped, kinds := map[string]bool{}, map[string]string{}
	nodes := 0
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(rest, " ")
			if helped[name] {
				t.Errorf("%s is there twice", name)
			}
			helped[name] = help != ""
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			kinds[name] = kind
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("unreadable line %q", line)
			continue
		}
		name := m[1]
		if kinds[name] == "" {
			name += m[2]
		}
		if !helped[name] {
			t.Errorf("%s has no help text", name)
		}
		if kinds[name] == "counter" && !strings.HasSuffix(name, "_total") {
			t.Errorf("counter %s does not end in _total", name)
		}
		own := strings.HasPrefix(name, "ringfence_")
		if !own && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") && !strings.HasPrefix(name, "promhttp_") {
			t.Errorf("%s does not begin with ringfence_", name)
		}
		if strings.Contains(m[3], `node="node-1"`) && own {
			nodes++
		}
		if strings.Contains(m[3], "10.77.") || strings.Contains(m[3], "fd77:") {
			t.Errorf("an address is a label: %s", line)
		}
	}
	if nodes < 20 {
		t.Errorf("only %d samples of the agent's own metrics", nodes)
	}
}
