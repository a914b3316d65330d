package clickhouse_test
import ("testing";"time";"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest";"github.com/ringfence/ringfence/internal/clickhouse";"os";"path/filepath";"io/fs";"strings";"github.com/ringfence/ringfence/internal/store")
func TestDbg(t *testing.T) {
  for _, kind := range []string{"sqlgarbage","sqlempty","databin","columns","storefile","nospace", "metadatafile"} {
	t.Run(kind, func(t *testing.T) {
	dir := t.TempDir()
	e := started(t, clickhousetest.Config(t, dir))
	s := open(t, e)
	_ = s.Migrate(t.Context())
	_ = s.InsertFlows(t.Context(), "a", rows())
	_ = s.Close()
	stop(t, e)
	n := 0
	if kind == "storefile" {
		os.RemoveAll(filepath.Join(dir, "data", "store")); os.WriteFile(filepath.Join(dir, "data", "store"), nil, 0o600)
	}
	if kind == "metadatafile" {
		os.RemoveAll(filepath.Join(dir, "data", "metadata")); os.WriteFile(filepath.Join(dir, "data", "metadata"), nil, 0o600)
	}
	filepath.WalkDir(filepath.Join(dir,"data"), func(p string, d fs.DirEntry, err error) error {
		if d == nil || d.IsDir() { return nil }
		switch {
		case kind=="sqlgarbage" && strings.HasSuffix(p, ".sql"): n++; os.WriteFile(p, []byte("gar\x00bage"), 0o600)
		case kind=="sqlempty" && strings.HasSuffix(p, ".sql"): n++; os.WriteFile(p, nil, 0o600)
		case kind=="databin" && strings.HasSuffix(p, "data.bin"): n++; os.WriteFile(p, []byte("xx"), 0o600)
		case kind=="columns" && strings.HasSuffix(p, "columns.txt"): n++; os.WriteFile(p, []byte("xx"), 0o600)
		}
		return nil
	})
	e2, _ := clickhouse.New(clickhousetest.Config(t, dir))
	b := time.Now()
	err := e2.Start(t.Context())
	t.Log(kind, n, time.Since(b), err)
	if err == nil {
		s := open(t, e2)
		t.Log(s.Migrate(t.Context()))
		ed, err := s.Totals(t.Context(), store.EdgeFilter{})
		t.Log(ed, err)
		t.Log(s.InsertFlows(t.Context(), "b", rows()))
	}
	stop(t, e2)
	x, _ := os.ReadFile(filepath.Join(dir, "log", "engine.log"))
	t.Log(string(x[:min(1500,len(x))]))
	})
  }
}
